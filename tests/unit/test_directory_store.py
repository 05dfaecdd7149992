"""The embedded store on a real folder with real inotify."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
import yaml

from cluster.directory import DirectoryStore
from cluster.resources import Namespace, Pod, Service, SpiderIPPool, SpiderMultusConfig
from cluster.store import NotFound, Problem, Store, StoreError

MANIFESTS = Path(__file__).parents[1] / "demo" / "manifests"
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
ARTICLE = """\
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: test-app-1, namespace: default}
spec: {template: {spec: {containers: [{name: a, command: ["sleep", "3600"]}]}}}
---
# A Service without a clusterIP is waiting for one.
apiVersion: v1
kind: Service
metadata: {name: test-svc}
spec:
  ports: [{port: 80, targetPort: 80}]
"""


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


def test_it_is_a_store(tmp_path: Path) -> None:
    store: Store = DirectoryStore(tmp_path)
    assert not store.synced.is_set()


@on_loop
async def test_reads_all_kinds_of_files(path: Path) -> None:
    (path / "a.yaml").write_text(pool("a") + "---\n" + pool("b"))
    (path / "apps.yml").write_text(ARTICLE)
    (path / "n.json").write_text('{"apiVersion": "v1",\n"kind": "Namespace",\t"metadata": {"name": "x"}}')
    (path / "sub").mkdir()
    (path / "sub" / "list.yaml").write_text(
        "apiVersion: v1\nkind: List\nitems:\n- " + pool("c").replace("\n", "\n  ").rstrip() + "\n"
    )
    (path / "sub" / "deeper").mkdir()
    (path / "sub" / "deeper" / "d.yaml").write_text(pool("d"))
    async with running(path) as store:
        assert [found.key for found in store.list(SpiderIPPool)] == ["a", "b", "c"]
        service = store.get(Service, "default", "test-svc")
        assert service is not None and service.spec.cluster_ip == ""
        assert store.get(Namespace, "", "x") is not None
        assert store.get(SpiderIPPool, "", "test-svc") is None
        assert store.problems() == []


@on_loop
async def test_the_articles_manifests_parse_unchanged(path: Path) -> None:
    for manifest in MANIFESTS.glob("*.yaml"):
        shutil.copy(manifest, path / manifest.name)
    async with running(path) as store:
        assert [found.key for found in store.list(SpiderIPPool)] == [
            "master-172",
            "master-192",
            "worker-172",
            "worker-192",
        ]
        assert [found.key for found in store.list(SpiderMultusConfig)] == [
            "kube-system/ipvlan-eth0",
            "kube-system/ipvlan-eth1",
        ]
        assert [found.key for found in store.list(Service)] == ["default/test-svc"]
        assert store.problems() == []


@on_loop
async def test_edit_replace_add_and_delete(path: Path) -> None:
    (path / "a.yaml").write_text(pool("a") + "---\n" + pool("gone"))
    async with running(path) as store:
        seen: list[tuple[str, str]] = []
        store.subscribe(lambda kind, key: seen.append((kind, key)))
        (path / "a.yaml").write_text(pool("a", "10.0.0.7"))
        await until(lambda: ips(store, "a") == ("10.0.0.7",))
        assert ips(store, "gone") is None
        assert seen == [("SpiderIPPool", "a"), ("SpiderIPPool", "gone")]
        replace(path / "a.yaml", pool("a", "10.0.0.8"))
        await until(lambda: ips(store, "a") == ("10.0.0.8",))
        (path / "b.yaml").write_text(pool("b"))
        await until(lambda: ips(store, "b"))
        (path / "a.yaml").unlink()
        await until(lambda: ips(store, "a") is None)
        seen.clear()
        replace(path / "b.yaml", "# the same\n" + pool("b"))
        await settled()
        assert seen == [], "nothing changed in it"


def test_on_uvloop_as_the_agent_runs_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as store:
            for number in range(1, 20):
                replace(tmp_path / f"{number}.yaml", pool(f"a{number}"))
                await asyncio.sleep(0.001)
            await until(lambda: len(store.list(SpiderIPPool)) == 19)
            await store.write_status(SpiderIPPool, "", "a1", STATUS)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


@on_loop
async def test_a_change_arrives_within_milliseconds(path: Path) -> None:
    async with running(path) as store:
        fastest = 1.0
        for number in range(5):
            arrived = asyncio.Event()
            store.subscribe(lambda kind, key, arrived=arrived: arrived.set())
            replace(path / "a.yaml", pool("a", f"10.0.0.{number + 1}"))
            start = time.perf_counter()
            await asyncio.wait_for(arrived.wait(), 3)
            fastest = min(fastest, time.perf_counter() - start)
        assert fastest < 0.015


@on_loop
async def test_bad_yaml_keeps_the_last_good_state_and_names_file_and_line(path: Path) -> None:
    (path / "a.yaml").write_text(pool("a"))
    async with running(path) as store:
        replace(path / "a.yaml", "apiVersion: v1\nkind: [\nmetadata: x\n")
        await until(store.problems)
        (problem,) = store.problems()
        assert problem.source == "a.yaml:4"
        assert "while parsing a flow sequence that begins in line 2" in problem.message
        assert ips(store, "a")
        replace(path / "a.yaml", pool("a", "10.0.0.5"))
        await until(lambda: not store.problems())
        assert ips(store, "a") == ("10.0.0.5",)


@on_loop
async def test_a_bad_field_is_named_with_its_line(path: Path) -> None:
    (path / "a.yaml").write_text(pool("a"))
    async with running(path) as store:
        replace(path / "a.yaml", pool("a", "10.9.9.9"))
        await until(store.problems)
        assert store.problems() == [
            Problem("a.yaml:8", "SpiderIPPool a: spec.ips[0]: 10.9.9.9 lies outside subnet 10.0.0.0/24")
        ]
        assert ips(store, "a") == ("10.0.0.1-10.0.0.9",)


BROKEN = {
    "open flow": ("spec: [", "bad YAML"),
    "no apiVersion": ("kind: Service", "apiVersion and kind are required"),
    "no mapping": ("- 1", "a manifest is a mapping"),
    "a key twice": (pool("two") + "kind: Service", "key 'kind' twice"),
    "control character": ("x: \x01", "control characters"),
    "a bomb of depth": ("[" * 100_000, "nested too deeply"),
    "a bomb of aliases": (
        "a0: &a0 [x]\n" + "".join(f"a{n + 1}: &a{n + 1} [{f'*a{n}, ' * 9}]\n" for n in range(9)),
        "aliases make it too large",
    ),
    "an endless alias": ("a: &a [*a]", "contains itself"),
    "a wrong tag": ("a: !!int x", "does not fit its tag"),
    "an impossible name": (pool("A"), "metadata.name"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_one_bad_document_leaves_the_others(tmp_path: Path, case: str) -> None:
    async def scenario(broken: str, reason: str) -> None:
        (tmp_path / "a.yaml").write_text("---\n".join([pool("one"), pool("two"), pool("three")]))
        async with running(tmp_path) as store:
            new = [pool("one", "10.0.0.1"), broken + "\n", pool("three", "10.0.0.3")]
            replace(tmp_path / "a.yaml", "---\n".join(new))
            await until(store.problems)
            (problem,) = store.problems()
            assert reason in problem.message
            assert 9 <= int(problem.source.rpartition(":")[2]) < 21
            assert (ips(store, "one"), ips(store, "three")) == (("10.0.0.1",), ("10.0.0.3",))
            assert ips(store, "two"), "it could be the broken one, so it stays"

    asyncio.run(scenario(*BROKEN[case]))


@on_loop
async def test_a_bad_document_that_can_be_told_holds_nothing_else(path: Path) -> None:
    (path / "a.yaml").write_text(pool("one") + "---\n" + pool("two"))
    async with running(path) as store:
        replace(path / "a.yaml", pool("one", "10.9.9.9"))
        await until(store.problems)
        assert ips(store, "one") and ips(store, "two") is None


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
async def test_an_object_in_two_files(path: Path) -> None:
    (path / "b.yaml").write_text(pool("a", "10.0.0.2"))
    async with running(path) as store:
        (path / "c.yaml").write_text("\n" + pool("a", "10.0.0.3"))
        await until(store.problems)
        assert store.problems() == [Problem("c.yaml:2", "SpiderIPPool a is in two files; b.yaml:1 counts")]
        assert ips(store, "a") == ("10.0.0.2",)
        (path / "b.yaml").unlink()
        await until(lambda: ips(store, "a") == ("10.0.0.3",))
        assert store.problems() == []
        replace(path / "c.yaml", pool("a", "10.0.0.4") + "---\n" + pool("a", "10.0.0.5"))
        await until(store.problems)
        assert (sources(store), ips(store, "a")) == (["c.yaml:10"], ("10.0.0.4",))


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


@on_loop
async def test_unreadable_content_is_a_problem(path: Path) -> None:
    (path / "a.yaml").write_text(pool("a"))
    async with running(path) as store:
        (path / "a.yaml").write_bytes(b"\xff\xfe\x00")
        (path / "b.yaml").mkdir()
        await until(store.problems)
        assert sources(store) == ["a.yaml"] and ips(store, "a")


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


STATUS = {"allocatedIPs": '{"10.0.0.1":{"pod":"default/a"}}', "allocatedIPCount": 1, "totalIPCount": 9}


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


@on_loop
async def test_wait_for(path: Path) -> None:
    async with running(path) as store:
        with pytest.raises(TimeoutError):
            await store.wait_for(SpiderIPPool, "", "a", 0.02)
        waiting = [asyncio.create_task(store.wait_for(SpiderIPPool, "", "a", 3)) for _ in range(2)]
        await asyncio.sleep(0)
        (path / "a.yaml").write_text(pool("a"))
        for found in await asyncio.gather(*waiting):
            assert found.key == "a"
        assert (await store.wait_for(SpiderIPPool, "", "a", 0)).key == "a"


@on_loop
async def test_two_thousand_objects_load_within_two_seconds(path: Path) -> None:
    for number in range(1000):
        (path / f"pool-{number:04}.yaml").write_text(pool(f"pool-{number:04}"))
    (path / "services.yaml").write_text("---\n".join(ARTICLE.replace("test-svc", f"svc-{n:04}") for n in range(1000)))
    # CPU time, which a busy machine does not stretch; `running` bounds the wall clock.
    start = time.process_time()
    async with running(path) as store:
        assert len(store.list(SpiderIPPool)) + len(store.list(Service)) == 2000
        assert time.process_time() - start < 2.0
