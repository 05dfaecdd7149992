"""An agent of this version after one of layout 1: pods, Services and flows go on. The old bytes are written by hand."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import pytest

from datapath import bpfcall, loader
from datapath.abi import BACKEND_DRAINING, CALL_FROM_POD, CT_FORWARD, CT_REVERSE, Verdict
from datapath.maps import Maps, maps_folder
from tests.bpf.flow_steps import WEB, received, same, sent
from tests.bpf.rig import SLAVE, Rig
from tests.netns.node import load_program, program_id
from tests.packets import FAR, OWN_MAC, POD_ONE, UPLINK, VIP, readdressed, tcp

LAYOUT_1 = {  # name: kind, key size, value size, entries, flags
    "pods": (1, 4, 20, 8192, 1),
    "local_addresses": (1, 20, 8, 32768, 1),
    "services4": (1, 12, 16, 65536, 1),
    "backends4": (1, 4, 8, 65536, 1),
    "conntrack4": (9, 16, 32, 131072, 0),
    "counters": (6, 4, 8, 64, 0),
    "calls": (3, 4, 4, 4, 0),
}
CLIENT, BACKEND = (POD_ONE, 40000), (FAR, 8080)
GONE = "10.9.0.31"


def ip(address: str) -> bytes:
    return socket.inet_aton(address)


def flow(source: tuple[str, int], destination: tuple[str, int], direction: int) -> bytes:
    ends = ip(source[0]) + ip(destination[0])
    return ends + struct.pack(">HH", source[1], destination[1]) + bytes([6, direction, 0, 0])


def translation(address: str, port: int, client_port: int, backend_id: int, seen: int = 0) -> bytes:
    return ip(address) + struct.pack(">HH", port, client_port) + struct.pack("=IIQII", 1, backend_id, seen, 0, 0)


def old_state(root: Path) -> dict[str, int]:
    """Descriptors of an old agent's maps with one pod, one Service, a flow, and a flow whose backend has left."""
    folder = root / "v1" / "maps"
    folder.mkdir(parents=True)
    fds = {}
    for name, (kind, key, value, entries, flags) in LAYOUT_1.items():
        fds[name] = bpfcall.map_create(kind, key, value, entries, flags, name)
        bpfcall.obj_pin(fds[name], folder / name)
    frontend = ip(VIP) + struct.pack(">H", 80)
    late = (POD_ONE, 40001)
    rows = [
        (
            "pods",
            struct.pack("=I", SLAVE),
            bytes.fromhex(OWN_MAC.replace(":", ""))
            + struct.pack("=H", 1)
            + ip(POD_ONE)
            + ip("255.255.255.0")
            + struct.pack("=I", UPLINK),
        ),
        (
            "local_addresses",
            bytes(10) + b"\xff\xff" + ip(POD_ONE) + struct.pack("=I", UPLINK),
            struct.pack("=II", 1, SLAVE),
        ),
        ("services4", frontend + struct.pack("=HB3x", 0, 6), struct.pack("=IIHHI", 1, 0, 1, 0, 0)),
        ("services4", frontend + struct.pack("=HB3x", 1, 6), struct.pack("=IIHHI", 0, 7, 0, 0, 0)),
        ("backends4", struct.pack("=I", 7), ip(FAR) + struct.pack(">HH", 8080, 0)),
        ("conntrack4", flow(CLIENT, WEB, CT_FORWARD), translation(FAR, 8080, 40000, 7)),
        ("conntrack4", flow(BACKEND, CLIENT, CT_REVERSE), translation(VIP, 80, 40000, 7, 5)),
        ("conntrack4", flow(late, WEB, CT_FORWARD), translation(GONE, 8080, 40001, 6)),
        ("conntrack4", flow((GONE, 8080), late, CT_REVERSE), translation(VIP, 80, 40001, 6, 5)),
    ]
    for name, key, value in rows:
        bpfcall.update(fds[name], key, value)
    (root / "v1" / "progs" / "0123").mkdir(parents=True)
    old = load_program()
    bpfcall.obj_pin(old, root / "v1" / "progs" / "0123" / "from_pod")
    bpfcall.update(fds["calls"], struct.pack("=I", CALL_FROM_POD), struct.pack("=I", old))
    return fds


@pytest.fixture
def root(bpffs: Path) -> Path:
    return bpffs / "from_v1"


def test_flows_outlive_the_change_of_layout(root: Path) -> None:
    old = old_state(root)
    with loader.load(root) as programs:
        rig = Rig(programs)
        try:
            for client, backend in ((CLIENT, FAR), ((POD_ONE, 40001), GONE)):
                data = tcp(client, WEB, "PA")
                same(sent(rig, data, Verdict.VERDICT_SERVICE_GATEWAY), readdressed(data, dst=backend, dport=8080))
                answer = tcp((backend, 8080), client, "A")
                same(received(rig, answer), readdressed(answer, src=VIP, sport=80))
            states = {entry.address: entry.flags for _, entry in rig.maps.backends.items()}
            assert states == {FAR: 0, GONE: BACKEND_DRAINING}
            assert rig.maps.pods()[SLAVE].addr4 == POD_ONE
        finally:
            rig.close()
    assert not (root / "v1").exists()
    now = bpfcall.obj_get(maps_folder(root) / "calls")
    assert bpfcall.map_info(now).map_id == bpfcall.map_info(old["calls"]).map_id, "the holders run another map's slots"
    for fd in (now, *old.values()):
        os.close(fd)


def test_nothing_to_take_over(root: Path) -> None:
    with loader.load(root.with_name("no_v1")), Maps(root.with_name("no_v1")) as maps:
        assert maps.pods() == {}


def test_killed_while_the_old_maps_go(root: Path) -> None:
    """What was taken over already is not taken over in part once more: its backends would drain."""
    for fd in old_state(root).values():
        os.close(fd)
    (root / "taken_over" / "maps").mkdir(parents=True)  # the rest of a removal, with flows but no Services
    flows = bpfcall.map_create(9, 16, 32, 131072, 0, "conntrack4")
    bpfcall.obj_pin(flows, root / "taken_over" / "maps" / "conntrack4")
    os.close(flows)
    with loader.load(root), Maps(root) as maps:
        assert maps.pods()[SLAVE].addr4 == POD_ONE
    assert sorted(path.name for path in root.iterdir()) == ["v2"]


def test_a_strangers_map_in_the_old_folder_is_not_read(root: Path) -> None:
    for fd in old_state(root).values():
        os.close(fd)
    pin = root / "v1" / "maps" / "backends4"
    pin.unlink()
    other = bpfcall.map_create(1, 64, 4096, 8, 1, "other")
    bpfcall.update(other, bytes(64), bytes(4096))
    bpfcall.obj_pin(other, pin)
    os.close(other)
    with loader.load(root), Maps(root) as maps:
        assert maps.pods()[SLAVE].addr4 == POD_ONE
        assert {entry.address for _, entry in maps.backends.items()} == {FAR, GONE}


def test_ids_of_a_full_house(root: Path) -> None:
    """An old id may be the last one there is; new ones count from 1."""
    old = old_state(root)
    bpfcall.update(old["backends4"], struct.pack("=I", 2**32 - 1), ip(FAR) + struct.pack(">HH", 8080, 0))
    for fd in old.values():
        os.close(fd)
    with loader.load(root), Maps(root) as maps:
        assert sorted(key.number for key, _ in maps.backends.items()) == [1, 2]


def test_up_and_down_and_up_again(root: Path) -> None:
    """Pods that the old agent has wired meanwhile have holders of their own; they run what all others run."""
    loader.load(root).close()
    old = old_state(root)
    number = bpfcall.map_info(old["calls"]).map_id
    for fd in old.values():
        os.close(fd)
    for _ in range(2):  # and every later start thinks of them
        with loader.load(root) as programs:
            wanted = [program_id(programs.fd("from_pod"))] * 2
        found = []
        for name in ("calls", f"calls_{number}"):
            fd = bpfcall.obj_get(maps_folder(root) / name)
            raw = bpfcall.lookup(fd, struct.pack("=I", CALL_FROM_POD), 4)
            found.append(struct.unpack("=I", raw or bytes(4))[0])
            os.close(fd)
        assert found == wanted
