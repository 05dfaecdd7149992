"""Services, slices and nodes into maps that may refuse at first: what is written and told, and when it is done."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from agent import answers, service_sync
from agent.datapaths import Choice
from agent.node import Node as AgentNode
from agent.service_sync import ServiceSync
from allocator.ledger import Ledger
from cluster.resources import Resource
from cluster.store import Problem, Store
from datapath.abi import ADDRESS_FRONTEND, ADDRESS_NODE_PORT
from datapath.entries import BackendEntry
from datapath.flows import Translation
from datapath.maps import Maps
from datapath.programmed import GoneBackend
from tests.unit.agent_maps import AgentMaps, Flows
from tests.unit.cluster_objects import OWN_NODE, endpoint, node, piece, service
from tests.unit.service_maps import MapModel, offer
from tests.unit.shelf import Shelf

WEB = ("10.96.0.10", 80, "TCP")
ONE, TWO = ("10.0.0.1", 8080), ("10.0.0.2", 8080)


class Rig:
    """A running ServiceSync."""

    def __init__(self, store: Shelf, maps: AgentMaps) -> None:
        self.store, self.maps, self.model = store, maps, maps.model
        self.sync = ServiceSync(cast(Store, store), cast(Maps, maps), OWN_NODE)
        self.gone: list[GoneBackend] = []
        self.sync.on_gone = self.gone.extend

    async def told(self) -> list[dict[str, str]]:
        """The problems in the answer to `dragline status`."""
        fake = SimpleNamespace(
            pinned=None,
            ledger=Ledger(),
            store=self.store,
            journal=SimpleNamespace(problems=[], size=0),
            pool_problems=[],
            services=self.sync,
            ageing=SimpleNamespace(problems=list, figures=SimpleNamespace(entries=0, capacity=1)),
            datapath=Choice("ebpf", ""),
            not_ready=lambda: "",
            config=SimpleNamespace(node_name="one", service_cidr=(), store=Path("store"), journal=Path("journal")),
            programs="",
            socket_lb="",
            uplinks=SimpleNamespace(names=[]),
        )
        problems: list[dict[str, str]] = json.loads(await answers.status(cast(AgentNode, fake), b""))["problems"]
        return problems


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.001)


def with_sync(story: Callable[[Rig], Awaitable[None]], *objects: Resource, maps: AgentMaps | None = None) -> None:
    """Run the story beside a ServiceSync whose store holds `objects`."""

    async def main() -> None:
        rig = Rig(Shelf(*objects), maps or AgentMaps(MapModel()))
        task = asyncio.create_task(rig.sync.run())
        try:
            await story(rig)
            assert not task.done()
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    asyncio.run(main())


def test_maps_that_refuse_are_a_problem_but_pods_may_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_sync, "RETRY_S", 0.1)

    async def story(rig: Rig) -> None:
        rig.model.room = 0
        await until(lambda: rig.sync.synced)
        assert "not up to date" in rig.sync.problem and f"[Errno {errno.E2BIG}]" in rig.sync.problem
        assert await rig.told() == [{"source": "services", "message": rig.sync.problem}]
        rig.model.room = 10**9
        await until(lambda: not rig.sync.problem)
        assert await rig.told() == []
        rig.model.assert_is({WEB: offer(ONE)}, [], {})

    with_sync(story, service(), piece("a", ONE[0]))


def test_while_the_maps_are_full_what_is_there_is_kept_current(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its changes alone, and the problem stays: the whole still does not fit."""
    monkeypatch.setattr(service_sync, "RETRY_S", 3600.0)

    async def story(rig: Rig) -> None:
        await until(lambda: rig.sync.synced)
        rig.model.room = len(rig.model.services)
        rig.store.put(service("more", clusterIP="10.96.0.11"), piece("m", ONE[0], of="more"))
        await until(lambda: rig.sync.problem)
        for backend in (TWO, ONE, TWO):
            rig.store.put(piece("a", backend[0]))
            await until(lambda wanted=backend: rig.model.reached(WEB) == (wanted,))  # type: ignore[misc]
            assert "full" in rig.sync.problem

    with_sync(story, service(), piece("a", ONE[0]))


def test_changes_follow_and_who_is_gone_is_told() -> None:
    async def story(rig: Rig) -> None:
        await until(lambda: rig.sync.synced)
        assert rig.gone == []
        number = rig.model.belonging(WEB)[ONE]
        endpoints = [endpoint(ONE[0], ready=False, serving=True, terminating=True), endpoint(TWO[0])]
        rig.store.put(piece("a", endpoints=endpoints))
        await until(lambda: rig.gone)
        rig.model.assert_is({WEB: offer(TWO, draining=(ONE,))}, [], {WEB: {ONE}})
        assert rig.gone == [GoneBackend(number, *ONE, "TCP", "draining")]
        rig.store.put(piece("a", TWO[0]))
        await until(lambda: len(rig.gone) == 2)
        assert rig.gone[1] == GoneBackend(number, *ONE, "TCP", "removed")
        rig.store.remove("Service", "default/web")
        await until(lambda: not rig.model.services)
        assert [one.state for one in rig.gone[2:]] == ["removed"]
        assert (rig.sync.frontends, rig.sync.backends) == (0, 0)

    with_sync(story, service(), piece("a", ONE[0]))


def test_what_comes_before_the_first_list_is_in_it() -> None:
    async def story(rig: Rig) -> None:
        rig.store.synced.clear()
        await asyncio.sleep(0.01)
        rig.store.put(service(), piece("a", ONE[0]))
        rig.store.synced.set()
        await until(lambda: rig.sync.synced)
        rig.model.assert_is({WEB: offer(ONE)}, [], {})
        rig.store.put(piece("a", TWO[0]))
        await until(lambda: rig.model.reached(WEB) == (TWO,))

    with_sync(story)


def test_node_ports_are_called_at_the_addresses_of_all_nodes() -> None:
    ports = [{"port": 80, "targetPort": 8080, "nodePort": 30080}]

    async def story(rig: Rig) -> None:
        await until(lambda: rig.sync.synced)
        assert rig.model.reached(("0.0.0.0", 30080, "TCP")) == (ONE,)
        assert {a for a, flags in rig.model.marks.items() if flags & ADDRESS_NODE_PORT} == {"192.0.2.1"}
        rig.store.put(node("node-b", ("InternalIP", "192.0.2.2")))
        await until(lambda: "192.0.2.2" in rig.model.marks)
        before = rig.model.writes
        rig.store.put(node("node-b", ("InternalIP", "192.0.2.2"), zone="z"), service("other", clusterIP="10.96.0.11"))
        await until(lambda: "10.96.0.11" in rig.model.marks)
        assert rig.model.writes == before + 2, "a node that only changed otherwise costs nothing"
        rig.store.remove("Node", "node-a")
        await until(lambda: "192.0.2.1" not in rig.model.marks)

    own = node("node-a", ("InternalIP", "192.0.2.1"))
    with_sync(story, own, service(type="NodePort", ports=ports), piece("a", ONE[0]))


def test_what_a_service_cannot_have_is_told() -> None:
    sctp = service(ports=[{"port": 80, "targetPort": 8080, "protocol": "SCTP"}])

    async def story(rig: Rig) -> None:
        await until(lambda: rig.sync.synced)
        (problem,) = await rig.told()
        assert problem["source"] == "Service default/web" and "SCTP" in problem["message"]

    with_sync(story, sctp, piece("a", ONE[0], ports=[{"port": 8080, "protocol": "SCTP"}]))


def model_with(*objects: Resource) -> MapModel:
    """What an earlier agent left for these objects."""
    model = MapModel()

    async def story(rig: Rig) -> None:
        await until(lambda: rig.sync.synced)

    with_sync(story, *objects, maps=AgentMaps(model))
    model.writes = 0
    return model


def test_a_second_start_writes_nothing() -> None:
    objects = service(), piece("a", ONE[0], TWO[0]), node("node-a", ("InternalIP", "192.0.2.1"))
    model = model_with(*objects)

    async def story(rig: Rig) -> None:
        await until(lambda: rig.sync.synced)
        assert rig.model.writes == 0

    with_sync(story, *objects, maps=AgentMaps(model))


def test_what_cannot_be_read_stays_in_force_until_it_can() -> None:
    """The slice's file and the nodes' are broken when the agent starts."""
    model = model_with(service(), piece("a", ONE[0]), node("node-b", ("InternalIP", "192.0.2.2")))

    async def story(rig: Rig) -> None:
        rig.store.wrong = [Problem("slices.yaml:1", "no YAML")]
        await until(lambda: rig.sync.synced)
        assert rig.model.reached(WEB) == (ONE,)
        assert {"192.0.2.2", WEB[0]} == rig.model.marks.keys()
        rig.store.put(node("node-a", ("InternalIP", "192.0.2.1")))
        await until(lambda: "192.0.2.1" in rig.model.marks)
        assert "192.0.2.2" in rig.model.marks
        rig.store.wrong = []
        rig.store.put(piece("b", TWO[0]))
        await until(lambda: rig.model.reached(WEB) == (TWO,))
        assert rig.model.marks.keys() == {"192.0.2.1", WEB[0]}

    with_sync(story, service(), maps=AgentMaps(model))


def test_ids_that_flows_still_hold_are_not_given() -> None:
    value = Translation("10.9.0.30", 8080, 40000, 7, 9).encode()
    maps = AgentMaps(MapModel(), Flows((b"", value)))

    async def story(rig: Rig) -> None:
        await until(lambda: rig.sync.synced)
        assert rig.model.ever == [10]
        assert rig.model.backends[10] == BackendEntry(*ONE, 10)

    with_sync(story, service(), piece("a", ONE[0]), maps=maps)


def test_a_batch_that_stops_midway_is_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_sync, "RETRY_S", 0.01)
    model = MapModel()
    model.fails_at = 2

    async def story(rig: Rig) -> None:
        await until(lambda: rig.sync.problem)
        assert "refused" in rig.sync.problem
        model.fails_at = -1
        await until(lambda: not rig.sync.problem)
        rig.model.assert_is({WEB: offer(ONE, TWO)}, [], {})
        assert rig.model.marks[WEB[0]] & ADDRESS_FRONTEND and len(model.ever) == 2

    with_sync(story, service(), piece("a", ONE[0], TWO[0]), maps=AgentMaps(model))
