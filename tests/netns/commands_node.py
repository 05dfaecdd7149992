"""A node with a running agent, two macvlan pods and a Service, and the commands that an operator gives there."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from tests.netns.agent_rig import GATEWAY, NODE, AgentRig
from tests.netns.cni_calls import Container
from tests.testbed import netns
from tests.testbed.folder import StoreFolder

Raw = dict[str, Any]

VIP, PORT = "10.96.0.10", 80
READY, DRAINING = {"ready": True}, {"ready": False, "serving": True, "terminating": True}


class Commands:
    """A node with the pods `client` and `sibling`, and the Service default/web."""

    def __init__(self, rig: AgentRig) -> None:
        self.rig = rig
        rig.folder = StoreFolder(rig.folder.path, {"default/web": VIP})
        self.client, self.sibling = self._pod("client"), self._pod("sibling")
        rig.folder.apply(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "web", "namespace": "default"},
                "spec": {
                    "ports": [{"name": p.lower(), "port": PORT, "protocol": p} for p in ("TCP", "UDP")],
                },
            }
        )

    def _pod(self, name: str) -> Container:
        meta = {"name": name, "namespace": "default", "uid": f"uid-{name}"}
        self.rig.folder.apply({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"nodeName": NODE}})
        empty = self.rig.new()
        pod = replace(
            empty, args=f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name};K8S_POD_UID=uid-{name}"
        )
        self.rig.containers[empty.netns] = pod
        self.rig.eventually(lambda: pod.call("ADD").exit_code == 0, f"{name} cannot be added")
        # The gateway answers nobody here, and a packet that waits for its MAC meets no program.
        netns.ip_batch([f"neigh add {GATEWAY} lladdr 02:00:00:00:00:fe dev eth0 nud permanent"], pod.netns)
        return pod

    def address_of(self, pod: Container) -> str:
        return next(address.partition("/")[0] for address in pod.addresses() if "." in address)

    def endpoints(self, *addresses: str, draining: Sequence[str] = ()) -> None:
        """Make these the endpoints of default/web, and wait until the maps say so."""
        told = [(address, READY) for address in addresses] + [(address, DRAINING) for address in draining]
        self.rig.folder.apply(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": "web",
                    "namespace": "default",
                    "labels": {"kubernetes.io/service-name": "web"},
                },
                "addressType": "IPv4",
                "endpoints": [{"addresses": [address], "conditions": state} for address, state in told],
                "ports": [{"name": p.lower(), "port": 8080, "protocol": p} for p in ("TCP", "UDP")],
            }
        )
        wanted = sorted((f"{a}:8080", "active" if state is READY else "draining") for a, state in told)

        def programmed() -> bool:
            rows = self.json("services", "default/web")["frontends"]
            seen = [sorted((one["backend"], one["state"]) for one in row["of"]) for row in rows]
            return seen == [wanted, wanted]

        self.rig.eventually(programmed, lambda: self.text("services", "default/web"))

    def json(self, *words: str) -> Any:
        """The answer of a command; the test fails when it does."""
        return json.loads(self.text(*words, "-o", "json"))

    def text(self, *words: str) -> str:
        """What a command prints; the test fails when it does."""
        done = self.rig.dragline(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def counted(self, work: Callable[[], object]) -> set[str]:
        """The verdicts (no events) that are counted while something is done."""

        def counters() -> dict[str, int]:
            rows = self.json("drops", "--all")
            return {row["name"]: row["packets"] for row in rows if row["kind"] != "event" and not row["retired"]}

        before = counters()
        work()
        after = counters()
        return {name for name, count in after.items() if count != before[name]}

    def send(self, address: str, port: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """The first packet of a new flow of the client's."""

        def first_packet() -> socket.socket:
            sock = socket.socket(socket.AF_INET, kind)
            sock.setblocking(False)
            sock.connect_ex((address, port))
            if kind == socket.SOCK_DGRAM:
                sock.send(b"anybody?")
            return sock

        return netns.enter(self.client.netns, first_packet)
