"""The agent's socket: whose it is, who may come in, and how it closes. Needs root: the server talks to nobody else."""

import asyncio
import logging
import resource
import socket
import stat
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cni.server import Server
from tests.fakes.cni_client import ADD, STATUS, WHOLE, Agent, answer, begin, call, connect, serving
from tests.unit import cni_loops
from tests.unit.cni_loops import Run

run = cni_loops.run


def test_stop_waits_for_running_verbs_and_takes_no_more(run: Run) -> None:
    async def scenario(path: Path) -> None:
        agent = Agent()
        agent.gate.clear()
        async with serving(path, agent) as server:
            sock = await begin(path, ADD)
            half = await connect(path)
            await agent.began_count(1)
            queued = await begin(path, replace(ADD, container_id="two"))  # in the backlog, not yet accepted
            stopping = asyncio.create_task(server.stop())
            await agent.began_count(2)
            assert not stopping.done()
            assert not path.exists()
            agent.gate.set()
            assert await answer(sock) == (0, {})
            assert await answer(queued) == (0, {})
            with pytest.raises(ConnectionError):
                await answer(half)
            await stopping
        await server.stop()

    run(scenario)


def test_a_successors_socket_is_left_in_place(run: Run) -> None:
    async def scenario(path: Path) -> None:
        async with serving(path, Agent()):
            async with serving(path, Agent(b"[2]")):
                assert await call(path, STATUS) == (0, [2])
            assert not path.exists()
            path.touch()
        assert path.exists()

    run(scenario)


def test_the_socket_is_roots_and_replaces_a_stale_one(run: Run) -> None:
    async def scenario(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        async with serving(path, Agent()):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert [entry.name for entry in path.parent.iterdir()] == [path.name]
            assert await call(path, STATUS) == (0, {})
        path.write_text("a file of somebody's")
        with pytest.raises(FileExistsError):
            await Server(path, {}, {}).start()
        assert path.read_text() == "a file of somebody's"

    run(scenario)


def test_a_peer_that_is_not_root_is_refused(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    program = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
        "s.sendall(bytes.fromhex(sys.argv[2])); print(s.recv(100))"
    )

    async def scenario(_: Path) -> None:
        # Not tmp_path: pytest's folders are closed to others, and the peer must get as far as the server's own check.
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)
            path = Path(folder, "agent.sock")
            agent = Agent()
            async with serving(path, agent):
                path.chmod(0o666)
                outcomes = []
                for user in (65534, 0):
                    process = await asyncio.to_thread(
                        subprocess.run,
                        [sys.executable, "-I", "-S", "-c", program, str(path), WHOLE.hex()],
                        capture_output=True,
                        user=user,
                        cwd="/",
                    )
                    outcomes.append(process.stdout)
            assert [b"DRG1" in outcome for outcome in outcomes] == [False, True]
            assert len(agent.began) == 1

    with caplog.at_level(logging.WARNING):
        run(scenario)
    assert "uid 65534" in caplog.text


def test_without_descriptors_left_accepting_pauses_and_resumes(run: Run) -> None:
    async def scenario(path: Path) -> None:
        async with serving(path, Agent()):
            sock = await connect(path)
            await asyncio.get_running_loop().sock_sendall(sock, WHOLE)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (sock.fileno() + 1, hard))
            begun = time.process_time()
            try:
                await asyncio.sleep(0.2)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert time.process_time() - begun < 0.1  # a loop that accepts in vain would take all of it
            assert await answer(sock) == (0, {})

    run(scenario)
