"""From Services to the maps: all of them after a start, a second start, and one changed endpoint, beside kube-proxy.

Ours is measured from the objects (or the store's event) to the return of the last system call. Of kube-proxy only what
it runs for the same is measured, on rules that are ready: one `iptables-restore`, one `nft -f`; deriving the rules from
the objects is its own work on top. The same changes also go through a real agent that watches a folder of manifests.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cluster.resources import EndpointSlice, parse
from perf import report, service_agent
from perf.service_bed import ENDPOINTS, Ours, Peer, address, fresh_maps, make_services, parsed, slice_object
from perf.service_rules import Rules, iptables_all, iptables_change, iptables_sync, nft_all, nft_change
from tests.unit.shelf import Shelf

RESULTS = Path(__file__).parent / "results"
IPTABLES, NFT = "iptables-restore", "nft"
SEED = 3


@dataclass(slots=True)
class Times:
    """Seconds of one side. `sync`: a change as kube-proxy writes it, with all of KUBE-SERVICES; `agent`: by a file."""

    full: float = 0.0
    again: float = 0.0
    change: list[float] = field(default_factory=list)
    agent: list[float] = field(default_factory=list)
    sync: list[float] = field(default_factory=list)


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=RESULTS / "service_sync.json", help="where to write the figures")
    parser.add_argument("--quick", action="store_true", help="1,000 Services beside the peers: under 50 s")
    parser.add_argument("--services", type=int, help="how many Services (default: 10,000)")
    options = parser.parse_args()
    count = options.services or (1_000 if options.quick else 10_000)
    services = make_services(count)
    ours = asyncio.run(measure_ours(services, 100 if options.quick else 500))
    ours.agent = service_agent.measure(services, changes(services, 30 if options.quick else 200))
    iptables = measure_iptables(services, 5 if options.quick else 20)
    nft = measure_nft(services, 5 if options.quick else 20)
    results = [*compare(ours, iptables, IPTABLES), *compare(ours, nft, NFT)]
    for name in (IPTABLES, NFT):
        rows = [row for row in results if row.peer_name == name]
        print(report.show(f"\n{count} Services of {ENDPOINTS} endpoints, beside {name}", rows), flush=True)
    report.write(options.json, [report.environment(services=count, endpoints=ENDPOINTS)], results)
    print(f"\nwritten: {options.json}")
    return 0


def changes(services: Sequence[Rules], count: int) -> list[tuple[Rules, Rules]]:
    """Random Services, each (once at most) before and after one of its endpoints was replaced."""
    random = Random(SEED)
    chosen = random.sample(services, min(count, len(services)))
    return [
        (one, one.with_endpoint(random.randrange(ENDPOINTS), address(12, number))) for number, one in enumerate(chosen)
    ]


async def measure_ours(services: Sequence[Rules], count: int) -> Times:
    """A start on empty maps, changes, and a start on the maps that are left."""
    objects = {one.kind + one.key: one for one in parsed(services)}
    times = Times()
    with fresh_maps() as root:
        ours = Ours(root, store := Shelf(*objects.values()))
        times.full = await ours.start()
        for _, new in changes(services, count):
            changed = parse(slice_object(new))
            assert isinstance(changed, EndpointSlice)
            before = ours.services.entries
            times.change.append(await ours.change(changed))
            assert ours.services.entries - before == 1, "one changed endpoint is one slot"
            await asyncio.sleep(0.005)
        await ours.stop()
        second = Ours(root, store)
        times.again = await second.start()
        assert second.services.entries == 0, "a second start writes nothing"
        await second.stop()
    return times


def measure_iptables(services: Sequence[Rules], count: int) -> Times:
    """The whole table, which kube-proxy also writes at every start, then changes."""
    times = Times()
    with Peer() as peer:
        times.full = times.again = peer.run(["iptables-restore"], iptables_all(services))
        for old, new in changes(services, count):
            command = ["iptables-restore", "--noflush"]
            times.change.append(peer.run(command, iptables_change(old, new)))
            times.sync.append(peer.run(command, iptables_sync(services, new, old)))
    return times


def measure_nft(services: Sequence[Rules], count: int) -> Times:
    """The same in transactions of nft."""
    times = Times()
    with Peer() as peer:
        times.full = times.again = peer.run(["nft", "-f", "-"], nft_all(services))
        for old, new in changes(services, count):
            times.change.append(peer.run(["nft", "-f", "-"], nft_change(old, new)))
    return times


def compare(ours: Times, peer: Times, name: str) -> list[report.Result]:
    """All rows beside one peer."""
    rows = [
        _once("start on empty maps", ours.full, peer.full, name),
        _once("start on the maps of an earlier agent", ours.again, peer.again, name),
        *_milliseconds("one changed endpoint", ours.change, peer.change, name),
    ]
    rows += _milliseconds("from a file, by the real agent", ours.agent, peer.change, name)
    if peer.sync:
        rows += _milliseconds("the same with all of KUBE-SERVICES, as kube-proxy does", ours.change, peer.sync, name)
    return rows


def _once(what: str, ours: float, peer: float, name: str) -> report.Result:
    return report.Result(what, "s", round(ours, 3), round(peer, 3), name, peer / ours, 1)


def _milliseconds(what: str, ours: Sequence[float], peer: Sequence[float], name: str) -> list[report.Result]:
    mine, theirs = [one * 1e3 for one in ours], [one * 1e3 for one in peer]
    return report.lower_is_better(what, "ms", mine, theirs, name, tail=99)


if __name__ == "__main__":
    raise SystemExit(main())
