"""Flows: the output of one program is the input of the next, the way back included; and what becomes of the pairs."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from datapath.abi import CT_CLOSING, CT_FORWARD, CT_PEER_FIN, CT_POD_FIN, CT_RESET, CT_REVERSE, Verdict
from datapath.entries import BackendEntry, Flow, Translation
from tests.bpf.rig import OK, Outcome, Rig
from tests.packets import FAR, GATEWAY_MAC, OWN_MAC, POD_ONE, SIBLING, VIP, VIP_TWO, difference, readdressed, tcp, udp

CLIENT = (POD_ONE, 40000)
WEB, WEB_TWO = (VIP, 80), (VIP_TWO, 80)
BACKEND = (FAR, 8080)
HAIRPIN = "169.254.202.1"
V = Verdict


def web(rig: Rig, *addresses: str, protocol: str = "TCP", first_id: int = 1, service_id: int = 1) -> None:
    backends = {first_id + index: (address, 8080) for index, address in enumerate(addresses)}
    rig.service((*WEB, protocol), backends, service_id)


def sent(rig: Rig, frame: bytes, verdict: Verdict, *events: Verdict) -> bytes:
    """The frame through from_pod; fails unless exactly this was counted."""
    return _checked(rig.run("from_pod", frame), verdict, *events)


def received(rig: Rig, frame: bytes, verdict: Verdict = V.VERDICT_ANSWER) -> bytes:
    return _checked(rig.run("to_pod", frame), verdict)


def _checked(done: Outcome, *counted: Verdict) -> bytes:
    assert done.counted == dict.fromkeys(counted, 1)
    return done.frame


def addresses(frame: bytes) -> tuple[str, int, str, int]:
    """Source and destination of a frame without IP options."""
    ports = int.from_bytes(frame[34:36], "big"), int.from_bytes(frame[36:38], "big")
    return socket.inet_ntoa(frame[26:30]), ports[0], socket.inet_ntoa(frame[30:34]), ports[1]


def same(found: bytes, wanted: bytes) -> None:
    assert found == wanted, difference(found, wanted)


@contextmanager
def half_open(rig: Rig, remote: tuple[str, int]) -> Iterator[None]:
    """A TCP socket of the pod, from CLIENT to `remote`, that is waiting for its SYN-ACK."""

    def connect() -> socket.socket:
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(CLIENT)
        made.setblocking(False)
        made.connect_ex(remote)
        return made

    with rig.inside(connect):
        yield


def pair(rig: Rig) -> tuple[Translation, Translation]:
    """The only forward and the only reverse entry."""
    table = rig.maps.conntrack()
    forward = [entry for flow, entry in table.items() if flow.direction == CT_FORWARD]
    reverse = [entry for flow, entry in table.items() if flow.direction == CT_REVERSE]
    assert (len(forward), len(reverse)) == (1, 1), table
    return forward[0], reverse[0]


def test_there_and_back(rig: Rig) -> None:
    web(rig, FAR)
    out = sent(rig, tcp(CLIENT, WEB), V.VERDICT_SERVICE_GATEWAY)
    assert addresses(out) == (*CLIENT, *BACKEND)
    assert rig.maps.conntrack().keys() == {
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
    rig.maps.delete_backend(1)
    assert addresses(sent(rig, tcp(CLIENT, WEB, "PA"), V.VERDICT_SERVICE_GATEWAY))[2] == FAR
    assert addresses(sent(rig, tcp(CLIENT, WEB), V.VERDICT_SERVICE_GATEWAY))[2] == "10.9.0.99"
    assert pair(rig)[0].backend_id == 2


def test_datagrams_leave_a_backend_that_is_gone(rig: Rig) -> None:
    web(rig, FAR, protocol="UDP")
    sent(rig, udp(CLIENT, WEB), V.VERDICT_SERVICE_GATEWAY)
    web(rig, "10.9.0.99", protocol="UDP", first_id=2)
    assert addresses(sent(rig, udp(CLIENT, WEB), V.VERDICT_SERVICE_GATEWAY))[2] == FAR
    rig.maps.delete_backend(1)
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


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_two_services_one_backend_one_source_port(rig: Rig, protocol: str) -> None:
    """Both flows would be one tuple at the backend: the second takes another source port, and gets its own back."""
    make = tcp if protocol == "TCP" else udp
    web(rig, FAR, protocol=protocol)
    rig.service((*WEB_TWO, protocol), {1: BACKEND}, service_id=2)
    sent(rig, make(CLIENT, WEB), V.VERDICT_SERVICE_GATEWAY)
    out = sent(rig, make(CLIENT, WEB_TWO), V.VERDICT_SERVICE_GATEWAY, V.EVENT_NEW_SOURCE_PORT)
    port = addresses(out)[1]
    assert port != 40000
    same(out, readdressed(make(CLIENT, WEB_TWO), sport=port, dst=FAR, dport=8080))
    second = make(BACKEND, (POD_ONE, port))
    same(received(rig, second), readdressed(second, src=VIP_TWO, sport=80, dport=40000))
    first = make(BACKEND, CLIENT)
    same(received(rig, first), readdressed(first, src=VIP, sport=80))
    assert addresses(sent(rig, make(CLIENT, WEB_TWO), V.VERDICT_SERVICE_GATEWAY))[1] == port


def test_abandoned_tuple_is_taken_over(rig: Rig) -> None:
    """Nobody used the other flow for a minute and no socket is behind it: its pair goes, the source port stays."""
    web(rig, FAR)
    other = Flow(*CLIENT, VIP_TWO, 80, "TCP", CT_FORWARD)
    rig.maps.put_conntrack(other, Translation(*BACKEND, 40000, 2, 1))
    rig.maps.put_conntrack(Flow(*BACKEND, *CLIENT, "TCP", CT_REVERSE), Translation(VIP_TWO, 80, 40000, 2, 1, 1))
    out = sent(rig, tcp(CLIENT, WEB), V.VERDICT_SERVICE_GATEWAY)
    assert addresses(out) == (*CLIENT, *BACKEND)
    assert pair(rig)[1].address == VIP


def test_idle_but_living_connection_keeps_its_tuple(rig: Rig) -> None:
    web(rig, FAR)
    rig.maps.put_conntrack(Flow(*BACKEND, *CLIENT, "TCP", CT_REVERSE), Translation(VIP_TWO, 80, 40000, 2, 1, 1))
    with half_open(rig, (VIP_TWO, 80)):
        out = sent(rig, tcp(CLIENT, WEB), V.VERDICT_SERVICE_GATEWAY, V.EVENT_NEW_SOURCE_PORT)
    assert addresses(out)[1] != 40000


def test_direct_connection_first_then_the_service(rig: Rig) -> None:
    """The pod talks to the backend directly from this port: no entry knows it, the pod's own socket does."""
    web(rig, FAR)
    with half_open(rig, BACKEND):
        out = sent(rig, tcp(CLIENT, WEB), V.VERDICT_SERVICE_GATEWAY, V.EVENT_NEW_SOURCE_PORT)
    assert addresses(out)[1] != 40000


def test_direct_connection_after_the_service_flow_ended(rig: Rig) -> None:
    """A reverse entry left behind must not capture the direct connection's answer (peers_measured.md, lesson 2)."""
    web(rig, FAR)
    sent(rig, tcp(CLIENT, WEB), V.VERDICT_SERVICE_GATEWAY)
    direct = tcp(CLIENT, BACKEND)
    same(sent(rig, direct, V.VERDICT_DIRECT, V.EVENT_STALE_PAIR), direct)
    assert rig.maps.conntrack() == {}
    received(rig, tcp(BACKEND, CLIENT, "SA"), V.VERDICT_PASS)


def test_direct_connection_beside_a_living_service_flow(rig: Rig) -> None:
    """Two sockets, one port, one backend: the service flow goes on, the direct one takes another source port."""
    web(rig, FAR)
    sent(rig, tcp(CLIENT, WEB), V.VERDICT_SERVICE_GATEWAY)
    with half_open(rig, WEB):
        out = sent(rig, tcp(CLIENT, BACKEND), V.VERDICT_DIRECT_NAT, V.EVENT_NEW_SOURCE_PORT)
        port = addresses(out)[1]
        assert port != 40000
        same(out, readdressed(tcp(CLIENT, BACKEND), sport=port))
        answer = tcp(BACKEND, (POD_ONE, port), "SA")
        same(received(rig, answer), readdressed(answer, dport=40000))
        assert addresses(sent(rig, tcp(CLIENT, BACKEND, "A"), V.VERDICT_DIRECT_NAT))[1] == port
        received(rig, tcp(BACKEND, CLIENT, "PA"))
        sent(rig, tcp(CLIENT, WEB, "PA"), V.VERDICT_SERVICE_GATEWAY)


def test_direct_nat_note_survives_a_put_of_the_pod(rig: Rig) -> None:
    """A restarted agent writes its pods again: flows with a changed port go on."""
    web(rig, FAR)
    sent(rig, tcp(CLIENT, WEB), V.VERDICT_SERVICE_GATEWAY)
    with half_open(rig, WEB):
        port = addresses(sent(rig, tcp(CLIENT, BACKEND), V.VERDICT_DIRECT_NAT, V.EVENT_NEW_SOURCE_PORT))[1]
    rig.put_pod()
    assert addresses(sent(rig, tcp(CLIENT, BACKEND, "A"), V.VERDICT_DIRECT_NAT))[1] == port


def test_direct_datagram_ends_the_service_flow(rig: Rig) -> None:
    web(rig, FAR, protocol="UDP")
    sent(rig, udp(CLIENT, WEB), V.VERDICT_SERVICE_GATEWAY)
    same(sent(rig, udp(CLIENT, BACKEND), V.VERDICT_DIRECT, V.EVENT_STALE_PAIR), udp(CLIENT, BACKEND))
    received(rig, udp(BACKEND, CLIENT), V.VERDICT_PASS)
    assert rig.maps.conntrack() == {}


@pytest.mark.parametrize("lost", [CT_FORWARD, CT_REVERSE])
def test_half_a_pair_lost_by_the_lru_is_made_again(rig: Rig, lost: int) -> None:
    web(rig, FAR)
    sent(rig, tcp(CLIENT, WEB), V.VERDICT_SERVICE_GATEWAY)
    gone = next(flow for flow in rig.maps.conntrack() if flow.direction == lost)
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
    out = _checked(rig.run("hold_egress", frame), V.VERDICT_SERVICE_GATEWAY)
    same(out, readdressed(frame, dst=FAR, dport=8080, dmac=GATEWAY_MAC))
    answer = tcp(BACKEND, CLIENT, "SA")
    same(_checked(rig.run("hold_ingress", answer), V.VERDICT_ANSWER), readdressed(answer, src=VIP, sport=80))
    with ExitStack() as undo:
        for slot, program in enumerate(("from_pod", "to_pod")):
            undo.callback(rig.maps.set_call, slot, rig.programs.fd(program))
            rig.maps.clear_call(slot)
        for holder, untouched in (("hold_egress", frame), ("hold_ingress", answer)):
            assert rig.run(holder, untouched) == Outcome(-1, untouched, {})
    assert rig.run("hold_egress", frame).code == OK
