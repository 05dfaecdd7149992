"""What `dragline trace` would say on the bench, and what from_pod counts."""

from __future__ import annotations

from agent.trace_facts import Facts
from agent.trace_reader import Reader
from allocator.attachments import AddressLease, Attachment
from datapath import verdicts
from datapath.abi import Verdict
from datapath.frontends import Frontend
from tests import packets as who
from tests.bpf.rig import SLAVE, Rig

WEB: tuple[str, int, str] = (who.VIP, 80, "TCP")
LEASES = (AddressLease("four", f"{who.POD_ONE}/24", who.GATEWAY), AddressLease("six", f"{who.POD_ONE_V6}/64", ""))
POD = Attachment(
    "lan", "c0ffee", "slave", "default", "one", "", "/run/netns/x", 1, 2, "ipvlan", "eth0", SLAVE, "", LEASES
)


def facts(rig: Rig, asked: tuple[str, int, str] = WEB, pod: Attachment = POD) -> Facts:
    """What a trace reads on the bench."""
    reader = Reader(rig.maps, Frontend(*asked), {}, {}, "off: a bench")
    return rig.inside(lambda: reader.read([pod]))


def counted(rig: Rig, frame: bytes) -> tuple[Verdict, ...]:
    """The verdict that from_pod counts, without the events beside it."""
    return tuple(one for one in rig.run("from_pod", frame).counted if verdicts.kind_of(one) != verdicts.EVENT)
