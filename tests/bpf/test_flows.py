"""Flows: the output of one program is the input of the next, the way back included; what becomes of pairs."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from datapath.abi import CT_CLOSING, CT_FORWARD, CT_PEER_FIN, CT_POD_FIN, CT_RESET, CT_REVERSE
from datapath.entries import BackendEntry
from datapath.flows import Flow
from datapath.table import Number
from tests.bpf.flow_steps import (
    BACKEND,
    CLIENT,
    HAIRPIN,
    WEB,
    V,
    addresses,
    checked,
    pair,
    received,
    same,
    sent,
    web,
)
from tests.bpf.rig import OK, Outcome, Rig
from tests.packets import FAR, GATEWAY_MAC, OWN_MAC, POD_ONE, SIBLING, VIP, readdressed, tcp, udp


def test_there_and_back(rig: Rig) -> None:
    web(rig, FAR)
    out = sent(rig, tcp(CLIENT, WEB), V.VERDICT_SERVICE_GATEWAY)
    assert addresses(out) == (*CLIENT, *BACKEND)
    assert dict(rig.maps.conntrack.items()).keys() == {
        Flow(*CLIENT, *WEB, "TCP", CT_FORWARD),
        Flow(*BACKEND, *CLIENT, "TCP", CT_REVERSE),
    }
    answer = tcp(BACKEND, CLIENT, "SA")
    same(received(rig, answer), readdressed(answer, src=VIP, sport=80))
    again = tcp(CLIENT, WEB, "A")
    same(sent(rig, again, V.VERDICT_SERVICE_GATEWAY), readdressed(again, dst=FAR, dport=8080))


def test_sibling_there_and_back(rig: Rig) -> None:
    """The backend is a sibling: its own hooks see the flow, and leave it alone."""
    web(rig, SIBLING)
    out = sent(rig, tcp(CLIENT, WEB), V.VERDICT_SERVICE_OWN_MAC)
    same(received(rig, out, V.VERDICT_PASS), out)
    answer = tcp((SIBLING, 8080), CLIENT, "SA", dmac=OWN_MAC)
    same(received(rig, answer), readdressed(answer, src=VIP, sport=80))


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_hairpin_there_and_back(rig: Rig, protocol: str) -> None:
    """The pod is its own backend: request and answer both leave and arrive at the one slave."""
    make = tcp if protocol == "TCP" else udp
    web(rig, POD_ONE, protocol=protocol)
    request = sent(rig, make(CLIENT, WEB), V.VERDICT_HAIRPIN)
    same(request, readdressed(make(CLIENT, WEB), src=HAIRPIN, dst=POD_ONE, dport=8080, dmac=OWN_MAC))
    same(received(rig, request, V.VERDICT_PASS), request)
    answer = make((POD_ONE, 8080), (HAIRPIN, 40000))
    back = sent(rig, answer, V.VERDICT_HAIRPIN_ANSWER)
    same(back, readdressed(answer, src=VIP, sport=80, dst=POD_ONE, dport=40000, dmac=OWN_MAC))
    same(received(rig, back, V.VERDICT_PASS), back)


def test_flow_keeps_its_backend(rig: Rig) -> None:
    """Slots are reordered and more come: the flow stays, because it remembers an id and not a slot."""
    web(rig, FAR)
    sent(rig, tcp(CLIENT, WEB), V.VERDICT_SERVICE_GATEWAY)
    others = {number: (f"10.9.1.{number}", 8080) for number in range(10, 30)}
    rig.service((*WEB, "TCP"), others | {1: BACKEND})
    for flags in ("S", "A", "PA"):
        assert addresses(sent(rig, tcp(CLIENT, WEB, flags), V.VERDICT_SERVICE_GATEWAY))[2] == FAR


def test_backends_are_all_chosen(rig: Rig) -> None:
    web(rig, "10.9.0.1", "10.9.0.2", "10.9.0.3")
    chosen = {addresses(sent(rig, tcp((POD_ONE, port), WEB), V.VERDICT_SERVICE_GATEWAY))[2] for port in range(1, 60)}
    assert chosen == {"10.9.0.1", "10.9.0.2", "10.9.0.3"}


def test_established_tcp_outlives_its_backend_entry(rig: Rig) -> None:
    """A connection to a backend that is being taken away drains; a new one goes elsewhere."""
    web(rig, FAR)
    sent(rig, tcp(CLIENT, WEB), V.VERDICT_SERVICE_GATEWAY)
    web(rig, "10.9.0.99", first_id=2)
    rig.maps.backends.delete(Number(1))
    assert addresses(sent(rig, tcp(CLIENT, WEB, "PA"), V.VERDICT_SERVICE_GATEWAY))[2] == FAR
    assert addresses(sent(rig, tcp(CLIENT, WEB), V.VERDICT_SERVICE_GATEWAY))[2] == "10.9.0.99"
    assert pair(rig)[0].backend_id == 2


def test_datagrams_leave_a_backend_that_is_gone(rig: Rig) -> None:
    web(rig, FAR, protocol="UDP")
    sent(rig, udp(CLIENT, WEB), V.VERDICT_SERVICE_GATEWAY)
    web(rig, "10.9.0.99", protocol="UDP", first_id=2)
    assert addresses(sent(rig, udp(CLIENT, WEB), V.VERDICT_SERVICE_GATEWAY))[2] == FAR
    rig.maps.backends.delete(Number(1))
    assert addresses(sent(rig, udp(CLIENT, WEB), V.VERDICT_SERVICE_GATEWAY))[2] == "10.9.0.99"
    rig.maps.put_backend(2, BackendEntry("10.9.0.98", 8080))  # the id means another one now
    assert addresses(sent(rig, udp(CLIENT, WEB), V.VERDICT_SERVICE_GATEWAY))[2] == "10.9.0.98"


def test_service_made_anew_on_the_same_address(rig: Rig) -> None:
    web(rig, FAR)
    sent(rig, tcp(CLIENT, WEB), V.VERDICT_SERVICE_GATEWAY)
    web(rig, "10.9.0.99", first_id=2, service_id=2)
    assert addresses(sent(rig, tcp(CLIENT, WEB, "PA"), V.VERDICT_SERVICE_GATEWAY))[2] == "10.9.0.99"
    assert pair(rig)[0].service_id == 2


@pytest.mark.parametrize(
    ("flags", "from_peer", "mark"),
    [("FA", False, CT_POD_FIN), ("FA", True, CT_PEER_FIN), ("R", False, CT_RESET), ("R", True, CT_RESET)],
)
def test_closing_flow_is_left_by_a_new_connection(rig: Rig, flags: str, from_peer: bool, mark: int) -> None:
    web(rig, FAR)
    sent(rig, tcp(CLIENT, WEB), V.VERDICT_SERVICE_GATEWAY)
    assert pair(rig)[1].flags == 0
    if from_peer:
        received(rig, tcp(BACKEND, CLIENT, flags))
    else:
        sent(rig, tcp(CLIENT, WEB, flags), V.VERDICT_SERVICE_GATEWAY)
    assert pair(rig)[1].flags == mark
    assert mark & CT_CLOSING
    web(rig, "10.9.0.99", first_id=2)
    assert addresses(sent(rig, tcp(CLIENT, WEB, "A"), V.VERDICT_SERVICE_GATEWAY))[2] == FAR
    assert addresses(sent(rig, tcp(CLIENT, WEB), V.VERDICT_SERVICE_GATEWAY))[2] == "10.9.0.99"
    assert pair(rig)[1].flags == 0


@pytest.mark.parametrize("lost", [CT_FORWARD, CT_REVERSE])
def test_half_a_pair_lost_by_the_lru_is_made_again(rig: Rig, lost: int) -> None:
    web(rig, FAR)
    sent(rig, tcp(CLIENT, WEB), V.VERDICT_SERVICE_GATEWAY)
    gone = next(flow for flow in dict(rig.maps.conntrack.items()) if flow.direction == lost)
    rig.delete_conntrack(gone)
    out = sent(rig, tcp(CLIENT, WEB, "PA"), V.VERDICT_SERVICE_GATEWAY)
    assert addresses(out) == (*CLIENT, *BACKEND)
    pair(rig)


def test_forget_deletes_the_flows_of_an_address(rig: Rig) -> None:
    web(rig, FAR)
    sent(rig, tcp(CLIENT, WEB), V.VERDICT_SERVICE_GATEWAY)
    assert rig.maps.forget({"10.1.0.1", "fd00::1"}) == 0
    assert rig.maps.forget({POD_ONE}) == 2
    sent(rig, tcp(CLIENT, WEB), V.VERDICT_SERVICE_GATEWAY)
    assert rig.maps.forget({FAR}) == 2


def test_holders_run_what_is_in_the_slots(rig: Rig) -> None:
    """By tail call; an empty slot lets the packet pass."""
    web(rig, FAR)
    frame = tcp(CLIENT, WEB)
    out = checked(rig.run("hold_egress", frame), V.VERDICT_SERVICE_GATEWAY)
    same(out, readdressed(frame, dst=FAR, dport=8080, dmac=GATEWAY_MAC))
    answer = tcp(BACKEND, CLIENT, "SA")
    same(checked(rig.run("hold_ingress", answer), V.VERDICT_ANSWER), readdressed(answer, src=VIP, sport=80))
    with ExitStack() as undo:
        for slot, program in enumerate(("from_pod", "to_pod")):
            undo.callback(rig.maps.set_call, slot, rig.programs.fd(program))
            rig.maps.clear_call(slot)
        for holder, untouched in (("hold_egress", frame), ("hold_ingress", answer)):
            assert rig.run(holder, untouched) == Outcome(-1, untouched, {})
    assert rig.run("hold_egress", frame).code == OK
