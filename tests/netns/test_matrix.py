"""Every way for a macvlan pod to call a Service: family x protocol x place of the backend x {tc, socket}."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.testbed.bed import Bed
from tests.testbed.cells import CALLS, HAIRPIN, MACVLAN_PLACES, Cell, Matrix, check_path
from tests.testbed.echo import EchoServers


@pytest.fixture(scope="module")
def built(dual_stack_bed: Bed, echo_servers: EchoServers) -> Iterator[Matrix]:
    """The pods, servers and Services."""
    matrix = Matrix(dual_stack_bed, echo_servers, MACVLAN_PLACES)
    matrix.build()
    yield matrix
    matrix.remove()


@pytest.fixture(scope="module")
def matrix(built: Matrix, path: str) -> Matrix:
    """Every Service is served on the path."""
    built.choose_path(path)
    return built


@pytest.mark.parametrize("place", MACVLAN_PLACES)
@pytest.mark.parametrize("protocol", CALLS)
@pytest.mark.parametrize("family", HAIRPIN)
def test_cell(matrix: Matrix, path: str, family: str, protocol: str, place: str):
    """The pod is answered as the Service says, the backend sees the pod, and the counters show the path."""
    cell = Cell(family, protocol, place)
    check_path(cell, path, "macvlan", matrix.run(cell))


@pytest.mark.parametrize("place", MACVLAN_PLACES)
@pytest.mark.parametrize("protocol", CALLS)
@pytest.mark.parametrize("family", HAIRPIN)
def test_node_port_of_another_node(matrix: Matrix, path: str, family: str, protocol: str, place: str):
    """The same by a NodePort on the other node. On the pod's own node: tests/vm, as a macvlan pod cannot reach it."""
    cell = Cell(family, protocol, place)
    check_path(cell, path, "macvlan", matrix.run(cell, "worker"), node_port=True)
