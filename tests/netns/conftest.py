"""Fixtures of the netns tier."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from datapath import loader, rtnl, wireplan, wiring
from datapath.loader import Programs
from datapath.wiring import PodWiring
from tests.demo import scenario
from tests.netns.agent_rig import AgentRig
from tests.netns.node import Node, kernel_has_ipvlan, pod_wiring
from tests.netns.service_cluster import ServiceCluster
from tests.netns.socket_node import WAYS, SocketNode, Way, named_servers
from tests.testbed import dual_stack
from tests.testbed.bed import Bed
from tests.testbed.bpffs import mounted
from tests.testbed.cells import PATHS
from tests.testbed.echo import EchoServers
from tests.testbed.workload import load


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    """The real programs and maps, pinned in a bpf file system of this session's own."""
    with mounted(tmp_path_factory.mktemp("bpffs")) as folder, loader.load(folder / "dragline") as loaded:
        yield loaded


@pytest.fixture
def node(programs: Programs) -> Iterator[Node]:
    """A fresh node with two uplinks."""
    made = Node(programs)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def balanced_node(programs: Programs) -> Iterator[SocketNode]:
    """A node with pods whose sockets are balanced; every pod has servers."""
    made = SocketNode(programs)
    try:
        made.attach()
        with ExitStack() as servers:
            for name, fd in made.pods.items():
                servers.enter_context(named_servers(fd, name))
            yield made
    finally:
        made.close()


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    """Every way to name a Service."""
    return WAYS[request.param]


@pytest.fixture(scope="session")
def real_ipvlan() -> bool:
    """Whether the running kernel has ipvlan."""
    return kernel_has_ipvlan()


@pytest.fixture
def ipvlan(real_ipvlan: bool, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether ipvlan is real; where it is not, ipvlan plans are carried out with macvlan links.

    Every step but the link's kind is then still the real one. In a guest with Debian's kernel nothing is replaced.
    """
    if not real_ipvlan:
        real = wireplan.link_spec

        def link_spec(facts: PodWiring) -> rtnl.LinkSpec:
            mac = wireplan.mac_of(replace(facts, kind="macvlan"))
            return replace(real(facts), kind="macvlan", mode="bridge", mac=mac)

        monkeypatch.setattr(wiring, "link_spec", link_spec)
    return real_ipvlan


@pytest.fixture(params=["macvlan", "ipvlan"])
def wired_as(request: pytest.FixtureRequest, node: Node, ipvlan: bool) -> PodWiring:
    """A dual-stack pod with routes, on an uplink where the node has no address: every kind of step occurs."""
    mode = "bridge" if request.param == "macvlan" else "l2"
    routes = (("10.99.0.0/16", "10.7.0.253"), ("10.98.0.0/16", ""))
    facts = pod_wiring(node, kind=request.param, mode=mode, routes=routes)
    return replace(facts, uplink=node.uplink_without_address)


@pytest.fixture(scope="session")
def node_with_agent() -> Iterator[AgentRig]:
    """A node with a running agent, for all tests: its first start compiles the programs."""
    with AgentRig() as built:
        yield built


@pytest.fixture
def rig(node_with_agent: AgentRig) -> Iterator[AgentRig]:
    """The node with a running agent and no pods; whatever the test does, nothing may be left once its pods are gone."""
    if not node_with_agent.running:
        node_with_agent.restart()
    yield node_with_agent
    print(node_with_agent.agent.log_tail())  # pytest shows it with a failure
    try:
        node_with_agent.discard()
        node_with_agent.empty()
    except BaseException:
        node_with_agent.start_afresh()  # or every later test would stumble over this one's rests
        raise


@pytest.fixture(scope="session")
def echo_servers() -> Iterator[EchoServers]:
    """Servers for all tests, in one thread."""
    with EchoServers() as servers:
        yield servers


@pytest.fixture(scope="session")
def dual_stack_bed(echo_servers: EchoServers) -> Iterator[Bed]:
    """Two nodes with agents for macvlan pods with addresses of both families; nothing is filtered (they have MACs of
    their own)."""
    manifests = [*load(scenario.MANIFESTS), *dual_stack.manifests()]
    macvlan = {"linkKind": "macvlan", "mode": "bridge"}
    with Bed(manifests, scenario.CLUSTER_IPS, overrides=macvlan, filtered=False, cooldown_s=0) as bed:
        bed.start_agents()
        yield bed


@pytest.fixture(scope="session", params=PATHS)
def path(dual_stack_bed: Bed, request: pytest.FixtureRequest) -> str:
    """The path that pods' calls take from here on: translated packets ("tc") or sockets."""
    dual_stack_bed.balance_sockets(PATHS[request.param])
    return str(request.param)


@pytest.fixture(scope="session")
def services_cluster(dual_stack_bed: Bed, echo_servers: EchoServers) -> ServiceCluster:
    """Pods and servers for all tests."""
    return ServiceCluster(dual_stack_bed, echo_servers)


@pytest.fixture
def cluster(services_cluster: ServiceCluster, path: str) -> Iterator[ServiceCluster]:
    """The cluster without Services; as it was afterwards."""
    yield services_cluster
    services_cluster.clear()
