"""Checksums that the kernel has not finished (GSO) or keeps beside the frame (CHECKSUM_COMPLETE of a network card)."""

from __future__ import annotations

import errno
import socket
import struct

import pytest

from datapath.abi import Verdict
from tests.bpf.flow_steps import V, in_both_families, same
from tests.bpf.rig import OK, SLAVE, Rig
from tests.bpf.row import Row, answer_known, web
from tests.bpf.rows import ROWS
from tests.bpf.runner import Runner
from tests.fragments import fragments
from tests.packets import OWN_MAC, Cast, readdressed, tcp, udp

REWRITES = {
    V.VERDICT_ANSWER,
    V.VERDICT_ERROR_ANSWER,
    V.VERDICT_HAIRPIN,
    V.VERDICT_SERVICE_GATEWAY,
    V.VERDICT_SERVICE_NEIGH,
    V.VERDICT_SERVICE_OWN_MAC,
}
# Where UDP has no checksum nobody looks at the card's sum either, and the ports are not taken into it.
COMPLETE = {name: row for name, row in ROWS.items() if row.verdict in REWRITES and "no-checksum" not in name}


@pytest.fixture(scope="session")
def knows_complete(bench: Rig) -> None:
    """Skip where PROG_TEST_RUN cannot make such an skb (before Linux 6.17)."""
    runner = Runner(bench.programs.fd("node_to_pod"), SLAVE)
    try:
        bench.inside(lambda: runner.run(tcp(("10.0.0.1", 1), ("10.0.0.2", 2)), complete=True))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        pytest.skip("this kernel's PROG_TEST_RUN makes no CHECKSUM_COMPLETE skb")


def run_complete(rig: Rig, row: Row) -> bytes:
    if row.before is not None:
        row.before(rig)
    runner = Runner(rig.programs.fd(row.program), row.ifindex)
    code, frame = rig.inside(lambda: runner.run(row.frame, complete=True))
    assert code == row.code
    return frame


@pytest.mark.usefixtures("knows_complete")
@pytest.mark.parametrize("name", COMPLETE)
def test_the_card_s_sum_stays_right(rig: Rig, name: str) -> None:
    """EBADMSG when it does not: on a real link the kernel would say "hw csum failure"."""
    row = COMPLETE[name]
    assert row.wanted is not None
    same(run_complete(rig, row), row.wanted)


@in_both_families
@pytest.mark.usefixtures("knows_complete")
def test_the_card_s_sums_of_fragments_stay_right(rig: Rig, cast: Cast) -> None:
    """The kernel adds them up when it puts the datagram together."""
    answer_known(cast, "UDP")(rig)
    runner = Runner(rig.programs.fd("to_pod"), SLAVE)
    answer = udp(cast.backend, cast.client, data=bytes(range(200)))
    wanted = fragments(readdressed(answer, src=cast.vip, sport=80))
    for came, wanted_piece in zip(fragments(answer), wanted, strict=True):
        code, found = rig.inside(lambda piece=came: runner.run(piece, complete=True))  # type: ignore[misc]
        assert code == OK
        same(found, wanted_piece)


def partial(frame: bytes) -> bytes:
    """The frame as a GSO segment has it: in its checksum field is the sum over the pseudo header, not complemented."""
    at = 54 if frame[12:14] == b"\x86\xdd" else 34
    addresses, length = (frame[22:54] if at == 54 else frame[26:34]), len(frame) - at
    pseudo = addresses + struct.pack(">II", length, socket.IPPROTO_TCP)
    total = sum(struct.unpack(f">{len(pseudo) // 2}H", pseudo))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return frame[: at + 16] + total.to_bytes(2, "big") + frame[at + 18 :]


def run_gso(rig: Rig, program: str, frame: bytes) -> bytes:
    runner = Runner(rig.programs.fd(program), SLAVE)
    code, found = rig.inside(lambda: runner.run(partial(frame), gso_size=1400))
    assert code == OK
    return found


@in_both_families
def test_gso_segment_to_a_backend(rig: Rig, cast: Cast) -> None:
    web(cast.far)(rig)
    frame = tcp(cast.client, cast.web)
    same(run_gso(rig, "from_pod", frame), partial(readdressed(frame, dst=cast.far, dport=8080)))


@in_both_families
@pytest.mark.parametrize("client_port", [40000, 50000])
def test_gso_segment_from_a_backend(rig: Rig, cast: Cast, client_port: int) -> None:
    """What GRO has put together, on its way in."""
    answer_known(cast, client_port=client_port)(rig)
    frame = tcp(cast.backend, cast.client, "PA")
    same(run_gso(rig, "to_pod", frame), partial(readdressed(frame, src=cast.vip, sport=80, dport=client_port)))


@in_both_families
def test_gso_segment_to_the_pod_itself(rig: Rig, cast: Cast) -> None:
    """Both addresses change."""
    web(cast.pod)(rig)
    frame = tcp(cast.client, cast.web)
    wanted = readdressed(frame, src=cast.hairpin, dst=cast.pod, dport=8080, dmac=OWN_MAC)
    same(run_gso(rig, "from_pod", frame), partial(wanted))


def test_rows_of_both_families_are_among_them() -> None:
    verdicts: set[Verdict] = {row.verdict for name, row in COMPLETE.items() if name.endswith("-v6")}
    assert verdicts == REWRITES
