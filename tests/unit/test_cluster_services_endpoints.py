"""Which endpoints a call may choose: readiness, traffic policies, hints, ports. Names as in Kubernetes' e2e tests."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.services import Offer
from tests.unit.cluster_objects import (
    OWN_NODE,
    WEB,
    backends,
    book_of,
    endpoint,
    hosts,
    node,
    offered,
    piece,
    service,
)

EXTERNAL = ("192.0.2.1", 80, "TCP")
LOCAL: dict[str, Any] = {"internalTrafficPolicy": "Local"}
LEAVING: dict[str, bool] = {"ready": False, "serving": True, "terminating": True}


def chosen(*endpoints: dict[str, Any], zone: str = "", **spec: Any) -> tuple[list[str], list[str]]:
    """(hosts of the backends, hosts of the draining ones) of the Service web on node-a."""
    offer = offered(node(OWN_NODE, zone=zone), service(**spec), piece("a", endpoints=list(endpoints)))[WEB]
    assert not set(offer.backends) & set(offer.draining)
    return hosts(offer.backends), hosts(offer.draining)


def test_endpoints_over_several_endpoint_slices_are_merged_sorted_and_count_once() -> None:
    found = offered(service(), piece("a", "10.0.0.9", "10.0.0.2"), piece("b", "10.0.0.2", "10.0.0.1"))
    assert backends(found) == {WEB: (("10.0.0.1", 8080), ("10.0.0.2", 8080), ("10.0.0.9", 8080))}


def test_an_endpoint_on_its_way_from_slice_to_slice_is_chosen_if_one_says_ready() -> None:
    leaving = piece("a", endpoints=[endpoint("10.0.0.1", ready=False)])
    offer = offered(service(), leaving, piece("b", "10.0.0.1"))[WEB]
    assert (hosts(offer.backends), offer.draining) == (["1"], ())


def test_manual_slices_need_neither_selector_nor_target_ref() -> None:
    found = offered(service(selector=None), piece("by-hand", "192.0.2.80"))
    assert backends(found) == {WEB: (("192.0.2.80", 8080),)}


def test_only_the_first_address_of_an_endpoint_counts() -> None:
    endpoints = [{"addresses": ["10.0.0.4", "10.0.0.5"]}, {"addresses": []}]
    assert chosen(*endpoints) == (["4"], [])


def test_slices_of_names_and_without_a_service_are_ignored() -> None:
    book = book_of(service(), piece("a", "10.0.0.1"))
    names = [{"addresses": ["a.example"]}]
    assert book.put_slice("default/names", piece("names", addressType="FQDN", endpoints=names)) == {}
    assert book.put_slice("default/stray", piece("stray", "10.0.0.2", of="")) == {}
    assert book.put_slice("default/a", piece("a", addressType="FQDN", endpoints=names)) == {
        WEB: Offer((), (), 0, True, "default/web")
    }


@pytest.mark.parametrize(
    ("conditions", "ready", "leaving"),
    [
        ({}, True, False),
        ({"ready": None, "serving": None, "terminating": None}, True, False),
        ({"ready": True, "serving": False}, True, False),
        ({"ready": False}, False, False),
        ({"ready": False, "serving": True}, False, False),
        ({"ready": False, "serving": True, "terminating": False}, False, False),
        ({"ready": False, "serving": True, "terminating": True}, False, True),
        ({"ready": False, "serving": False, "terminating": True}, False, False),
        ({"ready": False, "terminating": True}, False, True),  # unknown is serving, for kube-proxy
    ],
)
def test_conditions(conditions: dict[str, bool | None], ready: bool, leaving: bool) -> None:
    alone = chosen(endpoint("10.0.0.1", **conditions))
    assert alone == ((["1"], []) if ready or leaving else ([], ["1"]))
    beside_a_ready_one = chosen(endpoint("10.0.0.1", **conditions), endpoint("10.0.0.2"))
    assert beside_a_ready_one == ((["1", "2"], []) if ready else (["2"], ["1"]))


def test_should_be_able_to_reach_pods_that_are_not_ready_with_publish_not_ready_addresses() -> None:
    """The slices' writer sets `ready` for such a Service whatever the pod's state, also while it terminates."""
    published = endpoint("10.0.0.1", ready=True, serving=False, terminating=True)
    assert chosen(published, endpoint("10.0.0.2"), publishNotReadyAddresses=True) == (["1", "2"], [])


def test_should_fallback_to_terminating_endpoints_when_there_are_no_ready_endpoints() -> None:
    gone = endpoint("10.0.0.3", ready=False, serving=False, terminating=True)
    assert chosen(endpoint("10.0.0.1", **LEAVING), endpoint("10.0.0.2", **LEAVING), gone) == (["1", "2"], ["3"])
    assert chosen(endpoint("10.0.0.1", **LEAVING), endpoint("10.0.0.2"), gone) == (["2"], ["1", "3"])
    with_hints = endpoint("10.0.0.1", hints={"zones": ["elsewhere"]}, **LEAVING)
    assert chosen(with_hints, endpoint("10.0.0.2", **LEAVING), zone="here") == (["1", "2"], [])


def test_should_fallback_to_local_terminating_endpoints_with_internal_traffic_policy_local() -> None:
    own = endpoint("10.0.0.1", node=OWN_NODE, **LEAVING)
    assert chosen(own, endpoint("10.0.0.2", node="node-b"), **LOCAL) == (["1"], ["2"])
    ready = endpoint("10.0.0.3", node=OWN_NODE)
    assert chosen(own, endpoint("10.0.0.2", node="node-b"), ready, **LOCAL) == (["3"], ["1", "2"])
    assert chosen(endpoint("10.0.0.2", node="node-b", **LEAVING), **LOCAL) == ([], ["2"])


def test_should_respect_internal_traffic_policy_local_pod_to_pod() -> None:
    own, other = endpoint("10.0.0.1", node=OWN_NODE), endpoint("10.0.0.2", node="node-b")
    assert chosen(own, other, **LOCAL) == (["1"], ["2"])
    assert chosen(other, endpoint("10.0.0.3"), **LOCAL) == ([], ["2", "3"])
    assert chosen(own, other) == (["1", "2"], [])


def test_local_takes_endpoints_hinted_for_elsewhere() -> None:
    own = endpoint("10.0.0.1", node=OWN_NODE, hints={"zones": ["z2"]})
    other = endpoint("10.0.0.2", node="node-b", hints={"zones": ["z1"]})
    assert chosen(own, other, zone="z1", **LOCAL) == (["1"], ["2"])
    assert chosen(own, other, zone="z1") == (["2"], ["1"])


@pytest.mark.parametrize(
    "policies", [LOCAL, {"externalTrafficPolicy": "Local"}, LOCAL | {"externalTrafficPolicy": "Local"}]
)
def test_calls_to_external_addresses_are_internal_traffic_and_reach_all_endpoints(policies: dict[str, str]) -> None:
    endpoints = [endpoint("10.0.0.1", node=OWN_NODE), endpoint("10.0.0.2", node="node-b")]
    spec = {"type": "NodePort", "externalIPs": ["192.0.2.1"], "ports": [{"port": 80, "nodePort": 30080}]}
    found = offered(service(**spec, **policies), piece("a", endpoints=endpoints))
    everything = (("10.0.0.1", 8080), ("10.0.0.2", 8080))
    assert found[EXTERNAL].backends == found["0.0.0.0", 30080, "TCP"].backends == everything
    assert found[WEB].backends == (everything[:1] if "internalTrafficPolicy" in policies else everything)
    assert found[EXTERNAL].draining == ()


ZONES = [endpoint(f"10.0.0.{n}", hints={"zones": [f"z{n}", "z3"][: 1 + (n == 2)]}) for n in (1, 2)]


@pytest.mark.parametrize(
    ("endpoints", "zone", "expected"),
    [
        pytest.param(ZONES, "z1", (["1"], ["2"]), id="PreferClose: in the same zone"),
        pytest.param(ZONES, "z3", (["2"], ["1"]), id="one endpoint for two zones"),
        pytest.param(ZONES, "z4", (["1", "2"], []), id="none for this zone"),
        pytest.param(ZONES, "", (["1", "2"], []), id="the zone is not known"),
        pytest.param([*ZONES, endpoint("10.0.0.3")], "z1", (["1", "2", "3"], []), id="one has no hint"),
        pytest.param(
            [*ZONES, endpoint("10.0.0.3", ready=False)], "z1", (["1"], ["2", "3"]), id="one has none, but is not ready"
        ),
        pytest.param(
            [endpoint("10.0.0.1", ready=False, hints={"zones": ["z1"]}), ZONES[1]],
            "z1",
            (["2"], ["1"]),
            id="the one for this zone is not ready",
        ),
        pytest.param(
            [endpoint("10.0.0.1", hints={"zones": [""]}), ZONES[1]], "", (["1", "2"], []), id="an empty hint is none"
        ),
    ],
)
def test_traffic_distribution_by_zone(endpoints: list[dict[str, Any]], zone: str, expected: Any) -> None:
    assert chosen(*endpoints, zone=zone) == expected


def hinted(number: int, *nodes: str, zone: str = "z1", **conditions: bool) -> dict[str, Any]:
    return endpoint(f"10.0.0.{number}", hints={"nodes": list(nodes), "zones": [zone]}, **conditions)


@pytest.mark.parametrize(
    ("endpoints", "expected"),
    [
        pytest.param([hinted(1, OWN_NODE), hinted(2, "node-b")], (["1"], ["2"]), id="PreferSameNode"),
        pytest.param(
            [hinted(1, "node-c"), hinted(2, "node-b", zone="z2")], (["1"], ["2"]), id="falls back to the zone"
        ),
        pytest.param([hinted(1, "c", zone="z3"), hinted(2, "b", zone="z2")], (["1", "2"], []), id="falls back to all"),
        pytest.param([hinted(1, OWN_NODE, zone="z2"), hinted(2)], (["2"], ["1"]), id="one has no node hint"),
        pytest.param(
            [hinted(1, OWN_NODE, ready=False), hinted(2, "b")], (["2"], ["1"]), id="the one here is not ready"
        ),
        pytest.param(
            [hinted(1, OWN_NODE, ready=False), hinted(2, OWN_NODE)], (["2"], ["1"]), id="one here is not ready"
        ),
    ],
)
def test_traffic_distribution_by_node(endpoints: list[dict[str, Any]], expected: Any) -> None:
    assert chosen(*endpoints, zone="z1") == expected


def test_hints_count_over_all_slices_of_the_service() -> None:
    one, two = piece("a", endpoints=ZONES[:1]), piece("b", endpoints=ZONES[1:])
    assert hosts(offered(node(OWN_NODE, zone="z1"), service(), one, two)[WEB].backends) == ["1"]
    three = piece("c", "10.0.0.3")
    assert hosts(offered(node(OWN_NODE, zone="z1"), service(), one, two, three)[WEB].backends) == ["1", "2", "3"]


def test_a_new_zone_of_this_node_changes_what_hints_say() -> None:
    book = book_of(service(), piece("a", endpoints=ZONES), service("plain", clusterIP="10.96.0.11"))
    assert book.put_node("node-b", node("node-b", zone="z1")) == {}
    assert backends(book.put_node(OWN_NODE, node(OWN_NODE, zone="z1"))) == {WEB: (("10.0.0.1", 8080),)}
    assert book.put_node(OWN_NODE, node(OWN_NODE, zone="z1")) == {}
    assert backends(book.put_node(OWN_NODE, node(OWN_NODE, zone="z2"))) == {WEB: (("10.0.0.2", 8080),)}
    assert backends(book.put_node(OWN_NODE, None)) == {WEB: (("10.0.0.1", 8080), ("10.0.0.2", 8080))}


def test_serve_multiport_endpoints_from_pods_by_name_and_protocol() -> None:
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    targets = [
        {"name": "dns", "port": 5353, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 5354, "protocol": "TCP"},
        {"name": "dns", "port": None, "protocol": "UDP"},
        {"name": "dns", "port": 9, "protocol": "TCP"},
    ]
    assert backends(offered(service(ports=ports), piece("a", "10.0.0.1", ports=targets))) == {
        ("10.96.0.10", 53, "UDP"): (("10.0.0.1", 5353),),
        ("10.96.0.10", 53, "TCP"): (("10.0.0.1", 5354),),
    }


def test_a_named_target_port_may_be_another_number_in_another_slice() -> None:
    found = offered(service(), piece("a", "10.0.0.1"), piece("b", "10.0.0.2", ports=[{"port": 9090}]))
    assert backends(found) == {WEB: (("10.0.0.1", 8080), ("10.0.0.2", 9090))}


def test_hints_are_looked_at_port_by_port() -> None:
    ports = [{"name": "a", "port": 80}, {"name": "b", "port": 81}]
    slices = [
        piece("a", endpoints=ZONES, ports=[{"name": "a", "port": 8080}, {"name": "b", "port": 8081}]),
        piece("b", "10.0.0.3", ports=[{"name": "b", "port": 8081}]),
    ]
    found = offered(node(OWN_NODE, zone="z1"), service(ports=ports), *slices)
    assert hosts(found[WEB].backends) == ["1"]
    assert hosts(found["10.96.0.10", 81, "TCP"].backends) == ["1", "2", "3"]


def test_an_endpoint_in_no_slice_is_neither_chosen_nor_draining() -> None:
    book = book_of(service(), piece("a", endpoints=[endpoint("10.0.0.1"), endpoint("10.0.0.2", **LEAVING)]))
    assert hosts(book.frontends()[WEB].draining) == ["2"]
    changed = book.put_slice("default/a", piece("a", "10.0.0.1"))
    assert changed == {WEB: Offer((("10.0.0.1", 8080),), (), 0, True, "default/web")}


def sctp(*numbers: int, **spec: Any) -> Any:
    """A book with web on port 80/SCTP and endpoints on these ports, each at 10.0.0.PORT (its low byte)."""
    ports = [{"port": 80, "protocol": "SCTP", "nodePort": 30080}]
    slices = [piece(f"s{n}", f"10.0.0.{n & 255}", ports=[{"port": n, "protocol": "SCTP"}]) for n in numbers]
    return book_of(service(ports=ports, externalIPs=["192.0.2.1"], **spec), *slices)


def test_sctp_keeps_its_port() -> None:
    book = sctp(80)
    assert backends(book.frontends()) == {
        (address, 80, "SCTP"): (("10.0.0.80", 80),) for address in ("10.96.0.10", "192.0.2.1")
    }
    assert book.problems() == []


def test_sctp_backends_on_another_port_are_left_out_and_reported() -> None:
    book = sctp(80, 90)
    only = (("10.0.0.80", 80),)
    assert backends(book.frontends()) == {(ip, 80, "SCTP"): only for ip in ("10.96.0.10", "192.0.2.1")}
    assert {text.partition(":")[0] for _, text in book.problems()} == {"192.0.2.1", "10.96.0.10"}
    assert all("targetPort" in text and "(90)" in text for _, text in book.problems())
    book.put_slice("default/s90", None)
    assert book.problems() == []


def test_sctp_without_a_usable_backend_is_refused_at_the_cluster_ip_and_passes_elsewhere() -> None:
    book = sctp(90)
    assert book.frontends() == {("10.96.0.10", 80, "SCTP"): Offer((), (), 0, True, "default/web")}
    assert sctp().frontends().keys() == {("10.96.0.10", 80, "SCTP"), ("192.0.2.1", 80, "SCTP")}


def test_node_port_over_sctp_works_only_where_pods_listen_on_it() -> None:
    book = sctp(80, type="NodePort")
    assert ("0.0.0.0", 30080, "SCTP") not in book.frontends()
    ((key, text),) = book.problems()
    assert (key, text.partition(":")[0]) == ("default/web", "nodePort 30080/SCTP")
    assert "call a ClusterIP" in text
    assert backends(sctp(30080, type="NodePort").frontends())[("0.0.0.0", 30080, "SCTP")] == (("10.0.0.128", 30080),)


def test_initially_unready_endpoints_get_ready() -> None:
    waiting = piece("a", endpoints=[endpoint("10.0.0.1", ready=False, serving=False, terminating=False)])
    book = book_of(service(), waiting)
    assert book.frontends()[WEB] == Offer((), (("10.0.0.1", 8080),), 0, True, "default/web")
    assert book.put_slice("default/a", piece("a", "10.0.0.1"))[WEB] == Offer(
        (("10.0.0.1", 8080),), (), 0, True, "default/web"
    )


def test_more_endpoints_than_a_frontend_can_name_are_its_own_problem() -> None:
    """The rest of the cluster does not wait for this Service to shrink."""
    addresses = [f"10.{9 + n // 65536}.{n // 256 % 256}.{n % 256}" for n in range(65536)]
    book = book_of(service(), piece("one", *addresses))
    assert len(book.frontends()[WEB].backends) == 65535
    ((key, text),) = book.problems()
    assert key == "default/web"
    assert "65536 endpoints" in text
