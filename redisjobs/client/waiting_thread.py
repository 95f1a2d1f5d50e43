"""Waits for jobs on behalf of sync code: an event loop in a thread of its own."""

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
    """An event loop in a thread of its own, which starts when it is needed."""

    def __init__(self) -> None:
        self.begin()
        begin_after_fork(self)

    def begin(self) -> None:
        """Begin with no thread: a forked process has not its parent's, which may hold the lock."""
        self._lock = threading.RLock()  # a signal's handler may wait for a job, in the thread that holds it
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.current_thread()

    def call(self, steps: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine there and return its result; made again if the thread was ended meanwhile."""
        return self._call(lambda _: steps())

    def _call(self, steps: Callable[[asyncio.AbstractEventLoop], Coroutine[Any, Any, T]]) -> T:
        while True:
            with self._lock:  # so what has begun is there for `close` to end
                loop = self._running()
                future = asyncio.run_coroutine_threadsafe(steps(loop), loop)
            try:
                return future.result()
            except concurrent.futures.CancelledError:
                continue  # by `close`, and nothing else
            except BaseException:
                future.cancel()  # a Ctrl-C, say
                raise

    def each(self, make: Callable[[], AsyncGenerator[T, None]]) -> Iterator[T]:
        """Yield what an async generator yields that runs there; never the same twice in a row.

        It is made again if the thread was ended meanwhile: it may begin with the last item.
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
        """Close an async generator in the loop where it runs; if that has ended, so has the generator.

        A dropped iterator ends here, in any thread, and also while the interpreter ends. So this takes no lock,
        starts nothing and does not wait.
        """

        def close() -> None:
            if loop is self._loop:
                _closing.add(task := loop.create_task(_close(steps)))
                task.add_done_callback(_closing.discard)

        if loop is self._loop:
            with suppress(RuntimeError):  # it was closed just now
                loop.call_soon_threadsafe(close)

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=_run_forever, args=(loop,), name="redisjobs waiting", daemon=True)
            thread.start()
            # Last: a Ctrl-C leaves no loop that stands.
            self._thread, self._loop = thread, loop
        return self._loop

    def close(self, end: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """End the thread, if there is one, after `end`, which runs there; calls that go on start another."""
        with self._lock:
            loop, thread, self._loop = self._loop, self._thread, None
        if loop is not None:
            try:
                asyncio.run_coroutine_threadsafe(_end_with(end), loop).result()
            finally:  # also at Ctrl-C
                loop.call_soon_threadsafe(loop.stop)
            thread.join()


_END: Any = object()
"""The end of an async generator."""


async def _next(steps: AsyncGenerator[Any, None]) -> Any:
    return await anext(steps, _END)


_closing: set[asyncio.Task[None]] = set()  # the event loop keeps only weak references to its tasks


async def _close(steps: AsyncGenerator[Any, None]) -> None:
    with suppress(RuntimeError):  # it runs: it was cancelled, and ends by that
        await steps.aclose()


def _run_forever(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
        loop.run_until_complete(_end_others())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


async def _end_with(last: Callable[[], Coroutine[Any, Any, object]]) -> None:
    await _end_others()  # before: a wait that goes on would open again what is closed then
    await last()


async def _end_others() -> None:
    """Cancel all tasks of the event loop but this one, and wait for their end.

    Tasks of a task group are left to the group: if one has not begun, its coroutine would never be awaited.
    """
    this = asyncio.current_task()
    while others := [task for task in _outermost_tasks() if task is not this]:
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


def _outermost_tasks() -> list[asyncio.Task[Any]]:
    inside = {task.id for task in anyio.get_running_tasks() if task.parent_id is not None}
    return [task for task in asyncio.all_tasks() if id(task) not in inside]
