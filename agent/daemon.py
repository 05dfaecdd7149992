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
import signal
import time
from collections.abc import Awaitable, Iterator
from functools import partial
from pathlib import Path

from agent import (
    answers,
    datapaths,
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
from agent.node import Node
from agent.open_datapath import opened
from agent.publish import Publisher
from agent.uplinks import UplinkCache
from allocator.journal import Journal, JournalError
from allocator.ledger import Ledger
from cluster.directory import DirectoryStore
from cluster.resources import SpiderIPPool, SpiderMultusConfig
from cluster.store import StoreError
from cni.server import Server
from datapath.loader import BpfLoadError
from datapath.rtsocket import NetlinkError

SYNC_WAIT_S = 5.0
"""How long the socket waits for the first read of the store; DELs need no store, so not for ever."""
COMPACT_CHECK_S = 5.0
REAP_WAIT_S = 5.0

CONTROLS = {
    "status": answers.status,
    "pools": answers.pools,
}
MAP_CONTROLS = {
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
    choice = choose_datapath(config)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        with _built(config, choice) as node:
            await _serve(node, stop)
    except* StoreError as group:
        raise StartError(str(group.exceptions[0])) from group
    return 0


def choose_datapath(config: Config) -> datapaths.Choice:
    """The kind of datapath; logged with what is missing. Raises StartError when this is not root, or refused."""
    if os.geteuid() != 0:
        raise StartError("must run as root: it makes links and loads BPF programs")
    try:
        choice = datapaths.choose(config.datapath, platform.release())
    except datapaths.DatapathRefused as error:
        raise StartError(str(error)) from error
    without = f"; without eBPF: {'; '.join(choice.missing)}" if choice.missing else ""
    log.log(logging.WARNING if without else logging.INFO, "datapath %s (%s)%s", choice.name, choice.reason, without)
    for problem in datapaths.problems(choice, config.service_cidr):
        log.warning("datapath: %s", problem)
    return choice


@contextlib.contextmanager
def _built(config: Config, choice: datapaths.Choice) -> Iterator[Node]:
    """The node with journal, programs and maps open. Raises StartError."""
    with contextlib.ExitStack() as stack:
        store = DirectoryStore(config.store)
        try:
            config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
            journal, records = Journal.open(config.journal, boot_id)
            stack.callback(journal.close)
            ledger = Ledger(config.cooldown_s)
            ledger.replay(records, time.monotonic())
            datapaths.refuse_change(config.state_dir / "datapath", choice, len(ledger.attachments()))
            datapath = stack.enter_context(opened(choice, config, store))
        except (JournalError, BpfLoadError, datapaths.DatapathRefused, OSError) as error:
            raise StartError(str(error)) from error
        for problem in journal.problems:
            log.warning("journal: %s", problem)
        yield Node(
            config=config,
            store=store,
            ledger=ledger,
            journal=journal,
            kernel=datapath.kernel,
            pinned=datapath.maps,
            uplinks=UplinkCache(datapath.kernel),
            publisher=Publisher(store, ledger, config.node_name),
            services=datapath.services,
            ageing=datapath.ageing,
            programs=datapath.programs,
            socket_lb=datapath.socket_lb,
            datapath=choice,
        )


def _server(node: Node) -> Server:
    verbs = {
        "ADD": partial(pod_add.pod_add, node),
        "DEL": partial(pod_del.pod_del, node),
        "CHECK": partial(pod_check.pod_check, node),
        "STATUS": partial(pod_check.node_status, node),
    }
    asks_maps = MAP_CONTROLS if node.pinned is not None else dict.fromkeys(MAP_CONTROLS, answers.no_maps)
    controls = {verb: partial(answer, node) for verb, answer in (CONTROLS | asks_maps).items()}
    return Server(node.config.socket, verbs, controls, node.config.deadline_s)


async def _serve(node: Node, stop: asyncio.Event) -> None:
    server = _server(node)
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
                ("sockets", socket_lb.run(node)),
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
