"""A row of a packet test: frame in, program, maps before, verdict, TC code and the whole frame out; and its makings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from datapath.abi import CT_REVERSE, Verdict
from datapath.flows import Flow, Translation
from tests.bpf.rig import IPVLAN_POD, SLAVE, UNSPEC, Rig
from tests.packets import CASTS, FAR, GATEWAY_MAC, Cast, End, cast_of, mac, readdressed, tcp

V = Verdict
Step = Callable[[Rig], None]


@dataclass(frozen=True, slots=True)
class Row:
    """`wanted` None: the frame is untouched. `events` are counted beside the verdict."""

    name: str
    program: str
    frame: bytes
    verdict: Verdict
    code: int
    wanted: bytes | None = None
    before: Step | None = None
    ifindex: int = SLAVE
    events: tuple[Verdict, ...] = ()


def passes(name: str, frame: bytes, verdict: Verdict, before: Step | None = None) -> Row:
    """A row of from_pod that leaves the frame as it is."""
    return Row(name, "from_pod", frame, verdict, UNSPEC, None, before)


def web(address: str = FAR, protocol: str = "TCP", port: int = 8080) -> Step:
    """The Service on port 80 with one backend, in the backend's family."""
    vip = cast_of(address).vip
    return lambda rig: rig.service((vip, 80, protocol), {7: (address, port)})


def pod(**change: object) -> Step:
    return lambda rig: rig.maps.put_pod(SLAVE, replace(IPVLAN_POD, **change))  # type: ignore[arg-type]


def both(*steps: Step) -> Step:
    def run(rig: Rig) -> None:
        for step in steps:
            step(rig)

    return run


def syn(cast: Cast) -> bytes:
    return tcp(cast.client, cast.web)


def on_wire(address: str, dmac: str = GATEWAY_MAC, frame: bytes = b"") -> bytes:
    """The frame (a SYN to the Service) as it goes to its backend."""
    return readdressed(frame or syn(cast_of(address)), dst=address, dport=8080, dmac=dmac)


def with_dmac(frame: bytes, dmac: str) -> bytes:
    return mac(dmac) + frame[6:]


def answer_known(
    cast: Cast, protocol: str = "TCP", *, backend: End | None = None, name: End | None = None, client_port: int = 40000
) -> Step:
    """The reverse entry of a flow that has port 40000 on the wire, `client_port` at the socket; its peer is `name`."""
    flow = Flow(*(backend or cast.backend), *cast.client, protocol, CT_REVERSE)
    entry = Translation(*(name or cast.web), client_port, 1 if name is None else 0, 7)
    return lambda rig: rig.maps.conntrack.put(flow, entry)


def in_both_families(*makers: Callable[[Cast], list[Row]]) -> list[Row]:
    """The rows of every maker, for IPv4 and for IPv6."""
    return [replace(row, name=f"{row.name}-{cast.name}") for make in makers for cast in CASTS for row in make(cast)]
