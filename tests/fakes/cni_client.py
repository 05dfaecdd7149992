"""A tiny client of the agent's socket, verbs that note what they were asked, and a loop to run both on."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop

from cni.frame import Frame, decode_answer, encode
from cni.request import Request
from cni.server import Server

CONFIG = b'{"cniVersion":"1.1.0","name":"net","master":"eth0"}'
ARGS = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web"
ADD = Frame("ADD", "one", "/run/netns/x", "eth0", ARGS, "", CONFIG, 7)
DEL = replace(ADD, command="DEL")
STATUS = replace(ADD, command="STATUS", container_id="", ifname="", netns="")
WHOLE = encode(STATUS)

Scenario = Callable[[Path], Coroutine[Any, Any, None]]
LOOPS = {"asyncio": None, "uvloop": uvloop.new_event_loop}


def run_on(loop: str, path: Path, scenario: Scenario) -> None:
    """Run a scenario with the socket's path on one kind of loop; fails if it leaves a descriptor open."""
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(asyncio.sleep(0))  # libuv keeps a few descriptors for the process's life
    before = sorted(Path("/proc/self/fd").iterdir())
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(asyncio.wait_for(scenario(path), 10))
    assert sorted(Path("/proc/self/fd").iterdir()) == before


class Agent:
    """Verbs that note what they were asked, and wait at a gate while it is closed."""

    def __init__(self, body: bytes = b"{}") -> None:
        self.body = body
        self.gate = asyncio.Event()
        self.gate.set()
        self.began: list[Request] = []
        self.ended: list[Request] = []
        self.netns: list[int] = []

    async def verb(self, request: Request) -> bytes:
        self.began.append(request)
        await self.gate.wait()
        if request.netns_fd >= 0:
            self.netns.append(os.fstat(request.netns_fd).st_ino)
        self.ended.append(request)
        return self.body

    async def began_count(self, count: int) -> None:
        while len(self.began) < count:
            await asyncio.sleep(0.001)


@asynccontextmanager
async def serving(path: Path, agent: Agent, deadline_s: float = 5.0, **more: Any) -> AsyncIterator[Server]:
    verbs = dict.fromkeys(("ADD", "DEL", "CHECK", "STATUS"), agent.verb) | more.get("verbs", {})
    server = Server(path, verbs, more.get("controls", {}), deadline_s)
    await server.start()
    try:
        yield server
    finally:
        agent.gate.set()
        await server.stop()


async def connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.connect(str(path))
    return sock


async def answer(sock: socket.socket) -> tuple[int, Any]:
    """(exit code, JSON body or None) after the server has closed; ConnectionError if it said nothing."""
    loop = asyncio.get_running_loop()
    received = b""
    with sock:
        while chunk := await loop.sock_recv(sock, 1 << 20):
            received += chunk
    if not received:
        raise ConnectionError
    code, body = decode_answer(received)
    return code, json.loads(body) if body else None


async def begin(path: Path, frame: Frame) -> socket.socket:
    """Send a frame, with a real netns descriptor when the frame names one."""
    sock = await connect(path)
    if not frame.netns:
        await asyncio.get_running_loop().sock_sendall(sock, encode(frame))
        return sock
    fd = os.open("/proc/self/ns/net", os.O_RDONLY)
    socket.send_fds(sock, [encode(frame)], [fd])
    os.close(fd)
    return sock


async def call(path: Path, frame: Frame) -> tuple[int, Any]:
    return await answer(await begin(path, frame))
