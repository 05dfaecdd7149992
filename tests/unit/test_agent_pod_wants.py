"""What an attachment asks for: network, pools, wiring."""

from __future__ import annotations

import pytest

from agent import pod_wants
from allocator.attachments import AddressLease, Attachment
from cluster.resources import ObjectMeta, Pod
from cni.errors import BAD_CONFIG, CniError
from cni.request import AttachmentKey, IPPools, NetworkConfig, PodRef, Request
from datapath.netlink import Uplink
from datapath.wireplan import PodAddress

UPLINK = Uplink(7, "eth0", "02:00:00:00:00:01", 1500, ("172.31.199.183/20",))


def request(config: NetworkConfig | None = None, ifname: str = "eth0") -> Request:
    return Request(
        command="ADD",
        key=AttachmentKey("ipvlan-eth0", "c1", ifname),
        netns_path="/run/netns/c1",
        netns_fd=3,
        pod=PodRef("default", "web", "u1"),
        config=config or NetworkConfig(name="ipvlan-eth0", master="eth0", mode="l2"),
        started_ns=5,
    )


def pod(**annotations: str) -> Pod:
    named = {name.replace("__", "/").replace("_", "-"): value for name, value in annotations.items()}
    return Pod(metadata=ObjectMeta(name="web", namespace="default", uid="u1", annotations=named))


def annotated(name: str, value: str) -> Pod:
    return Pod(metadata=ObjectMeta(name="web", namespace="default", annotations={name: value}))


@pytest.mark.parametrize(
    ("multus_name", "ifname", "annotation", "default", "expected"),
    [
        ("ns/from-config", "eth0", "ns/from-pod", "ns/default", "ns/from-config"),
        ("", "eth0", "ns/from-pod", "ns/default", "ns/from-pod"),
        ("", "eth0", " bare ", "ns/default", "kube-system/bare"),
        ("", "eth0", "", "ns/default", "ns/default"),
        ("", "eth0", "", "", ""),
        ("", "net1", "ns/from-pod", "ns/default", ""),
        ("ns/from-config", "net1", "", "", "ns/from-config"),
    ],
)
def test_the_network_of_a_nic(multus_name: str, ifname: str, annotation: str, default: str, expected: str) -> None:
    annotations = {pod_wants.DEFAULT_NETWORK: annotation} if annotation else {}
    config = NetworkConfig(name="n", master="eth0", multus_name=multus_name)
    assert pod_wants.network_of(config, ifname, annotations, default) == expected


def test_the_pods_annotation_goes_before_the_configurations_pools() -> None:
    config = NetworkConfig(name="n", master="eth0", ippools=IPPools(ipv4=("from-config",)))
    asked = annotated(pod_wants.IPPOOL, '{"ipv4": ["from-pod"]}')
    assert pod_wants.want_of(request(config), asked, "worker", "").pool_names == {4: ("from-pod",), 6: ()}
    assert pod_wants.want_of(request(config), pod(), "worker", "").pool_names == {4: ("from-config",), 6: ()}


def test_without_named_pools_the_default_ones_are_asked_for() -> None:
    assert pod_wants.want_of(request(), None, "worker", "").pool_names is None
    assert pod_wants.want_of(request(), annotated(pod_wants.IPPOOL, "{}"), "worker", "").pool_names is None


@pytest.mark.parametrize("text", ["", "not json", '["a"]', '{"ipv4": "a"}'])
def test_an_annotation_that_cannot_be_read_is_refused_by_name(text: str) -> None:
    with pytest.raises(CniError) as caught:
        pod_wants.want_of(request(), annotated(pod_wants.IPPOOL, text), "worker", "")
    assert caught.value.code == BAD_CONFIG
    assert pod_wants.IPPOOL in caught.value.msg


def attachment() -> Attachment:
    facts = pod_wants.facts_of(request(), (4, 11))
    return Attachment(
        network="ipvlan-eth0",
        container_id="c1",
        ifname="eth0",
        pod_namespace=facts.pod_namespace,
        pod_name=facts.pod_name,
        pod_uid=facts.pod_uid,
        netns_path=facts.netns_path,
        netns_dev=facts.netns_dev,
        netns_ino=facts.netns_ino,
        link_kind=facts.link_kind,
        uplink=facts.uplink,
        ifindex=0x100000,
        mac="",
        leases=(AddressLease("pool-a", "172.31.199.190/20", "172.31.207.253"),),
        routes=(("10.0.0.0/8", "172.31.192.1"),),
    )


def test_facts_carry_what_a_later_del_needs() -> None:
    found = attachment()
    assert (found.pod_namespace, found.pod_name, found.pod_uid) == ("default", "web", "u1")
    assert (found.netns_path, found.netns_dev, found.netns_ino) == ("/run/netns/c1", 4, 11)
    assert (found.link_kind, found.uplink) == ("ipvlan", "eth0")


def test_wiring_takes_routes_from_the_attachment_and_the_rest_from_the_configuration() -> None:
    config = NetworkConfig(name="n", master="eth0", mode="l2", mtu=1400, default_route=False)
    wiring = pod_wants.wiring_of(attachment(), UPLINK, ("172.31.199.183",), config)
    assert wiring.addresses == (PodAddress("172.31.199.190/20", "172.31.207.253"),)
    assert wiring.routes == (("10.0.0.0/8", "172.31.192.1"),)
    assert (wiring.mode, wiring.mtu, wiring.default_route) == ("l2", 1400, False)


def test_a_leftover_is_found_by_the_same_link_and_addresses() -> None:
    whole = pod_wants.wiring_of(attachment(), UPLINK, (), NetworkConfig(name="n", master="eth0", mode="l2"))
    leftover = pod_wants.leftover_of(attachment(), UPLINK)
    for name in ("kind", "uplink", "ifname", "ifindex", "addresses", "container_id"):
        assert getattr(leftover, name) == getattr(whole, name)
