"""Frames for the fuzz test: bytes of the rows' frames, mutated. A seed gives the same frames every time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from tests.bpf.rows import ROWS
from tests.fragments import extended, fragments

KINDS = (0, 43, 44, 51, 60)
INTERESTING = (0, 1, 4, 5, 6, 8, 15, 16, 17, 43, 44, 51, 58, 59, 60, 64, 127, 128, 132, 255)
ETHERTYPES = (b"\x08\x00", b"\x86\xdd", b"\x08\x06", b"\x81\x00", b"\x88\xa8")


def corpus(program: str = "") -> list[bytes]:
    """Valid frames of every kind: what the rows send, what they get, fragments of it; mostly of `program`'s rows."""
    frames: dict[bytes, int] = {}
    for row in ROWS.values():
        for frame in (row.frame, row.wanted):
            if frame is None or len(frame) >= 1000:
                continue
            weight = 4 if row.program == program and frame is row.frame else 1
            frames[frame] = max(weight, frames.get(frame, 0))
            if frame[12:14] in ETHERTYPES[:2] and len(frame) > 100:
                for piece in fragments(frame, 32):
                    frames.setdefault(piece, weight)
    return [frame for frame, weight in frames.items() for _ in range(weight if program else 1)]


def truncations(frames: list[bytes]) -> Iterator[bytes]:
    """Every frame at every length."""
    for frame in frames:
        for size in range(14, len(frame)):
            yield frame[:size]


class Mutator:
    """Frames without end."""

    def __init__(self, seed: int, frames: list[bytes]) -> None:
        self.random = random.Random(seed)
        self._frames = frames
        self._ways: tuple[Callable[[bytearray], bytes], ...] = (
            self._flip,
            self._flip_header,
            self._interesting,
            self._cut,
            self._longer,
            self._splice,
            self._ethertype,
            self._options,
            self._extensions,
            self._noise,
            self._swap,
        )

    def frame(self) -> bytes:
        """One frame: now and then valid, mostly mutated in one way, sometimes in several."""
        first = found = self.random.choice(self._frames)
        for _ in range(self.random.choice((0, 1, 1, 1, 1, 2, 3))):
            found = self.random.choice(self._ways)(bytearray(found))
        if self.random.random() < 0.7:
            found = self._with_addresses_of(first, found)
        return found if len(found) >= 14 else found + bytes(14)

    @staticmethod
    def _with_addresses_of(first: bytes, found: bytes) -> bytes:
        """Most of what is mutated would end at the source check: MACs and addresses as they were."""
        start, end = {b"\x08\x00": (26, 34), b"\x86\xdd": (22, 54)}.get(first[12:14], (14, 14))
        if len(found) < end:
            return found
        return first[:14] + found[14:start] + first[start:end] + found[end:]

    def _flip(self, frame: bytearray) -> bytes:
        for _ in range(self.random.randint(1, 4)):
            frame[self.random.randrange(len(frame))] ^= 1 << self.random.randrange(8)
        return bytes(frame)

    def _flip_header(self, frame: bytearray) -> bytes:
        frame[self.random.randrange(12, min(len(frame), 80)) if len(frame) > 12 else 0] = self.random.randrange(256)
        return bytes(frame)

    def _interesting(self, frame: bytearray) -> bytes:
        """The bytes that say what comes next: IHL, protocol, fragment offset, next header, length of an extension."""
        at = self.random.choice((14, 20, 21, 22, 23, 54, 55, 62, 63, 47))
        if at < len(frame):
            frame[at] = self.random.choice(INTERESTING)
        return bytes(frame)

    def _cut(self, frame: bytearray) -> bytes:
        return bytes(frame[: self.random.randint(14, max(14, len(frame)))])

    def _longer(self, frame: bytearray) -> bytes:
        return bytes(frame) + self.random.randbytes(self.random.randint(1, 64))

    def _splice(self, frame: bytearray) -> bytes:
        at = self.random.randint(0, len(frame))
        return bytes(frame[:at]) + self.random.choice(self._frames)[at:]

    def _ethertype(self, frame: bytearray) -> bytes:
        frame[12:14] = self.random.choice(ETHERTYPES)
        return bytes(frame)

    def _options(self, frame: bytearray) -> bytes:
        """Random IPv4 options, of a size that IHL tells or not."""
        words = self.random.randint(0, 10)
        frame[14:15] = bytes([0x40 | self.random.choice((words + 5, words + 5, self.random.randrange(16)))])
        return bytes(frame[:34]) + self.random.randbytes(words * 4) + bytes(frame[34:])

    def _extensions(self, frame: bytearray) -> bytes:
        """Random IPv6 extension headers, more than are walked too; now and then of random content."""
        if frame[12:14] != b"\x86\xdd" or len(frame) < 54:
            return bytes(frame)
        chain = [(self.random.choice(KINDS), 8 * self.random.randint(1, 4)) for _ in range(self.random.randint(1, 8))]
        chain = [(kind, 8 if kind == 44 else size) for kind, size in chain]
        longer = bytearray(extended(bytes(frame), *chain))
        if self.random.random() < 0.3:
            longer[self.random.randrange(54, len(longer)) if len(longer) > 54 else 20] = self.random.randrange(256)
        return bytes(longer)

    def _noise(self, frame: bytearray) -> bytes:
        """Random bytes behind a real beginning, of any length."""
        keep = self.random.choice((0, 12, 14, 34, 54))
        return bytes(frame[:keep]) + self.random.randbytes(self.random.randint(14, 200))

    def _swap(self, frame: bytearray) -> bytes:
        """Source and destination change places."""
        if frame[12:14] == b"\x08\x00" and len(frame) >= 34:
            frame[26:34] = frame[30:34] + frame[26:30]
        elif frame[12:14] == b"\x86\xdd" and len(frame) >= 54:
            frame[22:54] = frame[38:54] + frame[22:38]
        return bytes(frame)
