"""The hands of `dragline trace`: reads the live maps, and the pod's routes and neighbours, into facts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from agent import pod_names, trace_steps
from agent.service_names import Names
from agent.trace_facts import Facts, Hooks, Place, PodFacts
from allocator.attachments import Attachment
from datapath import flow_pairs, frontends, netlink
from datapath.abi import ADDRESS_FRONTEND, ADDRESS_NODE, ADDRESS_NODE_PORT
from datapath.entries import BackendEntry, pack_ip
from datapath.flow_pairs import Pair, Wanted
from datapath.flows import AffinityKey
from datapath.frontends import BackendView, Frontend, FrontendView
from datapath.maps import Maps
from datapath.table import Number


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads everything about the way from a pod to `asked`; `pods` names addresses, `socket_lb` is for people."""

    maps: Maps
    asked: Frontend
    names: Names
    pods: Mapping[str, str]
    socket_lb: str

    def read(self, mine: Sequence[Attachment], problem: str = "") -> Facts:
        """All facts about the pod with these attachments. The thread must be in its netns, or `problem` says why not.

        Raises NetlinkError, OSError.
        """
        inside = not problem
        chosen = self._leaving_by(mine, inside)
        pod = replace(self._pod(chosen, inside), hooks=self._hooks(mine), problem=problem)
        source = pod.address_like(self.asked.address)
        view = self._view()
        backends = frontends.backends(self.maps, [view])[view.frontend] if view else ()
        flows = self._flows(source)
        return self._with_affinity(
            Facts(
                pod=pod,
                asked=self.asked,
                service=self.names.get(view.frontend if view else self.asked, ""),
                source=source,
                places=self._places(pod, source, backends, inside),
                view=view,
                backends=backends,
                flows=flows,
                flow_backends=self._backends_of(flows),
                counters=self.maps.counters(),
                now_ns=time.monotonic_ns(),
            )
        )

    def _leaving_by(self, mine: Sequence[Attachment], inside: bool) -> Attachment:
        """The attachment whose slave the pod's routes choose; the first where they choose none of ours."""
        if not inside:
            return mine[0]
        for attachment in mine:
            for lease in attachment.leases:
                if lease.family == (6 if ":" in self.asked.address else 4):
                    way = netlink.way_to(self.asked.address, lease.ip)
                    if way.ifindex == attachment.ifindex:
                        return attachment
        return mine[0]

    def _pod(self, attachment: Attachment, inside: bool) -> PodFacts:
        link = netlink.link(attachment.ifindex) if inside else None
        return PodFacts(
            name=pod_names.name_of(attachment),
            ifname=attachment.ifname,
            slave_ifindex=attachment.ifindex,
            link_kind=attachment.link_kind,
            uplink=attachment.uplink,
            addresses=tuple(lease.ip for lease in attachment.leases),
            mac=link.mac if link else "",
            entry=self.maps.pods().get(attachment.ifindex),
        )

    def _hooks(self, mine: Sequence[Attachment]) -> Hooks:
        if not self.socket_lb.startswith("on"):
            return Hooks(False, f"socket load balancing is {self.socket_lb}")
        if self.asked.protocol not in ("TCP", "UDP"):
            return Hooks(False, f"it has no say in {self.asked.protocol}")
        by_slave = {slave.number: cookie.number for cookie, slave in self.maps.netns_pods.items()}
        named = [one.ifindex for one in mine if one.ifindex in by_slave]
        if not named:
            return Hooks(False, "the map netns_pods does not have the pod's network namespace")
        return Hooks(True, f"{self.socket_lb}; netns cookie {by_slave[named[0]]} is slave {named[0]}")

    def _view(self) -> FrontendView | None:
        """As find_service of bpf/lib/service.h."""
        entry = self.maps.address(self.asked.address)
        flags = entry.flags if entry else 0
        if flags & ADDRESS_FRONTEND:
            exact = frontends.frontend(self.maps, self.asked)
            if exact is not None:
                return exact
        if not flags & (ADDRESS_NODE | ADDRESS_NODE_PORT):
            return None
        any_node = "::" if ":" in self.asked.address else "0.0.0.0"
        return frontends.frontend(self.maps, self.asked._replace(address=any_node))

    def _places(self, pod: PodFacts, source: str, backends: Sequence[BackendView], inside: bool) -> dict[str, Place]:
        addresses = [self.asked.address, source, *(one.entry.address for one in backends if one.entry)]
        found = {}
        for address in filter(None, dict.fromkeys(addresses)):
            # The way to a backend off-link is nobody's question, and each answer costs milliseconds.
            asks = address == self.asked.address or (pod.entry is not None and trace_steps.on_link(pod.entry, address))
            way = netlink.way_to(address, source) if inside and source and asks else None
            found[address] = Place(self.maps.address(address), self.pods.get(address, ""), way)
        return found

    def _flows(self, source: str) -> tuple[Pair, ...]:
        if not source:
            return ()
        entries = flow_pairs.snapshot(self.maps.conntrack.batches())
        wanted = Wanted(frozenset({pack_ip(source)}), frozenset({flow_pairs.packed_frontend(*self.asked)}))
        return tuple(flow_pairs.pair(entries, one) for one in flow_pairs.find(entries, wanted))

    def _backends_of(self, flows: Sequence[Pair]) -> dict[int, BackendEntry]:
        found = {number: self.maps.backends.get(Number(number)) for number in {pair.backend_id for pair in flows}}
        return {number: entry for number, entry in found.items() if entry is not None}

    def _with_affinity(self, facts: Facts) -> Facts:
        if facts.view is None or not facts.view.entry.affinity_s or not facts.source:
            return facts
        affinity = self.maps.affinity.get(AffinityKey(facts.source, facts.view.entry.service_id))
        affine = self.maps.backends.get(Number(affinity.backend_id)) if affinity else None
        return replace(facts, affinity=affinity, affine=affine)
