"""Steps of the flow tests: send, receive, compare, look at the pair."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from datapath.abi import CT_FORWARD, CT_REVERSE, Verdict
from datapath.flows import Translation
from tests.bpf.rig import Outcome, Rig
from tests.packets import CASTS, VIP, VIP_TWO, Cast, End, cast_of, difference

WEB, WEB_TWO = (VIP, 80), (VIP_TWO, 80)
V = Verdict

in_both_families = pytest.mark.parametrize("cast", CASTS, ids=lambda cast: cast.name)


def web(rig: Rig, *addresses: str, protocol: str = "TCP", first_id: int = 1, service_id: int = 1) -> None:
    """The Service on port 80 with backends at `addresses`."""
    port = 80 if protocol == "SCTP" else 8080
    backends = {first_id + index: (address, port) for index, address in enumerate(addresses)}
    rig.service((cast_of(addresses[0]).vip, 80, protocol), backends, service_id)


def sent(rig: Rig, frame: bytes, verdict: Verdict, *events: Verdict) -> bytes:
    """The frame through from_pod; fails unless exactly this was counted."""
    return checked(rig.run("from_pod", frame), verdict, *events)


def received(rig: Rig, frame: bytes, verdict: Verdict = V.VERDICT_ANSWER, *events: Verdict) -> bytes:
    return checked(rig.run("to_pod", frame), verdict, *events)


def checked(done: Outcome, *counted: Verdict) -> bytes:
    assert done.counted == dict.fromkeys(counted, 1)
    return done.frame


def addresses(frame: bytes) -> tuple[str, int, str, int]:
    """Source and destination of a frame without IP options or extension headers."""
    if frame[12:14] == b"\x86\xdd":
        source, destination = (socket.inet_ntop(socket.AF_INET6, frame[at : at + 16]) for at in (22, 38))
        at = 54
    else:
        source, destination = (socket.inet_ntoa(frame[at : at + 4]) for at in (26, 30))
        at = 34
    ports = int.from_bytes(frame[at : at + 2], "big"), int.from_bytes(frame[at + 2 : at + 4], "big")
    return source, ports[0], destination, ports[1]


def same(found: bytes, wanted: bytes) -> None:
    assert found == wanted, difference(found, wanted)


@contextmanager
def half_open(rig: Rig, cast: Cast, remote: End) -> Iterator[None]:
    """A TCP socket of the pod, from its client port to `remote`, that is waiting for its SYN-ACK."""

    def connect() -> socket.socket:
        made = socket.socket(socket.AF_INET6 if cast.name == "v6" else socket.AF_INET)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(cast.client)
        made.setblocking(False)
        made.connect_ex(remote)
        return made

    with rig.inside(connect):
        yield


def pair(rig: Rig) -> tuple[Translation, Translation]:
    """The only forward and the only reverse entry."""
    table = dict(rig.maps.conntrack.items())
    forward = [entry for flow, entry in table.items() if flow.direction == CT_FORWARD]
    reverse = [entry for flow, entry in table.items() if flow.direction == CT_REVERSE]
    assert (len(forward), len(reverse)) == (1, 1), table
    return forward[0], reverse[0]


def quiet(rig: Rig) -> None:
    """As if no packet had come for long: both entries were touched in another tick of the coarse clock."""
    for flow, entry in list(rig.maps.conntrack.items()):
        seen = 1 if flow.direction == CT_REVERSE else 0
        rig.maps.conntrack.put(flow, replace(entry, touched=entry.touched ^ 0x8000, last_seen_ns=seen))
