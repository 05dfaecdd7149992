"""The composition root: builds the node from its parts, in the order of `agent.restart`, and runs it.

Every long-lived task is a child of one TaskGroup; one that fails or returns ends the process, and the kubelet starts it
again: nothing of the pods depends on this process staying.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import re
import signal
import time
from collections.abc import Awaitable, Iterator
from functools import partial
from pathlib import Path

from agent import (
    answers,
    flow_answers,
    pod_add,
    pod_check,
    pod_del,
    restart,
    service_answers,
    socket_lb,
    threads,
    trace_answers,
    uplink_up,
)
from agent.config import Config
from agent.conntrack_ageing import ConntrackAgeing
from agent.node import Node
from agent.publish import Publisher
from agent.service_sync import ServiceSync
from agent.uplinks import UplinkCache
from allocator.journal import Journal, JournalError
from allocator.ledger import Ledger
from cluster.directory import DirectoryStore
from cluster.resources import SpiderIPPool, SpiderMultusConfig
from cluster.store import StoreError
from cni.server import Server
from datapath.kernel import Datapath
from datapath.loader import BpfLoadError, load
from datapath.maps import Maps
from datapath.rtsocket import NetlinkError

OLDEST_KERNEL = (5, 10)
SYNC_WAIT_S = 5.0
"""How long the socket waits for the first read of the store; DELs need no store, so not for ever."""
COMPACT_CHECK_S = 5.0
REAP_WAIT_S = 5.0

CONTROLS = {
    "status": answers.status,
    "pools": answers.pools,
    "services": service_answers.services,
    "conntrack": flow_answers.conntrack,
    "drops": flow_answers.drops,
    "trace": trace_answers.trace_answer,
}

log = logging.getLogger(__name__)


class StartError(Exception):
    """The agent cannot run here; the text says why and what to do."""


class TaskEnded(Exception):
    """A task that should run for ever has returned."""


async def run(config: Config) -> int:
    """Run the agent until SIGTERM or SIGINT; the exit code. Raises StartError."""
    check_host()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        with _built(config) as node:
            await _serve(node, stop)
    except* StoreError as group:
        raise StartError(str(group.exceptions[0])) from group
    return 0


def check_host() -> None:
    """Raise StartError when this is not root or the kernel is too old for the programs."""
    if os.geteuid() != 0:
        raise StartError("must run as root: it makes links and loads BPF programs")
    release = tuple(int(number) for number in re.findall(r"\d+", platform.release())[:2])
    if release < OLDEST_KERNEL:
        raise StartError(f"Linux {platform.release()} is too old: the programs need 5.10 or newer")


@contextlib.contextmanager
def _built(config: Config) -> Iterator[Node]:
    """The node with journal, programs and maps open. Raises StartError."""
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:
        try:
            config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
            journal, records = Journal.open(config.journal, boot_id)
            stack.callback(journal.close)
            balancing = socket_lb.wanted(config)
            programs = stack.enter_context(load(config.bpf_root, specs=balancing.programs))
            maps = stack.enter_context(Maps(config.bpf_root))
            balancing = socket_lb.switch(balancing, programs, config.bpf_root)
        except (JournalError, BpfLoadError, OSError) as error:
            raise StartError(str(error)) from error
        for problem in journal.problems:
            log.warning("journal: %s", problem)
        kernel = Datapath(config.bpf_root, programs, maps)
        stack.callback(kernel.close)
        store = DirectoryStore(config.store)
        services = ServiceSync(store, maps, config.node_name)
        ledger = Ledger(config.cooldown_s)
        ledger.replay(records, time.monotonic())
        took = f"{(time.monotonic() - begin) * 1e3:.0f} ms"
        yield Node(
            config=config,
            store=store,
            ledger=ledger,
            journal=journal,
            kernel=kernel,
            maps=maps,
            uplinks=UplinkCache(kernel),
            publisher=Publisher(store, ledger, config.node_name),
            services=services,
            ageing=ConntrackAgeing(maps, services),
            programs=f"{programs.build}, {'compiled' if programs.compiled else 'adopted'}, ready in {took}",
            socket_lb=str(balancing),
        )


async def _serve(node: Node, stop: asyncio.Event) -> None:
    verbs = {
        "ADD": partial(pod_add.pod_add, node),
        "DEL": partial(pod_del.pod_del, node),
        "CHECK": partial(pod_check.pod_check, node),
        "STATUS": partial(pod_check.node_status, node),
    }
    controls = {verb: partial(answer, node) for verb, answer in CONTROLS.items()}
    server = Server(node.config.socket, verbs, controls, node.config.deadline_s)
    _follow_pools(node)
    node.services.on_gone = partial(socket_lb.backends_gone, node)
    node.uplinks.prepared = partial(uplink_up.restore_pods, node)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_for_ever(body, name), name=name)
            for name, body in (
                ("store", node.store.run()),
                ("uplinks", node.uplinks.run()),
                ("services", node.services.run()),
                ("ageing", node.ageing.run()),
                ("publisher", node.publisher.run()),
                ("journal", _compact(node)),
            )
        ]
        await restart.recover(node)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SYNC_WAIT_S):
                await node.store.synced.wait()
        await _prepare_uplinks(node)
        await restart.drain_spool(node)
        await server.start()
        # A shim that found no socket until now has spooled before its last try: this finds what the first drain missed.
        await restart.drain_spool(node)
        log.info("ready", extra={"node": node.config.node_name})
        await stop.wait()
        await server.stop()
        if node.reaping:  # what does not end in time is in the journal, and goes on at the next start
            await asyncio.wait(node.reaping.values(), timeout=REAP_WAIT_S)
        await node.publisher.flush()
        for task in tasks:
            task.cancel()


async def _prepare_uplinks(node: Node) -> None:
    """Make the uplinks that the networks name ready now, so that the first pod does not wait for it."""
    links = (link for smc in node.store.list(SpiderMultusConfig) for link in (smc.spec.ipvlan, smc.spec.macvlan))
    for name in sorted({link.master[0] for link in links if link is not None and link.master}):
        try:
            await node.uplinks.get(name)
        except (NetlinkError, OSError) as error:
            # A network may be meant for other nodes; a pod that asks for it here is told.
            log.info("uplink %s is not usable on this node: %s", name, error)


async def _for_ever(body: Awaitable[None], name: str) -> None:
    await body
    raise TaskEnded(f"{name} has ended")


def _follow_pools(node: Node) -> None:
    """Keep the ledger's pools equal to the store's."""

    pending: set[str] = set()

    def follow() -> None:
        # A pool that lists an address of the node itself must not take the node off the network.
        node.pool_problems = node.ledger.set_pools(node.store.list(SpiderIPPool), node.uplinks.node_addresses)
        for name, problem in node.pool_problems:
            log.warning("pool %s: %s; its last good state stays in force", name, problem, extra={"pool": name})
        node.publisher.touch(*pending)
        pending.clear()

    def heard(kind: str, key: str) -> None:
        if kind != "SpiderIPPool":
            return
        if not pending:  # once for all pools of one change
            asyncio.get_running_loop().call_soon(follow)
        pending.add(key)

    node.store.subscribe(heard)
    node.uplinks.addresses_changed = follow


async def _compact(node: Node) -> None:
    while True:
        await asyncio.sleep(COMPACT_CHECK_S)
        if node.journal.due:
            async with node.gate.closed():
                snapshot = node.ledger.compaction_records(time.monotonic())
            try:
                await threads.run(partial(node.journal.compact, snapshot))
            except JournalError as error:
                log.error("%s", error, extra={"reason": str(error)})
