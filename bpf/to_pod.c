/*
 * A packet arrives at a pod: clsact ingress of its slave, by tail call from hold_ingress. ipvlan (or macvlan) has
 * chosen the slave. An answer of a backend gets back the addresses that the pod's socket knows.
 */
#include "lib/abi.h"
#include "lib/conntrack.h"
#include "lib/kernel.h"
#include "lib/maps.h"
#include "lib/parse.h"
#include "lib/rewrite.h"
#include "lib/verdict.h"

static inlined int enter_pod(struct __sk_buff *skb)
{
	struct conntrack4 *reverse;
	struct packet4 pkt = {};
	struct flow4 flow;
	int ret;

	if (parse_packet4(skb, &pkt) < 0 || !pkt.l4_at)
		return VERDICT_PASS;
	flow = answer_flow(&pkt);
	reverse = conntrack_lookup(&flow);
	if (!reverse)
		return VERDICT_PASS;
	conntrack_touch(reverse, &pkt, CT_PEER_FIN);
	ret = rewrite_source(skb, &pkt, reverse->addr, reverse->port);
	if (ret < 0)
		return ret;
	ret = rewrite_destination(skb, &pkt, pkt.daddr, reverse->client_port);
	return ret < 0 ? ret : VERDICT_ANSWER;
}

int to_pod(struct __sk_buff *skb)
{
	return finish(enter_pod(skb));
}
