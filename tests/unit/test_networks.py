"""SpiderMultusConfig to network configuration."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cluster.networks import NetworkError, network_config
from cluster.resources import SpiderMultusConfig, parse


def smc(**spec: Any) -> SpiderMultusConfig:
    raw = {
        "apiVersion": "spiderpool.spidernet.io/v2beta1",
        "kind": "SpiderMultusConfig",
        "metadata": {"name": "net", "namespace": "kube-system"},
        "spec": spec,
    }
    parsed = parse(raw)
    assert isinstance(parsed, SpiderMultusConfig)
    return parsed


def test_ipvlan_as_in_the_article() -> None:
    config = network_config(smc(cniType="ipvlan", ipvlan={"master": ["eth0"]}, coordinator={"mode": "underlay"}), "/s")
    assert config == {
        "cniVersion": "1.0.0",
        "name": "net",
        "type": "dragline",
        "linkKind": "ipvlan",
        "master": "eth0",
        "mode": "l2",
        "multusName": "kube-system/net",
        "socket": "/s",
    }


def test_macvlan_with_everything() -> None:
    block = {"master": ["eth1"], "mtu": 1400, "vlanID": 0, "ippools": {"ipv4": ["a", "b"], "ipv6": ["c"]}}
    config = network_config(smc(cniType="macvlan", macvlan=block), "", cni_version="0.3.1")
    assert (config["linkKind"], config["mode"], config["mtu"], config["cniVersion"]) == (
        "macvlan",
        "bridge",
        1400,
        "0.3.1",
    )
    assert config["ippools"] == {"ipv4": ["a", "b"], "ipv6": ["c"]}
    assert "socket" not in config
    assert json.loads(json.dumps(config)) == config


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"cniType": "sriov"}, ["cniType", "sriov"]),
        ({}, ["cniType", "custom"]),
        ({"cniType": "ipvlan"}, ["spec.ipvlan", "required"]),
        ({"cniType": "ipvlan", "macvlan": {"master": ["eth0"]}}, ["spec.ipvlan", "required"]),
        (
            {"cniType": "ipvlan", "ipvlan": {"master": ["e"]}, "macvlan": {"master": ["e"]}},
            ["spec.macvlan", "not allowed"],
        ),
        (
            {"cniType": "macvlan", "ipvlan": {"master": ["e"]}, "macvlan": {"master": ["e"]}},
            ["spec.ipvlan", "not allowed"],
        ),
        ({"cniType": "ipvlan", "ipvlan": {"master": []}}, ["ipvlan.master", "no interface"]),
        ({"cniType": "ipvlan", "ipvlan": {"master": ["a", "b"]}}, ["ipvlan.master", "several"]),
        ({"cniType": "ipvlan", "ipvlan": {"master": ["a"], "bond": {"name": "b"}}}, ["ipvlan.master", "bond"]),
        ({"cniType": "ipvlan", "ipvlan": {"master": ["a"], "vlanID": 7}}, ["ipvlan.vlanID", "7"]),
    ],
)
def test_what_is_not_supported_is_named(spec: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(NetworkError) as caught:
        network_config(smc(**spec), "")
    assert all(word in str(caught.value) for word in ["kube-system/net", *words])
