/* Addresses of either family as struct ip. */
#ifndef DRAGLINE_ADDRESS_H
#define DRAGLINE_ADDRESS_H

#include "lib/abi.h"
#include "lib/kernel.h"

static inlined struct ip ip_of4(__be32 addr)
{
	struct ip ip = {.word = {0, 0, bpf_htonl(0xffff), addr}};
	return ip;
}

static inlined int is_ip4(const struct ip *ip)
{
	return ip->word[0] == 0 && ip->word[1] == 0 && ip->word[2] == bpf_htonl(0xffff);
}

static inlined int same_ip(const struct ip *one, const struct ip *other)
{
	return ((one->word[0] ^ other->word[0]) | (one->word[1] ^ other->word[1]) | (one->word[2] ^ other->word[2]) |
		(one->word[3] ^ other->word[3])) == 0;
}

/* The source of a pod that reaches itself, in the family of `ip`. */
static inlined struct ip hairpin_ip(const struct ip *ip)
{
	struct ip six = {.word = {bpf_htonl(HAIRPIN_ADDR6_FIRST), bpf_htonl(HAIRPIN_ADDR6_SECOND), 0,
				  bpf_htonl(HAIRPIN_ADDR6_LAST)}};

	return is_ip4(ip) ? ip_of4(bpf_htonl(HAIRPIN_ADDR4)) : six;
}

/* The key of NodePorts, in the family of `ip`. */
static inlined struct ip any_ip(const struct ip *ip)
{
	struct ip six = {};

	return is_ip4(ip) ? ip_of4(0) : six;
}

static inlined int is_link_local6(const struct ip *ip)
{
	return (ip->word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

static inlined int is_unspecified6(const struct ip *ip)
{
	return (ip->word[0] | ip->word[1] | ip->word[2] | ip->word[3]) == 0;
}

static inlined int is_multicast(const struct ip *ip)
{
	if (is_ip4(ip))
		return (ip->word[3] & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000);
	return (ip->word[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}

#endif
