"""Two flows that would be one tuple at the backend: of two Services, or of a Service and a direct connection."""

from __future__ import annotations

import pytest

from datapath.abi import CT_FORWARD, CT_REVERSE
from datapath.flows import Flow, Translation
from tests.bpf.flow_steps import V, addresses, half_open, in_both_families, pair, received, same, sent, web
from tests.bpf.rig import Rig
from tests.packets import Cast, readdressed, sctp, tcp, udp

pytestmark = in_both_families


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_two_services_one_backend_one_source_port(rig: Rig, cast: Cast, protocol: str) -> None:
    """Both flows would be one tuple at the backend: the second takes another source port, and gets its own back."""
    make = tcp if protocol == "TCP" else udp
    to_two = make(cast.client, (cast.vip_two, 80))
    web(rig, cast.far, protocol=protocol)
    rig.service((cast.vip_two, 80, protocol), {2: cast.backend}, service_id=2)
    sent(rig, make(cast.client, cast.web), V.VERDICT_SERVICE_GATEWAY)
    out = sent(rig, to_two, V.VERDICT_SERVICE_GATEWAY, V.EVENT_NEW_SOURCE_PORT)
    port = addresses(out)[1]
    assert port != 40000
    same(out, readdressed(to_two, sport=port, dst=cast.far, dport=8080))
    second = make(cast.backend, (cast.pod, port))
    same(received(rig, second), readdressed(second, src=cast.vip_two, sport=80, dport=40000))
    first = make(cast.backend, cast.client)
    same(received(rig, first), readdressed(first, src=cast.vip, sport=80))
    assert addresses(sent(rig, to_two, V.VERDICT_SERVICE_GATEWAY))[1] == port


def test_sctp_keeps_its_port_or_is_dropped(rig: Rig, cast: Cast) -> None:
    """SCTP's checksum covers the ports: no other source port is tried, and the first flow goes on."""
    web(rig, cast.far, protocol="SCTP")
    rig.service((cast.vip_two, 80, "SCTP"), {2: (cast.far, 80)}, service_id=2)
    sent(rig, sctp(cast.client, cast.web), V.VERDICT_SERVICE_GATEWAY)
    sent(rig, sctp(cast.client, (cast.vip_two, 80)), V.DROP_NO_SOURCE_PORT)
    sent(rig, sctp(cast.client, cast.web, "data"), V.VERDICT_SERVICE_GATEWAY)
    assert pair(rig)[1].address == cast.vip


def test_abandoned_tuple_is_taken_over(rig: Rig, cast: Cast) -> None:
    """Nobody used the other flow for a minute and no socket is behind it: its pair goes, the source port stays."""
    web(rig, cast.far)
    other = Flow(*cast.client, cast.vip_two, 80, "TCP", CT_FORWARD)
    rig.maps.conntrack.put(other, Translation(*cast.backend, 40000, 2, 1))
    reverse = Flow(*cast.backend, *cast.client, "TCP", CT_REVERSE)
    rig.maps.conntrack.put(reverse, Translation(cast.vip_two, 80, 40000, 2, 1, 1))
    out = sent(rig, tcp(cast.client, cast.web), V.VERDICT_SERVICE_GATEWAY)
    assert addresses(out) == (*cast.client, *cast.backend)
    assert pair(rig)[1].address == cast.vip


def test_idle_but_living_connection_keeps_its_tuple(rig: Rig, cast: Cast) -> None:
    web(rig, cast.far)
    reverse = Flow(*cast.backend, *cast.client, "TCP", CT_REVERSE)
    rig.maps.conntrack.put(reverse, Translation(cast.vip_two, 80, 40000, 2, 1, 1))
    with half_open(rig, cast, (cast.vip_two, 80)):
        out = sent(rig, tcp(cast.client, cast.web), V.VERDICT_SERVICE_GATEWAY, V.EVENT_NEW_SOURCE_PORT)
    assert addresses(out)[1] != 40000


def test_direct_connection_first_then_the_service(rig: Rig, cast: Cast) -> None:
    """The pod talks to the backend directly from this port: no entry knows it, the pod's own socket does."""
    web(rig, cast.far)
    with half_open(rig, cast, cast.backend):
        out = sent(rig, tcp(cast.client, cast.web), V.VERDICT_SERVICE_GATEWAY, V.EVENT_NEW_SOURCE_PORT)
    assert addresses(out)[1] != 40000


def test_direct_connection_after_the_service_flow_ended(rig: Rig, cast: Cast) -> None:
    """A reverse entry left behind must not capture the direct connection's answer (peers_measured.md, lesson 2)."""
    web(rig, cast.far)
    sent(rig, tcp(cast.client, cast.web), V.VERDICT_SERVICE_GATEWAY)
    direct = tcp(cast.client, cast.backend)
    same(sent(rig, direct, V.VERDICT_DIRECT, V.EVENT_STALE_PAIR), direct)
    assert dict(rig.maps.conntrack.items()) == {}
    received(rig, tcp(cast.backend, cast.client, "SA"), V.VERDICT_PASS)


def test_direct_connection_beside_a_living_service_flow(rig: Rig, cast: Cast) -> None:
    """Two sockets, one port, one backend: the service flow goes on, the direct one takes another source port."""
    web(rig, cast.far)
    direct = tcp(cast.client, cast.backend)
    sent(rig, tcp(cast.client, cast.web), V.VERDICT_SERVICE_GATEWAY)
    with half_open(rig, cast, cast.web):
        out = sent(rig, direct, V.VERDICT_DIRECT_NAT, V.EVENT_NEW_SOURCE_PORT)
        port = addresses(out)[1]
        assert port != 40000
        same(out, readdressed(direct, sport=port))
        answer = tcp(cast.backend, (cast.pod, port), "SA")
        same(received(rig, answer), readdressed(answer, dport=40000))
        assert addresses(sent(rig, tcp(cast.client, cast.backend, "A"), V.VERDICT_DIRECT_NAT))[1] == port
        received(rig, tcp(cast.backend, cast.client, "PA"))
        sent(rig, tcp(cast.client, cast.web, "PA"), V.VERDICT_SERVICE_GATEWAY)


def test_direct_nat_note_survives_a_put_of_the_pod(rig: Rig, cast: Cast) -> None:
    """A restarted agent writes its pods again: flows with a changed port go on."""
    web(rig, cast.far)
    sent(rig, tcp(cast.client, cast.web), V.VERDICT_SERVICE_GATEWAY)
    direct = tcp(cast.client, cast.backend)
    with half_open(rig, cast, cast.web):
        port = addresses(sent(rig, direct, V.VERDICT_DIRECT_NAT, V.EVENT_NEW_SOURCE_PORT))[1]
    rig.put_pod()
    assert addresses(sent(rig, tcp(cast.client, cast.backend, "A"), V.VERDICT_DIRECT_NAT))[1] == port


@pytest.mark.parametrize("protocol", ["UDP", "SCTP"])
def test_direct_packet_without_a_life_ends_the_service_flow(rig: Rig, cast: Cast, protocol: str) -> None:
    """Datagrams (and SCTP, whose sockets nobody can ask for) belong to the last sender."""
    make = udp if protocol == "UDP" else sctp
    backend = cast.backend if protocol == "UDP" else (cast.far, 80)
    web(rig, cast.far, protocol=protocol)
    sent(rig, make(cast.client, cast.web), V.VERDICT_SERVICE_GATEWAY)
    direct = make(cast.client, backend)
    same(sent(rig, direct, V.VERDICT_DIRECT, V.EVENT_STALE_PAIR), direct)
    received(rig, make(backend, cast.client), V.VERDICT_PASS)
    assert dict(rig.maps.conntrack.items()) == {}
