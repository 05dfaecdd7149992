"""Fragments, both ways: only the first has ports, all get the same addresses, and the whole has a valid checksum."""

from __future__ import annotations

import pytest

from datapath.abi import ADDRESS_FRONTEND
from tests.bpf.flow_steps import V, addresses, checked, in_both_families, received, same, sent, web
from tests.bpf.rig import Rig
from tests.fragments import fragments, reassembled, wrong_checksums
from tests.packets import OWN_MAC, Cast, End, icmp, readdressed, sctp, tcp, udp

pytestmark = in_both_families
BIG = bytes(range(256)) * 2
GATEWAY = V.VERDICT_SERVICE_GATEWAY


def datagram(src: End, dst: End, *, checksum: int | None = None) -> bytes:
    return udp(src, dst, data=BIG, checksum=checksum)


def through(rig: Rig, program: str, pieces: list[bytes], verdict: V, *events: V) -> list[bytes]:
    return [checked(rig.run(program, piece), verdict, *events) for piece in pieces]


@pytest.mark.parametrize("checksum", [None, 0])
@pytest.mark.parametrize("size", [8, 64, 256, 512])
def test_there_and_back(rig: Rig, cast: Cast, size: int, checksum: int | None) -> None:
    web(rig, cast.far, protocol="UDP")
    whole = datagram(cast.client, cast.web, checksum=checksum)
    out = through(rig, "from_pod", fragments(whole, size), GATEWAY)
    wanted = readdressed(whole, dst=cast.far, dport=8080)
    for found, piece in zip(out, fragments(wanted, size), strict=True):
        same(found, piece)
    put_together = reassembled(out)
    assert wrong_checksums(put_together) == []
    assert addresses(put_together) == (*cast.client, *cast.backend)
    answer = datagram(cast.backend, cast.client, checksum=checksum)
    back = through(rig, "to_pod", fragments(answer, size), V.VERDICT_ANSWER)
    wanted = readdressed(answer, src=cast.vip, sport=80)
    for found, piece in zip(back, fragments(wanted, size), strict=True):
        same(found, piece)
    assert wrong_checksums(reassembled(back)) == []


def test_later_ones_in_any_order(rig: Rig, cast: Cast) -> None:
    web(rig, cast.far, protocol="UDP")
    first, *later = fragments(datagram(cast.client, cast.web))
    out = [sent(rig, first, GATEWAY), *reversed(through(rig, "from_pod", later[::-1], GATEWAY))]
    assert wrong_checksums(reassembled(out)) == []


def test_several_datagrams_at_once(rig: Rig, cast: Cast) -> None:
    """Two flows, their fragments mixed: the datagram's id keeps them apart."""
    web(rig, cast.far, protocol="UDP")
    other = (cast.pod, 40001)
    one, two = fragments(datagram(cast.client, cast.web), number=7), fragments(datagram(other, cast.web), number=8)
    mixed = [(sent(rig, piece, GATEWAY), sent(rig, second, GATEWAY)) for piece, second in zip(one, two, strict=True)]
    for pieces, client in zip(zip(*mixed, strict=True), (cast.client, other), strict=True):
        whole = reassembled(pieces)
        assert (addresses(whole), wrong_checksums(whole)) == ((*client, *cast.backend), [])


def test_later_one_before_its_first(rig: Rig, cast: Cast) -> None:
    """To a ClusterIP: dropped, since it must not go to the gateway. Who needs the datagram sends it again."""
    web(rig, cast.far, protocol="UDP")
    first, second, *_ = fragments(datagram(cast.client, cast.web))
    sent(rig, second, V.DROP_FRAGMENT)
    sent(rig, first, GATEWAY)
    sent(rig, second, GATEWAY)


def test_later_one_of_another_datagram(rig: Rig, cast: Cast) -> None:
    web(rig, cast.far, protocol="UDP")
    whole = datagram(cast.client, cast.web)
    sent(rig, fragments(whole, number=7)[0], GATEWAY)
    sent(rig, fragments(whole, number=8)[1], V.DROP_FRAGMENT)


def test_later_one_to_an_external_ip_before_its_first(rig: Rig, cast: Cast) -> None:
    """Somebody may be behind that address: it passes."""
    rig.service((*cast.web, "UDP"), {1: cast.backend}, known=ADDRESS_FRONTEND)
    first, second, *_ = fragments(datagram(cast.client, cast.web))
    same(sent(rig, second, V.VERDICT_DIRECT), second)
    sent(rig, first, GATEWAY)


def test_answer_whose_first_is_unknown(rig: Rig, cast: Cast) -> None:
    web(rig, cast.far, protocol="UDP")
    sent(rig, udp(cast.client, cast.web), GATEWAY)
    first, second, *_ = fragments(datagram(cast.backend, cast.client))
    same(received(rig, second, V.VERDICT_PASS, V.EVENT_FRAGMENT_LOST), second)
    received(rig, first)
    received(rig, second)


def test_foreign_fragments_come_in_as_they_are(rig: Rig, cast: Cast) -> None:
    web(rig, cast.far, protocol="UDP")
    for piece in fragments(datagram((cast.far, 9), cast.client)):
        same(received(rig, piece, V.VERDICT_PASS), piece)


@pytest.mark.parametrize("program", ["from_pod", "to_pod"])
def test_both_directions_have_their_own_ids(rig: Rig, cast: Cast, program: str) -> None:
    """The same id from the pod and to it: two datagrams."""
    web(rig, cast.far, protocol="UDP")
    there, back = fragments(datagram(cast.client, cast.web)), fragments(datagram(cast.backend, cast.client))
    sent(rig, there[0], GATEWAY)
    received(rig, back[0])
    for number in (1, 2):
        sent(rig, there[number], GATEWAY)
        received(rig, back[number])


def test_without_backends(rig: Rig, cast: Cast) -> None:
    """The first is refused, the others are dropped in silence."""
    rig.service((*cast.web, "UDP"), {})
    first, *later = fragments(datagram(cast.client, cast.web))
    sent(rig, first, V.DROP_NO_BACKEND, V.EVENT_REFUSED_ICMP)
    through(rig, "from_pod", later, V.DROP_NO_BACKEND)


def test_unknown_port(rig: Rig, cast: Cast) -> None:
    web(rig, cast.far, protocol="UDP")
    first, *later = fragments(datagram(cast.client, (cast.vip, 81)))
    sent(rig, first, V.DROP_UNKNOWN_PORT, V.EVENT_REFUSED_ICMP)
    through(rig, "from_pod", later, V.DROP_UNKNOWN_PORT)


def test_hairpin(rig: Rig, cast: Cast) -> None:
    web(rig, cast.pod, protocol="UDP")
    whole = datagram(cast.client, cast.web)
    out = through(rig, "from_pod", fragments(whole), V.VERDICT_HAIRPIN)
    seen = reassembled(out)
    assert wrong_checksums(seen) == []
    same(seen, readdressed(_whole(whole), src=cast.hairpin, dst=cast.pod, dport=8080, dmac=OWN_MAC))
    answer = datagram((cast.pod, 8080), (cast.hairpin, 40000))
    back = reassembled(through(rig, "from_pod", fragments(answer), V.VERDICT_HAIRPIN_ANSWER))
    assert wrong_checksums(back) == []
    same(back, readdressed(_whole(answer), src=cast.vip, sport=80, dst=cast.pod, dport=40000, dmac=OWN_MAC))


def _whole(frame: bytes) -> bytes:
    """The frame as it is after it was cut and put together: its IPv4 id is the datagram's."""
    return reassembled(fragments(frame))


def test_changed_source_port(rig: Rig, cast: Cast) -> None:
    """The second of two Services with one backend: its fragments go and come back under the new port."""
    web(rig, cast.far, protocol="UDP")
    rig.service((cast.vip_two, 80, "UDP"), {2: cast.backend}, service_id=2)
    sent(rig, udp(cast.client, cast.web), GATEWAY)
    pieces = fragments(datagram(cast.client, (cast.vip_two, 80)))
    first = sent(rig, pieces[0], GATEWAY, V.EVENT_NEW_SOURCE_PORT)
    whole = reassembled([first, *through(rig, "from_pod", pieces[1:], GATEWAY)])
    port = addresses(whole)[1]
    assert (port != 40000, wrong_checksums(whole)) == (True, [])
    back = fragments(datagram(cast.backend, (cast.pod, port)))
    seen = reassembled(through(rig, "to_pod", back, V.VERDICT_ANSWER))
    assert (addresses(seen), wrong_checksums(seen)) == ((cast.vip_two, 80, *cast.client), [])


@pytest.mark.parametrize("protocol", ["TCP", "SCTP"])
def test_other_protocols(rig: Rig, cast: Cast, protocol: str) -> None:
    """Rare (TCP has its own segments), yet whole: the first fragment holds all of the L4 header."""
    make, port = (tcp, 8080) if protocol == "TCP" else (sctp, 80)
    web(rig, cast.far, protocol=protocol)
    whole = make(cast.client, cast.web)
    out = through(rig, "from_pod", fragments(whole, 24), GATEWAY)
    same(reassembled(out), readdressed(_whole(whole), dst=cast.far, dport=port))


def test_first_without_all_of_its_l4_header(rig: Rig, cast: Cast) -> None:
    """Its flags are unknown, so it can open nothing; nobody but an attacker sends such (RFC 1858, RFC 8200)."""
    web(rig, cast.far)
    first, second, *_ = fragments(tcp(cast.client, cast.web), 8)
    sent(rig, first, V.DROP_MALFORMED)
    sent(rig, second, V.DROP_FRAGMENT)


def test_an_echo_request_in_pieces_is_not_answered(rig: Rig, cast: Cast) -> None:
    """The answer to its first piece alone would keep the pod's stack waiting for the rest."""
    web(rig, cast.far)
    for piece in fragments(icmp(cast.pod, cast.vip), 8):
        sent(rig, piece, V.DROP_FRAGMENT)


def test_whole_datagram_is_no_fragment(rig: Rig, cast: Cast) -> None:
    """Nothing to remember, not even of IPv6's atomic fragment (RFC 6946)."""
    web(rig, cast.far, protocol="UDP")
    (only,) = fragments(datagram(cast.client, cast.web), 1024)
    sent(rig, only, GATEWAY)
    assert rig.raw("fragments") == {}
