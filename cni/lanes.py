"""One lane per container id: its verbs run one at a time, in the order in which they came."""

import asyncio
from collections import deque


class Lanes:
    """FIFO locks by key that exist only while used. Loop thread only.

    asyncio.Lock would need a user count beside it to know when to forget a key, and a ten-thousand-pod node would
    otherwise keep one lock per dead container.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    def __len__(self) -> int:
        """How many keys are held at this moment."""
        return len(self._waiting)

    async def acquire(self, key: str) -> None:
        """Hold the key; returns without a task switch when nobody has it."""
        queue = self._waiting.get(key)
        if queue is None:
            self._waiting[key] = deque()
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the key was handed over in the instant of the cancellation
                self.release(key)
            raise

    def release(self, key: str) -> None:
        """Hand the key to the longest waiting, or forget it."""
        queue = self._waiting[key]
        while queue:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._waiting[key]
