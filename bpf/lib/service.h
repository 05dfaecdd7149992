/* From a frontend to a backend: which frontend an address and port are, and the flow's, the client's or a random backend. */
#ifndef DRAGLINE_SERVICE_H
#define DRAGLINE_SERVICE_H

#include "lib/abi.h"
#include "lib/address.h"
#include "lib/conntrack.h"
#include "lib/kernel.h"
#include "lib/maps.h"
#include "lib/parse.h"
#include "lib/work.h"

/* The service called at an address of which `known` flags are known, and its key; NULL when there is none. */
static inlined struct service *find_service(__u32 known, const struct ip *addr, __be16 port, __u8 proto,
					    struct service_key *key)
{
	struct service *service = NULL;

	*key = (struct service_key){.addr = *addr, .port = port, .proto = proto};
	if (known & ADDRESS_FRONTEND)
		service = service_lookup(key);
	if (service || !(known & (ADDRESS_NODE | ADDRESS_NODE_PORT)))
		return service;
	key->addr = any_ip(addr);
	return service_lookup(key);
}

/* A backend that may get new flows of this service, or NULL. */
static inlined struct backend *open_backend(__u32 id, __u32 service_id)
{
	struct backend *backend = backend_lookup(id);

	return backend && backend->service_id == service_id && !(backend->flags & BACKEND_DRAINING) ? backend : NULL;
}

/* Ids, not slot numbers, are remembered: an update of the service reorders slots. The id, or 0. */
static inlined __u32 backend_id_at(struct service_key *key, __u16 number)
{
	struct service *slot;

	key->slot = number;
	slot = service_lookup(key);
	key->slot = 0;
	return slot ? slot->backend_id : 0;
}

/* An update between our reads may have taken the slot or its backend: the first slot is the last to go. */
static inlined struct backend *random_backend(struct service_key *key, const struct service *service, __u32 *id)
{
	struct backend *backend;

	*id = backend_id_at(key, 1 + bpf_get_prandom_u32() % service->count);
	backend = open_backend(*id, service->service_id);
	if (backend)
		return backend;
	*id = backend_id_at(key, 1);
	return open_backend(*id, service->service_id);
}

/*
 * A backend for a new flow of `client` to the frontend `key`: the one it had within the affinity time, or a random one.
 * *id is its id. NULL: none, or (should never be seen) slots without one.
 */
static inlined struct backend *choose_backend(struct service_key *key, const struct service *service,
					      const struct ip *client, __u32 *id)
{
	struct affinity_key who = {.client = *client, .service_id = service->service_id};
	__u32 timeout_s = service->affinity_s, service_id = service->service_id;
	__u64 now = timeout_s ? bpf_ktime_get_ns() : 0;
	struct affinity *had, has = {.last_used_ns = now};
	struct backend *backend = NULL;

	if (service->count == 0)
		return NULL;
	if (timeout_s) {
		had = affinity_lookup(&who);
		/* Signed: another CPU may have used the entry after this one read the clock. */
		if (had && (__s64)(now - had->last_used_ns) < (__s64)timeout_s * 1000000000) {
			*id = had->backend_id;
			backend = open_backend(*id, service_id);
		}
	}
	if (!backend)
		backend = random_backend(key, service, id);
	if (backend && timeout_s) {
		has.backend_id = *id;
		affinity_update(&who, &has);
	}
	return backend;
}

static inlined void count_opened(__u32 service_id)
{
	struct flow_counters *counters_of = flow_counters_of(service_id);

	if (counters_of)
		__sync_fetch_and_add(&counters_of->opened, 1);
}

static inlined void count_refused(__u32 service_id)
{
	struct flow_counters *counters_of = flow_counters_of(service_id);

	if (counters_of)
		__sync_fetch_and_add(&counters_of->refused, 1);
}

/* Fill w->forward with a backend for a new flow to w->key. 0, or a drop. */
static inlined int service_target(struct __sk_buff *skb, const struct pod *pod, struct work *w,
				  const struct service *service)
{
	__u32 service_id = service->service_id, id = 0;
	struct backend *backend;

	if (is_stream(&w->pkt) && !(w->pkt.flags & PACKET_OPENS))
		return -DROP_NO_FLOW;
	backend = choose_backend(&w->key, service, &w->pkt.saddr, &id);
	if (!backend) {
		count_refused(service_id);
		return service->count ? -DROP_BACKEND_MISSING : -DROP_NO_BACKEND;
	}
	count_opened(service_id);
	w->forward.service_id = service_id;
	w->forward.backend_id = id;
	w->forward.addr = backend->addr;
	w->forward.port = backend->port;
	w->forward.flags = place_of(skb, pod, &w->pkt, &w->forward.addr);
	start_forward(&w->forward);
	return 0;
}

#endif
