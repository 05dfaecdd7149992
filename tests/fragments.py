"""Fragments of a frame, and back; IPv6 extension headers put into one: bytes moved, no checksum touched."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from scapy.compat import raw
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether

HOP_OPTIONS, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION_OPTIONS = 0, 43, 44, 51, 60
UDP_NUMBER = 17


def fragments(frame: bytes, size: int = 64, number: int = 77) -> list[bytes]:
    """Cut a frame's IP payload into fragments of `size` bytes (a multiple of 8); `number` is the datagram's id."""
    packet = Ether(frame)
    if packet.type == 0x86DD:
        return list(_fragments6(frame, size, number))
    header, payload = packet[IP], raw(packet[IP].payload)
    cut = []
    for at in range(0, len(payload), size):
        piece = header.copy()
        piece.remove_payload()
        piece.id, piece.frag, piece.flags = number, at // 8, "MF" if at + size < len(payload) else 0
        del piece.len, piece.chksum
        cut.append(raw(Ether(src=packet.src, dst=packet.dst) / piece / payload[at : at + size]))
    return cut


def _fragments6(frame: bytes, size: int, number: int) -> Iterable[bytes]:
    payload, next_header = frame[54:], frame[20]
    for at in range(0, len(payload), size):
        more = at + size < len(payload)
        piece = payload[at : at + size]
        extension = struct.pack(">BBHI", next_header, 0, at | more, number)
        length = struct.pack(">H", len(piece) + 8)
        yield frame[:18] + length + bytes([FRAGMENT]) + frame[21:54] + extension + piece


def reassembled(pieces: Sequence[bytes]) -> bytes:
    """Put fragments (in order) together; the IP header is the first one's, without its marks of a fragment."""
    first = Ether(pieces[0])
    if first.type == 0x86DD:
        payload = b"".join(piece[62:] for piece in pieces)
        length = struct.pack(">H", len(payload))
        return pieces[0][:18] + length + pieces[0][54:55] + pieces[0][21:54] + payload
    header = first[IP].copy()
    header.remove_payload()
    header.flags = 0
    del header.len, header.chksum
    payload = b"".join(raw(Ether(piece)[IP].payload) for piece in pieces)
    return raw(Ether(src=first.src, dst=first.dst) / header / payload)


def extension(kind: int, size: int, following: int) -> bytes:
    """Give one IPv6 extension header of `size` bytes (a multiple of 8; authentication: of 4), harmlessly filled."""
    if kind == AUTHENTICATION:
        return bytes([following, size // 4 - 2]) + bytes(size - 2)
    if kind == FRAGMENT:
        return bytes([following]) + bytes(3) + (99).to_bytes(4, "big")  # the only fragment of a datagram (RFC 6946)
    body = bytes(size - 2) if kind == ROUTING else bytes([1, size - 4]) + bytes(size - 4)  # PadN; no segments left
    return bytes([following, size // 8 - 1]) + body


def extended(frame: bytes, *chain: tuple[int, int]) -> bytes:
    """Give an IPv6 frame with extension headers, as (number, size in bytes), put between IP and L4."""
    headers = b""
    kinds = [kind for kind, _ in chain] + [frame[20]]
    for (kind, size), following in zip(chain, kinds[1:], strict=True):
        headers += extension(kind, size, following)
    length = struct.pack(">H", len(frame) - 54 + len(headers))
    return frame[:18] + length + bytes([kinds[0]]) + frame[21:54] + headers + frame[54:]


def wrong_checksums(frame: bytes) -> list[str]:
    """Names of the layers of a whole (not fragmented) frame whose checksum is not what scapy computes."""
    packet = Ether(frame)
    fresh = packet.copy()
    for layer in fresh.iterpayloads():
        for name in ("chksum", "cksum"):
            if name in layer.fields and not (layer.name == "UDP" and not layer.chksum):
                layer.delfieldval(name)
    computed = Ether(raw(fresh))
    wrong = []
    for found, wanted in zip(packet.iterpayloads(), computed.iterpayloads(), strict=True):
        for name in ("chksum", "cksum"):
            if getattr(found, name, None) != getattr(wanted, name, None):
                wrong.append(found.name)
    return wrong
