"""Conntrack entries put together again: pairs, halves, filters."""

from __future__ import annotations

import pytest

from datapath import flow_pairs
from datapath.abi import (
    CT_ANSWERED,
    CT_FORWARD,
    CT_REVERSE,
    CT_TO_SELF,
    HAIRPIN_ADDRESS,
    HAIRPIN_ADDRESS6,
    layout,
)
from datapath.entries import pack_ip
from datapath.flow_pairs import ANY, Packed, Pair, Wanted
from datapath.flows import Flow, Translation

POD, VIP, BACKEND = "10.1.0.10", "10.96.0.10", "10.9.0.30"


def forward(
    source: str = POD, port: int = 40000, backend: str = BACKEND, client_port: int = 0, vip: str = VIP, flags: int = 0
) -> Packed:
    key = Flow(source, port, vip, 80, "TCP", CT_FORWARD)
    return {key.encode(): Translation(backend, 8080, client_port or port, 7, 3, flags=flags).encode()}


def reverse(
    source: str = POD, port: int = 40000, backend: str = BACKEND, client_port: int = 0, vip: str = VIP
) -> Packed:
    key = Flow(backend, 8080, source, client_port or port, "TCP", CT_REVERSE)
    return {key.encode(): Translation(vip, 80, port, 7, 3, 99, CT_ANSWERED).encode()}


def pairs(entries: Packed, wanted: Wanted = ANY) -> list[Pair]:
    return [flow_pairs.pair(entries, found) for found in flow_pairs.find(entries, wanted)]


@pytest.mark.parametrize("client_port", [0, 50000], ids=["same-port", "new-port"])
def test_a_pair_is_one_flow(client_port: int) -> None:
    (pair,) = pairs(forward(client_port=client_port) | reverse(client_port=client_port))
    assert (pair.client.address, pair.client.port, pair.client.frontend) == (POD, 40000, VIP)
    assert (pair.backend, pair.backend_port, pair.source_port) == (BACKEND, 8080, client_port or 40000)
    assert (pair.flags, pair.last_seen_ns, pair.lost) == (CT_ANSWERED, 99, "")


@pytest.mark.parametrize(
    ("pod", "backend", "hairpin", "vip"),
    [
        (POD, POD, HAIRPIN_ADDRESS, VIP),
        ("fd00:1::10", "fd00:1::10", HAIRPIN_ADDRESS6, "fd00:96::10"),
        (POD, "10.1.0.99", HAIRPIN_ADDRESS, VIP),
    ],
    ids=["ipv4", "ipv6", "by-another-address"],
)
def test_a_pod_that_reaches_itself_is_one_flow(pod: str, backend: str, hairpin: str, vip: str) -> None:
    """Its answer goes to the hairpin address; its other half alone still names the pod."""
    answer = reverse(hairpin, backend=backend, vip=vip)
    (pair,) = pairs(forward(pod, backend=backend, vip=vip, flags=CT_TO_SELF) | answer)
    assert (pair.lost, pair.client.address, pair.backend) == ("", pod, backend)
    (orphan,) = pairs(answer)
    assert (orphan.lost, orphan.client.address, orphan.client.frontend) == ("forward", backend, vip)


def test_a_half_is_a_flow_too() -> None:
    (pair,) = pairs(forward())
    assert (pair.lost, pair.last_seen_ns) == ("reverse", None)
    (pair,) = pairs(reverse())
    assert (pair.lost, pair.last_seen_ns, pair.client, pair.backend) == ("forward", 99, pair.client, BACKEND)
    assert (pair.client.address, pair.client.port, pair.client.frontend, pair.client.frontend_port) == (
        POD,
        40000,
        VIP,
        80,
    )


def test_the_reverse_entry_of_another_flow_is_not_ours() -> None:
    """Two flows with one tuple on the wire: it belongs to the one whose port it names."""
    entries = forward() | forward(port=41000, client_port=40000) | reverse()
    assert [(pair.client.port, pair.lost) for pair in pairs(entries)] == [(40000, ""), (41000, "reverse")]


def test_filters() -> None:
    other = "10.1.0.11"
    entries = forward() | reverse() | forward(other) | reverse(other, port=41000) | forward(vip="10.96.0.11")
    clients = Wanted(clients=frozenset({pack_ip(other)}))
    assert [(one.client.address, one.lost) for one in pairs(entries, clients)] == [
        (other, "reverse"),
        (other, "forward"),
    ]
    frontends = Wanted(frontends=frozenset({flow_pairs.packed_frontend("10.96.0.11", 80, "TCP")}))
    assert [one.client.frontend for one in pairs(entries, frontends)] == ["10.96.0.11"]
    assert pairs(entries, Wanted(frontends=frozenset({flow_pairs.packed_frontend(VIP, 80, "UDP")}))) == []


def test_counts_by_backend() -> None:
    entries = forward() | reverse() | forward(port=40001)
    assert flow_pairs.count_by_backend(entries) == {3: 2}


def test_a_snapshot_is_the_batches() -> None:
    entries = forward() | reverse()
    batches = [(b"".join(entries), b"".join(entries.values()))]
    assert flow_pairs.snapshot(batches) == entries


def test_offsets_are_the_layouts() -> None:
    """The packed slices: what moves in abi.h has to move there."""
    assert layout("flow").size == 40
    key = Flow("1.2.3.4", 5, "6.7.8.9", 10, "UDP", CT_REVERSE).encode()
    assert (key[32:34], key[34:36], key[36], key[37]) == (b"\0\5", b"\0\n", 17, CT_REVERSE)
    value = Translation("1.2.3.4", 5, 6, 7, 8, flags=9).encode()
    assert (value[16:18], value[18:20]) == (b"\0\5", b"\0\6")
    assert (int.from_bytes(value[24:28], "little"), int.from_bytes(value[28:30], "little")) == (8, 9)
