"""The testbed of `perf/clusterip.py`: one remote server, and sites (a node with its uplink and pods) around it.

Every site has subnets of its own and its own veth to the server's netns, so that sites with different programs, rules
and numbers of Services stand side by side and can be measured in turn.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.testbed import netns

LOAD = Path(__file__).resolve().parent.parent / "build" / "perf" / "load"
SERVER_PORT, SERVICE_PORT = 7000, 80
SERVICE_NETWORKS = {4: "10.96.0.0/12", 6: "fd96::/108"}
CLIENT_CPU, SERVER_CPU = 0, min(1, (os.cpu_count() or 1) - 1)
# Connection rates would otherwise measure how soon the ports between two addresses are used up.
_CLIENT_SYSCTLS = {"ipv4/tcp_tw_reuse": "1", "ipv4/ip_local_port_range": "1024 65000"}
_NO_FILTER = {"ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0"}
_FORWARDING = {"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1"}


def service_address(number: int, family: int) -> str:
    """The ClusterIP of Service `number` (from 0)."""
    return str(ipaddress.ip_network(SERVICE_NETWORKS[family])[number + 1])


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of the load generator: operations (or bits) per second; latencies in microseconds, 0 for streams."""

    rate: float
    p50_us: float = 0.0
    p99_us: float = 0.0


def build_load() -> None:
    """Compile the load generator where its source is newer."""
    source = Path(__file__).with_name("load.c")
    if LOAD.exists() and LOAD.stat().st_mtime >= source.stat().st_mtime:
        return
    LOAD.parent.mkdir(parents=True, exist_ok=True)
    netns.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(LOAD), str(source)])


def pinned(cpu: int, command: Sequence[str]) -> list[str]:
    """The command on one CPU, before every ordinary process: what else runs on the machine disturbs less."""
    return ["chrt", "--fifo", "10", "taskset", "--cpu-list", str(cpu), *command]


class Site:
    """A node's netns with the uplink up0; pods are added to it. Addresses: node .1, server .2, gateway .254."""

    def __init__(self, bed: Bed, index: int, far: bool) -> None:
        self._bed, self._far = bed, far
        self._four, self._six = f"10.{20 + index}.0", f"fd64:{index:x}:"
        self.node = bed.new_netns(f"n{index}")
        self._wire = f"far{index}"
        self._pods = 0
        server = bed.server
        netns.ip_batch([f"link add up0 netns {self.node} type veth peer name {self._wire} netns {server}"])
        netns.ip_batch([*self._ends("up0", ("1",)), *self._default_routes()], self.node)
        lines = self._ends(self._wire, ("2", "254"))
        netns.ip_batch([*lines, *(f"address add {self.server_address(n, True)} dev lo" for n in (4, 6))], server)

    def server_address(self, family: int, far: bool | None = None) -> str:
        """The server as a backend: on-link, or behind the gateway where the bed says so."""
        host = "1.2" if (self._far if far is None else far) else "0.2"
        return f"{self._four[:-2]}.{host}" if family == 4 else f"{self._six}{host.replace('.', '::')}"

    def address(self, host: str, family: int) -> str:
        """An address in the site's subnet by its last number."""
        return f"{self._four}.{host}" if family == 4 else f"{self._six}0::{host}"

    def next_host(self) -> str:
        """The last number of the next pod's addresses."""
        self._pods += 1
        return str(9 + self._pods)

    def new_pod_netns(self) -> str:
        """An empty sandbox."""
        name = self._bed.new_netns(f"{self.node.rsplit('-', 1)[1]}p{self._pods}")
        netns.write_sysctls(name, {**_CLIENT_SYSCTLS, **_NO_FILTER})
        return name

    def plain_pod(self, kind: str) -> str:
        """A pod as the reference plugins make it: a slave, addresses, default routes. The name of its netns."""
        host, name = self.next_host(), self.new_pod_netns()
        mode = "bridge" if kind == "macvlan" else "l2"
        netns.ip_batch([f"link add link up0 name eth0 netns {name} type {kind} mode {mode}"], self.node)
        netns.ip_batch([*self._ends("eth0", (host,)), *self._default_routes()], name)
        return name

    def detour_pod(self, kind: str) -> str:
        """A plain pod with a second way for the Services, by veth to the node, as Spiderpool's coordinator wires it."""
        host = str(10 + self._pods)
        name = self.plain_pod(kind)
        netns.write_sysctls(self.node, {**_FORWARDING, **_NO_FILTER})
        netns.ip_batch([f"link add veth1 type veth peer name veth0 netns {name}", "link set veth1 up"], self.node)
        netns.ip_batch(["link set veth0 up"], name)
        mac_in_pod, mac_on_node = _mac(name, "veth0"), _mac(self.node, "veth1")
        inside, outside = [], []
        for family, length in ((4, 32), (6, 128)):
            node, pod = self.address("1", family), self.address(host, family)
            inside += [
                f"route add {node}/{length} dev veth0",
                f"neigh add {node} lladdr {mac_on_node} dev veth0",
                f"route add {SERVICE_NETWORKS[family]} via {node} dev veth0",
            ]
            outside += [f"route add {pod}/{length} dev veth1", f"neigh add {pod} lladdr {mac_in_pod} dev veth1"]
        netns.ip_batch(inside, name)
        netns.ip_batch(outside, self.node)
        return name

    def _default_routes(self) -> list[str]:
        return [f"route add default via {self.address('254', family)}" for family in (4, 6)]

    def _ends(self, link: str, hosts: Sequence[str]) -> list[str]:
        lines = [f"link set {link} addrgenmode none up", "link set lo up"]
        for host in hosts:
            lines += [f"address add {self.address(host, 4)}/24 dev {link}"]
            lines += [f"address add {self.address(host, 6)}/64 dev {link} nodad"]
        return lines


class Bed:
    """The server's netns and the server in it. Leaving it removes every namespace. far: backends behind the gateway."""

    def __init__(self, far: bool = False) -> None:
        self._mark = f"pc{secrets.token_hex(2)}"
        self._names: list[str] = []
        self._stack = ExitStack()
        self._far = far
        self._sites = 0
        self.server = ""
        self.bpf_root = Path("/sys/fs/bpf") / self._mark

    def __enter__(self) -> Bed:
        build_load()
        with ExitStack() as stack:
            stack.callback(lambda: netns.remove(self._names))
            self.server = self.new_netns("server")
            netns.write_sysctls(self.server, _NO_FILTER)
            command = pinned(SERVER_CPU, [str(LOAD), "serve", str(SERVER_PORT)])
            process = subprocess.Popen(netns.nsenter(self.server, command), stdout=subprocess.PIPE, text=True)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            if process.stdout is None or process.stdout.readline() != "ready\n":
                raise netns.TestbedError("the load server did not start")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    @property
    def at_end(self) -> ExitStack:
        """What shall be undone when the bed is left, before its namespaces go."""
        return self._stack

    def new_netns(self, label: str) -> str:
        """A network namespace, removed with the bed."""
        name = f"{self._mark}-{label}"
        netns.ip_batch([f"netns add {name}"])
        self._names.append(name)
        return name

    def new_site(self) -> Site:
        """The next site."""
        self._sites += 1
        return Site(self, self._sites, self._far)


def run_load(pod: str, cgroup: Path | None, arguments: Sequence[str]) -> Sample:
    """One run of the load generator in a pod's netns, and in a cgroup if one is given.

    Raises TestbedError when it gets no answer.
    """
    command = netns.nsenter(pod, pinned(CLIENT_CPU, [str(LOAD), *arguments]))
    if cgroup is not None:
        command = ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(cgroup), *command]
    figures = [float(word) for word in netns.run(command).split()]
    rate = figures[0] / figures[1]
    return Sample(rate, *figures[2:]) if len(figures) > 2 else Sample(rate * 8)


def _mac(name: str, link: str) -> str:
    line = netns.run(["ip", "-n", name, "-o", "link", "show", link])
    return line.split("link/ether ")[1].split()[0]
