/*
 * Pairs of conntrack entries: the forward entry (the tuple as the pod sends it) names the backend and so points at
 * the reverse entry (the tuple as the answer arrives), which names the VIP and holds all state. A pair is made before
 * its first packet leaves and deleted together. The LRU may take one of the two. A lost reverse entry is made again
 * from the forward one; a lost forward entry ends the flow (TCP) or lets it choose anew (datagrams).
 */
#ifndef DRAGLINE_CONNTRACK_H
#define DRAGLINE_CONNTRACK_H

#include "lib/abi.h"
#include "lib/address.h"
#include "lib/clock.h"
#include "lib/kernel.h"
#include "lib/maps.h"
#include "lib/next_hop.h"
#include "lib/parse.h"
#include "lib/sockets.h"
#include "lib/work.h"

#define SOURCE_PORT_TRIES 6
/* The kernel's default ephemeral range: servers seldom sit there. */
#define SOURCE_PORT_FIRST 32768
#define SOURCE_PORT_COUNT 28232

static inlined void set_flow(struct flow *flow, const struct packet *pkt, __u8 direction)
{
	flow->saddr = pkt->saddr;
	flow->daddr = pkt->daddr;
	flow->sport = pkt->sport;
	flow->dport = pkt->dport;
	flow->proto = pkt->proto;
	flow->direction = direction;
	flow->pad = 0;
}

/* The answer to be expected by w->forward. A pod that reaches itself must see another source than itself. */
static inlined void set_answer(struct work *w)
{
	w->answer.saddr = w->forward.addr;
	w->answer.daddr = w->pkt.saddr;
	if (w->forward.flags & CT_TO_SELF)
		w->answer.daddr = hairpin_ip(&w->pkt.saddr);
	w->answer.sport = w->forward.port;
	w->answer.dport = w->forward.client_port;
	w->answer.proto = w->pkt.proto;
	w->answer.direction = CT_REVERSE;
	w->answer.pad = 0;
}

/* What a forward entry knows before any packet was sent. */
static inlined void start_forward(struct conntrack *forward)
{
	forward->touched = coarse_clock();
	forward->last_seen_ns = 0;
	__builtin_memset(forward->mac, 0, sizeof(forward->mac));
	forward->mac_seen = 0;
}

static inlined void set_reverse(struct work *w)
{
	w->reverse.addr = w->pkt.daddr;
	w->reverse.port = w->pkt.dport;
	w->reverse.client_port = w->pkt.sport;
	w->reverse.service_id = w->forward.service_id;
	w->reverse.backend_id = w->forward.backend_id;
	w->reverse.flags = 0;
	w->reverse.touched = coarse_clock();
	w->reverse.last_seen_ns = bpf_ktime_get_ns();
	__builtin_memset(w->reverse.mac, 0, sizeof(w->reverse.mac));
	w->reverse.mac_seen = 0;
}

/* A packet that arrives (or that a pod sends to itself), as an answer: its entry, or NULL. */
static inlined struct conntrack *answered(struct work *w)
{
	set_flow(&w->answer, &w->pkt, CT_REVERSE);
	return conntrack_lookup(&w->answer);
}

static inlined int same_client(const struct conntrack *reverse, const struct packet *pkt)
{
	return same_ip(&reverse->addr, &pkt->daddr) && reverse->port == pkt->dport &&
	       reverse->client_port == pkt->sport;
}

/* fin: whose FIN this packet would carry; seen: what else it shows. Stores only on a change: the line is shared. */
static inlined void conntrack_touch(struct conntrack *reverse, const struct packet *pkt, __u16 fin, __u16 seen)
{
	__u16 flags = reverse->flags | seen, now = coarse_clock();

	if (pkt->flags & PACKET_FIN)
		flags |= fin;
	if (pkt->flags & PACKET_RESET)
		flags |= CT_RESET;
	if (flags != reverse->flags)
		reverse->flags = flags;
	if (now == reverse->touched)
		return;
	reverse->touched = now;
	reverse->last_seen_ns = bpf_ktime_get_ns();
}

/* An answer has come: note that, and which MAC it came from. */
static inlined void conntrack_answered(struct conntrack *reverse, const struct packet *pkt)
{
	__u16 now = coarse_clock() ?: 1; /* 0 would mean never */

	conntrack_touch(reverse, pkt, CT_PEER_FIN, CT_ANSWERED);
	if (reverse->mac_seen == now)
		return;
	__builtin_memcpy(reverse->mac, pkt->smac, sizeof(reverse->mac));
	reverse->mac_seen = now;
}

/* Delete the reverse entry under w->answer, given as `reverse`, with its forward twin. The pod is the packet's source. */
static inlined void conntrack_delete_pair(struct work *w, const struct conntrack *reverse)
{
	w->twin.saddr = w->pkt.saddr;
	w->twin.daddr = reverse->addr;
	w->twin.sport = reverse->client_port;
	w->twin.dport = reverse->port;
	w->twin.proto = w->pkt.proto;
	w->twin.direction = CT_FORWARD;
	w->twin.pad = 0;
	conntrack_delete(&w->twin);
	conntrack_delete(&w->answer);
}

/*
 * Does the flow's backend still take this packet? That its entry is there, with its address and its frontend's id, says
 * that the frontend is there and has it. A draining one keeps its connections; what could as well go elsewhere (a new
 * connection, a datagram) does.
 */
static inlined int backend_stands(const struct packet *pkt, const struct conntrack *forward)
{
	struct backend *backend;

	if (forward->service_id == SERVICE_NONE)
		return 1;
	backend = backend_lookup(forward->backend_id);
	if (!backend || backend->service_id != forward->service_id || backend->port != forward->port ||
	    !same_ip(&backend->addr, &forward->addr))
		return 0;
	return !(backend->flags & BACKEND_DRAINING) || (is_stream(pkt) && !(pkt->flags & PACKET_OPENS));
}

/* The reverse entry of a flow that stands: noted that it lives, or made again. 0: it is over, or another flow's. */
static inlined int keep_reverse(struct work *w, struct conntrack *reverse)
{
	if (reverse && same_client(reverse, &w->pkt)) {
		if (w->pkt.flags & PACKET_OPENS && reverse->flags & CT_CLOSING)
			return 0;
		conntrack_touch(reverse, &w->pkt, CT_POD_FIN, 0);
		return 1;
	}
	if (reverse || w->pkt.flags & PACKET_OPENS)
		return 0;
	counter_add(EVENT_REVERSE_LOST);
	set_reverse(w);
	return conntrack_insert(&w->answer, &w->reverse) == 0;
}

/* The flow cannot go on as it is: its pair goes, if the reverse entry is its own. */
static inlined void conntrack_end(struct work *w, const struct conntrack *reverse)
{
	conntrack_delete(&w->flow);
	if (reverse && same_client(reverse, &w->pkt))
		conntrack_delete(&w->answer);
}

/* Nothing about this flow needs a look: most packets of a connection. */
static inlined int is_up_to_date(const struct conntrack *forward, const struct packet *pkt)
{
	if (forward->touched != coarse_clock() || pkt->flags & (PACKET_OPENS | PACKET_FIN | PACKET_RESET))
		return 0;
	return !(forward->flags & (CT_ON_LINK | CT_BY_GATEWAY)) || mac_is_fresh(forward);
}

/* Once per tick of the coarse clock, a flow that stands: what its reverse entry has learnt, and where its backend is now. */
static inlined void bring_up_to_date(struct __sk_buff *skb, const struct pod *pod, struct work *w,
				     struct conntrack *forward, const struct conntrack *reverse)
{
	if (forward->service_id != SERVICE_NONE)
		forward->flags = place_of(skb, pod, &w->pkt, &forward->addr);
	if (reverse) {
		__builtin_memcpy(forward->mac, reverse->mac, sizeof(forward->mac));
		forward->mac_seen = reverse->mac_seen;
	}
	forward->touched = coarse_clock();
	w->forward = *forward;
}

/*
 * 1: the packet belongs to a flow, w->forward says where to (a direct flow's if its service_id is SERVICE_NONE). 0: it
 * opens a new one. Or a drop.
 */
static inlined int conntrack_resume(struct __sk_buff *skb, const struct pod *pod, struct work *w)
{
	struct conntrack *forward, *reverse;
	int stands;

	set_flow(&w->flow, &w->pkt, CT_FORWARD);
	forward = conntrack_lookup(&w->flow);
	if (!forward)
		return 0;
	w->forward = *forward;
	stands = backend_stands(&w->pkt, forward);
	if (stands && is_up_to_date(forward, &w->pkt))
		return 1;
	set_answer(w);
	reverse = conntrack_lookup(&w->answer);
	if (stands && keep_reverse(w, reverse)) {
		bring_up_to_date(skb, pod, w, forward, reverse);
		return 1;
	}
	conntrack_end(w, reverse);
	if (!stands && is_stream(&w->pkt) && !(w->pkt.flags & PACKET_OPENS))
		return -DROP_BACKEND_REMOVED;
	if (!stands)
		counter_add(EVENT_FLOW_MOVED);
	return 0;
}

/* May the reverse entry of another flow be taken over? When nobody used it for long and no socket is behind it. */
static inlined int abandoned(struct __sk_buff *skb, const struct packet *pkt, const struct conntrack *reverse)
{
	/* Signed: another CPU may have touched the entry after this one read the clock. */
	if ((__s64)(bpf_ktime_get_ns() - reverse->last_seen_ns) < (__s64)CT_IDLE_NS)
		return 0;
	return pkt->proto != PROTO_TCP ||
	       !tcp_socket_alive(skb, &reverse->addr, reverse->port, &pkt->saddr, reverse->client_port);
}

/* Make the reverse entry for w->forward; 0 when another flow (a Service's or a direct one) has that tuple. */
static inlined int claim_reverse(struct __sk_buff *skb, struct work *w)
{
	struct conntrack *other;

	if (w->pkt.proto == PROTO_TCP && w->pkt.flags & PACKET_OPENS &&
	    tcp_socket_alive(skb, &w->forward.addr, w->forward.port, &w->pkt.saddr, w->forward.client_port))
		return 0;
	set_answer(w);
	set_reverse(w);
	if (conntrack_insert(&w->answer, &w->reverse) == 0)
		return 1;
	other = conntrack_lookup(&w->answer);
	if (!other)
		return 0;
	if (!same_client(other, &w->pkt)) {
		if (!abandoned(skb, &w->pkt, other))
			return 0;
		conntrack_delete_pair(w, other);
	}
	return conntrack_update(&w->answer, &w->reverse) == 0;
}

/* Open a flow to the address and port in w->forward, with a source port that is free towards it. 0, or a drop. */
static inlined int conntrack_open(struct __sk_buff *skb, struct work *w)
{
	int try, claimed = 0;

	w->forward.client_port = w->pkt.sport;
	for (try = 0; try < SOURCE_PORT_TRIES && !claimed; try++) {
		if (try > 0 && w->pkt.proto == PROTO_SCTP)
			break; /* its checksum covers the ports */
		if (try > 0)
			w->forward.client_port =
				bpf_htons(SOURCE_PORT_FIRST + bpf_get_prandom_u32() % SOURCE_PORT_COUNT);
		claimed = claim_reverse(skb, w);
	}
	if (!claimed)
		return -DROP_NO_SOURCE_PORT;
	if (w->forward.client_port != w->pkt.sport)
		counter_add(EVENT_NEW_SOURCE_PORT);
	set_flow(&w->flow, &w->pkt, CT_FORWARD);
	if (conntrack_update(&w->flow, &w->forward) == 0)
		return 0;
	conntrack_delete(&w->answer);
	return -DROP_CONNTRACK;
}

#endif
