"""Pushes that go together: what an event loop, or threads, push while a push is under way goes with the next.

No timer: a push that finds the way free goes at once, by itself. One that does not waits for the end of what is
under way, so it may take a round trip longer than alone; in return a crowd needs few, and each caller still gets
its own answer, or its own error.
"""

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable, Sequence

from redisjobs.drivers.redis.crowd import WORTH, Batch, Crowd, WaitingPush, answer, jobs_of
from redisjobs.errors import Unavailable
from redisjobs.forks import begin_after_fork
from redisjobs.transitions import LONGEST_TRY, NewJob, Pushed

_MOST = 2  # round trips at once

Send = Callable[[Sequence[NewJob], bool, float], Awaitable[list[Pushed]]]
SendSync = Callable[[Sequence[NewJob], bool, float], list[Pushed]]


class Coalescer:
    """The pushes of one event loop.

    Args:
        send: Pushes jobs in one round trip; the second argument is the driver's `repeated`, the third says until
            when, by the monotonic clock.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._crowd = Crowd()
        self._under_way = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def push(self, jobs: Sequence[NewJob], *, repeated: bool) -> list[Pushed]:
        """Push jobs; see `Driver.push`."""
        if not self._under_way:
            self._under_way += 1
            try:
                return await self._send(jobs, repeated, time.monotonic() + LONGEST_TRY)
            except Unavailable as error:
                self._crowd.give_up(error)
                raise
            finally:
                self._under_way -= 1
                if self._crowd:
                    self._set_out()
        future: asyncio.Future[list[Pushed]] = asyncio.get_running_loop().create_future()
        self._crowd.add(WaitingPush(jobs, repeated, future, math.inf))
        self._set_out()
        return await future

    def _set_out(self) -> None:
        """Carry what waits, if that is worth a round trip now.

        In a task, not by one of the callers: should he leave, the others' round trip would break off with him.
        """
        self._crowd.drop_left()
        if self._crowd and self._has_room:
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
        return not self._under_way or (self._under_way < _MOST and len(self._crowd) >= WORTH)

    async def _carry(self) -> None:
        while batch := self._crowd.take():
            await self._carry_batch(batch)
            if self._under_way == _MOST and len(self._crowd) < WORTH:
                break

    async def _carry_batch(self, batch: Batch) -> None:
        # The first has waited longest; those that wait for the end of this came after it, so they are in time too.
        until = batch[0].since + LONGEST_TRY
        try:
            answer(batch, await self._send(jobs_of(batch), batch[0].repeated, until))
        except Exception as error:
            self._crowd.failed(batch, error)
        except BaseException:  # the event loop ends, most likely
            self._crowd.broken_off(batch)
            raise


class SyncCoalescer:
    """The pushes of a process' threads. One of those that wait carries what waits: there is no thread for that.

    Args:
        send: As of `Coalescer`.
    """

    def __init__(self, send: SendSync) -> None:
        self._send = send
        self.begin()
        begin_after_fork(self)

    def begin(self) -> None:
        """Begin with nobody, as a forked process does: those who wait are its parent's."""
        self._lock = threading.Lock()  # of the crowd, and of who carries
        self._crowd = Crowd()
        self._carrier: int | None = None  # the thread that has a push under way
        self._inside: set[int] = set()  # threads that push

    def push(self, jobs: Sequence[NewJob], *, repeated: bool, until: float) -> list[Pushed]:
        """Push jobs; see `SyncDriver.push`."""
        thread = threading.get_ident()
        if thread in self._inside:  # a signal's handler, which must not wait for what it has interrupted
            return self._send(jobs, repeated, until)
        self._inside.add(thread)
        waiting: WaitingPush | None = None
        try:
            with self._lock:
                if self._carrier is None:
                    self._carrier = thread
                else:
                    waiting = WaitingPush(jobs, repeated, _Turn(thread), until)
                    self._crowd.add(waiting)
            if waiting is not None:
                return self._wait(_turn_of(waiting), until)
            return self._send(jobs, repeated, until)
        except Unavailable as error:
            with self._lock:
                if waiting is None and self._carrier == thread:
                    self._crowd.give_up(error)
            raise
        finally:  # also where KeyboardInterrupt came, or what another handler raised: nobody may wait for ever
            self._leave(thread, waiting)
            self._inside.discard(thread)

    def _wait(self, turn: "_Turn", until: float) -> list[Pushed]:
        while turn.wait(until):
            if turn.batch is None:
                return turn.result()
            self._carry(turn)  # by that it has its own answer, or is to go once more, by itself
        raise Unavailable("no answer in time")

    def _carry(self, turn: "_Turn") -> None:
        assert turn.batch is not None
        batch = turn.batch
        try:
            answer(batch, self._send(jobs_of(batch), batch[0].repeated, min(push.until for push in batch)))
        except Exception as error:
            with self._lock:
                self._crowd.failed(batch, error)
        except BaseException:
            with self._lock:
                self._crowd.broken_off(batch)
            raise
        with self._lock:
            turn.batch = None
            self._hand_to(self._crowd.take())

    def _leave(self, thread: int, waiting: WaitingPush | None) -> None:
        """Wait no longer, and carry nothing: what is still to be carried another thread carries."""
        with self._lock:
            others: Batch = ()
            if waiting is not None:
                turn = _turn_of(waiting)
                if not turn.done():
                    self._crowd.remove(waiting)
                turn.leave()
                others = [other for other in turn.batch or () if not other.answer.done()]
            if self._carrier == thread:
                self._hand_to(others or (self._crowd.take() if self._crowd else ()))

    def _hand_to(self, batch: Batch) -> None:
        """Let one of those who wait carry these; or leave the way free."""
        self._carrier = None
        if batch:
            turn = _turn_of(batch[0])
            self._carrier = turn.thread
            turn.carry(batch)


def _turn_of(push: WaitingPush) -> "_Turn":
    assert isinstance(push.answer, _Turn)
    return push.answer


class _Turn:
    """What a thread waits for: the answer to its push, or that it is to carry a batch; see `Answer`.

    Attributes:
        thread: Which one.
        batch: What it is to carry.
    """

    __slots__ = ("_answers", "_error", "_gate", "_has_left", "batch", "thread")

    def __init__(self, thread: int) -> None:
        self.thread = thread
        self.batch: Batch | None = None
        self._answers: list[Pushed] | None = None
        self._error: Exception | None = None
        self._has_left = False
        self._gate = threading.Lock()  # by far the cheapest thing to wait for
        self._gate.acquire()

    def wait(self, until: float) -> bool:
        """Whether either has come by then, by the monotonic clock."""
        return self._gate.acquire(timeout=-1 if until == math.inf else max(0.0, until - time.monotonic()))

    def carry(self, batch: Batch) -> None:
        """Let the thread carry these, its own push among them."""
        self.batch = batch
        self._gate.release()

    def leave(self) -> None:
        """Wait no longer."""
        self._has_left = True

    def done(self) -> bool:
        return self._has_left or self._answers is not None or self._error is not None

    def set_result(self, answers: list[Pushed], /) -> None:
        self._answers = answers
        self._gate.release()

    def set_exception(self, error: Exception, /) -> None:
        self._error = error
        self._gate.release()

    def result(self) -> list[Pushed]:
        """The answer.

        Raises:
            DriverError: The push failed.
        """
        if self._error is not None:
            raise self._error
        assert self._answers is not None
        return self._answers
