/* Constants, structs and verdicts that the programs and the agent (datapath/abi.py mirrors this file) both know. */
#ifndef DRAGLINE_ABI_H
#define DRAGLINE_ABI_H

/* Pins live below v<ABI_VERSION>: a changed layout is a new version with a migration, never an edit in place. */
#define ABI_VERSION 2

#define MAX_PODS 8192
#define MAX_ADDRESSES 131072
#define MAX_SERVICES 262144
#define MAX_BACKENDS 262144
#define MAX_CONNTRACK 131072
#define MAX_AFFINITY 65536
#define MAX_FRAGMENTS 8192
#define MAX_FLOW_COUNTERS 131072
#define MAX_NETNS 8192
#define MAX_SOCKETS 65536
#define MAX_COUNTERS 64
#define MAX_CALLS 4

/* Slots of `calls`. */
#define CALL_FROM_POD 0
#define CALL_TO_POD 1
#define CALL_BACK_TO_POD 2

/*
 * 169.254.202.1 in host order: the source a pod sees when it reaches itself through a Service. Link-local, so no
 * cluster gives it to a pod, and none of the known tenants of that range: 169.254.169.0/24 and .170.0/24 (cloud
 * metadata), .20.10 and .25.10 (node-local-dns), .42.1 (Cilium), .1.1 (Calico).
 */
#define HAIRPIN_ADDR4 0xa9feca01
/* The same for IPv6: fd3c:7d1a:9e42::1, first and last word in host order; a random /48 of RFC 4193. */
#define HAIRPIN_ADDR6_FIRST 0xfd3c7d1a
#define HAIRPIN_ADDR6_SECOND 0x9e420000
#define HAIRPIN_ADDR6_LAST 0x00000001

/* pod.flags: ipvlan: a frame to the pod's own MAC reaches siblings and the node. */
#define POD_OWN_MAC 0x1
/* pod.flags: set by from_pod: some direct flow of this pod has a changed source port (conntrack must be asked). */
#define POD_DIRECT_NAT 0x2

/* address.flags: what is known of an address; one address may be several things. */
#define ADDRESS_POD 0x1 /* a pod of this node, behind uplink_ifindex, on slave_ifindex */
#define ADDRESS_NODE 0x2 /* this node's own */
#define ADDRESS_FRONTEND 0x4 /* some Service is called at it: ask `services` */
#define ADDRESS_CLUSTER_IP 0x8 /* only a Service's: unknown ports are refused */
#define ADDRESS_ENDPOINTS 0x10 /* a ClusterIP of which some port has a backend: an echo request is answered */
#define ADDRESS_NODE_PORT 0x20 /* some node's: ask `services` for a NodePort */

/* service.flags: none yet. */

/* backend.flags: keeps its TCP and SCTP flows, gets no new ones; datagrams go elsewhere. */
#define BACKEND_DRAINING 0x1

/* flow.direction */
#define CT_FORWARD 0
#define CT_REVERSE 1

/* conntrack.flags, in the reverse entry only. */
#define CT_POD_FIN 0x1
#define CT_PEER_FIN 0x2
#define CT_RESET 0x4
#define CT_CLOSING 0x7
#define CT_ANSWERED 0x8
/* conntrack.flags, in the forward entry only: where the backend is, for the next hop. None of them: off-link. */
#define CT_TO_SELF 0x10 /* the pod that calls */
#define CT_OWN_MAC 0x20 /* a sibling or the node itself (ipvlan) */
#define CT_ON_LINK 0x40 /* in the pod's subnet, elsewhere */
#define CT_BY_GATEWAY 0x80 /* off-link, but the address that the pod named is not: the frame lacks the gateway's MAC */

/* conntrack.service_id of a direct flow that needed another source port; Services count from 1. */
#define SERVICE_NONE 0

/* A reverse entry of another flow that was idle for so long may be taken over (UDP, or no socket behind it). */
#define CT_IDLE_NS 60000000000

/* Refusals (TCP resets, ICMP errors) that a pod gets: so many a second, and so many at once. */
#define REFUSALS_PER_S 100
#define REFUSALS_AT_ONCE 1000

/* An address of either family: IPv4 as ::ffff:a.b.c.d. */
struct ip {
	__be32 word[4];
};

struct pod {
	__u8 mac[6];
	__u16 flags;
	__be32 addr4; /* 0: the pod has no IPv4 address */
	__be32 mask4;
	struct ip addr6; /* ::: the pod has no IPv6 address */
	struct ip mask6;
	__be32 gateway4; /* 0: none */
	struct ip gateway6; /* ::: none */
	__u32 uplink_ifindex;
};

struct address {
	__u32 flags;
	__u32 uplink_ifindex; /* ADDRESS_POD only */
	__u32 slave_ifindex; /* ADDRESS_POD only */
};

struct service_key {
	struct ip addr; /* a NodePort's: 0.0.0.0 (as ::ffff:0.0.0.0) or :: */
	__be16 port;
	__u16 slot; /* 0: the service itself; 1..count: its backends */
	__u8 proto;
	__u8 pad[3];
};

struct service {
	__u32 service_id; /* slot 0; of this one frontend */
	__u32 backend_id; /* slots 1..count */
	__u16 count; /* slot 0 */
	__u16 flags; /* slot 0 */
	__u32 affinity_s; /* slot 0; session affinity ClientIP for so many seconds, 0: none */
};

/* Belongs to one frontend: that it is there says that the frontend has this backend (perhaps draining). */
struct backend {
	struct ip addr;
	__be16 port;
	__u16 flags;
	__u32 service_id;
};

/*
 * forward: the tuple as the pod sends it.  reverse: the tuple as the backend's answer arrives.
 *   forward {pod:p -> VIP:vp}  =>  addr:port = backend, client_port = source port on the wire
 *   reverse {backend:bp -> pod:q}  =>  addr:port = VIP, client_port = source port the pod's socket has
 */
struct flow {
	struct ip saddr;
	struct ip daddr;
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 direction;
	__u16 pad;
};

struct conntrack {
	struct ip addr;
	__be16 port;
	__be16 client_port;
	__u32 service_id;
	__u32 backend_id;
	__u16 flags;
	__u16 touched; /* when the entry was last brought up to date, by a coarse clock (see conntrack.h) */
	__u64 last_seen_ns; /* reverse only; CLOCK_MONOTONIC, to within a second */
	__u8 mac[6]; /* that answers come from; the forward entry has a copy */
	__u16 mac_seen; /* when, by the coarse clock; 0: never */
};

struct affinity_key {
	struct ip client;
	__u32 service_id;
};

struct affinity {
	__u32 backend_id;
	__u32 pad;
	__u64 last_used_ns; /* CLOCK_MONOTONIC */
};

/* The fragments of one datagram, in one direction. */
struct fragment_key {
	struct ip saddr;
	struct ip daddr;
	__be32 id;
	__u8 proto;
	__u8 pad[3];
};

/* The ports that only the first fragment has, as it had them when it arrived. */
struct fragment {
	__be16 sport;
	__be16 dport;
};

struct refusals {
	__u64 last_ns;
	__u64 left; /* in billionths of a refusal */
};

struct flow_counters {
	__u64 opened;
	__u64 refused;
};

/* One destination of one socket: as the pod names it, or as it is on the wire. */
struct socket_key {
	__u64 cookie; /* the socket's */
	struct ip addr;
	__be16 port;
	__u8 proto;
	__u8 pad[5];
};

/* The other name of that destination. */
struct socket_peer {
	struct ip addr;
	__be16 port;
	__u16 pad;
	__u32 service_id;
	__u32 backend_id;
	__u32 slave_ifindex; /* of the pod that has the socket */
};

/* What a program works on, since a stack has 512 bytes: nothing in it outlives a packet, nobody else reads it. */
struct workspace {
	__u64 room[64];
};

/*
 * What became of a packet: return code of every inner function (drops negated) and index into `counters`.
 * Append only; never renumber; a retired number stays listed. The agent shows these comments (`dragline drops`).
 */
enum verdict {
	VERDICT_PASS = 0, /* not ours: unknown device, not IP, multicast, no translation known */
	VERDICT_FOREIGN_SOURCE = 1, /* retired: see DROP_FOREIGN_SOURCE */
	VERDICT_DIRECT = 2, /* from_pod: no Service; untouched */
	VERDICT_DIRECT_OWN_MAC = 3, /* from_pod: no Service, sibling or node: own MAC */
	VERDICT_SERVICE_OWN_MAC = 4, /* from_pod: backend is a sibling or on the node: own MAC */
	VERDICT_SERVICE_GATEWAY = 5, /* from_pod: backend off-link: the frame keeps the gateway's MAC */
	VERDICT_SERVICE_FIB = 6, /* retired: the fib is not asked any more */
	VERDICT_SERVICE_NEIGH = 7, /* from_pod: next hop silent so far: its MAC by redirect_neigh */
	VERDICT_HAIRPIN = 8, /* from_pod: backend is the pod itself */
	VERDICT_HAIRPIN_ANSWER = 9, /* from_pod: the pod's answer to itself */
	VERDICT_ANSWER = 10, /* to_pod: backend's answer, the source is the VIP again */
	VERDICT_NODE_TO_POD = 11, /* node_to_pod: turned round to the uplink's ingress */
	VERDICT_SECOND_PASS = 12, /* from_pod: back from redirect_neigh, already translated */
	VERDICT_DIRECT_NAT = 13, /* from_pod: direct flow sent with another source port */
	VERDICT_ERROR_ANSWER = 14, /* to_pod: ICMP error about a translated flow, in the pod's view again */
	VERDICT_ECHO = 15, /* back_to_pod: echo request to a ClusterIP with endpoints, answered on the spot */
	VERDICT_SOCKET = 16, /* socket hooks: a destination translated in connect or sendmsg */
	VERDICT_SOCKET_ANSWER = 17, /* socket hooks: a peer's name given back in recvmsg or getpeername */
	VERDICT_SERVICE_MAC = 18, /* from_pod: to the MAC that the backend's answers come from */

	EVENT_STALE_PAIR = 24, /* a direct connection removed a conntrack pair left behind */
	EVENT_NEW_SOURCE_PORT = 25, /* a tuple was taken: the flow has another source port */
	EVENT_REFUSED_ICMP = 26, /* the pod was told by ICMP port unreachable */
	EVENT_REFUSED_RESET = 27, /* the pod was told by a TCP reset */
	EVENT_REFUSAL_LIMITED = 28, /* the pod was not told: too many refusals */
	EVENT_FLOW_MOVED = 29, /* a flow went to another backend because its own is gone */
	EVENT_REVERSE_LOST = 30, /* the LRU had taken a reverse entry of a live flow: the table is too small */
	EVENT_FRAGMENT_LOST = 31, /* to_pod: a fragment whose first one is not known; untouched */

	DROP_NO_BACKEND = 32, /* the Service has no endpoints; the pod is told */
	DROP_BACKEND_MISSING = 33, /* a slot or a backend is not in the maps (should never be seen) */
	DROP_NO_SOURCE_PORT = 34, /* every source port tried was taken */
	DROP_REWRITE = 35, /* a kernel helper refused a store (out of memory) */
	DROP_NO_ROUTE = 36, /* the backend is off-link, and the pod has no gateway */
	DROP_CONNTRACK = 37, /* conntrack refused an entry */
	DROP_FOREIGN_SOURCE = 38, /* the source address is not the pod's */
	DROP_FOREIGN_MAC = 39, /* the source MAC is not the pod's */
	DROP_FOREIGN_ARP = 40, /* an ARP message speaks for an address or a MAC that is not the pod's */
	DROP_UNKNOWN_PORT = 41, /* a ClusterIP has no such port; the pod is told */
	DROP_BACKEND_REMOVED = 42, /* the backend of a TCP flow is gone; the pod gets a reset */
	DROP_NO_FLOW = 43, /* TCP in mid-stream to a Service, but no such flow is known; the pod is told */
	DROP_FRAGMENT = 44, /* a fragment to a ClusterIP: its first one is not known, or it is of an echo request */
	DROP_PROTOCOL = 45, /* to a ClusterIP, but neither TCP, UDP, SCTP nor an echo request */
	DROP_MALFORMED = 46, /* headers cut short, or too many IPv6 extension headers */
	DROP_FOREIGN_ND = 47, /* a neighbour advertisement for another's address, or a router's message */
	DROP_FOREIGN_PROTOCOL = 48, /* neither IP nor ARP, or with a VLAN tag: its source cannot be checked */
};

#endif
