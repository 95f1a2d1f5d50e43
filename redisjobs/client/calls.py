"""How a queue calls its store, async and sync: again while that is unavailable, until a deadline."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import anyio

from redisjobs.client.backoff import retrying, retrying_sync
from redisjobs.client.operations import Steps
from redisjobs.client.push import Push, gave_up
from redisjobs.client.registry import Registry
from redisjobs.errors import DriverError, Unavailable
from redisjobs.model.changes import Change
from redisjobs.model.driver import SyncDriver
from redisjobs.model.info import JobInfo, job_info
from redisjobs.model.queries import Query, Scan
from redisjobs.model.times import LONGEST_TRY

T = TypeVar("T")


class Calls(Registry):
    """The calls of an async queue."""

    async def _do(self, steps: Steps[T]) -> T:
        """Carry out an operation, which yields what to ask of the store; return what it returns."""
        answer: Any = None
        while True:
            try:
                request = steps.send(answer)
            except StopIteration as end:
                result: T = end.value
                return result
            answer = await self._ask(request)

    async def _ask(self, request: Query[T] | Change[T]) -> T:
        if isinstance(request, Query):
            return await self._call(lambda: self.driver.read(request))
        answer = await self._call(lambda: self.driver.change(request))
        self._tell_changed(request, answer)
        return answer

    async def _scan(self, page: Scan) -> AsyncIterator[JobInfo]:
        more = True
        while more:
            step = await self._ask(page)
            for row in step.rows:
                yield job_info(row)
            page, more = replace(page, after=step.after), step.after != ""

    async def _call(self, call: Callable[[], Awaitable[T]], push: Push | None = None) -> T:
        cause: BaseException | None = None
        deadline, began = push.deadline if push else self.deadline, time.monotonic()
        try:
            if push and deadline >= LONGEST_TRY:
                return await call()  # it ends in time by itself, and a scope would cost as much as all else here
            with anyio.fail_after(deadline):
                return await call()
        except (Unavailable, TimeoutError) as error:
            cause = error
        except DriverError as error:
            raise push.failed(error) if push else error  # noqa: B904  (the same error, most often)
        if push:
            push.lost()
        with anyio.move_on_after(began + deadline - time.monotonic()):
            try:
                return await retrying(call, on=(Unavailable,), within=deadline)
            except DriverError as error:  # refused now; but an earlier try of a push may have been stored
                if not (push or isinstance(error, Unavailable)):
                    raise
                cause = error
        raise gave_up(push, deadline, cause) from cause


class SyncCalls(Registry):
    """The calls of a sync queue."""

    _store: SyncDriver

    def _do(self, steps: Steps[T]) -> T:
        """Carry out an operation; see `Calls._do`."""
        answer: Any = None
        while True:
            try:
                request = steps.send(answer)
            except StopIteration as end:
                result: T = end.value
                return result
            answer = self._ask(request)

    def _ask(self, request: Query[T] | Change[T]) -> T:
        if isinstance(request, Query):
            return self._call(lambda until: self._store.read(request, until=until))
        answer = self._call(lambda until: self._store.change(request, until=until))
        self._tell_changed(request, answer)
        return answer

    def _scan(self, page: Scan) -> Iterator[JobInfo]:
        more = True
        while more:
            step = self._ask(page)
            yield from map(job_info, step.rows)
            page, more = replace(page, after=step.after), step.after != ""

    def _call(self, call: Callable[[float], T], push: Push | None = None) -> T:
        """Call the store; `call` gets the deadline, by the monotonic clock."""
        deadline = push.deadline if push else self.deadline
        end = time.monotonic() + deadline
        try:
            return call(end)
        except Unavailable as error:
            cause: BaseException = error
        except DriverError as error:
            raise push.failed(error) if push else error  # noqa: B904  (the same error, most often)
        if push:
            push.lost()

        def again() -> T:
            nonlocal cause
            if time.monotonic() >= end:  # the pause before lasted until then
                raise cause
            try:
                return call(end)
            except Unavailable as error:
                if time.monotonic() < end:  # else it was cut off, and its text says less than the one before
                    cause = error
                raise cause from None

        try:
            return retrying_sync(again, on=(Unavailable,), within=end - time.monotonic())
        except DriverError as error:  # refused now; but an earlier try of a push may have been stored
            if not (push or isinstance(error, Unavailable)):
                raise
            cause = error
        raise gave_up(push, deadline, cause) from cause
