/*
 * A frame of the node's own stack is about to leave by the uplink: clsact egress of the uplink, in the node's netns.
 * The node has a permanent neighbour "pod -> own MAC"; on the wire such a frame is lost, at the uplink's ingress
 * ipvlan takes it.
 */
#include "lib/abi.h"
#include "lib/address.h"
#include "lib/headers.h"
#include "lib/kernel.h"
#include "lib/maps.h"
#include "lib/parse.h"
#include "lib/verdict.h"

/* The destination; 0, or -1 when there is none. */
static inlined int destination(struct cursor *cur, int proto, struct ip *addr)
{
	struct ipv4_header *ip4 = cur->at;
	struct ipv6_header *ip6 = cur->at;

	if (proto == bpf_htons(ETH_IPV4) && (void *)(ip4 + 1) <= cur->end) {
		*addr = ip_of4(ip4->daddr);
		return 0;
	}
	if (proto == bpf_htons(ETH_IPV6) && (void *)(ip6 + 1) <= cur->end) {
		*addr = ip6->daddr;
		return 0;
	}
	return -1;
}

static inlined int leave_node(struct __sk_buff *skb)
{
	struct address *known;
	struct eth_header *eth;
	struct cursor cur;
	struct ip addr;
	int proto;

	if (skb->vlan_present)
		return VERDICT_PASS; /* a VLAN device on the uplink, not the uplink's own network */
	pull_headers(skb, skb->protocol == bpf_htons(ETH_IPV6) ? ETH_SIZE + IP6_SIZE : ETH_SIZE + IP4_SIZE);
	cur = cursor_of(skb);
	proto = parse_eth(&cur, &eth);
	if (proto < 0 || !same_mac(eth->dmac, eth->smac) || destination(&cur, proto, &addr) < 0)
		return VERDICT_PASS;
	known = address_lookup(&addr);
	if (!known || !(known->flags & ADDRESS_POD) || known->uplink_ifindex != skb->ifindex)
		return VERDICT_PASS;
	bpf_redirect(skb->ifindex, BPF_F_INGRESS);
	return VERDICT_NODE_TO_POD;
}

int node_to_pod(struct __sk_buff *skb)
{
	return finish(leave_node(skb));
}
