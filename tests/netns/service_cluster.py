"""A cluster of two nodes with macvlan pods on which Services come and go: what the conformance tests act on.

Every pod and both nodes have echo servers on 8080 and 8081. A test creates Services with selectors, says which pods are
behind them by label and in which state those are, and looks at what a pod's calls meet; `clear` takes all of it back.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from tests.testbed import ask, dual_stack
from tests.testbed.bed import Bed
from tests.testbed.echo import EchoServers, Heard
from tests.testbed.kubelet import Sandbox
from tests.testbed.workload import Raw

PODS = {
    "client": ("master", "eth0"),
    "stranger": ("worker", "eth0"),
    "one": ("master", "eth0"),
    "two": ("worker", "eth0"),
    "three": ("worker", "eth1"),
    "four": ("master", "eth1"),
}
SERVER_PORTS = (8080, 8081)
ASK = {"TCP": ask.tcp, "UDP": ask.udp}
CALLS = 20
"""Calls by which a set of backends is known: one of two is missed once in a million."""
SETTLE_S = 10.0
CALL_S = 2.0
PATIENCE_S = (0.1, 0.2, 0.5, 1.0)
"""For the first tries: before a Service is served, its calls are silent in the network's dead end."""
SILENCE_S = 0.5
"""How long nobody must answer to count as nobody; where that is expected, calls to a router's dead end are silent."""

_numbers = itertools.count(1)


def port(number: int = 80, target: int | str = 8080, protocol: str = "TCP", node_port: int = 0) -> Raw:
    """A port of a Service, named after protocol and number."""
    made: Raw = {"name": f"{protocol.lower()}-{number}", "port": number, "protocol": protocol, "targetPort": target}
    return {**made, "nodePort": node_port} if node_port else made


class ServiceCluster:
    """The pods and servers on a running testbed."""

    def __init__(self, bed: Bed, servers: EchoServers) -> None:
        self.bed, self.folder, self.servers = bed, bed.folder, servers
        self.pods: dict[str, Sandbox] = {}
        self.start(*PODS)
        for node in bed.agents:
            self.folder.apply(self._host_pod(node))
            for number in SERVER_PORTS:
                servers.serve(f"host-{node}", bed.vpc.node_netns(node), number)
        self._kept = {kind: {_key(raw): raw for raw in self.folder.list(kind)} for kind in _KINDS}

    def start(self, *names: str, node: str = "master", nic: str = "eth0") -> None:
        """Start pods with servers: those of PODS at their places, others where told."""
        wanted = [dual_stack.pod(name, *PODS.get(name, (node, nic))) for name in names]
        for sandbox in self.bed.start_pods(wanted):
            self.pods[sandbox.name] = sandbox
            for number in SERVER_PORTS:
                self.servers.serve(sandbox.name, sandbox.netns, number)

    def stop(self, *names: str) -> None:
        """End pods with their servers."""
        sandboxes = [self.pods.pop(name) for name in names]
        for sandbox in sandboxes:
            for number in SERVER_PORTS:
                self.servers.stop(sandbox.netns, number)
        self.bed.stop_pods(sandboxes)

    def clear(self) -> None:
        """Objects and pods as they were before the test."""
        self.stop(*(self.pods.keys() - PODS.keys()))
        for kind, kept in self._kept.items():
            for raw in self.folder.list(kind):
                if _key(raw) not in kept:
                    self.folder.delete(kind, _key(raw))
                elif raw != kept[_key(raw)]:
                    self.folder.apply(kept[_key(raw)])
        self.folder.sync_endpoints()

    def create(self, name: str, ports: Sequence[Raw], *, behind: Iterable[str] = (), **spec: Any) -> list[str]:
        """A dual-stack Service (labels: of its metadata) with a selector for the pods `behind` it; its ClusterIPs."""
        number, meta = next(_numbers), {"name": name, "namespace": "default", "labels": spec.pop("labels", {})}
        vips = [f"10.233.{50 + number // 200}.{number % 200 + 1}", f"fd00:10:233::50:{number:x}"]
        whole = {
            "type": "ClusterIP",
            "selector": {name: "yes"},
            "clusterIP": vips[0],
            "clusterIPs": vips,
            "ipFamilies": ["IPv4", "IPv6"],
            "ports": list(ports),
            **spec,
        }
        self.folder.apply({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": whole})
        self.behind(name, *behind)
        return vips

    def change(
        self, name: str, *, labels: dict[str, str] | None = None, without: Sequence[str] = (), **spec: Any
    ) -> None:
        """Replace fields of a Service's spec (and its labels), remove those named in `without`."""
        raw = self.folder.get("Service", f"default/{name}")
        kept = {key: value for key, value in raw["spec"].items() if key not in without}
        meta = raw["metadata"] if labels is None else {**raw["metadata"], "labels": labels}
        self.folder.apply({**raw, "metadata": meta, "spec": {**kept, **spec}})
        self.folder.sync_endpoints()

    def delete(self, *names: str) -> None:
        """Delete Services; their slices are garbage collected."""
        for name in names:
            self.folder.delete("Service", f"default/{name}")
        self.folder.sync_endpoints()

    def behind(self, name: str, *pods: str) -> None:
        """Label the pods so that exactly these are selected by a Service."""
        for raw in self.folder.list("Pod"):
            labels = {key: value for key, value in raw["metadata"]["labels"].items() if key != name}
            labels |= {name: "yes"} if raw["metadata"]["name"] in pods else {}
            if labels != raw["metadata"]["labels"]:
                self.folder.apply({**raw, "metadata": {**raw["metadata"], "labels": labels}})
        self.folder.sync_endpoints()

    def state(self, pod: str, *, ready: bool = True, terminating: bool = False, phase: str = "Running") -> None:
        """Change what a Pod object says of its pod."""
        raw = self.folder.get("Pod", f"default/{pod}")
        meta = {key: value for key, value in raw["metadata"].items() if key != "deletionTimestamp"}
        meta |= {"deletionTimestamp": "2026-01-01T00:00:00Z"} if terminating else {}
        conditions = [{"type": "Ready", "status": str(ready)}]
        status = {**raw["status"], "phase": phase, "conditions": conditions}
        self.folder.apply({**raw, "metadata": meta, "status": status})
        self.folder.sync_endpoints()

    def node_addresses(self, node: str) -> list[str]:
        """Of both families, on the node's first NIC."""
        return [address.split("/")[0] for address in self.bed.vpc.nodes[node].nics[0].addresses]

    def heard(self, address: str, number: int = 80, protocol: str = "TCP", client: str = "client") -> Heard:
        """Who answers one call, and what it hears of the client."""
        return ASK[protocol](self.pods[client].netns, address, number, CALL_S)

    def served(
        self, at: Iterable[str], by: Iterable[str], number: int = 80, *, protocol: str = "TCP", client: str = "client"
    ) -> None:
        """Wait until calls to each of these addresses are answered by all of `by` and nobody else."""
        for address in at:
            patience = iter(PATIENCE_S)

            def wrong(address: str = address, patience: Iterator[float] = patience) -> str:
                ask_one = partial(ASK[protocol], self.pods[client].netns, address, number, next(patience, CALL_S))
                names = Counter(ask_one().name for _ in range(CALLS))
                return "" if names.keys() == set(by) else f"answered by {dict(names)}, expected {sorted(by)}"

            self.eventually(f"{client} calls {address} {number}/{protocol}", wrong)

    def refused(self, at: Iterable[str], number: int = 80, *, protocol: str = "TCP", client: str = "client") -> None:
        """Wait until calls are refused at once (ECONNREFUSED)."""
        self._fails(at, number, protocol, client, ConnectionRefusedError)

    def unserved(self, at: Iterable[str], number: int = 80, *, protocol: str = "TCP", client: str = "client") -> None:
        """Wait until nobody answers calls any more, whatever becomes of them."""
        self._fails(at, number, protocol, client, OSError)

    def _fails(self, at: Iterable[str], number: int, protocol: str, client: str, how: type[OSError]) -> None:
        for address in at:

            def wrong(address: str = address) -> str:
                try:
                    return f"answered by {ASK[protocol](self.pods[client].netns, address, number, SILENCE_S).name}"
                except how:
                    return ""

            self.eventually(f"{client} calls {address} {number}/{protocol}", wrong)

    def eventually(self, what: str, wrong: Callable[[], str]) -> None:
        """Wait until `wrong` finds nothing ("") and no call fails; AssertionError with its last text."""
        deadline = time.monotonic() + SETTLE_S
        while True:
            try:
                found = wrong()
            except OSError as error:
                found = repr(error)
            if not found:
                return
            assert time.monotonic() < deadline, f"{what}: {found}\n{self.bed.logs()}"
            time.sleep(0.02)

    def _host_pod(self, node: str) -> Raw:
        """A pod on the node's own network, which kubelet starts without the plugin."""
        name = f"host-{node}"
        status = {"phase": "Running", "podIPs": [{"ip": address} for address in self.node_addresses(node)]}
        raw = dual_stack.pod(name, node, "eth0")
        return {**raw, "spec": {**raw["spec"], "hostNetwork": True}, "status": status}


_KINDS = ("Service", "EndpointSlice", "Pod", "Node")


def _key(raw: Raw) -> str:
    meta = raw["metadata"]
    return f"{meta['namespace']}/{meta['name']}" if "namespace" in meta else str(meta["name"])
