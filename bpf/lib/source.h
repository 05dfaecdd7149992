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

/* Nobody gives a pod its link-local addresses, so none is known: any may be the pod's but its gateway's. */
static inlined int may_be_own_link_local(const struct pod *pod, const struct ip *addr)
{
	return is_link_local6(addr) && !same_ip(addr, &pod->gateway6);
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
	return may_be_own_link_local(pod, &target) || own_address(pod, &target, skb->ifindex) ? 0 : -DROP_FOREIGN_ND;
}

/*
 * Sources that are no address of the pod and yet nobody else's: of a link-local one, what stays on the link and neighbour
 * discovery (conntrack must not get a client that two pods may be); :: asks whether an address is free (RFC 4862).
 */
static inlined int may_lack_address(const struct pod *pod, const struct packet *pkt)
{
	if (pkt->family == AF_INET)
		return 0;
	if (pkt->proto == PROTO_ICMP6)
		return is_unspecified6(&pkt->saddr) || may_be_own_link_local(pod, &pkt->saddr);
	return may_be_own_link_local(pod, &pkt->saddr) && (is_link_local6(&pkt->daddr) || is_multicast(&pkt->daddr));
}

/* 0, or a drop. */
static inlined int check_source(struct __sk_buff *skb, const struct pod *pod, const struct packet *pkt)
{
	if (skb->vlan_present)
		return -DROP_FOREIGN_PROTOCOL;
	if (!own_address(pod, &pkt->saddr, skb->ifindex) && !may_lack_address(pod, pkt))
		return -DROP_FOREIGN_SOURCE;
	return pkt->family == AF_INET6 && pkt->proto == PROTO_ICMP6 && pkt->l4_at ? check_nd(skb, pod, pkt) : 0;
}

#endif
