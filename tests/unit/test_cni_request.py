"""From frames to requests: a table of what the runtime may say, and of what it may not."""

import json
from dataclasses import replace
from typing import Any

import pytest

from cni.errors import BAD_CONFIG, BAD_ENVIRONMENT, DECODE_FAILURE, UNSUPPORTED_FIELD, VERSION_INCOMPATIBLE, CniError
from cni.frame import Frame
from cni.request import AttachmentKey, IPPools, PodRef, parse, pod_named_by, version_of
from cni.result import SUPPORTED_VERSIONS

CONFIG = {"cniVersion": "1.1.0", "name": "ipvlan-eth0", "type": "dragline", "master": "eth0"}
ARGS = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=test-app-1;K8S_POD_UID=u-1;X=Y"
FRAME = Frame("ADD", "c0ffee", "/run/netns/x", "eth0", ARGS, "/opt/cni/bin", json.dumps(CONFIG).encode(), 42)


def frame(command: str = "ADD", **changes: Any) -> Frame:
    return replace(FRAME, command=command, **changes)


def config(**changes: Any) -> bytes:
    """The usual configuration with some keys changed; None takes a key out."""
    return json.dumps({k: v for k, v in {**CONFIG, **changes}.items() if v is not None}).encode()


def error_of(told: Frame, netns_fd: int = 9) -> CniError:
    with pytest.raises(CniError) as caught:
        parse(told, netns_fd)
    return caught.value


def test_an_add_as_the_kubelet_sends_it() -> None:
    request = parse(FRAME, 9)
    assert request.command == "ADD"
    assert request.key == AttachmentKey("ipvlan-eth0", "c0ffee", "eth0")
    assert (request.netns_path, request.netns_fd, request.started_ns) == ("/run/netns/x", 9, 42)
    assert request.pod == PodRef("default", "test-app-1", "u-1")
    assert (request.config.link_kind, request.config.mode, request.config.mtu) == ("ipvlan", "l2", 0)
    assert request.config.default_route is True


def test_every_key_of_the_configuration() -> None:
    content = config(
        linkKind="macvlan",
        mode="bridge",
        mtu=1400,
        multusName="kube-system/macvlan-eth1",
        ippools={"ipv4": ["b", "a"], "ipv6": ["c"]},
        defaultRoute=False,
        prevResult={"ips": []},
        socket="/s",
        capabilities={"unknown": "keys are ignored"},
    )
    parsed = parse(frame(config=content), 9).config
    assert (parsed.link_kind, parsed.mode, parsed.mtu, parsed.master) == ("macvlan", "bridge", 1400, "eth0")
    assert parsed.multus_name == "kube-system/macvlan-eth1"
    assert parsed.ippools == IPPools(("b", "a"), ("c",))
    assert (parsed.default_route, bytes(parsed.prev_result), parsed.socket) == (False, b'{"ips": []}', "/s")


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
def test_versions_by_verb(command: str, version: str) -> None:
    since = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}.get(command, "0.3.0")
    told = frame(command, config=config(cniVersion=version))
    if SUPPORTED_VERSIONS.index(version) >= SUPPORTED_VERSIONS.index(since):
        assert parse(told, 9).config.cni_version == version
    else:
        assert error_of(told).code == VERSION_INCOMPATIBLE


@pytest.mark.parametrize("version", [None, "", "0.1.0", "0.2.0", "1.2.0", "2.0.0", "1.0"])
@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_other_versions_are_incompatible_and_ours_are_named(command: str, version: str | None) -> None:
    error = error_of(frame(command, config=config(cniVersion=version, mtu="wrong type, but that is not the point")))
    assert error.code == VERSION_INCOMPATIBLE
    assert "1.1.0" in error.msg


@pytest.mark.parametrize("command", ["GC", "STATUS"])
def test_verbs_without_a_container_need_no_environment(command: str) -> None:
    request = parse(frame(command, container_id="", netns="", ifname="", args=""), -1)
    assert request.key == AttachmentKey("ipvlan-eth0", "", "")
    assert request.pod is None


ENVIRONMENT = [
    ({"container_id": ""}, "CNI_CONTAINERID"),
    ({"container_id": "-x"}, "CNI_CONTAINERID"),
    ({"container_id": "a/b"}, "CNI_CONTAINERID"),
    ({"container_id": "a\n"}, "CNI_CONTAINERID"),
    ({"ifname": ""}, "CNI_IFNAME"),
    ({"ifname": "."}, "CNI_IFNAME"),
    ({"ifname": ".."}, "CNI_IFNAME"),
    ({"ifname": "a/b"}, "CNI_IFNAME"),
    ({"ifname": "a:b"}, "CNI_IFNAME"),
    ({"ifname": "a b"}, "CNI_IFNAME"),
    ({"ifname": "eth0\n"}, "CNI_IFNAME"),
    ({"ifname": "sixteen-letters-"}, "CNI_IFNAME"),
    ({"ifname": "\u00e9" * 8}, "CNI_IFNAME"),
]


@pytest.mark.parametrize("command", ["ADD", "CHECK", "DEL"])
@pytest.mark.parametrize(("changes", "named"), ENVIRONMENT)
def test_a_bad_variable_is_named(command: str, changes: dict[str, str], named: str) -> None:
    error = error_of(frame(command, **changes))
    assert error.code == BAD_ENVIRONMENT
    assert named in error.msg


def test_all_missing_variables_are_named_at_once() -> None:
    message = error_of(frame(container_id="", ifname="", netns="")).msg
    assert all(name in message for name in ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"))


@pytest.mark.parametrize("command", ["", "VERSION", "add", "FOO"])
def test_an_unknown_verb(command: str) -> None:
    error = error_of(frame(command))
    assert (error.code, "CNI_COMMAND" in error.msg) == (BAD_ENVIRONMENT, True)


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
def test_a_netns_without_descriptor_is_refused(command: str) -> None:
    error = error_of(frame(command), netns_fd=-1)
    assert (error.code, "CNI_NETNS" in error.msg) == (BAD_ENVIRONMENT, True)


def test_a_del_needs_no_netns() -> None:
    assert parse(frame("DEL", netns=""), -1).netns_fd == -1


NOT_JSON = [b"", b"{", b"nonsense", b'{"cniVersion":"1.0.0"}}', b'{"name":"\xff"}', b"[]", b"null", b"[" * 900_000]
NOT_JSON += [b'{"name":"n","x":' + b"[" * 900_000]


@pytest.mark.parametrize("content", NOT_JSON, ids=lambda content: repr(content[:12]))
@pytest.mark.parametrize("command", ["ADD", "DEL", "STATUS"])
def test_what_is_not_a_json_object_is_a_decode_failure(command: str, content: bytes) -> None:
    assert error_of(frame(command, config=content)).code == DECODE_FAILURE


CONFIGURATION: list[tuple[dict[str, Any], int, str]] = [
    ({"name": None}, BAD_CONFIG, "name"),
    ({"name": ""}, BAD_CONFIG, "name"),
    ({"name": "a/b"}, BAD_CONFIG, "name"),
    ({"master": None}, BAD_CONFIG, "master"),
    ({"master": 3}, BAD_CONFIG, "master"),
    ({"mtu": "1500"}, BAD_CONFIG, "mtu"),
    ({"mtu": 67}, BAD_CONFIG, "mtu"),
    ({"mtu": 65536}, BAD_CONFIG, "mtu"),
    ({"mtu": -1}, BAD_CONFIG, "mtu"),
    ({"ippools": ["a"]}, BAD_CONFIG, "ippools"),
    ({"ippools": {"ipv4": "a"}}, BAD_CONFIG, "ipv4"),
    ({"defaultRoute": "yes"}, BAD_CONFIG, "defaultRoute"),
    ({"linkKind": "sriov"}, UNSUPPORTED_FIELD, "'sriov'"),
    ({"mode": "l3"}, UNSUPPORTED_FIELD, "'l3'"),
    ({"mode": "bridge"}, UNSUPPORTED_FIELD, "'bridge'"),
    ({"linkKind": "macvlan", "mode": "private"}, UNSUPPORTED_FIELD, "'private'"),
]


@pytest.mark.parametrize(("changes", "code", "named"), CONFIGURATION)
def test_a_bad_configuration_is_named(changes: dict[str, Any], code: int, named: str) -> None:
    error = error_of(frame(config=config(**changes)))
    assert error.code == code
    assert named in error.msg


@pytest.mark.parametrize("changes", [row[0] for row in CONFIGURATION if "name" not in row[0]])
def test_a_del_succeeds_with_the_configuration_that_made_its_add_fail(changes: dict[str, Any]) -> None:
    request = parse(frame("DEL", config=config(**changes)), -1)
    assert request.key == AttachmentKey("ipvlan-eth0", "c0ffee", "eth0")
    assert request.config.cni_version == "1.1.0"


BAD_ARGS = ["X", "=v", "IgnoreUnknown=1;;X", "IgnoreUnknown=maybe", "X=Y", "IgnoreUnknown=0;X=Y"]
BAD_ARGS += ["K8S_POD_NAME=p", "K8S_POD_NAMESPACE=n", "K8S_POD_NAMESPACE=n;K8S_POD_NAME=a\nb"]


@pytest.mark.parametrize("args", BAD_ARGS)
def test_bad_args_fail_an_add_and_never_a_del(args: str) -> None:
    error = error_of(frame(args=args))
    assert (error.code, "CNI_ARGS" in error.msg) == (BAD_ENVIRONMENT, True)
    assert parse(frame("DEL", args=args), -1).pod is None
    assert pod_named_by(args) is None


@pytest.mark.parametrize(
    ("args", "pod"),
    [
        ("", None),
        ("IgnoreUnknown=1;X=Y", None),
        ("IgnoreUnknown=true;X=Y;K8S_POD_NAMESPACE=n;K8S_POD_NAME=p", PodRef("n", "p", "")),
        ("K8S_POD_NAMESPACE=n;K8S_POD_NAME=p;K8S_POD_INFRA_CONTAINER_ID=c;", PodRef("n", "p", "")),
        ("K8S_POD_UID=u=1;K8S_POD_NAMESPACE=n;K8S_POD_NAME=p", PodRef("n", "p", "u=1")),
    ],
)
def test_the_pod_of_the_args(args: str, pod: PodRef | None) -> None:
    assert parse(frame(args=args), 9).pod == pod
    assert pod_named_by(args) == pod


@pytest.mark.parametrize(
    ("content", "version"),
    [(b'{"cniVersion":"0.4.0","name":"n"}', "0.4.0"), (b"{}", "0.1.0"), (b"{", ""), (b'{"cniVersion":4}', "")],
)
def test_the_version_to_answer_in(content: bytes, version: str) -> None:
    assert version_of(content) == version
