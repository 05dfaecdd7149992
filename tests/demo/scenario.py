"""The claims of the article as functions: each looks at one thing on a running testbed and raises Deviation if not.

Used by the demo, which prints what they return, and by the tests of the vm tier.
"""

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.demo import leftovers, web
from tests.demo.capture import Capture, Frame
from tests.testbed.bed import Bed
from tests.testbed.kubelet import Sandbox
from tests.testbed.netns import nsenter
from tests.testbed.topology import mac_of
from tests.testbed.workload import load

MANIFESTS = sorted((Path(__file__).parent / "manifests").glob("*.yaml"))
CLUSTER_IPS = {"default/test-svc": "10.233.23.194"}
CLUSTER_IP = CLUSTER_IPS["default/test-svc"]
SETTLE_S = 15.0
HEAD_TRIES = 60


class Deviation(AssertionError):
    """Something is not as the article shows it or as Dragline promises; the text says what was seen and expected."""


@dataclass(frozen=True, slots=True)
class Ping:
    """A ping that lost nothing: its output and the round-trip times in ms."""

    output: str
    round_trips_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Head:
    """A `curl -I` that got an answer: its output, and the pod that says it answered."""

    output: str
    pod: str


def article_bed(**options: Any) -> Bed:
    """A testbed with the three manifests of the article."""
    return Bed(load(MANIFESTS), CLUSTER_IPS, **options)


def eventually(what: str, probe: Callable[[], str], timeout_s: float = SETTLE_S) -> None:
    """Wait until `probe` returns "" (nothing is wrong); Deviation with its last text when the time is over."""
    deadline = time.monotonic() + timeout_s
    while wrong := probe():
        if time.monotonic() > deadline:
            raise Deviation(f"{what}: {wrong} (after {timeout_s:.0f} s)")
        time.sleep(0.1)


def pool_rows(bed: Bed) -> list[dict[str, Any]]:
    """The pools with the status the agents wrote into the store, as `kubectl get spiderippool` shows them."""
    rows = []
    for pool in bed.folder.list("SpiderIPPool"):
        name, spec = pool["metadata"]["name"], pool["spec"]
        status = bed.folder.status("SpiderIPPool", name)
        rows.append(
            {
                "name": name,
                "version": 6 if ":" in spec["subnet"] else 4,
                "subnet": spec["subnet"],
                "allocated": status.get("allocatedIPCount", "<none>"),
                "total": status.get("totalIPCount", "<none>"),
                "default": spec.get("default", False),
            }
        )
    return rows


def wait_for_pools(bed: Bed, allocated: Mapping[str, int], total: int = 5) -> list[dict[str, Any]]:
    """Wait until the published counts of these pools are these; the rows of all pools."""
    wanted = {name: (count, total) for name, count in allocated.items()}

    def wrong() -> str:
        seen = {row["name"]: (row["allocated"], row["total"]) for row in pool_rows(bed) if row["name"] in wanted}
        return "" if seen == wanted else f"(allocated, total) is {seen}, expected {wanted}"

    eventually("pool status", wrong)
    return pool_rows(bed)


def wait_for_services(bed: Bed, frontends: int, backends: int) -> None:
    """Wait until every agent has programmed that many frontends and backends."""

    def wrong() -> str:
        answers = {node: agent.ask("status") for node, agent in bed.agents.items()}
        seen = {node: (answer["frontends"], answer["backends"]) for node, answer in answers.items()}
        return "" if set(seen.values()) == {(frontends, backends)} else f"(frontends, backends) is {seen}"

    eventually("services", wrong)


def addresses_in_pools(bed: Bed) -> None:
    """Every pod's address must be of the pool of its node and network, and no two pods may share one."""
    expected = {
        ("test-app-1", "master"): "172.31.199.185-172.31.199.189",
        ("test-app-1", "worker"): "172.31.199.190-172.31.199.194",
        ("test-app-2", "master"): "192.168.0.156-192.168.0.160",
        ("test-app-2", "worker"): "192.168.0.161-192.168.0.165",
    }
    for (app, node), text in expected.items():
        prefix, first = text.split("-")[0].rsplit(".", 1)
        last = text.rsplit(".", 1)[1]
        address = bed.pod(app, node).address
        inside = address.rsplit(".", 1)
        if inside[0] != prefix or not int(first) <= int(inside[1]) <= int(last):
            raise Deviation(f"{app} on {node} has {address}, expected one of {text}")
    found = [sandbox.address for sandbox in bed.sandboxes]
    if len(set(found)) != len(found):
        raise Deviation(f"two pods share an address: {sorted(found)}")


def ping(netns: str, address: str, count: int = 2, source: str = "") -> Ping:
    """Ping from a namespace (from the address `source`, if given); Deviation unless every echo came back."""
    by = ["-I", source] if source else []
    done = _run(netns, ["ping", address, "-c", str(count), "-W", "3", *by], timeout_s=count * 4 + 10)
    round_trips = tuple(float(text) for text in re.findall(r"time=([\d.]+) ms", done.stdout))
    if done.returncode != 0 or len(round_trips) != count or "duplicates" in done.stdout:
        raise Deviation(f"ping {address}: {len(round_trips)} of {count} answers\n{done.stdout}{done.stderr}")
    return Ping(done.stdout.strip(), round_trips)


@contextlib.contextmanager
def web_server(netns: str, name: str, port: int = 80) -> Iterator[None]:
    """A web server in a namespace that says it is `name`; ends with the block."""
    command = nsenter(netns, [sys.executable, web.__file__, name, str(port)])
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline().strip() != web.READY:
                raise Deviation(f"the web server of {name} did not start")
            yield
        finally:
            process.kill()


def head(netns: str, url: str) -> Head:
    """`curl -I`; Deviation unless it is answered with 200 by something that names itself."""
    done = _run(netns, ["curl", "-sS", "--max-time", "10", url, "-I"], timeout_s=20)
    text = done.stdout.replace("\r", "").strip()
    named = re.search(r"^X-Pod: (\S+)$", text, re.MULTILINE)
    if done.returncode != 0 or not text.startswith("HTTP/1.1 200 ") or named is None:
        raise Deviation(f"curl {url} -I: exit {done.returncode}\n{text}\n{done.stderr.strip()}")
    return Head(text, named[1])


def heads(netns: str, url: str, wanted: set[str]) -> tuple[Head, dict[str, int]]:
    """`curl -I` until every pod of `wanted` has answered: the first answer, and answers by pod.

    Deviation when another one answers, when a call fails, or when one of `wanted` has not answered after 60 calls (with
    two backends that happens by chance once in 10^18).
    """
    answers = [head(netns, url)]
    while {answer.pod for answer in answers} < wanted and len(answers) < HEAD_TRIES:
        answers.append(head(netns, url))
    counts = {pod: sum(answer.pod == pod for answer in answers) for pod in {answer.pod for answer in answers}}
    if set(counts) != wanted:
        raise Deviation(f"{url} was answered by {counts}, expected all of {sorted(wanted)}")
    return answers[0], counts


def captured_connection(bed: Bed, client: Sandbox, nic: str, backend: Sandbox) -> Capture:
    """Capture the uplink of the client's node while it calls the ClusterIP until `backend` has answered; check it."""
    with Capture(bed.vpc.node_netns(client.node), nic) as capture:
        for _ in range(HEAD_TRIES):
            if head(client.netns, CLUSTER_IP).pod == backend.name:
                break
        else:
            raise Deviation(f"{backend.name} never answered")
    check_capture(capture.frames, client.address, backend.address, mac_of(client.node, nic))
    return capture


def check_capture(frames: list[Frame], client: str, backend: str, uplink_mac: str) -> None:
    """The frames must hold a whole connection client <-> backend, under the uplink's MAC, and never the ClusterIP."""
    for frame in frames:
        if CLUSTER_IP in frame.ip_addresses():
            raise Deviation(f"the ClusterIP is on the wire: {frame.content[:54].hex()}")
        if frame.outgoing and frame.source_mac != uplink_mac:
            raise Deviation(f"a frame left with MAC {frame.source_mac}, the uplink has {uplink_mac}")
    segments = [segment for frame in frames if (segment := frame.segment()) is not None]
    there = [s for s in segments if (s.source, s.target, s.target_port) == (client, backend, 80) and s.outgoing]
    back = [s for s in segments if (s.source, s.target, s.source_port) == (backend, client, 80) and not s.outgoing]
    if not any(s.syn for s in there) or not any(s.syn for s in back) or len(there) < 4 or len(back) < 3:
        raise Deviation(f"no whole connection {client} <-> {backend}: {len(there)} segments there, {len(back)} back")


def nothing_left(bed: Bed, before: Mapping[str, frozenset[str]], *, services: bool = False) -> None:
    """No link, rule, route, permanent neighbour, netfilter rule or map entry may be there that was not `before`.

    services: whether Services still exist, whose own entries (not their backends') may stay.
    """

    def wrong() -> str:
        lines = []
        for node, agent in bed.agents.items():
            now = leftovers.node_state(bed.vpc.node_netns(node))
            lines += [f"{node}: left: {line}" for line in sorted(now - before[node])]
            lines += [f"{node}: lost: {line}" for line in sorted(before[node] - now)]
            entries = leftovers.map_entries(agent.config.bpf_root)
            lines += [f"{node}: map entry {e}" for e in entries if not (services and e.startswith("services "))]
        return "\n".join(lines)

    eventually("after the deletion", wrong)


def something_there(bed: Bed, before: Mapping[str, frozenset[str]]) -> None:
    """While pods run, the check for left-overs must find something on every node, in the kernel and in the maps."""
    for node, agent in bed.agents.items():
        lines = leftovers.node_state(bed.vpc.node_netns(node)) - before[node]
        if not lines or not leftovers.map_entries(agent.config.bpf_root):
            raise Deviation(
                f"{node}: the check for left-overs is blind: it finds {sorted(lines)} and the maps' entries"
            )


def no_frame_dropped(bed: Bed) -> None:
    """The cloud must have refused nothing so far, and must have seen something by every NIC."""
    counters = bed.vpc.counters()
    refused = {key: counter for key, counter in counters.items() if counter.dropped}
    if refused or not counters or not all(counter.passed for counter in counters.values()):
        raise Deviation(f"the VPC's switch ports: {counters}")


def spoofing_is_dropped(bed: Bed) -> None:
    """The check of the check: a frame with a foreign MAC and one with a foreign address must be dropped and counted."""
    for foreign_mac in (True, False):
        before = bed.vpc.counters()["master", "eth0"]
        bed.vpc.send_spoofed("master", "eth0", foreign_mac=foreign_mac, foreign_address=not foreign_mac)
        after = bed.vpc.counters()["master", "eth0"]
        seen = (after.foreign_mac - before.foreign_mac, after.foreign_address - before.foreign_address)
        if seen != (int(foreign_mac), int(not foreign_mac)):
            raise Deviation(f"(foreign MAC, foreign address) drops for a spoofed frame: {seen}")


def _run(netns: str, command: list[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        nsenter(netns, command),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
    )
