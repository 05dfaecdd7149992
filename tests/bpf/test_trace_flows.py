"""`dragline trace` says of a flow that is there already what becomes of its next packet."""

from __future__ import annotations

import pytest

from agent import trace_steps
from datapath.abi import BACKEND_DRAINING, CT_FORWARD, CT_REVERSE, Verdict
from datapath.entries import BackendEntry, ServiceKey
from datapath.table import Number
from tests import packets as who
from tests.bpf.rig import Rig
from tests.bpf.traces import WEB, counted, facts

GONE, OTHER = "the backend is gone", "chooses another backend"


@pytest.mark.parametrize(
    ("flow", "flags", "remains", "verdict", "told"),
    [
        ("connection", 0, True, Verdict.VERDICT_SERVICE_GATEWAY, "goes on"),
        ("connection", BACKEND_DRAINING, True, Verdict.VERDICT_SERVICE_GATEWAY, "goes on"),
        ("connection", 0, False, Verdict.DROP_BACKEND_REMOVED, GONE),
        ("unanswered", 0, True, Verdict.VERDICT_SERVICE_GATEWAY, "goes on"),
        ("unanswered", BACKEND_DRAINING, True, Verdict.VERDICT_SERVICE_OWN_MAC, OTHER),
        ("unanswered", 0, False, Verdict.VERDICT_SERVICE_OWN_MAC, OTHER),
        ("datagrams", 0, True, Verdict.VERDICT_SERVICE_GATEWAY, "goes on"),
        ("datagrams", BACKEND_DRAINING, True, Verdict.VERDICT_SERVICE_OWN_MAC, OTHER),
        ("datagrams", 0, False, Verdict.VERDICT_SERVICE_OWN_MAC, OTHER),
    ],
)
def test_the_next_packet_of_a_flow(rig: Rig, flow: str, flags: int, remains: bool, verdict: Verdict, told: str) -> None:
    """What is said of a flow's next packet is what becomes of it when its backend stays, drains or goes."""
    asked = (who.VIP, 80, "UDP" if flow == "datagrams" else "TCP")
    rig.service(asked, {1: (who.FAR, 8080)})
    ends = (who.POD_ONE, 40000), (who.VIP, 80)
    if flow == "datagrams":
        frame = who.udp(*ends)
        rig.run("from_pod", frame)
    elif flow == "unanswered":
        frame = who.tcp(*ends)
        rig.run("from_pod", frame)
    else:
        frame = who.tcp(*ends, "A")
        connect(rig)
    if flags or not remains:
        rig.service(asked, {2: (who.SIBLING, 8080)})
        rig.maps.backends.delete(Number(1))
    if flags and remains:
        rig.maps.backends.put(Number(1), BackendEntry(who.FAR, 8080, 1, flags))
    seen = facts(rig, asked)
    assert [told in trace_steps.next_packet(seen, pair).why for pair in seen.flows] == [True]
    assert counted(rig, frame) == (verdict,)


def connect(rig: Rig) -> None:
    """A connection of the pod's to the VIP, answered by its backend."""
    assert counted(rig, who.tcp((who.POD_ONE, 40000), (who.VIP, 80))) == (Verdict.VERDICT_SERVICE_GATEWAY,)
    answer = rig.run("to_pod", who.tcp((who.FAR, 8080), (who.POD_ONE, 40000), "SA"))
    assert answer.counted == {Verdict.VERDICT_ANSWER: 1}


@pytest.mark.parametrize(
    ("lost", "verdict"),
    [
        ("frontend", Verdict.VERDICT_SERVICE_GATEWAY),
        ("backend", Verdict.DROP_BACKEND_REMOVED),
        ("forward entry", Verdict.DROP_NO_FLOW),
        ("forward entry and backends", Verdict.DROP_NO_FLOW),
        ("forward entry and frontend", Verdict.DROP_UNKNOWN_PORT),
        ("reverse entry", Verdict.VERDICT_SERVICE_GATEWAY),
        ("address", Verdict.VERDICT_DIRECT),
    ],
)
def test_a_connection_that_has_lost_something(rig: Rig, lost: str, verdict: Verdict) -> None:
    """A frontend goes with its backends; for as long as the flow's own is there the flow goes on."""
    rig.service(WEB, {1: (who.FAR, 8080)})
    connect(rig)
    if "frontend" in lost:
        rig.maps.services.delete(ServiceKey(*WEB, 0))
    if "backends" in lost:
        rig.service(WEB, {})
    if lost == "backend":
        rig.maps.backends.delete(Number(1))
    if lost == "address":
        rig.maps.mark_address(who.VIP, ~0, 0)
    if "entry" in lost:
        direction = CT_REVERSE if lost == "reverse entry" else CT_FORWARD
        (key,) = (key for key, _ in rig.maps.conntrack.items() if key.direction == direction)
        rig.delete_conntrack(key)
    seen = facts(rig)
    told = trace_steps.next_packet(seen, seen.flows[0])
    assert told.verdict == (verdict if verdict >= Verdict.DROP_NO_BACKEND else None)
    assert counted(rig, who.tcp((who.POD_ONE, 40000), (who.VIP, 80), "A")) == (verdict,)
