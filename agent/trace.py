"""`dragline trace`: the way of a pod's next packet to an address, stage by stage in the programs' order. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

from agent import trace_steps as steps
from agent.flow_texts import duration, state_of
from agent.trace_facts import Facts
from datapath.abi import ADDRESS_NODE, ADDRESS_NODE_PORT, Verdict
from datapath.frontends import BackendView, State, endpoint, flag_names
from datapath.verdicts import Reason

_MOST_FLOWS = 20


class Stage(NamedTuple):
    """One stage: what it looks at, what it decides and why, and details in lines."""

    name: str
    decision: str
    lines: tuple[str, ...] = ()


def answer(facts: Facts, reasons: dict[Verdict, Reason]) -> dict[str, Any]:
    """What the command line is told: head, stages, and the verdicts to be expected of a new flow's first packet."""
    verdicts = steps.expected(facts)
    hooked = (Verdict.VERDICT_SOCKET,) if verdicts and steps.is_hooked(facts) else ()
    return {
        "pod": facts.pod.name,
        "service": facts.service,
        "frontend": str(facts.asked),
        "head": _head(facts),
        "stages": [{"name": name, "decision": told, "lines": list(lines)} for name, told, lines in stages(facts)],
        "hooked": [_verdict(reasons[one], facts) for one in hooked],
        "verdicts": [_verdict(reasons[one], facts) for one in verdicts],
    }


def _verdict(reason: Reason, facts: Facts) -> dict[str, Any]:
    return {
        "number": reason.number,
        "kind": reason.kind,
        "name": reason.name,
        "meaning": reason.meaning,
        "packets": facts.counters.get(Verdict(reason.number), 0),
    }


def stages(facts: Facts) -> list[Stage]:
    """All stages that are reached."""
    leaving, source = steps.leaves(facts), steps.check_source(facts)
    found = [_hooks(facts), Stage("pod's route", leaving.how)]
    if not leaving.sent:
        return found
    found.append(Stage("source check", source.why))
    if source.verdict is not None:
        return found
    found += [_address(facts), Stage("service lookup", steps.find_service(facts).why)]
    if facts.view is None:
        if facts.flows:
            found.append(_flows(facts))
        elif steps.find_service(facts).verdict != Verdict.DROP_UNKNOWN_PORT:
            found.append(Stage("next hop", steps.direct(facts).why))
        return found
    found += [Stage("affinity", steps.affinity(facts).why), _backends(facts)]
    if facts.view.entry.count:
        found.append(_next_hops(facts))
    return [*found, _flows(facts), _counters(facts)]


def _head(facts: Facts) -> str:
    pod = facts.pod
    named = f"{facts.service} " if facts.service else ""
    slave = f"{pod.ifname}, slave {pod.slave_ifindex}, {pod.link_kind} on {pod.uplink}"
    return f"{pod.name} {facts.source or '-'} ({slave}) -> {named}{facts.asked}"


def _hooks(facts: Facts) -> Stage:
    hooks = facts.pod.hooks
    if not hooks.working:
        return Stage("socket hook", f"not used: {hooks.why}; from_pod translates each packet")
    if facts.view is None:
        return Stage("socket hook", f"{hooks.why}; no Service, the address is meant as it stands")
    if not steps.is_hooked(facts):
        return Stage("socket hook", f"{hooks.why}; no backend to choose, the address is left alone")
    told = "connect() and sendmsg() choose a backend: packets then name the backend, not the Service"
    return Stage("socket hook", hooks.why, (told, "what follows is for packets that still name the Service"))


def _address(facts: Facts) -> Stage:
    place = facts.place(facts.asked.address)
    pod = f" ({place.pod})" if place.pod else ""
    if not place.flags:
        return Stage("address", f"{facts.asked.address} is not in the map addresses: somebody else's")
    lines = []
    if place.flags & (ADDRESS_NODE | ADDRESS_NODE_PORT):
        lines.append("a node's: NodePorts are looked for too")
    return Stage("address", f"{facts.asked.address} is {flag_names(place.flags)}{pod}", tuple(lines))


def _backends(facts: Facts) -> Stage:
    assert facts.view is not None
    count, draining = facts.view.entry.count, sum(not one.slots for one in facts.backends)
    lines = tuple(_backend_line(facts, one) for one in facts.backends)
    if not count:
        told = f"none is ready: refused, {steps.told(facts)}"
        return Stage("backends", told + (f"; {draining} draining keep their flows" if draining else ""), lines)
    chosen = steps.affinity(facts).backend_id
    how = f"backend {chosen} by affinity" if chosen is not None else f"one of {count} at random"
    return Stage("backends", how + (f"; {draining} draining get no new flows" if draining else ""), lines)


def _backend_line(facts: Facts, backend: BackendView) -> str:
    where = endpoint(backend.entry.address, backend.entry.port) if backend.entry else "-"
    slots = f"slot {', '.join(map(str, backend.slots))}" if backend.slots else "no slot"
    wrong = {State.MISSING: " (not in the map backends)", State.FOREIGN: " (another frontend's)"}
    return f"{where}  id {backend.backend_id}  {backend.state}{wrong.get(backend.state, '')}  {slots}"


def _next_hops(facts: Facts) -> Stage:
    decisions = [(one, steps.reach(facts, one)) for one in steps.choices(facts)]
    lines = tuple(
        f"{endpoint(one.entry.address, one.entry.port) if one.entry else one.backend_id}  {decision.why}"
        for one, decision in decisions
    )
    if len(lines) == 1:
        return Stage("next hop", lines[0])
    return Stage("next hop", "by backend", lines)


def _flows(facts: Facts) -> Stage:
    if not facts.flows:
        return Stage("conntrack", "no flow of this pod to this frontend yet: a packet in mid-stream would be refused")
    lines = []
    for pair in facts.flows[:_MOST_FLOWS]:
        idle = "-" if pair.last_seen_ns is None else duration((facts.now_ns - pair.last_seen_ns) / 1e9)
        flow = f"port {pair.client.port} -> {endpoint(pair.backend, pair.backend_port)}"
        lines.append(f"{flow}  {state_of(pair)}  idle {idle}: its next packet {steps.next_packet(facts, pair).why}")
    if len(facts.flows) > _MOST_FLOWS:
        lines.append(f"and {len(facts.flows) - _MOST_FLOWS} more: see `dragline conntrack --pod {facts.pod.name}`")
    return Stage("conntrack", f"{len(facts.flows)} flows of this pod to this frontend", tuple(lines))


def _counters(facts: Facts) -> Stage:
    assert facts.view is not None
    counters = facts.view.counters
    return Stage("counters", f"this frontend: {counters.opened} flows opened, {counters.refused} packets refused")
