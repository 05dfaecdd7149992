"""A real `dragline agent` process in a node's network namespace."""

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from agent import client
from agent.config import Config, argument_list
from tests.testbed.netns import TestbedError, nsenter

STARTED_POLL_S = 0.05
STOP_S = 15.0


class AgentProcess:
    """The agent of one node: started, killed and restarted on the same socket, journal and pins."""

    def __init__(self, config: Config, netns: str, log: Path) -> None:
        self.config = config
        self._netns = netns
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of the running agent; TestbedError when none runs."""
        if self._process is None:
            raise TestbedError(f"no agent runs on {self.config.node_name}")
        return self._process.pid

    def start(self) -> None:
        """Start the process (nsenter execs it: the pid is the agent's own); does not wait."""
        if self._process is not None:
            raise TestbedError(f"the agent of {self.config.node_name} runs already")
        for folder in (self.config.socket.parent, self.config.state_dir):
            folder.mkdir(parents=True, exist_ok=True)
        command = [str(Path(sys.executable).with_name("dragline")), "agent", *argument_list(self.config)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                nsenter(self._netns, command), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def wait_ready(self, timeout_s: float = 180.0) -> float:
        """Wait until the agent says that it is ready; the seconds it took. TestbedError with the log when it does not.

        The first start on a kernel compiles the programs: 5 to 10 s in an emulated guest.
        """
        begin = time.monotonic()
        while time.monotonic() - begin < timeout_s:
            if self._process is None or self._process.poll() is not None:
                raise TestbedError(f"the agent of {self.config.node_name} ended\n{self.log_tail()}")
            with contextlib.suppress(client.AgentAway):
                if self.ask("status")["ready"]:
                    return time.monotonic() - begin
            time.sleep(STARTED_POLL_S)
        raise TestbedError(
            f"the agent of {self.config.node_name} is not ready after {timeout_s:.0f} s\n{self.log_tail()}"
        )

    def ask(self, verb: str) -> Any:
        """The answer of a control verb ("status", "pools")."""
        return client.ask(self.config.socket, verb)

    def kill(self) -> None:
        """SIGKILL: nothing of the agent gets to run any more."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM as a node's shutdown does, SIGKILL if that takes too long; no agent is fine."""
        if self._process is not None:
            self._end(signal.SIGTERM)

    def clean(self) -> None:
        """Remove the agent's pins (they outlive it on purpose)."""
        shutil.rmtree(self.config.bpf_root, ignore_errors=True)

    def log_tail(self, lines: int = 40) -> str:
        """The end of the agent's log, for a failure's message."""
        text = self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""
        return "\n".join([f"--- log of the agent of {self.config.node_name}", *text.splitlines()[-lines:]])

    def _end(self, number: signal.Signals) -> None:
        process = self._process
        if process is None:
            raise TestbedError(f"no agent runs on {self.config.node_name}")
        process.send_signal(number)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise TestbedError(
                f"the agent of {self.config.node_name} ignored {number.name}\n{self.log_tail()}"
            ) from None
        finally:
            self._process = None
