"""Statuses beside the manifests of the embedded store: written by one reader of the folder, seen by all."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
import yaml

from cluster.resources import Pod, SpiderIPPool
from cluster.store import NotFound, StoreError
from tests.unit.directory_stores import STATUS, ips, on_loop, pool, replace, running, settled, sources, until


@on_loop
async def test_a_status_is_seen_by_its_writer_and_by_other_readers(path: Path) -> None:
    (path / "a.yaml").write_text(pool("a"))
    (path / "pod.yaml").write_text("apiVersion: v1\nkind: Pod\nmetadata: {name: p.x}\nspec: {nodeName: n}\n")
    async with running(path) as store, running(path) as other:
        seen: list[str] = []
        other.subscribe(lambda kind, key: seen.append(key))
        await store.write_status(SpiderIPPool, "", "a", STATUS)
        mine = store.get(SpiderIPPool, "", "a")
        assert mine is not None and mine.status.allocated_ip_count == 1, "one's own write is seen at once"
        await until(lambda: seen)
        theirs = other.get(SpiderIPPool, "", "a")
        assert theirs == mine
        file = path / ".status" / "SpiderIPPool._.a.yaml"
        assert yaml.safe_load(file.read_text()) == {
            "apiVersion": "spiderpool.spidernet.io/v2beta1",
            "kind": "SpiderIPPool",
            "metadata": {"name": "a"},
            "status": STATUS,
        }
        await other.write_status(Pod, "default", "p.x", {"phase": "Running", "podIPs": ({"ip": "10.0.0.1"},)})
        await until(lambda: (found := store.get(Pod, "default", "p.x")) and found.status.phase == "Running")
        assert (path / "a.yaml").read_text() == pool("a"), "manifests are never written"
    async with running(path) as later:
        assert later.get(SpiderIPPool, "", "a") == mine
        assert later.problems() == []


@on_loop
async def test_the_same_status_again_writes_nothing_and_calls_nobody(path: Path) -> None:
    (path / "a.yaml").write_text(pool("a"))
    async with running(path) as store:
        calls = 0

        def echo(kind: str, key: str) -> None:  # an agent that publishes after each change of a pool
            nonlocal calls
            calls += 1
            asyncio.get_running_loop().create_task(
                store.write_status(SpiderIPPool, "", "a", {**STATUS, "extra": (1, 2)})
            )

        store.subscribe(echo)
        echo("", "")
        await settled()
        written = (path / ".status" / "SpiderIPPool._.a.yaml").stat()
        echo("", "")
        await settled()
        assert calls == 3, "two by hand, one for the change"
        after = (path / ".status" / "SpiderIPPool._.a.yaml").stat()
        assert (written.st_ino, written.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@on_loop
async def test_the_last_status_asked_for_wins(path: Path) -> None:
    (path / "a.yaml").write_text(pool("a"))
    async with running(path) as store, running(path) as other:
        counts = [{"allocatedIPCount": number} for number in range(20)]
        await asyncio.gather(*(store.write_status(SpiderIPPool, "", "a", status) for status in counts))
        for reader in (store, other):
            await until(lambda reader=reader: reader.get(SpiderIPPool, "", "a").status.allocated_ip_count == 19)
        await settled()
        assert store.get(SpiderIPPool, "", "a") == other.get(SpiderIPPool, "", "a")
        assert [entry.name for entry in (path / ".status").iterdir()] == ["SpiderIPPool._.a.yaml"]


@on_loop
async def test_bad_statuses(path: Path) -> None:
    (path / "a.yaml").write_text(pool("a"))
    async with running(path) as store:
        with pytest.raises(NotFound, match="SpiderIPPool b"):
            await store.write_status(SpiderIPPool, "", "b", {})
        with pytest.raises(StoreError, match=r"status\.totalIPCount"):
            await store.write_status(SpiderIPPool, "", "a", {"totalIPCount": "many"})
        await store.write_status(SpiderIPPool, "", "a", STATUS)
        file = path / ".status" / "SpiderIPPool._.a.yaml"
        good = file.read_text()
        for bad in (good.replace("IPCount: 9", "IPCount: nine"), "x: [", good.replace("name: a", "name: b"), "a: 1"):
            replace(file, bad)
            await until(store.problems)
            assert sources(store)[0].startswith(".status/SpiderIPPool._.a.yaml")
            found = store.get(SpiderIPPool, "", "a")
            assert found is not None and found.status.total_ip_count == 9, "the last good one stays"
            replace(file, good)
            await until(lambda: not store.problems())
        file.unlink()
        await until(lambda: store.get(SpiderIPPool, "", "a").status.total_ip_count == 0)  # type: ignore[union-attr]


@on_loop
async def test_a_status_ends_with_its_object(path: Path) -> None:
    (path / "a.yaml").write_text(pool("a"))
    async with running(path) as store, running(path) as other:
        await store.write_status(SpiderIPPool, "", "a", STATUS)
        (path / "a.yaml").unlink()
        await until(lambda: not list((path / ".status").iterdir()))
        (path / "a.yaml").write_text(pool("a"))
        for reader in (store, other):
            await until(lambda reader=reader: ips(reader, "a"))
            await settled()
            assert reader.get(SpiderIPPool, "", "a").status.total_ip_count == 0
        await store.write_status(SpiderIPPool, "", "a", STATUS)
        shutil.rmtree(path / ".status")
        await until(lambda: other.get(SpiderIPPool, "", "a").status.total_ip_count == 0)
        await until(lambda: store.get(SpiderIPPool, "", "a").status.total_ip_count == 0)
        await store.write_status(SpiderIPPool, "", "a", STATUS)
        await until(lambda: other.get(SpiderIPPool, "", "a").status.total_ip_count == 9)


@on_loop
async def test_a_status_that_cannot_be_written_is_a_named_error(path: Path) -> None:
    (path / "a.yaml").write_text(pool("a"))
    async with running(path) as store:
        (path / ".status").write_text("not a folder")
        with pytest.raises(StoreError, match="status of SpiderIPPool a"):
            await store.write_status(SpiderIPPool, "", "a", STATUS)
