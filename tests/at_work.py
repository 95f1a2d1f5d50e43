"""Lets workers, schedulers or relays run while a block does."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from operator import methodcaller
from typing import Any, Protocol

import anyio


class Runs(Protocol):
    """A worker, or what runs like one."""

    async def run(self) -> object:
        """Run until it is stopped."""


@asynccontextmanager
async def running(
    *workers: Runs, stop: Callable[[Any], object] = methodcaller("stop"), within: float = 40
) -> AsyncIterator[None]:
    """Let workers run while the block does; at its end each is stopped, and all must end in time.

    Args:
        workers: All that are to run.
        stop: How one is stopped: `Worker.stop_now` does not wait for its jobs.
        within: Seconds for the block and the stop.
    """
    with anyio.fail_after(within):
        async with anyio.create_task_group() as tasks:
            for worker in workers:
                tasks.start_soon(worker.run)
            try:
                yield
            finally:
                for worker in workers:
                    stop(worker)
