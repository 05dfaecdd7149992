"""Ledger and journal together under a random life: concurrent commits, failed commits, compactions, and crashes.

The machine plays the agent (take, commit, ready, commit, acknowledge …) and the disk (a commit is durable when it
returns; a crash may leave any prefix of one that had not returned). The oracle is a few plain dicts.
"""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from allocator.attachments import AnyRecord, Attachment, AttachmentKey, Facts, Snapshot, State
from allocator.holdings import PoolExhausted
from allocator.ledger import TOMBSTONE_S, AttachmentExists, Change, Ledger, TombstoneError
from allocator.selection import NoPool, Want
from tests.unit.pools import pool

KEYS = [AttachmentKey("net", f"container-{number}", "eth0") for number in range(5)]
COOLDOWN = 30.0
# a and b overlap; every list is a state of the cluster the machine may switch to
A, B = pool("a", "10.0.0.1-10.0.0.3"), pool("b", "10.0.0.3-10.0.0.4")
SIX = pool("six", "fd00::1-fd00::4", subnet="fd00::/64")
CLUSTERS = [[A, B], [A], [B], [A, B, SIX], [pool("a", "10.0.0.2-10.0.0.4"), B], []]


class AgentAndDisk(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.cluster = CLUSTERS[0]
        self.disk: list[AnyRecord] = []
        self.in_flight: dict[AttachmentKey, tuple[str, Change]] = {}
        self.snapshot: list[AnyRecord] | None = None
        self.acknowledged: dict[AttachmentKey, Attachment] = {}
        self.tombstones: dict[str, int] = {}
        self.released: dict[str, float] = {}
        self.touched: set[str] = set()
        self.started: dict[AttachmentKey, int] = {}
        self._start()

    def _start(self) -> None:
        self.ledger = Ledger(COOLDOWN)
        self.ledger.replay(list(self.disk), self.now)
        self.ledger.set_pools(self.cluster)

    def _tick(self) -> int:
        self.now += 0.001
        return int(self.now * 1e9)

    @rule(keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=8))
    def advance(self, keys: list[AttachmentKey]) -> None:
        """The next natural step of each of these; a ready one stays as it is (see `delete`)."""
        for key in keys:
            if key in self.in_flight:
                self._commit(key)
            elif self.ledger.state(key) is None:
                self._add(key)
            else:
                self._wired(key)
                self._reap(key)

    # --- the agent

    def _add(self, key: AttachmentKey) -> None:
        if key in self.in_flight:  # one verb of a container at a time
            return
        started_ns = self._tick()
        try:
            change = self.ledger.take(key, Want(node="worker"), Facts(started_ns=started_ns), self.now)
        except (NoPool, PoolExhausted, AttachmentExists):
            return
        assert change.attachment is not None
        for lease in change.attachment.leases:
            self._check_order(lease.ip)
            self.touched.add(lease.ip)
            self.released.pop(lease.ip, None)
        self.in_flight[key] = ("take", change)

    def _check_order(self, ip: str) -> None:
        """A cooling address is given only if no address of a pool of that family was never touched."""
        if self.now - self.released.get(ip, -1e9) < COOLDOWN:
            held = {lease.ip for a in self.ledger.attachments() for lease in a.leases}
            known = {f"fd00::{n}" if ":" in ip else f"10.0.0.{n}" for p in self.cluster for n in _numbers(p)}
            assert not {i for i in known if (":" in i) == (":" in ip)} - held - self.touched

    def _wired(self, key: AttachmentKey) -> None:
        if key not in self.in_flight and self.ledger.state(key) is State.TAKEN:
            self.in_flight[key] = ("ready", self.ledger.ready(key, mac="02:00:00:00:00:01"))

    @rule(keys=st.sets(st.sampled_from(KEYS), min_size=1))
    def delete(self, keys: set[AttachmentKey]) -> None:
        for key in sorted(keys - self.in_flight.keys()):
            self.acknowledged.pop(key, None)
            self.started[key] = self._tick()
            self.in_flight[key] = ("detaching", self.ledger.detaching(key, self.started[key]))

    def _reap(self, key: AttachmentKey) -> None:
        if key not in self.in_flight and self.ledger.state(key) is State.DETACHING:
            self.in_flight[key] = ("gone", self.ledger.gone(key, self.now))
            self._note_released(key)

    def _note_released(self, key: AttachmentKey) -> None:
        attachment = self.in_flight[key][1].attachment
        assert attachment is not None
        self.released.update((lease.ip, self.now) for lease in attachment.leases)

    @rule(cluster=st.sampled_from(CLUSTERS))
    def edit(self, cluster: list[object]) -> None:
        self.cluster = cluster  # type: ignore[assignment]
        self.ledger.set_pools(self.cluster)

    @rule(seconds=st.sampled_from([1.0, 31.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    # --- the disk

    def _commit(self, key: AttachmentKey) -> None:
        """Its commit returns; commits of other keys may still wait: their order is not the ledger's."""
        step, change = self.in_flight.pop(key)
        self.disk.extend(change.records)
        if step == "ready":
            assert change.attachment is not None
            self.acknowledged[key] = change.attachment
        if step == "detaching":
            self.tombstones[key.container_id] = self.started[key]

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        """A commit fails: an ADD is undone, a DEL goes on."""
        key = data.draw(st.sampled_from(sorted(self.in_flight)))
        step, _ = self.in_flight.pop(key)
        if step == "take":
            self.ledger.abandon(key, self.now)
        if step == "ready":
            self.ledger.detaching(key, None)

    @precondition(lambda self: self.snapshot is None)
    @rule()
    def begin_compaction(self) -> None:
        self.snapshot = self.ledger.compaction_records(self.now)

    @precondition(lambda self: self.snapshot is not None)
    @rule()
    def finish_compaction(self) -> None:
        """As Journal.compact does it."""
        assert self.snapshot is not None
        assert isinstance(self.snapshot[0], Snapshot)
        self.disk = self.snapshot + [record for record in self.disk if record.seq > self.snapshot[0].seq]
        self.snapshot = None

    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        """Commits that had not returned left any prefix of their records. After the restart half-done is undone."""
        for _, change in self.in_flight.values():
            self.disk.extend(change.records[: data.draw(st.integers(0, len(change.records)))])
        self.in_flight, self.snapshot = {}, None
        self._start()
        for key, attachment in self.acknowledged.items():
            assert self.ledger.find(key) == attachment
            assert self.ledger.state(key) is State.READY
        for attachment in self.ledger.half_done():
            self.disk.extend(self.ledger.detaching(attachment.key, None).records)
        for attachment in self.ledger.to_reap():
            self.disk.extend(self.ledger.gone(attachment.key, self.now).records)
            self.released.update((lease.ip, self.now) for lease in attachment.leases)

    # --- what must always hold

    @invariant()
    def no_address_and_no_ifindex_is_held_twice(self) -> None:
        attachments = self.ledger.attachments()
        addresses = [lease.ip for attachment in attachments for lease in attachment.leases]
        assert len(addresses) == len(set(addresses))
        assert len(attachments) == len({attachment.ifindex for attachment in attachments})

    @invariant()
    def every_acknowledged_attachment_is_there_and_durable(self) -> None:
        for key, attachment in self.acknowledged.items():
            assert self.ledger.find(key) == attachment
        again = Ledger(COOLDOWN)
        again.replay(list(self.disk), self.now)
        again.set_pools(self.cluster)
        for key, attachment in self.acknowledged.items():
            assert again.find(key) == attachment
            assert again.state(key) is State.READY

    @invariant()
    def a_late_add_is_refused(self) -> None:
        """One that was started before a DEL of its container that was acknowledged in the last ten minutes."""
        for key in KEYS:
            started_ns = self.tombstones.get(key.container_id, 0)
            if started_ns / 1e9 > self.now - TOMBSTONE_S:
                with pytest.raises(TombstoneError):
                    self.ledger.take(key, Want(node="worker"), Facts(started_ns=started_ns), self.now)

    @invariant()
    def the_pools_agree_with_the_book(self) -> None:
        for spec in self.cluster:
            name = spec.metadata.name
            status = self.ledger.pool_status(name)
            inside = [a for a in self.ledger._holdings._holders if self.ledger._holdings._pools[name].covers(a[1])]
            family = [address for address in inside if address[0] == spec.family]
            assert self.ledger._holdings._pools[name].allocated == len(family)
            assert all(any(lease.ip == ip for lease in a.leases) for ip, a in status.allocated.items())


def _numbers(spec: object) -> range:
    first, _, last = spec.spec.ips[0].partition("-")  # type: ignore[attr-defined]
    return range(int(first[-1]), int(last[-1]) + 1)


TestAgentAndDisk = AgentAndDisk.TestCase
TestAgentAndDisk.settings = settings(max_examples=60, stateful_step_count=45, deadline=None, derandomize=True)
