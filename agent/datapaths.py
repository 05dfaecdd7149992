"""Which kind of datapath this node gets, and what is missing without eBPF.

The kernel's version decides, not a probe: what one of our programs would meet on an older kernel is not tested.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datapath import sysctl
from datapath.plans import EBPF, NETLINK

OLDEST_KERNEL = (5, 10)
"""The oldest Linux whose helpers the programs can count on."""
MISSING = (
    "ClusterIPs go through this node's kube-proxy, which must masquerade pods (--masquerade-all, or a --cluster-cidr "
    "without the pools' subnets): backends see the node's address",
    "hairpin, session affinity, traffic policies and what happens to flows of removed backends are kube-proxy's",
    "Service addresses outside --service-cidr (external IPs, load balancers) go to the gateway",
    "no socket load balancing",
    "no check of the source addresses and MACs of pods",
    "no counters, no drop reasons, nothing to see by services, conntrack, drops and trace",
    "siblings in another subnet or on another uplink are reached through the gateway",
    "policy rules of the node that look elsewhere than in the main table lead the node's answers past its pods",
    "an address that the node gets later is reached through the gateway by pods that run already",
)


class DatapathRefused(Exception):
    """This node cannot have the datapath that was asked for; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The kind of datapath, and why it is that one."""

    name: str
    reason: str

    @property
    def missing(self) -> tuple[str, ...]:
        """What the node goes without."""
        return MISSING if self.name == NETLINK else ()


def new_enough(release: str) -> bool:
    """Whether the programs can run on a kernel of this release ("5.10.0-28-amd64"). Raises ValueError for no release.

    A distribution's backports do not count.
    """
    found = re.match(r"(\d+)\.(\d+)", release)
    if found is None:
        raise ValueError(f"kernel release {release!r} does not begin with a version")
    return (int(found[1]), int(found[2])) >= OLDEST_KERNEL


def choose(wanted: str, release: str) -> Choice:
    """The datapath for `wanted` "auto", "ebpf" or "netlink" on a kernel. Raises DatapathRefused."""
    try:
        fits = new_enough(release)
    except ValueError as error:
        raise DatapathRefused(f"{error}: choose with --datapath=netlink") from error
    if wanted == "auto":
        age = "5.10 or newer" if fits else "older than 5.10"
        return Choice(EBPF if fits else NETLINK, f"chosen: Linux {release} is {age}")
    if wanted == EBPF and not fits:
        text = (
            f"Linux {release} is too old for --datapath=ebpf, which needs 5.10 or newer: boot a newer kernel, or use "
            "--datapath=netlink with --service-cidr (host routes and kube-proxy)"
        )
        raise DatapathRefused(text)
    return Choice(wanted, f"by --datapath={wanted}")


def refuse_change(note: Path, choice: Choice, pods: int) -> None:
    """Keep the kind of datapath in the file `note`. Raises DatapathRefused where pods are wired for the other, OSError.

    Without a note, they are wired for eBPF: agents that did not know another wrote none.
    """
    before = note.read_text(encoding="ascii").strip() if note.exists() else EBPF
    if pods and before != choice.name:
        text = (
            f"{pods} pods of this node are wired for the {before} datapath, this start has {choice.name} "
            f"({choice.reason}): start with --datapath={before}, or drain the node first"
        )
        raise DatapathRefused(text)
    new = note.with_suffix(".new")
    new.write_text(f"{choice.name}\n", encoding="ascii")
    new.replace(note)


def problems(choice: Choice, service_cidr: Sequence[str]) -> list[str]:
    """What keeps pods from ClusterIPs for sure; [] with eBPF. Reads two switches of the node."""
    if choice.name != NETLINK:
        return []
    if not service_cidr:
        return ["--service-cidr is missing: pods do not reach ClusterIPs; give what kube-apiserver has"]
    found = []
    for family, switch in ((4, "net.ipv4.ip_forward"), (6, "net.ipv6.conf.all.forwarding")):
        if any((":" in cidr) == (family == 6) for cidr in service_cidr) and not sysctl.forwards(family):
            found.append(f"{switch} is 0: pods do not reach ClusterIPs; kube-proxy needs it on, too")
    return found
