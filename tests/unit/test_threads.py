"""Jobs in fresh threads."""

from __future__ import annotations

import asyncio
import threading

import pytest

from agent import threads


def test_the_result_comes_back_from_a_thread_that_is_not_the_loops() -> None:
    async def main() -> tuple[int, int]:
        return threading.get_ident(), await threads.run(threading.get_ident, "job")

    mine, other = asyncio.run(main())
    assert mine != other


def test_each_job_has_a_thread_of_its_own() -> None:
    seen: list[threading.Thread] = []

    async def main() -> None:
        await asyncio.gather(*(threads.run(lambda: seen.append(threading.current_thread()), "job") for _ in range(8)))

    asyncio.run(main())
    assert len({id(thread) for thread in seen}) == 8


def test_the_error_comes_back_as_it_is() -> None:
    def job() -> None:
        raise KeyError("named")

    with pytest.raises(KeyError, match="named"):
        asyncio.run(threads.run(job, "job"))


def test_cancelling_the_caller_lets_the_job_end() -> None:
    ended = threading.Event()
    go = threading.Event()

    def job() -> None:
        go.wait(5)
        ended.set()

    async def main() -> None:
        task = asyncio.ensure_future(threads.run(job, "job"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        go.set()
        await asyncio.to_thread(ended.wait, 5)

    asyncio.run(main())
    assert ended.is_set()
