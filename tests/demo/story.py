"""What the demo prints: numbered steps, commands with their output, one line of outcome per claim; < 90 columns."""

import contextlib
import subprocess
import textwrap
import time
from collections.abc import Iterator

from tests.demo.scenario import Deviation
from tests.testbed.kubelet import CniFailure
from tests.testbed.netns import TestbedError

WIDTH = 88


class Story:
    """Prints the steps and keeps the outcome of every claim."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._steps = 0
        self.outcomes: list[tuple[str, str]] = []

    @property
    def failed(self) -> list[str]:
        """The claims that did not hold."""
        return [claim for claim, wrong in self.outcomes if wrong]

    def title(self, text: str) -> None:
        """The first line."""
        self._print(text, "=" * min(len(text), WIDTH))

    def step(self, text: str) -> None:
        """A heading."""
        self._steps += 1
        heading = f"{self._steps}. {text}"
        self._print("", f"{heading} {'-' * max(0, WIDTH - len(heading) - 9)} {time.monotonic() - self._start:5.0f} s")

    def note(self, text: str) -> None:
        """A sentence of explanation."""
        self._print(textwrap.fill(text, WIDTH))

    def command(self, line: str, output: str = "") -> None:
        """A command as a user types it, with its output."""
        self._print("", f"~# {line}", *output.splitlines())

    @contextlib.contextmanager
    def claim(self, text: str) -> Iterator[None]:
        """Something the block shows: it holds unless the block raises a Deviation or something of the testbed fails.

        Either way the story goes on, so that one run shows everything that is wrong.
        """
        try:
            yield
        except (Deviation, CniFailure, TestbedError, subprocess.TimeoutExpired, OSError) as error:
            wrong = str(error) or type(error).__name__
            self.outcomes.append((text, wrong))
            self._print(f"   FAILED  {text}", textwrap.indent(wrong, " " * 11))
        else:
            self.outcomes.append((text, ""))
            self._print(f"   OK  {text}")

    def summary(self) -> None:
        """Every claim with its outcome."""
        self.step("Summary")
        for claim, wrong in self.outcomes:
            first = f": {wrong.splitlines()[0]}" if wrong else ""
            self._print(f"{'FAILED' if wrong else 'OK':<7} {claim}{first}")
        total, bad = len(self.outcomes), len(self.failed)
        self._print("", f"{total - bad} of {total} claims hold." if bad else f"All {total} claims hold.")

    def _print(self, *lines: str) -> None:
        for line in lines:
            print(line, flush=True)
