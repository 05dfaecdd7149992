"""A Service changes: its frontends are derived, the map operations planned, and written off the loop.

Changes are gathered for a moment (a rollout touches several slices at once), then only what changed is planned.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from agent import threads
from cluster.resources import EndpointSlice, Service
from cluster.services import Backend, Backends, Frontend, ServiceBook
from cluster.store import Store
from datapath.maps import Maps
from datapath.services import Op, Programmed, apply, plan, plan_changes

GATHER_S = 0.002
RETRY_S = 1.0

log = logging.getLogger(__name__)


class ServiceSync:
    """Keeps the load balancer's maps equal to the store's Services. Only for the event loop's thread."""

    def __init__(self, store: Store, maps: Maps) -> None:
        self._store = store
        self._maps = maps
        self._book = ServiceBook()
        self._changed: dict[Frontend, Backends | None] = {}
        self._news = asyncio.Event()
        self._programmed = Programmed()
        self._kept = False
        self.synced = False
        """Whether everything the store held at the start is in the maps."""
        self.problem = ""
        """Why the maps are not up to date; "" while they are."""
        store.subscribe(self._heard)

    @property
    def frontends(self) -> int:
        """How many frontends are programmed."""
        return len(self._programmed.slots)

    @property
    def backends(self) -> int:
        """How many backends are programmed."""
        return len(self._programmed.backends)

    async def run(self) -> None:
        """Adopt what an earlier agent left in the maps, bring it up to date, then follow the changes for ever."""
        self._programmed = await threads.run(self._adopt)
        await self._store.synced.wait()
        for endpoint_slice in self._store.list(EndpointSlice):
            self._book.put_slice(endpoint_slice.key, endpoint_slice)
        for service in self._store.list(Service):
            self._book.put_service(service.key, service)
        whole = await self._write_all()
        while True:
            self.synced = self.synced or whole
            if whole:
                await self._news.wait()
                await asyncio.sleep(GATHER_S)
                mended = self._kept and not self._store.problems()
                whole = await (self._write_all() if mended else self._write_changes())
            else:
                await asyncio.sleep(RETRY_S)
                whole = await self._write_all()

    def _adopt(self) -> Programmed:
        # Ids that conntrack still holds must not be given to somebody else.
        translations = self._maps.conntrack().values()
        past = {number for one in translations for number in (one.service_id, one.backend_id)}
        return Programmed.adopt(self._maps.services(), self._maps.backends(), past)

    def _heard(self, kind: str, key: str) -> None:
        namespace, _, name = key.partition("/")
        if kind == "Service":
            self._changed |= self._book.put_service(key, self._store.get(Service, namespace, name))
        elif kind == "EndpointSlice":
            self._changed |= self._book.put_slice(key, self._store.get(EndpointSlice, namespace, name))
        if self._changed:
            self._news.set()

    async def _write_all(self) -> bool:
        self._take_changes()  # they are in the whole
        wanted, protected = self._book.frontends(), self._book.never_empty()
        self._kept = bool(self._store.problems())
        if self._kept:  # what cannot be read may be what an earlier agent has programmed: that stays in force
            for frontend in self._programmed.slots:
                if not wanted.get(Frontend(*frontend)):
                    kept = self._programmed.backends_of(frontend)
                    wanted[Frontend(*frontend)] = tuple(Backend(*backend) for backend in kept)
        return await self._write(lambda: plan(self._programmed, wanted, protected))

    async def _write_changes(self) -> bool:
        changed, protected = self._take_changes(), self._book.never_empty()
        return await self._write(lambda: plan_changes(self._programmed, changed, protected))

    def _take_changes(self) -> dict[Frontend, Backends | None]:
        self._news.clear()
        changed, self._changed = self._changed, {}
        return changed

    async def _write(self, decide: Callable[[], list[Op]]) -> bool:
        """Plan and carry out; False when the maps refused an operation (full), which is logged."""
        begin = time.monotonic()

        def job() -> int:
            ops = decide()
            apply(ops, self._maps, self._programmed)
            return len(ops)

        try:
            count = await threads.run(job)
        except (OSError, ValueError) as error:
            self.problem = f"the maps are not up to date: {error}"
            log.error("services: %s; trying again", self.problem, extra={"reason": str(error)})
            return False
        self.problem = ""
        if count:
            ms = (time.monotonic() - begin) * 1e3
            log.info("services programmed", extra={"count": count, "ms": f"{ms:.1f}"})
        return True
