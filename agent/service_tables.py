"""What `dragline services` prints. Pure: answers in, text out."""

from __future__ import annotations

from typing import Any

from agent.flow_texts import apart, duration
from agent.tables import table

_HEADINGS = ("SERVICE", "FRONTEND", "KIND", "AFFINITY", "BACKENDS", "FLOWS", "REFUSED")
_BACKEND_HEADINGS = ("BACKEND", "STATE", "WHERE", "ID", "FLOWS NOW")


def services(answer: dict[str, Any]) -> str:
    """A line a frontend; for one Service, each frontend with a line a backend."""
    rows = answer["frontends"]
    if not rows:
        return "No frontends: no Service can be called by this node's pods"
    if "of" not in rows[0]:
        return table([_HEADINGS, *map(_row, rows)], gap=2)
    parts = [f"{table([_HEADINGS, _row(row)], gap=2)}\n\n{_backends(row)}" for row in rows]
    return "\n\n".join([*parts, *apart(answer["socket_lb"])])


def _row(row: dict[str, Any]) -> tuple[object, ...]:
    affinity = duration(row["affinity_s"]) if row["affinity_s"] else "-"
    draining = f" (+{row['draining']} draining)" if row["draining"] else ""
    backends = f"{row['backends']}{draining}"
    return (row["service"], row["frontend"], row["kind"], affinity, backends, row["opened"], row["refused"])


def _backends(row: dict[str, Any]) -> str:
    rows = [(one["backend"], one["state"], one["where"], one["id"], one["flows"]) for one in row["of"]]
    if not rows:
        return "  no backends: calls are refused"
    return "\n".join(f"  {line}" for line in table([_BACKEND_HEADINGS, *rows], gap=2).splitlines())
