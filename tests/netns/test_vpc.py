"""The testbed's cloud on the running kernel: it forwards what is assigned, refuses the rest, and can fail."""

from collections.abc import Iterator

import pytest

from tests.demo import leftovers, scenario
from tests.demo.scenario import Deviation
from tests.testbed import netns
from tests.testbed.topology import assigned_addresses
from tests.testbed.vpc import Vpc
from tests.testbed.workload import load


@pytest.fixture(scope="module")
def vpc() -> Iterator[Vpc]:
    """The article's VPC, without agents."""
    with Vpc(assigned_addresses(load(scenario.MANIFESTS))) as built:
        yield built


@pytest.mark.parametrize(
    "target", ["172.31.199.184", "192.168.0.155", "172.31.207.253", "10.50.0.253", "fd00:172::184", "fd00:192::253"]
)
def test_master_reaches(vpc: Vpc, target: str):
    before = vpc.dropped()
    scenario.ping(vpc.node_netns("master"), target, count=1)
    assert vpc.dropped() == before


@pytest.mark.parametrize(
    ("foreign_mac", "foreign_address", "drops"), [(True, False, (1, 0)), (False, True, (0, 1)), (False, False, (0, 0))]
)
@pytest.mark.parametrize("port", [("master", "eth0"), ("worker", "eth1")])
def test_spoofed_frames_are_dropped_and_counted(vpc: Vpc, port, foreign_mac, foreign_address, drops):
    before = vpc.counters()[port]
    vpc.send_spoofed(*port, foreign_mac=foreign_mac, foreign_address=foreign_address)
    after = vpc.counters()[port]
    assert (after.foreign_mac - before.foreign_mac, after.foreign_address - before.foreign_address) == drops
    assert after.passed - before.passed >= (drops == (0, 0))


def test_an_address_of_the_other_node_is_foreign(vpc: Vpc):
    name = vpc.node_netns("master")
    netns.ip_batch(["address add 172.31.199.190/20 dev eth0"], name)
    before = vpc.counters()["master", "eth0"].foreign_address
    try:
        with pytest.raises(Deviation):
            scenario.ping(name, "172.31.199.184", count=1, source="172.31.199.190")
        assert vpc.counters()["master", "eth0"].foreign_address > before
    finally:
        netns.ip_batch(["address del 172.31.199.190/20 dev eth0"], name)


@pytest.mark.parametrize(
    ("leave", "remove", "line"),
    [
        ("link add stray type veth peer name yarts", "link del stray", "link stray veth"),
        ("route add 10.9.9.9/32 dev eth0", "route del 10.9.9.9/32 dev eth0", "dst=10.9.9.9"),
        ("rule add to 10.9.9.9 table 77", "rule del to 10.9.9.9 table 77", "dst=10.9.9.9"),
        (
            "neigh add 172.31.199.185 lladdr 02:00:00:00:00:07 dev eth0 nud permanent",
            "neigh del 172.31.199.185 dev eth0",
            "dst=172.31.199.185",
        ),
        (
            "neigh add fd00:172::9 lladdr 02:00:00:00:00:07 dev eth0 nud permanent",
            "neigh del fd00:172::9 dev eth0",
            "dst=fd00:172::9",
        ),
    ],
)
def test_what_is_left_on_a_node_is_seen(vpc: Vpc, leave: str, remove: str, line: str):
    name = vpc.node_netns("worker")
    before = leftovers.node_state(name)
    netns.ip_batch([leave], name)
    try:
        assert any(line in found for found in leftovers.node_state(name) - before)
    finally:
        netns.ip_batch([remove], name)
    assert leftovers.node_state(name) == before


def test_a_netfilter_rule_that_is_left_is_seen(vpc: Vpc):
    name = vpc.node_netns("worker")
    before = leftovers.node_state(name)
    netns.run(netns.nsenter(name, ["nft", "-f", "-"]), stdin="table ip stray { }")
    assert any("stray" in found for found in leftovers.node_state(name) - before)
    netns.run(netns.nsenter(name, ["nft", "delete", "table", "ip", "stray"]))


def test_leaving_removes_every_namespace_and_process():
    with Vpc({}) as vpc:
        pod = vpc.add_pod_netns("pod")
        names = [pod, *map(vpc.node_netns, vpc.nodes), *map(vpc.router_netns, vpc.subnets)]
        assert all(netns.path_of(name).exists() for name in names)
        with scenario.web_server(pod, "left-behind"):
            assert netns.run(["ip", "netns", "pids", pod]).split()
            vpc.close()
            assert not any(netns.path_of(name).exists() for name in names)
