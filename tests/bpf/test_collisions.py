"""Two flows that would be one tuple at the backend: of two Services, or of a Service and a direct connection."""

from __future__ import annotations

import pytest

from datapath.abi import CT_FORWARD, CT_REVERSE
from datapath.flows import Flow, Translation
from tests.bpf.flow_steps import (
    BACKEND,
    CLIENT,
    WEB,
    WEB_TWO,
    V,
    addresses,
    half_open,
    pair,
    received,
    same,
    sent,
    web,
)
from tests.bpf.rig import Rig
from tests.packets import FAR, POD_ONE, VIP, VIP_TWO, readdressed, tcp, udp


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
    rig.maps.conntrack.put(other, Translation(*BACKEND, 40000, 2, 1))
    rig.maps.conntrack.put(Flow(*BACKEND, *CLIENT, "TCP", CT_REVERSE), Translation(VIP_TWO, 80, 40000, 2, 1, 1))
    out = sent(rig, tcp(CLIENT, WEB), V.VERDICT_SERVICE_GATEWAY)
    assert addresses(out) == (*CLIENT, *BACKEND)
    assert pair(rig)[1].address == VIP


def test_idle_but_living_connection_keeps_its_tuple(rig: Rig) -> None:
    web(rig, FAR)
    rig.maps.conntrack.put(Flow(*BACKEND, *CLIENT, "TCP", CT_REVERSE), Translation(VIP_TWO, 80, 40000, 2, 1, 1))
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
    assert dict(rig.maps.conntrack.items()) == {}
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
    assert dict(rig.maps.conntrack.items()) == {}
