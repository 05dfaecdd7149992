"""What every benchmark prints and writes: a table with the peer beside us, and JSON with its environment."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agent.tables import table


@dataclass(frozen=True, slots=True)
class Result:
    """One figure: ours beside the peer's in the same run. ratio > 1: ours is better by that factor."""

    name: str
    unit: str
    ours: float
    peer: float
    peer_name: str
    ratio: float
    n: int


def lower_is_better(
    name: str, unit: str, ours: Sequence[float], peer: Sequence[float], peer_name: str, *, tail: int = 95
) -> list[Result]:
    """Median and a high percentile of two samples."""
    rows = []
    for label, percent in (("p50", 50), (f"p{tail}", tail)):
        mine, theirs = percentile(ours, percent), percentile(peer, percent)
        rows.append(
            Result(f"{name} {label}", unit, round(mine, 3), round(theirs, 3), peer_name, theirs / mine, len(ours))
        )
    return rows


def percentile(sample: Sequence[float], percent: int) -> float:
    """The median, or another percentile (nearest rank)."""
    if percent == 50:
        return statistics.median(sample)
    return sorted(sample)[min(len(sample) - 1, round(percent / 100 * len(sample)))]


def environment(**more: Any) -> dict[str, Any]:
    """Where a figure was taken."""
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ": ?")
    peers = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", "containernetworking-plugins"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "kernel": platform.release(),
        "cpu": model.partition(": ")[2],
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "containernetworking-plugins": peers.stdout,
        **more,
    }


def show(title: str, results: Sequence[Result]) -> str:
    """The table for people; "3.1x" reads: three times as fast as the peer."""
    rows: list[Sequence[object]] = [("", "unit", "dragline", results[0].peer_name, "ratio", "n")]
    rows += [(r.name, r.unit, f"{r.ours:.2f}", f"{r.peer:.2f}", f"{r.ratio:.1f}x", r.n) for r in results]
    return f"{title}\n{table(rows)}"


def write(path: Path, environments: Sequence[dict[str, Any]], results: Sequence[Result]) -> None:
    """`{"environment": ..., "results": [...]}`; with several environments, the first is `environment`."""
    content: dict[str, Any] = {"environment": environments[0], "results": [asdict(result) for result in results]}
    if len(environments) > 1:
        content["further_environments"] = list(environments[1:])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
