"""An agent that is killed: in a burst of ADDs, and while DELs arrive. Nothing is lost, doubled or left behind."""

import threading
from concurrent.futures import ThreadPoolExecutor

from tests.demo import scenario
from tests.testbed.bed import DEFAULT_NETWORK, Bed
from tests.testbed.kubelet import CniFailure, Sandbox
from tests.testbed.workload import Raw, key_of
from tests.vm.conftest import make_pod

BURST = 16
KILL_AFTER = 4
ATTEMPTS = 20


def test_killed_in_a_burst_of_adds(bed: Bed, empty_state: dict[str, frozenset[str]]):
    """16 pods into 16 addresses, in parallel; the agent is killed after the 4th result and started again. Each pod ends
    up with an address of its own, which is only possible when no failed attempt keeps one."""
    kubelet, agent = bed.kubelets["master"], bed.agents["master"]
    done = threading.Semaphore(0)
    pods = [make_pod(f"burst-{number}", "kube-system/ipvlan-burst") for number in range(BURST)]
    for pod in pods:
        bed.folder.apply(pod)

    def start_as_kubelet_does(pod: Raw) -> Sandbox:
        # A failed sandbox is deleted and a new one (another container id) is made, until one works.
        for _ in range(ATTEMPTS):
            sandbox = kubelet.prepare(pod, DEFAULT_NETWORK)
            try:
                wired = kubelet.add(sandbox)
            except CniFailure as failure:
                failures.append(failure)
                kubelet.delete(sandbox)
                bed.vpc.remove_pod_netns(sandbox.netns)
            else:
                done.release()
                return wired
        raise AssertionError(f"{key_of(pod)} did not start: {failures[-1]}")

    failures: list[CniFailure] = []
    with ThreadPoolExecutor(BURST) as pool:
        pending = [pool.submit(start_as_kubelet_does, pod) for pod in pods]
        for _ in range(KILL_AFTER):
            assert done.acquire(timeout=120)
        agent.kill()
        agent.start()
        sandboxes = [future.result() for future in pending]
    try:
        agent.wait_ready()
        addresses = [sandbox.address for sandbox in sandboxes]
        assert len(set(addresses)) == BURST, addresses
        assert agent.ask("status")["attachments"] == {"ready": BURST}
        scenario.wait_for_pools(bed, {"master-burst": BURST}, total=BURST)
        for sandbox in sandboxes:
            kubelet.check(sandbox)
            scenario.ping(sandbox.netns, "172.31.199.183", count=1)
    finally:
        for sandbox in sandboxes:
            kubelet.delete(sandbox)
            bed.vpc.remove_pod_netns(sandbox.netns)
            bed.folder.delete("Pod", key_of(sandbox.pod))
    scenario.wait_for_pools(bed, {"master-burst": 0}, total=BURST)
    _nothing_but_the_service_is_left(bed, empty_state)


def test_dels_without_an_agent_are_spooled_and_executed_later(bed: Bed, empty_state: dict[str, frozenset[str]]):
    bed.start_pods([make_pod("short-1", "kube-system/ipvlan-eth0"), make_pod("short-2", "kube-system/ipvlan-eth1")])
    scenario.wait_for_pools(bed, {"master-172": 1, "master-192": 1})
    agent = bed.agents["master"]
    agent.kill()
    try:
        bed.stop_pods(bed.sandboxes)  # answered with success, and the namespaces are gone afterwards
        assert len(list(agent.config.spool.glob("*.del"))) == 2
    finally:
        agent.start()
        agent.wait_ready()
    scenario.wait_for_pools(bed, {"master-172": 0, "master-192": 0})
    assert not list(agent.config.spool.glob("*.del"))
    assert sum(agent.ask("status")["attachments"].values()) == 0
    _nothing_but_the_service_is_left(bed, empty_state)


def test_a_del_is_answered_twice(bed: Bed, empty_state: dict[str, frozenset[str]]):
    (sandbox,) = bed.start_pods([make_pod("twice", "kube-system/ipvlan-eth0")])
    bed.kubelets["master"].delete(sandbox)
    bed.stop_pods([sandbox])
    scenario.wait_for_pools(bed, {"master-172": 0})
    _nothing_but_the_service_is_left(bed, empty_state)


def _nothing_but_the_service_is_left(bed: Bed, empty_state: dict[str, frozenset[str]]) -> None:
    """test-svc stays, without endpoints: its slot 0 is no trace of a pod."""
    scenario.nothing_left(bed, empty_state, services=True)
