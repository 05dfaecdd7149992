"""Socket programs at the root of the cgroup v2 hierarchy, by links pinned below the agent's folder.

A link keeps its program attached for as long as its pin is there, so sockets are balanced while no agent runs. A new
build is put into the same link: every call meets the old program or the new one. Links of several agents, and programs
of others, stand beside each other; each agent's programs know its own pods only. The pins lie outside the folder of
the ABI version, so that a new version takes over the links of the old one.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from datapath import bpfcall, netns
from datapath.kernel import ProgramFds
from datapath.loader import SOCKET_PROGRAMS, ProgramSpec


class SocketLbUnavailable(Exception):
    """The node cannot balance sockets; the text says what it lacks."""


def root(mountinfo: str) -> Path | None:
    """Where the root of the cgroup v2 hierarchy is mounted, from /proc/self/mountinfo; None: nowhere.

    A mount inside a cgroup namespace looks like the root but is a cgroup below it: only those have cgroup.events.
    """
    for line in mountinfo.splitlines():
        fields, _, source = line.partition(" - ")
        where, path = fields.split()[3:5]
        folder = Path(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path))
        whole = (folder / "cgroup.procs").exists() and not (folder / "cgroup.events").exists()
        if source.split()[0] == "cgroup2" and where == "/" and whole:
            return folder
    return None


def check() -> Path:
    """Give the root of the cgroup v2 hierarchy. Raises SocketLbUnavailable when something of the node's is missing."""
    found = root(Path("/proc/self/mountinfo").read_text())
    if found is None:
        raise SocketLbUnavailable("the root of the cgroup v2 hierarchy is not mounted here")
    if netns.cookie() is None:
        raise SocketLbUnavailable("the kernel does not tell netns cookies (Linux 5.14)")
    try:
        os.close(bpfcall.load_allowing(max(spec.attach_type or 0 for spec in SOCKET_PROGRAMS)))
    except OSError as error:
        raise SocketLbUnavailable(f"the kernel has no socket programs (CONFIG_CGROUP_BPF): {error}") from error
    return found


def attach(programs: ProgramFds, cgroup: Path, bpf_root: Path) -> None:
    """Attach the programs, or put them into the links pinned already. All or none: raises SocketLbUnavailable."""
    folder = _folder(bpf_root)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        cgroup_fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for spec in SOCKET_PROGRAMS:
                _attach(spec, programs.fd(spec.name), cgroup_fd, folder / spec.name)
        finally:
            os.close(cgroup_fd)
    except OSError as error:
        detach(bpf_root)
        raise SocketLbUnavailable(f"the socket programs cannot be attached to {cgroup}: {error}") from error


def detach(bpf_root: Path) -> None:
    """End the attachments; none is fine. Raises OSError."""
    folder = _folder(bpf_root)
    if folder.exists():
        for pin in folder.iterdir():
            _detach(pin)
        folder.rmdir()


def _folder(bpf_root: Path) -> Path:
    return bpf_root / "links"


def _attach(spec: ProgramSpec, program_fd: int, cgroup_fd: int, pin: Path) -> None:
    attach_type = spec.attach_type or 0
    if pin.exists():
        link = bpfcall.obj_get(pin)
        try:
            if _is(link, attach_type, cgroup_fd):
                bpfcall.link_update(link, program_fd)
                return
        finally:
            os.close(link)
        _detach(pin)
    link = bpfcall.link_create(program_fd, cgroup_fd, attach_type)
    try:
        bpfcall.obj_pin(link, pin)
    finally:
        os.close(link)


def _is(link: int, attach_type: int, cgroup_fd: int) -> bool:
    """Whether this is (still) our link to that hook of that cgroup: what is pinned is not to be trusted."""
    info = bpfcall.link_info(link)
    return info is not None and (info.attach_type, info.cgroup_id) == (attach_type, os.fstat(cgroup_fd).st_ino)


def _detach(pin: Path) -> None:
    link = bpfcall.obj_get(pin)
    pin.unlink()
    try:
        bpfcall.link_detach(link)
    except OSError as error:
        if error.errno != errno.EINVAL:  # no link at all
            raise
    finally:
        os.close(link)
