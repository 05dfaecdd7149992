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

/* address on an uplink -> pod or node. Written by the agent. Miss: not on this node. */
BPF_TABLE_PINNED("hash", struct local_key, struct local_address, local_addresses, MAX_LOCAL_ADDRESSES,
		 BPF_MAPS "/local_addresses");

static inlined struct local_address *local_lookup(const struct local_key *key)
{
	return local_addresses.lookup((struct local_key *)key);
}

static inlined struct local_address *local_lookup4(__be32 addr, __u32 uplink_ifindex)
{
	struct local_key key = {.uplink_ifindex = uplink_ifindex};

	key.addr[10] = key.addr[11] = 0xff;
	__builtin_memcpy(&key.addr[12], &addr, sizeof(addr));
	return local_lookup(&key);
}

/* frontend and slot -> service (slot 0) or backend id. Written by the agent. Miss in slot 0: not a Service. */
BPF_TABLE_PINNED("hash", struct service4_key, struct service4, services4, MAX_SERVICES4, BPF_MAPS "/services4");

static inlined struct service4 *service_lookup(__be32 addr, __be16 port, __u8 proto, __u16 slot)
{
	struct service4_key key = {.addr = addr, .port = port, .slot = slot, .proto = proto};

	return services4.lookup(&key);
}

/* backend id -> address. Written by the agent. Miss: the backend is gone for good. */
BPF_TABLE_PINNED("hash", __u32, struct backend4, backends4, MAX_BACKENDS4, BPF_MAPS "/backends4");

static inlined struct backend4 *backend_lookup(__u32 id)
{
	return backends4.lookup(&id);
}

/* flow -> its translation. Written by from_pod and to_pod, aged by the agent. Miss: not translated. */
BPF_TABLE_PINNED("lru_hash", struct flow4, struct conntrack4, conntrack4, MAX_CONNTRACK4, BPF_MAPS "/conntrack4");

static inlined struct conntrack4 *conntrack_lookup(const struct flow4 *flow)
{
	return conntrack4.lookup((struct flow4 *)flow);
}

/* 0, or negative: the flow has an entry already. */
static inlined int conntrack_insert(const struct flow4 *flow, const struct conntrack4 *entry)
{
	return conntrack4.insert((struct flow4 *)flow, (struct conntrack4 *)entry);
}

static inlined int conntrack_update(const struct flow4 *flow, const struct conntrack4 *entry)
{
	return conntrack4.update((struct flow4 *)flow, (struct conntrack4 *)entry);
}

static inlined void conntrack_delete(const struct flow4 *flow)
{
	conntrack4.delete((struct flow4 *)flow);
}

/* verdict -> packets, per CPU. Written by every program, read by the agent. */
BPF_TABLE_PINNED("percpu_array", __u32, __u64, counters, MAX_COUNTERS, BPF_MAPS "/counters");

static inlined void counter_add(__u32 number)
{
	__u64 *count = counters.lookup(&number);

	if (count)
		*count += 1;
}

/* slot -> the program that the holders run. Written by the loader. Miss: the holder lets the packet pass. */
BPF_TABLE_PINNED("prog", __u32, __u32, calls, MAX_CALLS, BPF_MAPS "/calls");

static inlined void call_slot(struct __sk_buff *skb, __u32 slot)
{
	calls.call(skb, slot);
}

#endif
