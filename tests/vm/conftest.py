"""One testbed for all tests on real IPvlan: an agent's start compiles the programs, which takes long in a guest."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.demo import leftovers, scenario
from tests.testbed import dual_stack
from tests.testbed.bed import Bed
from tests.testbed.workload import Raw, load

EXTRA = Path(__file__).parent / "manifests" / "extra.yaml"


@pytest.fixture(scope="session")
def bed() -> Iterator[Bed]:
    """Two nodes with running agents, the article's manifests and the extra networks; no pods."""
    cluster_ips = {**scenario.CLUSTER_IPS, "default/on-node": "10.233.23.195"}
    with Bed([*load([*scenario.MANIFESTS, EXTRA]), *dual_stack.manifests()], cluster_ips, cooldown_s=2.0) as built:
        built.start_agents()
        yield built


@pytest.fixture(scope="session")
def empty_state(bed: Bed) -> dict[str, frozenset[str]]:
    """The nodes' kernel state while no pod has ever run."""
    return {node: leftovers.node_state(bed.vpc.node_netns(node)) for node in bed.agents}


@pytest.fixture(autouse=True)
def agents_log(bed: Bed, request: pytest.FixtureRequest) -> Iterator[None]:
    """Show the end of the agents' logs with a failure of this test."""
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        print(bed.logs())


def make_pod(name: str, network: str, labels: dict[str, str] | None = None, node: str = "master") -> Raw:
    """A Pod object as a user would create it."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"uid-of-{name}",
            "labels": labels or {},
            "annotations": {"v1.multus-cni.io/default-network": network},
        },
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "busybox"}]},
        "status": {"phase": "Pending"},
    }
