/*
 * A packet arrives at a pod: clsact ingress of its slave, by tail call from hold_ingress. ipvlan (or macvlan) has
 * chosen the slave. An answer of a backend gets back the addresses that the pod's socket knows.
 */
#include "lib/abi.h"
#include "lib/conntrack.h"
#include "lib/fragments.h"
#include "lib/icmp_error.h"
#include "lib/kernel.h"
#include "lib/maps.h"
#include "lib/parse.h"
#include "lib/rewrite.h"
#include "lib/verdict.h"
#include "lib/work.h"

static inlined int answer_to_pod(struct __sk_buff *skb, struct work *w)
{
	struct conntrack *reverse = answered(w);
	struct ports ports;

	if (!reverse)
		return VERDICT_PASS;
	conntrack_answered(reverse, &w->pkt);
	ports = (struct ports){reverse->port, reverse->client_port};
	return rewrite(skb, &w->pkt, &reverse->addr, &w->pkt.daddr, ports) < 0 ? -DROP_REWRITE : VERDICT_ANSWER;
}

static inlined int enter_pod(struct __sk_buff *skb)
{
	struct work *w = work_of();

	if (!w || parse_packet(skb, &w->pkt) != 0)
		return VERDICT_PASS;
	if (w->pkt.flags & (PACKET_FIRST_FRAGMENT | PACKET_LATER_FRAGMENT)) {
		fragment_ports(&w->pkt);
		if (w->pkt.flags & PACKET_LATER_FRAGMENT && !(w->pkt.flags & PACKET_PORTS))
			counter_add(EVENT_FRAGMENT_LOST);
	}
	if (w->pkt.flags & PACKET_PORTS)
		return answer_to_pod(skb, w);
	return is_icmp_error(&w->pkt) ? error_to_pod(skb, w) : VERDICT_PASS;
}

int to_pod(struct __sk_buff *skb)
{
	return finish(enter_pod(skb));
}
