"""Pool: never used first, lowest first; then longest idle; cooling only early. Against sets, on a /29."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from allocator.pool import Pool, PoolError
from allocator.ranges import RangeError, parse

ADDRESSES = parse(["10.0.0.0-10.0.0.7"], 4)
FIRST = ADDRESSES[0].start
ALL = range(FIRST, FIRST + 8)
COOLDOWN = 30.0


class PoolAgainstSets(RuleBasedStateMachine):
    """The oracle keeps three plain collections and searches them from end to end."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.pool = Pool(ADDRESSES, COOLDOWN)
        self.fresh = set(ALL)
        self.held: set[int] = set()
        self.idle: list[tuple[float, int]] = []

    @rule(seconds=st.sampled_from([0.0, 1.0, 29.0, 30.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(early=st.booleans())
    def take(self, early: bool) -> None:
        assert self.pool.can_take() == (len(self.held) < len(ALL))
        expected = min(self.fresh, default=None)
        if expected is None:
            given = [a for since, a in self.idle if early or self.now - since >= COOLDOWN]
            expected = given[0] if given else None
        assert self.pool.take(self.now, early=early) == expected
        if expected is not None:
            self._leave(expected)
            self.held.add(expected)

    @rule(address=st.sampled_from(ALL))
    def give(self, address: int) -> None:
        if address not in self.held:
            with pytest.raises(PoolError):
                self.pool.give(address, self.now)
            return
        self.pool.give(address, self.now)
        self.held.remove(address)
        self.idle.append((self.now, address))

    @rule(address=st.sampled_from(ALL))
    def claim(self, address: int) -> None:
        if address in self.held:
            with pytest.raises(PoolError):
                self.pool.claim(address)
            return
        self.pool.claim(address)
        self._leave(address)
        self.held.add(address)

    @rule(address=st.sampled_from(ALL), ago=st.sampled_from([0.0, 10.0, 50.0]))
    def cool(self, address: int, ago: float) -> None:
        self.pool.cool([(address, self.now - ago)])
        if address in self.fresh:
            self._leave(address)
            self.idle.append((self.now - ago, address))
            self.idle.sort(key=lambda entry: entry[0])

    def _leave(self, address: int) -> None:
        self.fresh.discard(address)
        self.idle = [entry for entry in self.idle if entry[1] != address]

    @invariant()
    def the_books_agree(self) -> None:
        cooling = [a for since, a in self.idle if self.now - since < COOLDOWN]
        assert self.pool.allocated == len(self.held)
        assert self.pool.total == len(ALL)
        assert self.pool.free(self.now) == len(ALL) - len(self.held) - len(cooling)
        assert [a for a, _ in self.pool.released()] == [a for _, a in self.idle]
        assert [a for a, _ in self.pool.cooling(self.now)] == cooling[::-1]


TestPoolAgainstSets = PoolAgainstSets.TestCase
TestPoolAgainstSets.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True)


def test_a_released_address_waits_while_others_are_free() -> None:
    pool = Pool(parse(["10.0.0.1-10.0.0.3"], 4), COOLDOWN)
    one, two = pool.take(0.0), pool.take(0.0)
    assert one is not None
    assert two is not None
    pool.give(one, 1.0)
    third = pool.take(2.0)
    assert third == two + 1
    assert pool.take(3.0, early=False) is None
    assert pool.take(31.0, early=False) == one
    assert pool.take(31.0) is None


def test_nothing_outside_the_ranges_enters_the_book() -> None:
    pool = Pool(ADDRESSES)
    with pytest.raises(RangeError):
        pool.claim(FIRST - 1)
    with pytest.raises(RangeError):
        pool.cool([(FIRST + 8, 0.0)])
    assert (pool.allocated, pool.released()) == (0, [])
