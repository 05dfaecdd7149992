"""The link an ADD makes: its uplink's troubles, MTU, both families, and the pool's routes."""

from __future__ import annotations

import subprocess
import time

import pytest

from cni import errors
from tests.netns.agent_rig import GATEWAY, AgentRig
from tests.testbed import netns

DUAL = {"ipv4": ["main"], "ipv6": ["six"]}


def test_missing_uplink(rig: AgentRig):
    """The error names the link and what to correct; nothing is held."""
    answer = rig.new(master="eth7").call("ADD")
    assert answer.code == errors.NETLINK
    assert "eth7" in answer.text and "master" in answer.text
    assert rig.leftovers() == []


def test_uplink_that_is_down(rig: AgentRig):
    """The same; once it is up, the same ADD works without a restart, and fails again when it goes down."""
    container = rig.new(master="eth1")
    answer = container.call("ADD")
    assert answer.code == errors.NETLINK
    assert "eth1" in answer.text and "down" in answer.text and "set it up" in answer.text
    assert rig.leftovers() == []
    netns.ip_batch(["link set eth1-wire up", "link set eth1 up"], rig.prefix)
    try:
        assert container.call("ADD").exit_code == 0
        assert "eth1" in rig.agent.ask("status")["uplinks"]
        rig.discard([container])
        rig.empty()
    finally:
        netns.ip_batch(["link set eth1 down"], rig.prefix)
    late = rig.new(master="eth1")
    rig.eventually(lambda: "eth1" not in rig.agent.ask("status")["uplinks"], "eth1 is still in use")
    assert late.call("ADD").code == errors.NETLINK


def test_loopback_is_no_uplink(rig: AgentRig):
    """A mistake that the kernel would forgive."""
    assert rig.new(master="lo").call("ADD").code == errors.NETLINK


def test_uplink_that_went_away_with_its_pods(rig: AgentRig):
    """The kernel takes the slaves with the NIC: CHECK says so, DEL still gives everything back."""
    netns.ip_batch(["link add eth2 type veth peer name eth2-wire", "link set eth2 up"], rig.prefix)
    container, answer = rig.add(master="eth2")
    netns.ip_batch(["link del eth2"], rig.prefix)
    rig.eventually(lambda: container.links() == [], container.links)
    check = container.configured(prevResult=answer.body).call("CHECK")
    assert check.code in (errors.CHECK_FAILED, errors.NETLINK)
    rig.discard([container])
    rig.empty()


def test_uplink_that_came_back_with_another_number(rig: AgentRig):
    """A NIC that is re-plugged: the next pod is made on the new one."""
    for _ in range(2):
        netns.ip_batch(["link add eth2 type veth peer name eth2-wire", "link set eth2 up"], rig.prefix)
        try:
            rig.eventually(lambda: rig.new(master="eth2").call("ADD").exit_code == 0, "ADD fails")
        finally:
            rig.discard()
            netns.ip_batch(["link del eth2"], rig.prefix)


@pytest.mark.parametrize("mtu", [1280, 1500])
def test_mtu(rig: AgentRig, mtu: int):
    """The configuration's MTU is the link's and the result's."""
    container, answer = rig.add(mtu=mtu)
    assert (container.link()["mtu"], answer.body["interfaces"][0]["mtu"]) == (mtu, mtu)
    assert container.configured(prevResult=answer.body).call("CHECK").exit_code == 0


@pytest.mark.parametrize(("mtu", "code"), [(9000, errors.NETLINK), (67, errors.BAD_CONFIG), (-1, errors.BAD_CONFIG)])
def test_impossible_mtu(rig: AgentRig, mtu: int, code: int):
    """An error that names the MTU, and nothing held."""
    answer = rig.new(mtu=mtu).call("ADD")
    assert answer.code == code
    assert "mtu" in answer.text
    assert rig.leftovers() == []


def test_dual_stack(rig: AgentRig):
    """Both addresses and both default routes; the IPv6 address is usable at once (no duplicate detection)."""
    rig.pool("six", "fd08::10-fd08::1f")
    container = rig.new(ippools=DUAL)
    begin = time.monotonic()
    answer = container.call("ADD")
    took = time.monotonic() - begin
    assert answer.addresses == container.addresses()
    four, six = (address.split("/")[0] for address in answer.addresses)
    assert (four.startswith("10.8.0."), six.startswith("fd08::1")) == (True, True)
    flags = [item for item in container.link()["addr_info"] if item["local"] == six]
    assert not flags[0].get("tentative") and not flags[0].get("dadfailed")
    assert took < 1.0  # duplicate detection alone would take 1 s and more
    gateways = {(ip["address"].split("/")[0], ip["gateway"]) for ip in answer.body["ips"]}
    assert gateways == {(four, GATEWAY), (six, "fd08::fe")}
    assert answer.body["routes"] == [{"dst": "0.0.0.0/0", "gw": GATEWAY}, {"dst": "::/0", "gw": "fd08::fe"}]
    defaults = [
        route["gateway"] for family in (4, 6) for route in container.routes(family) if route["dst"] == "default"
    ]
    assert defaults == [GATEWAY, "fd08::fe"]
    assert container.configured(prevResult=answer.body).call("CHECK").exit_code == 0


def test_ipv6_where_the_namespace_has_it_switched_off(rig: AgentRig):
    """Docker's default for sandboxes: disable_ipv6 is 1."""
    rig.pool("six", "fd08::10-fd08::1f")
    container = rig.new(ippools={"ipv6": ["six"]})
    netns.write_sysctls(container.netns, {"ipv6/conf/all/disable_ipv6": "1", "ipv6/conf/default/disable_ipv6": "1"})
    answer = container.call("ADD")
    assert answer.addresses == container.addresses() != []


def test_siblings_reach_each_other_on_both_families(rig: AgentRig):
    """The links are real: a frame goes from pod to pod."""
    rig.pool("six", "fd08::10-fd08::1f")
    one, _ = rig.add(ippools=DUAL)
    _, other = rig.add(ippools=DUAL)
    for address in other.addresses:
        command = ["ip", "netns", "exec", one.netns, "ping", "-c1", "-W2", address.split("/")[0]]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
        assert done.returncode == 0, done.stdout


def test_routes_of_the_pool(rig: AgentRig):
    """They are in the pod."""
    routes = [{"dst": "10.96.0.0/12", "gw": "10.8.0.253"}, {"dst": "172.16.0.0/12", "gw": "10.8.0.252"}]
    rig.pool("routed", "10.8.0.70", routes=routes)
    container, answer = rig.add(ippools={"ipv4": ["routed"]})
    found = {(route["dst"], route.get("gateway")) for route in container.routes()}
    assert found >= {("10.96.0.0/12", "10.8.0.253"), ("172.16.0.0/12", "10.8.0.252"), ("default", GATEWAY)}
    assert container.configured(prevResult=answer.body).call("CHECK").exit_code == 0


def test_routes_of_the_pool_are_in_the_result(rig: AgentRig):
    """The specification: every route that the plugin made."""
    routes = [{"dst": "10.96.0.0/12", "gw": "10.8.0.253"}, {"dst": "172.16.0.0/12", "gw": "10.8.0.252"}]
    rig.pool("routed", "10.8.0.70", routes=routes)
    _, answer = rig.add(ippools={"ipv4": ["routed"]})
    told = {(route["dst"], route.get("gw")) for route in answer.body["routes"]}
    assert told == {("10.96.0.0/12", "10.8.0.253"), ("172.16.0.0/12", "10.8.0.252"), ("0.0.0.0/0", GATEWAY)}


def test_no_default_route(rig: AgentRig):
    """`defaultRoute: false`, as for a second NIC: neither in the kernel nor in the result."""
    container, answer = rig.add(defaultRoute=False)
    assert [route["dst"] for route in container.routes()] == ["10.8.0.0/24"]
    assert answer.body["routes"] == []
