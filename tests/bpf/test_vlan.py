"""A VLAN tag that lies beside the frame, as a VLAN device leaves it (a tag within the frame: rows_source.py)."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator

import pytest

from datapath import bpfcall
from datapath.abi import CALL_FROM_POD
from tests.bpf.flow_steps import V, in_both_families
from tests.bpf.rig import SHOT, SLAVE, UNSPEC, Rig
from tests.bpf.rows_node import uplink_pods
from tests.bpf.runner import Runner
from tests.netns.node import libc
from tests.packets import OWN_MAC, V4, Cast, arp, icmp, tcp

VLAN_PUSH, TAIL_CALL, PROG_ARRAY = 18, 12, 3


def instruction(code: int, to: int = 0, value: int = 0, source: int = 0) -> bytes:
    return struct.pack("=BBhi", code, to | source << 4, 0, value)


def tagging(calls: int, slot: int) -> int:
    """A program that puts a VLAN tag beside the frame and then runs what is in a slot of `calls`."""
    code = (
        instruction(0xBF, 6, source=1),  # r6 = skb
        instruction(0xB7, 2, 0x0081),  # 802.1Q in network order
        instruction(0xB7, 3, 7),
        instruction(0x85, value=VLAN_PUSH),
        instruction(0xBF, 1, source=6),
        instruction(0x18, 2, calls, source=1) + instruction(0),
        instruction(0xB7, 3, slot),
        instruction(0x85, value=TAIL_CALL),
        instruction(0xB7, 0, 99),
        instruction(0x95),
    )
    text, licence = b"".join(code), ctypes.create_string_buffer(b"GPL")
    buffer = ctypes.create_string_buffer(text, len(text))
    attr = struct.pack(
        "=IIQQIIQII", 3, len(text) // 8, ctypes.addressof(buffer), ctypes.addressof(licence), 0, 0, 0, 0, 0
    )
    fd = int(libc.syscall(321, 5, ctypes.create_string_buffer(attr, len(attr)), len(attr)))
    assert fd >= 0, os.strerror(ctypes.get_errno())
    return fd


@pytest.fixture
def tagged_from_pod(rig: Rig) -> Iterator[Runner]:
    fd = tagging(rig.maps.fd("calls"), CALL_FROM_POD)
    yield Runner(fd, SLAVE)
    os.close(fd)


@pytest.fixture
def tagged_node_to_pod(rig: Rig) -> Iterator[Runner]:
    calls = bpfcall.map_create(PROG_ARRAY, 4, 4, 1, flags=0, name="vlan_test")
    bpfcall.update(calls, bytes(4), struct.pack("=I", rig.programs.fd("node_to_pod")))
    fd = tagging(calls, 0)
    yield Runner(fd, SLAVE)
    os.close(fd)
    os.close(calls)


def verdict_of(rig: Rig, runner: Runner, frame: bytes) -> tuple[int, set[V]]:
    before = rig.maps.counters()
    code, _ = rig.inside(lambda: runner.run(frame))
    after = rig.maps.counters()
    return code, {verdict for verdict in V if after[verdict] != before[verdict]}


@in_both_families
def test_pod_sends_with_a_tag(rig: Rig, tagged_from_pod: Runner, cast: Cast) -> None:
    rig.service((*cast.web, "TCP"), {1: cast.backend})
    for frame in (tcp(cast.client, cast.web), tcp(cast.client, (cast.far, 80)), icmp(cast.pod, cast.sibling)):
        assert verdict_of(rig, tagged_from_pod, frame) == (SHOT, {V.DROP_FOREIGN_PROTOCOL})


def test_pod_speaks_arp_with_a_tag(rig: Rig, tagged_from_pod: Runner) -> None:
    assert verdict_of(rig, tagged_from_pod, arp(V4.pod, V4.sibling)) == (SHOT, {V.DROP_FOREIGN_PROTOCOL})


@in_both_families
def test_node_sends_with_a_tag(rig: Rig, tagged_node_to_pod: Runner, cast: Cast) -> None:
    """A VLAN device of the node on the uplink: another network, where the pod's address may be somebody else's."""
    uplink_pods(rig)
    frame = icmp(cast.node, cast.sibling, dmac=OWN_MAC)
    assert verdict_of(rig, tagged_node_to_pod, frame) == (UNSPEC, {V.VERDICT_PASS})
