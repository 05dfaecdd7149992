"""What `dragline trace` prints. Pure: an answer in, text out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def trace(told: dict[str, Any]) -> str:
    """An answer as text."""
    width = max(len(stage["name"]) for stage in told["stages"])
    lines = [told["head"], ""]
    for number, stage in enumerate(told["stages"], 1):
        lines.append(f"{number:2} {stage['name']:<{width}}  {stage['decision']}")
        lines += [f"{'':{width + 5}}{line}" for line in stage["lines"]]
    return "\n".join([*lines, "", *_verdict_lines(told)])


def _verdict_lines(told: dict[str, Any]) -> Iterator[str]:
    if not told["verdicts"]:
        yield "Verdict: none: no packet reaches the programs"
    head = "Verdict" if len(told["verdicts"]) == 1 else "Verdict, one of"
    for verdict in told["hooked"]:
        yield f"Verdict: {_verdict(verdict)}"
        head = "Of packets that name the Service"
    for verdict in told["verdicts"]:
        yield f"{head}: {_verdict(verdict)}"


def _verdict(row: dict[str, Any]) -> str:
    kind = "DROP " if row["kind"] == "drop" else ""
    return f"{kind}{row['name']} ({row['number']}): {row['meaning']} [{row['packets']} so far]"
