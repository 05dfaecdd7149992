"""[sig-network] Services: types, NodePorts and addresses from outside, as pods call them.

Each test's docstring is the name of the upstream test; each runs over both families and both paths (tc and socket).
"""

from __future__ import annotations

from tests.netns.service_cluster import ServiceCluster, port

EXTERNAL = {"type": "ExternalName", "externalName": "foo.bar.example"}
NO_ADDRESS = ("clusterIP", "clusterIPs", "ipFamilies")


def node_ports(cluster: ServiceCluster, path: str, client: str = "client") -> list[str]:
    """The addresses of the nodes that a pod can call by a path: a macvlan pod has no neighbour in its own node, so its
    packets to it are never sent (issue 6; IPvlan pods: tests/vm/test_conformance.py)."""
    own = cluster.pods[client].node if path == "tc" else ""
    return [address for node in cluster.bed.agents if node != own for address in cluster.node_addresses(node)]


def test_should_be_able_to_create_a_functioning_nodeport_service(cluster: ServiceCluster, path: str):
    """Services should be able to create a functioning NodePort service [Conformance]: to the own and the other node"""
    ports = [port(80, 8080, node_port=30080), port(80, 8081, "UDP", node_port=30080)]
    vips = cluster.create("node-port", ports, behind=["one", "three"], type="NodePort")
    for client in ("client", "stranger"):
        cluster.served(node_ports(cluster, path, client), ["one", "three"], 30080, client=client)
        cluster.served(node_ports(cluster, path, client), ["one", "three"], 30080, protocol="UDP", client=client)
    cluster.served(vips, ["one", "three"])


def test_a_nodeport_hides_nothing_else_of_a_node(cluster: ServiceCluster):
    """A port of a node that is no NodePort is the node's own, before, with and after a NodePort Service."""
    worker = cluster.node_addresses("worker")
    cluster.served(worker, ["host-worker"], 8080)
    cluster.create("beside", [port(80, 8080, node_port=30081)], behind=["one"], type="NodePort")
    cluster.served(worker, ["one"], 30081)
    cluster.served(worker, ["host-worker"], 8080)
    cluster.delete("beside")
    cluster.refused(worker, 30081)


def test_should_be_able_to_change_the_type_from_externalname_to_clusterip(cluster: ServiceCluster):
    """Services should be able to change the type from ExternalName to ClusterIP [Conformance]"""
    vips = cluster.create("named", [port()], behind=["one", "two"])
    cluster.change("named", without=NO_ADDRESS, **EXTERNAL)
    cluster.unserved(vips)
    cluster.change("named", without=["externalName"], type="ClusterIP", clusterIP=vips[0], clusterIPs=vips)
    cluster.served(vips, ["one", "two"])


def test_should_be_able_to_change_the_type_from_clusterip_to_externalname(cluster: ServiceCluster):
    """Services should be able to change the type from ClusterIP to ExternalName [Conformance]"""
    vips = cluster.create("named", [port()], behind=["one", "two"])
    cluster.served(vips, ["one", "two"])
    cluster.change("named", without=NO_ADDRESS, **EXTERNAL)
    cluster.unserved(vips)


def test_should_be_able_to_change_the_type_from_externalname_to_nodeport(cluster: ServiceCluster, path: str):
    """Services should be able to change the type from ExternalName to NodePort [Conformance]"""
    vips = cluster.create("named", [port()], behind=["one", "two"])
    cluster.change("named", without=NO_ADDRESS, **EXTERNAL)
    cluster.unserved(vips)
    ports = [port(node_port=30082)]
    cluster.change("named", type="NodePort", clusterIP=vips[0], clusterIPs=vips, ports=ports)
    cluster.served(vips, ["one", "two"])
    cluster.served(node_ports(cluster, path), ["one", "two"], 30082)


def test_should_be_able_to_change_the_type_from_nodeport_to_externalname(cluster: ServiceCluster, path: str):
    """Services should be able to change the type from NodePort to ExternalName [Conformance]"""
    vips = cluster.create("named", [port(node_port=30083)], behind=["one", "two"], type="NodePort")
    cluster.served(node_ports(cluster, path), ["one", "two"], 30083)
    cluster.change("named", without=NO_ADDRESS, **EXTERNAL)
    cluster.unserved(vips)
    cluster.unserved(node_ports(cluster, path), 30083)


def test_should_be_able_to_update_service_type_to_nodeport_listening_on_same_port_number_but_different_protocols(
    cluster: ServiceCluster, path: str
):
    """Services should be able to update service type to NodePort listening on same port number but different
    protocols"""
    vips = cluster.create("protocols", [port(80, 8080)], behind=["one"])
    cluster.served(vips, ["one"])
    ports = [port(80, 8080, node_port=30084), port(80, 8080, "UDP", node_port=30084)]
    cluster.change("protocols", type="NodePort", ports=ports)
    for protocol in ("TCP", "UDP"):
        cluster.served(node_ports(cluster, path), ["one"], 30084, protocol=protocol)
        cluster.served(vips, ["one"], protocol=protocol)


def test_should_be_possible_to_connect_to_a_service_via_externalip_when_it_is_not_assigned_to_a_node(
    cluster: ServiceCluster,
):
    """Services should be possible to connect to a service via ExternalIP when the external IP is not assigned to a
    node"""
    external = ["203.0.113.250", "2001:db8::250"]
    vips = cluster.create("external", [port()], behind=["one", "two"], externalIPs=external)
    cluster.served([*vips, *external], ["one", "two"])
    cluster.change("external", without=["externalIPs"])
    cluster.unserved(external)
    cluster.served(vips, ["one", "two"])


def test_the_address_of_a_load_balancer_leads_pods_to_the_endpoints(cluster: ServiceCluster, path: str):
    """LoadBalancers, from pods: a call to the balancer's address ends at the endpoints, not at the balancer"""
    ports = [port(node_port=30085)]
    vips = cluster.create("balanced", ports, behind=["one", "two"], type="LoadBalancer")
    cluster.served(vips, ["one", "two"])
    ingress = ["198.51.100.7", "2001:db8:1::7"]
    raw = cluster.folder.get("Service", "default/balanced")
    cluster.folder.apply({**raw, "status": {"loadBalancer": {"ingress": [{"ip": ip} for ip in ingress]}}})
    cluster.served(ingress, ["one", "two"])
    cluster.served(node_ports(cluster, path), ["one", "two"], 30085)
    cluster.folder.apply(raw)
    cluster.unserved(ingress)
