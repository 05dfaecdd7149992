"""Pool statuses, written after the answer: replicas of the ledger, gathered for a moment."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

from allocator.ledger import Ledger
from cluster.resources import SpiderIPPool
from cluster.store import Store, StoreError

GATHER_S = 0.1
RETRY_S = 2.0

log = logging.getLogger(__name__)


class Publisher:
    """Writes the status of the pools that this node owns. Only for the event loop's thread."""

    def __init__(self, store: Store, ledger: Ledger, node_name: str) -> None:
        self._store = store
        self._ledger = ledger
        self._node_name = node_name
        self._dirty: set[str] = set()
        self._news = asyncio.Event()

    def touch(self, *pools: str) -> None:
        """These pools' allocations may have changed."""
        self._dirty.update(pools)
        self._news.set()

    async def run(self) -> None:
        """Write what was touched, for ever; what cannot be written is tried again."""
        while True:
            await self._news.wait()
            await asyncio.sleep(GATHER_S)
            self._news.clear()
            if not await self.flush():
                await asyncio.sleep(RETRY_S)
                self._news.set()

    async def flush(self) -> bool:
        """Write what was touched until now; whether all of it could be written (what is touched meanwhile is news)."""
        names, self._dirty = self._dirty, set()
        failed = set()
        for name in sorted(names):
            try:
                await self._write(name)
            except StoreError as error:
                log.warning("status of pool %s: %s", name, error, extra={"pool": name})
                failed.add(name)
        self._dirty |= failed
        return not failed

    async def _write(self, name: str) -> None:
        pool = self._store.get(SpiderIPPool, "", name)
        if pool is not None and pool.spec.node_name == (self._node_name,):
            await self._store.write_status(SpiderIPPool, "", name, pool_status(self._ledger, name))


def pool_status(ledger: Ledger, name: str) -> dict[str, Any]:
    """A SpiderIPPool's status as Spiderpool v0.6.0 writes it; `allocatedIPs` is absent while nothing is allocated."""
    allocated, total = ledger.pool_status(name)
    status: dict[str, Any] = {"allocatedIPCount": len(allocated), "totalIPCount": total}
    if allocated:
        status["allocatedIPs"] = json.dumps(
            {
                ip: {
                    "interface": attachment.ifname,
                    "pod": f"{attachment.pod_namespace}/{attachment.pod_name}",
                    "podUid": attachment.pod_uid,
                }
                for ip, attachment in sorted(allocated.items())
            }
        )
    return status
