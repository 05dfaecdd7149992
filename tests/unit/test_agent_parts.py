"""Small parts of the agent: the error table, the gate, the publisher."""

from __future__ import annotations

import asyncio
import errno
import json
from typing import Any

import pytest

from agent.cni_numbers import NUMBERS, cni_error
from agent.gate import AddGate
from agent.publish import Publisher, pool_status
from allocator.attachments import AttachmentKey, Facts
from allocator.ledger import Ledger
from allocator.selection import NoPool, Want
from cluster.resources import ObjectMeta, SpiderIPPool
from cluster.specs import PoolSpec
from cluster.store import StoreError
from cni import errors
from datapath.rtsocket import LinkExists, NetlinkError, NetnsGone


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (NoPool("no pool"), errors.POOL_EXHAUSTED),
        (LinkExists("create link", errno.EEXIST), errors.LINK_EXISTS),
        (NetnsGone("enter", errno.EINVAL), errors.NETNS_GONE),
        (NetlinkError("add address", errno.EPERM), errors.NETLINK),
        (FileNotFoundError(2, "gone"), errors.IO_FAILURE),
    ],
)
def test_errors_become_numbers_and_keep_their_words(error: Exception, number: int) -> None:
    found = cni_error(error)
    assert (found.code, found.msg) == (number, str(error))


def test_no_line_of_the_table_hides_a_later_one() -> None:
    for index, (kind, _) in enumerate(NUMBERS):
        assert not any(issubclass(kind, earlier) for earlier, _ in NUMBERS[:index]), kind


def test_the_gate_waits_for_adds_and_holds_new_ones_back() -> None:
    async def main() -> list[str]:
        gate, seen = AddGate(), []

        async def add(name: str, go: asyncio.Event) -> None:
            await gate.enter()
            seen.append(f"{name} in")
            await go.wait()
            seen.append(f"{name} out")
            gate.leave()

        async def snapshot() -> None:
            async with gate.closed():
                seen.append("snapshot")
                await asyncio.sleep(0)
                seen.append("snapshot ends")

        first, second = asyncio.Event(), asyncio.Event()
        second.set()
        tasks = [asyncio.create_task(add("first", first))]
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(snapshot()))
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(add("second", second)))
        await asyncio.sleep(0)
        assert seen == ["first in"]
        first.set()
        await asyncio.gather(*tasks)
        return seen

    assert asyncio.run(main()) == ["first in", "first out", "snapshot", "snapshot ends", "second in", "second out"]


def test_the_gate_stays_closed_until_the_last_has_left() -> None:
    async def main() -> list[str]:
        gate, seen = AddGate(), []
        first, second = asyncio.Event(), asyncio.Event()

        async def hold(go: asyncio.Event) -> None:
            async with gate.closed():
                await go.wait()

        async def add() -> None:
            await gate.enter()
            seen.append("in")
            gate.leave()

        tasks = [asyncio.create_task(hold(first)), asyncio.create_task(hold(second)), asyncio.create_task(add())]
        await asyncio.sleep(0.01)
        first.set()
        await asyncio.sleep(0.01)
        assert seen == []
        second.set()
        await asyncio.gather(*tasks)
        return seen

    assert asyncio.run(main()) == ["in"]


def pool(name: str, node: str) -> SpiderIPPool:
    spec = PoolSpec(subnet="10.0.0.0/24", ips=("10.0.0.1-10.0.0.5",), node_name=(node,), default=True)
    return SpiderIPPool(metadata=ObjectMeta(name=name), spec=spec)


class OneStatusStore:
    """A store that knows pools and keeps the statuses written; `fail` makes the next writes fail."""

    def __init__(self, *pools: SpiderIPPool) -> None:
        self.pools = {one.metadata.name: one for one in pools}
        self.written: dict[str, dict[str, Any]] = {}
        self.fail = 0

    def get(self, _kind: object, _namespace: str, name: str) -> SpiderIPPool | None:
        return self.pools.get(name)

    async def write_status(self, _kind: object, _namespace: str, name: str, status: dict[str, Any]) -> None:
        if self.fail:
            self.fail -= 1
            raise StoreError("disk full")
        self.written[name] = status


def ledger_with_one() -> Ledger:
    ledger = Ledger()
    ledger.set_pools([pool("mine", "worker")])
    facts = Facts(started_ns=1, pod_namespace="default", pod_name="web", pod_uid="u1")
    ledger.take(AttachmentKey("n", "c", "eth0"), Want("worker"), facts, 0.0)
    return ledger


def test_a_pools_status_is_as_spiderpool_writes_it() -> None:
    status = pool_status(ledger_with_one(), "mine")
    assert (status["allocatedIPCount"], status["totalIPCount"]) == (1, 5)
    assert json.loads(status["allocatedIPs"]) == {
        "10.0.0.1": {"interface": "eth0", "pod": "default/web", "podUid": "u1"}
    }
    assert "allocatedIPs" not in pool_status(Ledger(), "mine")


def test_only_own_pools_are_published_and_failures_are_kept_for_later() -> None:
    store = OneStatusStore(pool("mine", "worker"), pool("theirs", "master"))
    publisher = Publisher(store, ledger_with_one(), "worker")  # type: ignore[arg-type]
    publisher.touch("mine", "theirs", "unknown")
    store.fail = 1
    assert asyncio.run(publisher.flush()) is False
    assert store.written == {}
    assert asyncio.run(publisher.flush()) is True
    assert set(store.written) == {"mine"}
