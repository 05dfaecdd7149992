"""Named network namespaces: entering one from Python, and the commands that run inside one."""

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

NETNS_FOLDER = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class TestbedError(Exception):
    """Something of the testbed itself (not of Dragline) did not work; the message says what."""


def path_of(name: str) -> Path:
    """The bind mount of the namespace `name`, as `ip netns` makes it and as CNI_NETNS carries it."""
    return NETNS_FOLDER / name


def nsenter(name: str, command: Sequence[str]) -> list[str]:
    """The command line that runs `command` in the namespace `name`, keeping the mounts.

    Not `ip netns exec`: that makes a new mount namespace with a fresh /sys, which hides bpffs.
    """
    return ["nsenter", f"--net={path_of(name)}", "--", *command]


def enter(name: str, work: Callable[[], T]) -> T:
    """Run `work` in a throw-away thread that has entered the namespace `name`; its result or exception comes back.

    The thread never returns to its old namespace: it dies, so nothing can forget to go back.
    """
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            fd = os.open(path_of(name), os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _libc.setns(fd, _CLONE_NEWNET) != 0:
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number), str(path_of(name)))
            finally:
                os.close(fd)
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - carried over to the caller's thread, whatever it is
            failures.append(error)

    thread = threading.Thread(target=run, name=f"netns {name}")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def run(command: Sequence[str], stdin: str | None = None, timeout_s: float = 60.0) -> str:
    """Run `command` to its end and return its stdout; raises TestbedError with both outputs when it fails."""
    done = subprocess.run(
        command, input=stdin or "", capture_output=True, text=True, timeout=timeout_s, check=False, encoding="utf-8"
    )
    if done.returncode != 0:
        raise TestbedError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout


def ip_batch(lines: Iterable[str], netns: str | None = None) -> None:
    """Run many iproute2 commands in one process; `netns` names the namespace they act in (None: only for
    commands that name theirs, such as `netns add` or `link add ... netns X`)."""
    where = ["-n", netns] if netns else []
    run(["ip", *where, "-batch", "-"], stdin="".join(f"{line}\n" for line in lines))


def write_sysctls(netns: str, values: dict[str, str]) -> None:
    """Write /proc/sys/net settings (key: path below it) in a namespace; /proc/sys/net shows the reader's own."""

    def write() -> None:
        for key, value in values.items():
            (Path("/proc/sys/net") / key).write_text(value)

    enter(netns, write)


def remove(names: Iterable[str]) -> None:
    """Delete the namespaces that exist, with the processes left in them; what is already gone is fine."""
    present = [name for name in names if path_of(name).exists()]
    for name in present:
        end_processes(name)
    if present:
        run(["ip", "-force", "-batch", "-"], stdin="".join(f"netns del {name}\n" for name in present))


def end_processes(name: str) -> None:
    """SIGKILL every process whose network namespace is `name`: it is ours alone, so they are ours, too."""
    for pid in run(["ip", "netns", "pids", name]).split():
        try:
            os.kill(int(pid), 9)
        except ProcessLookupError:
            continue
