"""The agent with --datapath=netlink: the verbs keep their guarantees, nothing of BPF is touched, and it says so."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.config import argument_list
from agent.datapaths import MISSING
from tests.netns.agent_rig import AgentRig
from tests.testbed import netns

SERVICES = ("10.96.0.0/12",)
NODE_ADDRESS = "10.8.0.1"


@pytest.fixture(scope="module")
def node_without_ebpf() -> Iterator[AgentRig]:
    """A node whose agent uses no eBPF."""
    with AgentRig(settings={"datapath": "netlink", "service_cidr": SERVICES}) as built:
        netns.write_sysctls(built.prefix, {"ipv4/ip_forward": "1"})  # as kube-proxy has it
        yield built


@pytest.fixture
def rig(node_without_ebpf: AgentRig) -> Iterator[AgentRig]:
    """The node without pods; nothing may be left of the test's."""
    yield node_without_ebpf
    print(node_without_ebpf.agent.log_tail())
    node_without_ebpf.discard()
    node_without_ebpf.empty()


def reached(rig: AgentRig, address: str, source: str = "") -> bool:
    command = netns.nsenter(source or rig.prefix, ["ping", "-c", "1", "-W", "2", address])
    return "1 received" in netns.run(command)


def own_slaves(rig: AgentRig) -> list[str]:
    """The names of the slaves in the node's netns."""
    shown = json.loads(netns.run(["ip", "-n", rig.prefix, "-j", "link", "show", "type", "macvlan"]))
    return [item["ifname"] for item in shown if item]


def test_the_verbs(rig: AgentRig) -> None:
    first, answer = rig.add()
    other, _ = rig.add()
    address = answer.addresses[0].split("/")[0]
    for container in (first, other):
        result = {"prevResult": answer.body} if container is first else {}
        if result:
            assert container.configured(**result).call("CHECK").exit_code == 0
        assert reached(rig, NODE_ADDRESS, container.netns)
    assert reached(rig, address)
    assert reached(rig, address, other.netns)
    assert len(own_slaves(rig)) == 1
    assert first.call("ADD").body == answer.body, "an ADD once more"
    assert {"dst": "10.96.0.0/12", "gateway": NODE_ADDRESS} in [
        {key: route.get(key) for key in ("dst", "gateway")} for route in first.routes()
    ]
    rig.discard([first])
    rig.eventually(lambda: rig.attachments() == {"ready": 1}, rig.attachments)
    assert len(own_slaves(rig)) == 1, "the other pod still needs it"
    rig.discard([other])
    rig.eventually(lambda: own_slaves(rig) == [], lambda: own_slaves(rig))


def test_no_program_and_no_map_is_there(rig: AgentRig) -> None:
    container, _ = rig.add()
    assert not rig.config.bpf_root.exists()
    for where in (rig.prefix, container.netns):
        assert "clsact" not in netns.run(netns.nsenter(where, ["tc", "qdisc", "show"]))


def test_status_says_what_is_missing(rig: AgentRig) -> None:
    told = rig.agent.ask("status")
    assert (told["ready"], told["datapath"], told["programs"]) == (True, "netlink", "none")
    assert told["missing"] == list(MISSING)
    assert told["problems"] == []
    shown = rig.dragline("status").stdout
    assert all(line in shown for line in MISSING)
    assert "datapath netlink (by --datapath=netlink); without eBPF: ClusterIPs go through" in rig.agent.log_tail(1000)


@pytest.mark.parametrize("question", ["services", "conntrack", "drops", "trace web default/web"])
def test_what_only_maps_know_is_refused(rig: AgentRig, question: str) -> None:
    done = rig.dragline(*question.split())
    assert done.returncode == 1
    assert "the netlink datapath has no maps to look into: ask this node's kube-proxy" in done.stderr


@pytest.mark.parametrize("ended", ["killed", "stopped"])
def test_a_restart_keeps_pods_and_mends_what_the_node_lost_meanwhile(rig: AgentRig, ended: str) -> None:
    container, answer = rig.add()
    address = answer.addresses[0].split("/")[0]
    (slave,) = own_slaves(rig)
    rig.agent.kill() if ended == "killed" else rig.agent.stop()
    assert reached(rig, address), "nothing of the pod depends on the process"
    netns.ip_batch([f"link del {slave}"], rig.prefix)
    rig.restart()
    assert own_slaves(rig) == [slave]
    assert reached(rig, address)
    assert container.configured(prevResult=answer.body).call("CHECK").exit_code == 0


def test_a_del_without_an_agent_is_made_up_for(rig: AgentRig) -> None:
    rig.add()
    rig.agent.kill()
    rig.discard()
    assert len(own_slaves(rig)) == 1
    rig.restart()
    rig.empty()


def test_a_restart_removes_the_slave_that_a_kill_left(rig: AgentRig) -> None:
    container, _ = rig.add()
    index = json.loads(netns.run(["ip", "-n", rig.prefix, "-j", "link", "show", "eth0"]))[0]["ifindex"]
    rig.discard([container])
    rig.eventually(lambda: own_slaves(rig) == [], lambda: own_slaves(rig))
    rig.agent.kill()
    # The first thing that an ADD does to the uplink.
    netns.ip_batch([f"link add link eth0 name dl-{index} index {0x80000 + index} type macvlan mode bridge"], rig.prefix)
    rig.folder.apply(network("eth0"))
    rig.restart()
    assert own_slaves(rig) == []


def network(master: str) -> dict[str, object]:
    """A SpiderMultusConfig, by which the agent knows at its start that an uplink is used."""
    return {
        "apiVersion": "spiderpool.spidernet.io/v2beta1",
        "kind": "SpiderMultusConfig",
        "metadata": {"name": "lan", "namespace": "kube-system"},
        "spec": {"cniType": "macvlan", "macvlan": {"master": [master]}},
    }


def test_an_uplink_that_was_down_is_mended(rig: AgentRig) -> None:
    _, answer = rig.add()
    address = answer.addresses[0].split("/")[0]
    netns.ip_batch(["link set eth0 down", "link set eth0 up"], rig.prefix)
    rig.eventually(lambda: reached_at_last(rig, address), "not reached after the uplink came back")


def reached_at_last(rig: AgentRig, address: str) -> bool:
    try:
        return reached(rig, address)
    except netns.TestbedError:
        return False


def test_pods_of_the_other_datapath_are_not_taken_over(rig: AgentRig) -> None:
    rig.add()
    rig.agent.kill()
    flags = argument_list(replace(rig.config, datapath="ebpf"))
    command = [str(Path(sys.executable).with_name("dragline")), "agent", *flags]
    done = subprocess.run(netns.nsenter(rig.prefix, command), capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert "1 pods of this node are wired for the netlink datapath" in done.stderr
    rig.restart()


def test_forwarding_that_is_off_is_a_problem(rig: AgentRig) -> None:
    netns.write_sysctls(rig.prefix, {"ipv4/ip_forward": "0"})
    try:
        problems = rig.agent.ask("status")["problems"]
        assert [item["source"] for item in problems] == ["datapath"]
        assert "net.ipv4.ip_forward is 0" in problems[0]["message"]
    finally:
        netns.write_sysctls(rig.prefix, {"ipv4/ip_forward": "1"})
