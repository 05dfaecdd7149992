/* What a program works on while it has one packet; see struct workspace. */
#ifndef DRAGLINE_WORK_H
#define DRAGLINE_WORK_H

#include "lib/abi.h"
#include "lib/kernel.h"
#include "lib/maps.h"
#include "lib/parse.h"

struct work {
	struct packet pkt;
	struct service_key key; /* the frontend that the packet calls */
	struct flow flow; /* the tuple as the pod sends it */
	struct flow answer; /* the tuple as the answer will arrive */
	struct conntrack forward; /* where the packet goes: value of `flow` */
	struct conntrack reverse; /* who the answer is from: value of `answer` */
	struct flow twin; /* forward key of another pair */
};

/* Fresh for a packet: pkt is zero, all else is written before it is read. */
static inlined struct work *work_of(void)
{
	struct work *w = (struct work *)workspace_lookup();

	if (!w)
		return NULL;
	_Static_assert(sizeof(struct work) <= sizeof(struct workspace), "the workspace is too small");
	__builtin_memset(&w->pkt, 0, sizeof(w->pkt));
	return w;
}

#endif
