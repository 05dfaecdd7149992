"""Where the frames of a flow go in time: a MAC is learnt from answers and forgotten, a backend's place may change."""

from __future__ import annotations

from dataclasses import replace

import pytest

from datapath.abi import ADDRESS_POD
from tests.bpf.flow_steps import V, in_both_families, quiet, received, same, sent, web
from tests.bpf.rig import SIBLING_SLAVE, Rig
from tests.packets import GATEWAY_MAC, OWN_MAC, REMOTE_MAC, STRANGER_MAC, UPLINK, Cast, End, mac, readdressed, tcp

pytestmark = in_both_families


def answer_from(rig: Rig, cast: Cast, backend: End, smac: str) -> None:
    answer = tcp(backend, cast.client, "SA")
    received(rig, mac(OWN_MAC) + mac(smac) + answer[12:])


def silent(rig: Rig) -> None:
    """As if no answer had come for long."""
    for flow, entry in list(rig.maps.conntrack.items()):
        rig.maps.conntrack.put(flow, replace(entry, mac_seen=(entry.mac_seen - 100) & 0xFFFF))


def test_on_link_backend_is_sent_to_the_mac_that_answers(rig: Rig, cast: Cast) -> None:
    """Silent so far: by the neighbour table. Once it has answered: to that MAC, until it was silent for long."""
    web(rig, cast.on_link)
    more = tcp(cast.client, cast.web, "A")
    by_neighbour = readdressed(more, dst=cast.on_link, dport=8080)
    sent(rig, tcp(cast.client, cast.web), V.VERDICT_SERVICE_NEIGH)
    same(sent(rig, more, V.VERDICT_SERVICE_NEIGH), by_neighbour)
    answer_from(rig, cast, (cast.on_link, 8080), REMOTE_MAC)
    wanted = readdressed(more, dst=cast.on_link, dport=8080, dmac=REMOTE_MAC)
    for _ in range(2):
        same(sent(rig, more, V.VERDICT_SERVICE_MAC), wanted)
    silent(rig)
    same(sent(rig, more, V.VERDICT_SERVICE_NEIGH), by_neighbour)


def test_mac_of_an_on_link_backend_changes(rig: Rig, cast: Cast) -> None:
    """A failover: the next answer tells, at the next tick of the coarse clock."""
    web(rig, cast.on_link)
    more = tcp(cast.client, cast.web, "A")
    sent(rig, tcp(cast.client, cast.web), V.VERDICT_SERVICE_NEIGH)
    for smac in (REMOTE_MAC, STRANGER_MAC):
        silent(rig)
        answer_from(rig, cast, (cast.on_link, 8080), smac)
        quiet(rig)
        assert sent(rig, more, V.VERDICT_SERVICE_MAC)[:6] == mac(smac)


def test_node_port_by_the_gateway(rig: Rig, cast: Cast) -> None:
    """The node that was named is on-link, the backend is not: the gateway's MAC comes by neighbour, then by answers."""
    rig.service((cast.any, 30080, "TCP"), {1: cast.backend}, known=0)
    more = tcp(cast.client, (cast.node, 30080), "A", dmac=OWN_MAC)
    sent(rig, tcp(cast.client, (cast.node, 30080), dmac=OWN_MAC), V.VERDICT_SERVICE_NEIGH)
    answer_from(rig, cast, cast.backend, GATEWAY_MAC)
    wanted = readdressed(more, dst=cast.far, dport=8080, dmac=GATEWAY_MAC)
    same(sent(rig, more, V.VERDICT_SERVICE_MAC), wanted)


@pytest.mark.parametrize("answered", [False, True])
def test_answers_teach_nothing_where_the_place_is_clear(rig: Rig, cast: Cast, answered: bool) -> None:
    """A sibling by the own MAC and an off-link backend by the frame's own, whoever their answers come from."""
    for place, verdict, dmac in (
        (cast.sibling, V.VERDICT_SERVICE_OWN_MAC, OWN_MAC),
        (cast.far, V.VERDICT_SERVICE_GATEWAY, GATEWAY_MAC),
    ):
        rig.reset()
        web(rig, place)
        sent(rig, tcp(cast.client, cast.web), verdict)
        if answered:
            answer_from(rig, cast, (place, 8080), STRANGER_MAC)
            quiet(rig)
        assert sent(rig, tcp(cast.client, cast.web, "A"), verdict)[:6] == mac(dmac)


def test_backend_becomes_a_sibling(rig: Rig, cast: Cast) -> None:
    """A flow may be older than what the agent knows of the backend's place: it follows at the next tick."""
    web(rig, cast.on_link)
    sent(rig, tcp(cast.client, cast.web), V.VERDICT_SERVICE_NEIGH)
    rig.maps.put_local(cast.on_link, UPLINK, ADDRESS_POD, SIBLING_SLAVE + 7)
    quiet(rig)
    out = sent(rig, tcp(cast.client, cast.web, "A"), V.VERDICT_SERVICE_OWN_MAC)
    same(out, readdressed(tcp(cast.client, cast.web, "A"), dst=cast.on_link, dport=8080, dmac=OWN_MAC))
    rig.maps.delete_local(cast.on_link, UPLINK)
    quiet(rig)
    sent(rig, tcp(cast.client, cast.web, "A"), V.VERDICT_SERVICE_NEIGH)
