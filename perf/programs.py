"""Nanoseconds per packet of each program and path, by PROG_TEST_RUN, beside an empty program, at several table sizes.

A program that rewrites sees its own output when it is repeated inside the kernel. So two Services that have each other
as their backend keep an established flow going: every repetition translates, and the next one translates back. New
flows are single runs, one source port each.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from scapy.compat import raw
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datapath import bpfcall, loader
from datapath.abi import ADDRESS_CLUSTER_IP, ADDRESS_ENDPOINTS, ADDRESS_FRONTEND, Verdict
from datapath.entries import BackendEntry, ServiceEntry, ServiceKey
from datapath.table import Number
from perf import report
from tests import packets as who
from tests.bpf.rig import SLAVE, Rig
from tests.netns.node import load_program

SIZES = (10, 1_000, 10_000)
BACKENDS = 10
VIPS = {4: (who.VIP, who.VIP_TWO), 6: (who.VIP_V6, "fd00:96::11")}
PODS = {4: who.POD_ONE, 6: who.POD_ONE_V6}
FAR = {4: who.FAR, 6: who.FAR_V6}
_FAMILIES = {4: "IPv4", 6: "IPv6"}


@contextmanager
def bench() -> Iterator[Rig]:
    """A rig on a bpffs of its own, gone afterwards."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dragline-perf-"))
        subprocess.run(["mount", "-t", "bpf", "bpf", folder], check=True)
        stack.callback(subprocess.run, ["umount", folder], check=True)
        programs = stack.enter_context(loader.load(Path(folder) / "dragline"))
        rig = Rig(programs)
        stack.callback(rig.close)
        yield rig


def fill(rig: Rig, services: int) -> None:
    """`services` Services of ten backends each that no frame calls: what a lookup has to find its way through."""
    backends, slots = [], []
    for number in range(services):
        address, service_id = f"10.{97 + number // 65536}.{number // 256 % 256}.{number % 256}", 1000 + number
        for slot in range(1, BACKENDS + 1):
            backend_id = 1_000 + number * BACKENDS + slot
            backends.append((Number(backend_id), BackendEntry(f"10.9.{slot}.{number % 256}", 8080, service_id)))
            slots.append((ServiceKey(address, 80, "TCP", slot), ServiceEntry(backend_id=backend_id)))
        slots.append((ServiceKey(address, 80, "TCP", 0), ServiceEntry(service_id, count=BACKENDS)))
        rig.maps.mark_address(address, ~0, ADDRESS_FRONTEND | ADDRESS_CLUSTER_IP | ADDRESS_ENDPOINTS)
    rig.maps.backends.put_many(backends)
    rig.maps.services.put_many(slots)


def make(family: int, protocol: str, source: tuple[str, int], destination: tuple[str, int], flags: str = "A") -> bytes:
    """A frame with 5 bytes of payload."""
    network = IP(src=source[0], dst=destination[0]) if family == 4 else IPv6(src=source[0], dst=destination[0])
    if protocol == "TCP":
        transport = TCP(sport=source[1], dport=destination[1], flags=flags, options=[("MSS", 1460)])
    else:
        transport = UDP(sport=source[1], dport=destination[1])
    return raw(Ether(src=who.OWN_MAC, dst=who.GATEWAY_MAC) / network / transport / Raw(b"hello"))


def repeated(rig: Rig, program: int, frame: bytes, repeat: int) -> float:
    """Mean ns of one run."""
    return rig.inside(lambda: bpfcall.prog_test_run(program, frame, SLAVE, repeat)).duration_ns


def established(rig: Rig, family: int, protocol: str) -> tuple[bytes, bytes]:
    """A flow between two Services that are each other's backend: a request of it, and an answer."""
    first, second = VIPS[family]
    number = family * 10 + (protocol == "TCP")  # ids belong to one frontend
    rig.service((first, 80, protocol), {number: (second, 80)}, number)
    rig.service((second, 80, protocol), {100 + number: (first, 80)}, 100 + number)
    client = (PODS[family], 40000)
    opening = rig.run("from_pod", make(family, protocol, client, (first, 80), "S"))
    back = rig.run("from_pod", make(family, protocol, client, (second, 80), "S"))
    for done in (opening, back):
        if Verdict.VERDICT_SERVICE_GATEWAY not in done.counted:
            raise SystemExit(f"the flow did not open: {done.counted}")
    return make(family, protocol, client, (first, 80)), make(family, protocol, (second, 80), client)


def new_flows(rig: Rig, family: int, protocol: str, count: int) -> list[float]:
    """ns of single runs that open a flow each."""
    rig.service((VIPS[family][0], 81, protocol), {family: (FAR[family], 8080)}, family)
    fd, taken = rig.programs.fd("from_pod"), []
    frames = [make(family, protocol, (PODS[family], 1024 + n), (VIPS[family][0], 81), "S") for n in range(count)]

    def run() -> None:
        taken.extend(bpfcall.prog_test_run(fd, frame, SLAVE).duration_ns for frame in frames)

    rig.inside(run)
    return taken


def single_runs(rig: Rig, program: int, frame: bytes, count: int) -> list[float]:
    """ns of single runs of one program."""
    return rig.inside(lambda: [bpfcall.prog_test_run(program, frame, SLAVE).duration_ns for _ in range(count)])


def measure(rig: Rig, size: int, rounds: int, repeat: int) -> list[report.Result]:
    """All paths at one table size; medians of `rounds` runs, each beside the empty program's in the same round."""
    rig.reset()
    fill(rig, size)
    empty = load_program()
    cases: dict[str, Callable[[], float]] = {}
    for family, text in _FAMILIES.items():
        for protocol in ("TCP", "UDP"):
            request, answer = established(rig, family, protocol)
            direct = make(family, protocol, (PODS[family], 50000), (FAR[family], 443))
            foreign = make(family, protocol, (FAR[family], 443), (PODS[family], 50000))
            for name, program, frame in (
                ("from_pod: pass-through", "from_pod", direct),
                ("from_pod: service, established", "from_pod", request),
                ("to_pod: pass-through", "to_pod", foreign),
                ("to_pod: answer", "to_pod", answer),
            ):
                fd = rig.programs.fd(program)
                cases[f"{name}, {text} {protocol}"] = lambda fd=fd, frame=frame: repeated(rig, fd, frame, repeat)
    samples: dict[str, list[float]] = {name: [] for name in cases}
    idle: list[float] = []
    frame = make(4, "TCP", (who.POD_ONE, 50000), (who.FAR, 443))
    for _ in range(rounds):
        idle.append(repeated(rig, empty, frame, repeat))
        for name, run in cases.items():
            samples[name].append(run())
    results = [row(f"{name}, {size} Services", values, idle, repeat * rounds) for name, values in samples.items()]
    for family, text in _FAMILIES.items():
        flows = new_flows(rig, family, "TCP", 2000)
        alone = single_runs(rig, empty, frame, 2000)
        results.append(row(f"from_pod: new flow, {text} TCP, {size} Services", flows, alone, 2000))
    os.close(empty)
    return results


def row(name: str, ours: Sequence[float], empty: Sequence[float], n: int) -> report.Result:
    """Medians; the ratio is empty over ours, so below 1."""
    mine, theirs = statistics.median(ours), statistics.median(empty)
    return report.Result(name, "ns", mine, theirs, "empty program", theirs / mine, n)


def main() -> int:
    """Measure, print, write; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="two table sizes, fewer repetitions (under 50 s)")
    given = parser.parse_args()
    sizes = (10, 10_000) if given.quick else SIZES
    rounds, repeat = (7, 100_000) if given.quick else (15, 300_000)
    with bench() as rig:
        results = [result for size in sizes for result in measure(rig, size, rounds, repeat)]
    print(report.show("ns per packet (PROG_TEST_RUN)", results))
    if given.json:
        report.write(given.json, [report.environment()], results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
