"""Backends that come and go: which flows stay, which move, who is told; affinity; what is counted of a frontend."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from datapath.abi import BACKEND_DRAINING
from datapath.entries import BackendEntry
from datapath.flows import Affinity, AffinityKey, FlowCounters
from datapath.table import Number
from tests.bpf.flow_steps import V, addresses, in_both_families, pair, received, sent, web
from tests.bpf.rig import Rig
from tests.packets import Cast, readdressed, sctp, tcp, udp

pytestmark = in_both_families
MAKERS = {"TCP": tcp, "UDP": udp, "SCTP": sctp}
FOLLOW_UP = {"TCP": "PA", "SCTP": "data"}
GATEWAY = V.VERDICT_SERVICE_GATEWAY


def remove(rig: Rig, number: int) -> None:
    assert rig.maps.backends.delete(Number(number))


def drain(rig: Rig, number: int) -> None:
    """Out of the slots (the caller writes those), yet known."""
    entry = rig.maps.backends.get(Number(number))
    assert entry is not None
    rig.maps.backends.put(Number(number), replace(entry, flags=BACKEND_DRAINING))


def no_backends(rig: Rig, cast: Cast, protocol: str) -> None:
    rig.service((*cast.web, protocol), {})


def test_connection_to_a_removed_backend_is_reset(rig: Rig, cast: Cast) -> None:
    """Once: the pair is gone, and what still comes belongs to no flow."""
    web(rig, cast.far)
    sent(rig, tcp(cast.client, cast.web), GATEWAY)
    web(rig, cast.far_two, first_id=2)
    assert addresses(sent(rig, tcp(cast.client, cast.web, "PA"), GATEWAY))[2] == cast.far
    remove(rig, 1)
    sent(rig, tcp(cast.client, cast.web, "PA"), V.DROP_BACKEND_REMOVED, V.EVENT_REFUSED_RESET)
    assert dict(rig.maps.conntrack.items()) == {}
    sent(rig, tcp(cast.client, cast.web, "FA"), V.DROP_NO_FLOW, V.EVENT_REFUSED_RESET)
    sent(rig, tcp(cast.client, cast.web, "RA"), V.DROP_NO_FLOW)
    assert addresses(sent(rig, tcp(cast.client, cast.web), GATEWAY))[2] == cast.far_two


@pytest.mark.parametrize("flags", ["R", "RA"])
def test_a_reset_to_a_removed_backend_is_not_answered(rig: Rig, cast: Cast, flags: str) -> None:
    web(rig, cast.far)
    sent(rig, tcp(cast.client, cast.web), GATEWAY)
    remove(rig, 1)
    sent(rig, tcp(cast.client, cast.web, flags), V.DROP_BACKEND_REMOVED)


def test_association_with_a_removed_backend_ends(rig: Rig, cast: Cast) -> None:
    web(rig, cast.far, protocol="SCTP")
    sent(rig, sctp(cast.client, cast.web), GATEWAY)
    remove(rig, 1)
    sent(rig, sctp(cast.client, cast.web, "data"), V.DROP_BACKEND_REMOVED, V.EVENT_REFUSED_ICMP)


@pytest.mark.parametrize("protocol", ["TCP", "SCTP"])
def test_new_connection_leaves_a_removed_backend(rig: Rig, cast: Cast, protocol: str) -> None:
    """The same tuple again (a retransmitted SYN, or a new connection): another backend."""
    make = MAKERS[protocol]
    web(rig, cast.far, protocol=protocol)
    sent(rig, make(cast.client, cast.web), GATEWAY)
    web(rig, cast.far_two, protocol=protocol, first_id=2)
    remove(rig, 1)
    assert addresses(sent(rig, make(cast.client, cast.web), GATEWAY, V.EVENT_FLOW_MOVED))[2] == cast.far_two
    assert pair(rig)[0].backend_id == 2


@pytest.mark.parametrize("protocol", ["TCP", "SCTP"])
def test_connection_stays_with_a_draining_backend(rig: Rig, cast: Cast, protocol: str) -> None:
    """Both ways, to its end; then and for a new connection the backend is no more."""
    make, backend = MAKERS[protocol], (cast.far, 80 if protocol == "SCTP" else 8080)
    web(rig, cast.far, protocol=protocol)
    sent(rig, make(cast.client, cast.web), GATEWAY)
    web(rig, cast.far_two, protocol=protocol, first_id=2)
    drain(rig, 1)
    for _ in range(3):
        assert addresses(sent(rig, make(cast.client, cast.web, FOLLOW_UP[protocol]), GATEWAY))[2] == cast.far
        answer = make(backend, cast.client, FOLLOW_UP[protocol])
        assert received(rig, answer) == readdressed(answer, src=cast.vip, sport=80)
    assert addresses(sent(rig, make((cast.pod, 40001), cast.web), GATEWAY))[2] == cast.far_two
    assert addresses(sent(rig, make(cast.client, cast.web), GATEWAY, V.EVENT_FLOW_MOVED))[2] == cast.far_two


def test_connection_stays_with_the_last_backend_that_drains(rig: Rig, cast: Cast) -> None:
    web(rig, cast.far)
    sent(rig, tcp(cast.client, cast.web), GATEWAY)
    no_backends(rig, cast, "TCP")
    drain(rig, 1)
    assert addresses(sent(rig, tcp(cast.client, cast.web, "PA"), GATEWAY))[2] == cast.far
    sent(rig, tcp((cast.pod, 40001), cast.web), V.DROP_NO_BACKEND, V.EVENT_REFUSED_RESET)


@pytest.mark.parametrize("leave", [remove, drain])
def test_datagrams_move_at_once(rig: Rig, cast: Cast, leave: object) -> None:
    web(rig, cast.far, protocol="UDP")
    sent(rig, udp(cast.client, cast.web), GATEWAY)
    web(rig, cast.far_two, protocol="UDP", first_id=2)
    assert addresses(sent(rig, udp(cast.client, cast.web), GATEWAY))[2] == cast.far
    leave(rig, 1)  # type: ignore[operator]
    assert addresses(sent(rig, udp(cast.client, cast.web), GATEWAY, V.EVENT_FLOW_MOVED))[2] == cast.far_two
    received(rig, udp(cast.backend, cast.client), V.VERDICT_PASS)
    answer = udp((cast.far_two, 8080), cast.client)
    assert received(rig, answer) == readdressed(answer, src=cast.vip, sport=80)


@pytest.mark.parametrize("leave", [remove, drain])
@pytest.mark.parametrize("asked_meanwhile", [True, False])
def test_datagrams_move_after_a_phase_without_backends(
    rig: Rig, cast: Cast, leave: object, asked_meanwhile: bool
) -> None:
    """kubernetes/kubernetes issue of stale UDP entries: nothing of the old flow may outlive the phase."""
    web(rig, cast.far, protocol="UDP")
    sent(rig, udp(cast.client, cast.web), GATEWAY)
    no_backends(rig, cast, "UDP")
    leave(rig, 1)  # type: ignore[operator]
    moved: tuple[V, ...] = (V.EVENT_FLOW_MOVED,)
    if asked_meanwhile:
        sent(rig, udp(cast.client, cast.web), V.DROP_NO_BACKEND, V.EVENT_REFUSED_ICMP, *moved)
        sent(rig, udp(cast.client, cast.web), V.DROP_NO_BACKEND, V.EVENT_REFUSED_ICMP)
        moved = ()
    web(rig, cast.far_two, protocol="UDP", first_id=2)
    assert addresses(sent(rig, udp(cast.client, cast.web), GATEWAY, *moved))[2] == cast.far_two


@pytest.mark.parametrize("change", ["address", "port", "service_id"])
def test_an_id_that_means_another_backend_now(rig: Rig, cast: Cast, change: str) -> None:
    """Ids are not reused soon, yet a pinned map is untrusted: the flow is over."""
    web(rig, cast.far)
    sent(rig, tcp(cast.client, cast.web), GATEWAY)
    other = {"address": cast.far_two, "port": 8081, "service_id": 9}[change]
    entry = replace(BackendEntry(*cast.backend, 1), **{change: other})  # type: ignore[arg-type]
    rig.maps.backends.put(Number(1), entry)
    sent(rig, tcp(cast.client, cast.web, "PA"), V.DROP_BACKEND_REMOVED, V.EVENT_REFUSED_RESET)


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_service_made_anew_on_the_same_address(rig: Rig, cast: Cast, protocol: str) -> None:
    """Its old backends went with it."""
    make = MAKERS[protocol]
    web(rig, cast.far, protocol=protocol)
    sent(rig, make(cast.client, cast.web), GATEWAY)
    web(rig, cast.far, protocol=protocol, first_id=2, service_id=2)
    remove(rig, 1)
    if protocol == "TCP":
        sent(rig, tcp(cast.client, cast.web, "PA"), V.DROP_BACKEND_REMOVED, V.EVENT_REFUSED_RESET)
        sent(rig, tcp(cast.client, cast.web), GATEWAY)
    else:
        sent(rig, udp(cast.client, cast.web), GATEWAY, V.EVENT_FLOW_MOVED)
    assert pair(rig)[0].service_id == 2


def affine(rig: Rig, cast: Cast, *numbers: int, seconds: int = 600) -> None:
    rig.service((*cast.web, "TCP"), {number: (cast.far_pod(number), 8080) for number in numbers}, affinity_s=seconds)


def chosen(rig: Rig, cast: Cast, port: int) -> str:
    return addresses(sent(rig, tcp((cast.pod, port), cast.web), GATEWAY))[2]


def used(rig: Rig, cast: Cast, number: int, seconds_ago: float) -> None:
    """The pod had backend `number` so long ago."""
    when = time.monotonic_ns() - int(seconds_ago * 1e9)
    rig.maps.affinity.put(AffinityKey(cast.pod, 1), Affinity(number, when))


def test_affinity_keeps_a_client_at_its_backend(rig: Rig, cast: Cast) -> None:
    affine(rig, cast, *range(1, 9))
    first = chosen(rig, cast, 1)
    assert {chosen(rig, cast, port) for port in range(2, 40)} == {first}


def test_without_affinity_nothing_is_remembered(rig: Rig, cast: Cast) -> None:
    affine(rig, cast, 1, 2, seconds=0)
    chosen(rig, cast, 1)
    assert dict(rig.maps.affinity.items()) == {}


@pytest.mark.parametrize(("seconds_ago", "kept"), [(500, True), (700, False), (-5, True)])
def test_affinity_ends_after_its_time(rig: Rig, cast: Cast, seconds_ago: float, kept: bool) -> None:
    """Another CPU may have used the entry a moment after this one read the clock: that is fresh."""
    affine(rig, cast, *range(1, 100))
    seen = set()
    for port in range(1, 6):
        used(rig, cast, 50, seconds_ago)
        seen.add(chosen(rig, cast, port))
    assert (seen == {cast.far_pod(50)}) is kept


def test_affinity_is_refreshed_by_every_connection(rig: Rig, cast: Cast) -> None:
    affine(rig, cast, *range(1, 100))
    used(rig, cast, 50, 590)
    before = time.monotonic_ns()
    assert chosen(rig, cast, 1) == cast.far_pod(50)
    entry = rig.maps.affinity.get(AffinityKey(cast.pod, 1))
    assert entry is not None
    assert (entry.backend_id, entry.last_used_ns >= before) == (50, True)


def test_affinity_is_not_refreshed_by_packets_of_a_connection(rig: Rig, cast: Cast) -> None:
    """The time runs from the last new connection (as kube-proxy's `recent` match counts them by packets of NEW)."""
    affine(rig, cast, 1)
    chosen(rig, cast, 1)
    used(rig, cast, 1, 100)
    sent(rig, tcp((cast.pod, 1), cast.web, "A"), GATEWAY)
    entry = rig.maps.affinity.get(AffinityKey(cast.pod, 1))
    assert entry is not None
    assert time.monotonic_ns() - entry.last_used_ns >= 100_000_000_000


@pytest.mark.parametrize("state", ["removed", "draining", "of another service"])
def test_affinity_to_a_backend_that_is_no_more(rig: Rig, cast: Cast, state: str) -> None:
    affine(rig, cast, 1)
    gone = {
        "draining": BackendEntry(cast.far_pod(2), 8080, 1, BACKEND_DRAINING),
        "of another service": BackendEntry(cast.far_pod(2), 8080, 9),
    }
    if state in gone:
        rig.maps.backends.put(Number(2), gone[state])
    used(rig, cast, 2, 1)
    assert chosen(rig, cast, 1) == cast.far_pod(1)
    entry = rig.maps.affinity.get(AffinityKey(cast.pod, 1))
    assert entry is not None
    assert entry.backend_id == 1


def test_affinity_of_two_services_and_two_clients(rig: Rig, cast: Cast) -> None:
    """Each client has its backend of each frontend."""
    affine(rig, cast, 1, 2)
    used(rig, cast, 2, 1)
    rig.maps.affinity.put(AffinityKey(cast.sibling, 1), Affinity(1, time.monotonic_ns()))
    rig.maps.affinity.put(AffinityKey(cast.pod, 2), Affinity(1, time.monotonic_ns()))
    assert {chosen(rig, cast, port) for port in range(1, 9)} == {cast.far_pod(2)}


def test_flows_are_counted_by_frontend(rig: Rig, cast: Cast) -> None:
    """Opened: new flows, not packets. Refused: each packet that found no backend."""
    web(rig, cast.far)
    for port in (1, 2, 3):
        sent(rig, tcp((cast.pod, port), cast.web), GATEWAY)
        sent(rig, tcp((cast.pod, port), cast.web, "A"), GATEWAY)
    rig.service((cast.vip_two, 80, "TCP"), {}, 2)
    for _ in range(2):
        sent(rig, tcp(cast.client, (cast.vip_two, 80)), V.DROP_NO_BACKEND, V.EVENT_REFUSED_RESET)
    assert {key.number: value for key, value in rig.maps.flow_counters.items()} == {
        1: FlowCounters(opened=3, refused=0),
        2: FlowCounters(opened=0, refused=2),
    }
