"""Rows of from_pod: what no Service takes. Multicast, direct traffic, local addresses, ports of a ClusterIP's twin."""

from __future__ import annotations

from datapath.abi import ADDRESS_FRONTEND, ADDRESS_NODE_PORT
from tests.bpf.rig import OK, SHOT, UNSPEC, Rig
from tests.bpf.row import Row, Step, V, in_both_families, passes, pod, syn, web, with_dmac
from tests.fragments import fragments
from tests.packets import CASTS, OWN_MAC, V4, Cast, End, arp, icmp, sctp, tcp, udp

MULTICAST_MACS = {"v4": "01:00:5e:00:00:fb", "v6": "33:33:00:00:00:fb"}
BIG = b"big" * 60


def external(cast: Cast) -> Step:
    """An externalIP or load-balancer address: somebody may be behind its other ports."""
    return lambda rig: rig.service((*cast.web, "TCP"), {7: cast.backend}, known=ADDRESS_FRONTEND)


def of_another_node(rig: Rig) -> None:
    for cast in CASTS:
        rig.maps.mark_address(cast.other_node, ~0, ADDRESS_NODE_PORT)
        rig.service((cast.any, 30080, "TCP"), {1: cast.backend}, known=0)


def _passed(cast: Cast) -> list[Row]:
    """Untouched, and open to other filters."""
    client, far = cast.client, (cast.far, 80)
    group: End = (cast.multicast, 5353)
    outside = tcp(client, (cast.vip, 81))
    return [
        Row("unknown-device", "from_pod", syn(cast), V.VERDICT_PASS, UNSPEC, None, web(cast.far), ifindex=1),
        passes("multicast", udp(client, group, dmac=MULTICAST_MACS[cast.name]), V.VERDICT_PASS),
        passes("multicast-to-gateway-mac", udp(client, group), V.VERDICT_PASS),
        passes("hairpin-unknown", tcp(client, (cast.hairpin, 9)), V.VERDICT_PASS),
        passes("hairpin-ping", icmp(cast.pod, cast.hairpin), V.VERDICT_PASS),
        passes("far", tcp(client, far), V.VERDICT_DIRECT),
        passes("far-mid-stream", tcp(client, far, "PA"), V.VERDICT_DIRECT),
        passes("far-udp", udp(client, far), V.VERDICT_DIRECT),
        passes("far-sctp", sctp(client, far), V.VERDICT_DIRECT),
        passes("far-ping", icmp(cast.pod, cast.far), V.VERDICT_DIRECT),
        *(
            passes(f"far-fragment-{number}", frame, V.VERDICT_DIRECT)
            for number, frame in enumerate(fragments(udp(client, far, data=BIG)))
        ),
        passes("sibling-near", tcp(client, (cast.sibling, 80), dmac=OWN_MAC), V.VERDICT_DIRECT),
        passes("pod-of-other-uplink", tcp(client, (cast.other_uplink_pod, 80)), V.VERDICT_DIRECT),
        passes("sibling-macvlan", tcp(client, (cast.sibling, 80)), V.VERDICT_DIRECT, pod(flags=0)),
        passes("external-ip-other-port", outside, V.VERDICT_DIRECT, external(cast)),
        passes("external-ip-ping", icmp(cast.pod, cast.vip), V.VERDICT_DIRECT, external(cast)),
        passes("external-ip-udp", udp(client, cast.web), V.VERDICT_DIRECT, external(cast)),
        passes("other-node-unknown-port", tcp(client, (cast.other_node, 22)), V.VERDICT_DIRECT, of_another_node),
        passes("other-node-ping", icmp(cast.pod, cast.other_node), V.VERDICT_DIRECT, of_another_node),
        passes("node-unknown-port-near", tcp(client, (cast.node, 22), dmac=OWN_MAC), V.VERDICT_DIRECT, of_another_node),
    ]


def _to_own_mac(cast: Cast) -> list[Row]:
    """A local address that the pod's routes sent to the gateway: only the destination MAC changes."""
    client = cast.client
    frames = {
        "sibling-tcp": tcp(client, (cast.sibling, 80)),
        "sibling-udp": udp(client, (cast.sibling, 53)),
        "sibling-ping": icmp(cast.pod, cast.sibling),
        "sibling-fragment": fragments(udp(client, (cast.sibling, 53), data=BIG))[1],
        "node": tcp(client, (cast.node, 22)),
        "node-unknown-node-port": tcp(client, (cast.node, 30081)),
    }
    return [
        Row(name, "from_pod", frame, V.VERDICT_DIRECT_OWN_MAC, OK, with_dmac(frame, OWN_MAC), of_another_node)
        for name, frame in frames.items()
    ]


def _malformed() -> list[Row]:
    """What cannot be read cannot be checked: dropped."""
    frame = syn(V4)
    frames = {
        "short-ihl": frame[:14] + b"\x44" + frame[15:],
        "version-6-as-ipv4": frame[:14] + b"\x65" + frame[15:],
        "arp-cut": arp(V4.pod, V4.sibling)[:41],
        "tcp-cut-to-a-service": frame[:46],
    }
    dropped = [
        Row(name, "from_pod", frame, V.DROP_MALFORMED, SHOT, None, web(V4.far)) for name, frame in frames.items()
    ]
    far = tcp(V4.client, (V4.far, 80))
    return [*dropped, passes("tcp-cut-to-an-address", far[:46], V.VERDICT_DIRECT, web(V4.far))]


ROWS = [*in_both_families(_passed, _to_own_mac), *_malformed()]
