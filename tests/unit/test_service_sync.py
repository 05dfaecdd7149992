"""Services into maps that refuse at first: what is told meanwhile, and when it is done."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent import answers, service_sync
from agent.node import Node
from agent.service_sync import ServiceSync
from allocator.ledger import Ledger
from cluster.resources import EndpointSlice, Service
from cluster.store import Problem, Store, Subscriber
from datapath.entries import BackendEntry, Flow, ServiceEntry, ServiceKey, Translation
from datapath.maps import Maps
from tests.unit.service_maps import MapModel
from tests.unit.test_cluster_services import piece, service


class Refusing:
    """Maps that refuse to take their first service."""

    def __init__(self) -> None:
        self.model = MapModel(room=0)
        self.delete_service, self.delete_backend = self.model.delete_service, self.model.delete_backend
        self.put_backend = self.model.put_backend

    def put_service(self, key: ServiceKey, entry: ServiceEntry) -> None:
        try:
            self.model.put_service(key, entry)
        except OSError:
            self.model.room = 10**9
            raise

    def services(self) -> dict[ServiceKey, ServiceEntry]:
        return dict(self.model.services)

    def backends(self) -> dict[int, BackendEntry]:
        return dict(self.model.backends)

    def conntrack(self) -> dict[Flow, Translation]:
        return {}


class OneService:
    """A store with one Service and its backend."""

    def __init__(self) -> None:
        self.synced = asyncio.Event()
        self.synced.set()

    def list(self, kind: type) -> list[Any]:
        return {Service: [service()], EndpointSlice: [piece("a", "10.0.0.1")]}[kind]

    def subscribe(self, callback: Subscriber) -> None:
        del callback

    def problems(self) -> list[Problem]:  # type: ignore[valid-type]  # `list` is the method in here
        return []


async def told(sync: ServiceSync) -> list[dict[str, str]]:
    """The problems in the answer to `dragline status`."""
    node = SimpleNamespace(
        ledger=Ledger(),
        store=OneService(),
        journal=SimpleNamespace(problems=[], size=0),
        pool_problems=[],
        services=sync,
        not_ready=lambda: "",
        config=SimpleNamespace(node_name="one", store=Path("store"), journal=Path("journal")),
        programs="",
        uplinks=SimpleNamespace(names=[]),
    )
    problems: list[dict[str, str]] = json.loads(await answers.status(cast(Node, node), b""))["problems"]
    return problems


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.001)


def test_maps_that_refuse_are_a_problem_and_not_synced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_sync, "RETRY_S", 0.1)

    async def main() -> None:
        maps = Refusing()
        sync = ServiceSync(cast(Store, OneService()), cast(Maps, maps))
        task = asyncio.create_task(sync.run())
        try:
            await until(lambda: sync.problem or sync.synced)
            assert not sync.synced
            assert "not up to date" in sync.problem and f"[Errno {errno.E2BIG}]" in sync.problem
            assert await told(sync) == [{"source": "services", "message": sync.problem}]
            await until(lambda: sync.synced)
            assert await told(sync) == []
            maps.model.assert_is({("10.96.0.10", 80, "TCP"): (("10.0.0.1", 8080),)})
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
