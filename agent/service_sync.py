"""A Service changes: what its frontends offer is derived, the map operations planned, and written off the loop.

Changes are gathered for a moment (a rollout touches several slices at once), then only what changed is planned.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence

from agent import collector, threads
from cluster.resources import EndpointSlice, Node, Service
from cluster.services import Frontend, Offer, ServiceBook
from cluster.store import Store
from datapath.held_ids import held_ids
from datapath.maps import Maps
from datapath.programmed import Offer as Given
from datapath.services import PROTOCOLS, GoneBackend, Op, Programmed, apply, plan, plan_changes

GATHER_S = 0.002
RETRY_S, RETRY_MOST_S = 1.0, 30.0
"""The whole is planned again after so long when the maps refused something, then after twice as long, and so on."""

log = logging.getLogger(__name__)


def _nobody(gone: Sequence[GoneBackend]) -> None:
    del gone


class ServiceSync:
    """Keeps the load balancer's maps equal to the store's Services. Only for the event loop's thread."""

    def __init__(self, store: Store, maps: Maps, node_name: str) -> None:
        self._store = store
        self._maps = maps
        self._book = ServiceBook(node_name)
        self._changed: dict[Frontend, Offer | None] = {}
        self._news = asyncio.Event()
        self._programmed = Programmed()
        self._nodes: frozenset[str] | None = None  # the nodes' addresses that are written
        self._kept = False
        self._listed = False
        self.on_gone: Callable[[Sequence[GoneBackend]], None] = _nobody
        """Called with the backends that were removed or began to drain, once the maps say so."""
        self.synced = False
        """Whether what the store held at the start is in the maps, as far as it fits.

        A node whose maps are too small for the cluster starts pods all the same, and says what is wrong (`problem`)."""
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

    def offers(self) -> dict[Frontend, Offer]:
        """What every frontend shall offer, by what the store says now."""
        return self._book.frontends()

    def problems(self) -> list[tuple[str, str]]:
        """(Service "ns/name", text) of what Services ask for and cannot have."""
        return self._book.problems()

    def has_service(self, service_id: int) -> bool:
        """Whether some programmed frontend has this id. From any thread."""
        return self._programmed.owners(service_id) > 0

    def has_backend(self, backend_id: int) -> bool:
        """Whether a backend is programmed under this id. From any thread."""
        return backend_id in self._programmed.backends

    async def run(self) -> None:
        """Adopt what an earlier agent left in the maps, bring it up to date, then follow the changes for ever."""
        self._programmed = await threads.run(self._adopt)
        await self._store.synced.wait()
        with collector.paused():
            self._list()
        whole = await self._write_all()
        collector.keep_all()
        pause, retry_at = RETRY_S, time.monotonic() + RETRY_S
        while True:
            self.synced = True
            if await self._news_until(None if whole else retry_at):
                was_whole = whole
                await asyncio.sleep(GATHER_S)
                mended = self._kept and not self._store.problems()
                whole = await (self._write_all() if mended else self._write_changes(whole))
                if was_whole and not whole:
                    pause, retry_at = RETRY_S, time.monotonic() + RETRY_S
            else:
                whole = await self._write_all()
                pause = min(2 * pause, RETRY_MOST_S)
                retry_at = time.monotonic() + pause

    def _list(self) -> None:
        self._listed = True
        for node in self._store.list(Node):
            self._book.put_node(node.key, node)
        for endpoint_slice in self._store.list(EndpointSlice):
            self._book.put_slice(endpoint_slice.key, endpoint_slice)
        for service in self._store.list(Service):
            self._book.put_service(service.key, service)

    async def _news_until(self, deadline: float | None) -> bool:
        """Wait for a change, at most until then (time.monotonic); whether there was one."""
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:  # also while changes come without end
            return False
        try:
            async with asyncio.timeout(left):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    def _adopt(self) -> Programmed:
        # Ids that flows still hold must not be given to somebody else.
        past, maps = held_ids(self._maps), self._maps
        with collector.paused():
            backends = {key.number: entry for key, entry in maps.backends.items()}
            return Programmed.adopt(dict(maps.services.items()), backends, maps.addresses(), past)

    def _heard(self, kind: str, key: str) -> None:
        if not self._listed:  # it will be in the list
            return
        namespace, _, name = key.rpartition("/")
        if kind == "Service":
            self._changed |= self._book.put_service(key, self._store.get(Service, namespace, name))
        elif kind == "EndpointSlice":
            self._changed |= self._book.put_slice(key, self._store.get(EndpointSlice, namespace, name))
        elif kind == "Node":
            self._changed |= self._book.put_node(key, self._store.get(Node, namespace, name))
        if self._changed or self._new_nodes() is not None:
            self._news.set()

    def _new_nodes(self) -> frozenset[str] | None:
        """The nodes' addresses if they are not those that are written. The book gives the same set until it changes."""
        nodes = self._book.node_addresses()
        return None if nodes is self._nodes else nodes

    async def _write_all(self) -> bool:
        self._take_changes()  # they are in the whole
        wanted: dict[tuple[str, int, str], Given] = {key: offer for key, offer in self._book.frontends().items()}
        nodes, protected = self._book.node_addresses(), self._book.never_empty()
        self._kept = bool(self._store.problems())
        addresses = self._with_kept(nodes)
        if self._kept:  # what cannot be read may be what an earlier agent has programmed: that stays in force
            for frontend in self._programmed.slots:
                if frontend[2] in PROTOCOLS and not (frontend in wanted and wanted[frontend][0]):
                    wanted[frontend] = self._programmed.offer_of(frontend)
        written = await self._write(lambda: plan(self._programmed, wanted, addresses, protected))
        self._nodes = nodes if written else None
        return written

    async def _write_changes(self, whole: bool) -> bool:
        """Write what changed; whether the maps are up to date, if all else in them is (`whole`)."""
        changed, nodes, protected = self._take_changes(), self._new_nodes(), self._book.never_empty()
        addresses = None if nodes is None else self._with_kept(nodes)
        problem = self.problem
        written = await self._write(lambda: plan_changes(self._programmed, changed, addresses, protected))
        if nodes is not None and written:
            self._nodes = nodes
        if written and not whole:
            self.problem = problem  # that these changes fit does not mend what did not
        return written and whole

    def _with_kept(self, nodes: frozenset[str]) -> Collection[str]:
        return nodes | self._programmed.node_addresses if self._kept else nodes

    def _take_changes(self) -> dict[Frontend, Offer | None]:
        self._news.clear()
        changed, self._changed = self._changed, {}
        return changed

    async def _write(self, decide: Callable[[], list[Op]]) -> bool:
        """Plan and carry out; False when the maps refused an operation (full), which is logged."""
        begin = time.monotonic()

        def job() -> int:
            with collector.paused():
                ops = decide()
                apply(ops, self._maps, self._programmed)
                return len(ops)

        try:
            count = await threads.run(job)
        except (OSError, ValueError) as error:
            self.problem = f"the maps are not up to date: {error}"
            log.error("services: %s; trying again", self.problem, extra={"reason": str(error)})
            return False
        finally:
            gone = self._programmed.take_gone()
            if gone:
                self.on_gone(gone)
        self.problem = ""
        if count:
            ms = (time.monotonic() - begin) * 1e3
            log.info("services programmed", extra={"count": count, "ms": f"{ms:.1f}"})
        return True
