"""What `dragline services`, `conntrack`, `drops` and `trace` print."""

from __future__ import annotations

from typing import Any

import pytest

from agent import flow_tables, flow_texts, service_tables, trace_text
from datapath.abi import CT_ANSWERED, CT_PEER_FIN, CT_POD_FIN, CT_RESET
from datapath.flow_pairs import Client, Pair

Row = dict[str, Any]

FRONTEND: Row = {
    "service": "default/web",
    "frontend": "10.96.0.10:80/TCP",
    "kind": "ClusterIP",
    "affinity_s": 10800,
    "id": 3,
    "backends": 2,
    "draining": 1,
    "opened": 120,
    "refused": 4,
}
BACKENDS: list[Row] = [
    {"backend": "10.8.0.11:8080", "state": "active", "where": "pod default/web-1", "id": 7, "slots": [1], "flows": 5},
    {"backend": "10.9.0.30:8080", "state": "draining", "where": "remote", "id": 8, "slots": [], "flows": 1},
]
FLOW: Row = {
    "pod": "default/client",
    "protocol": "TCP",
    "client": "10.8.0.10:40000",
    "frontend": "10.96.0.10:80",
    "backend": "10.8.0.11:8080",
    "direct": False,
    "state": "ESTABLISHED",
    "idle_s": 125.4,
    "source_port": 40000,
    "source_port_changed": False,
    "lost": "",
    "service_id": 3,
    "backend_id": 7,
    "backend_state": "active",
}


def test_services_are_a_line_each() -> None:
    assert service_tables.services({"frontends": [FRONTEND]}).splitlines() == [
        "SERVICE      FRONTEND           KIND       AFFINITY  BACKENDS         FLOWS  REFUSED",
        "default/web  10.96.0.10:80/TCP  ClusterIP  3h        2 (+1 draining)  120    4",
    ]


def test_one_service_has_its_backends() -> None:
    lines = service_tables.services({"frontends": [FRONTEND | {"of": BACKENDS}], "socket_lb": "off: x"}).splitlines()
    assert lines[3:] == [
        "  BACKEND         STATE     WHERE              ID  FLOWS NOW",
        "  10.8.0.11:8080  active    pod default/web-1  7   5",
        "  10.9.0.30:8080  draining  remote             8   1",
    ]
    without = service_tables.services({"frontends": [FRONTEND | {"of": []}], "socket_lb": "off: x"})
    assert without.endswith("no backends: calls are refused")


def test_no_frontends_is_said_in_words() -> None:
    assert service_tables.services({"frontends": []}).startswith("No frontends")


def flows(*rows: Row, matching: int = 1, limit: int = 1000, socket_lb: str = "off: x") -> list[str]:
    answer = {"flows": list(rows), "matching": matching, "entries": 2, "capacity": 131072, "socket_lb": socket_lb}
    return flow_tables.conntrack(answer, limit).splitlines()


def test_flows_are_a_line_each() -> None:
    assert flows(FLOW) == [
        "POD             PROTO  CLIENT           FRONTEND       BACKEND         STATE        IDLE  NOTE",
        "default/client  TCP    10.8.0.10:40000  10.96.0.10:80  10.8.0.11:8080  ESTABLISHED  2m5s",
    ]
    assert all(len(line) < 100 for line in flows(FLOW))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"source_port": 50000, "source_port_changed": True}, "port 50000 on the wire"),
        ({"backend_state": "draining"}, "backend draining"),
        (
            {"backend_state": "removed", "lost": "reverse", "idle_s": None},
            "backend removed, orphan: reverse entry lost",
        ),
        ({"direct": True, "backend_state": ""}, "direct"),
    ],
    ids=["source-port", "draining", "orphan", "direct"],
)
def test_what_is_odd_about_a_flow_is_noted(change: Row, told: str) -> None:
    assert told in flows(FLOW | change)[1]


def test_flows_that_are_not_shown_are_counted() -> None:
    assert flows(FLOW, matching=70000, limit=1)[-1] == (
        "1 of 70000 flows shown (--limit 1; --limit 0 shows all); 2 of 131072 entries used"
    )
    assert flows() == ["No flows (2 of 131072 entries used)"]


def test_flows_of_balanced_sockets_are_said_to_be_missing() -> None:
    for rows in ((), (FLOW,)):
        assert flows(*rows, socket_lb="on, at /sys/fs/cgroup")[-1] == flow_texts.APART
    answer = {"frontends": [FRONTEND | {"of": BACKENDS}], "socket_lb": "on, at /sys/fs/cgroup"}
    assert service_tables.services(answer).endswith(flow_texts.APART)


REASONS: list[Row] = [
    {"number": 2, "kind": "verdict", "name": "direct", "packets": 9, "meaning": "untouched"},
    {"number": 26, "kind": "event", "name": "refused-icmp", "packets": 3, "meaning": "the pod was told"},
    {"number": 32, "kind": "drop", "name": "no-backend", "packets": 3, "meaning": "no endpoints"},
    {"number": 33, "kind": "drop", "name": "backend-missing", "packets": 0, "meaning": "should never be seen"},
]


def test_drops_are_those_that_happened_then_the_events() -> None:
    assert flow_tables.drops(REASONS, everything=False).splitlines() == [
        "NUMBER  KIND   REASON        PACKETS  MEANING",
        "32      drop   no-backend    3        no endpoints",
        "26      event  refused-icmp  3        the pod was told",
    ]
    assert flow_tables.drops(REASONS[:1], everything=False) == "Nothing was dropped"
    assert flow_tables.drops(REASONS[:2], everything=False).endswith("\nNothing was dropped")
    assert len(flow_tables.drops(REASONS, everything=True).splitlines()) == 1 + len(REASONS)


TRACE: Row = {
    "head": "default/client 10.8.0.10 (eth0) -> default/web 10.96.0.10:80/TCP",
    "stages": [
        {"name": "source check", "decision": "pass", "lines": []},
        {"name": "backends", "decision": "one of 1", "lines": ["10.8.0.11:8080  id 7"]},
    ],
    "hooked": [],
    "verdicts": [{"number": 4, "kind": "verdict", "name": "service-own-mac", "meaning": "own MAC", "packets": 12}],
}


def test_a_trace_ends_with_its_verdict() -> None:
    assert trace_text.trace(TRACE).splitlines() == [
        "default/client 10.8.0.10 (eth0) -> default/web 10.96.0.10:80/TCP",
        "",
        " 1 source check  pass",
        " 2 backends      one of 1",
        "                 10.8.0.11:8080  id 7",
        "",
        "Verdict: service-own-mac (4): own MAC [12 so far]",
    ]


def test_a_trace_may_have_several_verdicts_or_none() -> None:
    drop = {"number": 32, "kind": "drop", "name": "no-backend", "meaning": "no endpoints", "packets": 2}
    assert trace_text.trace(TRACE | {"verdicts": [*TRACE["verdicts"], drop]}).splitlines()[-2:] == [
        "Verdict, one of: service-own-mac (4): own MAC [12 so far]",
        "Verdict, one of: DROP no-backend (32): no endpoints [2 so far]",
    ]
    assert trace_text.trace(TRACE | {"verdicts": []}).endswith("none: no packet reaches the programs")


def test_a_trace_says_when_sockets_never_name_the_service() -> None:
    hooked = {"number": 16, "kind": "verdict", "name": "socket", "meaning": "in connect", "packets": 1}
    assert trace_text.trace(TRACE | {"hooked": [hooked]}).splitlines()[-2:] == [
        "Verdict: socket (16): in connect [1 so far]",
        "Of packets that name the Service: service-own-mac (4): own MAC [12 so far]",
    ]


@pytest.mark.parametrize(
    ("protocol", "flags", "lost", "state"),
    [
        ("TCP", 0, "", "SYN_SENT"),
        ("TCP", CT_ANSWERED, "", "ESTABLISHED"),
        ("TCP", CT_ANSWERED | CT_POD_FIN, "", "FIN_WAIT"),
        ("TCP", CT_ANSWERED | CT_PEER_FIN, "", "CLOSE_WAIT"),
        ("TCP", CT_ANSWERED | CT_POD_FIN | CT_PEER_FIN, "", "CLOSING"),
        ("TCP", CT_ANSWERED | CT_POD_FIN | CT_RESET, "", "RESET"),
        ("UDP", 0, "", "UNREPLIED"),
        ("UDP", CT_ANSWERED, "", "REPLIED"),
        ("UDP", 0, "reverse", "LOST"),
        ("SCTP", CT_ANSWERED, "forward", "ESTABLISHED"),
    ],
)
def test_states(protocol: str, flags: int, lost: str, state: str) -> None:
    client = Client("10.8.0.10", 40000, "10.96.0.10", 80, protocol)
    assert flow_texts.state_of(Pair(client, "10.8.0.11", 8080, 40000, 3, 7, flags, 1, lost)) == state


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0s"), (0.4, "0s"), (59.9, "59s"), (60, "1m"), (125, "2m5s"), (10800, "3h"), (90061, "1d1h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert flow_texts.duration(seconds) == text
