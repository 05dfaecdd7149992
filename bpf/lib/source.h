/* What a pod may send: its own MAC and addresses, and no word for others in ARP and neighbour discovery. */
#ifndef DRAGLINE_SOURCE_H
#define DRAGLINE_SOURCE_H

#include "lib/abi.h"
#include "lib/address.h"
#include "lib/headers.h"
#include "lib/kernel.h"
#include "lib/maps.h"
#include "lib/parse.h"

/* Is `addr` the pod's? Its first addresses are in its entry, further ones are looked up. */
static inlined int own_address(const struct pod *pod, const struct ip *addr, __u32 ifindex)
{
	struct address *known;

	if (is_ip4(addr) ? addr->word[3] == pod->addr4 && pod->addr4 : same_ip(addr, &pod->addr6) && !is_unspecified6(addr))
		return 1;
	known = address_lookup(addr);
	return known && known->flags & ADDRESS_POD && known->slave_ifindex == ifindex;
}

/* Probes (sender 0.0.0.0) speak for nobody. */
static inlined int check_arp(struct __sk_buff *skb, const struct pod *pod)
{
	struct cursor cur = cursor_of(skb);
	struct arp_header *arp;
	struct eth_header *eth;
	__be32 sender;
	struct ip addr;

	if (skb->vlan_present || parse_eth(&cur, &eth) != bpf_htons(ETH_ARP))
		return -DROP_FOREIGN_PROTOCOL;
	arp = cur.at;
	if ((void *)(arp + 1) > cur.end)
		return -DROP_MALFORMED;
	if (!same_mac(arp->sender_mac, pod->mac))
		return -DROP_FOREIGN_ARP;
	sender = arp->sender;
	addr = ip_of4(sender);
	return !sender || own_address(pod, &addr, skb->ifindex) ? VERDICT_PASS : -DROP_FOREIGN_ARP;
}

/* A pod advertises its own addresses only, and is no router. */
static inlined int check_nd(struct __sk_buff *skb, const struct pod *pod, const struct packet *pkt)
{
	struct ip target;

	if (pkt->icmp_type == ICMP6_ROUTER_ADVERTISEMENT || pkt->icmp_type == ICMP6_REDIRECT)
		return -DROP_FOREIGN_ND;
	if (pkt->icmp_type != ICMP6_NEIGHBOUR_ADVERTISEMENT)
		return 0;
	if (bpf_skb_load_bytes(skb, pkt->l4_at + ICMP_SIZE, &target, sizeof(target)) < 0)
		return -DROP_MALFORMED;
	return is_link_local6(&target) || own_address(pod, &target, skb->ifindex) ? 0 : -DROP_FOREIGN_ND;
}

/* 0, or a drop. Link-local sources are the slave's own business; :: asks whether an address is free (RFC 4862). */
static inlined int check_source(struct __sk_buff *skb, const struct pod *pod, const struct packet *pkt)
{
	int icmp6 = pkt->family == AF_INET6 && pkt->proto == PROTO_ICMP6;

	if (skb->vlan_present)
		return -DROP_FOREIGN_PROTOCOL;
	if (!own_address(pod, &pkt->saddr, skb->ifindex)) {
		if (pkt->family == AF_INET || !(is_link_local6(&pkt->saddr) || (icmp6 && is_unspecified6(&pkt->saddr))))
			return -DROP_FOREIGN_SOURCE;
	}
	return icmp6 && pkt->l4_at ? check_nd(skb, pod, pkt) : 0;
}

#endif
