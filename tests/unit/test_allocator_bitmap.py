"""Bitmap: lowest clear address first, against a dumb list; and nothing grows without use."""

from __future__ import annotations

import time

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from allocator import bitmap as bitmap_module
from allocator.bitmap import LEAF_BITS, Bitmap
from allocator.ranges import Range, RangeError, parse


class BitmapAgainstSet(RuleBasedStateMachine):
    """Three ranges over several (small) leaves, compared with a set of the clear addresses."""

    RANGES = (Range(100, 5), Range(200, 17), Range(1000, 3))
    ALL = [*range(100, 105), *range(200, 217), *range(1000, 1003)]

    def __init__(self) -> None:
        super().__init__()
        self.bitmap = Bitmap(self.RANGES)
        self.clear = set(self.ALL)

    @rule()
    def take(self) -> None:
        expected = min(self.clear, default=None)
        assert self.bitmap.take() == expected
        self.clear.discard(expected)  # type: ignore[arg-type]

    @precondition(lambda self: len(self.clear) > 8)
    @rule()
    def take_many(self) -> None:
        for _ in range(8):
            self.take()

    @rule(address=st.sampled_from(ALL))
    def mark(self, address: int) -> None:
        assert self.bitmap.mark(address) == (address in self.clear)
        self.clear.discard(address)

    @rule(address=st.sampled_from(ALL))
    def unmark(self, address: int) -> None:
        assert self.bitmap.clear(address) == (address not in self.clear)
        self.clear.add(address)

    @invariant()
    def counts_agree(self) -> None:
        assert self.bitmap.size == len(self.ALL)
        assert self.bitmap.used == len(self.ALL) - len(self.clear)

    @invariant()
    def the_heap_is_bounded(self) -> None:
        assert len(self.bitmap._reopened) <= -(-len(self.ALL) // bitmap_module.LEAF_BITS)


@pytest.fixture(autouse=True)
def _small_leaves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.name.startswith("test_machine"):
        monkeypatch.setattr(bitmap_module, "LEAF_BITS", 4)  # several leaves in a set that an oracle can hold
        monkeypatch.setattr(bitmap_module, "_FULL", 15)


def test_machine() -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        BitmapAgainstSet,
        settings=settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True),
    )


@pytest.mark.parametrize("size", [1, LEAF_BITS - 1, LEAF_BITS, LEAF_BITS + 1, 3 * LEAF_BITS])
def test_exactly_size_addresses(size: int) -> None:
    bitmap = Bitmap((Range(7, size),))
    assert [bitmap.take() for _ in range(size)] == list(range(7, 7 + size))
    assert bitmap.take() is None
    bitmap.clear(7)
    assert [bitmap.take(), bitmap.take()] == [7, None]


def test_an_empty_set_gives_nothing() -> None:
    assert Bitmap(()).take() is None


@pytest.mark.parametrize("address", [6, 17, 25, 1 << 130])
def test_outside_is_an_error(address: int) -> None:
    bitmap = Bitmap((Range(7, 10), Range(20, 5)))
    assert not bitmap.covers(address)
    for operation in (bitmap.mark, bitmap.clear):
        with pytest.raises(RangeError):
            operation(address)


@pytest.mark.parametrize(
    ("texts", "family"), [(["10.0.0.0-10.255.255.255"], 4), (["fd00::-fd00::ffff:ffff:ffff:ffff"], 6)]
)
def test_a_huge_set_is_built_at_once_and_takes_memory_by_use(texts: list[str], family: int) -> None:
    started = time.perf_counter()
    bitmap = Bitmap(parse(texts, family))
    first = bitmap.take()
    bitmap.mark(bitmap.ranges[0].end - 1)
    assert time.perf_counter() - started < 5  # no figure: 2**24 addresses one by one would take longer
    assert first == bitmap.ranges[0].start
    assert len(bitmap._leaves) == 2
