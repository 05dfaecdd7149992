"""Flows end: every few seconds what was silent for too long is deleted, and how full the table is becomes known.

The LRU map would make room by itself, but only when it is full, and then it may take flows that live.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agent import threads
from agent.service_sync import ServiceSync
from datapath.abi import Verdict
from datapath.ageing import Orphans
from datapath.maps import Maps
from datapath.sweep import Stale, Swept, sweep_affinity, sweep_counters, sweep_flows

SWEEP_S: Final = 10.0
FULL: Final = 0.9
"""From this share on the LRU may take live flows: it works by CPU, and not in exact order."""
LOSSES: Final[Mapping[Verdict, str]] = {
    Verdict.EVENT_REVERSE_LOST: "live flows lost an entry to newer ones",
    Verdict.DROP_CONNTRACK: "new flows found no room",
}
LOSSES_SHOWN_S: Final = 300.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Figures:
    """What the last sweep met. `flows` by backend id."""

    entries: int
    capacity: int
    flows: Mapping[int, int]


class ConntrackAgeing:
    """Sweeps conntrack and what hangs on it. Only for the event loop's thread; the sweeps run in worker threads."""

    def __init__(self, maps: Maps, services: ServiceSync) -> None:
        self._maps, self._services = maps, services
        self._orphans = Orphans()
        self._choices: Stale = frozenset()
        self._counters: frozenset[int] = frozenset()
        self._losses: deque[tuple[float, Mapping[Verdict, int]]] = deque()
        self._refused = ""
        self.figures = Figures(0, maps.conntrack.capacity, {})

    async def run(self) -> None:
        """Sweep for ever."""
        while True:
            await self.sweep()
            await asyncio.sleep(SWEEP_S)

    async def sweep(self) -> None:
        """Sweep once."""
        try:
            swept, counts = await threads.run(self._sweep)
        except OSError as error:
            self._refused = f"conntrack cannot be swept: {error}"
            log.error("%s", self._refused, extra={"reason": str(error)})
            return
        self._refused = ""
        self.figures = Figures(swept.entries, self._maps.conntrack.capacity, swept.flows)
        now = time.monotonic()
        self._losses.append((now, counts))
        while self._losses[0][0] < now - LOSSES_SHOWN_S:
            self._losses.popleft()
        if swept.expired or swept.orphaned:
            log.info("conntrack swept", extra={"count": swept.expired + swept.orphaned})

    def problems(self) -> list[str]:
        """What an operator has to know of the table."""
        found = [self._refused] if self._refused else []
        entries, capacity = self.figures.entries, self.figures.capacity
        if entries >= FULL * capacity:
            found.append(
                f"{entries} of {capacity} entries are taken ({entries / capacity:.0%}): live flows may be lost"
            )
        if self._losses:
            (_, first), (_, last) = self._losses[0], self._losses[-1]
            for verdict, text in LOSSES.items():
                lost = last[verdict] - first[verdict]
                if lost > 0:
                    minutes = f"in the last {LOSSES_SHOWN_S / 60:.0f} minutes"
                    found.append(f"{minutes} {text} ({lost} times): the table is too small")
        return found

    def _sweep(self) -> tuple[Swept, Mapping[Verdict, int]]:
        swept = sweep_flows(self._maps, time.monotonic_ns(), self._orphans)
        self._orphans = swept.orphans
        if self._services.synced:  # until then nobody knows which ids are somebody's
            has_service, has_backend = self._services.has_service, self._services.has_backend
            self._choices = sweep_affinity(self._maps, has_service, has_backend, self._choices)
            self._counters = sweep_counters(self._maps, has_service, self._counters)
        return swept, self._maps.counters()
