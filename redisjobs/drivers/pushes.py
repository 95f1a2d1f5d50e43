"""Pushes that go together: what one event loop pushes while a push is under way goes with the next.

No timer, no delay: a push that finds the way free goes at once. Under load one round trip carries many, and each
caller still gets its own answer, or its own error.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from redisjobs.driver import NewJob, Pushed
from redisjobs.errors import DriverError, QueueFull, Unavailable

_MOST = 2  # round trips at once
_WORTH = 32  # callers waiting that are worth a second one
_JOBS, _BYTES = 500, 1 << 20  # of one round trip, at most

Send = Callable[[Sequence[NewJob], bool], Awaitable[list[Pushed]]]


class Pushes:
    """The pushes of one event loop.

    Args:
        send: Pushes jobs in one round trip; the second argument is the driver's `again`.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: deque[_Push] = deque()
        self._under_way = 0

    async def push(self, jobs: Sequence[NewJob], *, again: bool) -> list[Pushed]:
        """Push jobs; see `Driver.push`."""
        push = _Push(jobs, again)
        busy = self._under_way
        if busy == _MOST or (busy and len(self._waiting) < _WORTH):
            await self._wait(push)
            if push.answers is not None:
                return push.answers
            if push.error is not None:
                return await self._alone(push)
        else:
            self._under_way += 1
        return await self._lead(push)

    async def _wait(self, push: "_Push") -> None:
        """Until the push is answered, or its turn to lead has come."""
        push.turn = asyncio.get_running_loop().create_future()
        self._waiting.append(push)
        try:
            await push.turn
        except asyncio.CancelledError:
            if push in self._waiting:
                self._waiting.remove(push)
            elif push.leads:
                self._arrived()
            raise

    async def _alone(self, push: "_Push") -> list[Pushed]:
        """What to do when those it went with failed."""
        assert push.error is not None
        if isinstance(push.error, Unavailable | QueueFull):
            raise push.error
        # One of them is at fault; which one shows when each goes by itself. Part of it may be there already.
        return await self._send(push.jobs, True)

    async def _lead(self, push: "_Push") -> list[Pushed]:
        """Push, together with those that wait."""
        batch = self._take(push)
        jobs = [job for one in batch for job in one.jobs]
        again = any(one.again for one in batch)
        try:
            answers = await self._send(jobs, again)
        except DriverError as error:
            for one in batch[1:]:
                one.fail(type(error)(*error.args))
            if isinstance(error, Unavailable):
                # Those that wait for their turn as well: in a queue before a store that is away they would wait
                # for longer than their deadlines.
                while self._waiting:
                    self._waiting.popleft().fail(type(error)(*error.args))
            if len(batch) > 1:
                push.error = error
                return await self._alone(push)
            raise
        except BaseException:
            for one in batch[1:]:
                one.fail(Unavailable("the push that this one went with was broken off"))
            raise
        else:
            at = 0
            for one in batch:
                one.answer(answers[at : at + len(one.jobs)])
                at += len(one.jobs)
        finally:
            self._arrived()
        assert push.answers is not None
        return push.answers

    def _take(self, push: "_Push") -> "list[_Push]":
        batch, jobs, size = [push], len(push.jobs), push.size
        while self._waiting and jobs < _JOBS and size < _BYTES:
            if jobs + len(self._waiting[0].jobs) > _JOBS:
                break
            one = self._waiting.popleft()
            batch.append(one)
            jobs, size = jobs + len(one.jobs), size + one.size
        return batch

    def _arrived(self) -> None:
        """Let the next one lead."""
        if self._waiting:
            self._waiting.popleft().lead()
        else:
            self._under_way -= 1


class _Push:
    """One caller's."""

    __slots__ = ("again", "answers", "error", "jobs", "leads", "turn")

    def __init__(self, jobs: Sequence[NewJob], again: bool) -> None:
        self.jobs = jobs
        self.again = again
        self.turn: asyncio.Future[None] | None = None
        self.leads = False
        self.answers: list[Pushed] | None = None
        self.error: DriverError | None = None

    @property
    def size(self) -> int:
        """Bytes, about."""
        return sum(len(field) for job in self.jobs for field in job.fields)

    def lead(self) -> None:
        self.leads = True
        self._go()

    def answer(self, answers: list[Pushed]) -> None:
        self.answers = answers
        self._go()

    def fail(self, error: DriverError) -> None:
        self.error = error
        self._go()

    def _go(self) -> None:
        if self.turn is not None and not self.turn.done():
            self.turn.set_result(None)
