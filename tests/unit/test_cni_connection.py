"""Clients of the agent's socket that misbehave: broken frames, half frames, vanishing, not reading. Needs root."""

import asyncio
import json
import logging
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from cni.errors import DECODE_FAILURE, TRY_AGAIN
from cni.frame import encode
from tests.fakes.cni_client import (
    ADD,
    CONFIG,
    DEL,
    LOOPS,
    STATUS,
    WHOLE,
    Agent,
    Scenario,
    answer,
    begin,
    call,
    connect,
    run_on,
    serving,
)

BROKEN = [b"GET / HTTP/1.1\r\n\r\n", b"DRG1\xff\xff\xff\xff", WHOLE + b"x", b"DRG1\x04\0\0\0abcd"]


Run = Callable[[Scenario], None]


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    return partial(run_on, request.param, tmp_path / "agent.sock")


@pytest.mark.parametrize("sent", BROKEN)
def test_a_broken_frame_is_refused_and_the_next_is_served(run: Run, sent: bytes) -> None:
    async def scenario(path: Path) -> None:
        async with serving(path, Agent()):
            sock = await connect(path)
            await asyncio.get_running_loop().sock_sendall(sock, sent)
            code, body = await answer(sock)
            assert (code, body["code"]) == (1, DECODE_FAILURE)
            assert await call(path, STATUS) == (0, {})

    run(scenario)


def test_a_frame_in_single_bytes_and_one_of_900_kb(run: Run) -> None:
    async def scenario(path: Path) -> None:
        agent = Agent()
        async with serving(path, agent):
            loop = asyncio.get_running_loop()
            sock = await connect(path)
            for byte in WHOLE:
                await loop.sock_sendall(sock, bytes([byte]))
                await asyncio.sleep(0)
            assert await answer(sock) == (0, {})
            long = CONFIG[:-1] + b',"padding":"' + b"x" * 900_000 + b'"}'
            assert await call(path, replace(STATUS, config=long)) == (0, {})
        assert len(agent.ended) == 2

    run(scenario)


@pytest.mark.parametrize("sent", [b"", b"DRG1", WHOLE[:-1]])
def test_a_client_that_leaves_or_stays_with_half_a_frame_is_dropped(run: Run, sent: bytes) -> None:
    async def scenario(path: Path) -> None:
        agent = Agent()
        async with serving(path, agent, deadline_s=0.05) as server:
            for leaves in (True, False):
                sock = await connect(path)
                await asyncio.get_running_loop().sock_sendall(sock, sent)
                if leaves:
                    sock.close()
                else:
                    with pytest.raises(ConnectionError):
                        await answer(sock)
                while server._connections:
                    await asyncio.sleep(0.001)
        assert agent.began == []

    run(scenario)


def test_a_verb_whose_client_vanishes_is_finished(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(path: Path) -> None:
        agent = Agent()
        agent.gate.clear()
        async with serving(path, agent):
            (await begin(path, ADD)).close()
            await agent.began_count(1)
            agent.gate.set()
            assert await call(path, DEL) == (0, {})
        assert [request.command for request in agent.ended] == ["ADD", "DEL"]

    with caplog.at_level(logging.INFO):
        run(scenario)
    assert "nobody heard it" in caplog.records[0].getMessage()


@pytest.mark.parametrize("count", [2, 3])
def test_more_than_one_descriptor_is_refused_and_none_is_kept(run: Run, count: int) -> None:
    async def scenario(path: Path) -> None:
        agent = Agent()
        async with serving(path, agent):
            sock = await connect(path)
            socket.send_fds(sock, [encode(ADD)], [0] * count)
            assert (await answer(sock))[1]["code"] == TRY_AGAIN
            sock = await connect(path)
            socket.send_fds(sock, [encode(ADD)[:10]], [0])
            await asyncio.sleep(0.01)
            socket.send_fds(sock, [encode(ADD)[10:]], [0])
            assert (await answer(sock))[1]["code"] == TRY_AGAIN
        assert agent.began == []

    run(scenario)


def test_a_large_answer_arrives_and_who_does_not_read_it_is_dropped(run: Run) -> None:
    async def scenario(path: Path) -> None:
        agent = Agent(json.dumps("x" * 3_000_000).encode())
        async with serving(path, agent, deadline_s=0.5) as server:
            assert await call(path, STATUS) == (0, "x" * 3_000_000)
            idle = await begin(path, STATUS)
            await agent.began_count(2)
            while server._connections:
                await asyncio.sleep(0.001)
            idle.close()

    run(scenario)
