"""Replay: what a new ledger makes of records that end anywhere, are missing, or are out of order."""

from __future__ import annotations

from itertools import permutations

import pytest

from allocator.attachments import AnyRecord, Attachment, Detaching, Gone, State, Tombstone
from allocator.ledger import FIRST_IFINDEX, Ledger, LedgerError, TombstoneError
from allocator.replay import tell
from tests.unit.ledgers import FACTS, WANT, addresses, key, ledger_of, replayed, take
from tests.unit.pools import pool


def life_and_reuse() -> tuple[list[AnyRecord], Attachment]:
    """One-address pool: container 1 lives and goes, container 2 gets its address, ifindex and all. Records, and 2."""
    ledger = ledger_of(pool("a", "10.0.0.1"))
    records = [*ledger.take(key(1), WANT, FACTS, 0.0).records, *ledger.ready(key(1)).records]
    records += [*ledger.detaching(key(1), 400).records, *ledger.gone(key(1), 1.0).records]
    records += [*ledger.take(key(2), WANT, FACTS, 2.0).records, *ledger.ready(key(2)).records]
    attachment = ledger.find(key(2))
    assert attachment is not None
    return records, attachment


def test_replay_at_every_boundary() -> None:
    records, second = life_and_reuse()
    states = [None, State.TAKEN, State.READY, State.READY, State.DETACHING, None, None, None]
    for length, state in enumerate(states):
        ledger = replayed(records[:length])
        assert ledger.state(key(1)) is state, length
        assert len(addresses(ledger)) == len(set(addresses(ledger))) == (length not in (0, 5)), length
        # what the ledger says next is newer than all it has read
        assert ledger.detaching(key(9), 1).records[0].seq == length + 1
    assert replayed(records).attachments(State.READY) == [second]
    with pytest.raises(TombstoneError):
        replayed(records).take(key(1), WANT, FACTS, 1000.0)


def test_replay_does_not_care_for_the_order_in_the_file() -> None:
    records, second = life_and_reuse()
    for shuffled in permutations(records):
        assert list(tell(shuffled).attachments.values()) == [second]


def test_a_later_holder_proves_the_earlier_one_gone() -> None:
    records, second = life_and_reuse()
    lost = [r for r in records if not isinstance(r, Gone | Detaching | Tombstone)]
    assert replayed(lost).attachments() == [second]
    assert replayed(lost).state(key(1)) is None


def test_one_damaged_record_does_not_hide_a_live_attachment() -> None:
    records, second = life_and_reuse()
    for missing in range(len(records)):
        ledger = replayed(records[:missing] + records[missing + 1 :])
        assert second.leases[0].ip in addresses(ledger)
        assert ledger.find(key(2)) == second


def test_released_addresses_cool_again_after_a_restart() -> None:
    ledger = ledger_of()
    records = [*ledger.take(key(1), WANT, FACTS, 0.0).records, *ledger.detaching(key(1), None).records]
    records += ledger.gone(key(1), 1.0).records
    again = replayed(records, now=500.0)
    assert [take(again, n, now=501.0).leases[0].ip for n in (2, 3, 4, 5)] == [f"10.0.0.{n}" for n in (2, 3, 4, 1)]
    later = replayed(records, now=500.0)
    take(later, 2, now=501.0)
    assert later.compaction_records(501.0)[1].addresses == ("10.0.0.1",)  # type: ignore[union-attr]


def test_the_queue_of_the_released_is_in_the_order_of_the_last_release() -> None:
    ledger = ledger_of(pool("a", "10.0.0.1-10.0.0.2"))
    records: list[AnyRecord] = []
    for number, now in ((1, 0.0), (2, 0.0)):
        records += ledger.take(key(number), WANT, FACTS, now).records
    for number in (1, 2):
        records += [*ledger.detaching(key(number), None).records, *ledger.gone(key(number), float(number)).records]
    records += [*ledger.take(key(3), WANT, FACTS, 3.0).records, *ledger.detaching(key(3), None).records]
    records += ledger.gone(key(3), 4.0).records  # 10.0.0.1 once more
    assert list(tell(records).cooling) == ["10.0.0.2", "10.0.0.1"]


def test_an_ifindex_of_the_journal_is_not_given_again() -> None:
    ledger = ledger_of()
    records = [*ledger.take(key(1), WANT, FACTS, 0.0).records, *ledger.take(key(2), WANT, FACTS, 0.0).records]
    records += ledger.detaching(key(1), None).records
    again = replayed(records)
    assert take(again, 3).ifindex == FIRST_IFINDEX + 2
    again.gone(key(1), 0.0)
    assert take(again, 4).ifindex == FIRST_IFINDEX


def test_a_ledger_in_use_is_not_replayed_into() -> None:
    ledger = ledger_of()
    take(ledger, 1)
    with pytest.raises(LedgerError):
        ledger.replay([], 0.0)


def test_a_snapshot_says_it_all_and_overrules_what_was_on_its_way() -> None:
    ledger = ledger_of()
    late: list[AnyRecord] = [*ledger.take(key(1), WANT, FACTS, 0.0).records, *ledger.ready(key(1)).records]
    take(ledger, 2)
    ledger.ready(key(2))
    take(ledger, 3)
    take(ledger, 4)
    ledger.ready(key(4))
    ledger.detaching(key(1), 300)
    ledger.gone(key(1), 1.0)
    ledger.detaching(key(2), None)
    snapshot = ledger.compaction_records(2.0)
    younger = ledger.ready(key(3)).records
    again = replayed([*snapshot, *late, *younger])
    assert again.state(key(1)) is None
    assert again.to_reap() == ledger.to_reap()
    assert again.attachments(State.READY) == ledger.attachments(State.READY)
    with pytest.raises(TombstoneError):
        take(again, 1)
    assert again.state(key(4)) is State.READY
    assert again.compaction_records(1001.0)[1].addresses == ("10.0.0.1",)  # type: ignore[union-attr]


def test_many_cooling_addresses_fit_their_records() -> None:
    ledger = Ledger()
    ledger.set_pools([pool("a", "10.0.0.0-10.0.255.255", subnet="10.0.0.0/16")])
    for number in range(2500):
        take(ledger, number)
    for number in range(2500):
        ledger.abandon(key(number), 1.0)
    sizes = [len(record.addresses) for record in ledger.compaction_records(2.0)[1:]]  # type: ignore[union-attr]
    assert sizes == [1000, 1000, 500]
