"""When a source looks for work again: its one timer, and the times at which delayed jobs are due."""

import math
import random
import time

import anyio

from redisjobs.base.eventloop import Wakeup
from redisjobs.model.transitions import Exchange
from redisjobs.worker.source.clock import LeaseClock

_STAND_INS = 8  # about how many workers look too, in case the one that promotes is gone; the same for any fleet
_BUSY = 0.1  # seconds between promotions by a worker that has no room for the jobs


class Timer(Wakeup):
    """Wakes a source's task, at once or at a set time.

    The parts of a source keep the times at which they look again: when a job is due, when other workers may be
    lost. Before the source's task rests, it sets the earliest of these. A part whose time becomes earlier wakes
    the task.
    """

    __slots__ = ("_at", "_earlier", "_sleeps_until")

    def __init__(self) -> None:
        super().__init__()
        self._at = self._sleeps_until = math.inf  # by the monotonic clock
        self._earlier = anyio.Event()

    def wake_at(self, at: float) -> None:
        """Wake the source at that time of the monotonic clock. This replaces the time that was set before."""
        self._at = at
        # A later time does not disturb the sleep. Starting a new one costs more than waking up once for nothing.
        if at < self._sleeps_until:
            self._earlier.set()

    async def run(self) -> None:
        """Sleep until the set time, again and again, until cancelled."""
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

    One worker of a queue looks for due jobs. Others leave that to it, unless a job is late. For the next job of a
    line, the worker that looked last does it; a few others look a second later, in case it has died. A worker that
    runs until idle always looks.
    """

    def __init__(self, clock: LeaseClock, timer: Timer, *, until_idle: bool) -> None:
        self.due_at = math.inf  # when the next delayed job is due, by the monotonic clock; infinity: there is none
        self.has_lines = False  # jobs wait for a limit, and Redis knows when the next may start
        self.is_asked = False  # an answer showed that the next job of a line may start
        self._until_idle = until_idle
        self._looks = True  # until it learns that another worker does
        self._lot, self._stands_in = random.random(), True
        self._clock = clock
        self._timer = timer
        self._promoted_at = -math.inf  # when the last exchange that promotes was sent
        self._learned_at = -math.inf  # when the claim was sent whose answer last showed the delayed jobs
        self._notified = math.inf  # the earliest due time in notifications since the last claim
        self._notified_at = -math.inf  # when the last such notification came

    @property
    def is_due(self) -> bool:
        """Whether a job may be due that no exchange has promoted yet."""
        return self.is_asked or self.due_at <= time.monotonic()

    def expects(self, within: float) -> bool:
        """Return whether a delayed job is due within `within` seconds, as far as is known."""
        return self.is_asked or self.due_at - time.monotonic() <= within

    def may_promote(self, *, has_room: bool) -> bool:
        """Return whether an exchange may promote what is due.

        A worker without room leaves that to others, and promotes only now and then. Otherwise many busy workers
        would keep the server from all others, and none could run what they promote. But due jobs must become ready
        all the same: an autoscaler starts workers by that count.
        """
        return self.is_asked or self.has_lines or has_room or time.monotonic() >= self._promoted_at + _BUSY

    @property
    def look_at(self) -> float:
        """When to check whether to promote, by the monotonic clock: a job is due, or has been for a while."""
        return self._promoted_at + _BUSY if self.is_due else self.due_at

    def promoting(self) -> None:
        """Note that an exchange that promotes is about to be sent."""
        self.is_asked = False
        self._promoted_at = now = time.monotonic()
        if self.due_at <= now:  # else it stays set, in case this exchange fails
            self.due_at = math.inf

    def learn(self, answer: Exchange, sent_at: float) -> None:
        """Learn from an answer when the next delayed job, and the next job of a line, may start."""
        self.has_lines = answer.lines
        if sent_at < self._learned_at:
            return  # a later claim was answered first, and knew more
        self._learned_at = sent_at
        if sent_at > self._notified_at:
            self._notified = math.inf
        # Else a notification may be newer than this answer; if it is not, we look once more than needed.
        now = time.monotonic()
        if self.due_at <= now:
            return  # it stays due until an exchange that promotes is sent
        late_in = answer.late_in if self._stands_in else None
        waits = (answer.due_in,) if self._looks else (answer.turn_in, late_in)
        self.due_at = min(self._notified, *(now + wait for wait in waits if wait is not None), math.inf)

    def note_due(self, due_ms: int) -> None:
        """Note from a notification that a job is due at that time of the server's clock."""
        if not self._looks:
            return
        self._notified_at = now = time.monotonic()
        due_at = now + self._clock.seconds_until(due_ms, now)
        self._notified = min(self._notified, due_at)
        self._set_due(due_at)

    def note_others(self, workers: int, *, promotes: bool, late: bool) -> None:
        """Note how many workers are alive, whether this one has to look for due jobs, and whether a job is late.

        A worker that begins to look does so at once, because it has ignored notifications until now.
        """
        # Silent workers don't count: none would stand in, if the fleet looked larger than it is.
        self._stands_in = self._lot * workers < _STAND_INS
        looked, self._looks = self._looks, promotes or self._until_idle
        if late or (self._looks and not looked):
            self._set_due(time.monotonic())

    def _set_due(self, at: float) -> None:
        if at < self.due_at:
            self.due_at = at
            self._timer.wake()
