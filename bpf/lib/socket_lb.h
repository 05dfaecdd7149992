/* Which backend a socket's destination stands for, and what a peer is called; hooks and their contexts: sock.c. */
#ifndef DRAGLINE_SOCKET_LB_H
#define DRAGLINE_SOCKET_LB_H

#include "lib/abi.h"
#include "lib/address.h"
#include "lib/headers.h"
#include "lib/kernel.h"
#include "lib/maps.h"
#include "lib/service.h"

/* The Service at this destination and its key; NULL: none, the destination is meant as it stands. */
static inlined struct service *named_service(const struct socket_key *named, struct service_key *key)
{
	struct address *known = address_lookup(&named->addr);

	return known ? find_service(known->flags, &named->addr, named->port, named->proto, key) : NULL;
}

/* The pod's address of the VIP's family: with session affinity, sockets and packets of a pod are one client. */
static inlined struct ip client_ip(const struct ip *vip, __u32 slave)
{
	struct pod *pod = pod_lookup(slave);
	struct ip client = {};

	if (pod)
		client = is_ip4(vip) ? ip_of4(pod->addr4) : pod->addr6;
	return client;
}

/* A backend for a new flow of the pod on `slave`. 1, or 0: there is none. */
static inlined int choose_peer(struct service_key *key, const struct service *service, __u32 slave,
			       struct socket_peer *peer)
{
	struct backend *backend;
	struct ip client = {};

	if (service->affinity_s)
		client = client_ip(&key->addr, slave);
	backend = choose_backend(key, service, &client, &peer->backend_id);
	if (!backend)
		return 0;
	peer->addr = backend->addr;
	peer->port = backend->port;
	peer->service_id = service->service_id;
	peer->slave_ifindex = slave;
	count_opened(service->service_id);
	return 1;
}

/* Is this still a backend of the service, for datagrams too? */
static inlined int keeps_peer(const struct socket_peer *had, __u32 service_id)
{
	struct backend *backend = open_backend(had->backend_id, service_id);

	return backend && backend->port == had->port && same_ip(&backend->addr, &had->addr);
}

/*
 * What the peer will be called: `named`, by a socket that sends to `peer`. An `old` socket may have noted it already.
 * 0, or negative: it could not be noted.
 */
static inlined int note_frontend(const struct socket_key *named, const struct socket_peer *peer, int old)
{
	struct socket_key wire = *named;
	struct socket_peer frontend = *peer, *noted;

	wire.addr = peer->addr;
	wire.port = peer->port;
	frontend.addr = named->addr;
	frontend.port = named->port;
	noted = old ? socket_frontend_lookup(&wire) : NULL;
	if (noted && noted->backend_id == peer->backend_id && noted->port == named->port &&
	    same_ip(&noted->addr, &named->addr))
		return 0;
	return socket_frontend_update(&wire, &frontend);
}

/* This socket calls somebody by their own name: from now on that is their name, even if they were a backend before. */
static inlined void forget_frontend(const struct socket_key *named)
{
	if (socket_frontend_lookup(named))
		socket_frontend_delete(named);
}

/*
 * connect(): the destination `named` (all but the cookie) and the pod's slave are known. 1: *peer is where it goes; 0:
 * as it stands. A TCP socket hardly ever connects twice: it has no names to forget, and needs no cookie for that.
 */
static inlined int connect_peer(struct bpf_sock_addr *ctx, struct socket_key *named, __u32 slave,
				struct socket_peer *peer)
{
	struct service_key key = {};
	struct service *service = named_service(named, &key);
	int chosen = service && choose_peer(&key, service, slave, peer);

	if (!chosen && named->proto == PROTO_TCP)
		return 0;
	named->cookie = bpf_get_socket_cookie(ctx);
	if (!chosen) {
		forget_frontend(named);
		return 0;
	}
	if (note_frontend(named, peer, 0) < 0)
		return 0;
	if (named->proto == PROTO_UDP && socket_backend_update(named, peer) < 0) /* sendto() may name the VIP again */
		return 0;
	counter_add(VERDICT_SOCKET);
	return 1;
}

static inlined int is_connected(struct bpf_sock_addr *ctx)
{
	return ctx->sk && ctx->sk->state == SK_ESTABLISHED;
}

/*
 * sendmsg() with a destination: as connect_peer, but the socket stays with its backend while that takes new flows. On a
 * connected socket a destination without a Service proves nothing: when its peer is an IPv4-mapped one, the kernel
 * names that peer, a backend, at every plain send().
 */
static inlined int send_peer(struct bpf_sock_addr *ctx, struct socket_key *named, __u32 slave,
			     struct socket_peer *peer)
{
	struct service_key key = {};
	struct service *service = named_service(named, &key);
	struct socket_peer *had;

	if (!service && is_connected(ctx))
		return 0;
	named->cookie = bpf_get_socket_cookie(ctx);
	if (!service) {
		forget_frontend(named);
		return 0;
	}
	had = socket_backend_lookup(named);
	if (had && keeps_peer(had, service->service_id)) {
		*peer = *had;
	} else {
		if (had)
			counter_add(EVENT_FLOW_MOVED);
		if (!choose_peer(&key, service, slave, peer) || socket_backend_update(named, peer) < 0)
			return 0;
	}
	if (note_frontend(named, peer, 1) < 0)
		return 0;
	counter_add(VERDICT_SOCKET);
	return 1;
}

#endif
