"""Pushes that go together: what an event loop pushes while a push is under way goes with the next.

No timer: a push that finds the way free goes at once, by itself. One that does not waits for the end of what is
under way, so it may take a round trip longer than alone; in return a crowd needs few, and each caller still gets
its own answer, or its own error.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from redisjobs.drivers.redis.pending_pushes import WORTH, Batch, PendingPush, PendingPushes, answer, jobs_of
from redisjobs.errors import Unavailable
from redisjobs.model.times import LONGEST_TRY
from redisjobs.model.transitions import NewJob, Pushed

_MOST = 2  # round trips at once

Send = Callable[[Sequence[NewJob], bool, float], Awaitable[list[Pushed]]]


class Coalescer:
    """The pushes of one event loop.

    Args:
        send: Pushes jobs in one round trip; the second argument is the driver's `repeated`, the third says until
            when, by the monotonic clock.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._crowd = PendingPushes()
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
        self._crowd.add(PendingPush(jobs, repeated, future))
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
