"""100,000 frames nobody meant: whatever comes, the programs keep a few promises (Judge says which).

DRAGLINE_FUZZ_SEED repeats a run; a failure names its seed and the frame.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import pytest

from datapath import bpfcall
from datapath.abi import ADDRESS_CLUSTER_IP, ADDRESS_FRONTEND, ADDRESS_NODE_PORT, CT_REVERSE, Verdict
from datapath.entries import ServiceKey, protocol_name
from datapath.flows import Flow
from tests.bpf.frame_view import ICMP, ICMP6, SCTP, TCP, View, summed, sums, view
from tests.bpf.fuzz_frames import Mutator, corpus, truncations
from tests.bpf.rig import OK, REDIRECT, SHOT, SLAVE, UNSPEC, Rig
from tests.bpf.row import answer_known
from tests.bpf.rows_node import uplink_pods
from tests.bpf.runner import Runner
from tests.packets import CASTS, OWN_MAC, mac

PROGRAMS = {"from_pod": {UNSPEC, OK, SHOT, REDIRECT}, "to_pod": {UNSPEC, OK, SHOT}, "node_to_pod": {UNSPEC, REDIRECT}}
MUTATED, PER_BATCH = 13_000, 500
OWN = mac(OWN_MAC)
PODS, HAIRPINS = {cast.pod for cast in CASTS}, {cast.hairpin for cast in CASTS}
NEAR = {address for cast in CASTS for address in (cast.sibling, cast.node, cast.pod)}
VIPS = {address for cast in CASTS for address in (cast.vip, cast.vip_two)}
FRONTENDS = VIPS | {address for cast in CASTS for address in (cast.node, cast.other_node)}


@pytest.fixture(scope="module")
def seed() -> int:
    given = os.environ.get("DRAGLINE_FUZZ_SEED")
    chosen = int(given) if given else int.from_bytes(os.urandom(4), "big")
    print(f"DRAGLINE_FUZZ_SEED={chosen}")
    return chosen


def full(rig: Rig) -> None:
    """Services of every kind, flows of every protocol, a NodePort."""
    number = 1
    for cast in CASTS:
        answer_known(cast, client_port=50000)(rig)
        answer_known(cast, "UDP")(rig)
        answer_known(cast, "SCTP", backend=(cast.far, 80))(rig)
        for protocol, port in (("TCP", 8080), ("UDP", 8080), ("SCTP", 80)):
            places = (cast.far, cast.sibling, cast.on_link, cast.pod, cast.node)
            backends = {number + index: (place, port) for index, place in enumerate(places)}
            rig.service((*cast.web, protocol), backends, number, affinity_s=0 if protocol == "TCP" else 60)
            number += len(places)
        rig.service((cast.vip, 81, "TCP"), {}, number)
        rig.service((cast.vip_two, 80, "UDP"), {number: cast.backend}, number, known=ADDRESS_FRONTEND)
        rig.service((cast.any, 30080, "TCP"), {number + 1: cast.backend}, number + 1, known=0)
        rig.maps.mark_address(cast.other_node, ~0, ADDRESS_NODE_PORT)
        number += 2


def empty(rig: Rig) -> None:
    """Pods and nodes, no Service, no flow."""


class Judge:
    """What must hold of every frame that went through a program."""

    def __init__(self, rig: Rig, program: str) -> None:
        self._rig, self._program = rig, program
        known = rig.maps.addresses()
        self._cluster_ips = {address for address, entry in known.items() if entry.flags & ADDRESS_CLUSTER_IP}
        self.codes: Counter[int] = Counter()

    def check(self, frame: bytes, code: int, out: bytes) -> None:
        """AssertionError when a promise is broken."""
        self.codes[code] += 1
        assert code in PROGRAMS[self._program], code
        if code == SHOT:
            return
        if code == UNSPEC or self._program == "node_to_pod":
            assert out == frame, "not ours, yet touched"
        if self._program == "from_pod":
            self._from_pod(frame, code, out)
        elif self._program == "to_pod" and code == OK:
            self._to_pod(frame, out)

    def _from_pod(self, frame: bytes, code: int, out: bytes) -> None:
        seen = view(frame)
        assert_own_source(seen, frame)
        if code == UNSPEC:
            assert seen.destination not in self._cluster_ips, "to a ClusterIP, yet sent on as it is"
            return
        after = view(out)
        if code == REDIRECT and out[:12] == OWN + OWN and after.destination == seen.source != seen.destination:
            assert_refusal(frame, seen, out, after)
            return
        assert after.source in PODS | HAIRPINS | VIPS or after.source == seen.source
        assert out[6:12] == OWN
        if out[12:] == frame[12:]:
            assert (out[:6], code) == (OWN, OK)
            assert seen.destination in NEAR, "only what is near goes to the own MAC"
            return
        assert self._called(seen) or seen.destination in HAIRPINS, "foreign traffic rewritten"
        assert_same_but_translated(frame, seen, out, after)

    def _called(self, seen: View) -> bool:
        """Whether the frame is for a Service that is in the maps."""
        if seen.destination not in FRONTENDS:
            return False
        if seen.ports is None:
            return seen.later
        cast = CASTS[1] if ":" in seen.destination else CASTS[0]
        protocol = protocol_name(seen.protocol)
        keys = (ServiceKey(address, seen.ports[1], protocol, 0) for address in (seen.destination, cast.any))
        return any(self._rig.maps.services.get(key) is not None for key in keys)

    def _to_pod(self, frame: bytes, out: bytes) -> None:
        seen, after = view(frame), view(out)
        assert_same_but_translated(frame, seen, out, after)
        assert after.destination == seen.destination
        about = quoted(frame, seen) if seen.protocol in (ICMP, ICMP6) else seen
        assert about is not None, "an error that quotes nothing was translated"
        if about.ports is not None:
            (source_port, port), protocol = about.ports, protocol_name(about.protocol)
            flow = Flow(about.source, source_port, about.destination, port, protocol, CT_REVERSE)
            assert self._rig.maps.conntrack.get(flow) is not None, "foreign traffic rewritten"
        else:
            assert about.later


def quoted(frame: bytes, seen: View) -> View | None:
    """The packet that an ICMP error quotes, as its answer would look."""
    assert seen.l4_at is not None
    inner = frame[seen.l4_at + 8 :]
    if seen.kind == "v4":
        about = view(bytes(12) + b"\x08\x00" + inner + bytes(20))
    else:
        about = view(bytes(12) + b"\x86\xdd" + inner + bytes(20))
    if about.ports is None:
        return None
    about.source, about.destination, about.ports = about.destination, about.source, about.ports[::-1]
    return about


def assert_own_source(seen: View, frame: bytes) -> None:
    assert seen.smac == OWN, "another's MAC"
    if seen.kind == "arp":
        assert frame[22:28] == OWN
        assert seen.source in (*PODS, "0.0.0.0"), "another's ARP"
    elif seen.kind in ("v4", "v6"):
        unspecified = seen.source == "::" and seen.protocol == ICMP6
        stays = seen.protocol == ICMP6 or frame[38:39] == b"\xff" or b"\xfe\x80" <= frame[38:40] < b"\xfe\xc0"
        link_local = seen.kind == "v6" and int(frame[22]) == 0xFE and frame[23] & 0xC0 == 0x80 and stays
        assert seen.source in PODS or unspecified or link_local, "another's address"
        if seen.protocol == ICMP6 and seen.kind == "v6" and seen.l4_at is not None:
            assert frame[seen.l4_at] not in (134, 137), "a router's message"
    else:
        raise AssertionError(f"{seen.kind} was not dropped")


def assert_same_but_translated(frame: bytes, seen: View, out: bytes, after: View) -> None:
    """Lengths, protocols and all that is not addresses, ports and their sums stay; sums stay as valid as they were."""
    assert len(out) == len(frame)
    assert (after.kind, after.protocol, after.l4_at, after.later) == (seen.kind, seen.protocol, seen.l4_at, seen.later)
    assert sums(out, after) == sums(frame, seen), "a checksum became right or wrong"
    if seen.protocol == SCTP or seen.later:
        at = 34 if seen.kind == "v4" else 54
        assert out[at:] == frame[at:], "only the addresses may change"
    elif seen.protocol not in (ICMP, ICMP6):
        assert seen.l4_at is not None
        payload = seen.l4_at + (18 if seen.protocol == TCP else 8)
        assert out[payload:] == frame[payload:], "the payload changed"


def assert_refusal(frame: bytes, seen: View, out: bytes, after: View) -> None:
    """Back to the pod from the address it called, with checksums that are right whatever the packet's were."""
    assert after.source == seen.destination
    assert after.l4_at is not None
    addresses = out[26:34] if after.kind == "v4" else out[22:54]
    length = len(out) - after.l4_at
    if after.protocol == TCP:
        assert (length, out[after.l4_at + 13] & 0x04) == (20, 4)
        assert seen.protocol == TCP and not frame[seen.l4_at + 13] & 4  # type: ignore[operator]
        assert summed(addresses + bytes([0, TCP]) + length.to_bytes(2, "big") + out[after.l4_at :]) == 0
        return
    body = out[after.l4_at :]
    if body[0] in (0, 129):
        assert body[1:2] + body[4:] == frame[seen.l4_at + 1 : seen.l4_at + 2] + frame[seen.l4_at + 4 :]  # type: ignore[operator]
        return
    assert (body[0], body[1]) in ((3, 3), (1, 4))
    pseudo = addresses + bytes([0, ICMP6]) + length.to_bytes(2, "big") if after.kind == "v6" else b""
    assert summed(pseudo + body) == 0
    assert body[8:] == frame[14 : 14 + len(body) - 8]
    assert seen.protocol not in (ICMP, ICMP6)


TROUBLE = re.compile(r"BUG|WARNING|Oops|RIP:|Call Trace|csum failure|refcount|skb|bpf|unable to handle", re.IGNORECASE)


def complaints() -> int:
    """How many lines of the kernel's log mean trouble (other lines are of whoever else is at work); 0: not readable."""
    done = subprocess.run(["dmesg"], capture_output=True, text=True, check=False)
    return sum(1 for line in done.stdout.splitlines() if TROUBLE.search(line))


def run_all(rig: Rig, program: str, frames: Iterable[bytes], told: Callable[[], str]) -> int:
    """Run and judge; give how many frames the kernel took (it takes none that is cut within its IP header)."""
    judge, runner, done = Judge(rig, program), Runner(rig.programs.fd(program), SLAVE), 0
    before = rig.maps.counters()

    def work() -> None:
        nonlocal done
        for number, frame in enumerate(frames):
            if number % PER_BATCH == 0:
                bpfcall.delete(rig.maps.fd("refusals"), SLAVE.to_bytes(4, "little"))
            try:
                code, out = runner.run(frame)
            except OSError as error:
                assert error.errno == errno.EINVAL, (told(), number, frame.hex())
                continue
            done += 1
            try:
                judge.check(frame, code, out)
            except AssertionError as broken:
                raise AssertionError(
                    f"{told()} {program} {number}: {broken}\n in {frame.hex()}\nout {out.hex()}"
                ) from None

    rig.inside(work)
    after = rig.maps.counters()
    counted = sum(after[v] - before[v] for v in Verdict if not v.name.startswith("EVENT"))
    assert counted == done, "every frame has one verdict"
    print(program, dict(judge.codes))
    return done


@pytest.mark.parametrize("maps", [full, empty])
@pytest.mark.parametrize("program", PROGRAMS)
def test_mutated_frames(rig: Rig, seed: int, program: str, maps: Callable[[Rig], None]) -> None:
    maps(rig)
    if program == "node_to_pod":
        uplink_pods(rig)
    mutator = Mutator(seed, corpus(program))

    def frames() -> Iterator[bytes]:
        while True:
            yield mutator.frame()

    before = complaints()
    taken = run_all(rig, program, islice(frames(), MUTATED), lambda: f"DRAGLINE_FUZZ_SEED={seed}")
    assert taken > MUTATED * 0.8
    assert complaints() == before


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_truncation(rig: Rig, program: str) -> None:
    full(rig)
    before = complaints()
    one_of_each: dict[tuple[object, ...], bytes] = {}
    for frame in corpus():
        seen = view(frame)
        one_of_each.setdefault((seen.kind, seen.protocol, seen.l4_at, seen.source, seen.destination), frame)
    taken = run_all(rig, program, truncations(list(one_of_each.values())), lambda: "truncated")
    print(taken)
    assert complaints() == before


def test_the_corpus_has_every_kind() -> None:
    """What is mutated decides what is found."""
    kinds = {(seen.kind, seen.protocol, seen.later) for seen in map(view, corpus())}
    for kind in ("v4", "v6"):
        assert {(kind, number, False) for number in (6, 17, 132, 1 if kind == "v4" else 58)} <= kinds
        assert (kind, 17, True) in kinds
    assert {"arp", "other", "broken"} <= {kind for kind, _, _ in kinds}
