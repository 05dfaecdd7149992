"""Python's garbage collector beside a hundred thousand objects that stay: its walks over them would be all it does."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """No collection meanwhile. For one job at a time: what it makes in bulk and keeps would be walked over and over."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def keep_all() -> None:
    """Later collections, which stop every thread, leave out what is there now (a little garbage stays with it)."""
    gc.freeze()
