"""Sets of addresses as sorted, disjoint ranges of (start, length), never expanded.

Pure. An address is an int, a family is 4 or 6. Text is what SpiderIPPool and SpiderReservedIP hold: "a" or "a-b",
both ends included. Every function costs time by the number of ranges, never by the number of addresses in them, so a
/8 and an IPv6 /64 are as cheap as a /30 (Spiderpool issue 3541 shows what expanding costs: a minute per ADD).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from socket import AF_INET, inet_ntop
from typing import NamedTuple


class RangeError(ValueError):
    """A text that is no address or range of the family asked for; the message quotes it."""


class Range(NamedTuple):
    """`length` addresses from `start` on; `length` >= 1."""

    start: int
    length: int

    @property
    def end(self) -> int:
        """One past the last address."""
        return self.start + self.length


Ranges = tuple[Range, ...]


def parse_address(text: str, family: int) -> int:
    """The address in `text`. Raises RangeError for another family, a prefix, a zone ("%eth0") or anything else."""
    if "%" in text:
        raise RangeError(f"{text!r} has a zone: not an address of a pool")
    try:
        return int(IPv4Address(text) if family == 4 else IPv6Address(text))
    except AddressValueError as error:
        raise RangeError(f"{text!r} is not an IPv{family} address") from error


def format_address(address: int, family: int) -> str:
    """Canonical text of an address (RFC 5952 for IPv6)."""
    # inet_ntop is five times as fast as ipaddress and agrees with it for IPv4; for ::ffff:a.b.c.d it does not.
    return inet_ntop(AF_INET, address.to_bytes(4, "big")) if family == 4 else str(IPv6Address(address))


def parse(texts: Iterable[str], family: int) -> Ranges:
    """ "a" and "a-b" texts as merged ranges. Raises RangeError for bad text, another family, or b before a."""
    return merge(_parse_one(text, family) for text in texts)


def _parse_one(text: str, family: int) -> Range:
    first, dash, last = text.partition("-")
    try:
        start = parse_address(first.strip(), family)
        end = parse_address(last.strip(), family) if dash else start
    except RangeError as error:
        raise RangeError(f"{text!r} is not a range: {error}" if dash else str(error)) from error
    if end < start:
        raise RangeError(f"{text!r} ends before it starts")
    return Range(start, end - start + 1)


def merge(ranges: Iterable[Range]) -> Ranges:
    """Sorted, with overlapping and touching ranges joined."""
    merged: list[Range] = []
    for start, length in sorted(ranges):
        if merged and start <= merged[-1].end:
            previous = merged[-1]
            merged[-1] = Range(previous.start, max(previous.end, start + length) - previous.start)
        else:
            merged.append(Range(start, length))
    return tuple(merged)


def subtract(ranges: Ranges, holes: Ranges) -> Ranges:
    """`ranges` without `holes`; both merged."""
    rest: list[Range] = []
    first = 0
    for start, length in ranges:
        end = start + length
        while first < len(holes) and holes[first].end <= start:
            first += 1
        at = first  # `first` stays: one hole may reach into the next range as well
        while at < len(holes) and holes[at].start < end:
            if holes[at].start > start:
                rest.append(Range(start, holes[at].start - start))
            start = max(start, holes[at].end)
            at += 1
        if start < end:
            rest.append(Range(start, end - start))
    return tuple(rest)


def size(ranges: Sequence[Range]) -> int:
    """How many addresses."""
    return sum(length for _, length in ranges)
