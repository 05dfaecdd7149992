"""The node that `perf/cni_verbs.py` measures on: a netns with two uplinks, our agent on one, the peer on the other."""

from __future__ import annotations

import ctypes
import itertools
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

import yaml

from agent.config import Config
from perf.plugin_calls import Chain, write_config
from tests.testbed import netns
from tests.testbed.kubelet import SHIM, build_shim
from tests.testbed.node import AgentProcess
from tests.testbed.vpc import mount_bpffs

PEER_FOLDER = Path("/usr/lib/cni")
GONE_WITHIN_S = 60.0
NAMES = 1000
"""Pod objects that the store holds from the start, as a watch would have delivered them before the sandbox is made."""


class VerbsNode:
    """Leaving it ends the agent and removes every namespace. `kind` is the kind of link, for both sides."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._mark = secrets.token_hex(2)
        self._node = f"pf-{self._mark}"
        self._stack = ExitStack()
        self._names = itertools.count()

    def __enter__(self) -> VerbsNode:
        with ExitStack() as stack:
            self._build(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    def ours(self) -> Chain:
        """The shim, on uplink up0."""
        config = {
            "cniVersion": "1.0.0",
            "name": "perf",
            "type": "dragline",
            "linkKind": self._kind,
            "master": "up0",
            "multusName": "kube-system/perf",
            "socket": str(self._home / "agent.sock"),
        }
        return Chain(SHIM, write_config(self._home / "ours.json", config), self._home)

    def peer(self) -> Chain:
        """The reference plugin with host-local, on uplink up1."""
        config = {
            "cniVersion": "1.0.0",
            "name": "perf-peer",
            "type": self._kind,
            "master": "up1",
            "mode": "l2" if self._kind == "ipvlan" else "bridge",
            "ipam": {
                "type": "host-local",
                "dataDir": str(self._home / "host-local"),
                "ranges": [[{"subnet": "10.20.0.0/20", "gateway": "10.20.15.254"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
        return Chain(PEER_FOLDER / self._kind, write_config(self._home / "peer.json", config), self._home)

    @contextmanager
    def pod(self) -> Iterator[str]:
        """An empty sandbox: the name of its netns, which is a pod's name in the store too."""
        name = f"{self._node}-{next(self._names) % NAMES}"
        netns.run(["ip", "netns", "add", name])
        try:
            yield name
        finally:
            netns.run(["ip", "netns", "delete", name])

    def wait_gone(self, names: Sequence[str]) -> None:
        """Return when no sandbox has a link eth0 any more. Raises TestbedError when that takes too long."""
        limit = time.monotonic() + GONE_WITHIN_S
        for name in names:
            while netns.enter(name, lambda: Path("/proc/thread-self/net/dev").read_text()).count("eth0"):
                if time.monotonic() > limit:
                    raise netns.TestbedError(f"{name} still has its link after {GONE_WITHIN_S:.0f} s")
                time.sleep(0.002)

    def _build(self, stack: ExitStack) -> None:
        mount_bpffs()
        build_shim()
        self._home = Path(tempfile.mkdtemp(prefix="dragline-perf-", dir="/run"))
        stack.callback(shutil.rmtree, self._home, ignore_errors=True)
        # Both sides keep their state where a node has /run: on a tmpfs, whatever this machine's /run is.
        netns.run(["mount", "-t", "tmpfs", "dragline-perf", str(self._home)])
        stack.callback(netns.run, ["umount", str(self._home)])
        self._add_node_netns(stack)
        store = self._home / "store"
        store.mkdir()
        (store / "cluster.yaml").write_text(yaml.safe_dump_all(self._objects()), encoding="utf-8")
        config = Config(
            node_name="perf",
            store=store,
            socket=self._home / "agent.sock",
            state_dir=self._home / "state",
            bpf_root=Path("/sys/fs/bpf") / self._node,
        )
        agent = AgentProcess(config, self._node, self._home / "agent.log")
        stack.callback(agent.clean)
        stack.callback(agent.stop)
        agent.start()
        agent.wait_ready()
        # The plugins look for the uplink in the netns they are started in: this thread goes to the node for good.
        _enter_netns(self._node)

    def _add_node_netns(self, stack: ExitStack) -> None:
        netns.run(["ip", "netns", "add", self._node])
        stack.callback(netns.run, ["ip", "netns", "delete", self._node])
        lines = ["link set lo up"]
        for number in (0, 1):
            lines += [
                f"link add up{number} type veth peer name far{number}",
                f"link set up{number} up",
                f"link set far{number} up",
                f"address add 10.{10 * (number + 1)}.15.1/20 dev up{number}",
            ]
        netns.ip_batch(lines, self._node)

    def _objects(self) -> list[dict[str, object]]:
        pool = {
            "apiVersion": "spiderpool.spidernet.io/v2beta1",
            "kind": "SpiderIPPool",
            "metadata": {"name": "perf"},
            "spec": {
                "default": True,
                "ips": ["10.10.0.1-10.10.15.0"],
                "subnet": "10.10.0.0/20",
                "gateway": "10.10.15.254",
                "nodeName": ["perf"],
                "multusName": ["kube-system/perf"],
            },
        }
        pods = [
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": (name := f"{self._node}-{number}"), "namespace": "default", "uid": name},
                "spec": {"nodeName": "perf"},
            }
            for number in range(NAMES)
        ]
        return [pool, *pods]


def _enter_netns(name: str) -> None:
    fd = os.open(netns.path_of(name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(fd, 0x40000000) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter {name}")
    finally:
        os.close(fd)
