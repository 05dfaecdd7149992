"""A small stand-in for kubelet, its runtime and Multus on one node: sandboxes, and the CNI calls for them."""

import json
import os
import secrets
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.networks import network_config
from cluster.resources import SpiderMultusConfig, parse
from tests.testbed import netns
from tests.testbed.folder import StoreFolder
from tests.testbed.vpc import Vpc
from tests.testbed.workload import Raw, addresses, cni_args, key_of, network_of, with_addresses

CHECKOUT = Path(__file__).resolve().parents[2]
SHIM = CHECKOUT / "build" / "cni" / "dragline"
VERB_TIMEOUT_S = 120.0

# msgspec builds its picture of a struct when first used; two threads doing that at once crash the interpreter (seen
# with 0.22 in a guest: "Segmentation fault" in convert). The agent parses on one thread only.
_parsing = threading.Lock()


class CniFailure(Exception):
    """The plugin answered with an error object."""

    def __init__(self, verb: str, code: int, message: str) -> None:
        super().__init__(f"CNI {verb}: error {code}: {message}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A running pod: its object, its namespace, and what the runtime keeps to delete it later."""

    pod: Raw
    container_id: str
    netns: str
    config: Raw
    result: Raw = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The pod's name."""
        return str(self.pod["metadata"]["name"])

    @property
    def node(self) -> str:
        """The node it runs on."""
        return str(self.pod["spec"]["nodeName"])

    @property
    def addresses(self) -> list[str]:
        """Its addresses, without prefix lengths."""
        return addresses(self.result)

    @property
    def address(self) -> str:
        """Its (first) IPv4 address."""
        return next(address for address in self.addresses if ":" not in address)


def build_shim() -> None:
    """Compile the shim unless build/cni/dragline is newer than its source (the Makefile's rule)."""
    source = CHECKOUT / "cni" / "shim.c"
    if not SHIM.exists() or SHIM.stat().st_mtime < source.stat().st_mtime:
        SHIM.parent.mkdir(parents=True, exist_ok=True)
        netns.run(["gcc", "-static", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(SHIM), str(source)])


def call_shim(verb: str, sandbox: Sandbox, args: str, config: Mapping[str, Any]) -> Raw:
    """Run the shim as a runtime does; its decoded stdout ({} when empty). Raises CniFailure for an error object."""
    environment = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": sandbox.container_id,
        "CNI_NETNS": str(netns.path_of(sandbox.netns)),
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": args,
        "CNI_PATH": str(SHIM.parent),
        "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
    }
    done = subprocess.run(
        [str(SHIM)],
        input=json.dumps(config).encode(),
        env=environment,
        capture_output=True,
        timeout=VERB_TIMEOUT_S,
        check=False,
    )
    answer: Raw = json.loads(done.stdout) if done.stdout.strip() else {}
    if done.returncode != 0:
        message = f"{answer.get('msg', '')}: {answer.get('details', '')} {done.stderr.decode(errors='replace')}".strip()
        raise CniFailure(verb, int(answer.get("code", -1)), message)
    return answer


class Kubelet:
    """Starts and stops the pods of one node. Methods may be called from several threads for different pods."""

    def __init__(self, node: str, vpc: Vpc, folder: StoreFolder, socket: Path, overrides: Mapping[str, Any]) -> None:
        """overrides: keys put into every network configuration (such as linkKind)."""
        self.node = node
        self._vpc = vpc
        self._folder = folder
        self._socket = socket
        self._overrides = overrides
        self._lock = threading.Lock()
        self.sandboxes: dict[str, Sandbox] = {}

    def start(self, pod: Raw, default_network: str) -> Sandbox:
        """Make the pod's sandbox and have it wired; CniFailure when the plugin refuses (the sandbox is removed)."""
        with self._lock:
            self._folder.apply(pod)
        prepared = self.prepare(pod, default_network)
        try:
            sandbox = self.add(prepared)
        except CniFailure:
            self._vpc.remove_pod_netns(prepared.netns)
            raise
        with self._lock:
            self._folder.apply(with_addresses(pod, sandbox.addresses))
            self.sandboxes[key_of(pod)] = sandbox
        return sandbox

    def prepare(self, pod: Raw, default_network: str) -> Sandbox:
        """An empty sandbox for the pod, with a fresh container id and its network's configuration."""
        container_id = secrets.token_hex(32)
        parsed = self._network(network_of(pod, default_network))
        config = {**network_config(parsed, str(self._socket)), **self._overrides}
        return Sandbox(pod, container_id, self._vpc.add_pod_netns(f"cni-{container_id[:8]}"), config)

    def _network(self, key: str) -> SpiderMultusConfig:
        raw = self._folder.get("SpiderMultusConfig", key)
        with _parsing:
            parsed = parse(raw)
        assert isinstance(parsed, SpiderMultusConfig)
        return parsed

    def add(self, sandbox: Sandbox) -> Sandbox:
        """CNI ADD; the sandbox with its result."""
        result = call_shim("ADD", sandbox, cni_args(sandbox.pod, sandbox.container_id), sandbox.config)
        return Sandbox(sandbox.pod, sandbox.container_id, sandbox.netns, sandbox.config, result)

    def check(self, sandbox: Sandbox) -> None:
        """CNI CHECK with the stored result; CniFailure when something differs."""
        config = {**sandbox.config, "prevResult": sandbox.result}
        call_shim("CHECK", sandbox, cni_args(sandbox.pod, sandbox.container_id), config)

    def delete(self, sandbox: Sandbox) -> None:
        """CNI DEL with the stored result, as a runtime sends it (the namespace still exists)."""
        config = {**sandbox.config, **({"prevResult": sandbox.result} if sandbox.result else {})}
        call_shim("DEL", sandbox, cni_args(sandbox.pod, sandbox.container_id), config)

    def stop(self, key: str) -> None:
        """End the pod `namespace/name`: its processes, CNI DEL, the namespace, its object."""
        with self._lock:
            sandbox = self.sandboxes.pop(key)
        netns.end_processes(sandbox.netns)
        self.delete(sandbox)
        self._vpc.remove_pod_netns(sandbox.netns)
        with self._lock:
            self._folder.delete("Pod", key)
