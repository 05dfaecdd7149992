"""The links of the socket programs: there once, updated in place, gone with their pins."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from datapath import bpfcall, cgroup, loader
from datapath.loader import SOCKET_PROGRAMS, Programs
from tests.netns.cgroup_programs import all_attached, attached, gone, ids_of
from tests.netns.node import libc


@pytest.fixture
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of an agent on a bpf file system of the test's own."""
    folder = tmp_path_factory.mktemp("links")
    assert libc.mount(b"bpf", os.fsencode(folder), b"bpf", 0, None) == 0
    try:
        (folder / "agent").mkdir()
        yield folder / "agent"
    finally:
        cgroup.detach(folder / "agent")
        assert libc.umount2(os.fsencode(folder), 2) == 0


def test_attached_once_and_gone_after(programs: Programs, root: Path) -> None:
    """Beside what others have attached; a second agent's start changes nothing; twice detached is fine."""
    where, ours = cgroup.check(), ids_of(programs)
    links = set()
    for _ in range(2):
        cgroup.attach(programs, where, root)
        assert [len(attached(spec.attach_type or 0, where) & ours) for spec in SOCKET_PROGRAMS] == [1] * 8
        links.add(tuple(sorted((pin.name, pin.stat().st_ino) for pin in (root / "links").iterdir())))
    assert len(links) == 1, "the pins are the same"
    for _ in range(2):
        cgroup.detach(root)
        assert not all_attached(where) & ours
        assert not (root / "links").exists()


def test_a_new_build_takes_over_the_links(programs: Programs, root: Path, tmp_path: Path) -> None:
    where = cgroup.check()
    cgroup.attach(programs, where, root)
    links = {pin.name: pin.stat().st_ino for pin in (root / "links").iterdir()}
    changed = tmp_path / "bpf"
    shutil.copytree(loader.SOURCES, changed)
    with (changed / "sock.c").open("a") as source:
        source.write("/* newer */\n")
    with loader.load(root, changed) as newer:
        cgroup.attach(newer, where, root)
        assert ids_of(newer) <= all_attached(where)
        assert not ids_of(programs) & all_attached(where)
    assert {pin.name: pin.stat().st_ino for pin in (root / "links").iterdir()} == links


def test_gone_with_the_folder(programs: Programs, root: Path) -> None:
    """Who removes the agent's folder has removed everything."""
    cgroup.attach(programs, cgroup.check(), root)
    shutil.rmtree(root)
    gone(ids_of(programs))
    root.mkdir()


def test_what_is_pinned_is_not_trusted(programs: Programs, root: Path) -> None:
    """A program, a map, or another hook's link in the place of a link is replaced."""
    where = cgroup.check()
    folder = root / "links"
    folder.mkdir()
    number = bpfcall.map_create(1, 4, 4, 1, flags=0, name="foreign")
    try:
        bpfcall.obj_pin(number, folder / "connect4")
    finally:
        os.close(number)
    bpfcall.obj_pin(programs.fd("connect6"), folder / "connect6")
    bpfcall.obj_pin(programs.fd("hold_egress"), folder / "sendmsg6")
    cgroup_fd = os.open(where, os.O_RDONLY)
    link = bpfcall.link_create(programs.fd("recvmsg4"), cgroup_fd, 19)
    os.close(cgroup_fd)
    try:
        bpfcall.obj_pin(link, folder / "sendmsg4")
        cgroup.attach(programs, where, root)
        assert ids_of(programs) <= all_attached(where)
        foreign = bpfcall.link_info(link)
        assert foreign is not None
        assert foreign.cgroup_id == 0, "the foreign link was detached, though somebody holds it"
    finally:
        os.close(link)


def test_all_or_nothing(programs: Programs, root: Path, tmp_path: Path) -> None:
    """Where one program cannot be attached, none is."""

    class Broken:
        def fd(self, name: str) -> int:
            return programs.fd("from_pod" if name == "getpeername6" else name)

    with pytest.raises(cgroup.SocketLbUnavailable, match="Invalid argument"):
        cgroup.attach(Broken(), cgroup.check(), root)
    assert not all_attached(cgroup.check()) & ids_of(programs)
    with pytest.raises(cgroup.SocketLbUnavailable):
        cgroup.attach(programs, tmp_path, root)
    assert not (root / "links").exists()
