/* The one exit of every program: counts the verdict and turns it into a TC code. */
#ifndef DRAGLINE_VERDICT_H
#define DRAGLINE_VERDICT_H

#include "lib/abi.h"
#include "lib/kernel.h"
#include "lib/maps.h"

/* ret: a verdict, or a drop negated. Untouched packets stay open to other filters on the hook. */
static inlined int finish(int ret)
{
	__u32 number = ret < 0 ? -ret : ret;

	counter_add(number);
	if (ret < 0)
		return TC_ACT_SHOT;
	switch (ret) {
	case VERDICT_PASS:
	case VERDICT_DIRECT:
	case VERDICT_SECOND_PASS:
		return TC_ACT_UNSPEC;
	case VERDICT_SERVICE_NEIGH:
	case VERDICT_NODE_TO_POD:
		return TC_ACT_REDIRECT;
	case VERDICT_ECHO: /* back_to_pod is not there, nobody else may answer for a Service */
		return TC_ACT_SHOT;
	default:
		return TC_ACT_OK;
	}
}

#endif
