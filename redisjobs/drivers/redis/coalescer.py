"""Pushes that go together: what one event loop pushes while a push is under way goes with the next.

No timer: a push that finds the way free goes at once, by itself. One that does not waits for the end of what is
under way, so it may take a round trip longer than alone; in return a crowd needs few, and each caller still gets
its own answer, or its own error.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from redisjobs.errors import DriverError, QueueFull, Unavailable
from redisjobs.transitions import LONGEST_TRY, MOST_JOBS, NewJob, Pushed, found_again, weight_of

_MOST = 2  # round trips at once
_WORTH = 32  # callers waiting that are worth a second one
_BYTES = 1 << 20  # of one round trip, at most; but for a single push
_PATIENCE = LONGEST_TRY / 2  # seconds after which a push is not sent any more: it would be answered too late

Send = Callable[[Sequence[NewJob], bool, float], Awaitable[list[Pushed]]]


class Coalescer:
    """The pushes of one event loop.

    Args:
        send: Pushes jobs in one round trip; the second argument is the driver's `repeated`, the third says until
            when, by the monotonic clock.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: deque[_Push] = deque()
        self._under_way = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def push(self, jobs: Sequence[NewJob], *, repeated: bool) -> list[Pushed]:
        """Push jobs; see `Driver.push`."""
        if not self._under_way:
            return await self._push_alone(jobs, repeated)
        push = _Push(jobs, repeated)
        self._waiting.append(push)
        self._set_out()
        return await push.answer

    async def _push_alone(self, jobs: Sequence[NewJob], repeated: bool) -> list[Pushed]:
        self._under_way += 1
        try:
            return await self._send(jobs, repeated, time.monotonic() + LONGEST_TRY)
        except Unavailable as error:
            self._give_up(error)
            raise
        finally:
            self._under_way -= 1
            self._set_out()

    def _set_out(self) -> None:
        """Carry what waits, if that is worth a round trip now.

        In a task, not by one of the callers: should he leave, the others' round trip would break off with him.
        """
        while self._waiting and self._waiting[0].answer.done():  # its caller has left
            self._waiting.popleft()
        if self._waiting and self._has_room:
            self._under_way += 1
            task = asyncio.create_task(self._carry())
            self._tasks.add(task)
            task.add_done_callback(self._carried)

    def _carried(self, task: asyncio.Task[None]) -> None:
        # Not in the task itself: cancelled before its first step, it would leave the way taken for ever.
        self._tasks.discard(task)
        self._under_way -= 1
        self._set_out()

    @property
    def _has_room(self) -> bool:
        return not self._under_way or (self._under_way < _MOST and len(self._waiting) >= _WORTH)

    async def _carry(self) -> None:
        while batch := self._take():
            await self._carry_batch(batch)
            if self._under_way == _MOST and len(self._waiting) < _WORTH:
                break

    async def _carry_batch(self, batch: "Sequence[_Push]") -> None:
        jobs = [job for push in batch for job in push.jobs]
        # The first has waited longest; those that wait for the end of this came after it, so they are in time too.
        until = batch[0].since + LONGEST_TRY
        try:
            answers = await self._send(jobs, batch[0].repeated, until)
        except (Unavailable, QueueFull) as error:
            for push in batch:
                push.fail(error)
            if isinstance(error, Unavailable):
                self._give_up(error)
        except Exception as error:  # of one of them, and the others have nothing to do with it
            if len(batch) == 1:
                batch[0].fail(error)
                return
            for push in reversed(batch):  # which one shows when each goes by itself; part may be there already
                push.by_itself, push.is_first, push.repeated = True, not push.repeated, True
                self._waiting.appendleft(push)
        except BaseException:  # the event loop ends, most likely
            broken_off = Unavailable("the push that this one went with was broken off")
            for push in batch:
                push.fail(broken_off)
            self._give_up(broken_off)
            raise
        else:
            at = 0
            for push in batch:
                push.succeed(answers[at : at + len(push.jobs)])
                at += len(push.jobs)

    def _give_up(self, error: Unavailable) -> None:
        """Let all fail that wait: before a store that is unavailable it would be one after the other."""
        while self._waiting:
            self._waiting.popleft().fail(error)

    def _take(self) -> "list[_Push]":
        batch: list[_Push] = []
        jobs = size = 0
        # Half of a crowd: the other half is on its way while the answers to the first are taken in.
        most = max(_WORTH, len(self._waiting) // 2)
        while (
            self._waiting
            and size < _BYTES
            and len(batch) < most
            and jobs + len(self._waiting[0].jobs) <= MOST_JOBS
        ):
            if batch and not batch[0].goes_with(self._waiting[0]):
                break
            push = self._waiting.popleft()
            if push.has_waited > _PATIENCE:
                push.fail(Unavailable("it answers too slowly for all that is pushed"))
            elif not push.answer.done():
                batch.append(push)
                jobs, size = jobs + len(push.jobs), size + push.size
        return batch


class _Push:
    """One caller's.

    Attributes:
        answer: What he waits for.
        by_itself: Whether it must not go with others again.
        is_first: Whether what it then finds of its own was added by its first try here.
        since: When it came, by the monotonic clock.
    """

    __slots__ = ("answer", "by_itself", "is_first", "jobs", "repeated", "since")

    def __init__(self, jobs: Sequence[NewJob], repeated: bool) -> None:
        self.jobs = jobs
        self.repeated = repeated
        self.by_itself = self.is_first = False
        self.answer: asyncio.Future[list[Pushed]] = asyncio.get_running_loop().create_future()
        self.since = time.monotonic()

    @property
    def has_waited(self) -> float:
        """Seconds since it came."""
        return time.monotonic() - self.since

    def goes_with(self, other: "_Push") -> bool:
        """Whether the two may share a round trip: of a repetition more is asked, and more remembered."""
        return self.repeated == other.repeated and not (self.by_itself or other.by_itself)

    @property
    def size(self) -> int:
        """Bytes, about; see `weight_of`."""
        return sum(map(weight_of, self.jobs))

    def succeed(self, answers: list[Pushed]) -> None:
        if not self.answer.done():
            self.answer.set_result(found_again(answers) if self.is_first else answers)

    def fail(self, error: Exception) -> None:
        """Fail with an error of its own: each caller's gets a traceback and a cause of its own."""
        if not self.answer.done():
            own = type(error)(*error.args) if isinstance(error, DriverError) else error
            self.answer.set_exception(own)
