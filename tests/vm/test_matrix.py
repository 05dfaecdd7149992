"""Every way for an IPvlan pod to call a Service: family x protocol x place of the backend x {tc, socket}."""

from collections.abc import Iterator

import pytest

from tests.demo import scenario
from tests.testbed.bed import Bed
from tests.testbed.cells import CALLS, HAIRPIN, PATHS, PLACES, Cell, Matrix, check_path
from tests.testbed.echo import EchoServers


@pytest.fixture(scope="module")
def matrix(bed: Bed, empty_state: dict[str, frozenset[str]]) -> Iterator[Matrix]:
    """The pods, servers and Services; gone without a trace afterwards."""
    with EchoServers() as servers:
        built = Matrix(bed, servers, PLACES)
        built.build()
        try:
            yield built
        finally:
            built.remove()
    scenario.wait_for_services(bed, frontends=1, backends=0)
    scenario.nothing_left(bed, empty_state, services=True)


@pytest.fixture(scope="module", params=PATHS)
def path(matrix: Matrix, request: pytest.FixtureRequest) -> str:
    """The path that calls take from here on; the last one is the bed's own."""
    matrix.choose_path(request.param)
    return str(request.param)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("protocol", CALLS)
@pytest.mark.parametrize("family", HAIRPIN)
def test_cell(matrix: Matrix, path: str, family: str, protocol: str, place: str):
    """The pod is answered as the Service says, the backend sees the pod, and the counters show the path."""
    cell = Cell(family, protocol, place)
    check_path(cell, path, "ipvlan", matrix.run(cell))


def test_the_cloud_dropped_nothing(matrix: Matrix):
    """No call left with a source, or under a MAC, that the cloud did not assign."""
    refused = {key: counter for key, counter in matrix.bed.vpc.counters().items() if counter.dropped}
    assert not refused
