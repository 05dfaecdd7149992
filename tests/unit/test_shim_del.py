"""A DEL without an agent: written down durably, taken back when an agent turns out to be there after all."""

import contextlib
import json
import os
import signal
import stat
import time
from pathlib import Path

import pytest

from cni.errors import BAD_ENVIRONMENT, IO_FAILURE
from cni.spool import done, pending
from tests.fakes.cni_agent import FakeAgent, build_shim, hangs_up, run_shim, says
from tests.fakes.syscalls import run_traced

QUICK = {"DRAGLINE_CONNECT_MS": "20"}
NAME = "c0ffee-eth0.del"
DEL_ENV = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "c0ffee", "CNI_IFNAME": "eth0", "DRAGLINE_CONNECT_MS": "0"}


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shim(tmp_path_factory.mktemp("shim_del"))


@pytest.fixture
def sock(tmp_path: Path) -> Path:
    return tmp_path / "run" / "agent.sock"


def config(sock: Path, **more: object) -> bytes:
    return json.dumps({"cniVersion": "0.4.0", "name": "net", "socket": str(sock), **more}).encode()


def test_a_del_without_an_agent_succeeds_and_is_drained_later(shim: Path, sock: Path) -> None:
    content = config(sock)
    env = QUICK | {"CNI_NETNS": "/no/such/netns", "CNI_ARGS": "K8S_POD_NAME=p"}
    called = run_shim(shim, "DEL", content, env)
    assert (called.returncode, called.stdout, called.stderr) == (0, b"", b"")
    spool = sock.parent / "spool"
    (waiting,) = pending(spool)
    assert waiting.path == spool / NAME
    frame = waiting.frame
    assert (frame.command, frame.container_id, frame.ifname) == ("DEL", "c0ffee", "eth0")
    assert (frame.netns, frame.args, frame.config) == ("/no/such/netns", "K8S_POD_NAME=p", content)
    done(waiting.path)
    assert list(spool.iterdir()) == []


def test_spool_and_file_are_for_root_alone(shim: Path, sock: Path) -> None:
    run_shim(shim, "DEL", config(sock), QUICK)
    assert stat.S_IMODE((sock.parent / "spool").stat().st_mode) == 0o700
    assert stat.S_IMODE((sock.parent / "spool" / NAME).stat().st_mode) == 0o600


def test_the_file_is_on_disk_before_it_has_its_name(shim: Path, sock: Path) -> None:
    code, calls = run_traced(shim, DEL_ENV, config(sock), lambda _: None)
    assert code == 0
    # the folder; the draft, its content, its name; the folder's content; one more try for an agent
    tail = ["openat", "openat", "write", "fsync", "renameat", "fsync", "connect", "exit_group"]
    assert calls[calls.index("connect") + 1 :] == tail


def test_a_repeated_del_replaces_its_file(shim: Path, sock: Path) -> None:
    for turn in range(2):
        run_shim(shim, "DEL", config(sock, turn=turn), QUICK)
    (waiting,) = pending(sock.parent / "spool")
    assert json.loads(waiting.frame.config)["turn"] == 1


def test_a_broken_connection_spools_and_tries_once_more(shim: Path, sock: Path) -> None:
    sock.parent.mkdir()
    with FakeAgent(sock, [hangs_up, says(0, b"")]) as agent:
        assert run_shim(shim, "DEL", config(sock)).returncode == 0
    assert [seen.frame.command for seen in agent.seen] == ["DEL", "DEL"]
    assert agent.seen[1].netns is not None
    assert list((sock.parent / "spool").iterdir()) == []


def test_a_connection_that_breaks_twice_leaves_the_file(shim: Path, sock: Path) -> None:
    sock.parent.mkdir()
    with FakeAgent(sock, [hangs_up]) as agent:
        assert run_shim(shim, "DEL", config(sock)).returncode == 0
    assert len(agent.seen) == 2
    assert (sock.parent / "spool" / NAME).exists()


def test_an_error_at_the_second_try_is_passed_on_and_leaves_the_file(shim: Path, sock: Path) -> None:
    sock.parent.mkdir()
    with FakeAgent(sock, [hangs_up, says(1, b"{}")]):
        called = run_shim(shim, "DEL", config(sock))
    assert (called.returncode, called.stdout) == (1, b"{}")
    assert (sock.parent / "spool" / NAME).exists()


@pytest.mark.parametrize("moment", ["fsync", "renameat"])
def test_an_agent_that_appears_while_the_shim_spools_gets_the_del(shim: Path, sock: Path, moment: str) -> None:
    """The race: the agent listens after the shim's last failed connect, and has drained before the file is there."""
    sock.parent.mkdir()
    agent = FakeAgent(sock, [says(0, b"")])
    with contextlib.ExitStack() as stack:

        def starts(call: str) -> None:
            if call == moment and not sock.exists():
                assert pending(sock.parent / "spool") == []
                stack.enter_context(agent)

        code, _ = run_traced(shim, DEL_ENV, config(sock), starts)
    assert code == 0
    assert [seen.frame.command for seen in agent.seen] == ["DEL"]
    assert list((sock.parent / "spool").iterdir()) == []


def test_a_killed_shim_leaves_no_half_file(shim: Path, sock: Path) -> None:
    """SIGKILL between write and rename: the drain sees nothing (and the runtime repeats a DEL that was killed)."""
    pids = []

    def kills(call: str) -> None:
        if call == "renameat":
            (draft,) = (sock.parent / "spool").iterdir()
            pids.append(int(draft.name.rpartition(".")[2]))
            os.kill(pids[0], signal.SIGKILL)

    code, _ = run_traced(shim, DEL_ENV, config(sock), kills)
    assert code == -signal.SIGKILL
    assert pending(sock.parent / "spool") == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CNI_CONTAINERID", ""),
        ("CNI_CONTAINERID", "../../etc"),
        ("CNI_CONTAINERID", ".hidden"),
        ("CNI_CONTAINERID", "x" * 300),
        ("CNI_IFNAME", ""),
        ("CNI_IFNAME", "a/b"),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "sixteen-letters-"),
    ],
)
def test_what_cannot_be_a_file_name_is_not_spooled(shim: Path, sock: Path, name: str, value: str) -> None:
    called = run_shim(shim, "DEL", config(sock), QUICK | {name: value})
    body = json.loads(called.stdout)
    assert (called.returncode, body["code"]) == (1, BAD_ENVIRONMENT)
    assert name in body["msg"]
    assert list(sock.parent.parent.rglob("*.del*")) == []


def test_a_spool_that_cannot_be_written_is_an_error(shim: Path, sock: Path) -> None:
    sock.parent.mkdir()
    (sock.parent / "spool").write_text("not a folder")
    called = run_shim(shim, "DEL", config(sock), QUICK)
    body = json.loads(called.stdout)
    assert (called.returncode, body["code"], body["cniVersion"]) == (1, IO_FAILURE, "0.4.0")
    assert "not found" not in body["msg"]  # go-cni would take that for success


def test_a_del_waits_briefly_for_a_restarting_agent(shim: Path, sock: Path) -> None:
    sock.parent.mkdir()
    agent = FakeAgent(sock, [says(0, b"")])
    connects = []
    with contextlib.ExitStack() as stack:

        def starts(call: str) -> None:
            connects.extend([call] if call == "connect" else [])
            if len(connects) == 3 and not sock.exists():
                stack.enter_context(agent)

        code, _ = run_traced(shim, DEL_ENV | {"DRAGLINE_CONNECT_MS": "5000"}, config(sock), starts)
    assert (code, len(agent.seen), len(connects)) == (0, 1, 3)
    assert not (sock.parent / "spool").exists()


def test_a_del_does_not_wait_as_long_as_an_add(shim: Path, sock: Path) -> None:
    begun = time.monotonic()
    assert run_shim(shim, "DEL", config(sock), {"DRAGLINE_CONNECT_MS": "60000"}).returncode == 0
    assert 0.3 <= time.monotonic() - begun < 5.0
    assert (sock.parent / "spool" / NAME).exists()
