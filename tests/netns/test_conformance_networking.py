"""[sig-network] Networking Granular Checks: Services, as pods see them.

Each test's docstring is the name of the upstream test; each runs over both families and both paths (tc and socket).
"""

from __future__ import annotations

import pytest

from tests.netns.service_cluster import CALL_S, ServiceCluster, port
from tests.testbed import ask

NETSERVERS = ["one", "two", "three", "four"]
PROTOCOLS = {"http": "TCP", "udp": "UDP"}
every_protocol = pytest.mark.parametrize("kind", PROTOCOLS)


def create(cluster: ServiceCluster, name: str = "netserver", **spec: str) -> list[str]:
    """Both protocols, all netserver pods; every Service has the same selector."""
    ports = [port(80, 8080, protocol) for protocol in PROTOCOLS.values()]
    vips = cluster.create(name, ports, selector={"netserver": "yes"}, **spec)
    cluster.behind("netserver", *NETSERVERS)
    return vips


@pytest.fixture
def vips(cluster: ServiceCluster) -> list[str]:
    """The ClusterIPs of a Service of all netserver pods."""
    return create(cluster)


@every_protocol
def test_should_function_for_pod_service(cluster: ServiceCluster, vips: list[str], kind: str):
    """Granular Checks: Services should function for pod-Service: http / udp"""
    for client in ("client", "stranger"):
        cluster.served(vips, NETSERVERS, protocol=PROTOCOLS[kind], client=client)


@every_protocol
def test_should_function_for_endpoint_service(cluster: ServiceCluster, vips: list[str], kind: str):
    """Granular Checks: Services should function for endpoint-Service: http / udp: endpoints call their own Service"""
    for client in NETSERVERS:
        cluster.served(vips, NETSERVERS, protocol=PROTOCOLS[kind], client=client)


@every_protocol
def test_should_update_endpoints(cluster: ServiceCluster, vips: list[str], kind: str):
    """Granular Checks: Services should update endpoints: http / udp"""
    cluster.served(vips, NETSERVERS, protocol=PROTOCOLS[kind])
    cluster.behind("netserver", *NETSERVERS[1:])
    cluster.served(vips, NETSERVERS[1:], protocol=PROTOCOLS[kind])
    cluster.behind("netserver", *NETSERVERS)
    cluster.served(vips, NETSERVERS, protocol=PROTOCOLS[kind])


@every_protocol
def test_should_function_for_client_ip_based_session_affinity(cluster: ServiceCluster, kind: str):
    """Granular Checks: Services should function for client IP based session affinity: http / udp [LinuxOnly]"""
    for vip in create(cluster, sessionAffinity="ClientIP"):
        cluster.eventually("served", lambda vip=vip: "" if cluster.heard(vip, 80, PROTOCOLS[kind]) else "not")
        kept = cluster.heard(vip, 80, PROTOCOLS[kind]).name
        cluster.served([vip], [kept], protocol=PROTOCOLS[kind])


def test_should_be_able_to_handle_large_requests_http(cluster: ServiceCluster, vips: list[str]):
    """Granular Checks: Services should be able to handle large requests: http"""
    cluster.served(vips, NETSERVERS)
    for vip in vips * len(NETSERVERS):
        with ask.connect(cluster.pods["client"].netns, vip, 80) as stream:
            ask.greeting(stream)
            ask.exchange(stream, bytes(range(256)) * 4096)


def test_should_be_able_to_handle_large_requests_udp(cluster: ServiceCluster, vips: list[str]):
    """Granular Checks: Services should be able to handle large requests: udp; in fragments, too"""
    cluster.served(vips, NETSERVERS, protocol="UDP")
    for vip in vips * len(NETSERVERS):
        for connected in (True, False):
            called = None if connected else (vip, 80)
            with ask.datagrams(cluster.pods["client"].netns, vip, 80, connected=connected, timeout_s=CALL_S) as one:
                for size in (1024, 1473, 8000, 30000):
                    ask.inverted(one, b"l" * size, called)


def test_should_function_for_multiple_endpoint_services_with_same_selector(cluster: ServiceCluster, vips: list[str]):
    """Granular Checks: Services should function for multiple endpoint-Services with same selector"""
    others = create(cluster, "second")
    for client in ("client", "one"):
        cluster.served([*vips, *others], NETSERVERS, client=client)
    cluster.delete("netserver")
    cluster.unserved(vips)
    cluster.served(others, NETSERVERS)


@every_protocol
def test_should_function_for_service_endpoints_using_host_network(cluster: ServiceCluster, kind: str):
    """Granular Checks: Services should function for service endpoints using hostNetwork: http / udp: of the other node
    (a macvlan pod cannot reach its own)"""
    protocol = PROTOCOLS[kind]
    for host, client in (("host-worker", "client"), ("host-master", "stranger")):
        vips = cluster.create(f"on-{host}", [port(80, 8080, protocol)], behind=[host])
        cluster.served(vips, [host], protocol=protocol, client=client)
