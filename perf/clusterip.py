"""A pod calls a ClusterIP: by our programs, by the article's detour with kube-proxy's rules, and directly, in one run.

Every way is measured once in each round, in an order that rotates from round to round, and right after the direct one;
ratios are medians over the rounds of such pairs, so that drift does not count. Client on CPU 0, server on CPU 1, one
connection at a time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agent.tables import table
from datapath import loader
from perf import report
from perf.clusterip_bed import Bed, Sample
from perf.clusterip_paths import DIRECT, OURS, PEERS, Wanted, Way, build, versions

RESULTS = Path(__file__).parent / "results"
MODES = {
    "rr": ("request/response", "1/s", 1.0),
    "crr": ("connect, request/response, close", "1/s", 1.0),
    "up": ("stream to the Service", "Gb/s", 1e-9),
    "down": ("stream from the Service", "Gb/s", 1e-9),
}
LATENCIES = ("rr", "crr")


@dataclass(frozen=True, slots=True)
class Pair:
    """A run, and the direct one right before it."""

    mine: Sample
    direct: Sample

    @property
    def ratio(self) -> float:
        """Of the direct rate."""
        return self.mine.rate / self.direct.rate


Samples = dict[tuple[Way, str], list[Pair]]


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=RESULTS / "clusterip.json", help="where to write the figures")
    parser.add_argument("--quick", action="store_true", help="fewer Services, modes and rounds: under 50 s")
    parser.add_argument("--kind", choices=("macvlan", "ipvlan"), default="macvlan", help="kind of the pods' links")
    parser.add_argument("--families", default="", help="4, 6 or 4,6")
    parser.add_argument("--services", default="", help="numbers of Services, such as 1,10000")
    parser.add_argument("--rounds", type=int, default=0, help="how often each path is measured")
    parser.add_argument("--seconds", type=float, default=0.0, help="of one run (in a guest: 2, or it counts little)")
    parser.add_argument("--far", action="store_true", help="the backend is behind the gateway, not on-link")
    parser.add_argument("--sources", type=Path, default=loader.SOURCES, help="another folder of programs to measure")
    options = parser.parse_args()
    modes = ("rr", "crr", "up") if options.quick else tuple(MODES)
    sizes = options.services or ("1,1000" if options.quick else "1,100,1000,10000")
    rounds = options.rounds or (4 if options.quick else 12)
    families = options.families or ("4" if options.quick else "4,6")
    wanted = Wanted(options.kind, _numbers(families), _numbers(sizes), options.sources)
    environment = report.environment(
        link=options.kind, backend="behind the gateway" if options.far else "on-link", rounds=rounds, **versions()
    )
    with Bed(options.far) as bed:
        samples = sample(build(bed, wanted), modes, rounds, options.seconds or (0.1 if options.quick else 0.25))
    print(f"\n{options.kind} on Linux {environment['kernel']}, backend {environment['backend']}")
    for family in wanted.families:
        print(f"\nIPv{family}, in brackets: of direct\n{table(rows(samples, family, modes))}")
    report.write(options.json, [environment], results(samples))
    print(f"\nwritten: {options.json}")
    return 0


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


def sample(ways: Sequence[Way], modes: Sequence[str], rounds: int, seconds: float) -> Samples:
    """One warm-up of each way, then all rounds; right before each run the same is measured directly."""
    samples: Samples = {(way, mode): [] for way in ways for mode in modes}
    direct = {way.family: way for way in ways if way.name == DIRECT}
    for way in ways:
        way.measure("crr", 0.05)
    for number in range(rounds):
        begin = number * len(ways) // rounds
        for mode in modes:
            for way in (*ways[begin:], *ways[:begin]):
                beside = direct[way.family].measure(mode, seconds)
                samples[way, mode].append(Pair(way.measure(mode, seconds), beside))
        print(f"round {number + 1} of {rounds} is done", file=sys.stderr, flush=True)
    return samples


def rows(samples: Samples, family: int, modes: Sequence[str]) -> list[Sequence[object]]:
    """The table for people: one line for each way. The first one, direct beside itself, shows the noise."""
    heading = ["", "Services"]
    for mode in modes:
        heading += [f"{mode} {MODES[mode][1]}", ""] + (["p50 us"] if mode in LATENCIES else [])
    lines: list[Sequence[object]] = [heading]
    for way in dict.fromkeys(way for way, _ in samples if way.family == family):
        line: list[object] = [way.name, way.services or "-"]
        for mode in modes:
            pairs = samples[way, mode]
            line += [f"{rate(pairs, mode):.{0 if mode in LATENCIES else 1}f}", f"({of_direct(pairs):.3f})"]
            if mode in LATENCIES:
                line.append(f"{statistics.median(pair.mine.p50_us for pair in pairs):.1f}")
        lines.append(line)
    return lines


def results(samples: Samples) -> list[report.Result]:
    """Every way beside direct, and each of ours beside each peer with as many Services."""
    found = []
    for (way, mode), pairs in samples.items():
        title, unit, scale = MODES[mode]
        services = f", {way.services} Services" if way.services else ""
        name = f"IPv{way.family} {title}: {way.name}{services}"
        direct = statistics.median(pair.direct.rate for pair in pairs) * scale
        mine = round(rate(pairs, mode), 3)
        found.append(report.Result(name, unit, mine, round(direct, 3), DIRECT, round(of_direct(pairs), 4), len(pairs)))
        for peer in samples if way.name in OURS else ():
            if peer[1] == mode and _is_peer(way, peer[0]):
                theirs = samples[peer]
                ratio = statistics.median(a.ratio / b.ratio for a, b in zip(pairs, theirs, strict=True))
                figures = (mine, round(rate(theirs, mode), 3))
                found.append(report.Result(name, unit, *figures, peer[0].name, round(ratio, 4), len(pairs)))
    return found


def rate(pairs: Sequence[Pair], mode: str) -> float:
    """The median over the rounds, in the mode's unit."""
    return statistics.median(pair.mine.rate for pair in pairs) * MODES[mode][2]


def of_direct(pairs: Sequence[Pair]) -> float:
    """The median over the rounds of the rate as a part of the direct one right before it."""
    return statistics.median(pair.ratio for pair in pairs)


def _is_peer(way: Way, other: Way) -> bool:
    return other.name in PEERS and (other.services, other.family) == (way.services, way.family)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    raise SystemExit(main())
