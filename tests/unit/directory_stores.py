"""A folder of manifests and the store that follows it, for the tests of `cluster.directory`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.directory import DirectoryStore
from cluster.resources import SpiderIPPool

POOL = """\
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderIPPool
metadata:
  name: {name}
spec:
  subnet: 10.0.0.0/24
  ips:
  - {ips}
"""
STATUS = {"allocatedIPs": '{"10.0.0.1":{"pod":"default/a"}}', "allocatedIPCount": 1, "totalIPCount": 9}


def pool(name: str, ips: str = "10.0.0.1-10.0.0.9") -> str:
    return POOL.format(name=name, ips=ips)


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[DirectoryStore]:
    """A store that follows `path` and has read it."""
    store = DirectoryStore(path)
    task = asyncio.create_task(store.run())
    synced = asyncio.create_task(store.synced.wait())
    await asyncio.wait((task, synced), timeout=5, return_when=asyncio.FIRST_COMPLETED)
    synced.cancel()
    if task.done():
        task.result()
    try:
        yield store
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds; fail after 3 s."""
    deadline = time.monotonic() + 3
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        await asyncio.sleep(0.002)


async def settled() -> None:
    """Long enough for an event to have had its effect."""
    await asyncio.sleep(0.04)


def on_loop(test: Callable[[Path], Coroutine[Any, Any, None]]) -> Callable[[Path], None]:
    def run(tmp_path: Path) -> None:
        asyncio.run(test(tmp_path))

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


def ips(store: DirectoryStore, name: str) -> tuple[str, ...] | None:
    found = store.get(SpiderIPPool, "", name)
    return found.spec.ips if found else None


def sources(store: DirectoryStore) -> list[str]:
    return [problem.source for problem in store.problems()]


def replace(path: Path, text: str) -> None:
    """As careful writers do: write beside it, rename over it."""
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(text)
    draft.replace(path)
