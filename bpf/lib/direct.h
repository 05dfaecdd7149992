/* Direct flows (to an address, not to a Service) beside translated ones: kept apart, by another source port if need be. */
#ifndef DRAGLINE_DIRECT_H
#define DRAGLINE_DIRECT_H

#include "lib/abi.h"
#include "lib/conntrack.h"
#include "lib/kernel.h"
#include "lib/maps.h"
#include "lib/next_hop.h"
#include "lib/parse.h"
#include "lib/rewrite.h"
#include "lib/sockets.h"
#include "lib/work.h"

/*
 * A direct flow whose answers a reverse entry would capture. Its connection is over: the pair goes. It lives on (one
 * socket to the VIP, one to the same backend, same source port): the direct flow takes another source port. Datagrams
 * have no life to ask for: the last sender wins. 1: w->forward holds the direct flow's target; 0: it needs none.
 */
static inlined int direct_target(struct __sk_buff *skb, struct pod *pod, struct work *w)
{
	struct conntrack *reverse;

	if (is_stream(&w->pkt) && !(w->pkt.flags & PACKET_OPENS))
		return 0;
	w->forward.service_id = SERVICE_NONE;
	w->forward.backend_id = 0;
	w->forward.addr = w->pkt.daddr;
	w->forward.port = w->pkt.dport;
	w->forward.client_port = w->pkt.sport;
	w->forward.flags = 0;
	start_forward(&w->forward);
	set_answer(w);
	reverse = conntrack_lookup(&w->answer);
	if (!reverse)
		return 0;
	if (w->pkt.proto != PROTO_TCP ||
	    !tcp_socket_alive(skb, &reverse->addr, reverse->port, &w->pkt.saddr, reverse->client_port)) {
		conntrack_delete_pair(w, reverse);
		counter_add(EVENT_STALE_PAIR);
		return 0;
	}
	pod->flags |= POD_DIRECT_NAT;
	return 1;
}

/* No Service, but the flow needs another source port than its own. */
static inlined int to_address_by_other_port(struct __sk_buff *skb, const struct pod *pod, const struct work *w,
				      const struct address *known)
{
	struct ports ports = {w->forward.client_port, w->pkt.dport};
	int ret = direct_next_hop(skb, pod, &w->pkt, known);

	if (ret < 0)
		return ret;
	return rewrite(skb, &w->pkt, &w->pkt.saddr, &w->pkt.daddr, ports) < 0 ? -DROP_REWRITE : VERDICT_DIRECT_NAT;
}

#endif
