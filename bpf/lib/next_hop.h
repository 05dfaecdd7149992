/*
 * Who gets the frame. The pod's routes chose a MAC for the address the pod named; after a translation, or for a local
 * address off-link, another one is right. On ipvlan the own MAC reaches siblings of the uplink and the node itself.
 */
#ifndef DRAGLINE_NEXT_HOP_H
#define DRAGLINE_NEXT_HOP_H

#include "lib/abi.h"
#include "lib/kernel.h"
#include "lib/maps.h"
#include "lib/parse.h"
#include "lib/rewrite.h"

/* In skb->tc_index from redirect_neigh to the second pass of the same hook. */
#define SECOND_PASS 0x4452

static inlined int behind_own_mac(const struct pod *pod, __be32 addr)
{
	if (!(pod->flags & POD_OWN_MAC))
		return 0;
	return local_lookup4(addr, pod->uplink_ifindex) || local_lookup4(addr, 0);
}

/* No Service: only a local destination that the pod's routes sent to the gateway needs another MAC. */
static inlined int direct_next_hop(struct __sk_buff *skb, const struct pod *pod, const struct packet4 *pkt)
{
	int ret;

	if (pkt->same_mac || !behind_own_mac(pod, pkt->daddr))
		return VERDICT_DIRECT;
	ret = rewrite_dmac(skb, pod->mac);
	return ret < 0 ? ret : VERDICT_DIRECT_OWN_MAC;
}

/* An on-link backend: the fib knows its MAC, or the kernel resolves it (the packet waits in the neighbour's queue). */
static inlined int on_link_next_hop(struct __sk_buff *skb, __be32 source, __be32 addr)
{
	struct bpf_fib_lookup fib = {.family = AF_INET, .ifindex = skb->ifindex, .ipv4_src = source, .ipv4_dst = addr};
	struct bpf_redir_neigh next_hop = {.nh_family = AF_INET, .ipv4_nh = addr};
	int ret;

	switch (bpf_fib_lookup(skb, &fib, sizeof(fib), 0)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		if (fib.ifindex != skb->ifindex)
			break;
		ret = rewrite_dmac(skb, fib.dmac);
		return ret < 0 ? ret : VERDICT_SERVICE_FIB;
	case BPF_FIB_LKUP_RET_BLACKHOLE:
	case BPF_FIB_LKUP_RET_UNREACHABLE:
	case BPF_FIB_LKUP_RET_PROHIBIT:
		return -DROP_NO_ROUTE;
	}
	/*
	 * No neighbour yet, or a netns that does not forward (fib_lookup refuses there). The next hop is given: without it
	 * kernels before 6.18 leak the skb's route.
	 */
	skb->tc_index = SECOND_PASS;
	redirect_neigh_to(skb->ifindex, &next_hop, sizeof(next_hop), 0);
	return VERDICT_SERVICE_NEIGH;
}

/* The packet is translated, its MAC is still the one of the way to the VIP: the gateway's. */
static inlined int service_next_hop(struct __sk_buff *skb, const struct pod *pod, const struct packet4 *pkt,
					  __be32 addr)
{
	int ret;

	if (behind_own_mac(pod, addr)) {
		ret = pkt->same_mac ? 0 : rewrite_dmac(skb, pod->mac);
		return ret < 0 ? ret : VERDICT_SERVICE_OWN_MAC;
	}
	if (((addr ^ pod->addr4) & pod->mask4) == 0)
		return on_link_next_hop(skb, pkt->saddr, addr);
	return VERDICT_SERVICE_GATEWAY;
}

#endif
