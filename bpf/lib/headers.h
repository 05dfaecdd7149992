/* Packet headers as they lie on the wire, and the numbers in them. */
#ifndef DRAGLINE_HEADERS_H
#define DRAGLINE_HEADERS_H

#define ETH_IPV4 0x0800
#define ETH_ARP 0x0806
#define ETH_IPV6 0x86dd

#define PROTO_HOP_OPTIONS 0
#define PROTO_ICMP 1
#define PROTO_TCP 6
#define PROTO_UDP 17
#define PROTO_ROUTING 43
#define PROTO_FRAGMENT 44
#define PROTO_AUTHENTICATION 51
#define PROTO_ICMP6 58
#define PROTO_DESTINATION_OPTIONS 60
#define PROTO_SCTP 132

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define SCTP_INIT 1
#define SCTP_ABORT 6
#define SCTP_SHUTDOWN 7
#define SCTP_SHUTDOWN_COMPLETE 14
#define SCTP_CHUNK_AT 12

#define ICMP_ECHO_REPLY 0
#define ICMP_UNREACHABLE 3
#define ICMP_PORT_UNREACHABLE 3
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER_PROBLEM 12

#define ICMP6_UNREACHABLE 1
#define ICMP6_PORT_UNREACHABLE 4
#define ICMP6_PARAMETER_PROBLEM 4
#define ICMP6_ECHO 128
#define ICMP6_ECHO_REPLY 129
#define ICMP6_ROUTER_ADVERTISEMENT 134
#define ICMP6_NEIGHBOUR_ADVERTISEMENT 136
#define ICMP6_REDIRECT 137

#define IP_MORE_FRAGMENTS 0x2000
#define IP_FRAGMENT_OFFSET 0x1fff
#define IP6_MORE_FRAGMENTS 0x0001
#define IP6_FRAGMENT_OFFSET 0xfff8

#define ETH_SIZE 14
#define IP4_SIZE 20
#define IP6_SIZE 40
#define TCP_SIZE 20
#define ICMP_SIZE 8

/* Offsets from the MAC header. */
#define ETH_DMAC_AT 0
#define ETH_SMAC_AT 6
#define IP4_CSUM_AT (ETH_SIZE + 10)
#define IP4_SADDR_AT (ETH_SIZE + 12)
#define IP4_DADDR_AT (ETH_SIZE + 16)
#define IP6_SADDR_AT (ETH_SIZE + 8)
#define IP6_DADDR_AT (ETH_SIZE + 24)

/* Offsets from the L4 header. */
#define TCP_CSUM_AT 16
#define UDP_CSUM_AT 6
#define ICMP_CSUM_AT 2

struct eth_header {
	__u8 dmac[6];
	__u8 smac[6];
	__be16 proto;
} __attribute__((packed));

struct arp_header {
	__be16 hardware;
	__be16 proto;
	__u8 hardware_size;
	__u8 proto_size;
	__be16 operation;
	__u8 sender_mac[6];
	__be32 sender;
	__u8 target_mac[6];
	__be32 target;
} __attribute__((packed));

struct ipv4_header {
	__u8 version_ihl;
	__u8 tos;
	__be16 total_length;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 proto;
	__be16 csum;
	__be32 saddr;
	__be32 daddr;
} __attribute__((packed));

struct ipv6_header {
	__be32 version_class_label;
	__be16 payload_length;
	__u8 next;
	__u8 hop_limit;
	struct ip saddr;
	struct ip daddr;
} __attribute__((packed));

/* Hop-by-hop, routing and destination options: size in units of 8 bytes, the first not counted. */
struct ipv6_extension {
	__u8 next;
	__u8 size;
};

struct ipv6_fragment {
	__u8 next;
	__u8 reserved;
	__be16 offset_more;
	__be32 id;
};

struct tcp_header {
	__be16 sport;
	__be16 dport;
	__be32 seq;
	__be32 ack;
	__u8 offset;
	__u8 flags;
	__be16 window;
	__be16 csum;
	__be16 urgent;
} __attribute__((packed));

struct icmp_header {
	__u8 type;
	__u8 code;
	__be16 csum;
	__be32 rest;
} __attribute__((packed));

#endif
