/*
 * Socket load balancing: a pod's connect() or sendmsg() to a Service goes to a backend, so that its packets need no
 * translation; recvmsg() and getpeername() give the Service's address back. Attached at the root of the cgroup v2
 * hierarchy, so every socket of the machine passes here: those whose netns is no pod of this agent are left alone.
 *
 * Refusals are from_pod's work: without a backend the destination stays as it is, and the packet meets the ICMP error
 * that makes connect() say ECONNREFUSED.
 */
#include "lib/address.h"
#include "lib/headers.h"
#include "lib/maps.h"
#include "lib/socket_lb.h"

#define SOCKET_GO_ON 1

/* The part of the key that the call names, apart from the cookie. The slave of the pod; 0: not ours. */
static inlined __u32 pod_socket(struct bpf_sock_addr *ctx, struct socket_key *key)
{
	__u32 *slave = netns_pod_lookup(bpf_get_netns_cookie(ctx));

	if (!slave || (ctx->protocol != PROTO_TCP && ctx->protocol != PROTO_UDP))
		return 0;
	key->port = (__be16)ctx->user_port;
	key->proto = ctx->protocol;
	return *slave;
}

static inlined struct ip name6(struct bpf_sock_addr *ctx)
{
	struct ip ip = {.word = {ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]}};
	return ip;
}

static inlined void rename4(struct bpf_sock_addr *ctx, const struct socket_peer *peer)
{
	ctx->user_ip4 = peer->addr.word[3];
	ctx->user_port = peer->port;
}

static inlined void rename6(struct bpf_sock_addr *ctx, const struct socket_peer *peer)
{
	ctx->user_ip6[0] = peer->addr.word[0];
	ctx->user_ip6[1] = peer->addr.word[1];
	ctx->user_ip6[2] = peer->addr.word[2];
	ctx->user_ip6[3] = peer->addr.word[3];
	ctx->user_port = peer->port;
}

/* recvmsg() and getpeername(): what the pod calls the peer `wire`; NULL: nothing else. */
static inlined struct socket_peer *peer_name(struct bpf_sock_addr *ctx, struct socket_key *wire)
{
	struct socket_peer *peer;

	if (!pod_socket(ctx, wire))
		return NULL;
	wire->cookie = bpf_get_socket_cookie(ctx);
	peer = socket_frontend_lookup(wire);
	if (peer)
		counter_add(VERDICT_SOCKET_ANSWER);
	return peer;
}

static inlined int name_peer4(struct bpf_sock_addr *ctx)
{
	struct socket_key wire = {.addr = ip_of4(ctx->user_ip4)};
	struct socket_peer *peer = peer_name(ctx, &wire);

	if (peer)
		rename4(ctx, peer);
	return SOCKET_GO_ON;
}

/* The peer of an IPv6 socket may be an IPv4 one. */
static inlined int name_peer6(struct bpf_sock_addr *ctx)
{
	struct socket_key wire = {.addr = name6(ctx)};
	struct socket_peer *peer = peer_name(ctx, &wire);

	if (peer)
		rename6(ctx, peer);
	return SOCKET_GO_ON;
}

int connect4(struct bpf_sock_addr *ctx)
{
	struct socket_key named = {.addr = ip_of4(ctx->user_ip4)};
	__u32 slave = pod_socket(ctx, &named);
	struct socket_peer peer = {};

	if (slave && connect_peer(ctx, &named, slave, &peer))
		rename4(ctx, &peer);
	return SOCKET_GO_ON;
}

int connect6(struct bpf_sock_addr *ctx)
{
	struct socket_key named = {.addr = name6(ctx)};
	__u32 slave = pod_socket(ctx, &named);
	struct socket_peer peer = {};

	if (slave && connect_peer(ctx, &named, slave, &peer))
		rename6(ctx, &peer);
	return SOCKET_GO_ON;
}

int sendmsg4(struct bpf_sock_addr *ctx)
{
	struct socket_key named = {.addr = ip_of4(ctx->user_ip4)};
	__u32 slave = pod_socket(ctx, &named);
	struct socket_peer peer = {};

	if (slave && send_peer(ctx, &named, slave, &peer))
		rename4(ctx, &peer);
	return SOCKET_GO_ON;
}

int sendmsg6(struct bpf_sock_addr *ctx)
{
	struct socket_key named = {.addr = name6(ctx)};
	__u32 slave = pod_socket(ctx, &named);
	struct socket_peer peer = {};

	if (slave && send_peer(ctx, &named, slave, &peer))
		rename6(ctx, &peer);
	return SOCKET_GO_ON;
}

int recvmsg4(struct bpf_sock_addr *ctx)
{
	return name_peer4(ctx);
}

int recvmsg6(struct bpf_sock_addr *ctx)
{
	return name_peer6(ctx);
}

int getpeername4(struct bpf_sock_addr *ctx)
{
	return name_peer4(ctx);
}

int getpeername6(struct bpf_sock_addr *ctx)
{
	return name_peer6(ctx);
}
