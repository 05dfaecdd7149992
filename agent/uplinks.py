"""The node's uplinks as pods need them, prepared once and again whenever the node's links or addresses change."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from agent import threads
from datapath import linkwatch, netlink
from datapath.kernel import Datapath
from datapath.netlink import Uplink
from datapath.rtsocket import NetlinkError
from datapath.uplinks import prepare_uplink, write_node_addresses

SETTLE_S = 0.05
"""A change of a NIC comes as several messages (address, route, state): look once, after the last of them."""

log = logging.getLogger(__name__)


class UplinkCache:
    """Uplinks by name, and the node's own addresses. Only for the event loop's thread."""

    def __init__(self, kernel: Datapath) -> None:
        self._kernel = kernel
        self._known: dict[str, Uplink] = {}
        self._ifindexes: set[int] = set()
        self._first: dict[str, asyncio.Lock] = {}
        self.node_addresses: tuple[str, ...] = ()
        self.addresses_changed: Callable[[], None] = lambda: None
        """Called on the loop after the node's own addresses have changed."""

    @property
    def names(self) -> list[str]:
        """The uplinks in use, sorted."""
        return sorted(self._known)

    async def get(self, name: str) -> Uplink:
        """The uplink, prepared for pods. Raises UplinkUnusable saying what to do, NetlinkError, OSError."""
        known = self._known.get(name)
        if known is not None:
            return known
        async with self._first.setdefault(name, asyncio.Lock()):
            if name not in self._known:
                await self._prepare(name)
            return self._known[name]

    def forget(self, name: str) -> None:
        """It turned out to be gone or unusable: whoever asks next makes it ready again, or is told what is wrong."""
        self._known.pop(name, None)

    def last_known(self, name: str) -> Uplink:
        """The uplink as far as it is known; one of ifindex 0 when it is not (a DEL needs no more)."""
        return self._known.get(name) or Uplink(0, name, "00:00:00:00:00:00", 0, ())

    async def run(self) -> None:
        """Follow the node's links and addresses for ever."""
        with linkwatch.LinkWatch() as watch:
            while True:
                await watch.changed(self._ifindexes)
                await asyncio.sleep(SETTLE_S)
                watch.drain(self._ifindexes)
                await self._refresh()

    async def _refresh(self) -> None:
        begin = time.monotonic()
        for name in self.names:
            try:
                await self._prepare(name)
            except (NetlinkError, OSError) as error:
                # The next ADD prepares it again, and reports what is wrong with it.
                del self._known[name]
                log.warning("uplink %s: %s", name, error)
        self._note(await threads.run(lambda: write_node_addresses(self._kernel)))
        log.debug("links changed", extra={"ms": f"{(time.monotonic() - begin) * 1e3:.1f}"})

    async def _prepare(self, name: str) -> None:
        def job() -> tuple[Uplink, tuple[str, ...]]:
            return prepare_uplink(name, self._kernel), netlink.node_addresses()

        self._known[name], addresses = await threads.run(job)
        self._ifindexes.add(self._known[name].ifindex)
        self._note(addresses)

    def _note(self, addresses: tuple[str, ...]) -> None:
        if addresses != self.node_addresses:
            self.node_addresses = addresses
            self.addresses_changed()
