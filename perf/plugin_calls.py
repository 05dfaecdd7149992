"""Running CNI plugins as a runtime does, with as little of our own in the measured time as possible.

posix_spawn from one thread, children reaped by waitpid: the harness costs the same few hundred microseconds on both
sides, and no Python thread competes for the processors.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Chain:
    """A plugin and its configuration; `node` is the netns it runs in (the node's), as a path."""

    plugin: Path
    config: Path
    output: Path


@dataclass(frozen=True, slots=True)
class Call:
    """One verb for one sandbox (the name of its netns is also its container id and its pod's name)."""

    chain: Chain
    verb: str
    pod: str


class PluginFailed(Exception):
    """A plugin did not exit with 0; the text is what it printed."""


def once(call: Call) -> float:
    """Seconds from exec to exit."""
    begin = time.perf_counter()
    pid = _spawn(call)
    _, status = os.waitpid(pid, 0)
    spent = time.perf_counter() - begin
    _check(call, status)
    return spent


def burst(calls: Sequence[Call], parallel: int) -> float:
    """Seconds for all calls, `parallel` at a time."""
    waiting = list(reversed(calls))
    running: dict[int, Call] = {}
    begin = time.perf_counter()
    while waiting or running:
        while waiting and len(running) < parallel:
            call = waiting.pop()
            running[_spawn(call)] = call
        pid, status = os.waitpid(-1, 0)
        done = running.pop(pid, None)
        if done is not None:
            _check(done, status)
    return time.perf_counter() - begin


def _spawn(call: Call) -> int:
    arguments = (
        f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={call.pod};K8S_POD_INFRA_CONTAINER_ID={call.pod}"
    )
    environment = {
        "CNI_COMMAND": call.verb,
        "CNI_CONTAINERID": call.pod,
        "CNI_NETNS": f"/run/netns/{call.pod}",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": f"{arguments};K8S_POD_UID={call.pod}",
        "CNI_PATH": str(call.chain.plugin.parent),
        "PATH": "/usr/bin:/bin",
    }
    output = str(_output(call))
    actions: list[tuple[Any, ...]] = [
        (os.POSIX_SPAWN_OPEN, 0, str(call.chain.config), os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
    ]
    return os.posix_spawn(str(call.chain.plugin), [str(call.chain.plugin)], environment, file_actions=actions)


def _output(call: Call) -> Path:
    return call.chain.output / f"{call.pod}.{call.verb}"


def _check(call: Call, status: int) -> None:
    if status != 0:
        text = _output(call).read_text(encoding="utf-8", errors="replace")
        raise PluginFailed(f"{call.chain.plugin.name} {call.verb} {call.pod}: status {status}: {text}")


def write_config(path: Path, config: dict[str, Any]) -> Path:
    """The network configuration as a file, which becomes the plugin's standard input."""
    path.write_text(json.dumps(config), encoding="utf-8")
    return path
