"""Rows of to_pod: answers of backends get the Service's name back; all else comes in as it is."""

from __future__ import annotations

from tests.bpf.rig import OK, UNSPEC
from tests.bpf.row import Row, Step, V, answer_known, in_both_families, web
from tests.fragments import AUTHENTICATION, DESTINATION_OPTIONS, HOP_OPTIONS, extended
from tests.packets import V4, V6, Cast, arp, icmp, readdressed, sctp, tcp, udp


def _row(name: str, frame: bytes, wanted: bytes | None = None, before: Step | None = None) -> Row:
    verdict, code = (V.VERDICT_PASS, UNSPEC) if wanted is None else (V.VERDICT_ANSWER, OK)
    return Row(name, "to_pod", frame, verdict, code, wanted, before)


def _named(cast: Cast, frame: bytes, **more: object) -> bytes:
    return readdressed(frame, src=cast.vip, sport=80, **more)


def _answers(cast: Cast) -> list[Row]:
    rows = []
    for flags in ("SA", "PA", "FA", "R"):
        frame = tcp(cast.backend, cast.client, flags)
        rows.append(_row(f"tcp-{flags}", frame, _named(cast, frame), answer_known(cast)))
    data, unsummed = udp(cast.backend, cast.client), udp(cast.backend, cast.client, checksum=0)
    segment, chunk = tcp(cast.backend, cast.client, "A"), sctp((cast.far, 80), cast.client, "data")
    known, at_50000 = answer_known(cast, "UDP"), answer_known(cast, client_port=50000)
    direct = answer_known(cast, name=cast.backend, client_port=50000)
    return [
        *rows,
        _row("udp", data, _named(cast, data), known),
        _row("udp-no-checksum", unsummed, _named(cast, unsummed), known),
        _row("udp-sum-becomes-0", *_ends_as_zero(cast), known),
        _row("other-source-port", segment, _named(cast, segment, dport=50000), at_50000),
        _row("direct-other-source-port", segment, readdressed(segment, dport=50000), direct),
        _row("sctp", chunk, readdressed(chunk, src=cast.vip), answer_known(cast, "SCTP", backend=(cast.far, 80))),
    ]


def _ends_as_zero(cast: Cast) -> tuple[bytes, bytes]:
    """See rows_service.py."""
    at = 60 if cast is V6 else 40
    summed = udp(cast.web, cast.client, data=bytes(2))[at : at + 2]
    arrives = udp(cast.backend, cast.client, data=summed)
    wanted = _named(cast, arrives)
    assert wanted[at : at + 2] == b"\xff\xff"
    return arrives, wanted


def _untouched(cast: Cast) -> list[Row]:
    """An entry is there, but not for this packet."""
    known = answer_known(cast)
    return [
        _row("unknown-flow", tcp(cast.backend, cast.client, "SA"), None, web(cast.far)),
        _row("other-protocol", udp(cast.backend, cast.client), None, known),
        _row("other-pod", tcp(cast.backend, (cast.sibling, 40000), "SA"), None, known),
        _row("other-port", tcp(cast.backend, (cast.pod, 40001), "SA"), None, known),
        _row("other-backend", tcp((cast.far_two, 8080), cast.client, "SA"), None, known),
        _row("other-backend-port", tcp((cast.far, 8081), cast.client, "SA"), None, known),
        _row("ping", icmp(cast.far, cast.pod), None, known),
        _row("cut", tcp(cast.backend, cast.client, "SA")[: 70 if cast is V6 else 50], None, known),
        _row("to-a-service", tcp(cast.client, cast.web), None, web(cast.far)),
    ]


def _elsewhere() -> list[Row]:
    """Behind IPv6 extension headers."""
    frame = tcp(V6.backend, V6.client, "SA")
    chain = ((HOP_OPTIONS, 8), (DESTINATION_OPTIONS, 32), (AUTHENTICATION, 12))
    many = ((DESTINATION_OPTIONS, 8),) * 7
    mapped = tcp(("::ffff:10.9.0.30", 8080), ("::ffff:10.1.0.10", 40000), "SA")
    return [
        _row("extensions", extended(frame, *chain), extended(_named(V6, frame), *chain), answer_known(V6)),
        _row("too-many-extensions", extended(frame, *many), None, answer_known(V6)),
        _row("not-ip", arp(V4.node, V4.pod)),
        _row("short-ihl", frame[:14] + b"\x44" + frame[15:], None, answer_known(V6)),
        _row("v4-mapped", mapped, None, answer_known(V4)),
    ]


ROWS = [*in_both_families(_answers, _untouched), *_elsewhere()]
