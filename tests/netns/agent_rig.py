"""One node with a real agent, and a runtime's stand-in that calls the real shim: tests through its door.

Smaller and faster than tests/testbed: one network namespace whose uplink is eth0 (10.8.0.1/24, fd08::1/64).
"""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from agent.config import Config
from tests.demo.leftovers import map_entries
from tests.netns.cni_calls import Answer, Container, Raw
from tests.testbed import netns
from tests.testbed.folder import StoreFolder
from tests.testbed.kubelet import build_shim
from tests.testbed.node import AgentProcess
from tests.testbed.vpc import mount_bpffs

NODE = "node-one"
NETWORK = "kube-system/lan"
GATEWAY = "10.8.0.254"
SETTLE_S = 8.0


@dataclass
class AgentRig:
    """The node, its store and its agent. A context manager; leaving it removes everything.

    `settings` are fields of the agent's Config.
    """

    cooldown_s: float = 0.0
    state_dir: Path | None = None
    socket_lb: str = "on"
    settings: dict[str, Any] = field(default_factory=dict)
    prefix: str = field(default_factory=lambda: f"dla{secrets.token_hex(3)}")
    containers: dict[str, Container] = field(default_factory=dict)

    def __enter__(self) -> AgentRig:
        mount_bpffs()
        build_shim()
        self.home = Path(tempfile.mkdtemp(prefix=f"{self.prefix}-", dir="/run"))
        (self.home / "store").mkdir()
        self.folder = StoreFolder(self.home / "store", {})
        self.config = Config(
            node_name=NODE,
            store=self.folder.path,
            socket=self.home / "run" / "agent.sock",
            state_dir=self.state_dir or self.home / "state",
            bpf_root=Path("/sys/fs/bpf") / self.prefix,
            default_network=NETWORK,
            cooldown_s=self.cooldown_s,
            socket_lb=self.socket_lb,
        )
        self.config = replace(self.config, **self.settings)
        self.agent = AgentProcess(self.config, self.prefix, self.home / "agent.log")
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _build(self) -> None:
        netns.ip_batch([f"netns add {self.prefix}"])
        lines = ["link set lo up"]
        for name in ("eth0", "eth1"):
            lines += [f"link add {name} type veth peer name {name}-wire", f"link set {name}-wire addrgenmode none up"]
            lines += [f"link set {name} addrgenmode none"]
        lines += ["link set eth0 up", "addr add 10.8.0.1/24 dev eth0", "addr add fd08::1/64 dev eth0 nodad"]
        netns.ip_batch(lines, self.prefix)
        self.pool("main", "10.8.0.10-10.8.0.59")
        self.agent.start()
        self.agent.wait_ready()

    def close(self) -> None:
        """Remove agent, namespaces, pins and files."""
        self.agent.stop()
        netns.remove([*(container.netns for container in self.containers.values()), self.prefix])
        self.agent.clean()
        shutil.rmtree(self.home, ignore_errors=True)

    def pool(self, name: str, *ips: str, **spec: Any) -> None:
        """Create or replace a SpiderIPPool of this node."""
        six = bool(ips) and ":" in ips[0]
        whole = {
            "subnet": "fd08::/64" if six else "10.8.0.0/24",
            "ips": list(ips),
            "gateway": "fd08::fe" if six else GATEWAY,
            "nodeName": [NODE],
            **spec,
        }
        self.folder.apply(
            {"apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderIPPool", "metadata": {"name": name}}
            | {"spec": whole}
        )
        if self.running:
            self.eventually(lambda: name in self.pools(), f"pool {name} is not known")

    def new(self, **config: Any) -> Container:
        """An empty sandbox, removed by `discard`; keys replace those of the network configuration."""
        number = secrets.token_hex(6)
        name = f"{self.prefix}-{number}"
        netns.ip_batch([f"netns add {name}"])
        whole = {
            "cniVersion": "1.1.0",
            "name": "lan",
            "type": "dragline",
            "linkKind": "macvlan",
            "mode": "bridge",
            "master": "eth0",
            "multusName": NETWORK,
            "ippools": {"ipv4": ["main"]},
            "socket": str(self.config.socket),
            **config,
        }
        self.containers[name] = Container(f"c{number}", name, whole)
        return self.containers[name]

    def add(self, **config: Any) -> tuple[Container, Answer]:
        """A new container, attached; fails the test when the ADD fails."""
        container = self.new(**config)
        answer = container.call("ADD")
        assert answer.exit_code == 0, answer.stdout
        return container, answer

    def pools(self) -> dict[str, tuple[int, int]]:
        """(allocated, total) by pool, as the agent's own book has them."""
        return {row["name"]: (row["allocated"], row["total"]) for row in self.agent.ask("pools")}

    def attachments(self) -> dict[str, int]:
        """How many attachments are in which state."""
        counts: dict[str, int] = self.agent.ask("status")["attachments"]
        return counts

    def published(self, pool: str) -> Raw:
        """The pool's status in the store: its `allocatedIPs` decoded."""
        status = self.folder.status("SpiderIPPool", pool)
        return {**status, "allocatedIPs": json.loads(status.get("allocatedIPs", "{}"))}

    def dragline(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line as a user does."""
        command = [str(Path(sys.executable).with_name("dragline")), *arguments, f"--socket={self.config.socket}"]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)

    def leftovers(self) -> list[str]:
        """What an empty node must not have: attachments, addresses, map entries, slaves, permanent neighbours."""
        found = [f"{state}: {count}" for state, count in self.attachments().items()]
        found += [f"pool {name}: {used}" for name, (used, _) in self.pools().items() if used]
        found += map_entries(self.config.bpf_root)
        found += netns.run(["ip", "-n", self.prefix, "neigh", "show", "nud", "permanent"]).splitlines()
        found += netns.run(["ip", "-n", self.prefix, "link", "show", "type", "macvlan"]).splitlines()
        present = [container for container in self.containers.values() if Path(container.path).exists()]
        return found + [f"{container.id}: {link}" for container in present for link in container.links()]

    def empty(self) -> None:
        """Wait until nothing is left of any pod; the test fails when something stays."""
        self.eventually(lambda: not self.leftovers(), self.leftovers)

    def discard(self, containers: Sequence[Container] | None = None) -> None:
        """DEL containers (default: all) and remove their namespaces, as a runtime does at a pod's end."""
        for container in list(self.containers.values()) if containers is None else containers:
            answer = container.call("DEL")
            assert answer.exit_code == 0, answer.stdout
            netns.remove([container.netns])
            self.containers.pop(container.netns, None)

    @property
    def running(self) -> bool:
        """Whether the agent was started and not ended by a test."""
        try:
            return self.agent.pid > 0
        except netns.TestbedError:
            return False

    def start_afresh(self) -> None:
        """Forget everything: namespaces, journal, maps."""
        if self.running:
            self.agent.kill()
        netns.remove([container.netns for container in self.containers.values()])
        self.containers.clear()
        shutil.rmtree(self.config.state_dir)
        self.agent.clean()
        self.restart()

    def restart(self) -> None:
        """Start the agent after its end, and wait until it is ready."""
        self.agent.start()
        self.agent.wait_ready()

    def eventually(self, holds: Callable[[], object], otherwise: object, timeout_s: float = SETTLE_S) -> None:
        """Wait until `holds`; otherwise fail with the text (or what the callable gives) and the agent's log."""
        deadline = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > deadline:
                told = otherwise() if callable(otherwise) else otherwise
                raise AssertionError(f"{told}\n{self.agent.log_tail()}")
            time.sleep(0.01)
