"""Content that cannot be taken: what the embedded store reports, and what it keeps."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cluster.store import Problem
from tests.unit.directory_stores import ips, on_loop, pool, replace, running, sources, until


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
    "a bomb of depth": ("[" * 100_000, "nest"),  # ours or, from PyYAML 6.0.4 on, its own words
    "a bomb of aliases": (
        "a0: &a0 [x]\n" + "".join(f"a{n + 1}: &a{n + 1} [{f'*a{n}, ' * 9}]\n" for n in range(9)),
        "aliases make it too large",
    ),
    "aliases that nest": (
        "{a0: &a0 [x]" + "".join(f", a{n + 1}: &a{n + 1} [*a{n} ]" for n in range(1500)) + "}",
        "nest",
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
async def test_unreadable_content_is_a_problem(path: Path) -> None:
    (path / "a.yaml").write_text(pool("a"))
    async with running(path) as store:
        (path / "a.yaml").write_bytes(b"\xff\xfe\x00")
        (path / "b.yaml").mkdir()
        await until(store.problems)
        assert sources(store) == ["a.yaml"] and ips(store, "a")
