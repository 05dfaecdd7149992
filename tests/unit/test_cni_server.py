"""The agent's door, under asyncio's loop and uvloop's. Needs root: the server talks to nobody else."""

import asyncio
import json
import logging
import os
import time
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path

import pytest

from cni.errors import BAD_ENVIRONMENT, DECODE_FAILURE, INTERNAL, POOL_EXHAUSTED, TRY_AGAIN, CniError
from cni.request import Request
from cni.result import render_versions
from tests.fakes.cni_client import ADD, CONFIG, DEL, STATUS, Agent, answer, begin, call, serving
from tests.unit import cni_loops
from tests.unit.cni_loops import Run

run = cni_loops.run


def test_an_add_with_its_netns(run: Run) -> None:
    async def scenario(path: Path) -> None:
        agent = Agent(b'{"ok":true}')
        async with serving(path, agent):
            assert await call(path, ADD) == (0, {"ok": True})
        (request,) = agent.ended
        assert (request.key.container_id, request.started_ns) == ("one", 7)
        assert agent.netns == [Path("/proc/self/ns/net").stat().st_ino]

    run(scenario)


def test_the_netns_descriptor_is_closed_after_the_verb_and_not_inherited(run: Run) -> None:
    async def scenario(path: Path) -> None:
        agent = Agent()
        agent.gate.clear()
        async with serving(path, agent):
            sock = await begin(path, ADD)
            await agent.began_count(1)
            fd = agent.began[0].netns_fd
            assert not os.get_inheritable(fd)
            agent.gate.set()
            await answer(sock)
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)

    run(scenario)


def test_verbs_of_one_container_run_one_at_a_time_in_order(run: Run) -> None:
    async def scenario(path: Path) -> None:
        agent = Agent()
        agent.gate.clear()
        frames = [ADD, replace(ADD, command="CHECK"), DEL, replace(ADD, ifname="net1")]
        async with serving(path, agent) as server:
            socks = [await begin(path, frame) for frame in frames]
            await agent.began_count(1)
            await asyncio.sleep(0.02)
            assert len(agent.began) == 1
            agent.gate.set()
            for sock in socks:
                assert await answer(sock) == (0, {})
            assert len(server._lanes) == 0
        commands = [(request.command, request.key.ifname) for request in agent.ended]
        assert commands == [("ADD", "eth0"), ("CHECK", "eth0"), ("DEL", "eth0"), ("ADD", "net1")]

    run(scenario)


def test_a_burst_of_adds_does_not_keep_another_containers_del_out(run: Run) -> None:
    async def scenario(path: Path) -> None:
        agent = Agent()
        agent.gate.clear()
        dels = Agent()
        async with serving(path, agent, verbs={"DEL": dels.verb}):
            socks = [await begin(path, replace(ADD, container_id=f"add-{n}")) for n in range(100)]
            await agent.began_count(100)
            assert await call(path, DEL) == (0, {})
            agent.gate.set()
            for sock in socks:
                await answer(sock)

    run(scenario)


def test_status_version_and_controls_take_no_lane(run: Run) -> None:
    async def echo(arguments: bytes) -> bytes:
        return arguments

    async def scenario(path: Path) -> None:
        agent = Agent()
        agent.gate.clear()
        async with serving(path, agent, controls={"status": echo}):
            socks = [await begin(path, STATUS) for _ in range(2)]
            socks.append(await begin(path, ADD))
            await agent.began_count(3)
            version = replace(STATUS, command="VERSION", config=b'{"cniVersion":"0.4.0"}')
            assert await call(path, version) == (0, json.loads(render_versions("0.4.0")))
            assert await call(path, replace(STATUS, command="status", config=b"[1]")) == (0, [1])
            agent.gate.set()
            for sock in socks:
                await answer(sock)

    run(scenario)


def test_after_the_deadline_the_verb_goes_on_and_keeps_its_lane(run: Run) -> None:
    async def scenario(path: Path) -> None:
        agent = Agent()
        agent.gate.clear()
        async with serving(path, agent, deadline_s=0.1) as server:
            begun = time.monotonic()
            code, body = await call(path, replace(ADD, config=CONFIG.replace(b"1.1.0", b"0.4.0")))
            assert time.monotonic() - begun < 4  # the verb itself would never end
            assert (code, body["code"], body["cniVersion"]) == (1, TRY_AGAIN, "0.4.0")
            assert (await call(path, DEL))[1]["code"] == TRY_AGAIN  # its turn has not come
            assert (await call(path, ADD))[1]["code"] == TRY_AGAIN
            assert (len(agent.began), len(agent.ended)) == (1, 0)
            agent.gate.set()
            while len(server._lanes):
                await asyncio.sleep(0.001)
        # The DEL that nobody waits for is carried out, the ADD that nobody waits for is not.
        assert [request.command for request in agent.ended] == ["ADD", "DEL"]
        assert len(agent.netns) == 2

    run(scenario)


def test_errors_of_a_verb(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def exhausted(request: Request) -> bytes:
        raise CniError(POOL_EXHAUSTED, "pool full", "10 of 10")

    async def broken(request: Request) -> bytes:
        raise KeyError("a bug")

    async def cancelled(request: Request) -> bytes:
        raise asyncio.CancelledError

    async def scenario(path: Path) -> None:
        verbs = {"ADD": exhausted, "CHECK": broken, "DEL": cancelled}
        async with serving(path, Agent(), verbs=verbs) as server:
            expected = {"cniVersion": "1.1.0", "code": POOL_EXHAUSTED, "msg": "pool full", "details": "10 of 10"}
            assert await call(path, ADD) == (1, expected)
            code, body = await call(path, replace(ADD, command="CHECK"))
            assert (code, body["code"]) == (1, INTERNAL)
            assert "KeyError" in body["msg"]
            assert (await call(path, DEL))[1]["code"] == TRY_AGAIN
            assert await call(path, STATUS) == (0, {})
            assert len(server._lanes) == 0

    with caplog.at_level(logging.INFO):
        run(scenario)
    assert "Traceback" in caplog.text
    assert "a bug" in caplog.text


def test_errors_of_a_control(run: Run) -> None:
    async def refuses(arguments: bytes) -> bytes:
        raise CniError(DECODE_FAILURE, "no")

    async def scenario(path: Path) -> None:
        async with serving(path, Agent(), controls={"pools": refuses}):
            assert (await call(path, replace(STATUS, command="pools", config=b"")))[1]["code"] == DECODE_FAILURE
            for unknown in ("GC", "nodes", "", "add"):
                assert (await call(path, replace(STATUS, command=unknown)))[1]["code"] == BAD_ENVIRONMENT
            assert (await call(path, replace(ADD, config=b"{")))[1]["code"] == DECODE_FAILURE

    run(scenario)


def test_one_log_line_for_each_verb(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(path: Path) -> None:
        async with serving(path, Agent()):
            await call(path, ADD)
            await call(path, replace(ADD, config=b"{"))

    with caplog.at_level(logging.INFO):
        run(scenario)
    first, second = [record for record in caplog.records if record.name == "cni.server"]
    assert first.getMessage() == "ADD done"
    assert (first.__dict__["container_id"], first.__dict__["ifname"]) == ("one", "eth0")
    assert first.__dict__["pod"] == "default/web"
    assert second.getMessage() == f"ADD failed with code {DECODE_FAILURE}"
    assert "not JSON" in second.__dict__["reason"]


def test_verbs_are_awaitables_of_any_kind(run: Run) -> None:
    def verb(request: Request) -> Awaitable[bytes]:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        future.set_result(b"[]")
        return future

    async def scenario(path: Path) -> None:
        async with serving(path, Agent(), verbs={"STATUS": verb}):
            assert await call(path, STATUS) == (0, [])

    run(scenario)
