"""Making programs ready: compile once, adopt after, refuse what is not ours; and what the compiled maps look like."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from datapath import bpfcall, loader
from datapath.abi import ABI_VERSION, LAYOUTS, MAPS, Verdict, layout
from datapath.entries import ServiceEntry, ServiceKey, pack_ip
from datapath.loader import PROGRAMS, BpffsMissing, BpfLoadError, Programs
from datapath.maps import Maps, maps_folder
from tests.bpf.rig import Rig

# bcc's own view of keys and values, as ctypes: name, size, and the offset and size of every field.
LAYOUTS_OF_BCC = """
import ctypes, json, sys
from bcc import BPF
from datapath.loader import SOURCES
b = BPF(text=sys.stdin.read(), cflags=[f'-DBPF_MAPS="{sys.argv[1]}"', f"-I{SOURCES}/stubs/include"])
def facts(kind):
    if issubclass(kind, ctypes.Array):  # per CPU
        kind = kind._type_
    fields = [(f[0], getattr(kind, f[0]).offset, getattr(kind, f[0]).size) for f in getattr(kind, "_fields_", ())]
    return ctypes.sizeof(kind), [f for f in fields if not f[0].startswith("__pad")]
print(json.dumps({name: [facts(b[name].Key), facts(b[name].Leaf)] for name in sys.argv[2:]}))
"""

# Key and value of every map: a struct of abi.h, or the size of a plain integer.
STRUCTS: dict[str, tuple[str | int, str | int]] = {
    "pods": (4, "pod"),
    "addresses": ("ip", "address"),
    "services": ("service_key", "service"),
    "backends": (4, "backend"),
    "conntrack": ("flow", "conntrack"),
    "affinity": ("affinity_key", "affinity"),
    "fragments": ("fragment_key", "fragment"),
    "refusals": (4, "refusals"),
    "flow_counters": (4, "flow_counters"),
    "netns_pods": (8, 4),
    "socket_backends": ("socket_key", "socket_peer"),
    "socket_frontends": ("socket_key", "socket_peer"),
    "counters": (4, 8),
    "workspaces": (4, "workspace"),
    "calls": (4, 4),
}


def builds(bpf_root: Path) -> set[str]:
    return {folder.name for folder in (bpf_root / f"v{ABI_VERSION}/progs").iterdir()}


def test_adopts_what_is_pinned(programs: Programs) -> None:
    """A restarted agent does not compile; bcc is not even imported."""
    with loader.load(programs.bpf_root) as again:
        assert (again.build, again.compiled) == (programs.build, False)
    assert "bcc" not in sys.modules
    assert builds(programs.bpf_root) == {programs.build}


def test_new_source_is_a_new_build(bpffs: Path, tmp_path: Path) -> None:
    """Changed code is compiled, takes over the slots, and the older build goes; maps and their content stay."""
    changed = tmp_path / "bpf"
    shutil.copytree(loader.SOURCES, changed)
    root = bpffs / "upgrade"
    key = ServiceKey("10.96.0.1", 443, "TCP", 0)
    with loader.load(root) as first, Maps(root) as maps:
        maps.services.put(key, ServiceEntry(service_id=9))
        with (changed / "to_pod.c").open("a") as source:
            source.write("/* newer */\n")
        with loader.load(root, changed) as second:
            assert second.compiled
            assert builds(root) == {second.build} != {first.build}
        assert dict(maps.services.items()) == {key: ServiceEntry(service_id=9)}


def test_programs_of_other_maps_are_not_adopted(bpffs: Path) -> None:
    """Somebody removed a map's pin: the pinned programs still use the old map, so they are made anew."""
    root = bpffs / "lost_map"
    loader.load(root).close()
    (maps_folder(root) / "services").unlink()
    with loader.load(root) as again:
        assert again.compiled


def test_a_start_that_was_killed_while_it_compiled(bpffs: Path) -> None:
    """In a container the next agent has the same process number, and finds that one's folder."""
    root = bpffs / "killed"
    staging = root / f"v{ABI_VERSION}/progs/staging_{os.getpid()}"
    staging.mkdir(parents=True)
    fd = bpfcall.map_create(1, 4, 4, 10, 0, "from_pod")
    bpfcall.obj_pin(fd, staging / "from_pod")
    os.close(fd)
    with loader.load(root) as programs:
        assert builds(root) == {programs.build}


def test_map_of_another_layout_is_refused(bpffs: Path) -> None:
    root = bpffs / "foreign"
    maps_folder(root).mkdir(parents=True)
    fd = bpfcall.map_create(1, 4, 4, 10, 0, "pods")
    bpfcall.obj_pin(fd, maps_folder(root) / "pods")
    os.close(fd)
    with pytest.raises(BpfLoadError, match="another layout"):
        loader.load(root)


def test_needs_bpffs(tmp_path: Path) -> None:
    with pytest.raises(BpffsMissing, match="mount -t bpf bpf /sys/fs/bpf"):
        loader.load(tmp_path / "dragline")


def test_odd_path_is_refused(bpffs: Path) -> None:
    with pytest.raises(BpfLoadError, match="only letters"):
        loader.load(bpffs / 'quote"')


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("return finish(enter_pod(skb));", "return finish(enter_pod(skb);", "bpf/to_pod.c:"),
        (
            "return finish(enter_pod(skb));",
            "return finish(enter_pod(skb)) + *(int *)(long)skb->data;",
            "invalid access to packet",
        ),
    ],
)
def test_failure_carries_the_log(bpffs: Path, tmp_path: Path, old: str, new: str, said: str) -> None:
    """What compiler and verifier say reaches the caller, with the real file's name; nothing half-made stays."""
    broken = tmp_path / "bpf"
    shutil.copytree(loader.SOURCES, broken)
    text = (broken / "to_pod.c").read_text()
    assert old in text
    (broken / "to_pod.c").write_text(text.replace(old, new))
    with pytest.raises(BpfLoadError) as failure:
        loader.load(bpffs / "broken", broken)
    assert said in failure.value.log
    assert builds(bpffs / "broken") == set()


def test_layouts_as_bcc_compiled_them(programs: Programs) -> None:
    """Sizes and offsets that clang gave, against the mirror."""
    names = [spec.name for spec in MAPS]
    maps = str(maps_folder(programs.bpf_root))
    environment = os.environ | {"BCC_KERNEL_SOURCE": str(loader.SOURCES / "stubs"), "PYTHONPATH": str(loader.HOUSE)}
    command = [sys.executable, "-W", "ignore", "-c", LAYOUTS_OF_BCC, maps, *names]
    done = subprocess.run(
        command, input=loader.flatten(), env=environment, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert STRUCTS.keys() == set(names)
    for spec in MAPS:
        sizes = (spec.key_size, spec.value_size)
        for (size, fields), side, wanted in zip(found[spec.name], STRUCTS[spec.name], sizes, strict=True):
            assert (size, fields, size) == (*mirror_of(side), wanted), (spec.name, side)
    used = {side for sides in STRUCTS.values() for side in sides if isinstance(side, str)}
    assert used == LAYOUTS.keys() | {"ip"}


def mirror_of(side: str | int) -> tuple[int, list[list[object]]]:
    """Size, and name, offset and size of every field as the agent packs it; no padding that nobody named."""
    if isinstance(side, int):
        return side, []
    if side == "ip":
        return len(pack_ip("::")), [["word", 0, 16]]
    offset, fields = 0, []
    for field, code in LAYOUTS[side]:
        width = struct.calcsize("=" + code)
        fields.append([field, offset, width])
        offset += width
    return layout(side).size, fields


def readme_rows(columns: int) -> list[tuple[str, ...]]:
    """The rows of bpf/README.md's tables with so many columns."""
    lines = (loader.SOURCES / "README.md").read_text().splitlines()
    rows = [tuple(cell.strip(" `") for cell in line.strip("|").split("|")) for line in lines if line.startswith("| `")]
    return [row for row in rows if len(row) == columns]


def test_readme_shows_the_hooks() -> None:
    """bpf/README.md lists every program in packet order, with its file and hook, as the loader has them."""
    hooks = [row[:3] for row in readme_rows(4)]
    assert hooks == [(spec.name, spec.source, spec.hook) for spec in PROGRAMS]


def test_readme_shows_the_headers() -> None:
    headers = sorted(path.name for path in (loader.SOURCES / "lib").glob("*.h"))
    assert [row[0] for row in readme_rows(2)] == headers


def test_entries_of_a_stranger_are_dropped(rig: Rig) -> None:
    """A pinned map is untrusted input: padding that our programs would never ask for makes an entry unreachable."""
    wild = bytearray(ServiceKey("10.96.0.10", 80, "TCP", 0).encode())
    wild[-1] = 7
    bpfcall.update(rig.maps.fd("services"), bytes(wild), ServiceEntry(1).encode())
    assert dict(rig.maps.services.items()) == {}
    assert bpfcall.lookup(rig.maps.fd("services"), bytes(wild), 16) is None


def test_walk_of_a_large_map(rig: Rig) -> None:
    """More than one batch; nothing twice, nothing left out."""
    addresses = {f"10.200.{number >> 8}.{number & 255}" for number in range(3000)}
    for address in addresses:
        rig.maps.put_local(address, 77, 1, 5)
    walked = [key.address for key in rig.maps.locals() if key.uplink_ifindex == 77]
    assert sorted(walked) == sorted(addresses)


def test_counters_start_at_nothing(bpffs: Path) -> None:
    with loader.load(bpffs / "fresh"), Maps(bpffs / "fresh") as maps:
        assert maps.counters() == dict.fromkeys(Verdict, 0)
