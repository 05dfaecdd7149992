"""Batches that stop midway say exactly how far they came."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from datapath import bpfcall
from datapath.abi import U32, MapSpec
from datapath.bpfcall import BatchError
from datapath.table import Number, Table

NO_FD = 2**20


@pytest.fixture
def small() -> Iterator[Table[Number, Number]]:
    """A table with room for four."""
    spec = MapSpec("small", 1, U32.size, U32.size, 4)
    fd = bpfcall.map_create(spec.kind, spec.key_size, spec.value_size, spec.max_entries, spec.flags, spec.name)
    yield Table(fd, spec, Number, Number)
    os.close(fd)


def rows(*numbers: int) -> list[tuple[Number, Number]]:
    return [(Number(number), Number(number * 10)) for number in numbers]


def test_a_full_map_takes_the_first_ones(small: Table[Number, Number]) -> None:
    with pytest.raises(BatchError) as caught:
        small.put_many(rows(1, 2, 3, 4, 5, 6))
    assert (caught.value.errno, caught.value.done) == (errno.E2BIG, 4)
    assert {key.number for key, _ in small.items()} == {1, 2, 3, 4}


def test_a_batch_refused_as_a_whole_has_done_nothing(small: Table[Number, Number]) -> None:
    with pytest.raises(BatchError) as caught:
        bpfcall.update_batch(NO_FD, b"".join(key.encode() for key, _ in rows(1, 2)), bytes(8), 2)
    assert (caught.value.errno, caught.value.done) == (errno.EBADF, 0)


def test_deleting_what_is_not_there_is_fine_wherever_it_stands(small: Table[Number, Number]) -> None:
    small.put_many(rows(1, 2, 3, 4))
    small.delete_many([Number(number) for number in (9, 1, 8, 7, 3, 6)])
    assert {key.number for key, _ in small.items()} == {2, 4}


def test_a_refused_delete_says_how_far_it_came() -> None:
    with pytest.raises(BatchError) as caught:
        bpfcall.delete_batch(NO_FD, bytes(8), 4)
    assert (caught.value.errno, caught.value.done) == (errno.EBADF, 0)
