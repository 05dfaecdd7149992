"""The command line against a stand-in of the agent: what it asks, what it prints, how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent import cli, client

FULL = {"flows": [], "matching": 0, "entries": 0, "capacity": 131072, "socket_lb": "off: x"}
TRACED = {"head": "h", "stages": [{"name": "n", "decision": "d", "lines": []}], "hooked": [], "verdicts": []}
ANSWERS: dict[str, Any] = {"services": {"frontends": []}, "conntrack": FULL, "drops": [], "trace": TRACED, "pools": []}

Asked = list[tuple[str, Any]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """(verb, arguments) of every question."""
    seen: Asked = []

    def ask(path: Path, verb: str, arguments: dict[str, Any] | None = None) -> Any:
        del path
        seen.append((verb, arguments))
        return ANSWERS[verb]

    monkeypatch.setattr(client, "ask", ask)
    return seen


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        (["services"], {"service": ""}),
        (["services", "default/web"], {"service": "default/web"}),
        (["conntrack"], {"pod": "", "service": "", "limit": 1000}),
        (["conntrack", "--pod", "a", "--service", "b:80", "--limit", "0"], {"pod": "a", "service": "b:80", "limit": 0}),
        (["drops", "--all"], {}),
        (["trace", "a", "default/b:53/udp"], {"pod": "a", "name": "default/b", "port": 53, "protocol": "UDP"}),
        (["trace", "a", "10.96.0.1"], {"pod": "a", "name": "10.96.0.1", "port": 0, "protocol": ""}),
        (["pools"], {}),
    ],
)
def test_what_is_asked(asked: Asked, capsys: pytest.CaptureFixture[str], words: list[str], arguments: object) -> None:
    assert cli.main(words) == cli.EXIT_OK
    assert asked == [(words[0], arguments)]
    assert capsys.readouterr().out.strip()


def test_json_is_the_answer_itself(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["conntrack", "-o", "json"]) == cli.EXIT_OK
    assert json.loads(capsys.readouterr().out) == FULL


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nosuch"],
        ["trace", "pod"],
        ["trace", "pod", "web:http"],
        ["services", "a/b/c"],
        ["conntrack", "--limit", "-1"],
        ["conntrack", "--limit", "many"],
        ["conntrack", "--service", "web:0"],
        ["drops", "-o", "yaml"],
    ],
)
def test_bad_usage(asked: Asked, words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == cli.EXIT_USAGE
    assert not asked


def raising(error: Exception) -> Callable[..., Any]:
    def ask(*_arguments: object) -> Any:
        raise error

    return ask


def test_how_it_ends_without_an_answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(client, "ask", raising(client.AgentRefused("no pod 'x'")))
    assert cli.main(["trace", "x", "web"]) == cli.EXIT_PROBLEM
    assert capsys.readouterr().err == "dragline: the agent says: no pod 'x'\n"
    monkeypatch.setattr(client, "ask", raising(client.AgentAway("/run/x: is it running?")))
    assert cli.main(["services"]) == cli.EXIT_AWAY


def test_asking_needs_nothing_heavy() -> None:
    """The commands start in a tenth of a second: neither msgspec nor the kernel's libraries are imported."""
    heavy = "('msgspec', 'pyroute2', 'bcc', 'uvloop', 'yaml')"
    script = f"import sys, agent.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
