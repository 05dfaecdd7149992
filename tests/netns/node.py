"""A throw-away node for tests of real links: a netns with a veth as uplink, pods beside it, and how to look at both.

The namespaces have no names: they live as long as the descriptors here, so nothing is left when a test dies.
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from datapath import netlink
from datapath.kernel import Datapath
from datapath.loader import Programs
from datapath.maps import Maps
from datapath.wiring import PodAddress, PodWiring

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def in_thread(work: Callable[[], T]) -> T:
    """The result (or exception) of `work`, run in a thread that dies with it."""
    results: list[T] = []
    failures: list[BaseException] = []

    def body() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - handed on to the caller
            failures.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def new_netns() -> int:
    """A descriptor of a fresh network namespace."""

    def body() -> int:
        assert libc.unshare(CLONE_NEWNET) == 0
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    return in_thread(body)


def inside(netns_fd: int, work: Callable[[], T]) -> T:
    """The result of `work` in a netns."""

    def body() -> T:
        assert libc.setns(netns_fd, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        return work()

    return in_thread(body)


def ip(netns_fd: int, *commands: str) -> str:
    """Run command lines in a netns; the output of the last. Several "ip" (or "tc") ones run in one process."""
    for tool in ("ip", "tc"):
        if len(commands) > 1 and all(re.match(rf"{tool} \w", command) for command in commands):
            return batch(netns_fd, tool, *(command.split(" ", 1)[1] for command in commands))
    return [_output(netns_fd, command.split()) for command in commands][-1]


def batch(netns_fd: int, tool: str, *lines: str) -> str:
    """The output of all lines, which `tool` (with its options) reads from one batch."""
    return _output(netns_fd, [*tool.split(), "-batch", "-"], "".join(f"{line}\n" for line in lines))


def _output(netns_fd: int, command: list[str], stdin: str = "") -> str:
    def body() -> str:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, f"{' '.join(command)}: {stdin} {done.stderr}"
        return done.stdout

    return inside(netns_fd, body)


def load_program(verdict: int = -1) -> int:
    """A descriptor of a tc program that only returns `verdict` (-1 = TC_ACT_UNSPEC: go on)."""
    code = struct.pack("=BBhi", 0xB7, 0, 0, verdict) + struct.pack("=BBhi", 0x95, 0, 0, 0)
    text, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")
    attr = struct.pack("=IIQQIIQII", 3, 2, ctypes.addressof(text), ctypes.addressof(licence), 0, 0, 0, 0, 0)
    fd = int(libc.syscall(321, 5, ctypes.create_string_buffer(attr, len(attr)), len(attr)))
    assert fd >= 0, os.strerror(ctypes.get_errno())
    return fd


def program_id(fd: int) -> int:
    """The kernel's number of the BPF program behind a descriptor."""
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("prog_id:"))


class NodePrograms:
    """The real programs; a test may put another one in the place of one of them."""

    def __init__(self, loaded: Programs) -> None:
        self.loaded, self.instead = loaded, dict[str, int]()

    def fd(self, name: str) -> int:
        return self.instead.get(name) or self.loaded.fd(name)

    def close(self) -> None:
        """Close what tests put in; the loaded ones are the session's."""
        for fd in self.instead.values():
            os.close(fd)


class NodeMaps(Maps):
    """The real maps, which remember what was forgotten and can be emptied."""

    def __init__(self, bpf_root: Path) -> None:
        super().__init__(bpf_root)
        self.forgotten: list[set[str]] = []

    def forget(self, addresses: set[str]) -> int:
        self.forgotten.append(addresses)
        return super().forget(addresses)

    def empty(self) -> None:
        """Delete every pod and local address."""
        for ifindex in self.pods():
            Maps.delete_pod(self, ifindex)
        for key in self.locals():
            Maps.delete_local(self, key.address, key.uplink_ifindex)


class Node:
    """A netns with the uplink "eth0" (10.7.0.1/24, fd07::1/64) and "eth1" without address; their peers are up."""

    def __init__(self, loaded: Programs) -> None:
        self.netns = new_netns()
        self.pods: list[int] = []
        self.programs, self.maps = NodePrograms(loaded), NodeMaps(loaded.bpf_root)
        self.maps.empty()
        self.kernel = Datapath(loaded.bpf_root, self.programs, self.maps)
        commands = ["ip link set lo up"]
        for name in ("eth0", "eth1"):
            commands.append(f"ip link add {name} type veth peer name {name}-wire")
            # Without link-local addresses nothing changes by itself (their duplicate detection ends seconds later).
            commands += [f"ip link set {end} addrgenmode none up" for end in (f"{name}-wire", name)]
        ip(self.netns, *commands)
        self._wait_for_carrier()
        ip(self.netns, "ip addr add 10.7.0.1/24 dev eth0", "ip addr add fd07::1/64 dev eth0 nodad")
        self.uplink = self.run(lambda: netlink.uplink("eth0"))
        self.uplink_without_address = self.run(lambda: netlink.uplink("eth1"))

    def _wait_for_carrier(self) -> None:
        """The kernel notes a carrier up to a second later, and adds IPv6 routes then: not while a test compares."""
        deadline = time.monotonic() + 10
        while batch(self.netns, "ip -o", "link show").count("state UP") < 4:
            assert time.monotonic() < deadline, "the uplinks have no carrier"
            time.sleep(0.01)

    def run(self, work: Callable[[], T]) -> T:
        """The result of `work` in a throw-away thread in the node's netns, as the agent would run it."""
        return inside(self.netns, work)

    def new_pod(self) -> int:
        """A descriptor of a fresh pod netns."""
        self.pods.append(new_netns())
        return self.pods[-1]

    def close(self) -> None:
        """Drop the namespaces; the kernel takes the links with them."""
        self.kernel.close()
        self.programs.close()
        self.maps.empty()
        self.maps.close()
        for fd in (self.netns, *self.pods):
            with suppress(OSError):
                os.close(fd)


IFINDEX = 0x100007
FOUR, SIX = PodAddress("10.7.0.20/24", "10.7.0.254"), PodAddress("fd07::20/64", "fd07::fe")


def pod_wiring(node: Node, **changes: Any) -> PodWiring:
    """A dual-stack macvlan pod on the node's eth0, apart from what is changed."""
    facts = PodWiring(
        kind="macvlan",
        mode="bridge",
        mtu=0,
        uplink=node.uplink,
        ifname="eth0",
        ifindex=IFINDEX,
        addresses=(FOUR, SIX),
        routes=(),
        default_route=True,
        node_addresses=("10.7.0.1", "fd07::1", "192.168.3.4"),
        container_id="c0ffee",
    )
    return replace(facts, **changes)


def kernel_has_ipvlan() -> bool:
    """Whether a link of kind ipvlan can be made here."""
    netns = new_netns()
    try:
        ip(netns, "ip link add a type veth peer name b", "ip link add c link a type ipvlan")
    except AssertionError:
        return False
    finally:
        os.close(netns)
    return True


def fingerprint(netns_fd: int) -> frozenset[tuple[str, int]]:
    """What wiring could leave in a netns: links, addresses, routes, permanent neighbours, qdiscs and filters.

    As output lines of ip and tc, each with how often it occurs. The loopback link is left out: wiring sets it up, and
    undoing that is nobody's wish. So are link-local addresses, which come, and change while duplicate detection runs,
    by themselves.
    """
    seen = batch(netns_fd, "ip -o", "link show", "addr show", "neigh show nud permanent", "route show table all")
    links = [line.split(": ")[1].partition("@")[0] for line in seen.splitlines() if re.match(r"\d+: \S+: <", line)]
    filters = [f"filter show dev {link} {side}" for link in links for side in ("egress", "ingress")]
    seen += batch(netns_fd, "ip -6 -o", "route show table all") + batch(netns_fd, "tc", "qdisc show", *filters)
    lines = (re.sub(r" state [A-Z]+", "", line) for line in seen.splitlines())  # operational state settles by itself
    return frozenset(Counter(line for line in lines if _is_telling(line)).items())


def _is_telling(line: str) -> bool:
    return "fe80:" not in line and not {"lo", "lo:"} & set(line.split())
