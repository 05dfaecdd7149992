/*
 * A packet turns back to the pod that sent it, as the answer to itself: by tail call from from_pod, which has counted
 * nothing yet and left the reason in skb->cb[0]. The slave's ingress hook sees the answer like any other packet.
 */
#include "lib/abi.h"
#include "lib/kernel.h"
#include "lib/maps.h"
#include "lib/parse.h"
#include "lib/refusal.h"
#include "lib/verdict.h"

/*
 * TCP is reset: an ICMPv6 error to a SYN arrives while connect() still holds the socket, which then waits a second
 * (measured on 6.18). All else is told that the port is unreachable. 0: *event is what was sent.
 */
static inlined int answer(struct __sk_buff *skb, const struct packet *pkt, __u32 reason, __u32 *event)
{
	int failed;

	if (reason == VERDICT_ECHO)
		return echo_reply(skb, pkt);
	if (pkt->flags & PACKET_RESET || !(pkt->flags & PACKET_PORTS))
		return -1;
	if (!may_tell(skb->ifindex)) {
		*event = EVENT_REFUSAL_LIMITED;
		return -1;
	}
	failed = pkt->proto == PROTO_TCP ? reset(skb, pkt) : unreachable(skb, pkt);
	if (!failed)
		*event = pkt->proto == PROTO_TCP ? EVENT_REFUSED_RESET : EVENT_REFUSED_ICMP;
	return failed;
}

static inlined int turn(struct __sk_buff *skb, __u32 reason)
{
	struct pod *pod = pod_lookup(skb->ifindex);
	struct packet pkt = {};
	__u32 event = 0;
	int failed;

	if (!pod || parse_packet(skb, &pkt) != 0)
		return TC_ACT_SHOT;
	failed = answer(skb, &pkt, reason, &event);
	if (event)
		counter_add(event);
	if (failed || turn_ethernet(skb, pod))
		return TC_ACT_SHOT;
	bpf_redirect(skb->ifindex, BPF_F_INGRESS);
	return TC_ACT_REDIRECT;
}

int back_to_pod(struct __sk_buff *skb)
{
	__u32 reason = skb->cb[0];

	skb->cb[0] = 0;
	counter_add(reason);
	return turn(skb, reason);
}
