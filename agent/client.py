"""The command line's side of the agent's socket: one control verb, one answer."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

from cni import frame

TIMEOUT_S = 30.0  # longer than the agent's own deadline, whose answer says more


class AgentAway(Exception):
    """No agent answers at the socket; the text says what to do."""


class AgentRefused(Exception):
    """The agent answered with an error."""


def ask(path: Path, verb: str, arguments: dict[str, Any] | None = None) -> Any:
    """The decoded JSON answer of a control verb ("status", "pools").

    Raises AgentAway when nothing listens, AgentRefused when the agent reports an error.
    """
    question = frame.encode(
        frame.Frame(
            command=verb,
            container_id="",
            netns="",
            ifname="",
            args="",
            path="",
            config=json.dumps(arguments or {}).encode(),
            started_ns=time.monotonic_ns(),
        )
    )
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.connect(str(path))
            connection.sendall(question)
            answer = bytearray()
            while chunk := connection.recv(65536):
                answer += chunk
    except PermissionError as error:
        raise AgentAway(f"{path}: permission denied: the agent talks to root only") from error
    except OSError as error:
        raise AgentAway(f"{path}: {error.strerror or error}: is `dragline agent` running?") from error
    code, body = frame.decode_answer(bytes(answer))
    if code != 0:
        raise AgentRefused(json.loads(body).get("msg", body.decode(errors="replace")))
    return json.loads(body)
