"""What became of packets, in words: the comments of `enum verdict` in bpf/lib/abi.h, which is their only home."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from datapath.abi import Verdict

_ABI = Path(__file__).resolve().parent.parent / "bpf" / "lib" / "abi.h"
_LINE = re.compile(r"^\s*((?:VERDICT|EVENT|DROP)_\w+) = \d+, /\* (.+?) \*/$", re.MULTILINE)

DROP, EVENT, VERDICT = "drop", "event", "verdict"
_RETIRED = "retired: "


@dataclass(frozen=True, slots=True)
class Reason:
    """One verdict: `kind` is "drop" (the packet ends), "event" (beside a verdict) or "verdict" (it goes on)."""

    number: int
    kind: str
    name: str
    meaning: str

    @property
    def retired(self) -> bool:
        """Whether no program gives it any more."""
        return self.meaning.startswith(_RETIRED)


def read(abi_header: Path = _ABI) -> dict[Verdict, Reason]:
    """Give every verdict's reason. KeyError naming the verdict that has no comment."""
    meanings = dict(_LINE.findall(abi_header.read_text(encoding="utf-8")))
    return {verdict: Reason(verdict, kind_of(verdict), name_of(verdict), meanings[verdict.name]) for verdict in Verdict}


def kind_of(verdict: Verdict) -> str:
    """Give "drop", "event" or "verdict"."""
    return verdict.name.partition("_")[0].lower()


def name_of(verdict: Verdict) -> str:
    """Give the name as people see it: DROP_NO_BACKEND is "no-backend"."""
    return verdict.name.partition("_")[2].lower().replace("_", "-")
