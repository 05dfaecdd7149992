/* Answers made out of the packet that asked: ICMP port unreachable, TCP reset, echo reply. The frame changes its length. */
#ifndef DRAGLINE_REFUSAL_H
#define DRAGLINE_REFUSAL_H

#include "lib/abi.h"
#include "lib/address.h"
#include "lib/headers.h"
#include "lib/kernel.h"
#include "lib/maps.h"
#include "lib/parse.h"
#include "lib/rewrite.h"

#define TTL 64
#define MAX_QUOTED 124 /* IPv4 with all options, or IPv6 with a few extension headers; then L4 */
#define REFUSAL 1000000000ull /* refusals.left counts in billionths */
#define REFILLED_NS (REFUSALS_AT_ONCE * REFUSAL / REFUSALS_PER_S)

struct pseudo6 {
	struct ip saddr;
	struct ip daddr;
	__be32 length;
	__be32 next;
};

struct pseudo4 {
	__be32 saddr;
	__be32 daddr;
	__be16 proto;
	__be16 length;
};

/* May this pod be told once more? A token bucket each; two CPUs at once may both take the last one. */
static inlined int may_tell(__u32 ifindex)
{
	struct refusals *had = refusals_lookup(ifindex), now = {.last_ns = bpf_ktime_get_ns()};
	__u64 idle;

	if (!had) {
		now.left = (REFUSALS_AT_ONCE - 1) * REFUSAL;
		refusals_update(ifindex, &now);
		return 1;
	}
	/* Signed: another CPU may have told the pod something after this one read the clock. */
	if ((__s64)(now.last_ns - had->last_ns) < 0)
		now.last_ns = had->last_ns;
	idle = now.last_ns - had->last_ns;
	now.left = idle >= REFILLED_NS ? REFUSALS_AT_ONCE * REFUSAL : had->left + idle * REFUSALS_PER_S;
	if (now.left > REFUSALS_AT_ONCE * REFUSAL)
		now.left = REFUSALS_AT_ONCE * REFUSAL;
	if (now.left < REFUSAL)
		return 0;
	had->left = now.left - REFUSAL;
	had->last_ns = now.last_ns;
	return 1;
}

/* The one's complement of a folded sum. */
static inlined __u16 csum_of(__s64 sum)
{
	__u64 folded = sum;

	folded = (folded & 0xffff) + (folded >> 16);
	folded = (folded & 0xffff) + (folded >> 16);
	folded = (folded & 0xffff) + (folded >> 16);
	return ~folded;
}

/* The frame goes back where it came from: to the pod; from nobody's MAC but its own, which eth_type_trans never asks. */
static inlined int turn_ethernet(struct __sk_buff *skb, const struct pod *pod)
{
	if (store(skb, ETH_DMAC_AT, pod->mac, 6) || store(skb, ETH_SMAC_AT, pod->mac, 6))
		return -1;
	return 0;
}

/* The sum over the quoted packet: `size` bytes (a multiple of 4 up to MAX_QUOTED) at `at`. Negative: not there. */
static inlined __s64 quoted_sum(struct __sk_buff *skb, __u32 at, __u64 size, __s64 sum)
{
	__be32 quoted[(MAX_QUOTED + 4) / 4] = {};

	if (size == 0 || size > MAX_QUOTED)
		return -1;
	/*
	 * verifier: it follows a mask, but not the limits as clang folds them ("invalid write to stack"). 6.1 learns no
	 * minimum from size != 0 ("invalid zero-sized read"), but does from the 1 added behind the mask.
	 */
	size--;
	asm volatile("%0 &= 0x7f" : "+r"(size));
	if (bpf_skb_load_bytes(skb, at, quoted, size + 1) < 0)
		return -1;
	return csum_diff(NULL, 0, quoted, sizeof(quoted), sum);
}

static inlined int unreachable4(struct __sk_buff *skb, const struct packet *pkt, __u32 quoted)
{
	struct ipv4_header ip = {.version_ihl = 0x45, .total_length = bpf_htons(IP4_SIZE + ICMP_SIZE + quoted),
				 .ttl = TTL, .proto = PROTO_ICMP, .saddr = pkt->daddr.word[3],
				 .daddr = pkt->saddr.word[3]};
	struct icmp_header icmp = {.type = ICMP_UNREACHABLE, .code = ICMP_PORT_UNREACHABLE};
	__s64 sum;

	ip.csum = csum_of(csum_diff(NULL, 0, (__be32 *)&ip, sizeof(ip), 0));
	if (bpf_skb_adjust_room(skb, IP4_SIZE + ICMP_SIZE, BPF_ADJ_ROOM_MAC, 0))
		return -1;
	sum = quoted_sum(skb, ETH_SIZE + IP4_SIZE + ICMP_SIZE, quoted,
			 csum_diff(NULL, 0, (__be32 *)&icmp, sizeof(icmp), 0));
	if (sum < 0)
		return -1;
	icmp.csum = csum_of(sum);
	return store(skb, ETH_SIZE, &ip, sizeof(ip)) ||
	       store(skb, ETH_SIZE + IP4_SIZE, &icmp, sizeof(icmp));
}

static inlined int unreachable6(struct __sk_buff *skb, const struct packet *pkt, __u32 quoted)
{
	struct ipv6_header ip = {.version_class_label = bpf_htonl(0x60000000),
				 .payload_length = bpf_htons(ICMP_SIZE + quoted), .next = PROTO_ICMP6,
				 .hop_limit = TTL, .saddr = pkt->daddr, .daddr = pkt->saddr};
	struct pseudo6 pseudo = {.saddr = pkt->daddr, .daddr = pkt->saddr, .length = bpf_htonl(ICMP_SIZE + quoted),
				 .next = bpf_htonl(PROTO_ICMP6)};
	struct icmp_header icmp = {.type = ICMP6_UNREACHABLE, .code = ICMP6_PORT_UNREACHABLE};
	__s64 sum = csum_diff(NULL, 0, (__be32 *)&pseudo, sizeof(pseudo), 0);

	if (bpf_skb_adjust_room(skb, IP6_SIZE + ICMP_SIZE, BPF_ADJ_ROOM_MAC, 0))
		return -1;
	sum = quoted_sum(skb, ETH_SIZE + IP6_SIZE + ICMP_SIZE, quoted,
			 csum_diff(NULL, 0, (__be32 *)&icmp, sizeof(icmp), sum));
	if (sum < 0)
		return -1;
	icmp.csum = csum_of(sum);
	return store(skb, ETH_SIZE, &ip, sizeof(ip)) ||
	       store(skb, ETH_SIZE + IP6_SIZE, &icmp, sizeof(icmp));
}

/*
 * Cut the frame behind the first bytes of L4 (8 as RFC 792 asks; SCTP's whole header, since a CHECKSUM_PARTIAL skb may not
 * be cut before its checksum), put IP and ICMP before it. 0, or -1: the frame is as good as lost.
 */
static inlined int unreachable(struct __sk_buff *skb, const struct packet *pkt)
{
	__u32 l4 = pkt->proto == PROTO_SCTP ? SCTP_CHUNK_AT : ICMP_SIZE;
	__u32 quoted = pkt->l4_at - ETH_SIZE + l4;

	if (skb->len < ETH_SIZE + quoted || bpf_skb_change_tail(skb, ETH_SIZE + quoted, 0))
		return -1;
	return pkt->family == AF_INET ? unreachable4(skb, pkt, quoted) : unreachable6(skb, pkt, quoted);
}

/* IP addresses change places; the sum over both stays. */
static inlined int swap_addresses(struct __sk_buff *skb, const struct packet *pkt)
{
	if (pkt->family == AF_INET)
		return store(skb, IP4_SADDR_AT, &pkt->daddr.word[3], 4) ||
		       store(skb, IP4_DADDR_AT, &pkt->saddr.word[3], 4);
	return store(skb, IP6_SADDR_AT, &pkt->daddr, sizeof(struct ip)) ||
	       store(skb, IP6_DADDR_AT, &pkt->saddr, sizeof(struct ip));
}

static inlined int set_length4(struct __sk_buff *skb, __be16 new)
{
	__be16 old;

	if (bpf_skb_load_bytes(skb, ETH_SIZE + 2, &old, sizeof(old)) < 0)
		return -1;
	return bpf_l3_csum_replace(skb, IP4_CSUM_AT, old, new, sizeof(new)) ||
	       store(skb, ETH_SIZE + 2, &new, sizeof(new));
}

static inlined __s64 pseudo_sum(const struct packet *pkt, __u32 length)
{
	struct pseudo4 four = {.saddr = pkt->daddr.word[3], .daddr = pkt->saddr.word[3], .proto = bpf_htons(pkt->proto),
			       .length = bpf_htons(length)};
	struct pseudo6 six = {.saddr = pkt->daddr, .daddr = pkt->saddr, .length = bpf_htonl(length),
			      .next = bpf_htonl(pkt->proto)};

	return pkt->family == AF_INET ? csum_diff(NULL, 0, (__be32 *)&four, sizeof(four), 0) :
					csum_diff(NULL, 0, (__be32 *)&six, sizeof(six), 0);
}

/* The reset a peer would send that has no such connection or no listener (RFC 9293, 3.10.7.1). 0, or -1. */
static inlined int reset(struct __sk_buff *skb, const struct packet *pkt)
{
	__be16 length = bpf_htons(pkt->l4_at - ETH_SIZE + TCP_SIZE);
	struct tcp_header tcp, answer = {.sport = pkt->dport, .dport = pkt->sport, .offset = (TCP_SIZE / 4) << 4,
					 .flags = TCP_RST};

	if (bpf_skb_load_bytes(skb, pkt->l4_at, &tcp, sizeof(tcp)) < 0)
		return -1;
	if (pkt->flags & PACKET_ACK) {
		answer.seq = tcp.ack;
	} else {
		answer.flags |= TCP_ACK;
		answer.ack = bpf_htonl(bpf_ntohl(tcp.seq) + 1); /* a SYN counts one; its data (TFO) is not acknowledged */
	}
	answer.csum = csum_of(csum_diff(NULL, 0, (__be32 *)&answer, sizeof(answer), pseudo_sum(pkt, TCP_SIZE)));
	if (bpf_skb_change_tail(skb, pkt->l4_at + TCP_SIZE, 0) || swap_addresses(skb, pkt))
		return -1;
	if (pkt->family == AF_INET && set_length4(skb, length))
		return -1;
	length = bpf_htons(pkt->l4_at - ETH_SIZE - IP6_SIZE + TCP_SIZE);
	if (pkt->family == AF_INET6 && store(skb, ETH_SIZE + 4, &length, sizeof(length)))
		return -1;
	return store(skb, pkt->l4_at, &answer, sizeof(answer));
}

/* 0, or -1. */
static inlined int echo_reply(struct __sk_buff *skb, const struct packet *pkt)
{
	__u8 type = pkt->family == AF_INET ? ICMP_ECHO_REPLY : ICMP6_ECHO_REPLY;

	if (swap_addresses(skb, pkt))
		return -1;
	return bpf_l4_csum_replace(skb, pkt->l4_at + ICMP_CSUM_AT, bpf_htons(pkt->icmp_type << 8), bpf_htons(type << 8),
				   2) ||
	       store(skb, pkt->l4_at, &type, sizeof(type));
}

#endif
