"""Addresses over all pools of the node: which attachment holds which, so that none is ever held twice.

Pure. Each pool keeps its own book (allocator.pool); this one keeps the books in line with each other:

* Pools may overlap. An address that is taken, released or cooling in one is so in every pool that covers it.
* Pools are edited, deleted and added again while addresses of theirs are held or cool down. What is held is held here,
  by address, whatever becomes of its pool; what cools outside every pool is remembered (`_strays`) until a pool covers
  it or it has cooled. A changed pool gets a new book, made from these two.

An address is (family, int) here: 0.0.0.1 and ::1 are different.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

from allocator import ranges
from allocator.attachments import AddressLease, AttachmentKey
from allocator.pool import COOLDOWN_S, Pool
from allocator.ranges import RangeError, Ranges
from cluster.resources import SpiderIPPool

Address = tuple[int, int]


class PoolExhausted(Exception):
    """Every candidate pool of a family is full; the message gives each pool's numbers and what to do."""


class Holdings:
    """The pools' books and who holds each address."""

    def __init__(self, cooldown_s: float = COOLDOWN_S) -> None:
        self._cooldown_s = cooldown_s
        self._specs: dict[str, SpiderIPPool] = {}
        self._reserved: tuple[str, ...] = ()
        self._pools: dict[str, Pool] = {}
        self._overlapping: dict[str, list[str]] = {}
        self._holders: dict[Address, AttachmentKey] = {}
        self._strays: dict[Address, float] = {}  # address -> released when; covered by no pool

    @property
    def specs(self) -> Mapping[str, SpiderIPPool]:
        """The pools in force, by name: of a pool edited into nonsense, the version before."""
        return self._specs

    def set_pools(self, pools: Iterable[SpiderIPPool], reserved: Sequence[str] = ()) -> list[tuple[str, str]]:
        """Follow the pools' current state; `reserved` are addresses ("a", "a-b", any family) that nobody may get.

        Returns (pool, reason) for those that cannot be used as they are; their last good version stays in force.
        Raises RangeError for a bad `reserved`, before anything is changed.
        """
        holes = reserved_ranges(reserved)
        problems: list[tuple[str, str]] = []
        specs: dict[str, SpiderIPPool] = {}
        changed: dict[str, Ranges] = {}
        for pool in pools:
            name = pool.metadata.name
            before = self._specs.get(name)
            try:
                if before is None or before.spec != pool.spec or tuple(reserved) != self._reserved:
                    changed[name] = pool_ranges(pool, holes)
                specs[name] = pool
            except RangeError as error:
                problems.append((name, str(error)))
                if before is not None:
                    specs[name] = before
        outdated = changed.keys() | (self._specs.keys() - specs.keys())
        self._retire(outdated)
        self._specs, self._reserved = specs, tuple(reserved)
        if outdated:
            self._open(changed)
        return problems

    def available(self, candidates: Sequence[str]) -> bool:
        """Whether any of these pools has an address to give."""
        return any(self._pools[name].can_take() for name in candidates)

    def take(self, candidates: Sequence[str], key: AttachmentKey, now: float) -> AddressLease | None:
        """An address of the first candidate that has one; a cooling address only if no candidate has another."""
        for early in (False, True):
            for name in candidates:
                lease = self._take_from(name, key, now, early)
                if lease is not None:
                    return lease
        return None

    def hold(self, lease: AddressLease, key: AttachmentKey) -> None:
        """Enter a lease of the journal, whether or not its pool is known (yet). The address must be free."""
        address = parse_lease(lease)
        self._holders[address] = key
        self._strays.pop(address, None)
        for pool in self._covering(address, lease.pool):
            pool.claim(address[1])

    def release(self, lease: AddressLease, now: float) -> None:
        """The address cools from `now` on, in every pool that covers it."""
        address = parse_lease(lease)
        del self._holders[address]
        covering = self._covering(address, lease.pool)
        for pool in covering:
            pool.give(address[1], now)
        if not covering:
            self._strays[address] = now

    def cool(self, addresses: Iterable[str], since: float) -> None:
        """Enter released addresses of the journal, longest idle first; those that are held are left alone."""
        parsed = map(parse_text, addresses)
        self._strays.update((address, since) for address in parsed if address not in self._holders)
        self._settle_strays()

    def holder(self, lease: AddressLease) -> AttachmentKey | None:
        """Who holds the address of `lease`."""
        return self._holders.get(parse_lease(lease))

    def cooling(self, now: float) -> list[str]:
        """The addresses that are cooling, in pools and outside, longest idle first."""
        since = {address: at for address, at in self._strays.items() if now - at < self._cooldown_s}
        for name, pool in self._pools.items():
            family = self._specs[name].family
            since.update(((family, number), at) for number, at in pool.cooling(now))
        return [ranges.format_address(number, family) for family, number in sorted(since, key=since.__getitem__)]

    def forget_cooled(self, now: float) -> None:
        """Drop what has cooled outside every pool."""
        if self._strays:
            self._strays = {address: at for address, at in self._strays.items() if now - at < self._cooldown_s}

    def total(self, name: str) -> int:
        """How many addresses a pool can give when it is empty; 0 for an unknown one."""
        return self._pools[name].total if name in self._pools else 0

    def usage(self, candidates: Sequence[str]) -> str:
        """Each pool's numbers, for people."""
        return ", ".join(f"{name} {self._pools[name].allocated}/{self._pools[name].total} used" for name in candidates)

    def _take_from(self, name: str, key: AttachmentKey, now: float, early: bool) -> AddressLease | None:
        pool, spec = self._pools[name], self._specs[name]
        while (number := pool.take(now, early=early)) is not None:
            address = (spec.family, number)
            if address in self._holders:
                continue  # the books disagree: it stays held in this one, and nobody gets it a second time
            self._holders[address] = key
            for other in self._overlapping.get(name, ()):
                if self._pools[other].covers(number):
                    self._pools[other].claim(number)
            length = spec.spec.subnet.rpartition("/")[2]
            return AddressLease(name, f"{ranges.format_address(number, spec.family)}/{length}", spec.spec.gateway)
        return None

    def _covering(self, address: Address, likely: str) -> list[Pool]:
        """Every pool that covers `address`. If `likely` does, only its overlapping ones need a look."""
        family, number = address
        names: Iterable[str] = self._pools
        if likely in self._pools and self._specs[likely].family == family and self._pools[likely].covers(number):
            names = [likely, *self._overlapping.get(likely, ())]
        return [self._pools[n] for n in names if self._specs[n].family == family and self._pools[n].covers(number)]

    def _retire(self, names: Iterable[str]) -> None:
        """Close the books of pools that changed or are gone; what they released becomes stray."""
        for name in names:
            pool = self._pools.pop(name, None)
            if pool is not None:
                family = self._specs[name].family
                self._strays.update(((family, number), since) for number, since in pool.released())

    def _open(self, fresh: Mapping[str, Ranges]) -> None:
        """New books for these pools, with what is held and released in them."""
        held = {family: sorted(n for f, n in self._holders if f == family) for family in (4, 6)}
        for name, its_ranges in fresh.items():
            self._pools[name] = pool = Pool(its_ranges, self._cooldown_s)
            for number in _within(held[self._specs[name].family], its_ranges):
                pool.claim(number)
        self._overlapping = _overlaps((self._specs[name].family, name, pool) for name, pool in self._pools.items())
        self._settle_strays()

    def _settle_strays(self) -> None:
        """Move strays into the books of the pools that cover them; the rest stays stray."""
        if not self._strays:
            return
        strays = {family: sorted(n for f, n in self._strays if f == family) for family in (4, 6)}
        settled: set[Address] = set()
        for name, pool in self._pools.items():
            family = self._specs[name].family
            numbers = _within(strays[family], pool.ranges)
            if numbers:
                pool.cool((number, self._strays[family, number]) for number in numbers)
                settled.update((family, number) for number in numbers)
        self._strays = {address: since for address, since in self._strays.items() if address not in settled}


def pool_ranges(pool: SpiderIPPool, reserved: Mapping[int, Ranges]) -> Ranges:
    """The addresses a pool can give: ips without excludeIPs, reserved ones and the gateway. Raises RangeError.

    The subnet's own and broadcast address are kept when the user listed them, as Spiderpool does (a pool's subnet may
    be a slice of a larger network). A gateway within ips is a mistake that must not break the network: a hole.
    """
    family, spec = pool.family, pool.spec
    holes = [*ranges.parse(spec.exclude_ips, family), *reserved.get(family, ())]
    if spec.gateway:
        holes += ranges.parse([spec.gateway], family)
    return ranges.subtract(ranges.parse(spec.ips, family), ranges.merge(holes))


def reserved_ranges(texts: Iterable[str]) -> dict[int, Ranges]:
    """Ranges by family of "a" and "a-b" texts of any family. Raises RangeError."""
    by_family: dict[int, list[str]] = {4: [], 6: []}
    for text in texts:
        by_family[6 if ":" in text else 4].append(text)
    return {family: ranges.parse(texts, family) for family, texts in by_family.items()}


def parse_lease(lease: AddressLease) -> Address:
    """The address of a lease. Raises RangeError for text that no Dragline writes."""
    return parse_text(lease.ip)


def parse_text(text: str) -> Address:
    """The (family, int) of an address's text. Raises RangeError."""
    family = 6 if ":" in text else 4
    return family, ranges.parse_address(text, family)


def _within(numbers: Sequence[int], its_ranges: Ranges) -> list[int]:
    """Those of the sorted `numbers` that are in the ranges."""
    slices = ((bisect_left(numbers, start), bisect_left(numbers, start + length)) for start, length in its_ranges)
    return [number for first, last in slices for number in numbers[first:last]]


def _overlaps(pools: Iterable[tuple[int, str, Pool]]) -> dict[str, list[str]]:
    """For each pool that shares an address with others, these others. `pools` gives (family, name, pool)."""
    edges = sorted(
        (family, start, start + length, name) for family, name, pool in pools for start, length in pool.ranges
    )
    pairs: set[tuple[str, str]] = set()
    active: list[tuple[int, int, str]] = []
    for family, start, end, name in edges:
        active = [entry for entry in active if entry[0] == family and entry[1] > start]
        for _, _, other in active:
            if other != name:
                pairs |= {(name, other), (other, name)}
        active.append((family, end, name))
    result: dict[str, list[str]] = {}
    for name, other in sorted(pairs):
        result.setdefault(name, []).append(other)
    return result
