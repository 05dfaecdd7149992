"""Blocking work off the loop: one fresh thread per job.

A job may enter a pod's network namespace (setns(2) is per thread) and never comes back from it, so its thread must
not be used again. A thread costs about 0.1 ms, an executor's would have to be thrown away just the same.
"""

from __future__ import annotations

import _thread
import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def run(job: Callable[[], T]) -> T:
    """The job's result, or its exception. Cancelling the caller does not stop the job: shield what must be undone."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is None:
            future.set_result(result)  # type: ignore[arg-type]  # a T exactly when there is no error
        else:
            future.set_exception(error)

    def body() -> None:
        try:
            result = job()
        except BaseException as error:  # noqa: BLE001  # handed to the awaiting task as it is
            loop.call_soon_threadsafe(settle, None, error)
        else:
            loop.call_soon_threadsafe(settle, result, None)

    # Not threading.Thread: its start() waits until the thread runs, which keeps the loop from its work.
    _thread.start_new_thread(body, ())
    return await future
