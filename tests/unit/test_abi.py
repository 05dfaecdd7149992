"""bpf/lib/abi.h and its mirror datapath/abi.py say the same: constants, verdicts, struct layouts."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from datapath import abi, entries
from datapath.abi import LAYOUTS, MAPS, Verdict, layout

ROOT = Path(__file__).parents[2]
HEADER = re.sub(r"/\*.*?\*/", "", (ROOT / "bpf/lib/abi.h").read_text(), flags=re.DOTALL)
WIDTHS = {"__u8": 1, "__u16": 2, "__be16": 2, "__u32": 4, "__be32": 4, "__u64": 8}
MAP_KEY_VALUE = {
    "pods": ("__u32", "pod"),
    "local_addresses": ("local_key", "local_address"),
    "services4": ("service4_key", "service4"),
    "backends4": ("__u32", "backend4"),
    "conntrack4": ("flow4", "conntrack4"),
    "counters": ("__u32", "__u64"),
    "calls": ("__u32", "__u32"),
}


def c_constants() -> dict[str, int]:
    return {name: int(value, 0) for name, value in re.findall(r"#define (\w+) (0x\w+|\d+)\n", HEADER)}


def c_structs() -> dict[str, list[tuple[str, str, int]]]:
    """Struct name -> (field, type, count)."""
    found = {}
    for name, body in re.findall(r"struct (\w+) \{(.*?)\};", HEADER, flags=re.DOTALL):
        fields = re.findall(r"(\w+) (\w+)(?:\[(\d+)\])?;", body)
        found[name] = [(field, kind, int(count or 1)) for kind, field, count in fields]
    return found


def test_constants() -> None:
    constants = c_constants()
    assert len(constants) > 15
    assert constants == {name: getattr(abi, name) for name in constants}


def test_verdicts() -> None:
    body = re.search(r"enum verdict \{(.*?)\};", HEADER, flags=re.DOTALL)
    assert body is not None
    assert {name: int(number) for name, number in re.findall(r"(\w+) = (\d+)", body[1])} == {
        verdict.name: verdict.value for verdict in Verdict
    }
    assert max(Verdict) < abi.MAX_COUNTERS


@pytest.mark.parametrize("name", c_structs())
def test_struct(name: str) -> None:
    """Fields, widths and offsets; the offset without padding is the offset C gives, so none is hidden."""
    offset = 0
    fields = c_structs()[name]
    for (field, kind, count), (mirror, code) in zip(fields, LAYOUTS[name], strict=True):
        assert field == mirror
        assert struct.calcsize("=" + code) == WIDTHS[kind] * count, field
        assert offset % WIDTHS[kind] == 0, f"{field}: C would pad before it"
        assert ("s" in code) == (kind.startswith("__be") or count > 1), f"{field}: byte order must show in the type"
        offset += WIDTHS[kind] * count
    assert layout(name).size == offset
    assert offset % max(WIDTHS[kind] for _, kind, _ in fields) == 0, "C would pad the end"


def test_every_struct_is_mirrored() -> None:
    assert c_structs().keys() == LAYOUTS.keys()


def test_maps() -> None:
    """Names, key, value and size of maps.h are those that the loader makes."""
    text = (ROOT / "bpf/lib/maps.h").read_text()
    kinds = {"hash": 1, "prog": 3, "percpu_array": 6, "lru_hash": 9}
    tables = re.findall(r'BPF_TABLE_PINNED\("(\w+)", ([\w ]+), ([\w ]+), (\w+), (\w+),\s+BPF_MAPS "/(\w+)"\)', text)
    assert [table[3] for table in tables] == [spec.name for spec in MAPS]
    for (kind, key, value, name, entries_, pin), spec in zip(tables, MAPS, strict=True):
        assert (pin, kinds[kind], getattr(abi, entries_)) == (name, spec.kind, spec.max_entries)
        stripped = tuple(part.removeprefix("struct ") for part in (key, value))
        assert stripped == MAP_KEY_VALUE[name]
        sizes = tuple(WIDTHS.get(part) or layout(part).size for part in stripped)
        assert sizes == (spec.key_size, spec.value_size)


@pytest.mark.parametrize(
    ("entry", "wire"),
    [
        (
            entries.PodEntry("02:00:00:00:00:01", 1, "10.1.0.10", "255.255.255.0", 2),
            "02000000000101000a01000affffff0002000000",
        ),
        (entries.LocalKey("10.1.0.10", 2), "00000000000000000000ffff0a01000a02000000"),
        (entries.LocalKey("fd00::1", 0), "fd00000000000000000000000000000100000000"),
        (entries.LocalEntry(1, 0x100010), "0100000010001000"),
        (entries.ServiceKey("10.96.0.10", 80, "TCP", 1), "0a60000a0050010006000000"),
        (entries.ServiceKey("10.96.0.10", 80, "132", 0), "0a60000a0050000084000000"),
        (entries.ServiceEntry(3, 0, 2, 0, 10800), "030000000000000002000000302a0000"),
        (entries.BackendEntry("10.9.0.30", 8080), "0a09001e1f900000"),
        (
            entries.Flow("10.1.0.10", 40000, "10.96.0.10", 80, "UDP", 1),
            "0a01000a0a60000a9c40005011010000",
        ),
        (
            entries.Translation("10.9.0.30", 8080, 40000, 1, 7, 5, 4),
            "0a09001e1f909c40010000000700000005000000000000000400000000000000",
        ),
    ],
)
def test_bytes_there_and_back(entry: entries.PodEntry, wire: str) -> None:
    """Written out by hand from abi.h."""
    assert entry.encode().hex() == wire
    assert type(entry).decode(bytes.fromhex(wire)) == entry
