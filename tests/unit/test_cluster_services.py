"""A Service's frontends: where it is called, and what the book says when it changes."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.services import Offer, ServiceBook
from tests.unit.cluster_objects import OWN_NODE, WEB, WEB6, backends, book_of, node, offered, piece, service

__all__ = ["piece", "service"]

BALANCED = {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}, {"ip": "2001:DB8::7"}, {"hostname": "lb.example"}]}}
DUAL: dict[str, Any] = {"clusterIPs": ["10.96.0.10", "fd00:96::10"], "ipFamilies": ["IPv4", "IPv6"]}


def test_serve_a_basic_endpoint_from_pods() -> None:
    found = offered(service(), piece("a", "10.0.0.1"))
    assert found == {WEB: Offer((("10.0.0.1", 8080),), (), 0, True, "default/web")}


def test_a_service_without_endpoints_is_there_with_none() -> None:
    assert offered(service()) == {WEB: Offer((), (), 0, True, "default/web")}
    assert backends(offered(service(), piece("a", "10.0.0.1", of="other"))) == {WEB: ()}


def test_dual_stack_has_a_frontend_of_each_family_with_backends_of_its_own() -> None:
    found = offered(service(**DUAL), piece("six", "fd00::1"), piece("four", "10.0.0.1"))
    assert backends(found) == {WEB: (("10.0.0.1", 8080),), WEB6: (("fd00::1", 8080),)}


def test_addresses_are_spelt_as_the_maps_spell_them() -> None:
    spec = {"clusterIPs": ["FD00:0096:0:0::10"], "externalIPs": ["2001:DB8:0::0001"]}
    found = offered(service(clusterIP="fd00:96::10", **spec), piece("a", "FD00:0::0001", "fd00::1"))
    assert backends(found) == dict.fromkeys([WEB6, ("2001:db8::1", 80, "TCP")], (("fd00::1", 8080),))


def test_an_ipv4_address_inside_ipv6_is_the_ipv4_address() -> None:
    assert backends(offered(service(clusterIP="::ffff:10.96.0.10"), piece("a", "10.0.0.1"))) == {
        WEB: (("10.0.0.1", 8080),)
    }
    assert backends(offered(service(clusterIP="fd00:96::10"), piece("a", "::ffff:10.0.0.1"))) == {WEB6: ()}


def test_headless_external_and_unassigned_services_have_no_frontend() -> None:
    outside = {"type": "NodePort", "externalIPs": ["192.0.2.1"], "ports": [{"port": 80, "nodePort": 30080}]}
    outside |= {"ipFamilies": ["IPv4"]}
    for spec in ({"clusterIP": "None", "clusterIPs": ["None"]}, {"clusterIP": ""}, {"type": "ExternalName"}):
        assert offered(service(status=BALANCED, **outside | spec), piece("a", "10.0.0.1")) == {}


@pytest.mark.parametrize("label", ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"])
@pytest.mark.parametrize("value", ["foo", ""])
def test_should_implement_service_proxy_name_and_headless_label(label: str, value: str) -> None:
    book = book_of(service(), piece("a", "10.0.0.1"))
    assert book.put_service("default/web", service(labels={label: value})) == {WEB: None}
    assert book.put_service("default/web", service())[WEB] is not None
    changed = book.put_slice("default/a", piece("a", "10.0.0.1", labels={label: value}))
    assert changed == {WEB: Offer((), (), 0, True, "default/web")}


def test_external_ips_are_frontends_of_the_services_families_only() -> None:
    outside = ["192.0.2.1", "2001:db8::1", "192.0.2.1"]
    four = offered(service(externalIPs=outside), piece("a", "10.0.0.1"))
    assert backends(four) == dict.fromkeys([WEB, ("192.0.2.1", 80, "TCP")], (("10.0.0.1", 8080),))
    assert {frontend.address: offer.cluster_ip for frontend, offer in four.items()} == {
        "10.96.0.10": True,
        "192.0.2.1": False,
    }
    both = offered(service(externalIPs=outside, **DUAL))
    assert {frontend.address for frontend in both} == {"10.96.0.10", "fd00:96::10", "192.0.2.1", "2001:db8::1"}


@pytest.mark.parametrize("junk", ["x", "", "0.0.0.0", "::", "127.0.0.1", "::1", "169.254.1.1", "fe80::1%eth0", "a\x00"])
def test_external_ips_that_cannot_be_called_cost_only_themselves(junk: str) -> None:
    book = book_of(service(externalIPs=[junk, "192.0.2.1"], **DUAL))
    assert {frontend.address for frontend in book.frontends()} == {"10.96.0.10", "fd00:96::10", "192.0.2.1"}
    assert [key for key, text in book.problems() if "spec.externalIPs" in text and repr(junk) in text] == [
        "default/web"
    ]
    book.put_service("default/web", service())
    assert book.problems() == []


@pytest.mark.parametrize("special", ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "::ffff:127.0.0.1"])
def test_a_special_cluster_ip_is_no_frontend(special: str) -> None:
    book = book_of(service(clusterIP=special))
    assert book.frontends() == {}
    assert "spec.clusterIPs" in book.problems()[0][1]


def test_load_balancer_addresses_are_frontends_where_no_real_balancer_must_see_the_packets() -> None:
    def balanced(ingress: dict[str, str], **spec: Any) -> bool:
        status = {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"} | ingress]}}
        found = offered(service(type="LoadBalancer", status=status, **spec), piece("a", "10.0.0.1"))
        assert found.get(("192.0.2.7", 80, "TCP")) in (None, found[WEB]._replace(cluster_ip=False))
        return len(found) == 2

    assert balanced({})
    assert balanced({"ipMode": "VIP"})
    assert not balanced({"ipMode": "Proxy"})
    assert not balanced({}, loadBalancerSourceRanges=["10.0.0.0/8"])
    both = offered(service(type="LoadBalancer", status=BALANCED, **DUAL))
    assert {frontend.address for frontend in both} >= {"192.0.2.7", "2001:db8::7"}


def test_create_a_functioning_node_port_service() -> None:
    ports = [{"port": 80, "nodePort": 30080}]
    for kind in ("NodePort", "LoadBalancer"):
        found = offered(service(type=kind, ports=ports), piece("a", "10.0.0.1"))
        assert backends(found) == dict.fromkeys([WEB, ("0.0.0.0", 30080, "TCP")], (("10.0.0.1", 8080),))
        assert not found[("0.0.0.0", 30080, "TCP")].cluster_ip
    assert list(offered(service(ports=ports))) == [WEB]
    for families, addresses in ((["IPv4", "IPv6"], {"0.0.0.0", "::"}), ([], {"0.0.0.0", "::"}), (["IPv6"], {"::"})):
        spec = DUAL | {"ipFamilies": families}
        found = offered(service(type="NodePort", ports=ports, **spec))
        assert {frontend.address for frontend in found if frontend.port == 30080} == addresses


def test_serve_endpoints_on_same_port_and_different_protocols() -> None:
    ports = [{"name": name.lower(), "port": 80, "protocol": name} for name in ("TCP", "UDP", "SCTP")]
    targets = [{"name": name.lower(), "port": 80, "protocol": name} for name in ("TCP", "UDP", "SCTP")]
    found = offered(service(ports=ports), piece("a", "10.0.0.1", ports=targets))
    assert backends(found) == {("10.96.0.10", 80, name): (("10.0.0.1", 80),) for name in ("TCP", "UDP", "SCTP")}


def test_a_protocol_nobody_knows_is_a_problem_and_costs_only_its_port() -> None:
    book = book_of(service(ports=[{"port": 80}, {"name": "x", "port": 81, "protocol": "QUIC"}]))
    assert list(book.frontends()) == [WEB]
    assert "'QUIC'" in book.problems()[0][1]


def test_have_session_affinity_work_and_switch() -> None:
    def affinity(**spec: Any) -> set[int]:
        found = offered(service(externalIPs=["192.0.2.1"], **spec))
        return {offer.affinity_s for offer in found.values()}

    timed = {"clientIP": {"timeoutSeconds": 7}}
    assert affinity(sessionAffinity="ClientIP") == {10800}
    assert affinity(sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": None}}) == {10800}
    assert affinity(sessionAffinity="ClientIP", sessionAffinityConfig=timed) == {7}
    assert affinity(sessionAffinity="None", sessionAffinityConfig=timed) == {0}
    book = book_of(service())
    changed = book.put_service("default/web", service(sessionAffinity="ClientIP"))
    assert [offer.affinity_s for offer in changed.values() if offer] == [10800]


def test_change_the_type_from_cluster_ip_to_external_name_and_to_node_port() -> None:
    book = book_of(service(), piece("a", "10.0.0.1"))
    assert book.put_service("default/web", service(type="ExternalName", clusterIP="")) == {WEB: None}
    changed = book.put_service("default/web", service(type="NodePort", ports=[{"port": 80, "nodePort": 30080}]))
    assert changed.keys() == {WEB, ("0.0.0.0", 30080, "TCP")}
    back = book.put_service("default/web", service(type="ExternalName", clusterIP=""))
    assert back == {WEB: None, ("0.0.0.0", 30080, "TCP"): None}
    assert book.frontends() == {}


def test_two_services_with_one_address() -> None:
    slices = [piece("a", "10.0.0.1", of="a"), piece("b", "10.0.0.2", of="b")]
    for order in ("ab", "ba"):
        book = book_of(*map(service, order), *slices)
        assert backends(book.frontends()) == {WEB: (("10.0.0.1", 8080),)}
        ((loser, text),) = book.problems()
        assert loser == "default/b"
        assert text.startswith("10.96.0.10:80/TCP belongs to Service default/a;")


def test_a_cluster_ip_is_not_taken_by_an_external_ip() -> None:
    thief = service("a", clusterIP="10.96.0.66", externalIPs=["10.96.0.10"])
    book = book_of(thief, piece("a", "10.0.0.66", of="a"))
    assert backends(book.frontends())[WEB] == (("10.0.0.66", 8080),)
    changed = book.put_service("default/web", service())
    assert changed == {WEB: Offer((), (), 0, True, "default/web")}
    assert [key for key, _ in book.problems()] == ["default/a"]
    assert backends(book.put_service("default/web", None)) == {WEB: (("10.0.0.66", 8080),)}


def test_an_external_ip_that_is_the_cluster_ip_adds_nothing() -> None:
    assert offered(service(externalIPs=["10.96.0.10"]))[WEB].cluster_ip


def test_the_book_says_what_changed() -> None:
    book = ServiceBook(OWN_NODE)
    assert book.put_slice("default/a", piece("a", "10.0.0.1")) == {}
    assert backends(book.put_service("default/web", service())) == {WEB: (("10.0.0.1", 8080),)}
    assert book.put_service("default/web", service(selector={"a": "b"})) == {}
    changed = book.put_slice("default/b", piece("b", "10.0.0.2"))
    assert backends(changed) == {WEB: (("10.0.0.1", 8080), ("10.0.0.2", 8080))}
    assert book.put_slice("default/b", piece("b", "10.0.0.2")) == {}
    moved = book.put_slice("default/a", piece("a", "10.0.0.1", of="other"))
    assert backends(moved) == {WEB: (("10.0.0.2", 8080),)}
    assert backends(book.put_slice("default/b", None)) == {WEB: ()}
    assert book.put_slice("default/b", None) == {}
    there = ("10.96.0.11", 80, "TCP")
    changed = book.put_service("default/web", service(clusterIP="10.96.0.11"))
    assert changed == {WEB: None, there: Offer((), (), 0, True, "default/web")}
    assert book.put_service("default/web", None) == {there: None}


def test_provide_secure_master_service() -> None:
    book = ServiceBook(OWN_NODE)
    book.put_service("default/web", service(clusterIP="10.96.0.99"))
    assert book.never_empty() == frozenset()
    book.put_service("default/kubernetes", service("kubernetes", **DUAL))
    assert book.never_empty() == {WEB, WEB6}
    book.put_service("default/kubernetes", None)
    assert book.never_empty() == frozenset()


def test_node_addresses_are_those_of_all_nodes() -> None:
    one = node("node-b", ("InternalIP", "192.0.2.2"), ("ExternalIP", "2001:DB8::2"), ("Hostname", "192.0.2.99"))
    junk = node("node-c", ("InternalIP", "nonsense"), ("InternalIP", "127.0.0.1"), ("InternalIP", "192.0.2.3"))
    book = book_of(one, junk)
    assert book.node_addresses() == {"192.0.2.2", "2001:db8::2", "192.0.2.3"}
    book.put_node("node-c", node("node-c", ("InternalIP", "192.0.2.2")))
    assert book.node_addresses() == {"192.0.2.2", "2001:db8::2"}
    book.put_node("node-b", None)
    assert book.node_addresses() == {"192.0.2.2"}
    book.put_node("node-c", None)
    assert book.node_addresses() == frozenset()


def test_should_be_updated_after_adding_or_deleting_ports() -> None:
    other = ("10.96.0.10", 81, "TCP")
    two = [{"name": "a", "port": 80}, {"name": "b", "port": 81}]
    targets = [{"name": "a", "port": 8080}, {"name": "b", "port": 8081}]
    book = book_of(service(ports=two[:1]), piece("a", "10.0.0.1", ports=targets))
    assert backends(book.put_service("default/web", service(ports=two))) == {other: (("10.0.0.1", 8081),)}
    assert book.put_service("default/web", service(ports=two[:1])) == {other: None}


def test_should_work_after_the_service_has_been_recreated() -> None:
    book = book_of(service(), piece("a", "10.0.0.1"))
    assert book.put_service("default/web", None) == {WEB: None}
    assert book.frontends() == {}
    assert book.never_empty() == frozenset()
    assert backends(book.put_service("default/web", service())) == {WEB: (("10.0.0.1", 8080),)}
