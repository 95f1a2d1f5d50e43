"""The background thread with an event loop in which a sync queue waits for jobs."""

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any, TypeVar

import anyio

from redisjobs.base.forks import begin_after_fork

T = TypeVar("T")


class WaitingThread:
    """A background thread with an event loop. The first call starts it."""

    def __init__(self) -> None:
        self.begin()
        begin_after_fork(self)

    def begin(self) -> None:
        """Start without a thread. A forked process lacks its parent's thread, which may have held the lock."""
        self._lock = threading.RLock()  # reentrant: a signal handler may wait for a job while its thread holds it
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.current_thread()

    def call(self, steps: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine in the thread and return its result. If `close` ends the thread, run a new coroutine."""
        return self._call(lambda _: steps())

    def _call(self, steps: Callable[[asyncio.AbstractEventLoop], Coroutine[Any, Any, T]]) -> T:
        while True:
            with self._lock:  # so that `close` finds every coroutine that was started
                loop = self._running()
                future = asyncio.run_coroutine_threadsafe(steps(loop), loop)
            try:
                return future.result()
            except concurrent.futures.CancelledError:
                continue  # only `close` cancels it
            except BaseException:
                future.cancel()  # for example after a Ctrl-C
                raise

    def each(self, make: Callable[[], AsyncGenerator[T, None]]) -> Iterator[T]:
        """Run an async generator in the thread, and yield its items, except repeated ones.

        If `close` ends the thread, `make` makes a new generator, whose first item may repeat the last one.
        """
        before: T | None = None
        steps: AsyncGenerator[T, None] | None = None
        there: asyncio.AbstractEventLoop | None = None

        def following(loop: asyncio.AbstractEventLoop) -> Coroutine[Any, Any, T]:
            nonlocal steps, there
            if steps is None or loop is not there:
                steps, there = make(), loop
            return _next(steps)

        try:
            while (value := self._call(following)) is not _END:
                if value != before:
                    yield (before := value)
        finally:
            if steps is not None and there is not None:
                self._leave(steps, there)

    def _leave(self, steps: AsyncGenerator[Any, None], loop: asyncio.AbstractEventLoop) -> None:
        """Close an async generator in its loop. If the loop has ended, the generator has ended, too.

        Any thread may call this, even when the interpreter exits, because a dropped iterator does. So it takes no
        lock, starts nothing and does not wait.
        """

        def close() -> None:
            if loop is self._loop:
                _closing.add(task := loop.create_task(_close(steps)))
                task.add_done_callback(_closing.discard)

        if loop is self._loop:
            with suppress(RuntimeError):  # the loop was closed just now
                loop.call_soon_threadsafe(close)

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=_run_forever, args=(loop,), name="redisjobs waiting", daemon=True)
            try:
                thread.start()
                # Set last: a Ctrl-C before this must not leave a loop that does not run.
                self._thread, self._loop = thread, loop
            except BaseException:  # a signal handler may raise while the thread begins
                loop.call_soon_threadsafe(loop.stop)
                raise
        return self._loop

    def close(self, end: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Run `end` in the thread, and end the thread, if there is one. Open calls start another one."""
        loop: asyncio.AbstractEventLoop | None = None
        try:
            with self._lock:
                loop, thread, self._loop = self._loop, self._thread, None
            if loop is None:
                return
            asyncio.run_coroutine_threadsafe(_end_with(end), loop).result()
        finally:  # even after a Ctrl-C
            if loop is not None:
                loop.call_soon_threadsafe(loop.stop)
        thread.join()


_END: Any = object()
"""The end of an async generator."""


async def _next(steps: AsyncGenerator[Any, None]) -> Any:
    return await anext(steps, _END)


_closing: set[asyncio.Task[None]] = set()  # the event loop keeps only weak references to its tasks


async def _close(steps: AsyncGenerator[Any, None]) -> None:
    with suppress(RuntimeError):  # it still runs; its task was cancelled, which ends it
        await steps.aclose()


def _run_forever(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
        loop.run_until_complete(_end_others())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


async def _end_with(last: Callable[[], Coroutine[Any, Any, object]]) -> None:
    await _end_others()  # first: an open wait would connect again after `last` has closed the connection
    await last()


async def _end_others() -> None:
    """Cancel all other tasks of the event loop, and wait for their end.

    A task group cancels its own tasks. If this cancelled a task that has not begun, its coroutine would never be
    awaited.
    """
    this = asyncio.current_task()
    while others := [task for task in _outermost_tasks() if task is not this]:
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


def _outermost_tasks() -> list[asyncio.Task[Any]]:
    inside = {task.id for task in anyio.get_running_tasks() if task.parent_id is not None}
    return [task for task in asyncio.all_tasks() if id(task) not in inside]
