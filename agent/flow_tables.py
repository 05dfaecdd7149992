"""What `dragline conntrack` and `dragline drops` print. Pure: answers in, text out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agent.flow_texts import apart, duration
from agent.tables import table
from datapath.verdicts import DROP, EVENT

_FLOW_HEADINGS = ("POD", "PROTO", "CLIENT", "FRONTEND", "BACKEND", "STATE", "IDLE", "NOTE")
_DROP_HEADINGS = ("NUMBER", "KIND", "REASON", "PACKETS", "MEANING")


def conntrack(answer: dict[str, Any], limit: int) -> str:
    """A line a flow, then what was left out."""
    flows, matching = answer["flows"], answer["matching"]
    full = f"{answer['entries']} of {answer['capacity']} entries used"
    if not flows:
        return "\n".join([f"No flows ({full})", *apart(answer["socket_lb"])])
    lines = [table([_FLOW_HEADINGS, *map(_flow, flows)], gap=2)]
    if len(flows) < matching:
        lines.append(f"{len(flows)} of {matching} flows shown (--limit {limit}; --limit 0 shows all); {full}")
    return "\n".join([*lines, *apart(answer["socket_lb"])])


def _flow(row: dict[str, Any]) -> tuple[object, ...]:
    frontend = "direct" if row["direct"] else row["frontend"]
    idle = "-" if row["idle_s"] is None else duration(row["idle_s"])
    note = ", ".join(_notes(row))
    return (row["pod"], row["protocol"], row["client"], frontend, row["backend"], row["state"], idle, note)


def _notes(row: dict[str, Any]) -> Iterator[str]:
    if row["source_port_changed"]:
        yield f"port {row['source_port']} on the wire"
    if row["backend_state"] in ("draining", "removed"):
        yield f"backend {row['backend_state']}"
    if row["lost"]:
        yield f"orphan: {row['lost']} entry lost"


def drops(answer: list[dict[str, Any]], *, everything: bool) -> str:
    """A line a reason that dropped something or is worth knowing; with `everything` all that is counted."""
    if everything:
        return _reasons(answer)
    dropped = [row for row in answer if row["kind"] == DROP and row["packets"]]
    noted = [row for row in answer if row["kind"] == EVENT and row["packets"]]
    if not dropped and not noted:
        return "Nothing was dropped"
    return _reasons([*dropped, *noted]) + ("" if dropped else "\nNothing was dropped")


def _reasons(rows: list[dict[str, Any]]) -> str:
    cells = [(row["number"], row["kind"], row["name"], row["packets"], row["meaning"]) for row in rows]
    return table([_DROP_HEADINGS, *cells], gap=2)
