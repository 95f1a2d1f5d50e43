"""Calls of a queue to its store, async and sync. A call is repeated while the store is unavailable."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TypeVar

import anyio

from redisjobs.base.logger import Log
from redisjobs.client.backoff import retrying, retrying_sync
from redisjobs.client.operation import Operation
from redisjobs.client.push import PushCall, gave_up
from redisjobs.client.registry import Registry
from redisjobs.errors import DriverError, Unavailable
from redisjobs.model.changes import Change
from redisjobs.model.info import JobInfo, job_info
from redisjobs.model.queries import Query, Scan
from redisjobs.model.times import LONGEST_TRY

T = TypeVar("T")
logger = Log("redisjobs")


class Calls:
    """The calls of an async queue."""

    def __init__(self, queue: Registry) -> None:
        self._queue = queue

    async def do(self, operation: Operation[T]) -> T:
        """Carry out an operation: send each request that it yields to the store, and return its result."""
        go_on = partial(operation.send, None)
        while True:
            try:
                request = go_on()
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                go_on = partial(operation.send, await self.ask(request))
            except DriverError as error:
                go_on = partial(operation.throw, error)

    async def ask(self, request: Query[T] | Change[T]) -> T:
        """Send one query or change to the store, and return its answer."""
        driver = self._queue.driver
        if isinstance(request, Query):
            return await self.call(lambda: driver.read(request))
        answer = await self.call(lambda: driver.change(request))
        self._queue._publish_changed(request, answer)
        return answer

    async def scan(self, page: Scan) -> AsyncIterator[JobInfo]:
        """Iterate over the jobs of a scan, from its first page on."""
        more = True
        while more:
            step = await self.ask(page)
            for row in step.rows:
                yield job_info(row)
            page, more = replace(page, after=step.after), step.after != ""

    async def call(self, call: Callable[[], Awaitable[T]], push: PushCall | None = None) -> T:
        """Call the store, and repeat the call while it is unavailable, until the deadline."""
        cause: BaseException | None = None
        deadline, began = push.deadline if push else self._queue.deadline, time.monotonic()
        try:
            if push and deadline >= LONGEST_TRY:
                return await call()  # the driver ends it in time, and a scope would cost as much as all else here
            with anyio.fail_after(deadline):
                return await call()
        except (Unavailable, TimeoutError) as error:
            cause = error
        except DriverError as error:
            raise push.failed(error) if push else error  # noqa: B904  (usually the same error)
        if push:
            push.lost()
        with anyio.move_on_after(began + deadline - time.monotonic()):
            try:
                return await retrying(call, on=(Unavailable,), within=deadline)
            except DriverError as error:  # refused now, but an earlier try of the push may have arrived
                if not (push or isinstance(error, Unavailable)):
                    raise
                cause = error
        raise gave_up(push, deadline, cause) from cause


class SyncCalls:
    """The calls of a sync queue."""

    def __init__(self, queue: Registry) -> None:
        self._queue = queue
        self._has_warned = False

    def check_loop(self) -> None:
        """Warn, once for each queue, if this call blocks an event loop."""
        if asyncio._get_running_loop() is None or self._has_warned:
            return
        self._has_warned = True
        logger.warning(
            "queue '%s': a call at %s blocks the event loop of its thread: await a redisjobs.JobQueue there, or "
            "make the call by asyncio.to_thread",
            self._queue.name,
            _caller(),
        )

    def do(self, operation: Operation[T]) -> T:
        """Carry out an operation; see `Calls.do`."""
        go_on = partial(operation.send, None)
        while True:
            try:
                request = go_on()
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                go_on = partial(operation.send, self.ask(request))
            except DriverError as error:
                go_on = partial(operation.throw, error)

    def ask(self, request: Query[T] | Change[T]) -> T:
        """Send one query or change to the store, and return its answer."""
        store = self._queue._store
        if isinstance(request, Query):
            return self.call(lambda until: store.read(request, until=until))
        answer = self.call(lambda until: store.change(request, until=until))
        self._queue._publish_changed(request, answer)
        return answer

    def scan(self, page: Scan) -> Iterator[JobInfo]:
        """Iterate over the jobs of a scan, from its first page on."""
        more = True
        while more:
            step = self.ask(page)
            yield from map(job_info, step.rows)
            page, more = replace(page, after=step.after), step.after != ""

    def call(self, call: Callable[[float], T], push: PushCall | None = None) -> T:
        """Call the store, and repeat the call until the deadline; `call` gets it in monotonic seconds."""
        self.check_loop()
        deadline = push.deadline if push else self._queue.deadline
        end = time.monotonic() + deadline
        try:
            return call(end)
        except Unavailable as error:
            cause: BaseException = error
        except DriverError as error:
            raise push.failed(error) if push else error  # noqa: B904  (usually the same error)
        if push:
            push.lost()

        def again() -> T:
            nonlocal cause
            if time.monotonic() >= end:  # the pause before this try lasted until the deadline
                raise cause
            try:
                return call(end)
            except Unavailable as error:
                if time.monotonic() < end:  # else the deadline cut this try off, and the cause before says more
                    cause = error
                raise cause from None

        try:
            return retrying_sync(again, on=(Unavailable,), within=end - time.monotonic())
        except DriverError as error:  # refused now, but an earlier try of the push may have arrived
            if not (push or isinstance(error, Unavailable)):
                raise
            cause = error
        raise gave_up(push, deadline, cause) from cause


def _caller() -> str:
    """Return the file and line of the application's call."""
    frame = sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith("redisjobs."):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
