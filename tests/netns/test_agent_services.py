"""ClusterIPs between two nodes with macvlan pods: backends near and far, changes under load, the agent's death.

Packet by packet in tc, and socket by socket: both pass the same tests.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from datapath.maps import BackendEntry, Maps, ServiceEntry, ServiceKey
from tests.demo import scenario
from tests.netns.named_server import connect, echo, named_server, tcp, udp, who
from tests.testbed.bed import Bed
from tests.testbed.kubelet import Sandbox
from tests.testbed.workload import Raw, load

VIP, PORT, TARGET_PORT = "10.233.23.200", 80, 8080
ASK = {"TCP": tcp, "UDP": udp}
MACVLAN = {"linkKind": "macvlan", "mode": "bridge"}
SERVICE: Raw = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "named", "namespace": "default"},
    "spec": {"ports": [{"name": p.lower(), "port": PORT, "protocol": p, "targetPort": TARGET_PORT} for p in ASK]},
}


def pod(name: str, node: str, nic: str) -> Raw:
    """A pod of a node on one of the article's networks."""
    meta = {"name": name, "namespace": "default", "uid": f"uid-of-{name}", "labels": {}}
    meta["annotations"] = {"v1.multus-cni.io/default-network": f"kube-system/ipvlan-{nic}"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"nodeName": node}, "status": {}}


class Cluster:
    """The testbed with a client on `master` and three backends, each with a server that says its name."""

    BACKENDS = {"sibling": ("master", "eth0"), "remote": ("worker", "eth0"), "far": ("worker", "eth1")}

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        pods = [pod("client", "master", "eth0"), *(pod(name, *place) for name, place in self.BACKENDS.items())]
        self.pods: dict[str, Sandbox] = {one.name: one for one in bed.start_pods(pods)}
        self.client = self.pods["client"].netns

    def ready(self, *names: str, draining: Sequence[str] = ()) -> None:
        """Make these the service's endpoints, and wait until it is so in the maps of both nodes."""
        ports = [{"name": p.lower(), "port": TARGET_PORT, "protocol": p} for p in ASK]
        terminating = {"ready": False, "serving": True, "terminating": True}
        endpoints = [
            {"addresses": [self.pods[name].address], "conditions": terminating if name in draining else {"ready": True}}
            for name in (*names, *draining)
        ]
        meta = {**SERVICE["metadata"], "labels": {"kubernetes.io/service-name": "named"}}
        kind = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4"}
        self.bed.folder.apply({**kind, "metadata": meta, "endpoints": endpoints, "ports": ports})
        wanted = {(node, p, self.pods[name].address) for node in self.bed.agents for p in ASK for name in names}

        def wrong() -> str:
            seen = self._programmed()
            return "" if seen == wanted else f"programmed: {seen}"

        scenario.eventually("service", wrong)

    def _programmed(self) -> set[tuple[str, str, str]]:
        """(node, protocol, backend's address) of the service in the maps."""
        found = set()
        for node, agent in self.bed.agents.items():
            with Maps(agent.config.bpf_root) as maps:
                services = dict(maps.services.items())
                backends = {key.number: one for key, one in maps.backends.items()}  # two reads: they may not fit
            for protocol in ASK:
                head = services.get(ServiceKey(VIP, PORT, protocol, 0), ServiceEntry())
                for slot in range(1, head.count + 1):
                    entry = services.get(ServiceKey(VIP, PORT, protocol, slot), ServiceEntry())
                    backend = backends.get(entry.backend_id, BackendEntry("0.0.0.0", 0))
                    found.add((node, protocol, backend.address))
        return found


@pytest.fixture(scope="module", params=["tc", "sockets"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Both agents run, nothing is filtered (each macvlan pod has a MAC of its own)."""
    manifests = [*load(scenario.MANIFESTS), SERVICE]
    cluster_ips = {**scenario.CLUSTER_IPS, "default/named": VIP}
    with Bed(manifests, cluster_ips, overrides=MACVLAN, filtered=False, cooldown_s=0) as bed, ExitStack() as servers:
        for agent in bed.agents.values():
            agent.config = replace(agent.config, socket_lb="on" if request.param == "sockets" else "off")
        bed.start_agents()
        built = Cluster(bed)
        for name in Cluster.BACKENDS:
            servers.enter_context(named_server(built.pods[name].netns, name, TARGET_PORT))
        yield built


def answers(cluster: Cluster, protocol: str, count: int, client: str = "client") -> Counter[str]:
    """Who answered that many new flows."""
    ask = ASK[protocol]
    return Counter(ask(cluster.pods[client].netns, VIP, PORT) for _ in range(count))


@pytest.mark.parametrize("protocol", ASK)
@pytest.mark.parametrize("backend", Cluster.BACKENDS)
def test_one_backend(cluster: Cluster, backend: str, protocol: str):
    """A sibling on the same uplink, a pod of the other node, and one in another subnet all answer as the ClusterIP."""
    cluster.ready(backend)
    assert answers(cluster, protocol, 5) == {backend: 5}


@pytest.mark.parametrize("protocol", ASK)
def test_flows_are_spread(cluster: Cluster, protocol: str):
    """Each of three backends gets its share of 90 flows (fewer than 10 happens once in 10^6)."""
    cluster.ready(*Cluster.BACKENDS)
    counts = answers(cluster, protocol, 90)
    assert counts.keys() == Cluster.BACKENDS.keys()
    assert min(counts.values()) >= 10


def test_every_pod_is_a_client(cluster: Cluster):
    """The backends themselves too, on both nodes; a backend may meet itself."""
    cluster.ready("sibling", "far")
    for client in ("remote", "far", "sibling"):
        assert answers(cluster, "TCP", 20, client).keys() == {"sibling", "far"}, client


def test_without_endpoints(cluster: Cluster):
    """No backend: refused or silent, and never passed on to somebody."""
    cluster.ready()
    with pytest.raises(OSError):
        connect(cluster.client, VIP, PORT, timeout_s=1.0).close()
    cluster.ready("remote")
    assert answers(cluster, "TCP", 1) == {"remote": 1}


@contextmanager
def asked_without_end(cluster: Cluster, protocol: str) -> Iterator[Counter[str]]:
    """New flows all the time; leaving it fails when one of them failed."""
    seen, failures, end = Counter[str](), [], threading.Event()

    def body() -> None:
        while not end.is_set() and not failures:
            try:
                seen.update(answers(cluster, protocol, 1))
            except OSError as error:
                failures.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    try:
        yield seen
    finally:
        end.set()
        thread.join()
    assert failures == []


def more_than(seen: Counter[str], name: str) -> Callable[[], str]:
    """A probe: has `name` answered again?"""
    before = seen[name]
    return lambda: "" if seen[name] > before else f"{name} does not answer"


@pytest.mark.parametrize("protocol", ASK)
def test_backends_come_and_go(cluster: Cluster, protocol: str):
    """Under load no flow fails; who was added answers, who was removed does not."""
    changes: Sequence[tuple[str, ...]] = (("remote",), ("remote", "far"), ("far",), ("far", "sibling"), ("sibling",))
    cluster.ready("remote")
    with asked_without_end(cluster, protocol) as seen:
        for names in changes:
            cluster.ready(*names)
            for name in names:
                scenario.eventually("new backend", more_than(seen, name))
            assert answers(cluster, protocol, 10).keys() <= set(names)


def test_connections_outlive_the_agent(cluster: Cluster):
    """A TCP connection goes on through SIGKILL and restart, and while its backend drains; new flows are served while
    there is no agent."""
    cluster.ready("remote")
    agent = cluster.bed.agents["master"]
    with connect(cluster.client, VIP, PORT) as stream:
        assert who(stream) == "remote"
        block = Path(__file__).read_bytes() * 20
        echo(stream, block)
        agent.kill()
        echo(stream, block)
        assert answers(cluster, "TCP", 5) == answers(cluster, "UDP", 5) == {"remote": 5}
        agent.start()
        agent.wait_ready()
        echo(stream, block)
        cluster.ready("far", draining=["remote"])
        assert answers(cluster, "TCP", 5) == answers(cluster, "UDP", 5) == {"far": 5}
        echo(stream, block)
        agent.kill()
        agent.start()
        agent.wait_ready()
        echo(stream, block)


def test_connections_to_a_removed_backend_end(cluster: Cluster):
    """At once and with an error, so that the client can go elsewhere."""
    cluster.ready("remote")
    with connect(cluster.client, VIP, PORT) as stream:
        assert who(stream) == "remote"
        cluster.ready("far")

        def goes_on() -> str:
            try:
                echo(stream, b"still there?")
            except TimeoutError:
                return "silence"
            except OSError:
                return ""
            return "the connection goes on"

        scenario.eventually("reset", goes_on)
    assert answers(cluster, "TCP", 5) == {"far": 5}


def test_a_restart_changes_no_entry(cluster: Cluster):
    """Ids, slots, backends and what is known of addresses are taken over as they are."""

    def entries() -> tuple[object, ...]:
        with Maps(agent.config.bpf_root) as maps:
            return dict(maps.services.items()), dict(maps.backends.items()), maps.addresses()

    cluster.ready("remote", "far")
    agent = cluster.bed.agents["master"]
    before = entries()
    agent.kill()
    agent.start()
    agent.wait_ready()
    assert entries() == before


def test_changes_while_the_agent_is_away(cluster: Cluster):
    """A restarted agent brings the adopted maps up to date, and keeps a service of the past going until then."""
    cluster.ready("remote")
    agent = cluster.bed.agents["master"]
    agent.kill()
    slices = cluster.bed.folder.get("EndpointSlice", "default/named")
    far = [{"addresses": [cluster.pods["far"].address], "conditions": {"ready": True}}]
    cluster.bed.folder.apply({**slices, "endpoints": far})
    with asked_without_end(cluster, "TCP") as seen:
        scenario.eventually("old backend", more_than(seen, "remote"))
        agent.start()
        agent.wait_ready()
        scenario.eventually("new backend", more_than(seen, "far"))
    assert answers(cluster, "UDP", 5) == {"far": 5}
