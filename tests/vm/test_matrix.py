"""Every way for an IPvlan pod to call a Service: family x protocol x place of the backend x {tc, socket}."""

from collections.abc import Iterator

import pytest

from tests.demo import scenario
from tests.testbed import sctp
from tests.testbed.bed import Bed
from tests.testbed.cells import CALLS, HAIRPIN, PATHS, PLACES, SCTP_PORT, Cell, Matrix, check_path
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


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("node", ["master", "worker"])
@pytest.mark.parametrize("family", HAIRPIN)
def test_node_port(matrix: Matrix, path: str, family: str, node: str, place: str):
    """The same by a NodePort on the pod's own node, and on the other one."""
    cell = Cell(family, "tcp", place)
    check_path(cell, path, "ipvlan", matrix.run(cell, node), node_port=True)


def test_should_respect_internal_traffic_policy_local_pod_to_pod_host_network(matrix: Matrix, path: str):
    """Services should respect internalTrafficPolicy=Local Pod to Pod (hostNetwork: true)"""
    folder = matrix.bed.folder
    for place in ("host-here", "host-there"):
        raw = folder.get("Service", f"default/{place}")
        folder.apply({**raw, "spec": {**raw["spec"], "internalTrafficPolicy": "Local"}})
    try:
        scenario.eventually("of the other node", lambda: "" if not matrix.answers("host-there") else "still served")
        assert matrix.answers("host-here")
    finally:
        for place in ("host-here", "host-there"):
            raw = folder.get("Service", f"default/{place}")
            folder.apply({**raw, "spec": {**raw["spec"], "internalTrafficPolicy": "Cluster"}})
    scenario.eventually("of every node", lambda: "" if matrix.answers("host-there") else "not served")


@pytest.mark.parametrize("place", ["sibling", "remote-on-link", "remote-off-link"])
@pytest.mark.parametrize("family", HAIRPIN)
def test_should_allow_creating_a_basic_sctp_service_with_pod_and_endpoints(
    matrix: Matrix, path: str, family: str, place: str
):
    """SCTP should allow creating a basic SCTP service with pod and endpoints; by packets, whatever the path"""
    with (
        matrix.sctp_service(place) as vips,
        sctp.server(matrix.pods[place].netns, matrix.own_address(place, family), SCTP_PORT, place),
    ):
        heard = sctp.call(matrix.pods["itself"].netns, vips[family], SCTP_PORT)
        assert heard == (place, matrix.own_address("itself", family))
