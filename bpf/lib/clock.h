/* A clock that costs nothing: jiffies, coarse enough for 16 bits. It wraps after an hour or more, to nobody's harm. */
#ifndef DRAGLINE_CLOCK_H
#define DRAGLINE_CLOCK_H

#include "lib/abi.h"
#include "lib/kernel.h"

/* 64 to 640 ms, whatever HZ is. */
#define COARSE_SHIFT 6
/* 1 to 10 s: a MAC that answered so lately is still the backend's. */
#define MAC_FRESH 16

static inlined __u16 coarse_clock(void)
{
	return bpf_jiffies64() >> COARSE_SHIFT;
}

static inlined int mac_is_fresh(const struct conntrack *entry)
{
	return entry->mac_seen && (__u16)(coarse_clock() - entry->mac_seen) < MAC_FRESH;
}

#endif
