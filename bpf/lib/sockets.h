/* Whether a flow is really alive: the sockets of the pod's own netns know it, no table of ours can know it better. */
#ifndef DRAGLINE_SOCKETS_H
#define DRAGLINE_SOCKETS_H

#include "lib/abi.h"
#include "lib/address.h"
#include "lib/kernel.h"

/* Does the pod (skb is at its slave's egress) hold a TCP connection local -> remote? No listener, no TIME_WAIT. */
static inlined int tcp_socket_alive(struct __sk_buff *skb, const struct ip *remote, __be16 remote_port,
				    const struct ip *local, __be16 local_port)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk;
	__u32 size, state;

	if (is_ip4(remote)) { /* as seen in a packet that arrives */
		tuple.ipv4.saddr = remote->word[3];
		tuple.ipv4.daddr = local->word[3];
		tuple.ipv4.sport = remote_port;
		tuple.ipv4.dport = local_port;
		size = sizeof(tuple.ipv4);
	} else {
		__builtin_memcpy(tuple.ipv6.saddr, remote, sizeof(*remote));
		__builtin_memcpy(tuple.ipv6.daddr, local, sizeof(*local));
		tuple.ipv6.sport = remote_port;
		tuple.ipv6.dport = local_port;
		size = sizeof(tuple.ipv6);
	}
	sk = bpf_skc_lookup_tcp(skb, &tuple, size, CURRENT_NETNS, 0);
	if (!sk)
		return 0;
	state = sk->state;
	bpf_sk_release(sk);
	return state != SK_LISTEN && state != SK_TIME_WAIT && state != SK_CLOSE;
}

#endif
