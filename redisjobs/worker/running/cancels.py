"""Finds out who cancelled a worker's tasks: a cancel scope, the job that runs in the task, or other code.

Handlers share the event loop with their worker, and code there can cancel any task. A cancel scope shows by itself
that it was cancelled. A bare `Task.cancel()` does not, and only asyncio has it.
"""

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio

from redisjobs.base.eventloop import AsyncioGate, Gate, gates
from redisjobs.model.context import JobContext, current_job


class TaskCancels:
    """The bare cancels of the current task. Make it in that task; it holds for no other.

    Attributes:
        count: Returns how many cancels the task has got and not undone.
        by_job: Whether the job that runs there has sent them itself.
    """

    __slots__ = ("by_job", "count")

    def __init__(self) -> None:
        task = _current_task()
        self.count: Callable[[], int] = task.cancelling if task is not None else int
        self.by_job = False


class CancelWatch:
    """Watches for cancels of all tasks, and for cancels by a job of the worker's own task, which makes the watch.

    Attributes:
        attacked: Whether there was such a cancel: the worker ends by an error.
        blames_jobs: Whether there was such a cancel, or an exception has ended the event loop: a job may be the
            cause.
    """

    def __init__(self) -> None:
        self.attacked = self.blames_jobs = False
        self._handled = sys.exc_info()[1]
        self._around = _job_here()  # a job may run a worker, and may cancel that worker
        task = _current_task()
        self._cancelling = task.cancelling() if task is not None else 0
        self._bystander: asyncio.Task[None] | None = None
        if task is not None:
            self._everyone = _WatchedFuture(self._all_cancelled)
            self._bystander = asyncio.create_task(_wait_for(self._everyone), name="redisjobs watch")

    async def end(self) -> None:
        """Stop watching."""
        if self._bystander is not None:
            with anyio.CancelScope(shield=True):
                if not self._everyone.done():
                    self._everyone.set_result(None)
                await asyncio.wait({self._bystander})

    def gate(self) -> Gate:
        """Return the gate at which the worker's own task waits. It notices if a job cancels that task."""
        if self._bystander is None:
            return gates()()
        return AsyncioGate(_WatchedFuture(self._worker_cancelled))

    def forget(self) -> None:
        """Undo the cancels that an attack left in the current task, which is the worker's own.

        On Python 3.13, a task group takes every error for a cancel if its task remembers cancels.
        """
        task = _current_task()
        while task is not None and task.cancelling() > self._cancelling:
            task.uncancel()

    def _all_cancelled(self) -> None:
        # A loop that ends in order cancels what is left once it has stopped. A loop that an exception ends cancels
        # while that exception is being handled.
        running = self._everyone.get_loop().is_running()
        self.attacked = self.attacked or running
        self.blames_jobs = self.blames_jobs or running or sys.exc_info()[1] is not self._handled

    def _worker_cancelled(self) -> None:
        if _job_here() is not self._around:
            self.attacked = self.blames_jobs = True


class _WatchedFuture(asyncio.Future[None]):
    """What a task waits for. A cancel of the task calls `cancel`, in the context of the code that sends it."""

    def __init__(self, cancelled: Callable[[], None]) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self._note = cancelled

    def cancel(self, msg: Any | None = None) -> bool:
        self._note()
        return super().cancel(msg)


async def _wait_for(future: asyncio.Future[None]) -> None:
    with suppress(asyncio.CancelledError):
        await future


def _current_task() -> "asyncio.Task[Any] | None":
    try:
        return asyncio.current_task()
    except RuntimeError:  # this is trio
        return None


def _job_here() -> JobContext[Any] | None:
    try:
        return current_job()
    except LookupError:
        return None
