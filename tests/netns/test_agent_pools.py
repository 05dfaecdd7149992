"""Which pool a pod gets its address from, and what it is told when there is none: a failure never holds one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from cni import errors
from tests.netns.agent_rig import NODE, AgentRig
from tests.netns.cni_calls import Answer, Container, Raw


@pytest.fixture
def pod_named(rig: AgentRig) -> Callable[..., Container]:
    """Makes a container that is a pod of the store: (name, annotations, configuration) -> Container."""
    applied: list[str] = []

    def make(name: str, annotations: dict[str, str] | None = None, **config: Any) -> Container:
        pod = {"name": name, "namespace": "default", "uid": f"uid-{name}", "annotations": annotations or {}}
        rig.folder.apply({"apiVersion": "v1", "kind": "Pod", "metadata": pod, "spec": {"nodeName": NODE}})
        applied.append(f"default/{name}")
        empty = rig.new(**config)
        words = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name};K8S_POD_UID=uid-{name}"
        rig.containers[empty.netns] = Container(empty.id, empty.netns, empty.config, args=words)
        return rig.containers[empty.netns]

    yield make
    for key in applied:
        rig.folder.delete("Pod", key)


def assert_refused(rig: AgentRig, answer: Answer, *words: str, code: int = errors.POOL_EXHAUSTED) -> None:
    """The error says these words, and nothing is held or made."""
    assert answer.code == code, answer.stdout
    assert not [word for word in words if word not in answer.text], answer.text
    assert rig.leftovers() == []


def test_exhausted(rig: AgentRig):
    """Error 100 names every pool with its numbers; after one DEL an address is there again."""
    rig.pool("two", "10.8.0.100-10.8.0.101")
    rig.pool("one", "10.8.0.102")
    pools = {"ipv4": ["two", "one"]}
    running = [rig.add(ippools=pools) for _ in range(3)]
    assert [answer.addresses for _, answer in running] == [[f"10.8.0.10{last}/24"] for last in (0, 1, 2)]
    late = rig.new(ippools=pools)
    answer = late.call("ADD")
    assert answer.code == errors.POOL_EXHAUSTED
    assert "two 2/2" in answer.text and "one 1/1" in answer.text
    assert "add ips" in answer.text
    assert late.links() == []
    assert rig.attachments() == {"ready": 3}
    rig.discard([running[1][0]])
    rig.eventually(lambda: rig.attachments() == {"ready": 2}, rig.attachments)
    assert late.call("ADD").addresses == running[1][1].addresses


UNUSABLE = {
    "another-nodes": ({"nodeName": ["node-two"]}, "node-two"),
    "shared": ({"nodeName": [NODE, "node-two"]}, "shared"),
    "disabled": ({"disable": True}, "disabled"),
    "another-network": ({"multusName": ["kube-system/wan"]}, "kube-system/wan"),
    "bare-network": ({"multusName": ["wan"]}, "kube-system/wan"),
    "of-namespaces": ({"namespaceName": ["prod"]}, "namespaceName"),
    "of-pods": ({"podAffinity": {"matchLabels": {"app": "a"}}}, "podAffinity"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_pools_that_may_not_be_used(rig: AgentRig, name: str):
    """The error names the pool and the reason."""
    spec, word = UNUSABLE[name]
    rig.pool(name, "10.8.0.110-10.8.0.111", **spec)
    assert_refused(rig, rig.new(ippools={"ipv4": [name]}).call("ADD"), name, word)
    # One bad pool does not spoil a good one behind it.
    rig.add(ippools={"ipv4": [name, "main"]})
    assert rig.pools()["main"][0] == 1


def test_the_right_network_by_its_bare_name(rig: AgentRig):
    """`lan` in a pool's multusName is kube-system/lan."""
    rig.pool("bare", "10.8.0.112", multusName=["lan"])
    assert rig.add(ippools={"ipv4": ["bare"]})[1].addresses == ["10.8.0.112/24"]


def test_unknown_pool_and_no_pool(rig: AgentRig):
    """A name that is nobody's, a pool of the other family, and no default pool at all."""
    assert_refused(rig, rig.new(ippools={"ipv4": ["nobodys"]}).call("ADD"), "nobodys", "no such pool")
    rig.pool("six", "fd08::10-fd08::11")
    assert_refused(rig, rig.new(ippools={"ipv4": ["six"]}).call("ADD"), "six", "IPv6")
    assert_refused(rig, rig.new(ippools={}).call("ADD"), "no default pool")


def test_default_pools_by_name(rig: AgentRig):
    """Without names every default pool is tried, by name; one that is not default never."""
    rig.pool("b-default", "10.8.0.114", default=True)
    rig.pool("a-default", "10.8.0.115", default=True)
    try:
        got = [rig.add(ippools={})[1].addresses for _ in range(2)]
        assert got == [["10.8.0.115/24"], ["10.8.0.114/24"]]
        refused = rig.new(ippools={}).call("ADD")
        assert refused.code == errors.POOL_EXHAUSTED
        assert "main" not in refused.text
    finally:
        rig.folder.delete("SpiderIPPool", "a-default")
        rig.folder.delete("SpiderIPPool", "b-default")
        rig.eventually(lambda: "a-default" not in rig.pools(), rig.pools)


@pytest.mark.parametrize("full", ["ipv4", "ipv6"])
def test_one_family_exhausted_holds_nothing_of_the_other(rig: AgentRig, full: str):
    """Both families or none."""
    names = {"ipv4": "single-four", "ipv6": "single-six"}
    many = {"ipv4": "main", "ipv6": "many-six"}
    rig.pool("single-four", "10.8.0.116")
    rig.pool("single-six", "fd08::16")
    rig.pool("many-six", "fd08::20-fd08::2f")
    holder, _ = rig.add(ippools={full: [names[full]]})
    before = rig.pools()
    answer = rig.new(ippools={family: [names[full] if family == full else many[family]] for family in many}).call("ADD")
    assert answer.code == errors.POOL_EXHAUSTED
    assert f"{names[full]} 1/1" in answer.text
    assert rig.pools() == before
    rig.discard([holder])


BAD_ANNOTATIONS = ["{", "[]", '{"ipv4": "main"}', '{"ipv4": [7]}', "main", "null", ""]


@pytest.mark.parametrize("text", BAD_ANNOTATIONS)
def test_an_annotation_that_cannot_be_read(rig: AgentRig, pod_named: Callable[..., Container], text: str):
    """It is named, and the network configuration's pools are not used in its place."""
    answer = pod_named("annotated", {"ipam.spidernet.io/ippool": text}).call("ADD")
    assert_refused(rig, answer, "ipam.spidernet.io/ippool", code=errors.BAD_CONFIG)


def test_an_annotation_goes_before_the_configuration(rig: AgentRig, pod_named: Callable[..., Container]):
    """And the address is published under the pod's name."""
    rig.pool("asked-for", "10.8.0.117")
    container = pod_named("asking", {"ipam.spidernet.io/ippool": json.dumps({"ipv4": ["asked-for"]})})
    assert container.call("ADD").addresses == ["10.8.0.117/24"]
    entry = {"interface": "eth0", "pod": "default/asking", "podUid": "uid-asking"}
    expected: Raw = {"allocatedIPCount": 1, "totalIPCount": 1, "allocatedIPs": {"10.8.0.117": entry}}
    rig.eventually(lambda: rig.published("asked-for") == expected, lambda: rig.published("asked-for"))


def test_an_unknown_pod_and_a_pod_of_another_uid(rig: AgentRig, pod_named: Callable[..., Container]):
    """Both are the watch's delay, as far as an agent can know: try again, nothing held."""
    container = pod_named("reborn")
    older = Container(container.id, container.netns, container.config, args=container.args.replace("uid-reborn", "old"))
    assert_refused(rig, older.call("ADD"), "uid", code=errors.TRY_AGAIN)
    other = Container(container.id, container.netns, container.config, args=container.args.replace("=reborn", "=none"))
    assert_refused(rig, other.call("ADD"), "default/none", code=errors.TRY_AGAIN)
