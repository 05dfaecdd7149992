"""The matrix of what a pod may ask of a Service: family x protocol x place of the backend x {tc, socket}.

One client on master's eth0; one backend in each place, each alone behind a dual-stack Service of its own. A cell is one
call; it raises when the pod sees anything that it should not, and gives the counters that moved meanwhile.
"""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from datapath.abi import Verdict
from datapath.entries import ServiceKey
from datapath.maps import Maps
from datapath.table import Number
from tests.testbed import ask, dual_stack
from tests.testbed.bed import Bed
from tests.testbed.echo import EchoServers, Heard
from tests.testbed.kubelet import Sandbox
from tests.testbed.workload import Raw

PORT, TARGET_PORT = 80, 8090
SCTP_PORT = 36412
BULK = 1_000_000
DATAGRAMS = (1, 1400, 8000)
"""Payloads in bytes: the smallest, one that fills a frame, and one in six fragments."""
HAIRPIN = {"IPv4": "169.254.202.1", "IPv6": "fd3c:7d1a:9e42::1"}
SETTLE_S = 20.0

PODS = {
    "itself": ("master", "eth0"),
    "remote-on-link": ("worker", "eth0"),
    "remote-off-link": ("worker", "eth1"),
    "sibling": ("master", "eth0"),
    "other-uplink": ("master", "eth1"),
}
NODES = {"host-here": "master", "host-there": "worker"}
PLACES = (*PODS, *NODES)
MACVLAN_PLACES = tuple(place for place in PLACES if place != "host-here")
"""A macvlan slave and its uplink's own stack cannot reach each other, by the kernel's design (issue 6)."""
PATHS = {"tc": "off", "socket": "on"}
"""--socket-lb by the path that a call to a Service takes."""

_GATEWAY, _HAIRPIN = frozenset({Verdict.VERDICT_SERVICE_GATEWAY}), frozenset({Verdict.VERDICT_HAIRPIN})
_OWN_MAC = frozenset({Verdict.VERDICT_SERVICE_OWN_MAC})
_ON_LINK = frozenset({Verdict.VERDICT_SERVICE_NEIGH, Verdict.VERDICT_SERVICE_MAC})
TRANSLATIONS = _GATEWAY | _HAIRPIN | _OWN_MAC | _ON_LINK
_FAR = {"itself": _HAIRPIN, "remote-on-link": _ON_LINK, "remote-off-link": _GATEWAY, "host-there": _ON_LINK}
TRANSLATED: Mapping[str, Mapping[str, frozenset[Verdict]]] = {
    "ipvlan": _FAR | {"sibling": _OWN_MAC, "host-here": _OWN_MAC, "other-uplink": _GATEWAY},
    "macvlan": _FAR | {"sibling": _ON_LINK, "other-uplink": _GATEWAY},
}
"""By kind of link and place: the verdicts that translated packets to it get."""


class Cell(NamedTuple):
    """One call."""

    family: str
    protocol: str
    place: str


@dataclass
class Matrix:
    """The pods, servers and Services on a running testbed; `build` makes them, `remove` takes them away."""

    bed: Bed
    servers: EchoServers
    places: Sequence[str]
    pods: dict[str, Sandbox] = field(default_factory=dict)

    def build(self) -> None:
        """Start pods and servers, write the Services."""
        wanted = [dual_stack.pod(place, *PODS[place]) for place in self.places if place in PODS]
        self.pods = {sandbox.name: sandbox for sandbox in self.bed.start_pods(wanted)}
        for place in self.places:
            self.servers.serve(place, self._netns(place), TARGET_PORT)
            self.bed.folder.apply(self._service(place))
            for family in HAIRPIN:
                self.bed.folder.apply(self._slice(place, family))

    def remove(self) -> None:
        """As it was before `build`."""
        for place in self.places:
            self.servers.stop(self._netns(place), TARGET_PORT)
            for family in HAIRPIN:
                self.bed.folder.delete("EndpointSlice", f"default/{place}-{family.lower()}")
            self.bed.folder.delete("Service", f"default/{place}")
        self.bed.stop_pods(list(self.pods.values()))

    def choose_path(self, path: str) -> None:
        """Have calls take the path "tc" or "socket", and wait until every Service is served."""
        self.bed.balance_sockets(PATHS[path], ["master"])
        deadline = time.monotonic() + SETTLE_S
        for place in self.places:
            for family in HAIRPIN:
                while not self._is_served(place, family):
                    assert time.monotonic() < deadline, f"{place} {family} is not served\n{self.bed.logs()}"
                    time.sleep(0.05)

    def run(self, cell: Cell, node: str = "") -> dict[Verdict, int]:
        """Make the call, to the ClusterIP or to the NodePort on a node; by how much the counters of the client's node
        rose. Raises OSError or AssertionError."""
        agent = self.bed.agents["master"]
        address = self.node_address(node, cell.family) if node else self.vip(cell.place, cell.family)
        port = self.node_port(cell.place) if node else PORT
        with Maps(agent.config.bpf_root) as maps:
            before = maps.counters()
            CALLS[cell.protocol](Called(self.pods["itself"].netns, address, port), self._must_be(cell))
            after = maps.counters()
        return {verdict: after[verdict] - before[verdict] for verdict in after if after[verdict] != before[verdict]}

    def own_address(self, place: str, family: str) -> str:
        """Of a backend."""
        if place in NODES:
            return self.node_address(NODES[place], family)
        return _of_family(self.pods[place].addresses, family)

    def node_address(self, node: str, family: str) -> str:
        """Of a node's first NIC."""
        nic = self.bed.vpc.nodes[node].nics[0]
        return _of_family([address.split("/")[0] for address in nic.addresses], family)

    def node_port(self, place: str) -> int:
        """Of the place's Service."""
        return 30100 + PLACES.index(place)

    def vip(self, place: str, family: str) -> str:
        """Of the place's Service."""
        number = PLACES.index(place) + 1
        return f"10.233.40.{number}" if family == "IPv4" else f"fd00:10:233::40:{number}"

    def _must_be(self, cell: Cell) -> Callable[[Heard], None]:
        """The server is the right one and sees the pod's own address."""
        own = self.own_address("itself", cell.family)
        hairpin = cell.place == "itself" and self.bed.agents["master"].config.socket_lb == "off"
        wanted = Heard(cell.place, TARGET_PORT, HAIRPIN[cell.family] if hairpin else own)

        def check(heard: Heard) -> None:
            assert heard == wanted

        return check

    def answers(self, place: str) -> bool:
        """Whether the place's Service takes calls now, by both families."""
        return all(self._is_served(place, family) for family in HAIRPIN)

    @contextlib.contextmanager
    def sctp_service(self, place: str) -> Iterator[dict[str, str]]:
        """A Service for SCTP (its port is the target's) before the place's pod; its ClusterIPs by family."""
        vips = {"IPv4": "10.233.41.1", "IPv6": "fd00:10:233::41:1"}
        service, slices = self._service(place), [self._slice(place, family) for family in HAIRPIN]
        ports = [{"name": "sctp", "port": SCTP_PORT, "protocol": "SCTP"}]
        spec = {"ports": ports, "clusterIP": vips["IPv4"], "clusterIPs": list(vips.values())}
        made = [{**service, "metadata": {**service["metadata"], "name": "sctp"}, "spec": spec}]
        for raw in slices:
            meta = {**raw["metadata"], "name": f"sctp-{raw['addressType'].lower()}"}
            meta["labels"] = {"kubernetes.io/service-name": "sctp"}
            made.append({**raw, "metadata": meta, "ports": ports})
        for raw in made:
            self.bed.folder.apply(raw)
        try:
            self._wait_for({vip: self.own_address(place, family) for family, vip in vips.items()}, "SCTP", SCTP_PORT)
            yield vips
        finally:
            for raw in made:
                self.bed.folder.delete(raw["kind"], f"default/{raw['metadata']['name']}")

    def _wait_for(self, backends: Mapping[str, str], protocol: str, port: int) -> None:
        """Until the client's agent has programmed these (ClusterIP -> its one backend): SCTP retries after seconds."""
        deadline = time.monotonic() + SETTLE_S
        with Maps(self.bed.agents["master"].config.bpf_root) as maps:
            for vip, address in backends.items():
                while _only_backend(maps, ServiceKey(vip, port, protocol, 1)) != address:
                    assert time.monotonic() < deadline, f"{vip} is not served\n{self.bed.logs()}"
                    time.sleep(0.05)

    def _is_served(self, place: str, family: str) -> bool:
        try:
            with ask.connect(self.pods["itself"].netns, self.vip(place, family), PORT) as stream:
                ask.greeting(stream)
                _end(stream)
        except OSError:
            return False
        return True

    def _netns(self, place: str) -> str:
        return self.bed.vpc.node_netns(NODES[place]) if place in NODES else self.pods[place].netns

    def _service(self, place: str) -> Raw:
        vips = [self.vip(place, family) for family in HAIRPIN]
        fixed = {"port": PORT, "targetPort": TARGET_PORT, "nodePort": self.node_port(place)}
        ports = [{"name": protocol.lower(), "protocol": protocol, **fixed} for protocol in ("TCP", "UDP")]
        spec = {"type": "NodePort", "clusterIPs": vips, "ipFamilies": list(HAIRPIN), "ports": ports}
        spec["clusterIP"] = vips[0]
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": place, "namespace": "default"},
            "spec": spec,
        }

    def _slice(self, place: str, family: str) -> Raw:
        name = f"{place}-{family.lower()}"
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": place}},
            "addressType": family,
            "endpoints": [
                {
                    "addresses": [self.own_address(place, family)],
                    "conditions": {"ready": True},
                    "nodeName": NODES.get(place) or PODS[place][0],
                }
            ],
            "ports": [{"name": name.lower(), "port": TARGET_PORT, "protocol": name} for name in ("TCP", "UDP")],
        }


class Called(NamedTuple):
    """From which namespace, to what."""

    netns: str
    address: str
    port: int


def _tcp(called: Called, check: Callable[[Heard], None]) -> None:
    """Request and response, then a bulk both ways at once."""
    with ask.connect(*called) as stream:
        check(ask.greeting(stream))
        ask.exchange(stream, b"request")
        ask.exchange(stream, bytes(range(250)) * (BULK // 250))
        _end(stream)


def _end(stream: socket.socket) -> None:
    """Close so that the last segment has passed when this returns: it must not fall into the next call's counters."""
    stream.shutdown(socket.SHUT_WR)
    assert stream.recv(1) == b""


def _udp_connected(called: Called, check: Callable[[Heard], None]) -> None:
    with ask.datagrams(*called, connected=True) as one:
        check(Heard.of(ask.answer(one, b"who")))
        for size in DATAGRAMS:
            ask.inverted(one, b"d" * size)


def _udp_unconnected(called: Called, check: Callable[[Heard], None]) -> None:
    with ask.datagrams(*called, connected=False) as one:
        check(Heard.of(ask.answer(one, b"who", called[1:])))
        for size in DATAGRAMS:
            ask.inverted(one, b"d" * size, called[1:])


def _only_backend(maps: Maps, key: ServiceKey) -> str:
    slot = maps.services.get(key)
    backend = maps.backends.get(Number(slot.backend_id)) if slot else None
    return backend.address if backend else ""


def _of_family(addresses: Sequence[str], family: str) -> str:
    return next(address for address in addresses if (":" in address) == (family == "IPv6"))


CALLS = {"tcp": _tcp, "udp connected": _udp_connected, "udp unconnected": _udp_unconnected}


def check_path(cell: Cell, path: str, kind: str, moved: Mapping[Verdict, int], *, node_port: bool = False) -> None:
    """The counters must show that the call took the path, and only that one.

    node_port: a node was called, so the pod's stack did not choose the gateway's MAC, where the gateway is the way.
    """
    translated = {verdict: moved[verdict] for verdict in TRANSLATIONS & moved.keys()}
    drops = {verdict.name: count for verdict, count in moved.items() if verdict.name.startswith("DROP_")}
    assert not drops
    if path == "socket":
        assert not translated
        assert moved.get(Verdict.VERDICT_SOCKET, 0) >= 1
        assert moved.get(Verdict.VERDICT_SOCKET_ANSWER, 0) >= 1
        return
    assert Verdict.VERDICT_SOCKET not in moved
    assert translated
    expected = TRANSLATED[kind][cell.place]
    assert translated.keys() <= (_ON_LINK if node_port and expected == _GATEWAY else expected)
    answers = moved.get(Verdict.VERDICT_ANSWER, 0) + moved.get(Verdict.VERDICT_HAIRPIN_ANSWER, 0)
    assert answers >= 1
