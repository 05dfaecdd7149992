"""bpf/lib/abi.h and its mirror datapath/abi.py say the same: constants, verdicts, struct layouts, bytes."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from datapath import abi, entries, flows
from datapath.abi import LAYOUTS, MAPS, Verdict, layout
from datapath.table import Cookie, Entry, Number

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "bpf/lib/abi.h").read_text()
HEADER = re.sub(r"/\*.*?\*/", "", TEXT, flags=re.DOTALL)
WIDTHS = {"__u8": 1, "__u16": 2, "__be16": 2, "__u32": 4, "__be32": 4, "__u64": 8, "ip": 16}
ALIGNED = WIDTHS | {"ip": 4}
MAP_KEY_VALUE = {
    "pods": ("__u32", "pod"),
    "addresses": ("ip", "address"),
    "services": ("service_key", "service"),
    "backends": ("__u32", "backend"),
    "conntrack": ("flow", "conntrack"),
    "affinity": ("affinity_key", "affinity"),
    "fragments": ("fragment_key", "fragment"),
    "refusals": ("__u32", "refusals"),
    "flow_counters": ("__u32", "flow_counters"),
    "netns_pods": ("__u64", "__u32"),
    "socket_backends": ("socket_key", "socket_peer"),
    "socket_frontends": ("socket_key", "socket_peer"),
    "counters": ("__u32", "__u64"),
    "workspaces": ("__u32", "workspace"),
    "calls": ("__u32", "__u32"),
}


def c_constants() -> dict[str, int]:
    return {name: int(value, 0) for name, value in re.findall(r"#define (\w+) (0x\w+|\d+)\n", HEADER)}


def c_structs() -> dict[str, list[tuple[str, str, int]]]:
    """Struct name -> (field, type, count); a field that is a struct has its name as type."""
    found = {}
    for name, body in re.findall(r"struct (\w+) \{(.*?)\};", HEADER, flags=re.DOTALL):
        fields = re.findall(r"(?:struct )?(\w+) (\w+)(?:\[(\d+)\])?;", body)
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


def test_every_verdict_says_what_it_means() -> None:
    """On its line, for `dragline drops` prints it; and no number is given twice."""
    rows = re.findall(r"^\t((?:VERDICT|EVENT|DROP)_\w+) = (\d+),(?: /\* (.*) \*/)?$", TEXT, flags=re.MULTILINE)
    assert [(name, int(number)) for name, number, _ in rows] == [(one.name, one.value) for one in Verdict]
    assert [name for name, _, meaning in rows if not meaning.strip()] == []
    assert len({number for _, number, _ in rows}) == len(rows)


@pytest.mark.parametrize("name", sorted(c_structs().keys() - {"ip"}))
def test_struct(name: str) -> None:
    """Fields, widths and offsets; the offset without padding is the offset C gives, so none is hidden."""
    offset = 0
    fields = c_structs()[name]
    for (field, kind, count), (mirror, code) in zip(fields, LAYOUTS[name], strict=True):
        assert field == mirror
        assert struct.calcsize("=" + code) == WIDTHS[kind] * count, field
        assert offset % ALIGNED[kind] == 0, f"{field}: C would pad before it"
        in_bytes = kind == "ip" or kind.startswith("__be") or count > 1
        assert ("s" in code) == in_bytes, f"{field}: byte order must show in the type"
        offset += WIDTHS[kind] * count
    assert layout(name).size == offset
    assert offset % max(ALIGNED[kind] for _, kind, _ in fields) == 0, "C would pad the end"


def test_an_address_is_four_words_in_network_order() -> None:
    assert c_structs()["ip"] == [("word", "__be32", 4)]


def test_every_struct_is_mirrored() -> None:
    assert c_structs().keys() - {"ip"} == LAYOUTS.keys()


def test_maps() -> None:
    """Names, key, value and size of maps.h are those that the loader makes."""
    text = (ROOT / "bpf/lib/maps.h").read_text()
    kinds = {"hash": 1, "prog": 3, "percpu_array": 6, "lru_hash": 9}
    tables = re.findall(r'BPF_TABLE_PINNED\("(\w+)", ([\w ]+), ([\w ]+), (\w+), (\w+),\s+BPF_MAPS "/(\w+)"\)', text)
    assert [table[3] for table in tables] == [spec.name for spec in MAPS]
    for (kind, key, value, name, entries_, pin), spec in zip(tables, MAPS, strict=True):
        room = int(entries_) if entries_.isdigit() else getattr(abi, entries_)
        assert (pin, kinds[kind], room) == (name, spec.kind, spec.max_entries)
        stripped = tuple(part.removeprefix("struct ") for part in (key, value))
        assert stripped == MAP_KEY_VALUE[name]
        sizes = tuple(WIDTHS.get(part) or layout(part).size for part in stripped)
        assert sizes == (spec.key_size, spec.value_size)


V4 = "00000000000000000000ffff"
POD_FOUR = "02000000000101000a01000affffff00"
ROWS: list[tuple[Entry, str]] = [
    (
        entries.PodEntry("02:00:00:00:00:01", 1, "10.1.0.10", "255.255.255.0", 2),
        POD_FOUR + "00" * 16 + "00" * 16 + "00" * 4 + "00" * 16 + "02000000",
    ),
    (
        entries.PodEntry(
            *("02:00:00:00:00:01", 1, "10.1.0.10", "255.255.255.0", 2),
            *("fd00::a", "ffff:ffff:ffff:ffff::", "10.1.0.1", "fd00::1"),
        ),
        POD_FOUR
        + "fd00000000000000000000000000000a"
        + "ffffffffffffffff0000000000000000"
        + "0a010001"
        + "fd000000000000000000000000000001"
        + "02000000",
    ),
    (entries.Ip("10.1.0.10"), V4 + "0a01000a"),
    (entries.Ip("fd00::1"), "fd000000000000000000000000000001"),
    (entries.Ip("::"), "00" * 16),
    (entries.AddressEntry(0x29, 2, 0x100010), "29000000" "02000000" "10001000"),
    (entries.ServiceKey("10.96.0.10", 80, "TCP", 1), V4 + "0a60000a" "0050" "0100" "06" "000000"),
    (entries.ServiceKey("fd00:96::10", 53, "UDP", 0), "fd000096000000000000000000000010" "0035" "0000" "11" "000000"),
    (entries.ServiceKey("0.0.0.0", 30080, "SCTP", 258), V4 + "00000000" "7580" "0201" "84" "000000"),
    (entries.ServiceKey("10.96.0.10", 80, "99", 0), V4 + "0a60000a" "0050" "0000" "63" "000000"),
    (entries.ServiceEntry(3, 0, 2, 0, 10800), "03000000" "00000000" "0200" "0000" "302a0000"),
    (entries.ServiceEntry(backend_id=0x01020304), "00000000" "04030201" "0000" "0000" "00000000"),
    (entries.BackendEntry("10.9.0.30", 8080, 3, 1), V4 + "0a09001e" "1f90" "0100" "03000000"),
    (
        flows.Flow("10.1.0.10", 40000, "10.96.0.10", 80, "UDP", 1),
        V4 + "0a01000a" + V4 + "0a60000a" + "9c40" "0050" "11" "01" "0000",
    ),
    (
        flows.Translation("10.9.0.30", 8080, 40000, 1, 7, 5, 9, 0x0203, bytes.fromhex("020000000001"), 0x0506),
        V4 + "0a09001e" "1f90" "9c40" "01000000" "07000000" "0900" "0302" "0500000000000000" "020000000001" "0605",
    ),
    (flows.AffinityKey("10.1.0.10", 3), V4 + "0a01000a" "03000000"),
    (flows.Affinity(7, 5), "07000000" "00000000" "0500000000000000"),
    (flows.FlowCounters(258, 5), "0201000000000000" "0500000000000000"),
    (flows.SocketKey(0x0102, "10.96.0.10", 80, "TCP"), "0201000000000000" + V4 + "0a60000a" "0050" "06" "0000000000"),
    (
        flows.SocketPeer("10.9.0.30", 8080, 3, 7, 0x100010),
        V4 + "0a09001e" "1f90" "0000" "03000000" "07000000" "10001000",
    ),
    (Number(258), "02010000"),
    (Cookie(258), "0201000000000000"),
]  # fmt: skip


@pytest.mark.parametrize(("entry", "wire"), ROWS, ids=[type(entry).__name__ for entry, _ in ROWS])
def test_bytes_there_and_back(entry: Entry, wire: str) -> None:
    """Written out by hand from abi.h."""
    assert entry.encode().hex() == wire
    assert type(entry).decode(bytes.fromhex(wire)) == entry


def test_every_entry_class_has_a_row() -> None:
    classes = {
        kind
        for module in (entries, flows)
        for kind in vars(module).values()
        if isinstance(kind, type) and hasattr(kind, "encode") and kind.__module__ == module.__name__
    }
    assert classes <= {type(entry) for entry, _ in ROWS}
