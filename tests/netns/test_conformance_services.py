"""[sig-network] Services, as Kubernetes' conformance and e2e suites name them: what a pod can see of endpoints.

Each test's docstring is the name of the upstream test; each runs over both families and both paths (tc and socket).
"""

from __future__ import annotations

import pytest

from tests.netns.service_cluster import ServiceCluster, port


def test_should_serve_a_basic_endpoint_from_pods(cluster: ServiceCluster):
    """Services should serve a basic endpoint from pods [Conformance]"""
    vips = cluster.create("basic", [port()])
    cluster.refused(vips)
    for pods in (["one"], ["one", "two"], ["two"], []):
        cluster.behind("basic", *pods)
        if pods:
            cluster.served(vips, pods)
    cluster.refused(vips)


def test_should_serve_multiport_endpoints_from_pods(cluster: ServiceCluster):
    """Services should serve multiport endpoints from pods [Conformance]"""
    for pod, name, number in (("one", "first", 8080), ("two", "second", 8081)):
        raw = cluster.folder.get("Pod", f"default/{pod}")
        containers = [{"name": "main", "ports": [{"name": name, "containerPort": number}]}]
        cluster.folder.apply({**raw, "spec": {**raw["spec"], "containers": containers}})
    vips = cluster.create("multiport", [port(80, "first"), port(81, "second")], behind=["one"])
    cluster.served(vips, ["one"], 80)
    cluster.refused(vips, 81)
    cluster.behind("multiport", "one", "two")
    cluster.served(vips, ["two"], 81)
    cluster.served(vips, ["one"], 80)
    cluster.behind("multiport", "two")
    cluster.refused(vips, 80)
    cluster.served(vips, ["two"], 81)


def test_should_serve_endpoints_on_same_port_and_different_protocols(cluster: ServiceCluster):
    """Services should serve endpoints on same port and different protocols [Conformance]"""
    both = [port(80, 8080, "TCP"), port(80, 8081, "UDP")]
    vips = cluster.create("same-port", both, behind=["one", "three"])
    for vip in vips:
        cluster.served([vip], ["one", "three"])
        cluster.served([vip], ["one", "three"], protocol="UDP")
        assert (cluster.heard(vip).port, cluster.heard(vip, protocol="UDP").port) == (8080, 8081)
    cluster.change("same-port", ports=both[:1])
    cluster.refused(vips, protocol="UDP")
    cluster.served(vips, ["one", "three"])
    cluster.change("same-port", ports=both[1:])
    cluster.refused(vips)
    cluster.served(vips, ["one", "three"], protocol="UDP")


def test_should_provide_secure_master_service(cluster: ServiceCluster):
    """Services should provide secure master service [Conformance]; it is never emptied"""
    vips = cluster.create("kubernetes", [port(443)], behind=["host-worker"])
    cluster.served(vips, ["host-worker"], 443)
    witness = cluster.create("witness", [port()], behind=["two"])
    cluster.served(witness, ["two"])
    cluster.behind("kubernetes")
    cluster.behind("witness")
    cluster.refused(witness)  # an emptied Service, written later, is known as such
    cluster.served(vips, ["host-worker"], 443)
    cluster.behind("kubernetes", "two")
    cluster.served(vips, ["two"], 443)


def test_should_test_the_lifecycle_of_an_endpoint(cluster: ServiceCluster):
    """Endpoints should test the lifecycle of an Endpoint [Conformance]: endpoints written by hand"""
    vips = cluster.create("by-hand", [port()])
    cluster.change("by-hand", without=["selector"])
    cluster.refused(vips)
    slices = {}
    for family, pod in (("IPv4", "two"), ("IPv6", "two"), ("IPv4", "three"), ("IPv6", "three")):
        address = next(a for a in cluster.pods[pod].addresses if (":" in a) == (family == "IPv6"))
        slices[family, pod] = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"by-hand-{family.lower()}",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": "by-hand"},
            },
            "addressType": family,
            "endpoints": [{"addresses": [address]}],
            "ports": [{"name": "tcp-80", "port": 8080}],
        }
    for pod in ("two", "three"):
        for family in ("IPv4", "IPv6"):
            cluster.folder.apply(slices[family, pod])
        cluster.served(vips, [pod])
    for family in ("ipv4", "ipv6"):
        cluster.folder.delete("EndpointSlice", f"default/by-hand-{family}")
    cluster.refused(vips)


def test_should_delete_a_collection_of_services(cluster: ServiceCluster):
    """Services should delete a collection of services [Conformance]"""
    vips = {name: cluster.create(name, [port()], behind=["one"]) for name in ("first", "second", "kept")}
    for some in vips.values():
        cluster.served(some, ["one"])
    cluster.delete("first", "second")
    cluster.unserved([*vips["first"], *vips["second"]])
    cluster.served(vips["kept"], ["one"])


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_should_allow_pods_to_hairpin_back_to_themselves_through_services(cluster: ServiceCluster, protocol: str):
    """Services should allow pods to hairpin back to themselves through services"""
    vips = cluster.create("hairpin", [port(protocol=protocol)], behind=["one"])
    cluster.served(vips, ["one"], protocol=protocol, client="one")
    cluster.behind("hairpin", "one", "two")
    cluster.served(vips, ["one", "two"], protocol=protocol, client="one")


def test_should_preserve_source_pod_ip_for_traffic_thru_service_cluster_ip(cluster: ServiceCluster):
    """Services should preserve source pod IP for traffic thru service cluster IP [LinuxOnly]"""
    vips = cluster.create("source", [port(), port(80, 8080, "UDP")], behind=["one", "two", "three"])
    cluster.served(vips, ["one", "two", "three"])
    for vip, protocol in ((vip, protocol) for vip in vips for protocol in ("TCP", "UDP")):
        for client in ("client", "stranger"):
            own = next(a for a in cluster.pods[client].addresses if (":" in a) == (":" in vip))
            assert {cluster.heard(vip, 80, protocol, client).client for _ in range(10)} == {own}


def test_should_be_updated_after_adding_or_deleting_ports(cluster: ServiceCluster):
    """Services should be updated after adding or deleting ports"""
    first, second = port(80, 8080), port(443, 8081)
    vips = cluster.create("ports", [first], behind=["one"])
    cluster.served(vips, ["one"], 80)
    cluster.refused(vips, 443)
    cluster.change("ports", ports=[first, second])
    cluster.served(vips, ["one"], 443)
    cluster.served(vips, ["one"], 80)
    cluster.change("ports", ports=[second])
    cluster.refused(vips, 80)
    cluster.served(vips, ["one"], 443)


def test_should_be_able_to_up_and_down_services(cluster: ServiceCluster):
    """Services should be able to up and down services"""
    ups = {name: cluster.create(name, [port()], behind=["one", "two", "three"]) for name in ("up-1", "up-2")}
    for vips in ups.values():
        cluster.served(vips, ["one", "two", "three"])
    cluster.delete("up-1")
    cluster.unserved(ups["up-1"])
    cluster.served(ups["up-2"], ["one", "two", "three"])
    third = cluster.create("up-3", [port()], behind=["two", "four"])
    cluster.served(third, ["two", "four"])
    cluster.served(ups["up-2"], ["one", "two", "three"])


def test_should_work_after_the_service_has_been_recreated(cluster: ServiceCluster):
    """Services should work after the service has been recreated"""
    vips = cluster.create("again", [port()], behind=["one", "two"])
    cluster.served(vips, ["one", "two"])
    raw = cluster.folder.get("Service", "default/again")
    cluster.delete("again")
    cluster.unserved(vips)
    cluster.folder.apply(raw)
    cluster.folder.sync_endpoints()
    cluster.served(vips, ["one", "two"])


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_should_be_rejected_when_no_endpoints_exist(cluster: ServiceCluster, protocol: str):
    """Services should be rejected when no endpoints exist"""
    vips = cluster.create("nobody", [port(protocol=protocol)])
    for client in ("client", "stranger"):
        cluster.refused(vips, protocol=protocol, client=client)


def test_should_be_rejected_for_evicted_pods(cluster: ServiceCluster):
    """Services should be rejected for evicted pods (no endpoints exist)"""
    vips = cluster.create("evicted", [port()], behind=["one"])
    cluster.served(vips, ["one"])
    cluster.state("one", ready=False, phase="Failed")
    cluster.refused(vips)
