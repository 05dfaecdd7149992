"""Every way for a macvlan pod to call a Service: family x protocol x place of the backend x {tc, socket}."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.demo import scenario
from tests.testbed import dual_stack
from tests.testbed.bed import Bed
from tests.testbed.cells import CALLS, HAIRPIN, MACVLAN_PLACES, PATHS, Cell, Matrix, check_path
from tests.testbed.echo import EchoServers
from tests.testbed.workload import load

MACVLAN = {"linkKind": "macvlan", "mode": "bridge"}


@pytest.fixture(scope="module")
def matrix() -> Iterator[Matrix]:
    """Both agents run; nothing is filtered (each macvlan pod has a MAC of its own)."""
    manifests = [*load(scenario.MANIFESTS), *dual_stack.manifests()]
    with (
        Bed(manifests, scenario.CLUSTER_IPS, overrides=MACVLAN, filtered=False, cooldown_s=0) as bed,
        EchoServers() as servers,
    ):
        bed.start_agents()
        built = Matrix(bed, servers, MACVLAN_PLACES)
        built.build()
        yield built


@pytest.fixture(scope="module", params=PATHS)
def path(matrix: Matrix, request: pytest.FixtureRequest) -> str:
    """The path that calls take from here on."""
    matrix.choose_path(request.param)
    return str(request.param)


@pytest.mark.parametrize("place", MACVLAN_PLACES)
@pytest.mark.parametrize("protocol", CALLS)
@pytest.mark.parametrize("family", HAIRPIN)
def test_cell(matrix: Matrix, path: str, family: str, protocol: str, place: str):
    """The pod is answered as the Service says, the backend sees the pod, and the counters show the path."""
    cell = Cell(family, protocol, place)
    check_path(cell, path, "macvlan", matrix.run(cell))
