"""The incremental book against the dumb oracle, over random sequences of changes in a small universe."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.services import ServiceBook
from tests.unit import service_oracle
from tests.unit.cluster_objects import OWN_NODE, endpoint, node, piece, service

CONDITIONS = st.sampled_from(
    [{}, {"ready": True}, {"ready": False}]
    + [{"ready": False, "serving": serving, "terminating": True} for serving in (None, True, False)]
)
SOMETIMES = st.sampled_from([False] * 5 + [True])
RARELY = st.sampled_from([False] * 9 + [True])
FOREIGN = "service.kubernetes.io/service-proxy-name"

PORTS = st.sampled_from(
    [
        [{"port": 80, "nodePort": 30080}],
        [{"port": 80, "protocol": "SCTP", "nodePort": 8080}],
        [{"port": 80, "nodePort": 30080}, {"name": "b", "port": 80, "protocol": "UDP"}],
    ]
)
TARGETS = st.sampled_from(
    [
        [{"port": 80}, {"port": 80, "protocol": "SCTP"}],
        [{"port": 8080}, {"port": 8080, "protocol": "SCTP"}],
        [{"port": 80}, {"name": "b", "port": 9, "protocol": "UDP"}, {"name": "b", "port": None, "protocol": "UDP"}],
    ]
)


@st.composite
def services(draw: st.DrawFn, name: str) -> Any:
    four, six = f"10.96.0.{draw(st.integers(1, 2))}", f"fd00::{draw(st.integers(1, 2))}"
    ips = draw(st.sampled_from([[six], ["None"]] if draw(RARELY) else [[four], [four, six]]))
    outside = ["192.0.2.1", "2001:db8::1", "10.96.0.1"]
    return service(
        name,
        labels={FOREIGN: "x"} if draw(RARELY) else {},
        status={"loadBalancer": {"ingress": [{"ip": "192.0.2.9", "ipMode": draw(st.sampled_from(["VIP", "Proxy"]))}]}},
        type="ExternalName" if draw(RARELY) else draw(st.sampled_from(["NodePort", "LoadBalancer", "ClusterIP"])),
        clusterIP=ips[0],
        clusterIPs=ips,
        externalIPs=draw(st.lists(st.sampled_from(outside), max_size=2)),
        loadBalancerSourceRanges=["10.0.0.0/8"] if draw(SOMETIMES) else [],
        internalTrafficPolicy=draw(st.sampled_from(["Cluster", "Local"])),
        sessionAffinity=draw(st.sampled_from(["None", "ClientIP"])),
        ports=draw(PORTS),
    )


@st.composite
def endpoints(draw: st.DrawFn, prefix: str, hinted: list[str]) -> dict[str, Any]:
    return endpoint(
        f"{prefix}{draw(st.integers(1, 3))}",
        node=draw(st.sampled_from([OWN_NODE, OWN_NODE, "node-b", None])),
        hints={what: [draw(st.sampled_from(["z1", "z2", OWN_NODE]))] for what in hinted},
        **draw(CONDITIONS),
    )


@st.composite
def slices(draw: st.DrawFn, name: str) -> Any:
    kind, prefix = draw(st.sampled_from([("IPv4", "10.0.0.")] * 5 + [("IPv6", "fd01::")]))
    hinted = draw(st.sampled_from([[], ["zones"], ["nodes"], ["zones", "nodes"]]))
    return piece(
        name,
        of=draw(st.sampled_from("aab")),
        labels={FOREIGN: "x"} if draw(RARELY) else {},
        addressType=kind,
        endpoints=draw(st.lists(endpoints(prefix, hinted), min_size=1, max_size=4)),
        ports=draw(TARGETS),
    )


@st.composite
def changes(draw: st.DrawFn) -> tuple[str, str, Any]:
    what = draw(st.sampled_from(["service", "service", "slice", "slice", "slice", "node"]))
    name = draw(st.sampled_from([OWN_NODE, "node-b"] if what == "node" else "ab"))
    if draw(SOMETIMES):
        return what, name, None
    if what == "node":
        return what, name, node(name, zone=draw(st.sampled_from(["", "z1", "z2"])))
    return what, name, draw(services(name) if what == "service" else slices(name))


BEGIN = st.tuples(
    st.tuples(st.just("node"), st.just(OWN_NODE), st.just(node(OWN_NODE, zone="z1"))),
    st.tuples(st.just("service"), st.just("a"), services("a")),
    st.tuples(st.just("slice"), st.just("a"), slices("a")),
)


@given(BEGIN, st.lists(changes(), max_size=8))
@settings(max_examples=200, deadline=None)
def test_the_book_agrees_with_a_computation_over_everything(begin: Any, further: list[tuple[str, str, Any]]) -> None:
    book, shown = ServiceBook(OWN_NODE), {}
    held: dict[str, dict[str, Any]] = {"service": {}, "slice": {}, "node": {}}
    for what, name, value in (*begin, *further):
        held[what] = {key: one for key, one in held[what].items() if key != name} | ({name: value} if value else {})
        if what == "node":
            changed = book.put_node(name, value)
        else:
            changed = (book.put_service if what == "service" else book.put_slice)(f"default/{name}", value)
        for frontend, offer in changed.items():
            assert shown.get(frontend) != offer
            shown[frontend] = offer
        expected = service_oracle.expected(held["service"].values(), held["slice"].values(), held["node"], OWN_NODE)
        assert book.frontends() == expected
        assert {frontend: offer for frontend, offer in shown.items() if offer is not None} == expected
