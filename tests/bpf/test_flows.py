"""Flows: the output of one program is the input of the next, the way back included; what becomes of pairs."""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest

from datapath.abi import CT_ANSWERED, CT_CLOSING, CT_FORWARD, CT_PEER_FIN, CT_POD_FIN, CT_RESET, CT_REVERSE
from datapath.flows import Flow
from tests.bpf.flow_steps import V, addresses, checked, in_both_families, pair, quiet, received, same, sent, web
from tests.bpf.rig import OK, Outcome, Rig
from tests.packets import GATEWAY_MAC, OWN_MAC, V4, Cast, readdressed, sctp, tcp, udp

MAKERS = {"TCP": tcp, "UDP": udp, "SCTP": sctp}


@in_both_families
def test_there_and_back(rig: Rig, cast: Cast) -> None:
    web(rig, cast.far)
    out = sent(rig, tcp(cast.client, cast.web), V.VERDICT_SERVICE_GATEWAY)
    assert addresses(out) == (*cast.client, *cast.backend)
    assert dict(rig.maps.conntrack.items()).keys() == {
        Flow(*cast.client, *cast.web, "TCP", CT_FORWARD),
        Flow(*cast.backend, *cast.client, "TCP", CT_REVERSE),
    }
    answer = tcp(cast.backend, cast.client, "SA")
    same(received(rig, answer), readdressed(answer, src=cast.vip, sport=80))
    again = tcp(cast.client, cast.web, "A")
    same(sent(rig, again, V.VERDICT_SERVICE_GATEWAY), readdressed(again, dst=cast.far, dport=8080))


@in_both_families
def test_families_do_not_meet(rig: Rig, cast: Cast) -> None:
    """The same ports in both families: two pairs, each with its own names."""
    for each in (V4, cast):
        web(rig, each.far, first_id=4 if each is V4 else 6, service_id=4 if each is V4 else 6)
        sent(rig, tcp(each.client, each.web), V.VERDICT_SERVICE_GATEWAY)
    for each in (V4, cast):
        answer = tcp(each.backend, each.client, "SA")
        same(received(rig, answer), readdressed(answer, src=each.vip, sport=80))
    assert len(dict(rig.maps.conntrack.items())) == (2 if cast is V4 else 4)


@in_both_families
def test_sibling_there_and_back(rig: Rig, cast: Cast) -> None:
    """The backend is a sibling: its own hooks see the flow, and leave it alone."""
    web(rig, cast.sibling)
    out = sent(rig, tcp(cast.client, cast.web), V.VERDICT_SERVICE_OWN_MAC)
    same(received(rig, out, V.VERDICT_PASS), out)
    answer = tcp((cast.sibling, 8080), cast.client, "SA", dmac=OWN_MAC)
    same(received(rig, answer), readdressed(answer, src=cast.vip, sport=80))


@in_both_families
@pytest.mark.parametrize("protocol", MAKERS)
def test_hairpin_there_and_back(rig: Rig, cast: Cast, protocol: str) -> None:
    """The pod is its own backend: request and answer both leave and arrive at the one slave."""
    make = MAKERS[protocol]
    port = 80 if protocol == "SCTP" else 8080
    web(rig, cast.pod, protocol=protocol)
    request = sent(rig, make(cast.client, cast.web), V.VERDICT_HAIRPIN)
    same(request, readdressed(make(cast.client, cast.web), src=cast.hairpin, dst=cast.pod, dport=port, dmac=OWN_MAC))
    same(received(rig, request, V.VERDICT_PASS), request)
    answer = make((cast.pod, port), (cast.hairpin, 40000))
    back = sent(rig, answer, V.VERDICT_HAIRPIN_ANSWER)
    same(back, readdressed(answer, src=cast.vip, sport=80, dst=cast.pod, dport=40000, dmac=OWN_MAC))
    same(received(rig, back, V.VERDICT_PASS), back)
    assert pair(rig)[1].flags == CT_ANSWERED


@in_both_families
def test_hairpin_answers_leave_no_fragments_behind(rig: Rig, cast: Cast) -> None:
    """Whole packets have no business in the table of fragments."""
    web(rig, cast.pod)
    sent(rig, tcp(cast.client, cast.web), V.VERDICT_HAIRPIN)
    sent(rig, tcp((cast.pod, 8080), (cast.hairpin, 40000), "SA"), V.VERDICT_HAIRPIN_ANSWER)
    assert rig.raw("fragments") == {}


@in_both_families
def test_flow_keeps_its_backend(rig: Rig, cast: Cast) -> None:
    """Slots are reordered and more come: the flow stays, because it remembers an id and not a slot."""
    web(rig, cast.far)
    sent(rig, tcp(cast.client, cast.web), V.VERDICT_SERVICE_GATEWAY)
    others = {number: (cast.far_pod(number), 8080) for number in range(10, 30)}
    rig.service((*cast.web, "TCP"), others | {1: cast.backend})
    for flags in ("S", "A", "PA"):
        assert addresses(sent(rig, tcp(cast.client, cast.web, flags), V.VERDICT_SERVICE_GATEWAY))[2] == cast.far


@in_both_families
def test_backends_are_all_chosen(rig: Rig, cast: Cast) -> None:
    backends = {cast.far_pod(number) for number in (1, 2, 3)}
    web(rig, *backends)
    chosen = {
        addresses(sent(rig, tcp((cast.pod, port), cast.web), V.VERDICT_SERVICE_GATEWAY))[2] for port in range(1, 60)
    }
    assert chosen == backends


@in_both_families
@pytest.mark.parametrize(
    ("protocol", "last", "from_peer", "mark"),
    [
        ("TCP", "FA", False, CT_POD_FIN),
        ("TCP", "FA", True, CT_PEER_FIN | CT_ANSWERED),
        ("TCP", "R", False, CT_RESET),
        ("TCP", "RA", True, CT_RESET | CT_ANSWERED),
        ("SCTP", "shutdown", False, CT_POD_FIN),
        ("SCTP", "shutdown", True, CT_PEER_FIN | CT_ANSWERED),
        ("SCTP", "abort", False, CT_RESET),
        ("SCTP", "abort", True, CT_RESET | CT_ANSWERED),
    ],
)
def test_closing_flow_is_left_by_a_new_connection(
    rig: Rig, cast: Cast, protocol: str, last: str, from_peer: bool, mark: int
) -> None:
    make, more = MAKERS[protocol], "A" if protocol == "TCP" else "data"
    backend = cast.backend if protocol == "TCP" else (cast.far, 80)
    web(rig, cast.far, protocol=protocol)
    sent(rig, make(cast.client, cast.web), V.VERDICT_SERVICE_GATEWAY)
    assert pair(rig)[1].flags == 0
    if from_peer:
        received(rig, make(backend, cast.client, last))
    else:
        sent(rig, make(cast.client, cast.web, last), V.VERDICT_SERVICE_GATEWAY)
    assert pair(rig)[1].flags == mark
    assert mark & CT_CLOSING
    web(rig, cast.far_two, protocol=protocol, first_id=2)
    assert addresses(sent(rig, make(cast.client, cast.web, more), V.VERDICT_SERVICE_GATEWAY))[2] == cast.far
    assert addresses(sent(rig, make(cast.client, cast.web), V.VERDICT_SERVICE_GATEWAY))[2] == cast.far_two
    assert pair(rig)[1].flags == 0


@in_both_families
@pytest.mark.parametrize("protocol", MAKERS)
def test_reverse_entry_lost_by_the_lru_is_made_again(rig: Rig, cast: Cast, protocol: str) -> None:
    """It is looked for when the coarse clock ticks: here the flow was quiet for long."""
    make = MAKERS[protocol]
    follow_up = {"TCP": ("PA",), "UDP": (), "SCTP": ("data",)}[protocol]
    web(rig, cast.far, protocol=protocol)
    sent(rig, make(cast.client, cast.web), V.VERDICT_SERVICE_GATEWAY)
    before = pair(rig)
    _lose(rig, CT_REVERSE)
    quiet(rig)
    sent(rig, make(cast.client, cast.web, *follow_up), V.VERDICT_SERVICE_GATEWAY, V.EVENT_REVERSE_LOST)
    after = pair(rig)
    assert (after[0].address, after[1].address) == (before[0].address, before[1].address)


@in_both_families
def test_flow_that_goes_on_is_seen_in_both_entries(rig: Rig, cast: Cast) -> None:
    web(rig, cast.far)
    sent(rig, tcp(cast.client, cast.web), V.VERDICT_SERVICE_GATEWAY)
    for step in (lambda: sent(rig, tcp(cast.client, cast.web, "A"), V.VERDICT_SERVICE_GATEWAY),
                 lambda: received(rig, tcp(cast.backend, cast.client, "A"))):  # fmt: skip
        quiet(rig)
        assert pair(rig)[1].last_seen_ns == 1
        step()
        assert 0 <= time.monotonic_ns() - pair(rig)[1].last_seen_ns < 10_000_000_000


@in_both_families
@pytest.mark.parametrize("protocol", ["TCP", "SCTP"])
def test_forward_entry_lost_by_the_lru_ends_a_connection(rig: Rig, cast: Cast, protocol: str) -> None:
    """Nobody knows its backend any more: the pod is told at once; a new connection takes the same tuple."""
    make, more = MAKERS[protocol], {"TCP": "PA", "SCTP": "data"}[protocol]
    told = {"TCP": V.EVENT_REFUSED_RESET, "SCTP": V.EVENT_REFUSED_ICMP}[protocol]
    web(rig, cast.far, protocol=protocol)
    sent(rig, make(cast.client, cast.web), V.VERDICT_SERVICE_GATEWAY)
    _lose(rig, CT_FORWARD)
    sent(rig, make(cast.client, cast.web, more), V.DROP_NO_FLOW, told)
    sent(rig, make(cast.client, cast.web), V.VERDICT_SERVICE_GATEWAY)
    pair(rig)


@in_both_families
def test_forward_entry_lost_by_the_lru_lets_datagrams_choose_anew(rig: Rig, cast: Cast) -> None:
    web(rig, cast.far, protocol="UDP")
    sent(rig, udp(cast.client, cast.web), V.VERDICT_SERVICE_GATEWAY)
    _lose(rig, CT_FORWARD)
    out = sent(rig, udp(cast.client, cast.web), V.VERDICT_SERVICE_GATEWAY)
    assert addresses(out) == (*cast.client, *cast.backend)
    pair(rig)


def _lose(rig: Rig, direction: int) -> None:
    gone = next(flow for flow in dict(rig.maps.conntrack.items()) if flow.direction == direction)
    rig.delete_conntrack(gone)


@in_both_families
def test_forget_deletes_the_flows_of_an_address(rig: Rig, cast: Cast) -> None:
    web(rig, cast.far)
    sent(rig, tcp(cast.client, cast.web), V.VERDICT_SERVICE_GATEWAY)
    assert rig.maps.forget({"10.1.0.1", "fd00::1"}) == 0
    assert rig.maps.forget({cast.pod}) == 2
    sent(rig, tcp(cast.client, cast.web), V.VERDICT_SERVICE_GATEWAY)
    assert rig.maps.forget({cast.far}) == 2


@in_both_families
def test_holders_run_what_is_in_the_slots(rig: Rig, cast: Cast) -> None:
    """By tail call; an empty slot lets the packet pass."""
    web(rig, cast.far)
    frame = tcp(cast.client, cast.web)
    out = checked(rig.run("hold_egress", frame), V.VERDICT_SERVICE_GATEWAY)
    same(out, readdressed(frame, dst=cast.far, dport=8080, dmac=GATEWAY_MAC))
    answer = tcp(cast.backend, cast.client, "SA")
    same(checked(rig.run("hold_ingress", answer), V.VERDICT_ANSWER), readdressed(answer, src=cast.vip, sport=80))
    with ExitStack() as undo:
        for slot, program in enumerate(("from_pod", "to_pod")):
            undo.callback(rig.maps.set_call, slot, rig.programs.fd(program))
            rig.maps.clear_call(slot)
        for holder, untouched in (("hold_egress", frame), ("hold_ingress", answer)):
            assert rig.run(holder, untouched) == Outcome(-1, untouched, {})
    assert rig.run("hold_egress", frame).code == OK
