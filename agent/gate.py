"""The moment in which no ADD is under way, which a snapshot of the ledger needs.

ADD tells the ledger that a pod is ready before it is wired (its journal record is then written by the thread that wires
it, without a way back over the loop). A snapshot taken in between would claim too much; so it waits for a gap.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class AddGate:
    """Counts ADDs; holds new ones back while somebody waits for the last to leave. Only for the loop's thread."""

    def __init__(self) -> None:
        self._inside = 0
        self._closers = 0
        self._open = asyncio.Event()
        self._open.set()
        self._empty = asyncio.Event()
        self._empty.set()

    async def enter(self) -> None:
        """An ADD begins; waits while the gate is closed."""
        while not self._open.is_set():
            await self._open.wait()
        self._inside += 1
        self._empty.clear()

    def leave(self) -> None:
        """An ADD has ended, in whatever way."""
        self._inside -= 1
        if not self._inside:
            self._empty.set()

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """No ADD is under way inside the block."""
        self._closers += 1
        self._open.clear()
        try:
            await self._empty.wait()
            yield
        finally:
            self._closers -= 1
            if not self._closers:
                self._open.set()
