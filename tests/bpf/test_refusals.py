"""How often a pod is told, and what becomes of a packet when it is not (rows_refusal.py has the answers themselves)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from datapath import bpfcall
from datapath.abi import CALL_BACK_TO_POD, REFUSALS_AT_ONCE, REFUSALS_PER_S, U32, layout
from tests.bpf.flow_steps import V, in_both_families
from tests.bpf.rig import REDIRECT, SHOT, SLAVE, Outcome, Rig
from tests.bpf.rows_refusal import empty
from tests.fragments import DESTINATION_OPTIONS, extended
from tests.packets import V4, V6, Cast, icmp, tcp, udp

REFUSALS = layout("refusals")
ONE = 1_000_000_000  # `left` counts in billionths
SECOND_NS = 1_000_000_000


def had(rig: Rig, left: float, seconds_ago: float) -> None:
    """So many refusals were left to the pod, so long ago."""
    when = time.monotonic_ns() - int(seconds_ago * SECOND_NS)
    bpfcall.update(rig.maps.fd("refusals"), U32.pack(SLAVE), REFUSALS.pack(when, int(left * ONE)))


def left(rig: Rig) -> float:
    raw = bpfcall.lookup(rig.maps.fd("refusals"), U32.pack(SLAVE), REFUSALS.size)
    assert raw is not None
    return float(REFUSALS.unpack(raw)[1]) / ONE


def told(rig: Rig, frame: bytes) -> int:
    """Whether the pod was told: 1 or 0."""
    done = rig.run("from_pod", frame)
    if done.code == REDIRECT:
        assert V.EVENT_REFUSAL_LIMITED not in done.counted
        return 1
    assert done == Outcome(SHOT, done.frame, {V.DROP_NO_BACKEND: 1, V.EVENT_REFUSAL_LIMITED: 1})
    return 0


@in_both_families
@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_first_refusal_takes_one(rig: Rig, cast: Cast, protocol: str) -> None:
    empty(cast, protocol)(rig)
    make = tcp if protocol == "TCP" else udp
    assert told(rig, make(cast.client, cast.web)) == 1
    assert left(rig) == REFUSALS_AT_ONCE - 1


def test_so_many_at_once_and_no_more(rig: Rig) -> None:
    """What comes back while the loop runs is told too, and nothing beyond."""
    empty(V4, "UDP")(rig)
    frame = udp(V4.client, V4.web)
    start = time.monotonic()
    count = sum(told(rig, frame) for _ in range(REFUSALS_AT_ONCE + 500))
    came_back = (time.monotonic() - start) * REFUSALS_PER_S
    assert REFUSALS_AT_ONCE <= count <= REFUSALS_AT_ONCE + came_back + 1


@in_both_families
@pytest.mark.parametrize(("before", "seconds_ago"), [(0.0, 2.0 / REFUSALS_PER_S), (0.0, 60.0), (2.5, 0.0)])
def test_refusals_come_back_with_time(rig: Rig, cast: Cast, before: float, seconds_ago: float) -> None:
    empty(cast, "TCP")(rig)
    had(rig, before, seconds_ago)
    assert told(rig, tcp(cast.client, cast.web)) == 1


def test_no_more_than_a_full_bucket_comes_back(rig: Rig) -> None:
    empty(V4, "TCP")(rig)
    for seconds_ago in (3.0, 9.0, 10.0, 20.0):
        had(rig, REFUSALS_AT_ONCE, seconds_ago)
        assert told(rig, tcp(V4.client, V4.web)) == 1
        assert left(rig) == REFUSALS_AT_ONCE - 1


def test_clock_of_another_cpu_is_ahead(rig: Rig) -> None:
    """It used the last one a moment after this CPU read the clock: nothing has come back."""
    empty(V4, "TCP")(rig)
    had(rig, 0.0, -5.0)
    assert [told(rig, tcp(V4.client, V4.web)) for _ in range(5)] == [0] * 5


def test_each_pod_has_its_own(rig: Rig) -> None:
    empty(V4, "TCP")(rig)
    bpfcall.update(rig.maps.fd("refusals"), U32.pack(SLAVE + 1), REFUSALS.pack(time.monotonic_ns() + SECOND_NS, 0))
    assert told(rig, tcp(V4.client, V4.web)) == 1


def test_echo_replies_are_no_refusals(rig: Rig) -> None:
    rig.service((*V4.web, "TCP"), {7: V4.backend})
    had(rig, 0.0, -5.0)
    assert rig.run("from_pod", icmp(V4.pod, V4.vip)).counted == {V.VERDICT_ECHO: 1}


def test_more_than_is_quoted(rig: Rig) -> None:
    """Extension headers beyond what is quoted: the pod is not told, and no counter says that it was."""
    empty(V6, "UDP")(rig)
    done = rig.run("from_pod", extended(udp(V6.client, V6.web), (DESTINATION_OPTIONS, 128)))
    assert (done.code, done.counted) == (SHOT, {V.DROP_NO_BACKEND: 1})


@contextmanager
def without_back_to_pod(rig: Rig) -> Iterator[None]:
    rig.maps.clear_call(CALL_BACK_TO_POD)
    try:
        yield
    finally:
        rig.maps.set_call(CALL_BACK_TO_POD, rig.programs.fd("back_to_pod"))


@in_both_families
def test_nothing_leaves_without_back_to_pod(rig: Rig, cast: Cast) -> None:
    """An empty slot: dropped and counted, the echo request too."""
    rig.service((*cast.web, "TCP"), {7: cast.backend})
    with without_back_to_pod(rig):
        for frame, verdict in {
            tcp(cast.client, (cast.vip, 81)): V.DROP_UNKNOWN_PORT,
            icmp(cast.pod, cast.vip): V.VERDICT_ECHO,
        }.items():
            assert rig.run("from_pod", frame) == Outcome(SHOT, frame, {verdict: 1})


@in_both_families
def test_answers_come_by_the_holder_too(rig: Rig, cast: Cast) -> None:
    """Two tail calls in a row."""
    empty(cast, "TCP")(rig)
    done = rig.run("hold_egress", tcp(cast.client, cast.web))
    assert (done.code, done.counted) == (REDIRECT, {V.DROP_NO_BACKEND: 1, V.EVENT_REFUSED_RESET: 1})


@in_both_families
def test_answers_arrive_as_they_are(rig: Rig, cast: Cast) -> None:
    """The slave's ingress hook sees the answer, and has nothing to translate."""
    for protocol, make in (("TCP", tcp), ("UDP", udp)):
        empty(cast, protocol)(rig)
        answer = rig.run("from_pod", make(cast.client, cast.web)).frame
        assert rig.run("to_pod", answer) == Outcome(-1, answer, {V.VERDICT_PASS: 1})
