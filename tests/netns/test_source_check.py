"""A wired pod lies about who it is, by a packet socket: what comes out of the uplink, and what is counted."""

from __future__ import annotations

import errno
import socket

import pytest
from scapy.compat import raw
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from datapath.abi import Verdict
from datapath.maps import Maps
from tests.netns.agent_rig import GATEWAY, AgentRig
from tests.testbed import netns

BROADCAST, STRANGER = "ff:ff:ff:ff:ff:ff", "02:00:00:00:00:99"
MARK = b"who sent this?"


def lie(kind: str, own: str, mac: str) -> bytes:
    """A frame of the pod `own` with that MAC; broadcast, so nothing but the source decides what becomes of it."""
    if kind == "arp":
        return raw(Ether(src=mac, dst=BROADCAST) / ARP(op=2, hwsrc=mac, psrc=GATEWAY, pdst=own))
    source, smac = own if kind in ("mac", "truth") else GATEWAY, STRANGER if kind == "mac" else mac
    return raw(Ether(src=smac, dst=BROADCAST) / IP(src=source, dst="10.8.0.255") / UDP(sport=1, dport=2) / Raw(MARK))


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        ("truth", None),
        ("address", Verdict.DROP_FOREIGN_SOURCE),
        ("mac", Verdict.DROP_FOREIGN_MAC),
        ("arp", Verdict.DROP_FOREIGN_ARP),
    ],
)
def test_a_pod_that_lies(rig: AgentRig, kind: str, verdict: Verdict | None):
    container, answer = rig.add()
    own = answer.addresses[0].split("/")[0]
    mac = container.link()["address"]
    frame, last = lie(kind, own, mac), lie("truth", own, mac) + b"last"

    def listen() -> socket.socket:
        heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        heard.bind(("eth0-wire", 3))
        heard.settimeout(10)
        return heard

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as speaker:
            speaker.bind(("eth0", 0))
            try:
                speaker.send(frame)
            except OSError as error:  # the sender is told of a drop on its own device
                assert error.errno == errno.ENOBUFS, error
            speaker.send(last)  # nothing can come before this one any more

    with Maps(rig.config.bpf_root) as maps, netns.enter(rig.prefix, listen) as wire:
        before = maps.counters()
        netns.enter(container.netns, send)
        came = []
        while last not in came:
            came.append(wire.recv(2000))
        after = maps.counters()
    assert (frame in came) is (verdict is None)
    if verdict is not None:
        assert after[verdict] - before[verdict] == 1
