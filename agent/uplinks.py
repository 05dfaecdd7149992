"""The node's uplinks as pods need them, prepared once and again whenever the node's links or addresses change."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from agent import threads
from datapath import linkwatch, netlink
from datapath.kernel import Datapath
from datapath.netlink import Uplink
from datapath.rtsocket import NetlinkError
from datapath.uplinks import prepare_uplink, write_node_addresses

SETTLE_S = 0.05
"""A change of a NIC comes as several messages (address, route, state): look once, after the last of them."""

log = logging.getLogger(__name__)


async def _nothing(uplink: Uplink) -> None:
    del uplink


class UplinkCache:
    """Uplinks by name, and the node's own addresses. Only for the event loop's thread."""

    def __init__(self, kernel: Datapath) -> None:
        self._kernel = kernel
        self._known: dict[str, Uplink] = {}
        self._last: dict[str, Uplink] = {}  # also those forgotten since: what was wired there must be found again
        self._ifindexes: set[int] = set()
        self._first: dict[str, asyncio.Lock] = {}
        self.node_addresses: tuple[str, ...] = ()
        self.prepared: Callable[[Uplink], Awaitable[None]] = _nothing
        """Called after an uplink was made ready, for the first time or again."""
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
            return self._known.get(name) or await self._prepare(name)

    def forget(self, name: str) -> None:
        """It turned out to be gone or unusable: whoever asks next makes it ready again, or is told what is wrong."""
        self._known.pop(name, None)

    def last_known(self, name: str) -> Uplink:
        """The uplink as far as it is known; one of ifindex 0 when it is not (a DEL needs no more)."""
        return self._last.get(name) or Uplink(0, name, "00:00:00:00:00:00", 0, ())

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
        for name in sorted(self._last):
            try:
                await self._prepare(name)
            except (NetlinkError, OSError) as error:
                # The next ADD prepares it again, and reports what is wrong with it.
                self.forget(name)  # perhaps an ADD did meanwhile
                log.warning("uplink %s: %s", name, error)
        try:
            self._note(await threads.run(lambda: write_node_addresses(self._kernel)))
        except (NetlinkError, OSError) as error:
            log.warning("the node's addresses: %s", error)
        log.debug("links changed", extra={"ms": f"{(time.monotonic() - begin) * 1e3:.1f}"})

    async def _prepare(self, name: str) -> Uplink:
        def job() -> tuple[Uplink, tuple[str, ...]]:
            found, last = prepare_uplink(name, self._kernel), self._last.get(name)
            if last is not None and last.ifindex != found.ifindex:  # made anew: its pods are gone with the old one
                for key in self._kernel.maps.locals():
                    if key.uplink_ifindex == last.ifindex:
                        self._kernel.maps.delete_local(key.address, key.uplink_ifindex)
            return found, netlink.node_addresses()

        uplink, addresses = await threads.run(job)
        self._known[name] = self._last[name] = uplink
        self._ifindexes.add(uplink.ifindex)
        self._note(addresses)
        await self.prepared(uplink)
        return uplink

    def _note(self, addresses: tuple[str, ...]) -> None:
        if addresses != self.node_addresses:
            self.node_addresses = addresses
            self.addresses_changed()
