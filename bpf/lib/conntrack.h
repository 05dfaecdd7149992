/*
 * Pairs of conntrack entries: the forward entry (the tuple as the pod sends it) names the backend and so points at
 * the reverse entry (the tuple as the answer arrives), which names the VIP and holds all state. A pair is made before
 * its first packet leaves and deleted together. The LRU may take one of the two. A lost reverse entry is made again
 * from the forward one; a lost forward entry lets the flow's next packet choose a backend anew.
 */
#ifndef DRAGLINE_CONNTRACK_H
#define DRAGLINE_CONNTRACK_H

#include "lib/abi.h"
#include "lib/kernel.h"
#include "lib/maps.h"
#include "lib/parse.h"
#include "lib/sockets.h"

#define TOUCH_NS 1000000000
#define SOURCE_PORT_TRIES 6
/* The kernel's default ephemeral range: servers seldom sit there. */
#define SOURCE_PORT_FIRST 32768
#define SOURCE_PORT_COUNT 28232

static inlined struct flow4 forward_flow(const struct packet4 *pkt)
{
	struct flow4 flow = {.saddr = pkt->saddr, .daddr = pkt->daddr, .sport = pkt->sport, .dport = pkt->dport,
			     .proto = pkt->proto, .direction = CT_FORWARD};
	return flow;
}

/* The packet at hand, seen as an answer. */
static inlined struct flow4 answer_flow(const struct packet4 *pkt)
{
	struct flow4 flow = {.saddr = pkt->saddr, .daddr = pkt->daddr, .sport = pkt->sport, .dport = pkt->dport,
			     .proto = pkt->proto, .direction = CT_REVERSE};
	return flow;
}

/* A pod that reaches itself must see another source than itself. */
static inlined __be32 wire_source(const struct packet4 *pkt, const struct conntrack4 *forward)
{
	return forward->addr == pkt->saddr ? bpf_htonl(HAIRPIN_ADDR4) : pkt->saddr;
}

static inlined struct flow4 reverse_flow(const struct packet4 *pkt, const struct conntrack4 *forward)
{
	struct flow4 flow = {.saddr = forward->addr, .daddr = wire_source(pkt, forward), .sport = forward->port,
			     .dport = forward->client_port, .proto = pkt->proto, .direction = CT_REVERSE};
	return flow;
}

static inlined struct conntrack4 reverse_entry(const struct packet4 *pkt, const struct conntrack4 *forward)
{
	struct conntrack4 entry = {.addr = pkt->daddr, .port = pkt->dport, .client_port = pkt->sport,
				   .service_id = forward->service_id, .backend_id = forward->backend_id,
				   .last_seen_ns = bpf_ktime_get_ns()};
	return entry;
}

static inlined int same_client(const struct conntrack4 *reverse, const struct packet4 *pkt)
{
	return reverse->addr == pkt->daddr && reverse->port == pkt->dport && reverse->client_port == pkt->sport;
}

/* fin: CT_POD_FIN or CT_PEER_FIN, whose FIN this packet would carry. Stores only on a change: the line is shared. */
static inlined void conntrack_touch(struct conntrack4 *reverse, const struct packet4 *pkt, __u32 fin)
{
	__u64 now = bpf_ktime_get_ns();
	__u32 flags = reverse->flags;

	if (pkt->tcp_flags & TCP_FIN)
		flags |= fin;
	if (pkt->tcp_flags & TCP_RST)
		flags |= CT_RESET;
	if (flags != reverse->flags)
		reverse->flags = flags;
	if ((__s64)(now - reverse->last_seen_ns) > TOUCH_NS)
		reverse->last_seen_ns = now;
}

/* Delete a reverse entry (key `flow`) with its forward twin; `client` is the pod's own address. */
static inlined void conntrack_delete_pair(const struct flow4 *flow, const struct conntrack4 *reverse, __be32 client)
{
	struct flow4 twin = {.saddr = client, .daddr = reverse->addr, .sport = reverse->client_port,
			     .dport = reverse->port, .proto = flow->proto, .direction = CT_FORWARD};

	conntrack_delete(&twin);
	conntrack_delete(flow);
}

/* Packets that could as well go elsewhere (a new connection, a datagram) need a backend that still exists. */
static inlined int backend_stands(const struct packet4 *pkt, const struct conntrack4 *forward)
{
	struct backend4 *backend;

	if (forward->service_id == SERVICE_NONE || (pkt->proto == PROTO_TCP && !opens_connection(pkt)))
		return 1;
	backend = backend_lookup(forward->backend_id);
	return backend && backend->addr == forward->addr && backend->port == forward->port;
}

/* 1: the packet belongs to a flow of this service, *forward says where to. 0: it opens a new one. */
static inlined int conntrack_resume(const struct packet4 *pkt, __u32 service_id, struct conntrack4 *forward)
{
	struct flow4 flow = forward_flow(pkt), answer;
	struct conntrack4 *entry = conntrack_lookup(&flow), *reverse, made;
	int mine;

	if (!entry)
		return 0;
	*forward = *entry;
	answer = reverse_flow(pkt, forward);
	reverse = conntrack_lookup(&answer);
	mine = reverse && same_client(reverse, pkt);
	if (forward->service_id == service_id && backend_stands(pkt, forward)) {
		if (mine && !(opens_connection(pkt) && reverse->flags & CT_CLOSING)) {
			conntrack_touch(reverse, pkt, CT_POD_FIN);
			return 1;
		}
		made = reverse_entry(pkt, forward);
		if (!reverse && !opens_connection(pkt) && conntrack_insert(&answer, &made) == 0)
			return 1;
	}
	conntrack_delete(&flow);
	if (mine)
		conntrack_delete(&answer);
	return 0;
}

/* May the reverse entry of another flow be taken over? When nobody used it for long and no socket is behind it. */
static inlined int abandoned(struct __sk_buff *skb, const struct packet4 *pkt, const struct conntrack4 *reverse)
{
	/* Signed: another CPU may have touched the entry after this one read the clock. */
	if ((__s64)(bpf_ktime_get_ns() - reverse->last_seen_ns) < (__s64)CT_IDLE_NS)
		return 0;
	return pkt->proto == PROTO_UDP ||
	       !tcp_socket_alive(skb, reverse->addr, reverse->port, pkt->saddr, reverse->client_port);
}

/* Make the reverse entry for forward->client_port; 0 when another flow (a Service's or a direct one) has that tuple. */
static inlined int claim_reverse(struct __sk_buff *skb, const struct packet4 *pkt, const struct conntrack4 *forward)
{
	struct conntrack4 made = reverse_entry(pkt, forward), *other;
	struct flow4 answer = reverse_flow(pkt, forward);

	if (opens_connection(pkt) &&
	    tcp_socket_alive(skb, forward->addr, forward->port, pkt->saddr, forward->client_port))
		return 0;
	if (conntrack_insert(&answer, &made) == 0)
		return 1;
	other = conntrack_lookup(&answer);
	if (!other)
		return 0;
	if (!same_client(other, pkt)) {
		if (!abandoned(skb, pkt, other))
			return 0;
		conntrack_delete_pair(&answer, other, pkt->saddr);
	}
	return conntrack_update(&answer, &made) == 0;
}

/* Open a flow to forward->addr:port with a source port that is free towards it. 0, or a drop. */
static inlined int conntrack_open(struct __sk_buff *skb, const struct packet4 *pkt, struct conntrack4 *forward)
{
	struct flow4 flow = forward_flow(pkt), answer;
	int try, claimed = 0;

	forward->client_port = pkt->sport;
	for (try = 0; try < SOURCE_PORT_TRIES && !claimed; try++) {
		if (try > 0)
			forward->client_port =
				bpf_htons(SOURCE_PORT_FIRST + bpf_get_prandom_u32() % SOURCE_PORT_COUNT);
		claimed = claim_reverse(skb, pkt, forward);
	}
	if (!claimed)
		return -DROP_NO_SOURCE_PORT;
	if (forward->client_port != pkt->sport)
		counter_add(EVENT_NEW_SOURCE_PORT);
	if (conntrack_update(&flow, forward) == 0)
		return 0;
	answer = reverse_flow(pkt, forward);
	conntrack_delete(&answer);
	return -DROP_CONNTRACK;
}

#endif
