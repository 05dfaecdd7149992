"""[sig-network] Services: session affinity ClientIP, by ClusterIP and by NodePort.

Each test's docstring is the name of the upstream test; each runs over both families and both paths (tc and socket).
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.netns.service_cluster import ServiceCluster, port

PODS = ["one", "two", "three"]
WAYS = {"ClusterIP": 80, "NodePort": 30090}


def create(cluster: ServiceCluster, way: str, affinity: str, **spec: Any) -> list[str]:
    """A Service of that type with TCP and UDP; the addresses by which it is called."""
    ports = [port(80, 8080, protocol, node_port=30090 if way == "NodePort" else 0) for protocol in ("TCP", "UDP")]
    vips = cluster.create("affine", ports, behind=PODS, type=way, sessionAffinity=affinity, **spec)
    return vips if way == "ClusterIP" else cluster.node_addresses("worker")


def keeps(cluster: ServiceCluster, address: str, number: int, protocol: str = "TCP") -> str:
    """The one pod that answers calls from now on; a change of the Service may take a moment to arrive."""

    def wrong() -> str:
        names = {cluster.heard(address, number, protocol).name for _ in range(15)}
        return "" if len(names) == 1 else f"answered by {names}"

    cluster.eventually(f"affinity of {address}", wrong)
    return cluster.heard(address, number, protocol).name


@pytest.mark.parametrize("way", WAYS)
def test_should_have_session_affinity_work_for_service(cluster: ServiceCluster, way: str):
    """Services should have session affinity work for service with type clusterIP / NodePort service [Conformance]"""
    for address in create(cluster, way, "ClientIP"):
        cluster.served([address], [keeps(cluster, address, WAYS[way])], WAYS[way])
        cluster.served([address], [keeps(cluster, address, WAYS[way], "UDP")], WAYS[way], protocol="UDP")


@pytest.mark.parametrize("way", WAYS)
def test_should_be_able_to_switch_session_affinity_for_service(cluster: ServiceCluster, way: str):
    """Services should be able to switch session affinity for service with type clusterIP / NodePort [Conformance]"""
    addresses, number = create(cluster, way, "None"), WAYS[way]
    cluster.served(addresses, PODS, number)
    cluster.change("affine", sessionAffinity="ClientIP")
    for address in addresses:
        keeps(cluster, address, number)
    cluster.change("affine", sessionAffinity="None")
    cluster.served(addresses, PODS, number)


@pytest.mark.parametrize("way", WAYS)
def test_should_have_session_affinity_timeout_work_for_service(cluster: ServiceCluster, way: str):
    """Services should have session affinity timeout work for service with type clusterIP / NodePort service"""
    seconds = 1
    config = {"clientIP": {"timeoutSeconds": seconds}}
    addresses, number = create(cluster, way, "ClientIP", sessionAffinityConfig=config), WAYS[way]
    seen = {address: {keeps(cluster, address, number)} for address in addresses}
    for _ in range(20):  # three pods: all the same once in 10^9
        time.sleep(seconds + 0.05)
        for address in addresses:
            seen[address].add(cluster.heard(address, number).name)
        if all(len(names) > 1 for names in seen.values()):
            return
    raise AssertionError(f"affinity never ends: {seen}")


def test_an_affine_client_moves_when_its_pod_is_gone(cluster: ServiceCluster):
    """Of the upstream affinity helper: whoever is kept must be an endpoint."""
    for address in create(cluster, "ClusterIP", "ClientIP"):
        cluster.behind("affine", *PODS)
        kept = keeps(cluster, address, 80)
        cluster.behind("affine", *(pod for pod in PODS if pod != kept))
        moved = [pod for pod in PODS if pod != kept]
        cluster.eventually("affinity moves", lambda a=address, m=moved: _not_of(cluster, a, m))
        cluster.served([address], [keeps(cluster, address, 80)])


def _not_of(cluster: ServiceCluster, address: str, pods: list[str]) -> str:
    name = cluster.heard(address).name
    return "" if name in pods else f"answered by {name}"
