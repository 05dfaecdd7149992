/* The cursor that reads headers; what is needed is copied out: no packet pointer outlives a store. */
#ifndef DRAGLINE_PARSE_H
#define DRAGLINE_PARSE_H

#include "lib/abi.h"
#include "lib/address.h"
#include "lib/headers.h"
#include "lib/kernel.h"

#define MAX_EXTENSIONS 6

/* packet.flags */
#define PACKET_PORTS 0x1 /* TCP, UDP or SCTP, and the ports are known */
#define PACKET_OPENS 0x2 /* asks for a connection: TCP SYN, SCTP INIT */
#define PACKET_FIN 0x4
#define PACKET_RESET 0x8
#define PACKET_ACK 0x10 /* TCP only */
#define PACKET_FIRST_FRAGMENT 0x20
#define PACKET_LATER_FRAGMENT 0x40
#define PACKET_SAME_MAC 0x80 /* destination MAC == source MAC: for a sibling or the node (ipvlan) */

struct cursor {
	void *at;
	void *end;
};

/* An IP packet as it was when parsed. l4_at is 0 when no L4 header is there: later fragments, frames cut short. */
struct packet {
	struct ip saddr;
	struct ip daddr;
	__be16 sport;
	__be16 dport;
	__u16 l4_at;
	__u8 proto;
	__u8 icmp_type;
	__u8 smac[6];
	__u16 pad;
	__be32 fragment_id;
	__u16 flags;
	__u16 family;
};

static inlined struct cursor cursor_of(struct __sk_buff *skb)
{
	struct cursor cur = {.at = (void *)(long)skb->data, .end = (void *)(long)skb->data_end};
	return cur;
}

/*
 * A driver may leave headers in pages: pull them, but never a byte more than what is missing. TCP's own skbs have
 * nothing but headers in the linear part, and pulling payload copies the head (300 ns a packet, measured).
 */
static inlined void pull_headers(struct __sk_buff *skb, __u32 want)
{
	if ((void *)(long)skb->data + want > (void *)(long)skb->data_end && skb->len >= want)
		bpf_skb_pull_data(skb, want);
}

static inlined int same_mac(const __u8 *one, const __u8 *other)
{
	const __u16 *a = (const __u16 *)one, *b = (const __u16 *)other;

	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2];
}

/* The protocol in network order, or -1. */
static inlined int parse_eth(struct cursor *cur, struct eth_header **eth)
{
	*eth = cur->at;
	if ((void *)(*eth + 1) > cur->end)
		return -1;
	cur->at = *eth + 1;
	return (*eth)->proto;
}

static inlined int is_stream(const struct packet *pkt)
{
	return pkt->proto == PROTO_TCP || pkt->proto == PROTO_SCTP;
}

static inlined __u16 tcp_marks(__u8 flags)
{
	__u16 marks = 0;

	if ((flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		marks |= PACKET_OPENS;
	if (flags & TCP_FIN)
		marks |= PACKET_FIN;
	if (flags & TCP_RST)
		marks |= PACKET_RESET;
	if (flags & TCP_ACK)
		marks |= PACKET_ACK;
	return marks;
}

static inlined __u16 sctp_marks(__u8 chunk)
{
	if (chunk == SCTP_INIT)
		return PACKET_OPENS;
	if (chunk == SCTP_SHUTDOWN)
		return PACKET_FIN;
	return chunk == SCTP_ABORT || chunk == SCTP_SHUTDOWN_COMPLETE ? PACKET_RESET : 0;
}

/* Ports, and what the packet does to its connection. Wherever the L4 header lies; *pkt keeps l4_at 0 if it is cut. */
static inlined void parse_l4(struct __sk_buff *skb, struct cursor *cur, struct packet *pkt, __u32 at)
{
	struct tcp_header head = {}, *tcp = cur->at;

	if (cur->at && (void *)(tcp + 1) <= cur->end) {
		head.sport = tcp->sport;
		head.dport = tcp->dport;
		head.flags = tcp->flags;
		head.offset = tcp->offset;
	} else if (bpf_skb_load_bytes(skb, at, &head, ICMP_SIZE) < 0) {
		return;
	} else if (is_stream(pkt) && bpf_skb_load_bytes(skb, at, &head, pkt->proto == PROTO_TCP ? TCP_SIZE : 16) < 0) {
		return;
	}
	pkt->l4_at = at;
	if (pkt->proto == PROTO_ICMP || pkt->proto == PROTO_ICMP6) {
		pkt->icmp_type = bpf_ntohs(head.sport) >> 8;
		return;
	}
	if (!is_stream(pkt) && pkt->proto != PROTO_UDP)
		return;
	pkt->sport = head.sport;
	pkt->dport = head.dport;
	pkt->flags |= PACKET_PORTS;
	if (pkt->proto == PROTO_TCP)
		pkt->flags |= tcp_marks(head.flags);
	else if (pkt->proto == PROTO_SCTP)
		pkt->flags |= sctp_marks(head.offset);
}

static inlined int parse_ipv4(struct __sk_buff *skb, struct cursor *cur, struct packet *pkt)
{
	struct ipv4_header *ip = cur->at;
	int size;

	if ((void *)(ip + 1) > cur->end)
		return -DROP_MALFORMED;
	size = (ip->version_ihl & 0x0f) * 4;
	if (ip->version_ihl >> 4 != 4 || size < IP4_SIZE)
		return -DROP_MALFORMED;
	pkt->family = AF_INET;
	pkt->saddr = ip_of4(ip->saddr);
	pkt->daddr = ip_of4(ip->daddr);
	pkt->proto = ip->proto;
	pkt->fragment_id = ip->id;
	if (ip->fragment & bpf_htons(IP_FRAGMENT_OFFSET)) {
		pkt->flags |= PACKET_LATER_FRAGMENT;
		return 0;
	}
	if (ip->fragment & bpf_htons(IP_MORE_FRAGMENTS))
		pkt->flags |= PACKET_FIRST_FRAGMENT;
	cur->at = (void *)ip + size;
	parse_l4(skb, cur, pkt, ETH_SIZE + size);
	return 0;
}

/* One extension header at *at: 1 when there may be another behind it, 0 when pkt->proto is the last, or a drop. */
static inlined int parse_extension(struct __sk_buff *skb, struct packet *pkt, __u32 *at)
{
	struct ipv6_fragment fragment;
	struct ipv6_extension extension;

	switch (pkt->proto) {
	case PROTO_FRAGMENT:
		if (bpf_skb_load_bytes(skb, *at, &fragment, sizeof(fragment)) < 0)
			return -DROP_MALFORMED;
		pkt->proto = fragment.next;
		pkt->fragment_id = fragment.id;
		if (fragment.offset_more & bpf_htons(IP6_FRAGMENT_OFFSET)) {
			pkt->flags |= PACKET_LATER_FRAGMENT;
			return 0;
		}
		if (fragment.offset_more & bpf_htons(IP6_MORE_FRAGMENTS))
			pkt->flags |= PACKET_FIRST_FRAGMENT;
		*at += sizeof(fragment);
		return 1;
	case PROTO_HOP_OPTIONS:
	case PROTO_ROUTING:
	case PROTO_DESTINATION_OPTIONS:
	case PROTO_AUTHENTICATION:
		if (bpf_skb_load_bytes(skb, *at, &extension, sizeof(extension)) < 0)
			return -DROP_MALFORMED;
		/* Authentication counts in units of 4 bytes, two of them not counted (RFC 4302, 2.2). */
		*at += pkt->proto == PROTO_AUTHENTICATION ? (extension.size + 2) * 4 : (extension.size + 1) * 8;
		pkt->proto = extension.next;
		return 1;
	default:
		return 0;
	}
}

static inlined int parse_ipv6(struct __sk_buff *skb, struct cursor *cur, struct packet *pkt)
{
	__u32 at = ETH_SIZE + IP6_SIZE;
	struct ipv6_header *ip;
	int count, more = 1;

	pull_headers(skb, at);
	*cur = cursor_of(skb);
	ip = cur->at + ETH_SIZE;
	if ((void *)(ip + 1) > cur->end || (ip->version_class_label & bpf_htonl(0xf0000000)) != bpf_htonl(0x60000000))
		return -DROP_MALFORMED;
	pkt->family = AF_INET6;
	pkt->saddr = ip->saddr;
	pkt->daddr = ip->daddr;
	if (is_ip4(&pkt->saddr) || is_ip4(&pkt->daddr))
		return -DROP_MALFORMED; /* our maps would take them for IPv4's; none may be on a wire (RFC 4291, 2.5.5.2) */
	pkt->proto = ip->next;
	cur->at = ip + 1;
#pragma unroll
	for (count = 0; count <= MAX_EXTENSIONS; count++) {
		if (more == 1)
			more = parse_extension(skb, pkt, &at);
	}
	if (more)
		return -DROP_MALFORMED;
	if (pkt->flags & PACKET_LATER_FRAGMENT)
		return 0;
	if (at != ETH_SIZE + IP6_SIZE)
		cur->at = NULL; /* read by load_bytes: behind extension headers no place is sure to be in the linear part */
	parse_l4(skb, cur, pkt, at);
	return 0;
}

/* 0: an IP packet; 1: another protocol; or a drop. */
static inlined int parse_packet(struct __sk_buff *skb, struct packet *pkt)
{
	struct eth_header *eth;
	struct cursor cur;
	int proto;

	pull_headers(skb, ETH_SIZE + IP4_SIZE);
	cur = cursor_of(skb);
	proto = parse_eth(&cur, &eth);
	if (proto < 0)
		return -DROP_MALFORMED;
	__builtin_memcpy(pkt->smac, eth->smac, sizeof(pkt->smac));
	if (same_mac(eth->dmac, eth->smac))
		pkt->flags |= PACKET_SAME_MAC;
	if (proto == bpf_htons(ETH_IPV4))
		return parse_ipv4(skb, &cur, pkt);
	if (proto == bpf_htons(ETH_IPV6))
		return parse_ipv6(skb, &cur, pkt);
	return 1;
}

#endif
