"""From Services, EndpointSlices and Nodes to what a pod may call: frontends and what each has to offer.

Pure. `cluster.frontends` says where a Service is called, `cluster.endpoints` which backends a call may choose; here is
what is known of the cluster, kept current object by object. A frontend without backends refuses calls; headless and
ExternalName Services have no frontend.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from cluster.addresses import family_of
from cluster.endpoints import Backend, Choice, Here, Piece, choose, piece
from cluster.frontends import ANY_NODE, Entrance, Entrances, Frontend, entrances
from cluster.nodes import NodeBook
from cluster.resources import EndpointSlice, Node, Service

__all__ = ["API_SERVICE", "Backend", "Frontend", "Offer", "ServiceBook"]

API_SERVICE: Final = "default/kubernetes"
"""The agent may reach the API server through this one: emptied, it would never hear of new endpoints again."""

MOST_BACKENDS: Final = 2**16 - 1
"""As many as a frontend's count in the maps (a u16) can say."""


class Offer(NamedTuple):
    """What a frontend gives. Both lists are sorted, and no backend is in both."""

    backends: tuple[Backend, ...]
    """Those that new flows may choose; () = calls are refused."""
    draining: tuple[Backend, ...]
    """Those that only keep the TCP and SCTP flows they have."""
    affinity_s: int
    """How long a client stays with its backend, in seconds since its last call; 0 = no affinity."""
    cluster_ip: bool
    """Whether the address is only a Service's: its unknown ports are refused, too."""
    service: str
    """ "ns/name"."""


Changes = dict[Frontend, Offer | None]
"""The frontends that changed; None for one that went."""


class ServiceBook:
    """Every `put` takes an object as it now is (None: gone) and returns the frontends that changed.

    A change costs what its Service has, not what the cluster has; that this node is in another zone costs what all
    Services with hints have. Of several Services with one frontend the one with the ClusterIP has it, then the one
    whose key sorts first.
    """

    def __init__(self, node_name: str) -> None:
        self._nodes = NodeBook(node_name)
        self._entrances: dict[str, Entrances] = {}
        self._pieces: dict[str, Piece] = {}
        self._pieces_of: dict[str, dict[str, Piece]] = {}  # by service key, then slice key
        self._frontends_of: dict[str, frozenset[Frontend]] = {}
        self._claims: dict[Frontend, dict[str, Offer]] = {}  # by service key
        self._problems_of: dict[str, tuple[str, ...]] = {}

    def frontends(self) -> dict[Frontend, Offer]:
        """All frontends with what they offer."""
        return {frontend: _first(claims) for frontend, claims in self._claims.items()}

    def never_empty(self) -> frozenset[Frontend]:
        """The frontends of `default/kubernetes`: when its endpoints are gone, whatever is programmed has to stay.

        Given to `datapath.services.plan`, which knows what is programmed, also by an agent that ran before this one.
        """
        return self._frontends_of.get(API_SERVICE, frozenset())

    def node_addresses(self) -> frozenset[str]:
        """All nodes' internal and external addresses, both families: calls to them may be for a NodePort."""
        return self._nodes.addresses()

    def problems(self) -> list[tuple[str, str]]:
        """(service key, text) of what is asked for and cannot be had, sorted; the text says what to do."""
        found = [(key, text) for key, texts in self._problems_of.items() for text in texts]
        for frontend, claims in self._claims.items():
            if len(claims) > 1:
                winner = _first(claims).service
                text = f"{_named(frontend)} belongs to Service {winner}; take another address or port"
                found += [(key, text) for key in claims if key != winner]
        return sorted(found)

    def put_service(self, key: str, service: Service | None) -> Changes:
        """Take a Service ("ns/name")."""
        if service is None:
            self._entrances.pop(key, None)
        else:
            self._entrances[key] = entrances(service)
        return self._renew(key)

    def put_slice(self, key: str, endpoint_slice: EndpointSlice | None) -> Changes:
        """Take an EndpointSlice ("ns/name"); it may have moved to another Service."""
        old = self._pieces.pop(key, None)
        new = piece(endpoint_slice) if endpoint_slice is not None else None
        if old is not None:
            siblings = self._pieces_of[old.service]
            del siblings[key]
            if not siblings:
                del self._pieces_of[old.service]
        if new is not None:
            self._pieces[key] = new
            self._pieces_of.setdefault(new.service, {})[key] = new
        if old == new:  # also a slice of names or of another proxy
            return {}
        changed: Changes = {}
        for service in {one.service for one in (old, new) if one is not None}:
            changed |= self._renew(service)
        return changed

    def put_node(self, name: str, node: Node | None) -> Changes:
        """Take a Node: its addresses, and the zone if it is this node. `node_addresses` may have changed as well."""
        changed: Changes = {}
        if self._nodes.put(name, node):
            for service in {one.service for one in self._pieces.values() if one.hinted}:
                changed |= self._renew(service)
        return changed

    def _renew(self, key: str) -> Changes:
        wanted = self._entrances.get(key, Entrances())
        now, problems = _offers(key, wanted, self._pieces_of.get(key, {}).values(), self._nodes.here)
        before = self._frontends_of.pop(key, frozenset())
        self._problems_of.pop(key, None)
        if now:
            self._frontends_of[key] = frozenset(now)
        if problems:
            self._problems_of[key] = problems
        changed: Changes = {}
        for frontend in before | now.keys():
            claims = self._claims.setdefault(frontend, {})
            old = _first(claims) if claims else None
            if frontend in now:
                claims[key] = now[frontend]
            else:
                claims.pop(key, None)
            new = _first(claims) if claims else None
            if new is None:
                del self._claims[frontend]
            if new != old:
                changed[frontend] = new
        return changed


def _first(claims: dict[str, Offer]) -> Offer:
    """The offer that counts: a ClusterIP cannot be taken away by somebody's external IP."""
    if len(claims) == 1:
        return next(iter(claims.values()))
    return min(claims.values(), key=lambda offer: (not offer.cluster_ip, offer.service))


def _offers(
    key: str, wanted: Entrances, pieces: Iterable[Piece], here: Here
) -> tuple[dict[Frontend, Offer], tuple[str, ...]]:
    """What one Service offers, and what is wrong with it."""
    pieces_of: dict[str, list[Piece]] = {"IPv4": [], "IPv6": []}
    for one in pieces:
        pieces_of[one.family].append(one)
    choices: dict[tuple[str, tuple[str, str], bool], Choice] = {}
    found: dict[Frontend, Offer] = {}
    problems = list(wanted.problems)
    for entrance in wanted.all:
        frontend, family = entrance.frontend, family_of(entrance.frontend.address)
        question = (family, entrance.target, entrance.local)
        choice = choices.get(question)
        if choice is None:
            choice = choices[question] = choose(pieces_of[family], entrance.target, entrance.local, here)
        if len(choice.chosen) > MOST_BACKENDS:
            text = (
                f"{len(choice.chosen)} endpoints, only the first {MOST_BACKENDS} are called; spread them over Services"
            )
            problems.append(f"{_named(frontend)}: {text}")
            choice = choice._replace(chosen=choice.chosen[:MOST_BACKENDS])
        if frontend.protocol == "SCTP":
            whole, choice = choice, _of_same_port(choice, frontend.port)
            if whole != choice:
                problems.append(_sctp_problem(entrance, whole))
                if not choice.chosen and not entrance.cluster_ip:
                    continue  # the packets go on to the node they name; its own proxy may know how
        found[frontend] = Offer(*choice, wanted.affinity_s, entrance.cluster_ip, key)
    return found, tuple(problems)


def _of_same_port(choice: Choice, port: int) -> Choice:
    """Without the backends on another port: a changed SCTP port needs a new CRC32c over the whole packet."""
    return Choice(*(tuple(backend for backend in some if backend.port == port) for some in choice))


def _sctp_problem(entrance: Entrance, whole: Choice) -> str:
    frontend = entrance.frontend
    others = sorted({backend.port for some in whole for backend in some if backend.port != frontend.port})
    ports = ", ".join(map(str, others))
    if frontend.address in ANY_NODE.values():
        cure = f"call a ClusterIP, or let the pods listen on {frontend.port} and set it as targetPort"
    else:
        cure = f"set port and targetPort to one number that the pods listen on ({ports})"
    return f"{_named(frontend)}: endpoints on port {ports} are left out, as an SCTP port cannot be changed; {cure}"


def _named(frontend: Frontend) -> str:
    """For people: "10.96.0.1:80/TCP", "[fd00::1]:80/TCP", "nodePort 30080/TCP"."""
    address, port, protocol = frontend
    if address in ANY_NODE.values():
        return f"nodePort {port}/{protocol}"
    return f"[{address}]:{port}/{protocol}" if ":" in address else f"{address}:{port}/{protocol}"
