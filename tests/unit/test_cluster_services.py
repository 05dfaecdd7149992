"""Services and EndpointSlices to frontends and backends."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.resources import EndpointSlice, Service, parse
from cluster.services import ServiceBook, frontends, never_empty


def service(name: str = "web", **spec: Any) -> Service:
    defaults = {"clusterIP": "10.96.0.10", "ports": [{"port": 80, "targetPort": 8080}]}
    raw = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": defaults | spec}
    parsed = parse(raw)
    assert isinstance(parsed, Service)
    return parsed


def piece(name: str, *addresses: str, of: str = "web", **fields: Any) -> EndpointSlice:
    defaults = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": of}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address]} for address in addresses],
        "ports": [{"port": 8080}],
    }
    parsed = parse(defaults | fields)
    assert isinstance(parsed, EndpointSlice)
    return parsed


WEB = ("10.96.0.10", 80, "TCP")


def test_slices_are_merged_sorted_and_each_backend_counts_once() -> None:
    found = frontends([service()], [piece("a", "10.0.0.9", "10.0.0.2"), piece("b", "10.0.0.2", "10.0.0.1")])
    assert found == {WEB: (("10.0.0.1", 8080), ("10.0.0.2", 8080), ("10.0.0.9", 8080))}


def test_only_ready_endpoints_and_only_their_first_address() -> None:
    endpoints = [
        {"addresses": ["10.0.0.1"], "conditions": {"ready": False, "serving": True}},
        {"addresses": ["10.0.0.2"], "conditions": {}},
        {"addresses": ["10.0.0.3"], "conditions": {"ready": None}},
        {"addresses": ["10.0.0.4", "10.0.0.5"], "conditions": {"ready": True}},
    ]
    found = frontends([service()], [piece("a", endpoints=endpoints)])
    assert [backend.address for backend in found[WEB]] == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]


def test_a_service_without_endpoints_is_there_with_none() -> None:
    assert frontends([service()], []) == {WEB: ()}
    assert frontends([service()], [piece("a", "10.0.0.1", of="other")]) == {WEB: ()}


def test_an_ipv4_address_inside_ipv6_is_skipped() -> None:
    mapped = service("mapped", clusterIP="::ffff:10.96.0.9")
    assert frontends([mapped, service()], []) == {WEB: ()}


def test_ports_match_by_name_and_protocol() -> None:
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        {"name": "sctp", "port": 53, "protocol": "SCTP"},
    ]
    targets = [
        {"name": "dns", "port": 5353, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 5354, "protocol": "TCP"},
        {"name": "sctp", "port": 1, "protocol": "SCTP"},
        {"name": "dns", "port": None, "protocol": "UDP"},
        {"name": "dns", "port": 9, "protocol": "TCP"},
    ]
    assert frontends([service(ports=ports)], [piece("a", "10.0.0.1", ports=targets)]) == {
        ("10.96.0.10", 53, "UDP"): (("10.0.0.1", 5353),),
        ("10.96.0.10", 53, "TCP"): (("10.0.0.1", 5354),),
    }


def test_headless_external_and_unassigned_services_have_no_frontend() -> None:
    slices = [piece("a", "10.0.0.1")]
    for spec in ({"clusterIP": "None"}, {"clusterIP": ""}, {"type": "ExternalName"}, {"clusterIP": "fd00::1"}):
        assert frontends([service(**spec)], slices) == {}


def test_dual_stack_gives_its_ipv4_half() -> None:
    both = service(clusterIPs=["10.96.0.10", "fd00::10"])
    six = piece("six", addressType="IPv6", endpoints=[{"addresses": ["fd00::1"]}])
    assert frontends([both], [six, piece("four", "10.0.0.1")]) == {WEB: (("10.0.0.1", 8080),)}


def test_node_port_and_load_balancer_services_have_a_cluster_ip_too() -> None:
    for kind in ("NodePort", "LoadBalancer"):
        assert WEB in frontends([service(type=kind)], [])


def test_two_services_with_one_address() -> None:
    slices = [piece("a", "10.0.0.1", of="a"), piece("b", "10.0.0.2", of="b")]
    expected = {WEB: (("10.0.0.1", 8080),)}
    assert frontends([service("a"), service("b")], slices) == expected
    assert frontends([service("b"), service("a")], slices) == expected


def test_the_book_says_what_changed() -> None:
    book = ServiceBook()
    assert book.put_slice("default/a", piece("a", "10.0.0.1")) == {}
    assert book.put_service("default/web", service()) == {WEB: (("10.0.0.1", 8080),)}
    assert book.put_service("default/web", service(selector={"a": "b"})) == {}
    assert book.put_slice("default/b", piece("b", "10.0.0.2")) == {WEB: (("10.0.0.1", 8080), ("10.0.0.2", 8080))}
    moved = book.put_slice("default/a", piece("a", "10.0.0.1", of="other"))
    assert moved == {WEB: (("10.0.0.2", 8080),)}
    assert book.put_slice("default/b", None) == {WEB: ()}
    assert book.put_slice("default/b", None) == {}
    assert book.put_service("default/web", service(clusterIP="10.96.0.11")) == {
        WEB: None,
        ("10.96.0.11", 80, "TCP"): (),
    }
    assert book.put_service("default/web", None) == {("10.96.0.11", 80, "TCP"): None}


def test_the_api_servers_service_is_marked() -> None:
    assert never_empty([service("kubernetes"), service("web", clusterIP="10.96.0.99")]) == {WEB}
    book = ServiceBook()
    book.put_service("default/web", service(clusterIP="10.96.0.99"))
    assert book.never_empty() == frozenset()
    book.put_service("default/kubernetes", service("kubernetes"))
    assert book.never_empty() == {WEB}


def by_hand(services: dict[str, Service], slices: dict[str, EndpointSlice]) -> dict[Any, Any]:
    """The dumb oracle: every Service against every slice, in the reverse order of keys so that the first one stays."""
    found: dict[Any, Any] = {}
    for key in sorted(services, reverse=True):
        addresses = {
            endpoint.addresses[0]
            for endpoint_slice in slices.values()
            if endpoint_slice.service_key == f"default/{key}"
            for endpoint in endpoint_slice.endpoints
        }
        found[(services[key].spec.cluster_ip, 80, "TCP")] = tuple((address, 8080) for address in sorted(addresses))
    return found


KEYS = st.sampled_from("abc")
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("service"), KEYS, st.one_of(st.none(), st.integers(1, 2))),
        st.tuples(st.just("slice"), KEYS, st.one_of(st.none(), st.tuples(KEYS, st.sets(st.integers(1, 3))))),
    ),
    max_size=12,
)


@given(CHANGES)
@settings(max_examples=60, deadline=None)
def test_the_book_agrees_with_a_computation_over_everything(changes: list[tuple[str, str, Any]]) -> None:
    book, shown = ServiceBook(), {}
    services: dict[str, Service] = {}
    slices: dict[str, EndpointSlice] = {}
    for what, key, value in changes:
        if what == "service":
            new = None if value is None else service(key, clusterIP=f"10.96.0.{value}")
            services = {name: old for name, old in services.items() if name != key} | ({key: new} if new else {})
            changed = book.put_service(f"default/{key}", new)
        else:
            made = None if value is None else piece(key, *(f"10.0.0.{n}" for n in sorted(value[1])), of=value[0])
            slices = {name: old for name, old in slices.items() if name != key} | ({key: made} if made else {})
            changed = book.put_slice(f"default/{key}", made)
        for frontend, backends in changed.items():
            assert shown.get(frontend) != backends
            shown[frontend] = backends
        expected = by_hand(services, slices)
        assert frontends(services.values(), slices.values()) == expected
        assert book.frontends() == expected
        assert {frontend: backends for frontend, backends in shown.items() if backends is not None} == expected
