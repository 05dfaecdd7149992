/* Names of the kernel that BCC's own headers lack or get wrong. */
#ifndef DRAGLINE_KERNEL_H
#define DRAGLINE_KERNEL_H

/* net/pkt_cls.h. UNSPEC lets the next filter on the same hook decide: what is not ours stays open to others. */
#define TC_ACT_UNSPEC (-1)
#define TC_ACT_OK 0
#define TC_ACT_SHOT 2
#define TC_ACT_REDIRECT 7

#define AF_INET 2
#define AF_INET6 10

/* sk->state, net/tcp_states.h */
#define SK_ESTABLISHED 1
#define SK_TIME_WAIT 6
#define SK_CLOSE 7
#define SK_LISTEN 10

#define CURRENT_NETNS ((__u64)(__s64)-1)

#define inlined inline __attribute__((always_inline))

/* 0, or negative. BCC's prototype of the helper takes no const. */
static inlined long store(struct __sk_buff *skb, __u32 at, const void *from, __u32 size)
{
	return bpf_skb_store_bytes(skb, at, (void *)from, size, 0);
}

/* BCC declares bpf_redirect_neigh without its params argument: the helper is declared here again, by its number. */
static long (*redirect_neigh_to)(__u32 ifindex, struct bpf_redir_neigh *next_hop, int size, __u64 flags) = (void *)152;

/*
 * BCC declares bpf_csum_diff as an int: a sum above 2^31 would look negative, and before 6.13 sums are not folded to 16
 * bits. A sum of 32 bits, or negative.
 */
static __s64 (*csum_diff)(const void *from, __u32 from_size, const void *to, __u32 to_size, __u32 seed) = (void *)28;

/* BCC declares bpf_csum_update with a u16: it would cut the difference. 0 or more, or negative: no CHECKSUM_COMPLETE. */
static long (*csum_update)(struct __sk_buff *skb, __u32 diff) = (void *)40;

#endif
