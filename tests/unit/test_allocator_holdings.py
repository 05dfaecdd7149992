"""Holdings: pools that overlap, change, vanish and come back while addresses are held; no address is held twice."""

from __future__ import annotations

import pytest

from allocator.attachments import AttachmentKey
from allocator.holdings import Holdings
from allocator.pool import Pool
from allocator.ranges import RangeError, parse
from tests.unit.pools import pool

KEY = AttachmentKey("net", "c", "eth0")
V6 = "fd00::/64"


def ips(holdings: Holdings, name: str, now: float = 0.0, count: int = 99) -> list[str]:
    """Take up to `count` addresses of one pool."""
    leases = (holdings.take([name], KEY, now) for _ in range(count))
    return [lease.ip for lease in iter(lambda: next(leases, None), None)]


def test_a_lease_carries_the_subnets_length_and_the_gateway() -> None:
    holdings = Holdings()
    holdings.set_pools([pool("a", "10.0.0.5", subnet="10.0.0.0/20", gateway="10.0.0.1")])
    lease = holdings.take(["a"], KEY, 0.0)
    assert lease is not None
    assert (lease.pool, lease.address, lease.gateway, lease.family) == ("a", "10.0.0.5/20", "10.0.0.1", 4)
    assert holdings.holder(lease) == KEY


@pytest.mark.parametrize(
    ("spec", "reserved", "expected"),
    [
        ({}, [], ["10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3"]),  # the subnet's ends: listed, so given
        ({"exclude_ips": ("10.0.0.1-10.0.0.2",)}, [], ["10.0.0.0", "10.0.0.3"]),
        ({"gateway": "10.0.0.2"}, [], ["10.0.0.0", "10.0.0.1", "10.0.0.3"]),
        ({"gateway": "10.0.0.2", "exclude_ips": ("10.0.0.2",)}, [], ["10.0.0.0", "10.0.0.1", "10.0.0.3"]),
        ({}, ["10.0.0.3", "fd00::1-fd00::2", "10.0.0.0"], ["10.0.0.1", "10.0.0.2"]),
    ],
)
def test_holes(spec: dict[str, object], reserved: list[str], expected: list[str]) -> None:
    holdings = Holdings()
    assert holdings.set_pools([pool("a", "10.0.0.0-10.0.0.3", subnet="10.0.0.0/30", **spec)], reserved) == []
    assert holdings.total("a") == len(expected)
    assert ips(holdings, "a") == expected


def test_cooling_addresses_wait_for_every_candidate() -> None:
    holdings = Holdings(cooldown_s=30.0)
    holdings.set_pools([pool("a", "10.0.0.1"), pool("b", "10.0.0.2")])
    first = holdings.take(["a", "b"], KEY, 0.0)
    assert first is not None
    holdings.release(first, 1.0)
    assert holdings.cooling(2.0) == ["10.0.0.1"]
    second = holdings.take(["a", "b"], KEY, 2.0)
    third = holdings.take(["a", "b"], KEY, 3.0)
    assert second is not None
    assert third is not None
    assert (second.ip, third.ip) == ("10.0.0.2", "10.0.0.1")
    assert not holdings.available(["a", "b"])


def test_overlapping_pools_share_their_addresses() -> None:
    holdings = Holdings()
    holdings.set_pools([pool("a", "10.0.0.1-10.0.0.4"), pool("b", "10.0.0.3-10.0.0.6"), pool("c", "10.0.0.9")])
    lease = holdings.take(["b"], KEY, 0.0)
    assert lease is not None
    assert lease.ip == "10.0.0.3"
    assert ips(holdings, "a") == ["10.0.0.1", "10.0.0.2", "10.0.0.4"]
    assert ips(holdings, "b") == ["10.0.0.5", "10.0.0.6"]
    holdings.release(lease, 1.0)
    assert holdings.cooling(2.0) == ["10.0.0.3"]
    assert ips(holdings, "a", 2.0) == ["10.0.0.3"]  # early: nothing else is free
    assert ips(holdings, "b", 2.0) == []


def test_the_cooldown_holds_across_overlapping_pools() -> None:
    holdings = Holdings()
    holdings.set_pools([pool("a", "10.0.0.1-10.0.0.2"), pool("b", "10.0.0.1-10.0.0.2")])
    lease = holdings.take(["a"], KEY, 0.0)
    assert lease is not None
    holdings.release(lease, 1.0)
    assert ips(holdings, "b", 2.0, 1) == ["10.0.0.2"]


def test_a_pool_deleted_and_added_again_still_knows_its_addresses() -> None:
    holdings = Holdings()
    a = pool("a", "10.0.0.1-10.0.0.4")
    holdings.set_pools([a])
    held, released = holdings.take(["a"], KEY, 0.0), holdings.take(["a"], KEY, 0.0)
    assert held is not None
    assert released is not None
    holdings.release(released, 5.0)
    holdings.set_pools([])
    assert holdings.total("a") == 0
    assert holdings.cooling(6.0) == ["10.0.0.2"]
    holdings.set_pools([a])
    assert ips(holdings, "a", 6.0) == ["10.0.0.3", "10.0.0.4", "10.0.0.2"]
    assert holdings.holder(held) == KEY


def test_an_address_outside_its_edited_pool_stays_held_and_is_not_given_again() -> None:
    holdings = Holdings()
    holdings.set_pools([pool("a", "10.0.0.1-10.0.0.2")])
    one, two = holdings.take(["a"], KEY, 0.0), holdings.take(["a"], KEY, 0.0)
    assert one is not None
    assert two is not None
    holdings.set_pools([pool("a", "10.0.0.2-10.0.0.3")])
    assert holdings.holder(one) == KEY
    assert ips(holdings, "a", 1.0) == ["10.0.0.3"]
    holdings.release(one, 2.0)  # outside every pool
    assert holdings.cooling(3.0) == ["10.0.0.1"]
    assert ips(holdings, "a", 3.0) == []
    holdings.set_pools([pool("a", "10.0.0.1-10.0.0.4")])  # it comes back, still cooling
    assert ips(holdings, "a", 4.0) == ["10.0.0.4", "10.0.0.1"]


def test_what_cooled_outside_every_pool_is_forgotten() -> None:
    holdings = Holdings(30.0)
    holdings.set_pools([pool("a", "10.0.0.1")])
    lease = holdings.take(["a"], KEY, 0.0)
    assert lease is not None
    holdings.set_pools([])
    holdings.release(lease, 1.0)
    holdings.forget_cooled(30.0)
    assert holdings.cooling(30.0) == ["10.0.0.1"]
    holdings.forget_cooled(31.0)
    assert holdings._strays == {}


def test_leases_of_the_journal_are_claimed_before_or_after_their_pool_is_known() -> None:
    maker = Holdings()
    maker.set_pools([pool("a", "10.0.0.1-10.0.0.2")])
    lease = maker.take(["a"], KEY, 0.0)
    assert lease is not None
    for late in (False, True):
        holdings = Holdings()
        if late:
            holdings.hold(lease, KEY)
            holdings.cool(["10.0.0.1", "10.0.0.7"], 0.0)  # the first is held: left alone
        holdings.set_pools([pool("a", "10.0.0.1-10.0.0.2"), pool("b", "10.0.0.1")])
        if not late:
            holdings.hold(lease, KEY)
            holdings.cool(["10.0.0.1", "10.0.0.7"], 0.0)
        assert ips(holdings, "b", 1.0) == []
        assert ips(holdings, "a", 1.0) == ["10.0.0.2"]
        assert holdings.cooling(1.0) == ["10.0.0.7"]


def test_the_last_line_of_defence_when_the_books_disagree() -> None:
    holdings = Holdings()
    holdings.set_pools([pool("a", "10.0.0.1-10.0.0.2")])
    assert ips(holdings, "a", count=1) == ["10.0.0.1"]
    holdings._pools["a"] = Pool(parse(["10.0.0.1-10.0.0.2"], 4))  # a book that lost its memory
    assert ips(holdings, "a") == ["10.0.0.2"]


def test_families_are_apart() -> None:
    holdings = Holdings()
    holdings.set_pools([pool("four", "0.0.0.1", subnet="0.0.0.0/24"), pool("six", "::1", subnet="::/64")])
    assert ips(holdings, "four") == ["0.0.0.1"]
    assert ips(holdings, "six") == ["::1"]


def test_a_pool_edited_into_nonsense_stays_as_it_was() -> None:
    holdings = Holdings()
    holdings.set_pools([pool("a", "10.0.0.1")])
    problems = holdings.set_pools([pool("a", "10.0.0.9-10.0.0.1"), pool("b", "fd00::1")])
    assert [name for name, _ in problems] == ["a", "b"]
    assert "ends before it starts" in problems[0][1]
    assert list(holdings.specs) == ["a"]
    assert ips(holdings, "a") == ["10.0.0.1"]


def test_bad_reserved_addresses_change_nothing() -> None:
    holdings = Holdings()
    with pytest.raises(RangeError):
        holdings.set_pools([pool("a", "10.0.0.1")], ["10.0.0.1/32"])
    assert not holdings.specs


def test_reserving_later_takes_free_addresses_away() -> None:
    holdings = Holdings()
    pools = [pool("a", "10.0.0.1-10.0.0.3")]
    holdings.set_pools(pools)
    holdings.set_pools(pools, ["10.0.0.1"])
    assert ips(holdings, "a") == ["10.0.0.2", "10.0.0.3"]


def test_huge_pools() -> None:
    holdings = Holdings()
    holdings.set_pools(
        [
            pool("eight", "10.0.0.0-10.255.255.255", subnet="10.0.0.0/8", gateway="10.0.0.1"),
            pool("six", "fd00::-fd00::ffff:ffff:ffff:ffff", subnet=V6, gateway="fd00::1"),
        ]
    )
    assert ips(holdings, "eight", count=2) == ["10.0.0.0", "10.0.0.2"]
    assert ips(holdings, "six", count=2) == ["fd00::", "fd00::2"]
    assert holdings.total("six") == (1 << 64) - 1
    assert holdings.usage(["eight"]) == f"eight 2/{(1 << 24) - 1} used"
