"""The whole testbed in one context manager: VPC, store folder, an agent and a kubelet's stand-in per node."""

import contextlib
import secrets
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from agent.config import Config
from tests.testbed.folder import StoreFolder
from tests.testbed.kubelet import Kubelet, Sandbox, build_shim
from tests.testbed.node import AgentProcess
from tests.testbed.topology import assigned_addresses
from tests.testbed.vpc import Vpc, mount_bpffs
from tests.testbed.workload import Raw, expand, key_of

DEFAULT_NETWORK = "kube-system/ipvlan-eth0"
"""As the article sets it: `--set multus.multusCNI.defaultCniCRName="ipvlan-eth0"`."""


class Bed:
    """A cluster of two nodes on which the manifests are applied; leaving it removes everything.

    manifests: raw objects; cluster_ips: Service "ns/name" -> its ClusterIP; overrides: keys put into every network
    configuration, such as {"linkKind": "macvlan"}; filtered: whether the VPC drops what the cloud did not assign;
    settings: fields of every agent's Config, such as {"datapath": "netlink"}.
    """

    def __init__(
        self,
        manifests: Sequence[Raw],
        cluster_ips: Mapping[str, str],
        *,
        overrides: Mapping[str, Any] | None = None,
        filtered: bool = True,
        cooldown_s: float = 30.0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._manifests = manifests
        self._overrides = overrides or {}
        self._stack = contextlib.ExitStack()
        self._cluster_ips = cluster_ips
        self._settings = {"cooldown_s": cooldown_s, **(settings or {})}
        self.vpc = Vpc(assigned_addresses(manifests), filtered=filtered)
        self.agents: dict[str, AgentProcess] = {}
        self.kubelets: dict[str, Kubelet] = {}

    def __enter__(self) -> "Bed":
        with contextlib.ExitStack() as stack:
            self._build(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    @property
    def sandboxes(self) -> list[Sandbox]:
        """All running pods."""
        return [sandbox for kubelet in self.kubelets.values() for sandbox in kubelet.sandboxes.values()]

    def pod(self, app: str, node: str) -> Sandbox:
        """The (first) running pod of an app (label) on a node."""
        labelled = (s for s in self.sandboxes if s.pod["metadata"]["labels"].get("app") == app and s.node == node)
        return next(labelled)

    def start_agents(self) -> float:
        """Start every agent and wait until all are ready; the seconds it took.

        One after the other: two compilers at once on two emulated CPUs outlast the loader's patience.
        """
        seconds = 0.0
        for agent in self.agents.values():
            agent.start()
            seconds += agent.wait_ready()
        return seconds

    def balance_sockets(self, choice: str, nodes: Iterable[str] | None = None) -> None:
        """Have the agents (of these nodes) run with --socket-lb=`choice`, "on" or "off": restart those that do not."""
        for agent in [self.agents[node] for node in nodes or self.agents]:
            if agent.config.socket_lb != choice:
                agent.stop()
                agent.config = replace(agent.config, socket_lb=choice)
                agent.start()
                agent.wait_ready()

    def deploy(self) -> list[Sandbox]:
        """Turn the DaemonSets into running pods (all at once), then write the endpoints of the Services."""
        pods = [
            pod
            for daemon_set in self.folder.list("DaemonSet")
            for pod in expand(daemon_set, list(self.vpc.nodes), lambda: secrets.randbits(40), lambda: str(uuid.uuid4()))
        ]
        return self.start_pods(pods)

    def start_pods(self, pods: Sequence[Raw]) -> list[Sandbox]:
        """Have the kubelets start pods in parallel; raises the first CniFailure."""
        with ThreadPoolExecutor(max_workers=max(1, len(pods))) as pool:
            started = list(pool.map(lambda pod: self._kubelet_of(pod).start(pod, DEFAULT_NETWORK), pods))
        self.folder.sync_endpoints()
        return started

    def stop_pods(self, sandboxes: Sequence[Sandbox]) -> None:
        """Have the kubelets stop pods in parallel."""
        with ThreadPoolExecutor(max_workers=max(1, len(sandboxes))) as pool:
            list(pool.map(lambda sandbox: self._kubelet_of(sandbox.pod).stop(key_of(sandbox.pod)), sandboxes))
        self.folder.sync_endpoints()

    def logs(self) -> str:
        """The end of every agent's log."""
        return "\n".join(agent.log_tail() for agent in self.agents.values())

    def _kubelet_of(self, pod: Raw) -> Kubelet:
        return self.kubelets[pod["spec"]["nodeName"]]

    def _build(self, stack: contextlib.ExitStack) -> None:
        mount_bpffs()
        build_shim()
        home = Path(tempfile.mkdtemp(prefix="dragline-", dir="/run"))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        stack.enter_context(self.vpc)
        (home / "store").mkdir()
        self.folder = StoreFolder(home / "store", self._cluster_ips)
        for raw in [*map(self._node_object, self.vpc.nodes), *self._manifests]:
            self.folder.apply(raw)
        for node in self.vpc.nodes:
            self._add_node(node, home, stack)

    def _add_node(self, node: str, home: Path, stack: contextlib.ExitStack) -> None:
        config = Config(
            node_name=node,
            store=self.folder.path,
            socket=home / node / "agent.sock",
            state_dir=home / node / "state",
            bpf_root=Path("/sys/fs/bpf") / self.vpc.node_netns(node),
            default_network=DEFAULT_NETWORK,
        )
        config = replace(config, **self._settings)
        agent = AgentProcess(config, self.vpc.node_netns(node), home / f"{node}.log")
        stack.callback(agent.clean)
        stack.callback(agent.stop)
        self.agents[node] = agent
        self.kubelets[node] = Kubelet(node, self.vpc, self.folder, config.socket, self._overrides)

    def _node_object(self, node: str) -> Raw:
        own = [address.split("/")[0] for address in self.vpc.nodes[node].nics[0].addresses]
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": node},
            "status": {"addresses": [{"type": "InternalIP", "address": address} for address in own]},
        }
