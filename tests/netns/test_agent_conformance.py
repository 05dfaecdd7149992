"""Every CNI version x every verb through the real shim: exit code, exact stdout, and whether the kernel agrees."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cni import errors
from tests.netns.agent_rig import GATEWAY, AgentRig
from tests.netns.cni_calls import Answer, Container

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
WITH_CHECK = VERSIONS[2:]
VERSION_ANSWER = {"supportedVersions": list(VERSIONS)}
WITHOUT_CONTAINER = {"CNI_CONTAINERID": "", "CNI_NETNS": "", "CNI_IFNAME": "", "CNI_ARGS": ""}


def expected_result(container: Container, version: str, address: str) -> dict[str, Any]:
    """The specification's result of that version, with MAC and MTU from the kernel."""
    link = container.link()
    interface = {"name": "eth0", "mac": link["address"], "sandbox": container.path}
    ip = {"address": address, "gateway": GATEWAY, "interface": 0}
    if version in ("0.3.0", "0.3.1", "0.4.0"):
        ip["version"] = "4"
    if version == "1.1.0":
        interface["mtu"] = link["mtu"]
    return {
        "cniVersion": version,
        "interfaces": [interface],
        "ips": [ip],
        "routes": [{"dst": "0.0.0.0/0", "gw": GATEWAY}],
        "dns": {},
    }


def assert_error(answer: Answer, version: str, code: int, *words: str) -> None:
    """A CNI error object of that version, with that code and those words, and nothing else."""
    assert answer.exit_code == 1
    assert answer.body.keys() - {"details"} == {"cniVersion", "code", "msg"}, answer.stdout
    assert (answer.body["cniVersion"], answer.code) == (version, code), answer.stdout
    for word in words:
        assert word in answer.text


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each version of the specification."""
    return request.param


def test_add(rig: AgentRig, version: str):
    """The result is exact, and is what the kernel has."""
    container, answer = rig.add(cniVersion=version)
    (address,) = container.addresses()
    assert answer.body == expected_result(container, version, address)
    link = container.link()
    assert ("UP" in link["flags"], link["mtu"], link["linkinfo"]["info_kind"]) == (True, 1500, "macvlan")
    routes = {(route["dst"], route.get("gateway")) for route in container.routes()}
    assert routes == {("default", GATEWAY), ("10.8.0.0/24", None)}


def test_del(rig: AgentRig, version: str):
    """A DEL prints nothing, and takes the link away."""
    container, answer = rig.add(cniVersion=version)
    deleted = container.configured(prevResult=answer.body).call("DEL")
    assert (deleted.exit_code, deleted.stdout) == (0, b"")
    rig.empty()
    assert container.links() == []


def test_version(rig: AgentRig, version: str):
    """VERSION names the same versions for each."""
    answer = rig.new(cniVersion=version).call("VERSION", **WITHOUT_CONTAINER)
    assert (answer.exit_code, answer.body) == (0, {"cniVersion": version, **VERSION_ANSWER})


@pytest.mark.parametrize("checked", WITH_CHECK)
def test_check(rig: AgentRig, checked: str):
    """CHECK with the ADD's own result prints nothing."""
    container, answer = rig.add(cniVersion=checked)
    done = container.configured(prevResult=answer.body).call("CHECK")
    assert (done.exit_code, done.stdout) == (0, b"")


@pytest.mark.parametrize("old", ["0.3.0", "0.3.1"])
def test_check_came_with_0_4_0(rig: AgentRig, old: str):
    """An older configuration cannot ask for a CHECK."""
    container, answer = rig.add(cniVersion=old)
    done = container.configured(prevResult=answer.body).call("CHECK")
    assert_error(done, old, errors.VERSION_INCOMPATIBLE, "CHECK", "0.4.0")


def test_status(rig: AgentRig):
    """STATUS of a ready agent prints nothing."""
    answer = rig.new().call("STATUS", **WITHOUT_CONTAINER)
    assert (answer.exit_code, answer.stdout) == (0, b"")


@pytest.mark.parametrize("old", VERSIONS[:-1])
def test_status_came_with_1_1_0(rig: AgentRig, old: str):
    """An older configuration cannot ask for a STATUS."""
    answer = rig.new(cniVersion=old).call("STATUS", **WITHOUT_CONTAINER)
    assert_error(answer, old, errors.VERSION_INCOMPATIBLE, "STATUS", "1.1.0")


def test_gc_is_refused_in_the_specifications_form(rig: AgentRig, version: str):
    """GC is not there yet: an error object, and running pods are not touched."""
    container, _ = rig.add()
    answer = rig.new(cniVersion=version, **{"cni.dev/valid-attachments": []}).call("GC", **WITHOUT_CONTAINER)
    assert_error(answer, version, errors.BAD_ENVIRONMENT, "GC")
    assert rig.attachments() == {"ready": 1}
    assert container.links() == ["eth0"]


@pytest.mark.parametrize("unknown", ["0.2.0", "1.2.0", "", "one"])
def test_unknown_version(rig: AgentRig, unknown: str):
    """Neither ADD nor DEL guesses at a version that does not exist; nothing is made."""
    container = rig.new(cniVersion=unknown)
    assert container.call("ADD").code == errors.VERSION_INCOMPATIBLE
    assert container.call("DEL").code == errors.VERSION_INCOMPATIBLE
    rig.discard([container.configured(cniVersion="1.1.0")])
    assert rig.leftovers() == []


REFUSED = {
    "no container id": ({"CNI_CONTAINERID": ""}, {}, errors.BAD_ENVIRONMENT, "CNI_CONTAINERID"),
    "path in container id": ({"CNI_CONTAINERID": "../x"}, {}, errors.BAD_ENVIRONMENT, "CNI_CONTAINERID"),
    "no ifname": ({"CNI_IFNAME": ""}, {}, errors.BAD_ENVIRONMENT, "CNI_IFNAME"),
    "long ifname": ({"CNI_IFNAME": "sixteen-letters-"}, {}, errors.BAD_ENVIRONMENT, "CNI_IFNAME"),
    "no netns": ({"CNI_NETNS": ""}, {}, errors.BAD_ENVIRONMENT, "CNI_NETNS"),
    "missing netns": ({"CNI_NETNS": "/run/netns/none"}, {}, errors.BAD_ENVIRONMENT, "/run/netns/none"),
    "not a netns": ({"CNI_NETNS": "/proc/self/ns/uts"}, {}, errors.NETNS_GONE, ""),
    "a file for a netns": ({"CNI_NETNS": "/etc/hostname"}, {}, errors.NETNS_GONE, ""),
    "unknown argument": ({"CNI_ARGS": "COLOUR=red"}, {}, errors.BAD_ENVIRONMENT, "COLOUR"),
    "half a pod": ({"CNI_ARGS": "K8S_POD_NAME=one"}, {}, errors.BAD_ENVIRONMENT, "K8S_POD_NAMESPACE"),
    "no name": ({}, {"name": ""}, errors.BAD_CONFIG, "name"),
    "no master": ({}, {"master": ""}, errors.BAD_CONFIG, "master"),
    "unknown link kind": ({}, {"linkKind": "veth"}, errors.UNSUPPORTED_FIELD, "veth"),
    "unknown mode": ({}, {"mode": "l3"}, errors.UNSUPPORTED_FIELD, "l3"),
    "pools of a wrong type": ({}, {"ippools": {"ipv4": "main"}}, errors.BAD_CONFIG, "ippools"),
    "mtu of a wrong type": ({}, {"mtu": "big"}, errors.BAD_CONFIG, "mtu"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_add_is_named_and_changes_nothing(rig: AgentRig, case: str):
    """Invariant 8: a named error, nothing changed."""
    environment, config, code, word = REFUSED[case]
    container = rig.new(**config)
    assert_error(container.call("ADD", **environment), "1.1.0", code, word)
    assert rig.leftovers() == []
    rig.discard([container.configured(name="lan")])
