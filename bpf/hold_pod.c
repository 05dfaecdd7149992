/*
 * All that is ever attached in a pod's netns, once, when the pod is wired: clsact egress and ingress of its slave. A
 * new agent version changes the slots of `calls`; an empty slot lets packets pass.
 */
#include "lib/abi.h"
#include "lib/kernel.h"
#include "lib/maps.h"

int hold_egress(struct __sk_buff *skb)
{
	call_slot(skb, CALL_FROM_POD);
	return TC_ACT_UNSPEC;
}

int hold_ingress(struct __sk_buff *skb)
{
	call_slot(skb, CALL_TO_POD);
	return TC_ACT_UNSPEC;
}
