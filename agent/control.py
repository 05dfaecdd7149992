"""The control verbs' common ground: their JSON arguments and answers, and refusals that the command line prints."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from cni import errors
from cni.errors import CniError

T = TypeVar("T")


def arguments_of(raw: bytes, kind: type[T]) -> T:
    """A verb's arguments as a struct. Raises CniError: an older or newer `dragline` may ask otherwise."""
    try:
        return msgspec.json.decode(raw or b"{}", type=kind)
    except msgspec.MsgspecError as error:
        raise refusal(f"the arguments are not understood: {error}; is `dragline` of the agent's version?") from error


def answer(value: Any) -> bytes:
    """A verb's answer."""
    return msgspec.json.encode(value)


def refusal(text: str) -> CniError:
    """What the command line prints behind "the agent says", and ends with 1."""
    return CniError(errors.DECODE_FAILURE, text)
