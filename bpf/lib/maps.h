/* Every map, once, with the only functions that touch it. BPF_MAPS (the folder of the pins) comes from the loader. */
#ifndef DRAGLINE_MAPS_H
#define DRAGLINE_MAPS_H

#include "lib/abi.h"
#include "lib/kernel.h"

#ifndef BPF_MAPS
#error "BPF_MAPS, the folder where the maps are pinned, must be given by the loader"
#endif

/* slave ifindex -> pod. Written by the agent (POD_DIRECT_NAT by from_pod). Miss: not our device, pass. */
BPF_TABLE_PINNED("hash", __u32, struct pod, pods, MAX_PODS, BPF_MAPS "/pods");

static inlined struct pod *pod_lookup(__u32 ifindex)
{
	return pods.lookup(&ifindex);
}

/* address -> what it is: pod, node, Service. Written by the agent. Miss: somebody else's, elsewhere. */
BPF_TABLE_PINNED("hash", struct ip, struct address, addresses, MAX_ADDRESSES, BPF_MAPS "/addresses");

static inlined struct address *address_lookup(const struct ip *addr)
{
	return addresses.lookup((struct ip *)addr);
}

/* frontend and slot -> service (slot 0) or backend id. Written by the agent. Miss in slot 0: no such port. */
BPF_TABLE_PINNED("hash", struct service_key, struct service, services, MAX_SERVICES, BPF_MAPS "/services");

static inlined struct service *service_lookup(const struct service_key *key)
{
	return services.lookup((struct service_key *)key);
}

/* backend id -> address. Written by the agent. Miss: the frontend has lost this backend for good. */
BPF_TABLE_PINNED("hash", __u32, struct backend, backends, MAX_BACKENDS, BPF_MAPS "/backends");

static inlined struct backend *backend_lookup(__u32 id)
{
	return backends.lookup(&id);
}

/* flow -> its translation. Written by from_pod and to_pod, aged by the agent. Miss: not translated. */
BPF_TABLE_PINNED("lru_hash", struct flow, struct conntrack, conntrack, MAX_CONNTRACK, BPF_MAPS "/conntrack");

static inlined struct conntrack *conntrack_lookup(const struct flow *flow)
{
	return conntrack.lookup((struct flow *)flow);
}

/* 0, or negative: the flow has an entry already. */
static inlined int conntrack_insert(const struct flow *flow, const struct conntrack *entry)
{
	return conntrack.insert((struct flow *)flow, (struct conntrack *)entry);
}

static inlined int conntrack_update(const struct flow *flow, const struct conntrack *entry)
{
	return conntrack.update((struct flow *)flow, (struct conntrack *)entry);
}

static inlined void conntrack_delete(const struct flow *flow)
{
	conntrack.delete((struct flow *)flow);
}

/* client and service -> the backend it had last. Written by the programs. Miss, or a backend that is gone: choose. */
BPF_TABLE_PINNED("lru_hash", struct affinity_key, struct affinity, affinity, MAX_AFFINITY, BPF_MAPS "/affinity");

static inlined struct affinity *affinity_lookup(const struct affinity_key *key)
{
	return affinity.lookup((struct affinity_key *)key);
}

static inlined void affinity_update(const struct affinity_key *key, const struct affinity *entry)
{
	affinity.update((struct affinity_key *)key, (struct affinity *)entry);
}

/* datagram -> ports. Written by from_pod and to_pod at its first fragment. Miss: a fragment has no ports. */
BPF_TABLE_PINNED("lru_hash", struct fragment_key, struct fragment, fragments, MAX_FRAGMENTS, BPF_MAPS "/fragments");

static inlined struct fragment *fragment_lookup(const struct fragment_key *key)
{
	return fragments.lookup((struct fragment_key *)key);
}

static inlined void fragment_update(const struct fragment_key *key, const struct fragment *entry)
{
	fragments.update((struct fragment_key *)key, (struct fragment *)entry);
}

/* slave ifindex -> refusals left to its pod. Written by back_to_pod. Miss: none was sent yet. */
BPF_TABLE_PINNED("lru_hash", __u32, struct refusals, refusals, MAX_PODS, BPF_MAPS "/refusals");

static inlined struct refusals *refusals_lookup(__u32 ifindex)
{
	return refusals.lookup(&ifindex);
}

static inlined void refusals_update(__u32 ifindex, const struct refusals *entry)
{
	refusals.update(&ifindex, (struct refusals *)entry);
}

/* service id -> flows. Made and counted by the programs, deleted by the agent. Miss: nobody called yet. */
BPF_TABLE_PINNED("hash", __u32, struct flow_counters, flow_counters, MAX_FLOW_COUNTERS, BPF_MAPS "/flow_counters");

static inlined struct flow_counters *flow_counters_of(__u32 service_id)
{
	struct flow_counters none = {};
	struct flow_counters *found = flow_counters.lookup(&service_id);

	if (found)
		return found;
	flow_counters.insert(&service_id, &none);
	return flow_counters.lookup(&service_id);
}

/* netns cookie -> slave ifindex. Written by the agent. Miss: not a pod of this agent. */
BPF_TABLE_PINNED("hash", __u64, __u32, netns_pods, MAX_NETNS, BPF_MAPS "/netns_pods");

static inlined __u32 *netns_pod_lookup(__u64 cookie)
{
	return netns_pods.lookup(&cookie);
}

/* socket and VIP -> backend. Written by the socket hooks. Miss: this socket has no backend there yet. */
BPF_TABLE_PINNED("lru_hash", struct socket_key, struct socket_peer, socket_backends, MAX_SOCKETS,
		 BPF_MAPS "/socket_backends");

static inlined struct socket_peer *socket_backend_lookup(const struct socket_key *key)
{
	return socket_backends.lookup((struct socket_key *)key);
}

static inlined int socket_backend_update(const struct socket_key *key, const struct socket_peer *peer)
{
	return socket_backends.update((struct socket_key *)key, (struct socket_peer *)peer);
}

/* socket and backend -> VIP. Written by the socket hooks. Miss: the peer has no other name. */
BPF_TABLE_PINNED("lru_hash", struct socket_key, struct socket_peer, socket_frontends, MAX_SOCKETS,
		 BPF_MAPS "/socket_frontends");

static inlined struct socket_peer *socket_frontend_lookup(const struct socket_key *key)
{
	return socket_frontends.lookup((struct socket_key *)key);
}

static inlined int socket_frontend_update(const struct socket_key *key, const struct socket_peer *peer)
{
	return socket_frontends.update((struct socket_key *)key, (struct socket_peer *)peer);
}

static inlined void socket_frontend_delete(const struct socket_key *key)
{
	socket_frontends.delete((struct socket_key *)key);
}

/* verdict -> packets, per CPU. Written by every program, read by the agent. */
BPF_TABLE_PINNED("percpu_array", __u32, __u64, counters, MAX_COUNTERS, BPF_MAPS "/counters");

static inlined void counter_add(__u32 number)
{
	__u64 *count = counters.lookup(&number);

	if (count)
		*count += 1;
}

/* Room to work in (lib/work.h), per CPU: no program of ours is interrupted by another. Never a miss. */
BPF_TABLE_PINNED("percpu_array", __u32, struct workspace, workspaces, 1, BPF_MAPS "/workspaces");

static inlined struct workspace *workspace_lookup(void)
{
	__u32 only = 0;

	return workspaces.lookup(&only);
}

/* slot -> the program that runs next. Written by the loader. Miss: the caller goes on. */
BPF_TABLE_PINNED("prog", __u32, __u32, calls, MAX_CALLS, BPF_MAPS "/calls");

static inlined void call_slot(struct __sk_buff *skb, __u32 slot)
{
	calls.call(skb, slot);
}

#endif
