/* Stores into a frame with its checksums kept right: GSO and CHECKSUM_PARTIAL too, never a change of length. */
#ifndef DRAGLINE_REWRITE_H
#define DRAGLINE_REWRITE_H

#include "lib/abi.h"
#include "lib/address.h"
#include "lib/headers.h"
#include "lib/kernel.h"
#include "lib/parse.h"

/* SCTP's checksum covers no address, and its ports are never changed. Later fragments have no L4 header. */
static inlined int has_l4_csum(const struct packet *pkt)
{
	return pkt->l4_at && (pkt->proto == PROTO_TCP || pkt->proto == PROTO_UDP);
}

/* UDP: a zero checksum means none, the helper leaves it and never makes one. */
static inlined __u64 csum_flags(const struct packet *pkt)
{
	return pkt->proto == PROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
}

static inlined __u32 csum_at(const struct packet *pkt)
{
	return pkt->l4_at + (pkt->proto == PROTO_UDP ? UDP_CSUM_AT : TCP_CSUM_AT);
}

/*
 * An IPv6 address changed: the L4 checksum takes it back, so that the sum over the whole packet stays what it was. The
 * helper believes otherwise of a CHECKSUM_COMPLETE skb (it counts on an IP header checksum that IPv6 does not have;
 * BPF_F_IPV6 of Linux 6.16 tells it): bpf_csum_update, which touches no other skb, undoes that.
 */
static inlined int l4_csum_replace6(struct __sk_buff *skb, __u32 at, const struct ip *old, const struct ip *new,
				    __u64 flags)
{
	__s64 diff = bpf_csum_diff((__be32 *)old, sizeof(*old), (__be32 *)new, sizeof(*new), 0);

	if (diff < 0 || bpf_l4_csum_replace(skb, at, 0, diff, flags | BPF_F_PSEUDO_HDR))
		return -DROP_REWRITE;
	bpf_csum_update(skb, diff);
	return 0;
}

static inlined int rewrite_address6(struct __sk_buff *skb, const struct packet *pkt, __u32 at, const struct ip *old,
				    const struct ip *new)
{
	if (has_l4_csum(pkt) && l4_csum_replace6(skb, csum_at(pkt), old, new, csum_flags(pkt)) < 0)
		return -DROP_REWRITE;
	return store(skb, at, new, sizeof(*new)) ? -DROP_REWRITE : 0;
}

/* Addresses are in the pseudo header, which is all that a CHECKSUM_PARTIAL field holds: the flag keeps it right. */
static inlined int rewrite_address4(struct __sk_buff *skb, const struct packet *pkt, __u32 at, __be32 old, __be32 new)
{
	if (has_l4_csum(pkt) &&
	    bpf_l4_csum_replace(skb, csum_at(pkt), old, new, csum_flags(pkt) | BPF_F_PSEUDO_HDR | sizeof(new)))
		return -DROP_REWRITE;
	if (bpf_l3_csum_replace(skb, IP4_CSUM_AT, old, new, sizeof(new)) ||
	    store(skb, at, &new, sizeof(new)))
		return -DROP_REWRITE;
	return 0;
}

static inlined int rewrite_port(struct __sk_buff *skb, const struct packet *pkt, __u32 at, __be16 old, __be16 new)
{
	if (old == new || !pkt->l4_at)
		return 0;
	if (pkt->proto == PROTO_SCTP)
		return -DROP_REWRITE;
	if (bpf_l4_csum_replace(skb, csum_at(pkt), old, new, csum_flags(pkt) | sizeof(new)) ||
	    store(skb, pkt->l4_at + at, &new, sizeof(new)))
		return -DROP_REWRITE;
	return 0;
}

static inlined int rewrite_source(struct __sk_buff *skb, const struct packet *pkt, const struct ip *addr, __be16 port)
{
	int ret = 0;

	if (!same_ip(&pkt->saddr, addr)) {
		if (pkt->family == AF_INET)
			ret = rewrite_address4(skb, pkt, IP4_SADDR_AT, pkt->saddr.word[3], addr->word[3]);
		else
			ret = rewrite_address6(skb, pkt, IP6_SADDR_AT, &pkt->saddr, addr);
	}
	return ret < 0 ? ret : rewrite_port(skb, pkt, SPORT_AT, pkt->sport, port);
}

static inlined int rewrite_destination(struct __sk_buff *skb, const struct packet *pkt, const struct ip *addr,
				       __be16 port)
{
	int ret = 0;

	if (!same_ip(&pkt->daddr, addr)) {
		if (pkt->family == AF_INET)
			ret = rewrite_address4(skb, pkt, IP4_DADDR_AT, pkt->daddr.word[3], addr->word[3]);
		else
			ret = rewrite_address6(skb, pkt, IP6_DADDR_AT, &pkt->daddr, addr);
	}
	return ret < 0 ? ret : rewrite_port(skb, pkt, DPORT_AT, pkt->dport, port);
}

static inlined int rewrite_dmac(struct __sk_buff *skb, const __u8 *mac)
{
	return store(skb, ETH_DMAC_AT, mac, 6) ? -DROP_REWRITE : 0;
}

#endif
