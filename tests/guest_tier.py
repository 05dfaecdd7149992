"""The vm tier's bridge: pytest outside stands for each test, pytest inside a guest runs it.

Where the running kernel has ipvlan the tests simply run. Elsewhere one guest is booted for all selected tests; pytest
runs inside it and appends one JSON line per test to a report; the items outside take their outcome from there. A test
marked `kernel("6.12")` runs on a kernel of that series: in a guest of it, unless the running one is.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.testbed import kernels, vm
from tests.testbed.kernels import Kernel

REPORT_VARIABLE = "DRAGLINE_GUEST_REPORT"
CHECKOUT = Path(__file__).parent.parent
BOOT_AND_RUN_S = 2400


def inside() -> bool:
    """Whether this pytest runs in the guest."""
    return REPORT_VARIABLE in os.environ


def series_of(item: pytest.Item) -> str | None:
    """The kernel series that a test is marked with, or None: any kernel with ipvlan will do."""
    marker = item.get_closest_marker("kernel")
    return marker.args[0] if marker else None


@cache
def needed(series: str | None) -> bool:
    """Whether such tests must go to a guest: the running kernel has no ipvlan, or is of another series."""
    if inside():
        return False
    return not vm.has_ipvlan() if series is None else not kernels.is_running(series)


def unmet(series: str | None) -> str | None:
    """Why neither the running kernel nor a guest can run such tests, or None."""
    if not needed(series):
        return None
    return vm.unmet() or (kernels.unmet(series) if series else None if kernels.installed() else kernels.NONE_INSTALLED)


def placed(item: pytest.Item, required: bool) -> pytest.Item:
    """The test itself where the running kernel can run it, else its stand-in, skipped when no guest can be booted.

    required: then it fails instead, alone, since the other tests need no fetched kernel.
    """
    series = series_of(item)
    if not needed(series):
        return item
    reason = unmet(series)
    if reason is not None and not required:
        item.add_marker(pytest.mark.skip(reason=f"this machine {reason}"))
        return item
    return GuestItem.of(item)


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

    @property
    def kernel(self) -> Kernel | None:
        """The kernel whose guest runs this test; None: not on this machine."""
        series = series_of(self)
        return kernels.find(series) if series else kernels.installed()

    def runtest(self) -> None:
        """Take the outcome from the guest's report; the first item of a kernel boots the guest."""
        if self.kernel is None:
            raise GuestFailure(f"this machine {unmet(series_of(self))}")
        run = _run_guest(self.session, self.kernel)
        outcome = run.outcomes.get(self.nodeid)
        if outcome is None:
            raise GuestFailure(run.failure or "the guest ended before this test gave an outcome")
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


@dataclass(frozen=True, slots=True)
class GuestRun:
    """What one guest gave: outcome by node id, and why there are no more ("" when it ran to its end)."""

    outcomes: dict[str, dict[str, str]]
    failure: str


_runs = pytest.StashKey[dict[Kernel, GuestRun]]()


def _run_guest(session: pytest.Session, kernel: Kernel) -> GuestRun:
    """The run of all selected tests of one kernel; boots the guest at the first call."""
    runs = session.stash.setdefault(_runs, {})
    if kernel in runs:
        return runs[kernel]
    nodeids = [item.nodeid for item in session.items if isinstance(item, GuestItem) and item.kernel == kernel]
    results = CHECKOUT / "build" / "guest"
    results.mkdir(parents=True, exist_ok=True)
    report = results / f"report-{kernel.release}.jsonl"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", *nodeids]
    failure = ""
    # PYTHONPATH: the virtual environment may have been made for another checkout.
    environment = {REPORT_VARIABLE: str(report), "PYTHONPATH": str(CHECKOUT)}
    with session.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        try:
            vm.run(
                command,
                environment=environment,
                writable=[results],
                timeout_s=BOOT_AND_RUN_S,
                kernel=kernel,
            )
        except vm.GuestError as error:
            failure = str(error)
    runs[kernel] = GuestRun(_outcomes(report), failure)
    return runs[kernel]


def _outcomes(report: Path) -> dict[str, dict[str, str]]:
    """By node id the outcome of each test: the first that is not passed, if any."""
    outcomes: dict[str, dict[str, str]] = {}
    for line in report.read_text(encoding="utf-8").splitlines() if report.exists() else ():
        outcome = json.loads(line)
        known = outcomes.get(outcome["nodeid"])
        if known is None or known["outcome"] == "passed":
            outcomes[outcome["nodeid"]] = outcome
    return outcomes
