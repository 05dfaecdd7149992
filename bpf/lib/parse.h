/* Packet headers and the cursor that reads them; what is needed is copied out: no packet pointer outlives a store. */
#ifndef DRAGLINE_PARSE_H
#define DRAGLINE_PARSE_H

#include "lib/kernel.h"
#include "lib/abi.h"

#define ETH_IPV4 0x0800
#define ETH_IPV6 0x86dd
#define PROTO_TCP 6
#define PROTO_UDP 17

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define IP_FRAGMENT 0x3fff /* more fragments, or an offset: the don't-fragment bit is not among them */

#define ETH_SIZE 14
/* Offsets from the MAC header. */
#define ETH_DMAC_AT 0
#define IP_CSUM_AT (ETH_SIZE + 10)
#define IP_SADDR_AT (ETH_SIZE + 12)
#define IP_DADDR_AT (ETH_SIZE + 16)

/* Headers we may read: Ethernet, IPv4 with all options, TCP without options. */
#define MAX_HEADERS (ETH_SIZE + 60 + 20)

struct eth_header {
	__u8 dmac[6];
	__u8 smac[6];
	__be16 proto;
} __attribute__((packed));

struct ipv4_header {
	__u8 version_ihl;
	__u8 tos;
	__be16 total_length;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 proto;
	__be16 csum;
	__be32 saddr;
	__be32 daddr;
} __attribute__((packed));

struct ipv6_header {
	__be32 version_class_label;
	__be16 payload_length;
	__u8 next;
	__u8 hop_limit;
	__u8 saddr[16];
	__u8 daddr[16];
} __attribute__((packed));

struct udp_header {
	__be16 sport;
	__be16 dport;
	__be16 length;
	__be16 csum;
} __attribute__((packed));

struct tcp_header {
	__be16 sport;
	__be16 dport;
	__be32 seq;
	__be32 ack;
	__u8 offset;
	__u8 flags;
	__be16 window;
	__be16 csum;
	__be16 urgent;
} __attribute__((packed));

struct cursor {
	void *at;
	void *end;
};

/* An IPv4 packet as it was when parsed. l4_at is 0 when there are no ports to read: other protocols, fragments. */
struct packet4 {
	__be32 saddr;
	__be32 daddr;
	__be16 sport;
	__be16 dport;
	__u16 l4_at;
	__u8 proto;
	__u8 tcp_flags; /* 0 for UDP */
	__u8 same_mac; /* destination MAC == source MAC: for a sibling or the node (ipvlan) */
};

static inlined struct cursor cursor_of(struct __sk_buff *skb)
{
	struct cursor cur = {.at = (void *)(long)skb->data, .end = (void *)(long)skb->data_end};
	return cur;
}

/* A driver may leave headers in pages: pull them once. Everything sent by a local socket is linear already. */
static inlined void pull_headers(struct __sk_buff *skb)
{
	__u32 want = skb->len < MAX_HEADERS ? skb->len : MAX_HEADERS;

	if ((void *)(long)skb->data + want > (void *)(long)skb->data_end)
		bpf_skb_pull_data(skb, want);
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

/* Size of the header in bytes (20 to 60), or -1. */
static inlined int parse_ipv4(struct cursor *cur, struct ipv4_header **ip)
{
	int size;

	*ip = cur->at;
	if ((void *)(*ip + 1) > cur->end)
		return -1;
	size = ((*ip)->version_ihl & 0x0f) * 4;
	if ((*ip)->version_ihl >> 4 != 4 || size < (int)sizeof(**ip))
		return -1;
	cur->at = (void *)*ip + size;
	return size;
}

/* Ports and flags of TCP and UDP into pkt; 0, or -1 when the header is not all there. */
static inlined int parse_ports(struct cursor *cur, struct packet4 *pkt)
{
	struct tcp_header *tcp = cur->at;
	struct udp_header *udp = cur->at;

	if ((void *)(udp + 1) > cur->end)
		return -1;
	pkt->sport = udp->sport;
	pkt->dport = udp->dport;
	if (pkt->proto == PROTO_UDP)
		return 0;
	if ((void *)(tcp + 1) > cur->end)
		return -1;
	pkt->tcp_flags = tcp->flags;
	return 0;
}

static inlined int same_mac(const struct eth_header *eth)
{
	const __u16 *dmac = (const __u16 *)eth->dmac, *smac = (const __u16 *)eth->smac;

	return dmac[0] == smac[0] && dmac[1] == smac[1] && dmac[2] == smac[2];
}

/* 0, or -1 when the frame is not a unicast IPv4 packet. */
static inlined int parse_packet4(struct __sk_buff *skb, struct packet4 *pkt)
{
	struct ipv4_header *ip;
	struct eth_header *eth;
	struct cursor cur;
	int size;

	pull_headers(skb);
	cur = cursor_of(skb);
	if (parse_eth(&cur, &eth) != bpf_htons(ETH_IPV4) || eth->dmac[0] & 1)
		return -1;
	size = parse_ipv4(&cur, &ip);
	if (size < 0 || (ip->daddr & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000))
		return -1;
	pkt->same_mac = same_mac(eth);
	pkt->saddr = ip->saddr;
	pkt->daddr = ip->daddr;
	pkt->proto = ip->proto;
	if (ip->fragment & bpf_htons(IP_FRAGMENT))
		return 0;
	if ((ip->proto == PROTO_TCP || ip->proto == PROTO_UDP) && parse_ports(&cur, pkt) == 0)
		pkt->l4_at = ETH_SIZE + size;
	return 0;
}

static inlined int opens_connection(const struct packet4 *pkt)
{
	return (pkt->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

#endif
