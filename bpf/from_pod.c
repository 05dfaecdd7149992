/*
 * A packet leaves a pod: clsact egress of its slave, inside the pod's netns, by tail call from hold_egress.
 * skb->ifindex is unique on the node and names the pod; the pod's own stack chose MAC and route for the address it
 * named.
 */
#include "lib/abi.h"
#include "lib/conntrack.h"
#include "lib/direct.h"
#include "lib/fragments.h"
#include "lib/kernel.h"
#include "lib/maps.h"
#include "lib/next_hop.h"
#include "lib/parse.h"
#include "lib/rewrite.h"
#include "lib/service.h"
#include "lib/source.h"
#include "lib/verdict.h"
#include "lib/work.h"

/* The pod answers itself: it knows the VIP as the peer, and its own frame loops back to it. */
static inlined int hairpin_answer(struct __sk_buff *skb, const struct pod *pod, struct work *w)
{
	struct conntrack *reverse;
	struct ports ports;

	fragment_ports(&w->pkt);
	if (!(w->pkt.flags & PACKET_PORTS))
		return VERDICT_PASS;
	reverse = answered(w);
	if (!reverse)
		return VERDICT_PASS;
	conntrack_answered(reverse, &w->pkt);
	ports = (struct ports){reverse->port, reverse->client_port};
	if (rewrite(skb, &w->pkt, &reverse->addr, &w->pkt.saddr, ports) < 0 || rewrite_dmac(skb, pod->mac) < 0)
		return -DROP_REWRITE;
	return VERDICT_HAIRPIN_ANSWER;
}

/* A flow that is not known: to a Service, or (NULL) to an address itself. 1: w->forward says how; 0: as it is. */
static inlined int new_flow(struct __sk_buff *skb, struct pod *pod, struct work *w, const struct service *service)
{
	int ret;

	if (service) {
		ret = service_target(skb, pod, w, service);
		if (ret < 0)
			return ret;
	} else if (!direct_target(skb, pod, w)) {
		return 0;
	}
	ret = conntrack_open(skb, w);
	return ret < 0 ? ret : 1;
}

/* The packet's destination becomes the backend; a pod that is its own backend gets another source than itself. */
static inlined int to_backend(struct __sk_buff *skb, const struct pod *pod, const struct work *w)
{
	struct ports ports = {w->forward.client_port, w->forward.port};
	struct ip saddr = w->forward.flags & CT_TO_SELF ? hairpin_ip(&w->pkt.saddr) : w->pkt.saddr;

	if (rewrite(skb, &w->pkt, &saddr, &w->forward.addr, ports) < 0)
		return -DROP_REWRITE;
	return service_next_hop(skb, pod, &w->pkt, &w->forward);
}

/* Nothing but Services is behind a ClusterIP: what no Service takes must not run to the gateway. */
static inlined int refuse(const struct packet *pkt, __u32 known)
{
	__u8 echo = pkt->family == AF_INET ? ICMP_ECHO : ICMP6_ECHO;

	if (pkt->flags & PACKET_PORTS)
		return -DROP_UNKNOWN_PORT;
	if (pkt->flags & PACKET_LATER_FRAGMENT)
		return -DROP_FRAGMENT;
	if (!pkt->l4_at)
		return -DROP_MALFORMED;
	if (pkt->proto != (pkt->family == AF_INET ? PROTO_ICMP : PROTO_ICMP6) || pkt->icmp_type != echo)
		return -DROP_PROTOCOL;
	if (pkt->flags & PACKET_FIRST_FRAGMENT)
		return -DROP_FRAGMENT; /* an answer to half of the question */
	return known & ADDRESS_ENDPOINTS ? VERDICT_ECHO : -DROP_NO_BACKEND;
}

static inlined int is_called(const struct address *known)
{
	return known && known->flags & (ADDRESS_FRONTEND | ADDRESS_NODE | ADDRESS_NODE_PORT);
}

/* The flow's translation into w->forward, a new one if need be: 1; 0: it needs none; or a drop. */
static inlined int translation(struct __sk_buff *skb, struct pod *pod, struct work *w, const struct address *known)
{
	struct service *service = NULL;
	int called = is_called(known), ret = 0;

	if (called)
		fragment_ports(&w->pkt);
	if (w->pkt.flags & PACKET_PORTS) {
		if (called || pod->flags & POD_DIRECT_NAT)
			ret = conntrack_resume(skb, pod, w);
		if (ret)
			return ret;
		if (called)
			service = find_service(known->flags, &w->pkt.daddr, w->pkt.dport, w->pkt.proto, &w->key);
	}
	if (called && !service && known->flags & ADDRESS_CLUSTER_IP)
		return refuse(&w->pkt, known->flags);
	if (!service && !(w->pkt.l4_at && w->pkt.flags & PACKET_PORTS))
		return 0;
	return new_flow(skb, pod, w, service);
}

/* From here on the source is the pod's own. */
static inlined int route(struct __sk_buff *skb, struct pod *pod, struct work *w)
{
	struct address *known = address_lookup(&w->pkt.daddr);
	struct ip self;
	int ret;

	if (!known) {
		self = hairpin_ip(&w->pkt.daddr);
		if (same_ip(&w->pkt.daddr, &self))
			return hairpin_answer(skb, pod, w);
	}
	ret = translation(skb, pod, w, known);
	if (ret < 0 || ret == VERDICT_ECHO)
		return ret;
	if (ret == 0)
		return direct_next_hop(skb, pod, &w->pkt, known);
	if (w->forward.service_id == SERVICE_NONE)
		return to_address_by_other_port(skb, pod, w, known);
	return to_backend(skb, pod, w);
}

static inlined int leave_pod(struct __sk_buff *skb)
{
	struct work *w;
	struct pod *pod;
	int ret;

	if (skb->tc_index == SECOND_PASS) {
		skb->tc_index = 0;
		return VERDICT_SECOND_PASS;
	}
	pod = pod_lookup(skb->ifindex);
	w = work_of();
	if (!pod || !w)
		return VERDICT_PASS;
	ret = parse_packet(skb, &w->pkt);
	if (ret < 0)
		return ret;
	if (!same_mac(w->pkt.smac, pod->mac))
		return -DROP_FOREIGN_MAC;
	if (ret > 0)
		return check_arp(skb, pod);
	ret = check_source(skb, pod, &w->pkt);
	if (ret < 0)
		return ret;
	return is_multicast(&w->pkt.daddr) ? VERDICT_PASS : route(skb, pod, w);
}

/* Refusals that the pod hears of, and echo requests that are answered here: back_to_pod makes the answer. */
static inlined int is_answered(int ret)
{
	return ret == VERDICT_ECHO || ret == -DROP_NO_BACKEND || ret == -DROP_UNKNOWN_PORT ||
	       ret == -DROP_BACKEND_REMOVED || ret == -DROP_NO_FLOW;
}

int from_pod(struct __sk_buff *skb)
{
	int ret = leave_pod(skb);

	if (is_answered(ret)) {
		skb->cb[0] = ret < 0 ? -ret : ret;
		call_slot(skb, CALL_BACK_TO_POD);
	}
	return finish(ret);
}
