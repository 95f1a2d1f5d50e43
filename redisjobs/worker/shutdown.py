"""How a worker's run comes to its end: it claims no more, what runs has a grace, and then is given up."""

import time
from collections.abc import Callable

import anyio


class Shutdown:
    """Whether a run is to end, and how long what runs may take. A later stop may shorten that, not lengthen it.

    Attributes:
        stopping: No more jobs are claimed.
        over: The grace is over, and so is the time to unwind.
        recycled: It stops by itself, having had its share of jobs, memory or threads.
        hindered: That was for want of threads which the system does not give.
    """

    def __init__(self) -> None:
        self.stopping = self.over = self.recycled = self.hindered = False
        self._until = float("inf")  # by our monotonic clock
        self._asked = anyio.Event()

    def ask(self, grace: float) -> None:
        """Stop, and give up what still runs after `grace` seconds. A callback of the loop may call it."""
        self.stopping = True
        self._until = min(self._until, time.monotonic() + grace)
        self._asked.set()

    async def wait(self, most: float) -> None:
        """Wait until it is asked for, at most so many seconds."""
        with anyio.move_on_after(most):
            await self._asked.wait()

    async def outlast_grace(self, asked: Callable[[], object]) -> None:
        """Wait until the grace is over; `asked` is called at first, and whenever a stop was asked for."""
        while (left := self._until - time.monotonic()) > 0:
            self._asked = anyio.Event()
            asked()
            await self.wait(left)
