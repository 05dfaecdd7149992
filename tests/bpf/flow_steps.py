"""Steps of the flow tests: send, receive, compare, look at the pair."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from datapath.abi import CT_FORWARD, CT_REVERSE, Verdict
from datapath.flows import Translation
from tests.bpf.rig import Outcome, Rig
from tests.packets import FAR, POD_ONE, VIP, VIP_TWO, difference

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
    return checked(rig.run("from_pod", frame), verdict, *events)


def received(rig: Rig, frame: bytes, verdict: Verdict = V.VERDICT_ANSWER) -> bytes:
    return checked(rig.run("to_pod", frame), verdict)


def checked(done: Outcome, *counted: Verdict) -> bytes:
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
    table = dict(rig.maps.conntrack.items())
    forward = [entry for flow, entry in table.items() if flow.direction == CT_FORWARD]
    reverse = [entry for flow, entry in table.items() if flow.direction == CT_REVERSE]
    assert (len(forward), len(reverse)) == (1, 1), table
    return forward[0], reverse[0]
