"""The acts of the demo: what the article shows, in its order, and what Dragline promises besides."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

from agent import tables
from tests.demo import leftovers, scenario
from tests.demo.scenario import CLUSTER_IP, Deviation
from tests.demo.story import Story
from tests.demo.transfer import Transfer
from tests.testbed.bed import Bed
from tests.testbed.kubelet import Sandbox

POOLS = ("master-172", "master-192", "worker-172", "worker-192")
TRANSFER_BLOCKS, TRANSFER_S = 128, 24.0


def play(story: Story, results: Path) -> None:
    """Run the whole scenario on a fresh testbed; the pcap and, after a failure, the agents' logs go to `results`."""
    story.step("A VPC with two nodes")
    story.note(
        "master and worker are network namespaces with eth0 in 172.31.192.0/20 and eth1 in 192.168.0.0/24. The VPC's"
        " switches drop what a cloud drops: foreign source MACs and addresses."
    )
    with scenario.article_bed() as bed:
        try:
            _acts(story, bed, results)
        finally:
            for node, agent in bed.agents.items():
                (results / f"agent-{node}.log").write_text(agent.log_tail(100_000), encoding="utf-8")
            if story.failed or not story.outcomes:
                print(bed.logs(), flush=True)


def _acts(story: Story, bed: Bed, results: Path) -> None:
    with story.claim("an agent runs on each node"):
        seconds = bed.start_agents()
        story.note(f"dragline agent is ready on {' and '.join(bed.agents)} after {seconds:.1f} s.")
    if story.failed:
        return
    before = {node: leftovers.node_state(bed.vpc.node_netns(node)) for node in bed.agents}
    _deploy(story, bed)
    if story.failed:
        return
    _pings(story, bed)
    with contextlib.ExitStack() as servers:
        for node in bed.agents:
            pod = bed.pod("test-app-2", node)
            servers.enter_context(scenario.web_server(pod.netns, pod.name))
        _cluster_ip(story, bed)
        _wire(story, bed, results)
        _kill(story, bed)
    _cloud(story, bed)
    _delete(story, bed, before)


def _deploy(story: Story, bed: Bed) -> None:
    story.step("The article's manifests")
    with story.claim("every pod got an address of the pool of its node and network"):
        bed.deploy()
        rows = [("NAME", "IP", "NODE", "NETWORK")]
        for pod in sorted(bed.sandboxes, key=lambda item: (item.name, item.node)):
            rows.append((pod.name, pod.address, pod.node, str(pod.config["multusName"])))
        story.command("kubectl apply -f tests/demo/manifests/")
        story.command("kubectl get pods -o wide", tables.table(rows))
        scenario.addresses_in_pools(bed)
    with story.claim("the pool table is the article's: 1 of 5 allocated in each pool"):
        found = scenario.wait_for_pools(bed, dict.fromkeys(POOLS, 1))
        story.command("kubectl get spiderippool", tables.pools(found))
    with story.claim("test-svc has its ClusterIP and both pods of test-app-2 behind it"):
        scenario.wait_for_services(bed, frontends=1, backends=2)
        service = bed.folder.get("Service", "default/test-svc")
        row = ("test-svc", service["spec"]["type"], service["spec"]["clusterIP"], "<none>", "80/TCP")
        head = ("NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)")
        story.command("kubectl get svc test-svc", tables.table([head, row]))


def _pings(story: Story, bed: Bed) -> None:
    story.step("Pods reach nodes and pods")
    client = bed.pod("test-app-1", "master")
    targets = {
        "172.31.199.183": "a pod reaches its own node",
        bed.pod("test-app-1", "worker").address: "a pod reaches a pod on the other node",
        bed.pod("test-app-2", "worker").address: "a pod reaches a pod in the other subnet on the other node",
        bed.pod("test-app-2", "master").address: "a pod reaches a pod on its node's other NIC",
        "172.31.199.184": "a pod reaches the other node",
    }
    for address, claim in targets.items():
        with story.claim(claim):
            answer = scenario.ping(client.netns, address)
            story.command(f"kubectl exec -ti {client.name} -- ping {address} -c 2", answer.output)
    story.command("# on every node: ping its own pods, as kubelet's probes do")
    for node in bed.agents:
        for app in ("test-app-1", "test-app-2"):
            pod = bed.pod(app, node)
            with story.claim(f"{node} reaches its pod of {app}"):
                answer = scenario.ping(bed.vpc.node_netns(node), pod.address)
                print(f"{node} -> {pod.address}: {' ms, '.join(map(str, answer.round_trips_ms))} ms")


def _cluster_ip(story: Story, bed: Bed) -> None:
    story.step("Pods reach the ClusterIP")
    backends = {bed.pod("test-app-2", node).name: node for node in bed.agents}
    for app in ("test-app-1", "test-app-2"):
        for node in bed.agents:
            client = bed.pod(app, node)
            with story.claim(f"{app} on {node} reaches {CLUSTER_IP}: both backends answer"):
                first, counts = scenario.heads(client.netns, CLUSTER_IP, set(backends))
                shown = first.output if node == "master" else ""
                story.command(f"kubectl exec -ti {client.name} -- curl {CLUSTER_IP} -I", shown)
                for pod, count in sorted(counts.items()):
                    print(f"   {count:2} x {pod}: {_relation(client, bed.pod('test-app-2', backends[pod]))}")


def _relation(client: Sandbox, backend: Sandbox) -> str:
    if client.name == backend.name:
        return "the client itself (hairpin)"
    place = "the same node" if client.node == backend.node else "the other node"
    same = client.config["multusName"] == backend.config["multusName"]
    return f"on {place}, {'same' if same else 'other'} subnet and NIC"


def _wire(story: Story, bed: Bed, results: Path) -> None:
    story.step("One ClusterIP connection on the wire")
    client, backend = bed.pod("test-app-1", "master"), bed.pod("test-app-2", "worker")
    path = results / "clusterip.pcap"
    with story.claim("the uplink shows only pod addresses and the uplink's MAC, never the ClusterIP"):
        capture = scenario.captured_connection(bed, client, "eth0", backend)
        capture.write(path)
        story.command(f"tcpdump -i eth0 -w {path.name}   # on master; {len(capture.frames)} frames in {path}")
        segments = [item for frame in capture.frames if (item := frame.segment()) is not None]
        for item in [s for s in segments if backend.address in (s.source, s.target)][:6]:
            arrow = f"{item.source}.{item.source_port} > {item.target}.{item.target_port}"
            print(f"{item.source_mac}  {arrow}  flags {item.flags:#04x}")


def _kill(story: Story, bed: Bed) -> None:
    story.step("The agent is killed during a transfer through the ClusterIP")
    client = bed.pod("test-app-1", "master")
    agent = bed.agents["master"]
    transfer = Transfer(client.netns, CLUSTER_IP, TRANSFER_BLOCKS, TRANSFER_S)
    story.command(f"kubectl exec {client.name} -- curl {CLUSTER_IP}/transfer > file &")
    with story.claim("the transfer goes on, and new connections work, while no agent runs on the node"):
        begun = transfer.wait_for(0.1)
        pid = agent.pid
        agent.kill()
        story.command(f"kill -KILL {pid}   # dragline agent on master, at {begun / transfer.total:.0%}")
        alone = transfer.wait_for(begun / transfer.total + 0.2)
        story.note(f"Without the agent: from {begun} to {alone} of {transfer.total} bytes.")
        scenario.heads(client.netns, CLUSTER_IP, {bed.pod("test-app-2", node).name for node in bed.agents})
    with story.claim("the agent comes back and adopts what is there"):
        agent.start()
        story.command("systemctl start dragline-agent", f"ready after {agent.wait_ready():.1f} s")
        _adopted(bed)
    with story.claim("the transfer finishes with the right checksum"):
        story.command("sha256sum file", f"{transfer.finish()}  file")


def _adopted(bed: Bed) -> None:
    held = bed.agents["master"].ask("status")["attachments"]
    if held.get("ready") != 2 or sum(held.values()) != 2:
        raise Deviation(f"the agent holds {held} after its restart, expected 2 ready")
    scenario.wait_for_pools(bed, dict.fromkeys(POOLS, 1))
    for sandbox in bed.kubelets["master"].sandboxes.values():
        bed.kubelets["master"].check(sandbox)


def _cloud(story: Story, bed: Bed) -> None:
    story.step("What the cloud refused")
    with story.claim("the VPC dropped no frame of the whole scenario"):
        passed = sum(counter.passed for counter in bed.vpc.counters().values())
        scenario.no_frame_dropped(bed)
        story.note(f"{passed} frames passed the anti-spoofing of the switch ports, 0 were dropped.")
    with story.claim("the check of the check: a spoofed MAC and a spoofed address are dropped"):
        scenario.spoofing_is_dropped(bed)


def _delete(story: Story, bed: Bed, before: Mapping[str, frozenset[str]]) -> None:
    story.step("The pods are deleted")
    with story.claim("the check of the check: what the running pods hold is seen in both nodes' kernels"):
        scenario.something_there(bed, before)
    story.command("kubectl delete -f tests/demo/manifests/03-apps.yaml")
    with story.claim("deleting the pods succeeds"):
        bed.stop_pods(bed.sandboxes)
        bed.folder.delete("EndpointSlice", "default/test-svc-ipv4")
        bed.folder.delete("Service", "default/test-svc")
    with story.claim("no address is allocated any more"):
        rows = scenario.wait_for_pools(bed, dict.fromkeys(POOLS, 0))
        story.command("kubectl get spiderippool", tables.pools(rows))
    with story.claim("no link, rule, route, neighbour, netfilter rule or map entry is left"):
        scenario.nothing_left(bed, before)
