"""Jobs in fresh threads."""

from __future__ import annotations

import asyncio
import threading

import pytest

from agent import threads


def test_the_result_comes_back_from_a_thread_that_is_not_the_loops() -> None:
    async def main() -> tuple[int, int]:
        return threading.get_ident(), await threads.run(threading.get_ident)

    mine, other = asyncio.run(main())
    assert mine != other


def test_each_job_has_a_thread_of_its_own() -> None:
    mark = threading.local()

    def was_marked() -> bool:
        found = hasattr(mark, "here")
        mark.here = True
        return found

    async def main() -> list[bool]:
        one_by_one = [await threads.run(was_marked) for _ in range(8)]
        return one_by_one + await asyncio.gather(*(threads.run(was_marked) for _ in range(8)))

    assert asyncio.run(main()) == [False] * 16


def test_the_error_comes_back_as_it_is() -> None:
    def job() -> None:
        raise KeyError("named")

    with pytest.raises(KeyError, match="named"):
        asyncio.run(threads.run(job))


def test_cancelling_the_caller_lets_the_job_end() -> None:
    ended = threading.Event()
    go = threading.Event()

    def job() -> None:
        go.wait(5)
        ended.set()

    async def main() -> None:
        task = asyncio.ensure_future(threads.run(job))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        go.set()
        await asyncio.to_thread(ended.wait, 5)

    asyncio.run(main())
    assert ended.is_set()
