"""The control verbs' common ground: their JSON arguments and answers, and refusals that the command line prints."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any, TypeVar

import msgspec

from cni import errors
from cni.errors import CniError

T = TypeVar("T")
_ROWS_AT_ONCE = 200


def arguments_of(raw: bytes, kind: type[T]) -> T:
    """A verb's arguments as a struct. Raises CniError: an older or newer `dragline` may ask otherwise."""
    try:
        return msgspec.json.decode(raw or b"{}", type=kind)
    except msgspec.MsgspecError as error:
        raise refusal(f"the arguments are not understood: {error}; is `dragline` of the agent's version?") from error


def answer(value: Any) -> bytes:
    """A verb's answer."""
    return msgspec.json.encode(value)


def answer_with_rows(head: dict[str, Any], name: str, rows: Iterable[Any]) -> bytes:
    """An answer of many rows: `head` (not empty) with them as the key `name`.

    Encoded a few at a time: while one call encodes, no other thread runs, nor does the loop.
    """
    left = iter(rows)
    chunks = iter(lambda: list(islice(left, _ROWS_AT_ONCE)), [])
    packed = b",".join(msgspec.json.encode(chunk)[1:-1] for chunk in chunks)
    return b"".join((msgspec.json.encode(head)[:-1], b',"', name.encode(), b'":[', packed, b"]}"))


def refusal(text: str) -> CniError:
    """What the command line prints behind "the agent says", and ends with 1."""
    return CniError(errors.DECODE_FAILURE, text)
