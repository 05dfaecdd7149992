"""The journal's frames: how bytes become records again after a crash, a torn write or a flipped bit.

Pure. A frame is `u32 length | u32 crc32 | body`, little endian; the checksum covers the length and the body, so that
eight zero bytes are not a valid empty frame. Where a frame does not check out, the next one that does is searched byte
by byte: one damaged record costs that record. If none follows, the rest is the tail of a write that never finished.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from zlib import crc32

MAX_BODY = 1 << 16  # an attachment takes some 300 bytes; the bound makes most garbage fail before any checksum
_HEAD = Struct("<II")


@dataclass(frozen=True, slots=True)
class Scan:
    """What is in a file: offsets (start, end) of good frames and of damaged stretches between them, and the tail."""

    frames: list[tuple[int, int]]
    damaged: list[tuple[int, int]]
    tail: int  # where the good part ends: the file's size, unless the last write is torn or damaged
    torn: bool  # the tail looks like an unfinished write rather than a damaged record


def frame(body: bytes) -> bytes:
    """`body` as one frame. Raises ValueError if it is empty or larger than MAX_BODY."""
    if not 0 < len(body) <= MAX_BODY:
        raise ValueError(f"a record of {len(body)} bytes does not fit a frame (1 to {MAX_BODY})")
    return _HEAD.pack(len(body), _checksum(body)) + body


def body(data: bytes, at: tuple[int, int]) -> bytes:
    """The body of the good frame at (start, end)."""
    return data[at[0] + _HEAD.size : at[1]]


def scan(data: bytes) -> Scan:
    """Split a file into good frames and the rest. Never raises."""
    frames: list[tuple[int, int]] = []
    damaged: list[tuple[int, int]] = []
    position = 0
    while position < len(data):
        end = _good_end(data, position)
        if end:
            frames.append((position, end))
            position = end
            continue
        following = _next_good(data, position + 1)
        if following == len(data):
            break
        damaged.append((position, following))
        position = following
    return Scan(frames, damaged, position, position < len(data) and _unfinished(data, position))


def _checksum(content: bytes) -> int:
    return crc32(content, crc32(len(content).to_bytes(4, "little")))


def _good_end(data: bytes, position: int) -> int:
    """The end of the frame that starts at `position`; 0 if none does."""
    start = position + _HEAD.size
    if start > len(data):
        return 0
    length, checksum = _HEAD.unpack_from(data, position)
    end: int = start + length
    good = 0 < length <= MAX_BODY and end <= len(data) and _checksum(data[start:end]) == checksum
    return end if good else 0


def _next_good(data: bytes, position: int) -> int:
    while position < len(data) and not _good_end(data, position):
        position += 1
    return position


def _unfinished(data: bytes, position: int) -> bool:
    """Whether the last frame runs past the end of the file (a complete one with a wrong checksum is damage)."""
    if position + _HEAD.size > len(data):
        return True
    length: int = _HEAD.unpack_from(data, position)[0]
    return 0 < length <= MAX_BODY and position + _HEAD.size + length > len(data)
