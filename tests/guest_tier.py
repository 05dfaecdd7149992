"""The vm tier's bridge: pytest outside stands for each test, pytest inside a guest runs it.

Where the running kernel has ipvlan the tests simply run. Elsewhere one guest is booted for all selected tests; pytest
runs inside it and appends one JSON line per test to a report; the items outside take their outcome from there.
"""

from __future__ import annotations

import json
import os
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.testbed import vm

REPORT_VARIABLE = "DRAGLINE_GUEST_REPORT"
CHECKOUT = Path(__file__).parent.parent
BOOT_AND_RUN_S = 2400


def inside() -> bool:
    """Whether this pytest runs in the guest."""
    return REPORT_VARIABLE in os.environ


@cache
def needed() -> bool:
    """Whether the vm tier must go to a guest: the running kernel has no ipvlan."""
    return not inside() and not vm.has_ipvlan()


def unmet() -> str | None:
    """Why neither the running kernel nor a guest can run the vm tier, or None."""
    return vm.unmet() if needed() else None


def note(report: pytest.TestReport) -> None:
    """Inside: append the outcome of one test (its call, or a set-up or tear-down that did not pass)."""
    if not inside() or (report.when != "call" and report.passed):
        return
    line = {"nodeid": report.nodeid, "outcome": report.outcome, "text": report.longreprtext}
    with Path(os.environ[REPORT_VARIABLE]).open("a", encoding="utf-8") as out:
        out.write(json.dumps(line) + "\n")


class GuestFailure(Exception):
    """A test did not pass in the guest; the text is the guest's."""


class GuestItem(pytest.Item):
    """Stands outside for one test inside."""

    @classmethod
    def of(cls, item: pytest.Item) -> GuestItem:
        """The stand-in of a collected test, under the same name and marks."""
        stand_in = cls.from_parent(item.parent, name=item.name)
        stand_in.own_markers = list(item.own_markers)
        stand_in.extra_keyword_matches.update(item.listextrakeywords())
        return stand_in

    def runtest(self) -> None:
        """Take the outcome from the guest's report; the first item boots the guest."""
        outcome = _run_guest(self.session).get(self.nodeid)
        if outcome is None:
            raise GuestFailure("the guest ended before this test gave an outcome")
        if outcome["outcome"] == "skipped":
            pytest.skip(f"in the guest: {outcome['text']}")
        if outcome["outcome"] != "passed":
            raise GuestFailure(outcome["text"])

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None) -> str:
        """The guest's own failure text."""
        return str(excinfo.value)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where the test lies, for the summary."""
        return self.path, None, self.name


_outcomes = pytest.StashKey[dict[str, dict[str, str]]]()


def _run_guest(session: pytest.Session) -> dict[str, dict[str, str]]:
    """Outcome by node id of all selected vm tests; boots the guest at the first call."""
    if _outcomes in session.stash:
        return session.stash[_outcomes]
    nodeids = [item.nodeid for item in session.items if isinstance(item, GuestItem)]
    results = CHECKOUT / "build" / "guest"
    results.mkdir(parents=True, exist_ok=True)
    report = results / "report.jsonl"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", *nodeids]
    # PYTHONPATH: the virtual environment may have been made for another checkout.
    environment = {REPORT_VARIABLE: str(report), "PYTHONPATH": str(CHECKOUT)}
    with session.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        vm.run(command, environment=environment, writable=[results], timeout_s=BOOT_AND_RUN_S)
    outcomes: dict[str, dict[str, str]] = {}
    for line in report.read_text(encoding="utf-8").splitlines() if report.exists() else ():
        outcome = json.loads(line)
        known = outcomes.get(outcome["nodeid"])
        if known is None or known["outcome"] == "passed":
            outcomes[outcome["nodeid"]] = outcome
    session.stash[_outcomes] = outcomes
    return outcomes
