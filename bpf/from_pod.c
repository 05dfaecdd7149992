/*
 * A packet leaves a pod: clsact egress of its slave, inside the pod's netns, by tail call from hold_egress.
 * skb->ifindex is unique on the node and names the pod; the pod's own stack chose MAC and route for the address it
 * named.
 */
#include "lib/abi.h"
#include "lib/conntrack.h"
#include "lib/kernel.h"
#include "lib/maps.h"
#include "lib/next_hop.h"
#include "lib/parse.h"
#include "lib/rewrite.h"
#include "lib/service.h"
#include "lib/sockets.h"
#include "lib/verdict.h"

/* The pod answers itself: it knows the VIP as the peer, and its own frame loops back to it. */
static inlined int hairpin_answer(struct __sk_buff *skb, const struct pod *pod, const struct packet4 *pkt)
{
	struct flow4 flow = answer_flow(pkt);
	struct conntrack4 *reverse = conntrack_lookup(&flow);
	int ret;

	if (!reverse)
		return VERDICT_PASS;
	conntrack_touch(reverse, pkt, CT_PEER_FIN);
	ret = rewrite_source(skb, pkt, reverse->addr, reverse->port);
	if (ret < 0)
		return ret;
	ret = rewrite_destination(skb, pkt, pkt->saddr, reverse->client_port);
	if (ret < 0)
		return ret;
	ret = rewrite_dmac(skb, pod->mac);
	return ret < 0 ? ret : VERDICT_HAIRPIN_ANSWER;
}

static inlined int hairpin(struct __sk_buff *skb, const struct pod *pod, const struct packet4 *pkt,
				 const struct conntrack4 *forward)
{
	int ret = rewrite_source(skb, pkt, bpf_htonl(HAIRPIN_ADDR4), forward->client_port);

	if (ret < 0)
		return ret;
	ret = rewrite_dmac(skb, pod->mac);
	return ret < 0 ? ret : VERDICT_HAIRPIN;
}

static inlined int to_service(struct __sk_buff *skb, const struct pod *pod, const struct packet4 *pkt,
				    const struct service4 *service)
{
	struct conntrack4 forward;
	int ret = service_target(skb, pkt, service, &forward);

	if (ret < 0)
		return ret;
	ret = rewrite_destination(skb, pkt, forward.addr, forward.port);
	if (ret < 0)
		return ret;
	if (forward.addr == pkt->saddr)
		return hairpin(skb, pod, pkt, &forward);
	ret = rewrite_port(skb, pkt, SPORT_AT, pkt->sport, forward.client_port);
	return ret < 0 ? ret : service_next_hop(skb, pod, pkt, forward.addr);
}

/*
 * A direct flow whose answers a reverse entry would capture. Its connection is over: the pair goes. It lives on (one
 * socket to the VIP, one to the same backend, same source port): the direct flow takes another source port. Datagrams
 * have no life to ask for: the last sender wins. 1: *forward holds the direct flow's translation; 0: none; or a drop.
 */
static inlined int direct_translation(struct __sk_buff *skb, struct pod *pod, const struct packet4 *pkt,
					    struct conntrack4 *forward)
{
	struct flow4 answer = {.saddr = pkt->daddr, .daddr = pkt->saddr, .sport = pkt->dport, .dport = pkt->sport,
			       .proto = pkt->proto, .direction = CT_REVERSE};
	struct conntrack4 *reverse;
	int ret;

	if (pod->flags & POD_DIRECT_NAT && conntrack_resume(pkt, SERVICE_NONE, forward))
		return 1;
	if (pkt->proto == PROTO_TCP && !opens_connection(pkt))
		return 0;
	reverse = conntrack_lookup(&answer);
	if (!reverse)
		return 0;
	if (pkt->proto == PROTO_UDP ||
	    !tcp_socket_alive(skb, reverse->addr, reverse->port, pkt->saddr, reverse->client_port)) {
		conntrack_delete_pair(&answer, reverse, pkt->saddr);
		counter_add(EVENT_STALE_PAIR);
		return 0;
	}
	__builtin_memset(forward, 0, sizeof(*forward));
	forward->service_id = SERVICE_NONE;
	forward->addr = pkt->daddr;
	forward->port = pkt->dport;
	pod->flags |= POD_DIRECT_NAT;
	ret = conntrack_open(skb, pkt, forward);
	return ret < 0 ? ret : 1;
}

static inlined int to_address(struct __sk_buff *skb, struct pod *pod, const struct packet4 *pkt)
{
	struct conntrack4 forward;
	int ret, next;

	ret = pkt->l4_at ? direct_translation(skb, pod, pkt, &forward) : 0;
	if (ret < 0)
		return ret;
	next = direct_next_hop(skb, pod, pkt);
	if (ret == 0 || next < 0)
		return next;
	ret = rewrite_port(skb, pkt, SPORT_AT, pkt->sport, forward.client_port);
	return ret < 0 ? ret : VERDICT_DIRECT_NAT;
}

static inlined int leave_pod(struct __sk_buff *skb)
{
	struct packet4 pkt = {};
	struct service4 *service;
	struct pod *pod;

	if (skb->tc_index == SECOND_PASS) {
		skb->tc_index = 0;
		return VERDICT_SECOND_PASS;
	}
	pod = pod_lookup(skb->ifindex);
	if (!pod || parse_packet4(skb, &pkt) < 0)
		return VERDICT_PASS;
	if (pkt.saddr != pod->addr4)
		return VERDICT_FOREIGN_SOURCE;
	/* Fragments have no ports past the first: none is translated, but siblings and the node are reached all the same. */
	if (!pkt.l4_at)
		return to_address(skb, pod, &pkt);
	if (pkt.daddr == bpf_htonl(HAIRPIN_ADDR4))
		return hairpin_answer(skb, pod, &pkt);
	service = service_lookup(pkt.daddr, pkt.dport, pkt.proto, 0);
	return service ? to_service(skb, pod, &pkt, service) : to_address(skb, pod, &pkt);
}

int from_pod(struct __sk_buff *skb)
{
	return finish(leave_pod(skb));
}
