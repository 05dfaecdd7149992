"""The embedded store on a real folder with real inotify."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

import pytest
import uvloop

from cluster.directory import DirectoryStore
from cluster.resources import Namespace, Service, SpiderIPPool, SpiderMultusConfig
from cluster.store import Store
from tests.unit.directory_stores import STATUS, ips, on_loop, pool, replace, running, settled, until

MANIFESTS = Path(__file__).parents[1] / "demo" / "manifests"
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
async def test_two_thousand_objects_load(path: Path) -> None:
    for number in range(1000):
        (path / f"pool-{number:04}.yaml").write_text(pool(f"pool-{number:04}"))
    (path / "services.yaml").write_text("---\n".join(ARTICLE.replace("test-svc", f"svc-{n:04}") for n in range(1000)))
    async with running(path) as store:
        assert len(store.list(SpiderIPPool)) + len(store.list(Service)) == 2000
