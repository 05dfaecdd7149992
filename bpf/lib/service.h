/* From a ClusterIP to a backend: the flow's own, or a random one. */
#ifndef DRAGLINE_SERVICE_H
#define DRAGLINE_SERVICE_H

#include "lib/abi.h"
#include "lib/conntrack.h"
#include "lib/kernel.h"
#include "lib/maps.h"
#include "lib/parse.h"

/* Ids, not slot numbers, are remembered: an update of the service reorders slots. 0, or a drop. */
static inlined int choose_backend(const struct packet4 *pkt, const struct service4 *service,
					struct conntrack4 *forward)
{
	struct service4 *slot;
	struct backend4 *backend;
	__u32 count = service->count;

	if (count == 0)
		return -DROP_NO_BACKEND;
	slot = service_lookup(pkt->daddr, pkt->dport, pkt->proto, 1 + bpf_get_prandom_u32() % count);
	if (!slot)
		return -DROP_BACKEND_MISSING;
	forward->backend_id = slot->backend_id;
	backend = backend_lookup(forward->backend_id);
	if (!backend)
		return -DROP_BACKEND_MISSING;
	forward->addr = backend->addr;
	forward->port = backend->port;
	return 0;
}

/* Fill *forward with where this packet goes. 0, or a drop. */
static inlined int service_target(struct __sk_buff *skb, const struct packet4 *pkt,
					const struct service4 *service, struct conntrack4 *forward)
{
	__u32 service_id = service->service_id;
	int ret;

	if (service->count == 0)
		return -DROP_NO_BACKEND;
	if (conntrack_resume(pkt, service_id, forward))
		return 0;
	__builtin_memset(forward, 0, sizeof(*forward));
	forward->service_id = service_id;
	ret = choose_backend(pkt, service, forward);
	return ret < 0 ? ret : conntrack_open(skb, pkt, forward);
}

#endif
