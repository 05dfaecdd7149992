"""Manifests to structs: what parses, and how what does not is named."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from cluster.resources import (
    EndpointSlice,
    Pod,
    ResourceError,
    Service,
    SpiderIPPool,
    SpiderMultusConfig,
    identify,
    is_known,
    parse,
)

POOL: dict[str, Any] = {
    "apiVersion": "spiderpool.spidernet.io/v2beta1",
    "kind": "SpiderIPPool",
    "metadata": {"name": "master-172"},
    "spec": {
        "subnet": "172.31.192.0/20",
        "ips": ["172.31.199.185-172.31.199.189"],
        "gateway": "172.31.207.253",
        "nodeName": ["master"],
        "default": True,
    },
}
SLICE: dict[str, Any] = {
    "apiVersion": "discovery.k8s.io/v1",
    "kind": "EndpointSlice",
    "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
    "addressType": "IPv4",
    "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": True}}],
    "ports": [{"port": 80}],
}


def changed(raw: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy of `raw` with the field at a dotted path replaced."""
    result = copy.deepcopy(raw)
    *parents, last = path.split(".")
    node = result
    for parent in parents:
        node = node.setdefault(parent, {})
    node[last] = value
    return result


def test_pool() -> None:
    pool = parse(POOL)
    assert isinstance(pool, SpiderIPPool)
    assert (pool.key, pool.family, pool.spec.default, pool.spec.node_name) == ("master-172", 4, True, ("master",))
    assert pool.status.allocated_ip_count == 0


def test_v6_pool_and_status() -> None:
    raw = changed(POOL, "spec", {"subnet": "fd00::/64", "ips": ["fd00::1-fd00::ff"], "ipVersion": 6})
    pool = parse(raw | {"status": {"allocatedIPs": "{}", "allocatedIPCount": 1, "totalIPCount": 255}})
    assert isinstance(pool, SpiderIPPool)
    assert (pool.family, pool.status.total_ip_count, pool.status.allocated_ips) == (6, 255, "{}")


def test_pool_without_ips_is_legal() -> None:
    assert isinstance(parse(changed(POOL, "spec.ips", [])), SpiderIPPool)


@pytest.mark.parametrize(
    ("path", "value", "field", "reason"),
    [
        ("spec.subnet", "172.31.192.0", "spec.subnet", "not a CIDR"),
        ("spec.subnet", "172.31.192.0/255.255.240.0", "spec.subnet", "not a CIDR"),
        ("spec.subnet", "fe80::%eth0/64", "spec.subnet", "not a CIDR"),
        ("spec.subnet", "172.31.192.1/20", "spec.subnet", "host bits"),
        ("spec.subnet", None, "spec.subnet", "required"),
        ("spec.ips", ["10.0.0.1"], "spec.ips[0]", "outside subnet"),
        ("spec.ips", ["172.31.199.1", "fd00::1"], "spec.ips[1]", "IPv6"),
        ("spec.ips", ["172.31.199.9-172.31.199.1"], "spec.ips[0]", "backwards"),
        ("spec.ips", ["172.31.199.1 - 172.31.199.2"], "spec.ips[0]", "not an IP address"),
        ("spec.ips", "172.31.199.1", "spec.ips", "Expected `array`"),
        ("spec.excludeIPs", ["1.1.1.1"], "spec.excludeIPs[0]", "outside"),
        ("spec.gateway", "10.0.0.1", "spec.gateway", "outside subnet"),
        ("spec.gateway", "172.31.199.185", "spec.gateway", "excludeIPs"),
        ("spec.default", "yes", "spec.default", "Expected `bool`"),
        ("spec.ipVersion", 6, "spec.ipVersion", "does not match"),
        ("spec.routes", [{"dst": "0.0.0.0/0", "gw": "172.31.207.253"}], "spec.routes[0].dst", "default route"),
        ("spec.routes", [{"dst": "10.0.0.0/8", "gw": "10.0.0.1"}], "spec.routes[0].gw", "outside"),
        ("spec.routes", [{"dst": "10.0.0.0/8", "gw": "172.31.207.1"}] * 2, "spec.routes[1].dst", "twice"),
        ("metadata.name", "../../etc/x", "metadata.name", "DNS"),
        ("metadata.labels", {"a": 1}, "metadata.labels[...]", "Expected `str`"),
        ("metadata", None, "metadata", "required"),
        ("apiVersion", "spiderpool.spidernet.io/v1", "apiVersion", "not served"),
    ],
)
def test_bad_pool_names_the_field(path: str, value: object, field: str, reason: str) -> None:
    with pytest.raises(ResourceError) as caught:
        parse(changed(POOL, path, value))
    assert caught.value.field == field
    assert reason in caught.value.reason
    assert caught.value.kind == "SpiderIPPool"


def test_gateway_among_ips_when_excluded() -> None:
    raw = changed(changed(POOL, "spec.gateway", "172.31.199.185"), "spec.excludeIPs", ["172.31.199.185"])
    assert isinstance(parse(raw), SpiderIPPool)


def test_namespaces() -> None:
    service = parse({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {}})
    assert isinstance(service, Service)
    assert service.key == "default/a"
    assert parse(changed(POOL, "metadata.namespace", "x")).key == "master-172"


def test_service_without_cluster_ip_and_with_junk() -> None:
    raw = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}}
    service = parse(raw)
    assert isinstance(service, Service)
    assert (service.spec.cluster_ip, service.spec.ports[0].protocol) == ("", "TCP")
    for path, value in (
        ("spec.clusterIP", "nonsense"),
        ("spec.ports", [{"port": 0}]),
        ("spec.ports", [{"port": 1 << 16}]),
    ):
        with pytest.raises(ResourceError):
            parse(changed(raw, path, value))


SERVICE: dict[str, Any] = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {}}


def test_service_with_everything_that_chooses_frontends() -> None:
    spec = {
        "ipFamilies": ["IPv6", "IPv4"],
        "externalIPs": ["192.0.2.1"],
        "loadBalancerSourceRanges": ["10.0.0.0/8"],
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
        "ports": [{"port": 80, "nodePort": 30080}],
    }
    ingress = [{"ip": "192.0.2.7", "ipMode": "Proxy", "ports": []}, {"hostname": "lb.example"}]
    service = parse(SERVICE | {"spec": spec, "status": {"loadBalancer": {"ingress": ingress}}})
    assert isinstance(service, Service)
    assert (service.spec.ip_families, service.spec.external_ips) == (("IPv6", "IPv4"), ("192.0.2.1",))
    assert service.spec.load_balancer_source_ranges == ("10.0.0.0/8",)
    assert service.spec.session_affinity_config.client_ip.timeout_seconds == 60
    assert service.spec.ports[0].node_port == 30080
    assert [(one.ip, one.ip_mode) for one in service.status.load_balancer.ingress] == [("192.0.2.7", "Proxy"), ("", "")]


def test_service_as_short_as_the_api_allows() -> None:
    for raw in (
        SERVICE,
        SERVICE | {"status": {"loadBalancer": {}}},
        changed(SERVICE, "spec.sessionAffinityConfig", {}),
    ):
        service = parse(raw)
        assert isinstance(service, Service)
        assert service.spec.session_affinity_config.client_ip.timeout_seconds == 10800
        assert service.status.load_balancer.ingress == ()


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("spec.externalIPs", "192.0.2.1", "spec.externalIPs"),
        ("spec.ports", [{"port": 80, "nodePort": 65536}], "spec.ports[0].nodePort"),
        ("spec.sessionAffinityConfig", {"clientIP": {"timeoutSeconds": 0}}, "spec.sessionAffinityConfig.clientIP"),
        ("spec.sessionAffinityConfig", {"clientIP": {"timeoutSeconds": 86401}}, "spec.sessionAffinityConfig.clientIP"),
        ("status.loadBalancer", {"ingress": [{"ip": 7}]}, "status.loadBalancer.ingress[0].ip"),
    ],
)
def test_bad_service_names_the_field(path: str, value: object, field: str) -> None:
    with pytest.raises(ResourceError) as caught:
        parse(changed(SERVICE, path, value))
    assert caught.value.field.startswith(field)


def test_slice_with_hints() -> None:
    endpoint = {"addresses": ["10.0.0.1"], "nodeName": None, "hints": {"forNodes": [{"name": "n"}], "forZones": None}}
    endpoint_slice = parse(changed(SLICE, "endpoints", [endpoint, {"addresses": ["10.0.0.2"]}]))
    assert isinstance(endpoint_slice, EndpointSlice)
    first, second = endpoint_slice.endpoints
    assert first.hints is not None
    assert ([hint.name for hint in first.hints.for_nodes], first.hints.for_zones) == (["n"], ())
    assert (first.node_name, second.hints) == ("", None)


def test_slice_with_nulls_as_the_api_writes_them() -> None:
    raw = changed(SLICE, "ports", [{"name": None, "port": 80, "protocol": "UDP"}]) | {"endpoints": None}
    endpoint_slice = parse(raw)
    assert isinstance(endpoint_slice, EndpointSlice)
    assert (endpoint_slice.endpoints, endpoint_slice.ports[0].name) == ((), "")
    assert endpoint_slice.service_key == "default/web"


@pytest.mark.parametrize("address", ["10.0.0.256", "fd00::1", "10.0.0.1\x00", "10.1", "ü"])
def test_slice_with_a_bad_address(address: str) -> None:
    with pytest.raises(ResourceError) as caught:
        parse(changed(SLICE, "endpoints", [{"addresses": [address]}]))
    assert caught.value.field == "endpoints[0].addresses[0]"
    with pytest.raises(ResourceError):
        parse(changed(SLICE, "addressType", "IPX"))


def test_pod_and_multus_config() -> None:
    pod = parse(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "p",
                "namespace": "kube-system",
                "uid": "u",
                "deletionTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {"nodeName": "n", "containers": [{"name": "c"}]},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]},
        }
    )
    assert isinstance(pod, Pod)
    assert (pod.metadata.deletion_timestamp[:4], pod.status.pod_ips[0].ip) == ("2026", "10.0.0.1")
    smc = parse(
        {
            "apiVersion": "spiderpool.spidernet.io/v2beta1",
            "kind": "SpiderMultusConfig",
            "metadata": {"name": "m", "namespace": "kube-system"},
            "spec": {"cniType": "macvlan", "macvlan": {"master": ["eth0"], "vlanID": 5, "ippools": {"ipv4": ["a"]}}},
        }
    )
    assert isinstance(smc, SpiderMultusConfig)
    assert smc.spec.macvlan is not None
    assert (smc.spec.macvlan.vlan_id, smc.spec.macvlan.ippools.ipv4) == (5, ("a",))


def test_the_group_counts() -> None:
    knative = {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "a"}}
    assert not is_known(knative)
    with pytest.raises(ResourceError):
        parse(knative)
    assert identify(POOL) == ("SpiderIPPool", "master-172")
    assert identify({"kind": 3}) == ("", "")
