"""The node's half of ipvlan pods: after an uplink was down, and after a kill in the middle of an end."""

from tests.demo import scenario
from tests.demo.scenario import Deviation
from tests.testbed.bed import Bed
from tests.testbed.netns import ip_batch, nsenter, run
from tests.vm.conftest import make_pod


def test_the_node_finds_its_pods_again_after_its_uplink_was_down(bed: Bed, empty_state: dict[str, frozenset[str]]):
    """The kernel drops a link's permanent neighbours and routes when it goes down; kubelet's probes must not fail."""
    node = bed.vpc.node_netns("master")
    run(nsenter(node, ["sysctl", "-qw", "net.ipv6.conf.eth1.keep_addr_on_down=1"]))
    sandboxes = bed.start_pods(
        [make_pod("down-1", "kube-system/ipvlan-eth1"), make_pod("down-far", "kube-system/ipvlan-far")]
    )
    try:
        for sandbox in sandboxes:
            scenario.ping(node, sandbox.address, count=1)
        ip_batch(["link set eth1 down", "link set eth1 up"], node)
        for sandbox in sandboxes:
            scenario.eventually("after the uplink came back", lambda address=sandbox.address: _unreached(node, address))
            bed.kubelets["master"].check(sandbox)
    finally:
        bed.stop_pods(sandboxes)
    scenario.wait_for_pools(bed, {"master-192": 0})
    scenario.nothing_left(bed, empty_state, services=True)


def test_a_restart_finishes_what_a_kill_left_half_done(bed: Bed, empty_state: dict[str, frozenset[str]]):
    """DELs that are answered when the agent is killed: their neighbours and routes on the node go as well."""
    kubelet, agent = bed.kubelets["master"], bed.agents["master"]
    sandboxes = bed.start_pods([make_pod(f"half-{number}", "kube-system/ipvlan-far") for number in range(2)])
    for sandbox in sandboxes:
        kubelet.delete(sandbox)
    agent.kill()
    agent.start()
    agent.wait_ready()
    bed.stop_pods(sandboxes)
    assert sum(agent.ask("status")["attachments"].values()) == 0
    scenario.nothing_left(bed, empty_state, services=True)


def _unreached(node: str, address: str) -> str:
    try:
        scenario.ping(node, address, count=1)
    except Deviation as deviation:
        return str(deviation)
    return ""
