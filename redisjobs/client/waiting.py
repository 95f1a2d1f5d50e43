"""How a process waits for jobs: one connection that listens, and one question about as many jobs as have changed.

Nothing is polled. Whatever ends a job tells the processes that wait for it, by the job's id alone; what that means
is asked for, many jobs at once. A message may be lost: then all of them are asked about, when the connection is
there again, and once a minute.
"""

import asyncio
import concurrent.futures
import itertools
import math
import os
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Hashable, Iterator, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, TypeVar

import anyio

from redisjobs.base.eventloop import Wakeup, has_closed, loop_key, spawn
from redisjobs.base.forks import begin_after_fork
from redisjobs.base.logger import Log
from redisjobs.base.visible import visible
from redisjobs.client.backoff import NOT_NOW, retrying
from redisjobs.client.results import has_ended, not_ended, not_kept_yet, result_of
from redisjobs.errors import DriverError
from redisjobs.model import codec
from redisjobs.model.context import keeper_of_only_slot
from redisjobs.model.driver import Driver, Notification
from redisjobs.model.job import Expected, State, WhyWaiting
from redisjobs.model.progress import Progress
from redisjobs.model.queries import Ending, Find, GetStatus, JobStatus, Row

T = TypeVar("T")

logger = Log("redisjobs")

_AT_ONCE = 500  # jobs of one question
_EVERY = 60.0  # seconds after which all are asked about, as a message may have been lost
_LATE = 10.0  # seconds of a wait without end after which it is said why the job does not start
_IDLE = 5.0  # seconds for which the connection is kept when nobody waits any more


_WHY = {
    WhyWaiting.NO_WORKER: "no worker of {where} is alive: start one, as `redisjobs worker MODULE:QUEUE`",
    WhyWaiting.PAUSED: "{where} is paused",
    WhyWaiting.NAME_PAUSED: "jobs of its name are paused on {where}",
    WhyWaiting.HELD: "it is held on {where}",
    WhyWaiting.NO_HANDLER: "the workers of {where} have no handler of its name",
    WhyWaiting.LIMIT: "it waits in the line of its limit on {where}",
    WhyWaiting.LAST_DELIVERY: "it waits for a worker of {where} that runs nothing else",
}

_OWN_SLOT = (
    "the handler that waits for it has the only slot of its worker of {where}: give the worker a concurrency of 2 "
    "or more, or push the job as this one ends, by `context.push`"
)


class Waiter:
    """One who waits for a job.

    Args:
        job_id: Which.
        begin: Sees to it that somebody asks; called again and again.
        late: Called once, when there has been no news for 10 s; None: nothing is.
    """

    def __init__(
        self, job_id: str, begin: Callable[[], object], late: Callable[[str], Awaitable[object]] | None
    ) -> None:
        self._job_id = job_id
        self._begin = begin
        self._late = late
        self._news: JobStatus | DriverError | None = None
        self._wakeup = Wakeup()

    def tell(self, news: JobStatus | DriverError | None) -> None:
        """Note how the job stands now, or why that can't be known; None: nobody asks any more."""
        self._news = news if news is not None else self._news
        self._wakeup.wake()

    async def changed(self) -> JobStatus:
        """Wait until there is news, and tell it.

        Raises:
            DriverError: The store refuses to answer.
        """
        while self._news is None:
            self._begin()
            await self._wait()
            self._wakeup.begin()
        news, self._news = self._news, None
        if isinstance(news, DriverError):
            raise news
        return news

    async def _wait(self) -> None:
        """Wait until there may be news; the first time for 10 s at most. The next wait needs a new `begin`."""
        late, self._late = self._late, None
        if late is None:
            await self._wakeup.wait()
            return
        with anyio.move_on_after(_LATE):
            await self._wakeup.wait()
            self._late = late
        if self._late is None:
            await late(self._job_id)


class Waiting:
    """Waits for any number of jobs of one queue, in one event loop.

    Args:
        driver: The queue's.
        queue: Its name.

    Attributes:
        trouble: Why the store can't be asked at the moment; None: it can.
    """

    def __init__(self, driver: Driver, queue: str) -> None:
        self.trouble: DriverError | None = None
        self._driver = driver
        self._queue = queue
        self._warned: set[str] = set()
        self._process = f"{os.getpid()}-{secrets.token_hex(8)}"
        self._waiters: dict[str, list[Waiter]] = {}
        self._changed: dict[str, None] = {}  # ids to ask about, in order
        self._wakeup = Wakeup()
        self._listening = False
        self._end: Callable[[], object] | None = None  # of the task that does all of this
        self._run_number = 0

    async def standings(self, job_id: str, *, warns: bool = False) -> AsyncGenerator[JobStatus, None]:
        """How a job stands, now and each time that it has changed; the last says how it has ended.

        Args:
            job_id: Which job.
            warns: Whether to log after 10 s why it does not start, if it does not.

        Raises:
            DriverError: The store refuses to answer.
        """
        waiter = Waiter(job_id, self._begin, self._warn if warns else None)
        self._waiters.setdefault(job_id, []).append(waiter)
        self._changed[job_id] = None
        self._wakeup.wake()
        try:
            while True:
                standing = await waiter.changed()
                yield standing
                if has_ended(standing):
                    return
        finally:
            left = self._waiters.get(job_id, [])
            if waiter in left:
                left.remove(waiter)
            if not left:
                self._waiters.pop(job_id, None)

    async def _warn(self, job_id: str) -> None:
        """Log why a job does not start that is waited for without end; once for each reason."""
        try:
            row = await self._driver.read(Find(job_id))
        except DriverError:
            return  # `trouble` says it
        why = self._why(row) if row is not None else ""
        if not why or why in self._warned:
            return
        self._warned.add(why)
        said = why.format(where=f"queue '{self._queue}' at {self._driver.where}")
        logger.warning("job %s is waited for without a timeout, and %s", visible(job_id), said)

    def _why(self, row: Row) -> str:
        if row.why_waiting is not None:
            return _WHY[row.why_waiting]
        keeper = keeper_of_only_slot(self._queue) if row.state is State.READY else None
        return "" if keeper is None else _OWN_SLOT

    async def _looks(self, job_id: str, *, once: bool, warns: bool) -> AsyncGenerator[JobStatus, None]:
        """How a job stands: by one look, or as `standings` has it."""
        if not once:
            async with aclosing(self.standings(job_id, warns=warns)) as standings:
                async for standing in standings:
                    yield standing
            return
        (standing,) = await self._driver.change(GetStatus([job_id]))
        yield standing
        if not has_ended(standing):
            raise TimeoutError

    async def result(
        self, job_id: str, expected: Expected, timeout: float | None, since: float | None = None
    ) -> Any:
        """What a job's handler returned, once that has ended.

        Args:
            job_id: Which job.
            expected: What is known of that here.
            timeout: Seconds to wait, 0 to look once; None: for ever.
            since: When the wait began, by the monotonic clock. Defaults to now.

        Raises:
            TimeoutError: It has not ended in that time.
            NoResult: There is none.
            DecodeError: It does not fit the type.
            DriverError: The store refuses to answer; or it is away, and was to be asked once.
        """
        left, before, standing = timeout, None, None
        if timeout and since is not None:
            left = since + timeout - time.monotonic()
        try:
            with anyio.fail_after(left or None):
                async with aclosing(self._looks(job_id, once=left == 0, warns=timeout is None)) as looks:
                    async for look in looks:
                        before, standing = standing, look
                        if (error := not_kept_yet(job_id, look)) is not None:
                            raise error
        except TimeoutError:
            trouble = f"; the store can't be asked at the moment: {self.trouble}" if self.trouble else ""
            raise TimeoutError(not_ended(job_id, standing, expected, timeout or 0.0) + trouble) from None
        assert standing is not None
        return result_of(job_id, standing, expected, was_there=before is not None)

    async def progress(self, job_id: str) -> AsyncGenerator[Progress, None]:
        """What a job reports of how far it is, until it has ended: the last that is known, then each that comes.

        Raises:
            DriverError: The store refuses to answer.
        """
        before = None
        async with aclosing(self.standings(job_id)) as standings:
            async for standing in standings:
                said = codec.decode_progress(standing.progress)
                if said is not None and said != before:
                    before = said
                    yield said

    def close(self) -> None:
        """End the connection; whoever waits yet begins anew."""
        end, self._end = self._end, None
        if end is not None:
            end()

    def _begin(self) -> None:
        if self._end is None:
            self._run_number += 1
            self._end = spawn(partial(self._run, self._run_number))

    async def _run(self, number: int) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._listen)
                tasks.start_soon(self._look_again)
                await self._ask_all()
                tasks.cancel_scope.cancel()
        except Exception as error:  # as no driver should raise; else all would begin again and again
            failure = DriverError(f"nobody can wait for jobs here: {error!r}")
            failure.__cause__ = error
            self._tell_all(failure)
        finally:
            if number == self._run_number:  # else it was closed, and another has begun
                self._end, self._listening = None, False
                self._changed |= dict.fromkeys(self._waiters)
                self._tell_all(None)  # it was cut off by somebody: whoever waits begins anew

    async def _listen(self) -> None:
        while True:
            try:
                await retrying(partial(self._driver.listen, self._heard, self._process), failed=self._failed)
            except DriverError as error:  # it is refused for good, as by the server's ACL
                self._tell_all(error)
                self.close()
            self._listening = False

    def _failed(self, error: DriverError) -> None:
        self.trouble, self._listening = error, False

    def _heard(self, notification: Notification) -> None:
        if notification.kind == "subscribed":  # what was said before was missed
            self._listening, self.trouble = True, None
            self._changed |= dict.fromkeys(self._waiters)
        elif notification.kind == "changed" and notification.value in self._waiters:
            self._changed[notification.value] = None
        self._wakeup.wake()

    async def _look_again(self) -> None:
        while True:
            await anyio.sleep(_EVERY)
            self._changed |= dict.fromkeys(self._waiters)
            self._wakeup.wake()

    async def _ask_all(self) -> None:
        """Ask about what has changed, until nobody has waited for a while."""
        idle = math.inf
        while True:
            self._wakeup.begin()
            while self._changed and self._listening:
                await self._ask(list(itertools.islice(self._changed, _AT_ONCE)))
            idle = math.inf if self._waiters else min(idle, anyio.current_time() + _IDLE)
            if anyio.current_time() >= idle:
                return
            with anyio.move_on_after(idle - anyio.current_time()):
                await self._wakeup.wait()

    async def _ask(self, job_ids: Sequence[str]) -> None:
        for job_id in job_ids:
            del self._changed[job_id]
        wanted = [job_id for job_id in job_ids if job_id in self._waiters]
        if not wanted:
            return
        try:
            standings = await retrying(
                lambda: self._driver.change(GetStatus(wanted, self._process)),
                on=NOT_NOW,
                failed=self._failed_to_ask,
            )
        except DriverError as error:
            self._tell_all(error)
            return
        self.trouble = None
        for job_id, standing in zip(wanted, standings, strict=True):
            if standing.ending is Ending.LATER:
                self._changed[job_id] = None
            else:
                self._tell(job_id, standing)

    def _failed_to_ask(self, error: DriverError) -> None:
        self.trouble = error

    def _tell(self, job_id: str, standing: JobStatus) -> None:
        for waiter in self._waiters.get(job_id, ()):
            waiter.tell(standing)
        if has_ended(standing):
            self._waiters.pop(job_id, None)

    def _tell_all(self, news: DriverError | None) -> None:
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.tell(news)


class Waitings:
    """The `Waiting` of each event loop that a queue is used in."""

    def __init__(self) -> None:
        self._by_loop: dict[Hashable, Waiting] = {}

    def here(self, driver: Driver, queue: str) -> Waiting:
        """That of the running event loop; `queue` is the queue's name."""
        key = loop_key()
        if key not in self._by_loop:
            for other in [each for each in list(self._by_loop) if has_closed(each)]:
                self._by_loop.pop(other, None)  # another thread may be faster
            self._by_loop[key] = Waiting(driver, queue)
        return self._by_loop[key]

    def close(self) -> None:
        """End the connection of that of the running event loop; whoever waits yet has it begin anew."""
        waiting = self._by_loop.get(loop_key())
        if waiting is not None:
            waiting.close()


class WaitingThread:
    """Waits for jobs on behalf of sync code: in an event loop, in a thread of its own, which begins when needed.

    A forked process starts with none.
    """

    def __init__(self) -> None:
        self.begin()
        begin_after_fork(self)

    def begin(self) -> None:
        """Begin with no thread; a forked process has not that of its parent, which may hold the lock."""
        self._lock = threading.RLock()  # a signal's handler may wait for a job, in the thread that holds it
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.current_thread()

    def call(self, steps: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine there, and wait until it has ended; what it returned, or raised.

        Args:
            steps: Makes it; once more where the thread was ended meanwhile.
        """
        return self._call(lambda _: steps())

    def _call(self, steps: Callable[[asyncio.AbstractEventLoop], Coroutine[Any, Any, T]]) -> T:
        while True:
            with self._lock:  # so what has begun is there for `close` to end
                loop = self._running()
                future = asyncio.run_coroutine_threadsafe(steps(loop), loop)
            try:
                return future.result()
            except concurrent.futures.CancelledError:
                continue  # by `close`, and nobody else
            except BaseException:
                future.cancel()  # a Ctrl-C, say
                raise

    def each(self, make: Callable[[], AsyncGenerator[T, None]]) -> Iterator[T]:
        """What an async generator gives that runs there; never the same twice in a row.

        Args:
            make: Makes it; once more where the thread was ended meanwhile: it may begin with what was given.
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
        """Have an async generator closed where it runs; where that has ended, so has the generator.

        Who drops an iterator gets here, in whatever thread that is collected, also as the interpreter ends.
        So no lock is taken, nothing begins and nobody waits.
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
        """End the thread, if there is one, after `end`, which runs there; whoever waits yet begins another."""
        with self._lock:
            loop, thread, self._loop = self._loop, self._thread, None
        if loop is not None:
            try:
                asyncio.run_coroutine_threadsafe(_end_with(end), loop).result()
            finally:  # also at Ctrl-C
                loop.call_soon_threadsafe(loop.stop)
            thread.join()


_END: Any = object()
"""That there is nothing more in an async generator."""


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
    await _end_others()  # before: whoever waits yet would open anew what is closed then
    await last()


async def _end_others() -> None:
    """End all tasks of the event loop but this one.

    Those of a task group are left to it: what such a task is to run would never be awaited if it has not begun.
    """
    this = asyncio.current_task()
    while others := [task for task in _outermost_tasks() if task is not this]:
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


def _outermost_tasks() -> list[asyncio.Task[Any]]:
    inside = {task.id for task in anyio.get_running_tasks() if task.parent_id is not None}
    return [task for task in asyncio.all_tasks() if id(task) not in inside]
