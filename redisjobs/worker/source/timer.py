"""When a source looks again: its one timer, and when delayed jobs are due."""

import math
import random
import time

import anyio

from redisjobs.base.eventloop import Wakeup
from redisjobs.model.transitions import Exchange
from redisjobs.worker.source.clock import Clock

_STAND_INS = 8  # about how many workers look in case the one that should is gone, however many there are
_BUSY = 0.1  # seconds between promotions by a worker that has no room for the jobs


class Timer(Wakeup):
    """Wakes a source's task: at once, or at the time until which the task means to rest.

    The parts of a source keep the times at which they look again: when a job is due, when other workers may be
    lost. Before it rests, the source's task sets the earliest of these. A part that moves its time forward wakes
    it.
    """

    __slots__ = ("_at", "_earlier", "_sleeps_until")

    def __init__(self) -> None:
        super().__init__()
        self._at = self._sleeps_until = math.inf  # by the monotonic clock
        self._earlier = anyio.Event()

    def wake_at(self, at: float) -> None:
        """Wake the source at that time of the monotonic clock, and no more at the time that was set before."""
        self._at = at
        # A later time does not disturb the sleep. To begin a new one costs more than to wake up once for nothing.
        if at < self._sleeps_until:
            self._earlier.set()

    async def run(self) -> None:
        """Sleep until it is time, again and again, until cancelled."""
        while True:
            self._earlier, self._sleeps_until = anyio.Event(), self._at
            with anyio.move_on_after(self._at - time.monotonic()):
                await self._earlier.wait()
            if time.monotonic() >= self._at:
                self._at = math.inf
                self.wake()


class Promoter:
    """Knows when the next delayed job is due, from claims and notifications.

    A blocking read ends on the server's 100 ms timer, which is too coarse for a job that is due at a time.

    One worker of a queue looks then. Others leave it to that one, unless a job is late. For the next job of a line
    it is the worker that looked last, and a few others look a second later, in case it has died. A worker that
    runs until idle looks too, whichever worker does.
    """

    def __init__(self, clock: Clock, timer: Timer, *, until_idle: bool) -> None:
        self.due_at = math.inf  # when the next delayed job is due, by the monotonic clock; infinity: there is none
        self.has_lines = False  # jobs wait for a limit, and it is known when the next may start
        self.is_asked = False  # an answer said that the next job of a line may start
        self._until_idle = until_idle
        self._looks = True  # until it hears that another worker does
        self._lot, self._stands_in = random.random(), True
        self._clock = clock
        self._timer = timer
        self._promoted_at = -math.inf  # when the last exchange promoted
        self._told_at = -math.inf  # when the last claim was sent whose answer spoke of delayed jobs
        self._notified = math.inf  # the earliest due time of notifications since the last claim
        self._notified_at = -math.inf  # when the last of these came

    @property
    def is_due(self) -> bool:
        """Whether a job may be due that no exchange has promoted yet."""
        return self.is_asked or self.due_at <= time.monotonic()

    def expects(self, within: float) -> bool:
        """Return whether a delayed job is due `within` seconds, as far as is known."""
        return self.is_asked or self.due_at - time.monotonic() <= within

    def may_promote(self, *, has_room: bool) -> bool:
        """Return whether an exchange may promote what is due.

        A worker without room leaves that to others, and only promotes now and then. Else many busy workers would
        keep the server from all others, with none to run what they promote. Due jobs must count as ready all the
        same: an autoscaler starts workers by that count.
        """
        return self.is_asked or self.has_lines or has_room or time.monotonic() >= self._promoted_at + _BUSY

    @property
    def look_at(self) -> float:
        """When to look whether to promote, by the monotonic clock: a job is due, or has been for a while."""
        return self._promoted_at + _BUSY if self.is_due else self.due_at

    def promoting(self) -> None:
        """Note that an exchange sets out that promotes."""
        self.is_asked = False
        self._promoted_at = now = time.monotonic()
        if self.due_at <= now:  # else it stays set, in case this exchange fails
            self.due_at = math.inf

    def learn(self, answer: Exchange, sent_at: float) -> None:
        """Take in what the answer to a claim says of the next delayed job and of the next job of a line."""
        self.has_lines = answer.lines
        if sent_at < self._told_at:
            return  # a later claim was answered first, and knew more
        self._told_at = sent_at
        if sent_at > self._notified_at:
            self._notified = math.inf
        # Else a notification may have come before this answer; if it did not, we look once too often.
        now = time.monotonic()
        if self.due_at <= now:
            return  # it is due until an exchange sets out that promotes
        late_in = answer.late_in if self._stands_in else None
        waits = (answer.due_in,) if self._looks else (answer.turn_in, late_in)
        self.due_at = min(self._notified, *(now + wait for wait in waits if wait is not None), math.inf)

    def note_due(self, due_ms: int) -> None:
        """Take in a notification that a job is due at that time of the server's clock."""
        if not self._looks:
            return
        self._notified_at = now = time.monotonic()
        due_at = now + self._clock.seconds_until(due_ms, now)
        self._notified = min(self._notified, due_at)
        self._set_due(due_at)

    def note_others(self, workers: int, *, promotes: bool, late: bool) -> None:
        """Take in how many workers there are, whether this one is to look, and whether a job is late.

        A worker that is to look from now on looks at once: until now it has ignored notifications.
        """
        self._stands_in = self._lot * workers < _STAND_INS
        looked, self._looks = self._looks, promotes or self._until_idle
        if late or (self._looks and not looked):
            self._set_due(time.monotonic())

    def _set_due(self, at: float) -> None:
        if at < self.due_at:
            self.due_at = at
            self._timer.wake()
