"""One pinned hash map as a typed table: dataclasses in and out, bpf(2) below (datapath/bpfcall.py).

Every verb is one system call (a few microseconds; a batch counts as one), safe from any thread, and idempotent: put
replaces, delete of nothing is fine. A pinned map is untrusted input: an entry that our encoder would not write so is
dropped when met.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, Protocol, Self, TypeVar

from datapath import bpfcall
from datapath.abi import U32, U64, MapSpec


class Entry(Protocol):
    """A key or a value."""

    def encode(self) -> bytes:
        """Give the bytes of its struct."""
        ...

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read its struct."""
        ...


class Number:
    """A u32 key or value (ifindex, id)."""

    __slots__ = ("number",)
    _packer = U32

    def __init__(self, number: int) -> None:
        self.number = number

    def encode(self) -> bytes:
        """Give it as native bytes."""
        return self._packer.pack(self.number)

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read native bytes."""
        return cls(*cls._packer.unpack(raw))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Number) and other.number == self.number

    def __hash__(self) -> int:
        return hash(self.number)


class Cookie(Number):
    """A u64 key (netns cookie)."""

    __slots__ = ()
    _packer = U64


K = TypeVar("K", bound=Entry)
V = TypeVar("V", bound=Entry)


class Table(Generic[K, V]):
    """A map behind a descriptor that somebody else owns."""

    def __init__(self, fd: int, spec: MapSpec, key: type[K], value: type[V]) -> None:
        self.fd = fd
        self._spec, self._key, self._value = spec, key, value

    @property
    def capacity(self) -> int:
        """How many entries fit."""
        return self._spec.max_entries

    @property
    def sizes(self) -> tuple[int, int]:
        """Sizes of a packed key and a packed value in bytes."""
        return self._spec.key_size, self._spec.value_size

    def get(self, key: K) -> V | None:
        """Give the value, None when there is none."""
        raw = bpfcall.lookup(self.fd, key.encode(), self._spec.value_size)
        return None if raw is None else self._value.decode(raw)

    def put(self, key: K, value: V) -> None:
        """Write one entry. OSError: E2BIG when the map is full."""
        bpfcall.update(self.fd, key.encode(), value.encode())

    def add(self, key: K, value: V) -> bool:
        """Write one entry unless there is one; whether it was written."""
        try:
            bpfcall.update(self.fd, key.encode(), value.encode(), bpfcall.NOEXIST)
        except FileExistsError:
            return False
        return True

    def delete(self, key: K) -> bool:
        """Delete one entry; whether it was there."""
        return bpfcall.delete(self.fd, key.encode())

    def put_many(self, entries: Sequence[tuple[K, V]]) -> None:
        """Write entries in order, in one call. bpfcall.BatchError says how many were written before it stopped."""
        keys = b"".join([key.encode() for key, _ in entries])
        values = b"".join([value.encode() for _, value in entries])
        bpfcall.update_batch(self.fd, keys, values, len(entries))

    def delete_many(self, keys: Iterable[K]) -> None:
        """Delete entries in one call."""
        bpfcall.delete_batch(self.fd, b"".join([key.encode() for key in keys]), self._spec.key_size)

    def batches(self) -> Iterator[tuple[bytes, bytes]]:
        """Walk the map as packed keys and values, about a thousand entries at a time (bpfcall.cut cuts them)."""
        return bpfcall.batches(self.fd, self._spec.key_size, self._spec.value_size)

    def items(self) -> Iterator[tuple[K, V]]:
        """Walk the map; what our encoder would not have written so (foreign padding, say) is deleted and left out."""
        for raw_key, raw_value in bpfcall.items(self.fd, self._spec.key_size, self._spec.value_size):
            key, value = self._key.decode(raw_key), self._value.decode(raw_value)
            if key.encode() == raw_key and value.encode() == raw_value:
                yield key, value
            else:
                bpfcall.delete(self.fd, raw_key)
