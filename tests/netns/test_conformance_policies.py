"""[sig-network] Services: which endpoints a node's calls may choose, and which Services are not for us.

Each test's docstring is the name of the upstream test; each runs over both families and both paths (tc and socket).
Where upstream also calls from a host network (hostNetwork -> pod) no pod sees it: that is kube-proxy's part.
"""

from __future__ import annotations

import pytest

from tests.netns.service_cluster import ServiceCluster, port

ZONE = "topology.kubernetes.io/zone"


def test_should_respect_internal_traffic_policy_local_pod_to_pod(cluster: ServiceCluster):
    """Services should respect internalTrafficPolicy=Local Pod to Pod"""
    vips = cluster.create("local", [port()], behind=["one", "two", "three"], internalTrafficPolicy="Local")
    cluster.served(vips, ["one"], client="client")
    cluster.served(vips, ["two", "three"], client="stranger")
    cluster.behind("local", "two", "three")
    cluster.unserved(vips, client="client")
    cluster.served(vips, ["two", "three"], client="stranger")
    cluster.change("local", internalTrafficPolicy="Cluster")
    cluster.served(vips, ["two", "three"], client="client")


def test_should_respect_internal_traffic_policy_local_pod_to_pod_host_network(cluster: ServiceCluster):
    """Services should respect internalTrafficPolicy=Local Pod (hostNetwork: true) to Pod (hostNetwork: true): the far
    half; a macvlan pod cannot reach its own node (the near half: tests/vm/test_conformance.py)"""
    vips = cluster.create("local", [port()], behind=["host-worker"], internalTrafficPolicy="Local")
    cluster.unserved(vips, client="client")
    cluster.change("local", internalTrafficPolicy="Cluster")
    cluster.served(vips, ["host-worker"], client="client")


def test_should_fallback_to_terminating_endpoints_with_internal_traffic_policy_cluster(cluster: ServiceCluster):
    """Services should fallback to terminating endpoints when there are no ready endpoints with
    internalTrafficPolicy=Cluster"""
    vips = cluster.create("leaving", [port()], behind=["one", "two"])
    cluster.served(vips, ["one", "two"])
    cluster.state("one", terminating=True)
    cluster.served(vips, ["two"])
    cluster.state("two", terminating=True)
    cluster.served(vips, ["one", "two"])
    cluster.state("two", terminating=True, ready=False)
    cluster.served(vips, ["one"])
    cluster.state("one", terminating=True, ready=False)
    cluster.refused(vips)


def test_should_fallback_to_local_terminating_endpoints_with_internal_traffic_policy_local(cluster: ServiceCluster):
    """Services should fallback to local terminating endpoints when there are no ready endpoints with
    internalTrafficPolicy=Local"""
    vips = cluster.create("leaving", [port()], behind=["one", "two"], internalTrafficPolicy="Local")
    cluster.served(vips, ["one"])
    cluster.state("one", terminating=True)
    cluster.served(vips, ["one"])
    cluster.served(vips, ["two"], client="stranger")
    cluster.state("one", terminating=True, ready=False)
    cluster.unserved(vips)


@pytest.mark.parametrize("policy", ["Cluster", "Local"])
def test_should_fallback_to_terminating_endpoints_with_external_traffic_policy(cluster: ServiceCluster, policy: str):
    """Services should fallback to (local) terminating endpoints when there are no ready endpoints with
    externalTrafficPolicy=Cluster / Local: a pod's calls to a NodePort count as internal, so all endpoints will do"""
    ports, worker = [port(node_port=30070)], cluster.node_addresses("worker")
    cluster.create("leaving", ports, behind=["one", "two"], type="NodePort", externalTrafficPolicy=policy)
    cluster.served(worker, ["one", "two"], 30070)
    for pod in ("one", "two"):
        cluster.state(pod, terminating=True)
    cluster.served(worker, ["one", "two"], 30070)
    cluster.state("one", terminating=True, ready=False)
    cluster.served(worker, ["two"], 30070)


def test_should_be_able_to_connect_to_terminating_and_unready_endpoints_if_publish_not_ready_addresses_is_true(
    cluster: ServiceCluster,
):
    """Services should be able to connect to terminating and unready endpoints if PublishNotReadyAddresses is true"""
    for pod in ("one", "two"):
        cluster.state(pod, ready=False)
    vips = cluster.create("unready", [port()], behind=["one", "two"])
    cluster.refused(vips)
    cluster.change("unready", publishNotReadyAddresses=True)
    cluster.served(vips, ["one", "two"])
    cluster.state("one", ready=False, terminating=True)
    cluster.served(vips, ["one", "two"])
    cluster.change("unready", publishNotReadyAddresses=False)
    cluster.refused(vips)


@pytest.mark.parametrize("label", ["service-proxy-name", "headless"])
def test_should_implement_the_label_of_another_proxy(cluster: ServiceCluster, label: str):
    """Services should implement service.kubernetes.io/service-proxy-name; ... service.kubernetes.io/headless"""
    labels = {f"service.kubernetes.io/{label}": "foo"}
    never = cluster.create("never", [port()], behind=["one"], labels=labels)
    toggled = cluster.create("toggled", [port()], behind=["one", "two"])
    cluster.served(toggled, ["one", "two"])
    cluster.unserved(never)
    cluster.change("toggled", labels=labels)
    cluster.unserved(toggled)
    cluster.change("toggled", labels={})
    cluster.served(toggled, ["one", "two"])
    cluster.unserved(never)


def test_a_headless_service_is_called_by_its_endpoints_only(cluster: ServiceCluster):
    """DNS ... for headless Services: nothing is programmed, and nobody else's Service is disturbed"""
    vips = cluster.create("beside", [port()], behind=["one"])
    cluster.create("headless", [port()], behind=["one", "two"])
    cluster.change("headless", clusterIP="None", clusterIPs=["None"])
    cluster.served(vips, ["one"])
    cluster.served([a for pod in ("one", "two") for a in cluster.pods[pod].addresses][:1], ["one"], 8080)


@pytest.mark.parametrize("distribution", ["PreferClose", "PreferSameZone"])
def test_should_route_traffic_to_an_endpoint_in_the_same_zone_with_traffic_distribution(
    cluster: ServiceCluster, distribution: str
):
    """Traffic Distribution should route traffic to an endpoint in the same zone when using PreferClose /
    PreferSameZone; to all when its own zone has none"""
    for node in cluster.bed.agents:
        raw = cluster.folder.get("Node", node)
        cluster.folder.apply({**raw, "metadata": {**raw["metadata"], "labels": {ZONE: f"zone-of-{node}"}}})
    vips = cluster.create("near", [port()], behind=["one", "two", "three"], trafficDistribution=distribution)
    cluster.served(vips, ["one"], client="client")
    cluster.served(vips, ["two", "three"], client="stranger")
    cluster.behind("near", "two", "three")
    cluster.served(vips, ["two", "three"], client="client")


def test_should_route_traffic_to_an_endpoint_on_the_same_node_when_using_prefer_same_node(cluster: ServiceCluster):
    """Traffic Distribution should route traffic to an endpoint on the same node when using PreferSameNode and fall back
    when the endpoint becomes unavailable"""
    vips = cluster.create("near", [port()], behind=["one", "two"], trafficDistribution="PreferSameNode")
    cluster.served(vips, ["one"], client="client")
    cluster.served(vips, ["two"], client="stranger")
    cluster.state("one", ready=False)
    cluster.served(vips, ["two"], client="client")
    cluster.state("one")
    cluster.served(vips, ["one"], client="client")


def test_should_support_a_service_with_endpoints_in_several_slices(cluster: ServiceCluster):
    """EndpointSlice should support a Service with multiple endpoint IPs / ports specified in multiple EndpointSlices"""
    vips = cluster.create("several", [port()], behind=["one"])
    mirrored = {}
    for family in ("ipv4", "ipv6"):
        raw = cluster.folder.get("EndpointSlice", f"default/several-{family}")
        address = next(a for a in cluster.pods["two"].addresses if (":" in a) == (family == "ipv6"))
        meta = {**raw["metadata"], "name": f"several-{family}-by-hand"}
        mirrored[family] = {**raw, "metadata": meta, "endpoints": [{"addresses": [address]}]}
        cluster.folder.apply(mirrored[family])
    cluster.served(vips, ["one", "two"])
    cluster.behind("several")
    cluster.served(vips, ["two"])
    cluster.behind("several", "one")
    cluster.served(vips, ["one", "two"])
    for raw in mirrored.values():
        cluster.folder.delete("EndpointSlice", f"default/{raw['metadata']['name']}")
    cluster.served(vips, ["one"])
