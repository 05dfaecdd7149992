"""Ledger: the life of an attachment, its refusals, and the pools' edits around it."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from allocator.attachments import (
    Detaching,
    Facts,
    Gone,
    Ready,
    State,
    Taken,
    Tombstone,
)
from allocator.holdings import PoolExhausted
from allocator.ledger import (
    FIRST_IFINDEX,
    AttachmentExists,
    IllegalTransition,
    TombstoneError,
    UnknownAttachment,
)
from allocator.selection import NoPool, Want
from tests.unit.ledgers import FACTS, POOL, WANT, addresses, key, ledger_of, take
from tests.unit.pools import pool


def test_a_whole_life_and_its_records() -> None:
    ledger = ledger_of()
    attachment, records = ledger.take(key(1), WANT, FACTS, 0.0)
    assert attachment is not None
    assert attachment.key == key(1)
    assert (attachment.pod_namespace, attachment.pod_name, attachment.pod_uid) == ("ns", "web", "u")
    assert (attachment.netns_path, attachment.netns_ino, attachment.link_kind) == ("/n", 7, "ipvlan")
    assert [(lease.address, lease.gateway) for lease in attachment.leases] == [("10.0.0.1/24", "10.0.0.254")]
    assert attachment.ifindex == FIRST_IFINDEX
    assert records == (Taken(1, attachment),)
    assert ledger.half_done() == [attachment]

    wired = msgspec.structs.replace(attachment, mac="02:00:00:00:00:01")
    assert ledger.ready(key(1), mac="02:00:00:00:00:01") == (wired, (Ready(2, wired),))
    assert ledger.attachments(State.READY) == [ledger.find(key(1))] == [wired]

    assert ledger.detaching(key(1), 500) == (wired, (Tombstone(3, "container-1", 500), Detaching(4, key(1))))
    assert ledger.state(key(1)) is State.DETACHING
    assert (ledger.half_done(), ledger.to_reap()) == ([], [wired])
    assert ledger.pool_status("a") == ({"10.0.0.1": wired}, 4)

    assert ledger.gone(key(1), 5.0) == (wired, (Gone(5, key(1)),))
    assert (ledger.find(key(1)), ledger.state(key(1)), ledger.attachments()) == (None, None, [])
    assert ledger.pool_status("a") == ({}, 4)


def test_every_move_outside_the_table_raises_and_changes_nothing() -> None:
    ledger = ledger_of()
    for move in (lambda: ledger.ready(key(1)), lambda: ledger.gone(key(1), 0.0), lambda: ledger.abandon(key(1), 0.0)):
        with pytest.raises(UnknownAttachment):
            move()
    take(ledger, 1)
    with pytest.raises(IllegalTransition):
        ledger.gone(key(1), 0.0)
    ledger.ready(key(1))
    for move in (lambda: ledger.ready(key(1)), lambda: ledger.gone(key(1), 0.0), lambda: ledger.abandon(key(1), 0.0)):
        with pytest.raises(IllegalTransition):
            move()
    ledger.detaching(key(1), None)
    with pytest.raises(IllegalTransition):
        ledger.ready(key(1))
    assert ledger.state(key(1)) is State.DETACHING


def test_a_second_add_of_a_key_is_refused_in_every_state() -> None:
    ledger = ledger_of()
    take(ledger, 1)
    for state, move in (("taken", ledger.ready), ("ready", lambda k: ledger.detaching(k, None)), ("detaching", None)):
        with pytest.raises(AttachmentExists, match=f"is {state} already"):
            take(ledger, 1)
        if move:
            move(key(1))  # type: ignore[operator]
    assert addresses(ledger) == ["10.0.0.1"]


def test_a_late_add_meets_the_tombstone() -> None:
    ledger = ledger_of()
    assert ledger.detaching(key(1), 100) == (None, (Tombstone(1, "container-1", 100),))
    for ifname in ("eth0", "net1"):  # the container is gone, not one of its interfaces
        for started_ns in (99, 100):
            with pytest.raises(TombstoneError, match="late"):
                ledger.take(key(1, ifname), WANT, Facts(started_ns=started_ns), 0.0)
    ledger.detaching(key(1), 50)  # an older DEL does not weaken it
    with pytest.raises(TombstoneError):
        ledger.take(key(1), WANT, Facts(started_ns=100), 0.0)
    ledger.take(key(1), WANT, Facts(started_ns=101), 0.0)
    ledger.take(key(2), WANT, Facts(started_ns=1), 0.0)


def test_the_undo_of_an_add_leaves_no_tombstone() -> None:
    ledger = ledger_of()
    take(ledger, 1)
    assert ledger.detaching(key(1), None).records == (Detaching(2, key(1)),)
    # Repeated, the record is repeated too: the first may not have reached the disk.
    assert ledger.detaching(key(1), None).records == (Detaching(3, key(1)),)
    ledger.gone(key(1), 0.0)
    take(ledger, 1)


def test_tombstones_last_ten_minutes_and_do_not_pile_up() -> None:
    ledger = ledger_of()
    second = 1_000_000_000
    for number in range(3000):
        ledger.detaching(key(number), number * second)
        ledger._bury(float(number))
        for age in (0, 300, 600):
            assert number < age or ledger._tombstones[f"container-{number - age}"] == (number - age) * second
    assert len(ledger._tombstones) < 2 * 600 + 300
    assert sum(isinstance(record, Tombstone) for record in ledger.compaction_records(2999.0)) == 601


def test_addresses_cool_and_ifindexes_do_not_collide() -> None:
    ledger = ledger_of()
    first, second = take(ledger, 1), take(ledger, 2)
    assert (first.ifindex, second.ifindex) == (FIRST_IFINDEX, FIRST_IFINDEX + 1)
    ledger.detaching(key(1), None)
    third = take(ledger, 3)
    assert third.ifindex == FIRST_IFINDEX + 2  # 1 is still detaching
    ledger.gone(key(1), 0.0)
    fourth = take(ledger, 4, now=1.0)
    assert (fourth.leases[0].ip, fourth.ifindex) == ("10.0.0.4", FIRST_IFINDEX)
    fifth = take(ledger, 5, now=2.0)  # nothing else is free
    assert fifth.leases[0].ip == "10.0.0.1"


def test_exhaustion_is_explained_and_takes_nothing() -> None:
    six = pool("six", "fd00::1", subnet="fd00::/64")
    ledger = ledger_of(POOL, pool("b", "10.0.1.1", subnet="10.0.1.0/24"), six)
    take(ledger, 1)
    with pytest.raises(PoolExhausted, match=r"no free IPv6 address: six 1/1 used; .*delete pods"):
        take(ledger, 2)
    assert addresses(ledger) == ["10.0.0.1", "fd00::1"]
    want = replace(WANT, families=(4,))
    assert ledger.take(key(2), want, FACTS, 0.0).records[0].seq == 2
    assert addresses(ledger)[2:] == ["10.0.0.2"]
    for number in range(3, 6):
        ledger.take(key(number), want, FACTS, 0.0)
    with pytest.raises(PoolExhausted, match=r"a 4/4 used, b 1/1 used"):
        ledger.take(key(9), want, FACTS, 0.0)


def test_no_pool_is_explained_and_an_edit_is_seen_at_once() -> None:
    ledger = ledger_of(pool("a", "10.0.0.1", disable=True))
    with pytest.raises(NoPool, match="a: it is disabled"):
        take(ledger, 1)
    ledger.set_pools([pool("a", "10.0.0.1")])
    take(ledger, 1)
    ledger.set_pools([pool("a", "10.0.0.1-10.0.0.2", disable=True)])
    with pytest.raises(NoPool):
        take(ledger, 2)
    ledger.detaching(key(1), None)
    ledger.gone(key(1), 0.0)  # a disabled pool takes its addresses back


def test_named_pools() -> None:
    ledger = ledger_of(POOL, pool("b", "10.0.0.9", default=False))
    want = Want(node="worker", pool_names={4: ["b", "a"]})
    assert [ledger.take(key(n), want, FACTS, 0.0).attachment.leases[0].ip for n in (1, 2)] == ["10.0.0.9", "10.0.0.1"]  # type: ignore[union-attr]


def test_an_attachment_outlives_its_pool() -> None:
    ledger = ledger_of()
    held = take(ledger, 1)
    ledger.set_pools([])
    assert ledger.pool_status("a") == ({"10.0.0.1": held}, 0)
    ledger.set_pools([pool("a", "10.0.0.2-10.0.0.3"), pool("new", "10.0.0.1")])
    with pytest.raises(PoolExhausted, match="new 1/1 used"):
        ledger.take(key(2), Want(node="worker", pool_names={4: ["new"]}), FACTS, 0.0)
    assert ledger.pool_status("new") == ({}, 1)
    ledger.detaching(key(1), None)
    ledger.gone(key(1), 0.0)
    assert ledger.take(key(2), Want(node="worker", pool_names={4: ["new"]}), FACTS, 40.0).attachment is not None


def test_abandon_takes_a_take_back() -> None:
    ledger = ledger_of()
    take(ledger, 1)
    ledger.abandon(key(1), 0.0)
    assert (ledger.attachments(), ledger.pool_status("a").allocated) == ([], {})
    assert take(ledger, 1).ifindex == FIRST_IFINDEX
