"""Waiting for jobs: a process listens on one connection, and asks about all changed jobs in one query.

It does not poll. When a job ends, the waiting processes get a notification with the job's id. Each then asks how
the job ended, for many jobs at once. A notification may be lost. So a process asks about all its jobs when the
connection is back, and once a minute.
"""

import itertools
import math
import os
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

import anyio

from redisjobs.base.eventloop import Wakeup, has_closed, loop_key, spawn
from redisjobs.base.logger import Log
from redisjobs.base.visible import visible
from redisjobs.client.backoff import NOT_NOW, retrying
from redisjobs.client.obstacles import OBSTACLES, words_of
from redisjobs.client.results import has_ended, not_ended, not_kept_yet, result_of
from redisjobs.client.streaming import Pages
from redisjobs.errors import DriverError
from redisjobs.model import codec
from redisjobs.model.changes import Ending, GetStatus, JobStatus
from redisjobs.model.chunks import Chunk
from redisjobs.model.context import keeper_of_only_slot
from redisjobs.model.driver import Driver, Notification
from redisjobs.model.info import job_info
from redisjobs.model.job import Expected, State
from redisjobs.model.progress import Progress
from redisjobs.model.queries import Find, Row

logger = Log("redisjobs")

_AT_ONCE = 500  # jobs in one query
_EVERY = 60.0  # seconds between queries about all jobs: a notification may have been lost
_LATE = 10.0  # seconds of a wait without timeout after which a log line says why the job does not start
_IDLE = 5.0  # seconds to keep the connection after the last wait


_OWN_SLOT = (
    "the handler that waits for it has the only slot of its worker of {where}: give the worker a concurrency of 2 "
    "or more, or push the job as this one ends, by `context.push`"
)


class Waiter:
    """One wait for a job.

    Args:
        job_id: The job's id.
        begin: Called before each wait; starts the task that asks the store, if it does not run.
        late: Called once, when there has been no news for 10 s; None: no call.
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
        """Note the job's status, or why the store gives none; None: the task that asks the store has ended."""
        self._news = news if news is not None else self._news
        self._wakeup.wake()

    async def changed(self) -> JobStatus:
        """Wait for news, and return it; raise a `DriverError` if the store refuses to answer."""
        while self._news is None:
            self._begin()
            await self._wait()
            self._wakeup.begin()
        news, self._news = self._news, None
        if isinstance(news, DriverError):
            raise news
        return news

    async def _wait(self) -> None:
        """Wait until there may be news. If the first wait lasts 10 s, call `late` and return."""
        late, self._late = self._late, None
        if late is None:
            await self._wakeup.wait()
            return
        with anyio.move_on_after(_LATE):
            await self._wakeup.wait()
            self._late = late
        if self._late is None:
            await late(self._job_id)


class JobWaits:
    """All waits for jobs of one queue in one event loop.

    Attributes:
        trouble: Why the store does not answer at the moment; None: it does.
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
        self._end: Callable[[], object] | None = None  # cancels the task that listens and asks
        self._run_number = 0
        self._pages = Pages(driver, self._failed_to_ask)

    async def statuses(self, job_id: str, *, warns: bool = False) -> AsyncGenerator[JobStatus, None]:
        """Yield a job's status, now and after each change. The last one says how the job has ended.

        With `warns`, if the job does not start within 10 s, a log line says why.

        Raises:
            DriverError: The store refuses to answer.
        """
        waiter = Waiter(job_id, self._begin, self._warn if warns else None)
        self._waiters.setdefault(job_id, []).append(waiter)
        self._changed[job_id] = None
        self._wakeup.wake()
        try:
            while True:
                status = await waiter.changed()
                yield status
                if has_ended(status):
                    return
        finally:
            left = self._waiters.get(job_id, [])
            if waiter in left:
                left.remove(waiter)
            if not left:
                self._waiters.pop(job_id, None)

    async def _warn(self, job_id: str) -> None:
        """Log why a job does not start, for a wait without a timeout; once for each reason."""
        try:
            row = await self._driver.read(Find(job_id))
        except DriverError:
            return  # the task that asks the store notes it as `trouble`
        why = self._why(row) if row is not None else ""
        if row is None or not why or why in self._warned:
            return
        self._warned.add(why)
        where = f"queue '{self._queue}' at {self._driver.where}"
        said = why.format(**words_of(self._queue, job_id, job_info(row).name, where))
        logger.warning("job %s is waited for without a timeout, and %s", visible(job_id), said)

    def _why(self, row: Row) -> str:
        if row.why_waiting is not None:
            return ": ".join(OBSTACLES[row.why_waiting])
        keeper = keeper_of_only_slot(self._queue) if row.state is State.READY else None
        return "" if keeper is None else _OWN_SLOT

    async def _looks(self, job_id: str, *, once: bool, warns: bool) -> AsyncGenerator[JobStatus, None]:
        """Yield a job's status: once, or after each change like `statuses`."""
        if not once:
            async with aclosing(self.statuses(job_id, warns=warns)) as statuses:
                async for status in statuses:
                    yield status
            return
        (status,) = await self._driver.change(GetStatus([job_id]))
        yield status
        if not has_ended(status):
            raise TimeoutError

    async def result(
        self, job_id: str, expected: Expected, timeout: float | None, since: float | None = None
    ) -> Any:
        """Wait until a job has ended, and return its result.

        A timeout of 0 looks once. `since` is when the wait began, in monotonic seconds; None: now.

        Raises:
            TimeoutError: The job has not ended in that time.
            NoResult: The job has no result.
            DecodeError: The result does not fit the type.
            DriverError: Redis refuses to answer, or it is unavailable and the timeout is 0.
        """
        left, before, status = timeout, None, None
        if timeout and since is not None:
            left = since + timeout - time.monotonic()
        try:
            with anyio.fail_after(left or None):
                async with aclosing(self._looks(job_id, once=left == 0, warns=timeout is None)) as looks:
                    async for look in looks:
                        before, status = status, look
                        if (error := not_kept_yet(job_id, look)) is not None:
                            raise error
        except TimeoutError:
            trouble = f"; the store can't be asked at the moment: {self.trouble}" if self.trouble else ""
            raise TimeoutError(not_ended(job_id, status, expected, timeout or 0.0) + trouble) from None
        assert status is not None
        return result_of(job_id, status, expected, was_there=before is not None)

    async def progress(self, job_id: str) -> AsyncGenerator[Progress, None]:
        """Yield a job's last progress report, then each new one, until the job has ended."""
        before = None
        async with aclosing(self.statuses(job_id)) as statuses:
            async for status in statuses:
                report = codec.decode_progress(status.progress)
                if report is not None and report != before:
                    before = report
                    yield report

    async def chunks(self, job_id: str, after: str) -> AsyncGenerator[Sequence[Chunk], None]:
        """Yield the chunks of a job behind an id, some at a time, until the job has ended and all were read.

        Raises:
            ChunksLost: Some are not kept any more.
        """
        async with aclosing(self.statuses(job_id)) as statuses:
            async for _ in statuses:
                async with aclosing(self._pages.following(job_id, after)) as pages:
                    async for chunks in pages:
                        after = chunks[-1].id
                        yield chunks

    def close(self) -> None:
        """Close the connection. Waits that are still open connect again."""
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
        except Exception as error:  # a driver's bug; without this, each wait would start the task again and again
            failure = DriverError(f"this process can't wait for jobs: {error!r}")
            failure.__cause__ = error
            self._notify_all(failure)
        finally:
            if number == self._run_number:  # else `close` ended this run, and another one has begun
                self._end, self._listening = None, False
                self._changed |= dict.fromkeys(self._waiters)
                self._notify_all(None)  # so each wait that is still open begins a new run

    async def _listen(self) -> None:
        while True:
            try:
                await retrying(partial(self._driver.listen, self._heard, self._process), failed=self._failed)
            except DriverError as error:  # a new try would not help: for example an ACL forbids it
                self._notify_all(error)
                self.close()
            self._listening = False

    def _failed(self, error: DriverError) -> None:
        self.trouble, self._listening = error, False

    def _heard(self, notification: Notification) -> None:
        if notification.kind == "subscribed":  # earlier notifications may be lost
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
        """Ask about changed jobs, until there have been no waits for 5 s."""
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
            statuses = await retrying(
                lambda: self._driver.change(GetStatus(wanted, self._process)),
                on=NOT_NOW,
                failed=self._failed_to_ask,
            )
        except DriverError as error:
            self._notify_all(error)
            return
        self.trouble = None
        for job_id, status in zip(wanted, statuses, strict=True):
            if status.ending is Ending.LATER:
                self._changed[job_id] = None
            else:
                self._notify(job_id, status)

    def _failed_to_ask(self, error: DriverError) -> None:
        self.trouble = error

    def _notify(self, job_id: str, status: JobStatus) -> None:
        for waiter in self._waiters.get(job_id, ()):
            waiter.tell(status)
        if has_ended(status):
            self._waiters.pop(job_id, None)

    def _notify_all(self, news: DriverError | None) -> None:
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.tell(news)


class Waitings:
    """One `JobWaits` for each event loop that uses a queue."""

    def __init__(self) -> None:
        self._by_loop: dict[Hashable, JobWaits] = {}

    def _here(self, driver: Driver, queue: str) -> JobWaits:
        key = loop_key()
        if key not in self._by_loop:
            for other in [each for each in list(self._by_loop) if has_closed(each)]:
                self._by_loop.pop(other, None)  # another thread may have removed it
            self._by_loop[key] = JobWaits(driver, queue)
        return self._by_loop[key]

    async def result(
        self,
        driver: Driver,
        queue: str,
        job_id: str,
        expected: Expected,
        timeout: float | None,
        since: float | None = None,
    ) -> Any:
        """Wait in the running event loop for a job's result; see `JobWaits.result`."""
        return await self._here(driver, queue).result(job_id, expected, timeout, since)

    async def progress(self, driver: Driver, queue: str, job_id: str) -> AsyncGenerator[Progress, None]:
        """Yield progress reports in the running event loop; see `JobWaits.progress`."""
        async with aclosing(self._here(driver, queue).progress(job_id)) as reports:
            async for progress in reports:
                yield progress

    async def chunks(
        self, driver: Driver, queue: str, job_id: str, after: str
    ) -> AsyncGenerator[Sequence[Chunk], None]:
        """Yield chunks in the running event loop; see `JobWaits.chunks`."""
        async with aclosing(self._here(driver, queue).chunks(job_id, after)) as pages:
            async for page in pages:
                yield page

    def close(self) -> None:
        """Close the connection of the running event loop. Waits that are still open connect again."""
        waiting = self._by_loop.get(loop_key())
        if waiting is not None:
            waiting.close()
