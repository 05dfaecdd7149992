/* Only a datagram's first fragment has ports: they are remembered for the others. */
#ifndef DRAGLINE_FRAGMENTS_H
#define DRAGLINE_FRAGMENTS_H

#include "lib/abi.h"
#include "lib/maps.h"
#include "lib/parse.h"

static inlined struct fragment_key fragment_key_of(const struct packet *pkt)
{
	struct fragment_key key = {.saddr = pkt->saddr, .daddr = pkt->daddr, .id = pkt->fragment_id, .proto = pkt->proto};
	return key;
}

/* Remember the ports of a first fragment, or give a later one those of its first (PACKET_PORTS is set then). */
static inlined void fragment_ports(struct packet *pkt)
{
	struct fragment ports = {.sport = pkt->sport, .dport = pkt->dport}, *first;
	struct fragment_key key;

	if (!(pkt->flags & (PACKET_FIRST_FRAGMENT | PACKET_LATER_FRAGMENT)))
		return;
	key = fragment_key_of(pkt);
	if (!(pkt->flags & PACKET_LATER_FRAGMENT)) {
		if (pkt->flags & PACKET_PORTS)
			fragment_update(&key, &ports);
		return;
	}
	first = fragment_lookup(&key);
	if (!first)
		return;
	pkt->sport = first->sport;
	pkt->dport = first->dport;
	pkt->flags |= PACKET_PORTS;
}

#endif
