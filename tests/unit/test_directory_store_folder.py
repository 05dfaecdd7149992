"""The folder under the embedded store: how files are written, moved and linked, and folders come and go."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from cluster.directory import DirectoryStore
from cluster.resources import SpiderIPPool
from cluster.store import StoreError
from tests.unit.directory_stores import ips, on_loop, pool, running, settled, sources, until


@on_loop
async def test_a_half_written_file_is_not_read_before_it_is_closed(path: Path) -> None:
    (path / "a.yaml").write_text(pool("a") + "---\n" + pool("b"))
    async with running(path) as store:
        with (path / "a.yaml").open("w") as stream:
            stream.write(pool("a", "10.0.0.3"))
            stream.flush()
            await settled()
            assert ips(store, "a") == ("10.0.0.1-10.0.0.9",)
            stream.write("---\n" + pool("b", "10.0.0.4"))
        await until(lambda: ips(store, "b") == ("10.0.0.4",))
        assert (ips(store, "a"), store.problems()) == (("10.0.0.3",), [])
        with (path / "new.yaml").open("w") as stream:
            stream.write("kind: [")
            stream.flush()
            await settled()
            assert store.problems() == []
            stream.truncate(0)
        await settled()
        assert store.problems() == []
        (path / "a.yaml").write_text("")  # its writer was killed right after opening it
        await until(store.problems)
        assert ips(store, "a") and ips(store, "b")
        (path / "a.yaml").write_text("# nothing any more\n")
        await until(lambda: ips(store, "a") is None)
        assert store.problems() == []


@on_loop
async def test_editors_temporary_files_are_ignored(path: Path) -> None:
    names = (".a.yaml.swp", ".#a.yaml", "#a.yaml#", "a.yaml~", "4913", "a.yaml.tmp", ".hidden.yaml", "readme.txt")
    async with running(path) as store:
        for name in names:
            (path / name).write_text(pool("wrong"))
        (path / ".git").mkdir()
        (path / ".git" / "x.yaml").write_text(pool("wrong"))
        (path / "a.yaml").write_text(pool("a"))
        await until(lambda: ips(store, "a"))
        await settled()
        assert [found.key for found in store.list(SpiderIPPool)] == ["a"]
    async with running(path) as store:
        assert [found.key for found in store.list(SpiderIPPool)] == ["a"]
        assert store.problems() == []


@on_loop
async def test_a_file_that_moves_takes_its_objects_along_without_a_gap(path: Path) -> None:
    (path / "a.yaml").write_text(pool("a"))
    (path / "sub").mkdir()
    async with running(path) as store:
        seen: list[str] = []
        store.subscribe(lambda kind, key: seen.append(key))
        (path / "a.yaml").rename(path / "sub" / "b.yaml")
        await settled()
        assert ips(store, "a") and seen == []


@on_loop
async def test_folders_come_and_go(path: Path) -> None:
    async with running(path) as store:
        (path / "new").mkdir()
        (path / "new" / "a.yaml").write_text(pool("a"))
        await until(lambda: ips(store, "a"))
        (path / "new" / "a.yaml").write_text(pool("a", "10.0.0.4"))
        await until(lambda: ips(store, "a") == ("10.0.0.4",))
        (path / "new").rename(path / "renamed")
        await settled()
        (path / "renamed" / "a.yaml").write_text(pool("a", "10.0.0.5"))
        await until(lambda: ips(store, "a") == ("10.0.0.5",))
        shutil.rmtree(path / "renamed")
        await until(lambda: ips(store, "a") is None)
        (path / "outside").mkdir()
        (path / "outside" / "b.yaml").write_text(pool("b"))
        await until(lambda: ips(store, "b"))
        (path / "outside").rename(path.parent / f"{path.name}-away")
        await until(lambda: ips(store, "b") is None)


@on_loop
async def test_links_and_mounted_config_maps(path: Path) -> None:
    elsewhere = path.parent / f"{path.name}-elsewhere"
    elsewhere.mkdir()
    (elsewhere / "x.yaml").write_text(pool("x"))
    for version, last in (("..1", "10.0.0.1"), ("..2", "10.0.0.2")):
        (path / version).mkdir()
        (path / version / "a.yaml").write_text(pool("a", last))
    (path / "..data").symlink_to("..1")
    (path / "a.yaml").symlink_to("..data/a.yaml")
    async with running(path) as store:
        assert ips(store, "a") == ("10.0.0.1",)
        (path / "..tmp").symlink_to("..2")
        (path / "..tmp").rename(path / "..data")
        await until(lambda: ips(store, "a") == ("10.0.0.2",))
        (path / "x.yaml").symlink_to(elsewhere / "x.yaml")
        await until(lambda: ips(store, "x"))
        os.link(elsewhere / "x.yaml", path / "y.yaml")
        await until(lambda: sources(store) == ["y.yaml:1"])


def test_a_missing_folder_is_a_named_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name, reason in (("missing", "No such file"), ("file", "Not a directory")):
        with pytest.raises(StoreError, match=rf"{tmp_path}/{name}: {reason}"):
            asyncio.run(DirectoryStore(tmp_path / name).run())


def test_a_folder_that_goes_away_ends_the_run(tmp_path: Path) -> None:
    async def scenario() -> None:
        folder = tmp_path / "folder"
        folder.mkdir()
        store = DirectoryStore(folder)
        task = asyncio.create_task(store.run())
        await store.synced.wait()
        shutil.rmtree(folder)
        with pytest.raises(StoreError, match="is gone"):
            await asyncio.wait_for(task, 3)

    asyncio.run(scenario())
