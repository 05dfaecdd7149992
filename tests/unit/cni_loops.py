"""The loops that the tests of the agent's door run under: asyncio's and uvloop's."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.fakes.cni_client import LOOPS, Scenario, run_on

Run = Callable[[Scenario], None]


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    return partial(run_on, request.param, tmp_path / "agent.sock")
