"""Lanes: order, forgetting, and cancellation at the worst moment."""

import asyncio

from cni.lanes import Lanes


def test_a_key_is_handed_on_in_order_and_then_forgotten() -> None:
    async def scenario() -> None:
        lanes, order = Lanes(), []

        async def turn(number: int) -> None:
            await lanes.acquire("a")
            order.append(number)
            await asyncio.sleep(0)
            lanes.release("a")

        await asyncio.gather(*(turn(number) for number in range(5)))
        assert order == [0, 1, 2, 3, 4]
        assert len(lanes) == 0

    asyncio.run(scenario())


def test_keys_do_not_wait_for_each_other() -> None:
    async def scenario() -> None:
        lanes = Lanes()
        await lanes.acquire("a")
        await asyncio.wait_for(lanes.acquire("b"), 1)
        assert len(lanes) == 2

    asyncio.run(scenario())


def test_a_cancelled_waiter_is_passed_over() -> None:
    async def scenario() -> None:
        lanes = Lanes()
        await lanes.acquire("a")
        waiters = [asyncio.create_task(lanes.acquire("a")) for _ in range(2)]
        await asyncio.sleep(0)
        waiters[0].cancel()
        await asyncio.sleep(0)
        lanes.release("a")
        await asyncio.wait_for(waiters[1], 1)
        lanes.release("a")
        assert len(lanes) == 0

    asyncio.run(scenario())


def test_a_waiter_cancelled_in_the_instant_of_its_turn_hands_it_on() -> None:
    async def scenario() -> None:
        lanes = Lanes()
        await lanes.acquire("a")
        waiters = [asyncio.create_task(lanes.acquire("a")) for _ in range(2)]
        await asyncio.sleep(0)
        lanes.release("a")  # the first waiter's turn has come, it has not run yet
        waiters[0].cancel()
        await asyncio.wait_for(waiters[1], 1)
        lanes.release("a")
        assert len(lanes) == 0

    asyncio.run(scenario())
