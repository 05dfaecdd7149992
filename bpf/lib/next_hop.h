/*
 * Where a frame goes: ipvlan decides by the destination MAC. The pod's stack chose it for the address it named; after a
 * translation, or for a local address off-link, another one is right. On ipvlan the own MAC reaches siblings of the
 * uplink and the node itself.
 */
#ifndef DRAGLINE_NEXT_HOP_H
#define DRAGLINE_NEXT_HOP_H

#include "lib/abi.h"
#include "lib/address.h"
#include "lib/clock.h"
#include "lib/kernel.h"
#include "lib/maps.h"
#include "lib/parse.h"
#include "lib/rewrite.h"

/* In skb->tc_index from redirect_neigh to the second pass of the same hook. */
#define SECOND_PASS 0x4452

static inlined int behind_own_mac(const struct pod *pod, const struct address *known)
{
	if (!known || !(pod->flags & POD_OWN_MAC))
		return 0;
	if (known->flags & ADDRESS_NODE)
		return 1;
	return known->flags & ADDRESS_POD && known->uplink_ifindex == pod->uplink_ifindex;
}

/* No Service: only a local destination that the pod's routes sent to the gateway needs another MAC. */
static inlined int direct_next_hop(struct __sk_buff *skb, const struct pod *pod, const struct packet *pkt,
				   const struct address *known)
{
	int ret;

	if (pkt->flags & PACKET_SAME_MAC || !behind_own_mac(pod, known))
		return VERDICT_DIRECT;
	ret = rewrite_dmac(skb, pod->mac);
	return ret < 0 ? ret : VERDICT_DIRECT_OWN_MAC;
}

static inlined int on_link(const struct pod *pod, const struct packet *pkt, const struct ip *addr)
{
	if (pkt->family == AF_INET)
		return ((addr->word[3] ^ pod->addr4) & pod->mask4) == 0;
	return (((addr->word[0] ^ pod->addr6.word[0]) & pod->mask6.word[0]) |
		((addr->word[1] ^ pod->addr6.word[1]) & pod->mask6.word[1]) |
		((addr->word[2] ^ pod->addr6.word[2]) & pod->mask6.word[2]) |
		((addr->word[3] ^ pod->addr6.word[3]) & pod->mask6.word[3])) == 0;
}

/* Where a backend is: conntrack.flags of a forward entry. */
static inlined __u16 place_of(struct __sk_buff *skb, const struct pod *pod, const struct packet *pkt,
			      const struct ip *addr)
{
	struct address *known = address_lookup(addr);

	if (known && known->flags & ADDRESS_POD && known->slave_ifindex == skb->ifindex)
		return CT_TO_SELF;
	if (behind_own_mac(pod, known))
		return CT_OWN_MAC;
	if (on_link(pod, pkt, addr))
		return CT_ON_LINK;
	return pkt->flags & PACKET_SAME_MAC || on_link(pod, pkt, &pkt->daddr) ? CT_BY_GATEWAY : 0;
}

static inlined struct ip gateway_of(const struct pod *pod, const struct packet *pkt)
{
	return pkt->family == AF_INET ? ip_of4(pod->gateway4) : pod->gateway6;
}

static inlined int is_none(const struct ip *addr)
{
	return (addr->word[3] | (is_ip4(addr) ? 0 : addr->word[0] | addr->word[1] | addr->word[2])) == 0;
}

/*
 * A next hop that has not answered lately: the kernel knows its MAC or resolves it (the packet waits in the
 * neighbour's queue), and sends the packet through this hook again. Dear, yet cheaper than bpf_fib_lookup, which moreover
 * answers only where the pod forwards (measured: perf/README.md). The next hop is given: without it kernels before 6.18
 * leak the skb's route.
 */
static inlined int neighbour_next_hop(struct __sk_buff *skb, const struct packet *pkt, const struct ip *addr)
{
	struct bpf_redir_neigh next_hop = {.nh_family = pkt->family};

	if (pkt->family == AF_INET)
		next_hop.ipv4_nh = addr->word[3];
	else
		__builtin_memcpy(next_hop.ipv6_nh, addr, sizeof(*addr));
	skb->tc_index = SECOND_PASS;
	redirect_neigh_to(skb->ifindex, &next_hop, sizeof(next_hop), 0);
	return VERDICT_SERVICE_NEIGH;
}

/*
 * The packet is translated, its MAC is still the one of the way to the address that the pod named: the gateway's for a
 * ClusterIP, a node's or anybody's for a NodePort or an external address in the pod's subnet.
 */
static inlined int service_next_hop(struct __sk_buff *skb, const struct pod *pod, const struct packet *pkt,
				    const struct conntrack *forward)
{
	struct ip next_hop = forward->addr;

	if (forward->flags & (CT_TO_SELF | CT_OWN_MAC)) {
		if (!(pkt->flags & PACKET_SAME_MAC) && rewrite_dmac(skb, pod->mac) < 0)
			return -DROP_REWRITE;
		return forward->flags & CT_TO_SELF ? VERDICT_HAIRPIN : VERDICT_SERVICE_OWN_MAC;
	}
	if (!(forward->flags & (CT_ON_LINK | CT_BY_GATEWAY)))
		return VERDICT_SERVICE_GATEWAY;
	if (mac_is_fresh(forward))
		return rewrite_dmac(skb, forward->mac) < 0 ? -DROP_REWRITE : VERDICT_SERVICE_MAC;
	if (forward->flags & CT_BY_GATEWAY)
		next_hop = gateway_of(pod, pkt);
	return is_none(&next_hop) ? -DROP_NO_ROUTE : neighbour_next_hop(skb, pkt, &next_hop);
}

#endif
