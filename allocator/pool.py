"""One pool on this node: which addresses are held, which cool down, and which one comes next.

Pure; `now` is CLOCK_MONOTONIC in seconds. An address is in one of three conditions: never used (its bit is clear),
held, or released (its bit stays set and it waits in a queue). Order of giving: never used, lowest first; then
released, longest idle first. A released address is *cooling* for `cooldown_s`, since neighbours, conntrack entries
and watchers of endpoints still know it; it is given earlier only to a caller that says nothing else is free.

A pool's ranges never change: on an edit allocator.holdings makes a new Pool and enters what is held and released.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from itertools import takewhile

from allocator.bitmap import Bitmap
from allocator.ranges import Ranges

COOLDOWN_S = 30.0  # what AWS and Azure chose for the lag of kube-proxy and neighbour caches


class PoolError(Exception):
    """An operation that contradicts the pool's book: an address claimed twice, or given back without being held."""


class Pool:
    """The book of one pool: a bitmap of every address ever used, who is held, and the queue of the released."""

    __slots__ = ("_bitmap", "_cooldown_s", "_held", "_released")

    def __init__(self, ranges: Ranges, cooldown_s: float = COOLDOWN_S) -> None:
        self._bitmap = Bitmap(ranges)
        self._cooldown_s = cooldown_s
        self._held: set[int] = set()
        self._released: OrderedDict[int, float] = OrderedDict()  # address -> when, longest idle first

    @property
    def ranges(self) -> Ranges:
        """The addresses it can give."""
        return self._bitmap.ranges

    @property
    def allocated(self) -> int:
        """How many addresses are held."""
        return len(self._held)

    @property
    def total(self) -> int:
        """How many addresses there are."""
        return self._bitmap.size

    def free(self, now: float) -> int:
        """How many can be given without cutting a cooldown short."""
        return self.total - self.allocated - len(self.cooling(now))

    def can_take(self) -> bool:
        """Whether `take` would give an address (perhaps one that still cools)."""
        return len(self._held) < self._bitmap.size

    def take(self, now: float, *, early: bool = True) -> int | None:
        """The next address, now held; None when there is none. `early` False leaves cooling addresses alone."""
        address = self._bitmap.take()
        if address is None:
            address = self._longest_idle(now, early)
        if address is not None:
            self._held.add(address)
        return address

    def claim(self, address: int) -> None:
        """Hold this very address (replay; an overlapping pool gave it out).

        Raises PoolError if it is held already, RangeError if it is not of this pool.
        """
        if address in self._held:
            raise PoolError(f"address {address:#x} is held already")
        self._bitmap.mark(address)
        self._released.pop(address, None)
        self._held.add(address)

    def give(self, address: int, now: float) -> None:
        """Release a held address: it cools from `now`. Raises PoolError if it is not held."""
        if address not in self._held:
            raise PoolError(f"address {address:#x} is not held")
        self._held.remove(address)
        self._released[address] = now

    def cool(self, addresses: Iterable[tuple[int, float]]) -> None:
        """Enter (address, since) as released (replay, a pool that was edited or came back).

        One that is held or waits already is left alone: that is the newer story. Raises RangeError.
        """
        for address, since in addresses:
            if self._bitmap.mark(address):
                self._released[address] = since
        self._released = OrderedDict(sorted(self._released.items(), key=_since))

    def covers(self, address: int) -> bool:
        """Whether `address` is of this pool."""
        return self._bitmap.covers(address)

    def released(self) -> list[tuple[int, float]]:
        """Every released (address, since), cooled or not, longest idle first."""
        return list(self._released.items())

    def cooling(self, now: float) -> list[tuple[int, float]]:
        """Released (address, since) whose cooldown has not passed, the youngest first."""
        return list(takewhile(lambda entry: now - entry[1] < self._cooldown_s, reversed(self._released.items())))

    def _longest_idle(self, now: float, early: bool) -> int | None:
        for address, since in self._released.items():
            if early or now - since >= self._cooldown_s:
                del self._released[address]
                return address
            break  # the queue is in order of release: the rest is younger
        return None


def _since(entry: tuple[int, float]) -> float:
    return entry[1]
