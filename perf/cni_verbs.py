"""ADD and DEL from exec to exit, through the shim and through the reference plugins, in one run.

On the running kernel macvlan + host-local is the peer, with Debian's kernel (in a guest where the running kernel has no
ipvlan) ipvlan + host-local. In a guest time is emulated: only the ratios count.

Both sides get the same: a pod's netns that exists, the arguments a kubelet's runtime passes, configurations of one
network with a /20, state on the same file system. Calls alternate, so that drift hits both.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from perf import report
from perf.plugin_calls import Call, Chain, burst, once
from perf.verbs_node import VerbsNode
from tests.testbed import vm

RESULTS = Path(__file__).parent / "results"
PARALLEL = 50


def main() -> int:
    """Measure on the running kernel, then with ipvlan; print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=RESULTS / "cni_verbs.json", help="where to write the figures")
    parser.add_argument("--quick", action="store_true", help="fewer calls, running kernel only: under 50 s")
    parser.add_argument("--kind", choices=("macvlan", "ipvlan"), help="only this kind of link, on this kernel")
    options = parser.parse_args()
    if options.kind or options.quick:
        environment, results = measure(
            options.kind or "macvlan", 30 if options.quick else 100, 100 if options.quick else 200
        )
        report.write(options.json, [environment], results)
        return 0
    environment, results = measure("macvlan", 100, 200)
    inner = in_guest() if not vm.has_ipvlan() else measure("ipvlan", 100, 200)
    report.write(options.json, [environment, inner[0]], [*results, *inner[1]])
    print(f"\nwritten: {options.json}")
    return 0


def in_guest() -> tuple[dict[str, object], list[report.Result]]:
    """The ipvlan half, in a guest with Debian's kernel; its table is printed by the guest."""
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / "cni_verbs_guest.json"
    command = [sys.executable, "perf/cni_verbs.py", "--kind", "ipvlan", "--json", str(target)]
    code = vm.run(command, writable=[RESULTS], timeout_s=1200)
    if code != 0:
        raise SystemExit(f"the guest's half failed with exit code {code}")
    content = json.loads(target.read_text(encoding="utf-8"))
    target.unlink()
    return content["environment"] | {"emulated": True}, [report.Result(**row) for row in content["results"]]


def measure(kind: str, single: int, many: int) -> tuple[dict[str, object], list[report.Result]]:
    """All figures for one kind of link: `single` calls one at a time, bursts of `many`."""
    environment = report.environment(link=kind)
    with VerbsNode(kind) as node:
        ours, peer = node.ours(), node.peer()
        peer_name = f"{kind} + host-local"
        results = one_at_a_time(node, ours, peer, peer_name, single)
        results += bursts(node, ours, peer, peer_name, many)
    title = f"\n{kind} on Linux {environment['kernel']}"
    print(report.show(title, results), flush=True)
    return environment, results


def one_at_a_time(node: VerbsNode, ours: Chain, peer: Chain, peer_name: str, count: int) -> list[report.Result]:
    """ADD and DEL of one pod after the other, milliseconds from exec to exit."""
    times: dict[tuple[str, str], list[float]] = {}
    for number in range(count + 3):
        for name, chain in (("ours", ours), ("peer", peer)):
            with node.pod() as pod:
                for verb in ("ADD", "DEL"):
                    spent = once(Call(chain, verb, pod))
                    if number >= 3:  # the first few warm caches on both sides
                        times.setdefault((name, verb), []).append(spent * 1e3)
    return [
        row
        for verb in ("ADD", "DEL")
        for row in report.lower_is_better(f"{verb}", "ms", times["ours", verb], times["peer", verb], peer_name)
    ]


def bursts(node: VerbsNode, ours: Chain, peer: Chain, peer_name: str, count: int) -> list[report.Result]:
    """`count` ADDs, then as many DELs, 50 in parallel: pods per second. For DEL also until every link is gone."""
    rates: dict[tuple[str, str], float] = {}
    for name, chain in (("peer", peer), ("ours", ours)):
        with pods(node, count) as names:
            rates[name, "ADD"] = count / burst([Call(chain, "ADD", pod) for pod in names], PARALLEL)
            begin = time.perf_counter()
            rates[name, "DEL"] = count / burst([Call(chain, "DEL", pod) for pod in names], PARALLEL)
            node.wait_gone(names)
            rates[name, "DEL until gone"] = count / (time.perf_counter() - begin)
    return [
        report.Result(
            f"{verb} burst of {count}, {PARALLEL} parallel",
            "pods/s",
            round(rates["ours", verb], 1),
            round(rates["peer", verb], 1),
            peer_name,
            rates["ours", verb] / rates["peer", verb],
            count,
        )
        for verb in ("ADD", "DEL", "DEL until gone")
    ]


@contextmanager
def pods(node: VerbsNode, count: int) -> Iterator[Sequence[str]]:
    """That many empty sandboxes."""
    with ExitStack() as stack:
        yield [stack.enter_context(node.pod()) for _ in range(count)]


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    raise SystemExit(main())
