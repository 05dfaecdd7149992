"""CHECK through the door: what somebody else took away from a pod is found and named; foreign additions are not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from cni import errors
from datapath.maps import Maps
from tests.netns.agent_rig import GATEWAY, AgentRig
from tests.netns.cni_calls import Container, Raw
from tests.testbed import netns


@dataclass(frozen=True, slots=True)
class Attached:
    """An attached container and its link's number."""

    rig: AgentRig
    container: Container
    ifindex: int

    def inside(self, *commands: str) -> None:
        """iproute2 commands in the pod."""
        netns.ip_batch(commands, self.container.netns)

    def tc(self, command: str) -> None:
        """A tc command in the pod."""
        netns.run(["tc", "-n", self.container.netns, *command.split()])

    def maps(self) -> Maps:
        """The agent's pinned maps."""
        return Maps(self.rig.config.bpf_root)


@pytest.fixture
def pod(rig: AgentRig) -> Attached:
    """An attached pod with its prevResult, for which CHECK has nothing to say."""
    container, answer = rig.add()
    container = container.configured(prevResult=answer.body)
    done = container.call("CHECK")
    assert (done.exit_code, done.stdout) == (0, b"")
    return Attached(rig, container, container.link()["ifindex"])


def _no_pod_entry(pod: Attached) -> None:
    with pod.maps() as maps:
        maps.delete_pod(pod.ifindex)


def _no_local_entry(pod: Attached) -> None:
    with pod.maps() as maps:
        key = next(key for key, entry in maps.locals().items() if entry.slave_ifindex == pod.ifindex)
        maps.delete_local(key.address, key.uplink_ifindex)


def _wrong_pod_entry(pod: Attached) -> None:
    with pod.maps() as maps:
        maps.put_pod(pod.ifindex, replace(maps.pods()[pod.ifindex], addr4="10.8.0.99"))


DAMAGES: dict[str, tuple[Callable[[Attached], object], str]] = {
    "address": (lambda pod: pod.inside(f"addr del {pod.container.addresses()[0]} dev eth0"), "has no address"),
    "route": (lambda pod: pod.inside("route del default"), "no route 0.0.0.0/0"),
    "other gateway": (lambda pod: pod.inside("route replace default via 10.8.0.253"), f"via {GATEWAY}"),
    "down": (lambda pod: pod.inside("link set eth0 down"), "up is False"),
    "mtu": (lambda pod: pod.inside("link set eth0 mtu 1400"), "mtu is 1400"),
    "mac": (lambda pod: pod.inside("link set eth0 address 02:00:00:00:00:99"), "mac is"),
    "link": (lambda pod: pod.inside("link del eth0"), "has no link"),
    "renamed": (lambda pod: pod.inside("link set eth0 down", "link set eth0 name eth9", "link set eth9 up"), "name is"),
    "egress program": (lambda pod: pod.tc("filter del dev eth0 egress"), "hold_egress"),
    "ingress program": (lambda pod: pod.tc("filter del dev eth0 ingress"), "hold_ingress"),
    "clsact": (lambda pod: pod.tc("qdisc del dev eth0 clsact"), "hold_egress"),
    "map pods": (_no_pod_entry, "map pods"),
    "map pods' content": (_wrong_pod_entry, "map pods"),
    "map addresses": (_no_local_entry, "map addresses"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found(pod: Attached, damage: str):
    """Code 106 and a sentence about what is missing; the DEL of a damaged pod works (the fixture sees to it)."""
    break_it, words = DAMAGES[damage]
    break_it(pod)
    answer = pod.container.call("CHECK")
    assert answer.code == errors.CHECK_FAILED, answer.stdout
    assert words in answer.text


def test_foreign_additions_are_nobodys_business(pod: Attached):
    """A service mesh adds addresses and routes of its own."""
    pod.inside("addr add 10.8.0.200/32 dev eth0", "route add 10.99.0.0/16 via 10.8.0.253")
    assert pod.container.call("CHECK").exit_code == 0


def test_another_namespace_than_the_attachments(pod: Attached):
    """The right key, but the sandbox is another one."""
    answer = pod.container.call("CHECK", CNI_NETNS=pod.rig.new().path)
    assert answer.code == errors.CHECK_FAILED


PREV_RESULTS: dict[str, tuple[Raw | None, int]] = {
    "none": (None, errors.BAD_CONFIG),
    "not a result": ({"ips": "10.8.0.1"}, errors.BAD_CONFIG),
    "another address": ({"ips": [{"address": "10.8.0.77/24"}]}, errors.CHECK_FAILED),
    "another prefix length": ({"ips": [{"address": "10.8.0.10/25"}]}, errors.CHECK_FAILED),
    "no address": ({"ips": []}, errors.CHECK_FAILED),
}


@pytest.mark.parametrize("case", PREV_RESULTS)
def test_prev_result(pod: Attached, case: str):
    """The runtime's memory is held against the journal's."""
    prev_result, code = PREV_RESULTS[case]
    assert pod.container.configured(prevResult=prev_result).call("CHECK").code == code


def test_unknown_container(rig: AgentRig):
    """Code 3; the same after a DEL."""
    container, answer = rig.add()
    container = container.configured(prevResult=answer.body)
    assert container.call("DEL").exit_code == 0
    rig.eventually(lambda: container.call("CHECK").code == errors.UNKNOWN_CONTAINER, "CHECK knows a dead container")
    stranger = rig.new(prevResult=answer.body).call("CHECK")
    assert stranger.code == errors.UNKNOWN_CONTAINER
    assert "eth0" in stranger.text
