"""A pod calls a ClusterIP: by our programs, by the article's detour with kube-proxy's rules, and directly, in one run.

Every path is measured once in each round, in an order that rotates from round to round, so that drift hits all alike;
the ratios are medians over the rounds of what was measured in the same round. Client on CPU 0, server on CPU 1, one
connection at a time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agent.tables import table
from datapath import loader
from perf import report
from perf.clusterip_bed import Bed, Sample, measure
from perf.clusterip_paths import DIRECT, OURS, PEERS, Wanted, Way, build, versions

RESULTS = Path(__file__).parent / "results"
MODES = {
    "rr": ("request/response", "1/s", 1.0),
    "crr": ("connect, request/response, close", "1/s", 1.0),
    "up": ("stream to the Service", "Gb/s", 1e-9),
    "down": ("stream from the Service", "Gb/s", 1e-9),
}
Samples = dict[tuple[Way, str], list[Sample]]


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=RESULTS / "clusterip.json", help="where to write the figures")
    parser.add_argument("--quick", action="store_true", help="fewer Services, modes and rounds: under 50 s")
    parser.add_argument("--kind", choices=("macvlan", "ipvlan"), default="macvlan", help="kind of the pods' links")
    parser.add_argument("--families", default="4", help="4, 6 or 4,6")
    parser.add_argument("--services", default="", help="numbers of Services, such as 1,10000")
    parser.add_argument("--rounds", type=int, default=0, help="how often each path is measured")
    parser.add_argument("--far", action="store_true", help="the backend is behind the gateway, not on-link")
    parser.add_argument("--sources", type=Path, default=loader.SOURCES, help="another folder of programs to measure")
    options = parser.parse_args()
    modes = ("rr", "crr", "up") if options.quick else tuple(MODES)
    sizes = options.services or ("1,1000" if options.quick else "1,100,1000,10000")
    rounds = options.rounds or (3 if options.quick else 9)
    wanted = Wanted(options.kind, _numbers(options.families), _numbers(sizes), options.sources)
    environment = report.environment(
        link=options.kind, backend="behind the gateway" if options.far else "on-link", rounds=rounds, **versions()
    )
    with Bed(options.far) as bed:
        samples = sample(build(bed, wanted), modes, rounds, 0.3 if options.quick else 0.5)
    print(f"\n{options.kind} on Linux {environment['kernel']}, backend {environment['backend']}")
    for family in wanted.families:
        print(f"\nIPv{family}, in brackets: of direct\n{table(rows(samples, family, modes))}")
    report.write(options.json, [environment], results(samples))
    print(f"\nwritten: {options.json}")
    return 0


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


def sample(paths: Sequence[Way], modes: Sequence[str], rounds: int, seconds: float) -> Samples:
    """One warm-up of each path, then all rounds."""
    samples: Samples = {(path, mode): [] for path in paths for mode in modes}
    for path in paths:
        measure(path.pod, "crr", path.address, path.port, 0.05)
    for number in range(rounds):
        begin = number * len(paths) // rounds
        order = [*paths[begin:], *paths[:begin]]
        for mode in modes:
            for path in order if number % 2 else reversed(order):
                samples[path, mode].append(measure(path.pod, mode, path.address, path.port, seconds))
    return samples


def rows(samples: Samples, family: int, modes: Sequence[str]) -> list[Sequence[object]]:
    """The table for people: one line for each path."""
    heading = ["", "Services"]
    for mode in modes:
        heading += [f"{mode} {MODES[mode][1]}", ""] + (["p50 us"] if mode in ("rr", "crr") else [])
    lines: list[Sequence[object]] = [heading]
    for path in _paths(samples, family):
        line: list[object] = [path.name, path.services or "-"]
        for mode in modes:
            scale = MODES[mode][2]
            mine = samples[path, mode]
            rate = statistics.median(item.rate for item in mine) * scale
            line += [
                f"{rate:.2f}" if scale < 1 else f"{rate:.0f}",
                f"({against(samples, path, _direct(samples, path), mode):.3f})",
            ]
            if mode in ("rr", "crr"):
                line.append(f"{statistics.median(item.p50_us for item in mine):.1f}")
        lines.append(line)
    return lines


def results(samples: Samples) -> list[report.Result]:
    """Every path beside direct, and each of ours beside each peer with as many Services."""
    found = []
    for path, mode in samples:
        if path.name != DIRECT:
            found.append(_result(samples, path, _direct(samples, path), mode))
        if path.name in OURS:
            found += [_result(samples, path, peer, mode) for peer in _peers(samples, path)]
    return found


def against(samples: Samples, path: Way, peer: Way, mode: str) -> float:
    """Our rate divided by the peer's: the median over the rounds."""
    pairs = zip(samples[path, mode], samples[peer, mode], strict=True)
    return statistics.median(mine.rate / theirs.rate for mine, theirs in pairs)


def _result(samples: Samples, path: Way, peer: Way, mode: str) -> report.Result:
    title, unit, scale = MODES[mode]
    ours, theirs = (statistics.median(item.rate for item in samples[one, mode]) * scale for one in (path, peer))
    services = f", {path.services} Services" if path.services else ""
    name = f"IPv{path.family} {title}: {path.name}{services}"
    ratio = round(against(samples, path, peer, mode), 4)
    return report.Result(name, unit, round(ours, 3), round(theirs, 3), peer.name, ratio, len(samples[path, mode]))


def _paths(samples: Samples, family: int) -> list[Way]:
    return list(dict.fromkeys(path for path, _ in samples if path.family == family))


def _direct(samples: Samples, path: Way) -> Way:
    return next(one for one in _paths(samples, path.family) if one.name == DIRECT)


def _peers(samples: Samples, path: Way) -> list[Way]:
    return [one for one in _paths(samples, path.family) if one.name in PEERS and one.services == path.services]


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    raise SystemExit(main())
