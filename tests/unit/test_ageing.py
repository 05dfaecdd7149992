"""When a flow is over, and who is whose twin."""

from __future__ import annotations

from socket import IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP

import pytest

from datapath.abi import (
    CT_ANSWERED,
    CT_PEER_FIN,
    CT_POD_FIN,
    CT_RESET,
    CT_TO_SELF,
    HAIRPIN_ADDRESS,
    HAIRPIN_ADDRESS6,
)
from datapath.ageing import (
    SECOND_NS,
    Orphans,
    Walk,
    forward_key,
    idle_limit_ns,
    keys_of,
    pair_of_forward,
    pair_of_reverse,
    reverse_key,
)
from datapath.flows import Flow, Translation

MINUTE, HOUR = 60, 3600
NOW = 100_000 * SECOND_NS
FINS = CT_POD_FIN | CT_PEER_FIN
TCP, UDP, SCTP = IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP
NAMES = {TCP: "TCP", UDP: "UDP", SCTP: "SCTP", 99: "99"}

LIMITS = [
    pytest.param(TCP, 0, MINUTE, id="tcp not answered"),
    pytest.param(TCP, CT_ANSWERED, 6 * HOUR, id="tcp established"),
    pytest.param(TCP, CT_ANSWERED | CT_POD_FIN, HOUR, id="tcp half closed by the pod"),
    pytest.param(TCP, CT_ANSWERED | CT_PEER_FIN, HOUR, id="tcp half closed by the peer"),
    pytest.param(TCP, CT_POD_FIN, HOUR, id="tcp fin without an answer"),
    pytest.param(TCP, CT_ANSWERED | FINS, 10, id="tcp closed"),
    pytest.param(TCP, CT_RESET, 10, id="tcp refused"),
    pytest.param(TCP, CT_ANSWERED | CT_RESET | CT_POD_FIN, 10, id="tcp reset"),
    pytest.param(SCTP, 0, MINUTE, id="sctp not answered"),
    pytest.param(SCTP, CT_ANSWERED, 6 * HOUR, id="sctp established"),
    pytest.param(SCTP, FINS, 10, id="sctp closed"),
    pytest.param(UDP, 0, MINUTE, id="udp not answered"),
    pytest.param(UDP, CT_ANSWERED, MINUTE, id="udp answered"),
    pytest.param(99, CT_ANSWERED, MINUTE, id="another protocol"),
    pytest.param(TCP, CT_ANSWERED | 0x8000, 6 * HOUR, id="flags of the future"),
]


def forward(
    protocol: str = "TCP", port: int = 40000, backend: str = "10.9.0.30", number: int = 7
) -> tuple[bytes, bytes]:
    """A pod's flow to 10.96.0.10:80, on the wire from port 41000."""
    key = Flow("10.1.0.10", port, "10.96.0.10", 80, protocol, 0)
    return key.encode(), Translation(backend, 8080, 41000, 1, number, touched=3).encode()


def reverse(
    protocol: str = "TCP", flags: int = CT_ANSWERED, seen: int = NOW, backend: str = "10.9.0.30"
) -> tuple[bytes, bytes]:
    """Its twin."""
    key = Flow(backend, 8080, "10.1.0.10", 41000, protocol, 1)
    return key.encode(), Translation("10.96.0.10", 80, 40000, 1, 7, seen, flags).encode()


def walked(*entries: tuple[bytes, bytes]) -> Walk:
    walk = Walk(NOW)
    walk.take(b"".join(key for key, _ in entries), b"".join(value for _, value in entries))
    return walk


@pytest.mark.parametrize(("protocol", "flags", "limit_s"), LIMITS)
def test_a_flow_ends_after_its_silence_and_not_before(protocol: int, flags: int, limit_s: int) -> None:
    assert idle_limit_ns(protocol, flags) == limit_s * SECOND_NS
    kept = reverse(NAMES[protocol], flags, NOW - limit_s * SECOND_NS)
    over = reverse(NAMES[protocol], flags, NOW - limit_s * SECOND_NS - 1)
    assert walked(forward(NAMES[protocol]), kept).expired == []
    assert walked(forward(NAMES[protocol]), over).expired == [over]


def test_what_no_clock_of_ours_wrote_is_over() -> None:
    assert walked(reverse(seen=NOW + 5 * SECOND_NS)).expired == [], "seen while the walk went on"
    wild = reverse(seen=2**64 - 1)
    assert walked(wild).expired == [wild]


@pytest.mark.parametrize(
    ("pod", "vip", "backend", "answer_to"),
    [
        pytest.param("10.1.0.10", "10.96.0.10", "10.9.0.30", "10.1.0.10", id="ipv4"),
        pytest.param("fd00::10", "fd00:96::10", "fd00::30", "fd00::10", id="ipv6"),
        pytest.param("10.1.0.10", "10.96.0.10", "10.1.0.10", HAIRPIN_ADDRESS, id="to itself"),
        pytest.param("fd00::10", "fd00:96::10", "fd00::10", HAIRPIN_ADDRESS6, id="to itself by ipv6"),
        pytest.param("10.1.0.10", "10.96.0.10", "10.2.0.10", HAIRPIN_ADDRESS, id="to another address of its own"),
    ],
)
def test_twins(pod: str, vip: str, backend: str, answer_to: str) -> None:
    """As set_answer and set_reverse of bpf/lib/conntrack.h make them."""
    flags = CT_TO_SELF if answer_to != pod else 0
    value = Translation(backend, 8080, 41000, 1, 7, flags=flags).encode()
    key = Flow(pod, 40000, vip, 80, "SCTP", 0).encode()
    answer = Flow(backend, 8080, answer_to, 41000, "SCTP", 1).encode()
    state = Translation(vip, 80, 40000, 1, 7, NOW, CT_ANSWERED).encode()
    assert reverse_key(key, value) == answer
    assert pair_of_forward(key, value) == pair_of_reverse(answer, state)
    walk = walked((key, value), (answer, state))
    assert walk.orphans()[:2] == Orphans()[:2]
    assert keys_of(pair_of_forward(key, value), walk.callers) == (key, answer)
    if backend in (pod, "10.9.0.30", "fd00::30"):  # of the other the reverse entry alone does not know
        assert forward_key(answer, state) == key


def test_figures() -> None:
    walk = walked(forward(), reverse(), forward(port=40001), forward(port=40002, number=9))
    assert walk.entries == 4
    assert walk.flows == {7: 2, 9: 1}


@pytest.mark.parametrize(
    ("entries", "orphans"),
    [
        pytest.param([forward(), reverse()], (0, 0), id="a pair"),
        pytest.param([forward()], (1, 0), id="forward only"),
        pytest.param([reverse()], (0, 1), id="reverse only"),
        pytest.param([forward(), reverse(seen=0)], (0, 0), id="a pair that is over"),
        pytest.param([forward(), reverse(backend="10.9.0.31")], (1, 1), id="the reverse entry of an older life"),
        pytest.param([forward(), reverse(), reverse(backend="10.9.0.31")], (0, 1), id="beside the living one"),
        pytest.param([forward(port=50000), forward(), reverse()], (1, 0), id="a reverse entry taken over by another"),
        pytest.param([forward(), reverse("UDP")], (1, 1), id="another protocol"),
    ],
)
def test_orphans(entries: list[tuple[bytes, bytes]], orphans: tuple[int, int]) -> None:
    found = walked(*entries).orphans()
    assert (len(found.forwards), len(found.reverses)) == orphans
    assert found.also_in(found) == found
    assert found.also_in(Orphans()) == Orphans()
