"""Rows of node_to_pod: which frames of the node's stack turn round to the uplink's ingress."""

from __future__ import annotations

from datapath.abi import ADDRESS_NODE, ADDRESS_POD
from tests.bpf.rig import REDIRECT, SIBLING_SLAVE, SLAVE, UNSPEC, Rig
from tests.bpf.row import Row, Step, V, in_both_families
from tests.fragments import DESTINATION_OPTIONS, extended, fragments
from tests.packets import CASTS, OWN_MAC, V4, V6, Cast, arp, icmp, tcp, udp


def uplink_pods(rig: Rig) -> None:
    """In the node's netns the bench's device plays the uplink."""
    for cast in CASTS:
        rig.maps.put_local(cast.sibling, SLAVE, ADDRESS_POD, SIBLING_SLAVE)
        rig.maps.put_local(cast.node, SLAVE, ADDRESS_NODE)


def _row(name: str, frame: bytes, *, turned: bool, before: Step | None = uplink_pods) -> Row:
    verdict, code = (V.VERDICT_NODE_TO_POD, REDIRECT) if turned else (V.VERDICT_PASS, UNSPEC)
    return Row(name, "node_to_pod", frame, verdict, code, None, before)


def _rows(cast: Cast) -> list[Row]:
    later = fragments(udp((cast.node, 1), (cast.sibling, 2), dmac=OWN_MAC, data=bytes(200)))[1]
    return [
        _row("ping", icmp(cast.node, cast.sibling, dmac=OWN_MAC), turned=True),
        _row("tcp", tcp((cast.node, 1), (cast.sibling, 80), dmac=OWN_MAC), turned=True),
        _row("from-elsewhere", udp((cast.far, 1), (cast.sibling, 2), dmac=OWN_MAC), turned=True),
        _row("later-fragment", later, turned=True),
        _row("headers-only", icmp(cast.node, cast.sibling, dmac=OWN_MAC)[: 54 if cast is V6 else 34], turned=True),
        _row("other-mac", icmp(cast.node, cast.sibling), turned=False),
        _row("not-local", icmp(cast.node, cast.far, dmac=OWN_MAC), turned=False),
        _row("other-uplink", icmp(cast.node, cast.sibling, dmac=OWN_MAC), turned=False, before=None),
        _row("node", icmp(cast.node, cast.node, dmac=OWN_MAC), turned=False),
    ]


ROWS = [
    *in_both_families(_rows),
    _row("arp", arp(V4.node, V4.sibling), turned=False),
    _row("extensions", extended(icmp(V6.node, V6.sibling, dmac=OWN_MAC), (DESTINATION_OPTIONS, 8)), turned=True),
]
