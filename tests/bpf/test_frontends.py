"""What `dragline services` and `dragline conntrack` read from live maps."""

from __future__ import annotations

import json

import pytest

from agent import flow_answers, service_answers, service_names
from agent.pod_names import UnknownName
from cluster import services
from datapath import frontends
from datapath.abi import ADDRESS_FRONTEND, BACKEND_DRAINING, Verdict
from datapath.entries import BackendEntry
from datapath.flow_pairs import ANY
from datapath.flows import FlowCounters
from datapath.frontends import Frontend, State
from datapath.table import Number
from tests import packets as who
from tests.bpf.rig import Rig
from tests.bpf.traces import WEB

EXTERNAL, NODE_PORT = ("192.0.2.1", 80, "TCP"), ("0.0.0.0", 30080, "TCP")
OFFER = services.Offer((), (), 0, True, "default/web")
NAMES = service_names.ordered({services.Frontend(*WEB): OFFER, services.Frontend(*NODE_PORT): OFFER})


@pytest.fixture
def three(rig: Rig) -> Rig:
    """A ClusterIP with a sibling, a draining and a far backend, an external address, a NodePort."""
    rig.service(WEB, {1: (who.SIBLING, 8080), 2: (who.FAR, 8080)}, 1, affinity_s=60)
    rig.service(EXTERNAL, {3: (who.NODE_ONE, 8080)}, 2, known=ADDRESS_FRONTEND)
    rig.service(NODE_PORT, {}, 3, known=0)
    rig.maps.backends.put(Number(4), BackendEntry("10.9.0.31", 8080, 1, BACKEND_DRAINING))
    rig.maps.flow_counters.put(Number(1), FlowCounters(5, 6))
    return rig


def test_every_frontend_once(three: Rig) -> None:
    seen = {view.frontend: view for view in frontends.frontends(three.maps)}
    assert seen.keys() == {WEB, EXTERNAL, NODE_PORT}
    assert [seen[Frontend(*one)].kind for one in (WEB, EXTERNAL, NODE_PORT)] == ["ClusterIP", "external", "NodePort"]
    web = seen[Frontend(*WEB)]
    assert (web.entry.count, web.draining, web.entry.affinity_s, web.counters) == (2, 1, 60, FlowCounters(5, 6))
    assert seen[Frontend(*NODE_PORT)].counters == FlowCounters(0, 0)


def test_one_frontend_is_the_same_as_among_all(three: Rig) -> None:
    for view in frontends.frontends(three.maps):
        one = frontends.frontend(three.maps, view.frontend)
        assert one is not None
        assert (one.entry, one.known, one.counters) == (view.entry, view.known, view.counters)
    assert frontends.frontend(three.maps, Frontend("10.96.0.99", 80, "TCP")) is None


def test_the_backends_of_a_frontend(three: Rig) -> None:
    """Those in slots, then those that drain; a slot may lie."""
    view = frontends.frontend(three.maps, Frontend(*WEB))
    assert view is not None
    three.maps.backends.delete(Number(2))
    found = frontends.backends(three.maps, [view])[view.frontend]
    assert [(one.backend_id, one.slots, one.state) for one in found] == [
        (1, (1,), State.ACTIVE),
        (2, (2,), State.MISSING),
        (4, (), State.DRAINING),
    ]


def test_all_services_as_rows(three: Rig) -> None:
    """What the store does not know has no name and comes last."""
    rows = list(service_answers._all(three.maps, NAMES))
    assert [(row["service"], row["kind"]) for row in rows] == [
        ("default/web", "NodePort"),
        ("default/web", "ClusterIP"),
        ("-", "external"),
    ]


def test_one_service_with_its_backends(three: Rig) -> None:
    rows = service_answers._one(three.maps, NAMES, {who.SIBLING: "default/b"}, "web")["frontends"]
    assert [row["kind"] for row in rows] == ["ClusterIP", "NodePort"]
    assert [(one["backend"], one["state"], one["where"]) for one in rows[0]["of"]] == [
        (f"{who.SIBLING}:8080", "active", "pod default/b"),
        (f"{who.FAR}:8080", "active", "remote"),
        ("10.9.0.31:8080", "draining", "remote"),
    ]
    assert (rows[0]["backends"], rows[0]["draining"]) == (2, 1)
    (row,) = service_answers._one(three.maps, NAMES, {}, "192.0.2.1:80")["frontends"]
    assert [one["where"] for one in row["of"]] == ["node"]
    with pytest.raises(UnknownName, match="has no frontend in the maps"):
        service_answers._one(three.maps, NAMES, {}, "192.0.2.1:81")


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_flows_as_rows(rig: Rig, limit: int) -> None:
    """Each of three flows once, with what has become of its backend; no more than asked for."""
    rig.service(WEB, {1: (who.FAR, 8080)})
    for port in (40002, 40000, 40001):
        seen = rig.run("from_pod", who.tcp((who.POD_ONE, port), (who.VIP, 80)))
        assert Verdict.VERDICT_SERVICE_GATEWAY in seen.counted
    rig.maps.backends.delete(Number(1))
    shown = flow_answers.Shown({who.POD_ONE: "default/one"}, "off: a bench")
    answer = json.loads(flow_answers._flows(rig.maps, ANY, limit, shown))
    assert (answer["matching"], answer["entries"]) == (3, 6)
    rows = answer["flows"]
    assert len({row["client"] for row in rows}) == len(rows) == (min(limit, 3) or 3)
    assert {(row["pod"], row["backend_state"], row["state"]) for row in rows} == {
        ("default/one", "removed", "SYN_SENT")
    }
    if limit == 1:
        assert rows[0]["client"] == f"{who.POD_ONE}:40000"
