"""Tables for people, as kubectl and `cilium status` users expect them. Pure: answers in, text out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

GAP = 3
"""Spaces between columns, as kubectl has them."""


def table(rows: Iterable[Sequence[object]], gap: int = GAP) -> str:
    """Rows of cells as left-aligned columns, the first row being the headings; no trailing spaces."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = ((" " * gap).join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in texts)
    return "\n".join(line.rstrip() for line in lines)


def pools(answer: Sequence[dict[str, Any]]) -> str:
    """`kubectl get spiderippool`: the columns of Spiderpool's CRD."""
    heading = ("NAME", "VERSION", "SUBNET", "ALLOCATED-IP-COUNT", "TOTAL-IP-COUNT", "DEFAULT")
    if not answer:
        return "No resources found"
    rows = [
        (row["name"], row["version"], row["subnet"], row["allocated"], row["total"], str(row["default"]).lower())
        for row in answer
    ]
    return table([heading, *rows])


def status(answer: dict[str, Any]) -> str:
    """`dragline status`: one line a subject, then what is wrong."""
    attachments = answer["attachments"]
    lines = [
        ("Agent", "Ready" if answer["ready"] else "NOT READY: " + "; ".join(answer["not_ready"])),
        ("Node", answer["node"]),
        ("Version", answer["version"]),
        ("Kernel", answer["kernel"]),
        ("Store", answer["store"]),
        ("Datapath", f"{answer['datapath']} ({answer['datapath_reason']})"),
        ("Programs", answer["programs"]),
        ("Socket LB", answer["socket_lb"]),
        ("Uplinks", ", ".join(answer["uplinks"]) or "none used yet"),
        ("Attachments", ", ".join(f"{count} {state}" for state, count in attachments.items()) or "none"),
        ("Services", _services(answer)),
        ("Conntrack", f"{answer['conntrack']['entries']} of {answer['conntrack']['capacity']} entries"),
        ("Journal", answer["journal"]),
    ]
    width = max(len(name) for name, _ in lines) + 1
    text = "\n".join(f"{name + ':':<{width}} {value}" for name, value in lines)
    missing = [f"  {item}" for item in answer["missing"]]
    without = ["Without eBPF:", *missing] if missing else []
    problems = [f"  {problem['source']}: {problem['message']}" for problem in answer["problems"]]
    return "\n".join([text, *without, f"Problems:    {len(problems) or 'none'}", *problems])


def _services(answer: dict[str, Any]) -> str:
    if answer["missing"]:
        return "by kube-proxy"
    return f"{answer['frontends']} frontends, {answer['backends']} backends"
