"""Ranges: text in, sorted disjoint (start, length) out; compared with sets of addresses."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocator import ranges
from allocator.ranges import Range, RangeError

TEN = 10 << 24
some_ranges = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)).map(lambda pair: Range(*pair)), max_size=6)
quick = settings(max_examples=150, deadline=None, derandomize=True)


def expand(these: ranges.Ranges) -> set[int]:
    return {address for start, length in these for address in range(start, start + length)}


def test_text_becomes_merged_ranges() -> None:
    parsed = ranges.parse(["10.0.0.7", "10.0.0.2-10.0.0.4", "10.0.0.5", "10.0.0.3 - 10.0.0.3"], 4)
    assert parsed == (Range(TEN + 2, 4), Range(TEN + 7, 1))
    assert ranges.parse(["fd00::1-fd00::ff"], 6) == (Range((0xFD00 << 112) + 1, 255),)
    assert ranges.parse([], 4) == ()


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("10.0.0.9-10.0.0.1", 4),
        ("10.0.0.0/24", 4),
        ("10.0.0.1-", 4),
        ("-10.0.0.1", 4),
        ("10.0.0.1-10.0.0.2-10.0.0.3", 4),
        ("10.0.0.01", 4),
        ("fd00::1", 4),
        ("10.0.0.1", 6),
        ("fe80::1%eth0", 6),
        ("10.0.0.1-fd00::1", 4),
        ("", 4),
        ("nonsense", 6),
    ],
)
def test_bad_text_is_refused_and_quoted(text: str, family: int) -> None:
    with pytest.raises(RangeError) as caught:
        ranges.parse([text], family)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "family"), [("0.0.0.0", 4), ("255.255.255.255", 4), ("fd00::a", 6), ("::1", 6), ("::ffff:a00:1", 6)]
)
def test_an_address_survives_both_ways(text: str, family: int) -> None:
    assert ranges.format_address(ranges.parse_address(text, family), family) == text


@quick
@given(some_ranges, some_ranges)
def test_set_algebra_matches_sets(one: list[Range], other: list[Range]) -> None:
    left, right = ranges.merge(one), ranges.merge(other)
    assert expand(left) == expand(tuple(one))
    assert ranges.size(left) == len(expand(left))
    assert all(earlier.end < later.start for earlier, later in pairwise(left))
    rest = ranges.subtract(left, right)
    assert expand(rest) == expand(left) - expand(right)
    assert rest == ranges.merge(rest)


def test_size_never_expands() -> None:
    assert ranges.size(ranges.parse(["fd00::-fd00::ffff:ffff:ffff:ffff"], 6)) == 1 << 64
