/*
 * An ICMP error about a translated flow: it quotes the packet as it was on the wire, the pod's socket knows another.
 * The quoted (inner) destination becomes the VIP again, with every checksum: the inner IP's and L4's, the outer ICMP's.
 */
#ifndef DRAGLINE_ICMP_ERROR_H
#define DRAGLINE_ICMP_ERROR_H

#include "lib/abi.h"
#include "lib/address.h"
#include "lib/conntrack.h"
#include "lib/headers.h"
#include "lib/kernel.h"
#include "lib/maps.h"
#include "lib/parse.h"
#include "lib/rewrite.h"
#include "lib/work.h"

#define INNER_CSUM_AT 10
#define INNER4_DADDR_AT 16
#define INNER6_DADDR_AT 24

static inlined int is_icmp_error(const struct packet *pkt)
{
	if (!pkt->l4_at)
		return 0;
	if (pkt->proto == PROTO_ICMP && pkt->family == AF_INET)
		return pkt->icmp_type == ICMP_UNREACHABLE || pkt->icmp_type == ICMP_TIME_EXCEEDED ||
		       pkt->icmp_type == ICMP_PARAMETER_PROBLEM;
	return pkt->proto == PROTO_ICMP6 && pkt->family == AF_INET6 && pkt->icmp_type >= ICMP6_UNREACHABLE &&
	       pkt->icmp_type <= ICMP6_PARAMETER_PROBLEM;
}

/* Addresses, protocol and ports of the quoted packet at `at`; its l4_at is set. 0, or -1: nothing to translate. */
static inlined int parse_inner(struct __sk_buff *skb, __u16 family, __u32 at, struct packet *inner)
{
	struct ipv4_header ip4;
	struct ipv6_header ip6;
	struct ports ports;

	inner->family = family;
	if (family == AF_INET) {
		if (bpf_skb_load_bytes(skb, at, &ip4, sizeof(ip4)) < 0 || ip4.fragment & bpf_htons(IP_FRAGMENT_OFFSET))
			return -1;
		if (ip4.version_ihl < 0x45 || ip4.version_ihl > 0x4f)
			return -1;
		inner->saddr = ip_of4(ip4.saddr);
		inner->daddr = ip_of4(ip4.daddr);
		inner->proto = ip4.proto;
		inner->fragment_id = ip4.csum;
		at += (ip4.version_ihl & 0x0f) * 4;
	} else {
		if (bpf_skb_load_bytes(skb, at, &ip6, sizeof(ip6)) < 0)
			return -1;
		if ((ip6.version_class_label & bpf_htonl(0xf0000000)) != bpf_htonl(0x60000000))
			return -1;
		inner->saddr = ip6.saddr;
		inner->daddr = ip6.daddr;
		inner->proto = ip6.next;
		at += sizeof(ip6);
		if (parse_extension(skb, inner, &at) < 0 || inner->flags & PACKET_LATER_FRAGMENT)
			return -1;
	}
	if (inner->proto != PROTO_TCP && inner->proto != PROTO_UDP && inner->proto != PROTO_SCTP)
		return -1;
	if (bpf_skb_load_bytes(skb, at, &ports, sizeof(ports)) < 0)
		return -1;
	inner->sport = ports.sport;
	inner->dport = ports.dport;
	inner->l4_at = at;
	return 0;
}

/*
 * Change a checksum of the quoted packet by `diff`; the change of the ICMP payload's sum is added to *outer. A sum of 0 is
 * written as `zero`: in UDP it would say that there is none.
 */
static inlined int replace_inner_csum(struct __sk_buff *skb, __u32 at, __u32 diff, __u16 zero, __u32 *outer)
{
	__be16 old[2] = {}, new[2] = {};

	if (bpf_skb_load_bytes(skb, at, &old[0], sizeof(old[0])) < 0 || !old[0])
		return 0; /* only 8 bytes of L4 are sure to be quoted; UDP's zero means none */
	new[0] = csum_plus(old[0], diff);
	if (!new[0])
		new[0] = zero;
	*outer = csum_diff((__be32 *)old, sizeof(old), (__be32 *)new, sizeof(new), *outer);
	return store(skb, at, &new[0], sizeof(new[0])) ? -DROP_REWRITE : 0;
}

static inlined int rewrite_inner_address(struct __sk_buff *skb, const struct packet *inner, __u32 at,
					 const struct ip *vip, __u32 *outer, __u32 *diff)
{
	if (inner->family == AF_INET6) {
		*diff = csum_diff((__be32 *)&inner->daddr, sizeof(*vip), (__be32 *)vip, sizeof(*vip), 0);
		*outer = csum_diff((__be32 *)&inner->daddr, sizeof(*vip), (__be32 *)vip, sizeof(*vip), *outer);
		return store(skb, at + INNER6_DADDR_AT, vip, sizeof(*vip)) ? -DROP_REWRITE : 0;
	}
	*diff = csum_diff((__be32 *)&inner->daddr.word[3], 4, (__be32 *)&vip->word[3], 4, 0);
	*outer = csum_diff((__be32 *)&inner->daddr.word[3], 4, (__be32 *)&vip->word[3], 4, *outer);
	if (replace_inner_csum(skb, at + INNER_CSUM_AT, *diff, 0, outer) < 0)
		return -DROP_REWRITE;
	return store(skb, at + INNER4_DADDR_AT, &vip->word[3], 4) ? -DROP_REWRITE : 0;
}

static inlined int rewrite_inner_ports(struct __sk_buff *skb, const struct packet *inner, const struct conntrack *reverse,
				       __u32 *outer, __u32 *diff)
{
	struct ports old = {inner->sport, inner->dport}, new = {reverse->client_port, reverse->port};

	*diff = csum_diff((__be32 *)&old, sizeof(old), (__be32 *)&new, sizeof(new), *diff);
	*outer = csum_diff((__be32 *)&old, sizeof(old), (__be32 *)&new, sizeof(new), *outer);
	return store(skb, inner->l4_at, &new, sizeof(new)) ? -DROP_REWRITE : 0;
}

/* The backend itself complains: for the pod it is the VIP. A router keeps its name. ICMPv4 has no pseudo header. */
static inlined int rewrite_error_source(struct __sk_buff *skb, const struct packet *pkt, const struct ip *vip)
{
	__u32 diff = fold32(address_diff(pkt->family, &pkt->saddr, vip));
	struct cursor cur;

	if (pkt->family == AF_INET6 &&
	    l4_csum_address(skb, pkt->family, pkt->l4_at + ICMP_CSUM_AT, diff, 0) < 0)
		return -DROP_REWRITE;
	cur = cursor_of(skb);
	return put_addresses(&cur, pkt, vip, &pkt->daddr, diff);
}

/* A verdict, or a drop. */
static inlined int error_to_pod(struct __sk_buff *skb, struct work *w)
{
	const struct packet *pkt = &w->pkt;
	__u32 at = pkt->l4_at + ICMP_SIZE, outer = 0, diff = 0, l4_csum_at;
	__u16 zero;
	struct packet inner = {};
	struct conntrack *reverse;

	/* Who is told of another's packet makes nothing of it. */
	if (parse_inner(skb, pkt->family, at, &inner) < 0 || !same_ip(&inner.saddr, &pkt->daddr))
		return VERDICT_PASS;
	set_flow(&w->flow, &inner, CT_FORWARD);
	w->answer = w->flow; /* the quoted packet is on its way to the backend: its answer goes the other way */
	w->answer.saddr = inner.daddr;
	w->answer.daddr = inner.saddr;
	w->answer.sport = inner.dport;
	w->answer.dport = inner.sport;
	w->answer.direction = CT_REVERSE;
	reverse = conntrack_lookup(&w->answer);
	if (!reverse)
		return VERDICT_PASS;
	if (rewrite_inner_address(skb, &inner, at, &reverse->addr, &outer, &diff) < 0 ||
	    rewrite_inner_ports(skb, &inner, reverse, &outer, &diff) < 0)
		return -DROP_REWRITE;
	l4_csum_at = inner.l4_at + (inner.proto == PROTO_UDP ? UDP_CSUM_AT : TCP_CSUM_AT);
	zero = inner.proto == PROTO_UDP ? 0xffff : 0;
	if (inner.proto != PROTO_SCTP && replace_inner_csum(skb, l4_csum_at, diff, zero, &outer) < 0)
		return -DROP_REWRITE;
	if (bpf_l4_csum_replace(skb, pkt->l4_at + ICMP_CSUM_AT, 0, outer, 0))
		return -DROP_REWRITE;
	if (same_ip(&pkt->saddr, &inner.daddr) && rewrite_error_source(skb, pkt, &reverse->addr) < 0)
		return -DROP_REWRITE;
	return VERDICT_ERROR_ANSWER;
}

#endif
