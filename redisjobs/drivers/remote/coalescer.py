"""Joins concurrent pushes of one event loop: those that start while a push is under way share the next round trip.

There is no timer: if no push is under way, a push goes at once, by itself. Otherwise it waits for that round trip
to end, and may take one round trip longer than alone. In return many callers need few round trips. Each caller
still gets its own answer, or its own error.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

from redisjobs.errors import DriverError, QueueFull, ServerTooOld, Unavailable
from redisjobs.model.driver import OtherVersion, PushedInPart
from redisjobs.model.times import LONGEST_TRY
from redisjobs.model.transitions import MOST_JOBS, NewJob, Pushed, found_again, weight_of

T = TypeVar("T")

MOST_TOGETHER = 50
"""A push of more jobs does not share a round trip with other pushes."""

_MOST = 2  # round trips at once
_WORTH = 32  # waiting callers that are worth a second round trip
_BYTES = 1 << 20  # a round trip takes no further push once it has this many
_PATIENCE = LONGEST_TRY / 2  # seconds after which a push is not sent any more: its answer would be too late
_OF_ALL = (Unavailable, QueueFull, ServerTooOld, OtherVersion)  # errors that no single push of a batch causes

Send = Callable[[Sequence[NewJob], bool, float], Awaitable[list[Pushed]]]


class PendingPush:
    """A push whose caller waits."""

    __slots__ = ("answers", "by_itself", "future", "is_first", "jobs", "repeated", "since")

    def __init__(self, jobs: Sequence[NewJob], repeated: bool) -> None:
        self.jobs = jobs
        self.repeated = repeated
        self.future: asyncio.Future[list[Pushed]] = asyncio.get_running_loop().create_future()
        self.by_itself = False  # its next try must not share a round trip
        self.is_first = False  # our own first try added the jobs that its next try finds
        self.answers: Sequence[Pushed | None] = ()  # known from calls that failed halfway; None: not answered yet
        self.since = time.monotonic()

    def goes_with(self, other: "PendingPush") -> bool:
        """Whether the two may share a round trip. A repeated push sends, and leaves, more than a first one."""
        return self.repeated == other.repeated and not (self.by_itself or other.by_itself)

    def succeed(self, answers: list[Pushed]) -> None:
        if not self.future.done():
            self.future.set_result(found_again(answers) if self.is_first else answers)

    def add(self, answers: Sequence[Pushed | None]) -> bool:
        """Add the answers of a call that failed halfway; once all are known, answer the caller and return True."""
        self.answers = [new or old for new, old in zip(answers, self.answers or answers, strict=True)]
        if None in self.answers:
            return False
        self.succeed([each for each in self.answers if each])
        return True

    def fail(self, error: Exception) -> None:
        """Fail with a copy of the error, so that each caller's has its own traceback and cause."""
        if not self.future.done():
            own = type(error)(*error.args) if isinstance(error, DriverError) else error
            if any(self.answers) and isinstance(own, DriverError) and not isinstance(own, Unavailable):
                own = PushedInPart(own, self.answers)
            self.future.set_exception(own)


Batch = Sequence[PendingPush]
"""Pushes that share a round trip, the longest waiting first."""


class Coalescer:
    """The pushes of one event loop.

    `send` pushes jobs in one round trip. It gets the jobs, `repeated` of `Driver.push`, and its deadline.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: deque[PendingPush] = deque()  # the longest waiting first
        self._under_way = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def push(self, jobs: Sequence[NewJob], *, repeated: bool) -> list[Pushed]:
        if not self._under_way:
            self._under_way += 1
            try:
                return await self._send(jobs, repeated, time.monotonic() + LONGEST_TRY)
            except Unavailable as error:
                self._give_up(error)
                raise
            finally:
                self._under_way -= 1
                if self._waiting:
                    self._start_sending()
        push = PendingPush(jobs, repeated)
        self._waiting.append(push)
        self._start_sending()
        return await push.future

    def _start_sending(self) -> None:
        """Send the waiting pushes, if they are worth a round trip now.

        A task does it, not one of the callers: if that caller were cancelled, the others would lose their answers.
        """
        while self._waiting and self._waiting[0].future.done():  # its caller has left
            self._waiting.popleft()
        is_worth_it = not self._under_way or (self._under_way < _MOST and len(self._waiting) >= _WORTH)
        if self._waiting and is_worth_it:
            self._under_way += 1
            task = asyncio.create_task(self._send_waiting())
            self._tasks.add(task)
            task.add_done_callback(self._carried)

    def _carried(self, task: asyncio.Task[None]) -> None:
        # Not in the task itself: if cancelled before its first step, it would never count down.
        self._tasks.discard(task)
        self._under_way -= 1
        self._start_sending()

    async def _send_waiting(self) -> None:
        while batch := self._take():
            await self._send_batch(batch)
            if self._under_way == _MOST and len(self._waiting) < _WORTH:
                break

    async def _send_batch(self, batch: Batch) -> None:
        # The first has waited longest. Pushes that wait for the end of this came later, so they are in time too.
        until = batch[0].since + LONGEST_TRY
        try:
            answers = await self._send([job for push in batch for job in push.jobs], batch[0].repeated, until)
            for push, its in zip(batch, _parts(batch, answers), strict=True):
                push.succeed(its)
        except Exception as error:
            self._failed(batch, error)
        except BaseException:  # most likely the event loop ends
            cancelled = Unavailable("the round trip of this push was cancelled")
            for push in batch:
                push.fail(cancelled)
            self._give_up(cancelled)
            raise

    def _take(self) -> list[PendingPush]:
        """Remove and return the pushes of the next round trip; none if no caller waits."""
        batch: list[PendingPush] = []
        jobs = size = 0
        # Half of many: so the second half travels while the callers of the first get their answers.
        most = max(_WORTH, len(self._waiting) // 2)
        while self._waiting and size < _BYTES and len(batch) < most:
            push = self._waiting[0]
            if jobs + len(push.jobs) > MOST_JOBS or (batch and not batch[0].goes_with(push)):
                break
            self._waiting.popleft()
            if time.monotonic() - push.since > _PATIENCE:
                push.fail(Unavailable("the server answers too slowly for all these pushes"))
            elif not push.future.done():
                batch.append(push)
                jobs += len(push.jobs)
                size += sum(map(weight_of, push.jobs))
        return batch

    def _failed(self, batch: Batch, error: Exception) -> None:
        """Fail the pushes of a batch; if only one of them may be the cause, send each again by itself."""
        if isinstance(error, PushedInPart):
            parts = _parts(batch, list(error.answers))
            batch = [push for push, its in zip(batch, parts, strict=True) if not push.add(its)]
            error = error.cause
        if isinstance(error, _OF_ALL):
            for push in batch:
                push.fail(error)
            if isinstance(error, Unavailable):
                self._give_up(error)
        elif len(batch) == 1:
            batch[0].fail(error)
        else:
            for push in reversed(batch):  # repeated: some of their jobs may be there already
                push.by_itself, push.is_first, push.repeated = True, not push.repeated, True
                self._waiting.appendleft(push)

    def _give_up(self, error: Exception) -> None:
        """Fail all waiting pushes: if the server is unavailable, each would fail in turn."""
        while self._waiting:
            self._waiting.popleft().fail(error)


def _parts(batch: Batch, answers: list[T]) -> Iterator[list[T]]:
    at = 0
    for push in batch:
        yield answers[at : at + len(push.jobs)]
        at += len(push.jobs)
