/*
 * A frame of the node's own stack is about to leave by the uplink: clsact egress of the uplink, in the node's netns.
 * The node has a permanent neighbour "pod -> own MAC"; on the wire such a frame is lost, at the uplink's ingress
 * ipvlan takes it.
 */
#include "lib/abi.h"
#include "lib/kernel.h"
#include "lib/maps.h"
#include "lib/parse.h"
#include "lib/verdict.h"

/* The destination as a key of local_addresses; 0, or -1 when there is none. */
static inlined int destination_key(struct cursor *cur, int proto, struct local_key *key)
{
	struct ipv4_header *ip4 = cur->at;
	struct ipv6_header *ip6 = cur->at;

	if (proto == bpf_htons(ETH_IPV4) && (void *)(ip4 + 1) <= cur->end) {
		key->addr[10] = key->addr[11] = 0xff;
		__builtin_memcpy(&key->addr[12], &ip4->daddr, sizeof(ip4->daddr));
		return 0;
	}
	if (proto == bpf_htons(ETH_IPV6) && (void *)(ip6 + 1) <= cur->end) {
		__builtin_memcpy(key->addr, ip6->daddr, sizeof(key->addr));
		return 0;
	}
	return -1;
}

static inlined int leave_node(struct __sk_buff *skb)
{
	struct local_key key = {.uplink_ifindex = skb->ifindex};
	struct local_address *local;
	struct eth_header *eth;
	struct cursor cur;
	int proto;

	if (skb->vlan_present)
		return VERDICT_PASS; /* a VLAN device on the uplink, not the uplink's own network */
	pull_headers(skb);
	cur = cursor_of(skb);
	proto = parse_eth(&cur, &eth);
	if (proto < 0 || !same_mac(eth) || destination_key(&cur, proto, &key) < 0)
		return VERDICT_PASS;
	local = local_lookup(&key);
	if (!local || local->kind != LOCAL_POD)
		return VERDICT_PASS;
	bpf_redirect(skb->ifindex, BPF_F_INGRESS);
	return VERDICT_NODE_TO_POD;
}

int node_to_pod(struct __sk_buff *skb)
{
	return finish(leave_node(skb));
}
