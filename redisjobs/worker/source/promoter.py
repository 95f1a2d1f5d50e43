"""A timer for delayed jobs: a blocking read ends on the server's 100 ms timer, too coarse for what has a time."""

import random
import time

import anyio

from redisjobs.base.eventloop import Wakeup
from redisjobs.model.transitions import Exchange
from redisjobs.worker.source.clock import Clock

_STAND_INS = 8  # about how many look in case the worker that is to look is gone, however many there are


class Promoter:
    """Knows when the next delayed job is due, by what claims and notifications tell.

    One worker of a queue looks then. Others leave it to that one, unless a job is late. For the next of a waiting
    line that is the worker that has looked last, and a few others look a second later, in case it has died.

    Args:
        clock: The server's.
        wakeup: Wakes whoever promotes, when one may be due.
        until_idle: Whether the worker ends when nothing is left: then it looks, whoever else does.

    Attributes:
        is_due: A delayed job may be due: somebody has to promote it.
    """

    def __init__(self, clock: Clock, wakeup: Wakeup, *, until_idle: bool = False) -> None:
        self.is_due = False
        self._until_idle = until_idle
        self._looks = True  # until told that others do
        self._lot, self._stands_in = random.random(), True
        self._clock = clock
        self._wakeup = wakeup
        self._told_at = float("-inf")  # when the last claim was sent that told of delayed jobs
        self._due_at: float | None = None  # when the next delayed job is, by our monotonic clock
        self._due_changed = anyio.Event()
        self._notified: float | None = None  # the earliest due time of notifications, and no claim since
        self._notified_at = float("-inf")  # when the last of these was heard

    def learn(self, answer: Exchange, sent_at: float) -> None:
        """Take in what a claim told of the next delayed job, and of the next that waits for a limit.

        Args:
            answer: To the claim.
            sent_at: When it was sent, by our monotonic clock.
        """
        if sent_at < self._told_at:
            return  # overtaken by a later one, which knew more
        self._told_at = sent_at
        if sent_at > self._notified_at:
            self._notified = None
        # Else a notification may have overtaken this answer; one that was in it already costs a look too many.
        late_in = answer.late_in if self._stands_in else None
        waits = (answer.due_in,) if self._looks else (answer.turn_in, late_in)
        now = time.monotonic()
        told = [
            at for at in (self._notified, *(now + wait for wait in waits if wait is not None)) if at is not None
        ]
        self._set_due(min(told, default=None))

    def hear(self, due_ms: int) -> None:
        """Take in a notification that a job is due at that time of the server's clock."""
        if not self._looks:
            return
        self._notified_at = time.monotonic()
        due_at = self._notified_at + self._clock.seconds_until(due_ms, self._notified_at)
        if self._notified is None or due_at < self._notified:
            self._notified = due_at
        if self._due_at is None or due_at < self._due_at:
            self._set_due(due_at)

    def hear_of_others(self, workers: int, *, promotes: bool, late: bool) -> None:
        """Take in how many workers there are, whether this one looks when jobs are due, and whether one is late.

        Whoever is to look from now on looks at once: it has left unheard what was told meanwhile.
        """
        self._stands_in = self._lot * workers < _STAND_INS
        looked, self._looks = self._looks, promotes or self._until_idle
        if late or (self._looks and not looked):
            self._set_due(time.monotonic())

    def expects(self, within: float) -> bool:
        """Whether a delayed job is due within so many seconds, as well as we know it."""
        return self._due_at is not None and self._due_at - time.monotonic() <= within

    async def run(self) -> None:
        """Say when a job may be due, until cancelled."""
        while True:
            self._due_changed = anyio.Event()
            wait = float("inf") if self._due_at is None else self._due_at - time.monotonic()
            with anyio.move_on_after(max(0.0, wait)) as until_due:
                await self._due_changed.wait()
            if until_due.cancelled_caught:
                self._due_at = None
                self.is_due = True
                self._wakeup.wake()

    def _set_due(self, due_at: float | None) -> None:
        self._due_at = due_at
        self._due_changed.set()
