"""The article's scenario on real IPvlan, claim by claim (the demo prints the same checks)."""

import contextlib
from collections.abc import Iterator

import pytest

from tests.demo import scenario
from tests.demo.acts import POOLS
from tests.demo.scenario import CLUSTER_IP
from tests.demo.transfer import Transfer
from tests.testbed.bed import Bed
from tests.testbed.topology import mac_of
from tests.vm.conftest import make_pod

SVC = {"app": "test-app-2"}


@pytest.fixture(scope="module")
def running(bed: Bed, empty_state: dict[str, frozenset[str]]) -> Iterator[Bed]:
    """The DaemonSets' pods with their web servers; gone without a trace afterwards."""
    bed.deploy()
    try:
        with contextlib.ExitStack() as servers:
            for node in bed.agents:
                pod = bed.pod("test-app-2", node)
                servers.enter_context(scenario.web_server(pod.netns, pod.name))
            scenario.wait_for_services(bed, frontends=1, backends=2)
            yield bed
    finally:
        bed.stop_pods(bed.sandboxes)
    scenario.wait_for_pools(bed, dict.fromkeys(POOLS, 0))
    scenario.wait_for_services(bed, frontends=1, backends=0)


def test_addresses_and_pool_table(running: Bed):
    scenario.addresses_in_pools(running)
    scenario.wait_for_pools(running, dict.fromkeys(POOLS, 1))


@pytest.mark.parametrize("app", ["test-app-1", "test-app-2"])
@pytest.mark.parametrize("node", ["master", "worker"])
def test_pods_reach_every_pod(running: Bed, app: str, node: str):
    client = running.pod(app, node)
    for target in running.sandboxes:
        scenario.ping(client.netns, target.address, count=1)


@pytest.mark.parametrize(("node", "address"), [("master", "172.31.199.183"), ("worker", "172.31.199.184")])
def test_pods_and_their_node_reach_each_other(running: Bed, node: str, address: str):
    for app in ("test-app-1", "test-app-2"):
        pod = running.pod(app, node)
        scenario.ping(pod.netns, address, count=1)
        scenario.ping(running.vpc.node_netns(node), pod.address, count=1)


@pytest.mark.parametrize("app", ["test-app-1", "test-app-2"])
@pytest.mark.parametrize("node", ["master", "worker"])
def test_the_cluster_ip_is_answered_by_both_backends(running: Bed, app: str, node: str):
    wanted = {running.pod("test-app-2", n).name for n in running.agents}
    scenario.heads(running.pod(app, node).netns, CLUSTER_IP, wanted)


@pytest.mark.parametrize(
    ("client", "nic", "backend"),
    [
        (("test-app-1", "master"), "eth0", "worker"),
        (("test-app-1", "master"), "eth0", "master"),
        (("test-app-2", "worker"), "eth1", "master"),
    ],
)
def test_the_wire_never_shows_the_cluster_ip(running: Bed, client: tuple[str, str], nic: str, backend: str):
    scenario.captured_connection(running, running.pod(*client), nic, running.pod("test-app-2", backend))


def test_a_sibling_backend_answers_and_stays_off_the_wire(running: Bed):
    sibling = make_pod("sibling", "kube-system/ipvlan-eth1", SVC)
    running.start_pods([sibling])
    try:
        pod = next(s for s in running.sandboxes if s.name == "sibling")
        with scenario.web_server(pod.netns, pod.name):
            scenario.wait_for_services(running, frontends=1, backends=3)
            wanted = {"sibling", *(running.pod("test-app-2", node).name for node in running.agents)}
            for node in running.agents:
                scenario.heads(running.pod("test-app-2", node).netns, CLUSTER_IP, wanted)
            scenario.heads(pod.netns, CLUSTER_IP, wanted)
    finally:
        running.stop_pods([s for s in running.sandboxes if s.name == "sibling"])
    scenario.wait_for_services(running, frontends=1, backends=2)


def test_a_backend_on_the_node_itself_answers(running: Bed):
    meta = {"name": "on-node", "namespace": "default"}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": [{"port": 80}]}}
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**meta, "labels": {"kubernetes.io/service-name": "on-node"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["172.31.199.183"], "conditions": {"ready": True}}],
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    }
    running.folder.apply(service)
    running.folder.apply(endpoints)
    try:
        scenario.wait_for_services(running, frontends=2, backends=3)
        with scenario.web_server(running.vpc.node_netns("master"), "the-node", 8080):
            for node in running.agents:
                scenario.heads(running.pod("test-app-1", node).netns, "10.233.23.195", {"the-node"})
    finally:
        running.folder.delete("EndpointSlice", "default/on-node")
        running.folder.delete("Service", "default/on-node")
    scenario.wait_for_services(running, frontends=1, backends=2)


def test_a_transfer_survives_the_agents_death_and_restart(running: Bed):
    agent = running.agents["master"]
    transfer = Transfer(running.pod("test-app-1", "master").netns, CLUSTER_IP, blocks=64, seconds=12.0)
    begun = transfer.wait_for(0.1)
    agent.kill()
    try:
        transfer.wait_for(begun / transfer.total + 0.2)
    finally:
        agent.start()
        agent.wait_ready()
    transfer.finish()


def test_a_restarted_agent_adopts_the_pods(running: Bed):
    agent = running.agents["worker"]
    agent.kill()
    agent.start()
    agent.wait_ready()
    assert agent.ask("status")["attachments"] == {"ready": 2}
    for sandbox in running.kubelets["worker"].sandboxes.values():
        running.kubelets["worker"].check(sandbox)
        scenario.ping(running.vpc.node_netns("worker"), sandbox.address, count=1)


def test_the_cloud_dropped_nothing_and_would_drop_what_is_spoofed(running: Bed):
    scenario.no_frame_dropped(running)
    scenario.spoofing_is_dropped(running)


def test_uplinks_keep_their_macs(running: Bed):
    for sandbox in running.sandboxes:
        nic = "eth0" if sandbox.config["multusName"].endswith("eth0") else "eth1"
        assert sandbox.result["interfaces"][0]["mac"].lower() == mac_of(sandbox.node, nic)
