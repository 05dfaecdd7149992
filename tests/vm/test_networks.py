"""IPv6, and a pool on a subnet in which the node has no address, on real IPvlan."""

from collections.abc import Iterator

import pytest

from tests.demo import scenario
from tests.testbed.bed import Bed
from tests.testbed.kubelet import Sandbox
from tests.vm.conftest import make_pod


@pytest.fixture(scope="module")
def pods(bed: Bed, empty_state: dict[str, frozenset[str]]) -> Iterator[dict[str, Sandbox]]:
    """Two dual-stack pods and two on the far subnet, all on master."""
    wanted = {"dual-1": "ipvlan-dual", "dual-2": "ipvlan-dual", "far-1": "ipvlan-far", "far-2": "ipvlan-far"}
    started = bed.start_pods([make_pod(name, f"kube-system/{network}") for name, network in wanted.items()])
    yield {sandbox.name: sandbox for sandbox in started}
    bed.stop_pods(bed.sandboxes)


@pytest.mark.parametrize("number", ["dual-1", "dual-2"])
def test_dual_stack_pods_get_an_address_of_each_family(pods: dict[str, Sandbox], number: str):
    v4, v6 = sorted(pods[number].addresses, key=lambda address: ":" in address)
    assert v4.startswith("172.31.199.20")
    assert v6.startswith("fd00:172::1:")


@pytest.mark.parametrize(
    "target", ["fd00:172::183", "fd00:172::253", "fd00:172::184", "fd00:192::253", "172.31.199.183", "172.31.199.184"]
)
def test_a_dual_stack_pod_reaches_its_node_the_gateway_and_beyond(pods: dict[str, Sandbox], target: str):
    scenario.ping(pods["dual-1"].netns, target, count=1)


def test_ipv6_siblings_and_the_node_reach_each_other(bed: Bed, pods: dict[str, Sandbox]):
    first, second = (next(a for a in pods[name].addresses if ":" in a) for name in ("dual-1", "dual-2"))
    scenario.ping(pods["dual-1"].netns, second, count=1)
    scenario.ping(pods["dual-2"].netns, first, count=1)
    for address in (first, second):
        scenario.ping(bed.vpc.node_netns("master"), address, count=1)
        scenario.ping(bed.vpc.node_netns("worker"), address, count=1)


@pytest.mark.parametrize("target", ["10.50.0.253", "172.31.199.183", "192.168.0.154", "172.31.199.184"])
def test_a_pod_in_a_subnet_without_a_node_address_reaches(pods: dict[str, Sandbox], target: str):
    scenario.ping(pods["far-1"].netns, target, count=1)


def test_pods_in_a_subnet_without_a_node_address_are_reached(bed: Bed, pods: dict[str, Sandbox]):
    for name in ("far-1", "far-2"):
        scenario.ping(bed.vpc.node_netns("master"), pods[name].address, count=1)
        scenario.ping(bed.vpc.node_netns("worker"), pods[name].address, count=1)
    scenario.ping(pods["far-1"].netns, pods["far-2"].address, count=1)
    scenario.ping(pods["dual-1"].netns, pods["far-2"].address, count=1)


def test_the_cloud_dropped_nothing(bed: Bed, pods: dict[str, Sandbox]):
    counters = bed.vpc.counters()
    scenario.ping(pods["far-1"].netns, "10.50.0.253", count=1)
    after = bed.vpc.counters()
    assert {key: value.dropped for key, value in after.items()} == {key: v.dropped for key, v in counters.items()}
