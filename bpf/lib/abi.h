/* Constants, structs and verdicts that the programs and the agent (datapath/abi.py mirrors this file) both know. */
#ifndef DRAGLINE_ABI_H
#define DRAGLINE_ABI_H

/* Pins live below v<ABI_VERSION>: a changed layout is a new version with a migration, never an edit in place. */
#define ABI_VERSION 1

#define MAX_PODS 8192
#define MAX_LOCAL_ADDRESSES 32768
#define MAX_SERVICES4 65536
#define MAX_BACKENDS4 65536
#define MAX_CONNTRACK4 131072
#define MAX_COUNTERS 64
#define MAX_CALLS 4

/* Slots of `calls`. */
#define CALL_FROM_POD 0
#define CALL_TO_POD 1

/*
 * 169.254.202.1 in host order: the source a pod sees when it reaches itself through a Service. Link-local, so no
 * cluster gives it to a pod, and none of the known tenants of that range: 169.254.169.0/24 and .170.0/24 (cloud
 * metadata), .20.10 and .25.10 (node-local-dns), .42.1 (Cilium), .1.1 (Calico).
 */
#define HAIRPIN_ADDR4 0xa9feca01

/* pod.flags: ipvlan: a frame to the pod's own MAC reaches siblings and the node. */
#define POD_OWN_MAC 0x1
/* pod.flags: set by from_pod: some direct flow of this pod has a changed source port (conntrack4 must be asked). */
#define POD_DIRECT_NAT 0x2

/* local_address.kind */
#define LOCAL_POD 1
#define LOCAL_NODE 2

/* flow4.direction */
#define CT_FORWARD 0
#define CT_REVERSE 1

/* conntrack4.flags, in the reverse entry only */
#define CT_POD_FIN 0x1
#define CT_PEER_FIN 0x2
#define CT_RESET 0x4
#define CT_CLOSING 0x7

/* conntrack4.service_id of a direct flow that needed another source port; Services count from 1. */
#define SERVICE_NONE 0

/* A reverse entry of another flow that was idle for so long may be taken over (UDP, or no socket behind it). */
#define CT_IDLE_NS 60000000000

struct pod {
	__u8 mac[6];
	__u16 flags;
	__be32 addr4; /* 0: the pod has no IPv4 address */
	__be32 mask4;
	__u32 uplink_ifindex;
};

struct local_key {
	__u8 addr[16]; /* IPv4 as ::ffff:a.b.c.d */
	__u32 uplink_ifindex; /* 0 for the node's own addresses */
};

struct local_address {
	__u32 kind;
	__u32 slave_ifindex;
};

struct service4_key {
	__be32 addr;
	__be16 port;
	__u16 slot; /* 0: the service itself; 1..count: its backends */
	__u8 proto;
	__u8 pad[3];
};

struct service4 {
	__u32 service_id; /* slot 0 */
	__u32 backend_id; /* slots 1..count */
	__u16 count; /* slot 0 */
	__u16 flags;
	__u32 affinity_s;
};

struct backend4 {
	__be32 addr;
	__be16 port;
	__u16 pad;
};

/*
 * forward: the tuple as the pod sends it.  reverse: the tuple as the backend's answer arrives.
 *   forward {pod:p -> VIP:vp}  =>  addr:port = backend, client_port = source port on the wire
 *   reverse {backend:bp -> pod:q}  =>  addr:port = VIP, client_port = source port the pod's socket has
 */
struct flow4 {
	__be32 saddr;
	__be32 daddr;
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 direction;
	__u16 pad;
};

struct conntrack4 {
	__be32 addr;
	__be16 port;
	__be16 client_port;
	__u32 service_id;
	__u32 backend_id;
	__u64 last_seen_ns; /* reverse only; CLOCK_MONOTONIC, written at most once a second */
	__u32 flags; /* reverse only */
	__u32 pad;
};

/*
 * What became of a packet: return code of every inner function (drops negated) and index into `counters`.
 * Append only; never renumber; a retired number stays listed.
 */
enum verdict {
	VERDICT_PASS = 0, /* not ours: unknown device, not IPv4, multicast, no translation known */
	VERDICT_FOREIGN_SOURCE = 1, /* from_pod: the source is not the pod's address; untouched */
	VERDICT_DIRECT = 2, /* from_pod: no Service; untouched */
	VERDICT_DIRECT_OWN_MAC = 3, /* from_pod: no Service, sibling or node: own MAC */
	VERDICT_SERVICE_OWN_MAC = 4, /* from_pod: backend is a sibling or on the node: own MAC */
	VERDICT_SERVICE_GATEWAY = 5, /* from_pod: backend off-link: the frame keeps the gateway's MAC */
	VERDICT_SERVICE_FIB = 6, /* from_pod: backend on-link, MAC known to the fib */
	VERDICT_SERVICE_NEIGH = 7, /* from_pod: backend on-link, MAC to be resolved by redirect_neigh */
	VERDICT_HAIRPIN = 8, /* from_pod: backend is the pod itself */
	VERDICT_HAIRPIN_ANSWER = 9, /* from_pod: the pod's answer to itself */
	VERDICT_ANSWER = 10, /* to_pod: backend's answer, the source is the VIP again */
	VERDICT_NODE_TO_POD = 11, /* node_to_pod: turned round to the uplink's ingress */
	VERDICT_SECOND_PASS = 12, /* from_pod: back from redirect_neigh, already translated */
	VERDICT_DIRECT_NAT = 13, /* from_pod: direct flow sent with another source port */

	EVENT_STALE_PAIR = 24, /* a direct connection removed a conntrack pair left behind */
	EVENT_NEW_SOURCE_PORT = 25, /* a tuple was taken: the flow has another source port */

	DROP_NO_BACKEND = 32, /* the Service has no endpoints */
	DROP_BACKEND_MISSING = 33, /* a slot or a backend is not in the maps (should never be seen) */
	DROP_NO_SOURCE_PORT = 34, /* every source port tried was taken */
	DROP_REWRITE = 35, /* a kernel helper refused a store (out of memory) */
	DROP_NO_ROUTE = 36, /* the pod's fib says blackhole, unreachable or prohibit */
	DROP_CONNTRACK = 37, /* conntrack4 refused an entry */
};

#endif
