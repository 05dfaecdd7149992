"""The book of attachments: one place that decides, in memory, and says what to write down. No I/O, no locks, no clock.

Every change returns a `Change` with the journal records that make it durable; the caller commits them and only then
acts on the change (tells the kernel, answers the runtime). The order of a pod's life:

    take -> commit -> wire -> ready -> commit -> answer        a failed commit of `take`: abandon
    detaching -> commit -> unwire -> answer -> reap -> gone -> commit

A failed commit later on costs nothing but knowledge: after a restart the attachment is found one state earlier, and
the same step is done again. Records of different attachments may be committed in any order (allocator.replay says why).

All methods belong to one thread. `now` is CLOCK_MONOTONIC in seconds, `started_ns` the same clock in nanoseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from allocator.attachments import (
    TRANSITIONS,
    AddressLease,
    AnyRecord,
    Attachment,
    AttachmentKey,
    Cooling,
    Detaching,
    Facts,
    Gone,
    Ready,
    Snapshot,
    State,
    Taken,
    Tombstone,
)
from allocator.bitmap import Bitmap
from allocator.holdings import Holdings, PoolExhausted
from allocator.pool import COOLDOWN_S
from allocator.ranges import Range
from allocator.replay import tell
from allocator.selection import Selection, Want, select
from cluster.resources import SpiderIPPool

FIRST_IFINDEX = 0x100000  # far above what the kernel reaches by counting; the largest it accepts is 2^31 - 1
TOMBSTONE_S = 600.0  # longer than any shim or runtime keeps an ADD alive (kubelet: 4 minutes)
_TOMBSTONES = 256  # how many may pile up before the old ones are looked for
_SELECTIONS = 1024  # how many are remembered


class LedgerError(Exception):
    """A request that contradicts the book."""


class AttachmentExists(LedgerError):
    """ADD of a key that is in the book; the message says in which state."""


class UnknownAttachment(LedgerError):
    """The key is not in the book."""


class IllegalTransition(LedgerError):
    """A change that the table TRANSITIONS does not have."""


class TombstoneError(LedgerError):
    """A late ADD: a DEL for its container was started at the same time or after it."""


class Change(NamedTuple):
    """The attachment concerned (None: a DEL of nothing we know) and the records to commit together."""

    attachment: Attachment | None
    records: tuple[AnyRecord, ...]


class PoolStatus(NamedTuple):
    """Attachments by address (no prefix length), and how many addresses the pool can give when empty."""

    allocated: dict[str, Attachment]
    total: int


class Ledger:
    """Attachments, tombstones, interface indexes, and the pools' books."""

    def __init__(self, cooldown_s: float = COOLDOWN_S) -> None:
        self._holdings = Holdings(cooldown_s)
        self._attachments: dict[AttachmentKey, Attachment] = {}
        self._states: dict[AttachmentKey, State] = {}
        self._tombstones: dict[str, int] = {}  # container id -> started_ns of its latest DEL
        self._bury_at = _TOMBSTONES
        self._ifindexes = Bitmap((Range(FIRST_IFINDEX, 2**31 - FIRST_IFINDEX),))
        self._selections: dict[object, Selection] = {}
        self._seq = 0

    def replay(self, records: Iterable[AnyRecord], now: float) -> None:
        """Enter what the journal remembers, into a new ledger. Released addresses cool from `now` on.

        Their true time of release is not kept: a cooldown that starts again at a restart is never too short.
        """
        if self._seq:
            raise LedgerError("a ledger in use cannot be replayed into")
        story = tell(records)
        self._attachments, self._states = story.attachments, story.states
        self._tombstones, self._seq = story.tombstones, story.seq
        for key, attachment in self._attachments.items():
            if self._ifindexes.covers(attachment.ifindex):
                self._ifindexes.mark(attachment.ifindex)
            for lease in attachment.leases:
                self._holdings.hold(lease, key)
        self._holdings.cool(story.cooling, now)

    def set_pools(self, pools: Iterable[SpiderIPPool], reserved: Sequence[str] = ()) -> list[tuple[str, str]]:
        """All pools as they are now, and addresses nobody may get (SpiderReservedIP, the node's own: "a" or "a-b").

        Attachments are not touched: an edit or a deletion reaches only later ones. Returns (pool, reason) for pools
        that make no sense; their last good version stays in force. Raises RangeError for a bad `reserved`.
        """
        self._selections.clear()
        return self._holdings.set_pools(pools, reserved)

    def take(self, key: AttachmentKey, want: Want, facts: Facts, now: float) -> Change:
        """Choose an address in every family wanted, or in none, and an interface index.

        Raises TombstoneError, AttachmentExists, NoPool, PoolExhausted; nothing is changed then.
        """
        self._bury(now)
        if self._tombstones.get(key.container_id, -1) >= facts.started_ns:
            raise TombstoneError(f"{key}: this ADD is late: a DEL for its container was started since")
        if key in self._attachments:
            raise AttachmentExists(f"{key} is {self._states[key]} already")
        leases = self._lease_each(self._select(want).candidates, key, now)
        attachment = Attachment.of(key, facts, self._new_ifindex(), leases, self._routes(leases))
        self._attachments[key], self._states[key] = attachment, State.TAKEN
        return Change(attachment, (Taken(self._next_seq(), attachment),))

    def abandon(self, key: AttachmentKey, now: float) -> None:
        """Take back a `take` whose record could not be committed and which nobody has acted on. Nothing to commit.

        Raises UnknownAttachment, IllegalTransition.
        """
        if self._state_of(key) is not State.TAKEN:
            raise IllegalTransition(f"{key} is {self._states[key]}: too late to abandon it")
        self._remove(key, now)

    def ready(self, key: AttachmentKey, mac: str = "") -> Change:
        """It is wired; `mac` if it was not known before. Raises UnknownAttachment, IllegalTransition."""
        self._move(key, State.READY)
        if mac:
            self._attachments[key] = msgspec.structs.replace(self._attachments[key], mac=mac)
        attachment = self._attachments[key]
        return Change(attachment, (Ready(self._next_seq(), attachment),))

    def detaching(self, key: AttachmentKey, started_ns: int | None) -> Change:
        """A DEL that started then, or (None) the undo of an ADD, which leaves no tombstone.

        Repeating it is allowed, and so is a key that is not in the book: the tombstone is what counts then.
        """
        records: list[AnyRecord] = []
        if started_ns is not None:
            latest = max(started_ns, self._tombstones.get(key.container_id, 0))
            self._tombstones[key.container_id] = latest
            records.append(Tombstone(self._next_seq(), key.container_id, latest))
        attachment = self._attachments.get(key)
        if attachment is not None:
            if self._states[key] is not State.DETACHING:
                self._move(key, State.DETACHING)
            # Also for a repeated DEL: the first one's record may have met a full disk.
            records.append(Detaching(self._next_seq(), key))
        return Change(attachment, tuple(records))

    def gone(self, key: AttachmentKey, now: float) -> Change:
        """Nothing of it is left in the kernel: its addresses cool down. Raises UnknownAttachment, IllegalTransition."""
        self._move(key, State.GONE)
        return Change(self._remove(key, now), (Gone(self._next_seq(), key),))

    def find(self, key: AttachmentKey) -> Attachment | None:
        """The attachment in the book, in whatever state."""
        return self._attachments.get(key)

    def state(self, key: AttachmentKey) -> State | None:
        """Its state; None if it is not in the book."""
        return self._states.get(key)

    def attachments(self, *states: State) -> list[Attachment]:
        """Those in one of these states (default: all, since all hold their addresses), oldest first."""
        return [a for key, a in self._attachments.items() if not states or self._states[key] in states]

    def half_done(self) -> list[Attachment]:
        """Taken and not ready: after a restart, ADDs that nobody will finish. Undo them: unwire, detaching, gone."""
        return self.attachments(State.TAKEN)

    def to_reap(self) -> list[Attachment]:
        """Detaching and not gone: after a restart, DELs whose second half is still to be done."""
        return self.attachments(State.DETACHING)

    def pool_status(self, name: str) -> PoolStatus:
        """What is allocated from a pool, even one that was edited or deleted since."""
        pairs = ((lease, a) for a in self._attachments.values() for lease in a.leases if lease.pool == name)
        return PoolStatus({lease.ip: attachment for lease, attachment in pairs}, self._holdings.total(name))

    def compaction_records(self, now: float) -> list[AnyRecord]:
        """Everything the book knows, for Journal.compact: a Snapshot, then records that are younger than it."""
        self._bury_at = 0
        self._bury(now)
        self._holdings.forget_cooled(now)
        records: list[AnyRecord] = [Snapshot(self._seq)]
        cooling = self._holdings.cooling(now)
        for first in range(0, len(cooling), 1000):  # a frame has a bound
            records.append(Cooling(self._next_seq(), tuple(cooling[first : first + 1000])))
        for key, attachment in self._attachments.items():
            kind = Ready if self._states[key] is State.READY else Taken
            records.append(kind(self._next_seq(), attachment))
            if self._states[key] is State.DETACHING:
                records.append(Detaching(self._next_seq(), key))
        records.extend(Tombstone(self._next_seq(), *tombstone) for tombstone in self._tombstones.items())
        return records

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def _state_of(self, key: AttachmentKey) -> State:
        state = self._states.get(key)
        if state is None:
            raise UnknownAttachment(f"{key} is not in the ledger")
        return state

    def _move(self, key: AttachmentKey, to: State) -> None:
        """The one place where a state changes."""
        state = self._state_of(key)
        if to not in TRANSITIONS[state]:
            raise IllegalTransition(f"{key} cannot become {to}: it is {state}")
        self._states[key] = to

    def _remove(self, key: AttachmentKey, now: float) -> Attachment:
        attachment = self._attachments.pop(key)
        del self._states[key]
        if self._ifindexes.covers(attachment.ifindex):
            self._ifindexes.clear(attachment.ifindex)
        for lease in attachment.leases:
            self._holdings.release(lease, now)
        return attachment

    def _bury(self, now: float) -> None:
        """Forget tombstones that no living ADD can meet any more; their number stays in proportion to the others."""
        if len(self._tombstones) >= self._bury_at:
            limit = (now - TOMBSTONE_S) * 1e9
            self._tombstones = {cid: started_ns for cid, started_ns in self._tombstones.items() if started_ns >= limit}
            self._bury_at = 2 * len(self._tombstones) + _TOMBSTONES

    def _select(self, want: Want) -> Selection:
        names = want.pool_names
        frozen = None if names is None else tuple((family, tuple(names[family])) for family in sorted(names))
        question = (want.node, want.network, want.families, frozen)
        selection = self._selections.get(question)
        if selection is None:
            selection = select(self._holdings.specs.values(), want)
            if len(self._selections) >= _SELECTIONS:
                self._selections.clear()
            self._selections[question] = selection
        return selection

    def _lease_each(
        self, candidates: Mapping[int, Sequence[str]], key: AttachmentKey, now: float
    ) -> tuple[AddressLease, ...]:
        """An address in each family or none at all; asked first and taken then, so that nothing need be undone."""
        for family, names in candidates.items():
            if not self._holdings.available(names):
                raise self._exhausted(family, names)
        leases: list[AddressLease] = []
        for family, names in candidates.items():
            lease = self._holdings.take(names, key, now)
            if lease is None:  # only if the books of two pools disagree
                for taken in leases:
                    self._holdings.release(taken, now)
                raise self._exhausted(family, names)
            leases.append(lease)
        return tuple(leases)

    def _routes(self, leases: Iterable[AddressLease]) -> tuple[tuple[str, str], ...]:
        """The pools' routes as they are now: a later edit reaches later pods only."""
        pools = (self._holdings.specs[lease.pool] for lease in leases)
        return tuple((route.dst, route.gw) for pool in pools for route in pool.spec.routes)

    def _exhausted(self, family: int, names: Sequence[str]) -> PoolExhausted:
        advice = "add ips to one of them or a pool that this node and network may use, or delete pods"
        return PoolExhausted(f"no free IPv{family} address: {self._holdings.usage(names)}; {advice}")

    def _new_ifindex(self) -> int:
        ifindex = self._ifindexes.take()
        if ifindex is None:
            raise LedgerError("every interface index is in use")  # two thousand million of them
        return ifindex
