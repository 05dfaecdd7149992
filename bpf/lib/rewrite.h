/* Stores into a frame with its checksums kept right: GSO and CHECKSUM_PARTIAL too, never a change of length. */
#ifndef DRAGLINE_REWRITE_H
#define DRAGLINE_REWRITE_H

#include "lib/abi.h"
#include "lib/kernel.h"
#include "lib/parse.h"

#define TCP_CSUM_AT 16
#define UDP_CSUM_AT 6
#define SPORT_AT 0
#define DPORT_AT 2

/* UDP: a zero checksum means none, the helper leaves it and never makes one. */
static inlined __u64 csum_flags(const struct packet4 *pkt)
{
	return pkt->proto == PROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
}

static inlined __u32 csum_at(const struct packet4 *pkt)
{
	return pkt->l4_at + (pkt->proto == PROTO_UDP ? UDP_CSUM_AT : TCP_CSUM_AT);
}

/* Addresses are in the pseudo header, which is all that a CHECKSUM_PARTIAL field holds: the flag keeps it right. */
static inlined int rewrite_address(struct __sk_buff *skb, const struct packet4 *pkt, __u32 at, __be32 old, __be32 new)
{
	if (old == new)
		return 0;
	if (bpf_l4_csum_replace(skb, csum_at(pkt), old, new, csum_flags(pkt) | BPF_F_PSEUDO_HDR | sizeof(new)) ||
	    bpf_l3_csum_replace(skb, IP_CSUM_AT, old, new, sizeof(new)) ||
	    bpf_skb_store_bytes(skb, at, &new, sizeof(new), 0))
		return -DROP_REWRITE;
	return 0;
}

static inlined int rewrite_port(struct __sk_buff *skb, const struct packet4 *pkt, __u32 at, __be16 old, __be16 new)
{
	if (old == new)
		return 0;
	if (bpf_l4_csum_replace(skb, csum_at(pkt), old, new, csum_flags(pkt) | sizeof(new)) ||
	    bpf_skb_store_bytes(skb, pkt->l4_at + at, &new, sizeof(new), 0))
		return -DROP_REWRITE;
	return 0;
}

static inlined int rewrite_source(struct __sk_buff *skb, const struct packet4 *pkt, __be32 addr, __be16 port)
{
	int ret = rewrite_address(skb, pkt, IP_SADDR_AT, pkt->saddr, addr);

	return ret < 0 ? ret : rewrite_port(skb, pkt, SPORT_AT, pkt->sport, port);
}

static inlined int rewrite_destination(struct __sk_buff *skb, const struct packet4 *pkt, __be32 addr, __be16 port)
{
	int ret = rewrite_address(skb, pkt, IP_DADDR_AT, pkt->daddr, addr);

	return ret < 0 ? ret : rewrite_port(skb, pkt, DPORT_AT, pkt->dport, port);
}

static inlined int rewrite_dmac(struct __sk_buff *skb, const __u8 *mac)
{
	return bpf_skb_store_bytes(skb, ETH_DMAC_AT, (void *)mac, 6, 0) ? -DROP_REWRITE : 0;
}

#endif
