"""Limits how long runs take, by their timeout and by the time since their last progress."""

import math
import time
from collections.abc import Callable, Iterable

import anyio

from redisjobs.base.eventloop import Wakeup
from redisjobs.errors import JobStalled, JobTimeout, RedisJobsError


class Deadline:
    """The time by which a run has to have ended. The handler can move it, from any thread.

    All times are by the monotonic clock, minus what a blocked event loop has cost the run until then.

    Args:
        timeout: Seconds that the run may take, from now; None: no limit.
        stalled_after: Seconds that it may run without reporting progress; None: no limit. One of the two is given.
    """

    # Attributes of the class, because one deadline is made for each run and few runs set these.
    _extended_to: float = -math.inf
    _reported_at: float = -math.inf

    def __init__(self, timeout: float | None, stalled_after: float | None) -> None:
        self._timeout = timeout
        self._stalled_after = stalled_after
        self._begun_at = time.monotonic()

    def extend(self, seconds: float, now: float) -> None:
        """Let the timeout end this many seconds from now, unless it ends later. Without a timeout, do nothing."""
        self._extended_to = max(self._extended_to, now + seconds)

    def progressed(self, now: float) -> None:
        """Note that the run reported progress."""
        self._reported_at = now

    @property
    def at(self) -> float:
        """When the time is over, as far as is known now. It can only become later."""
        return self._ends_at if self._stalled_after is None else min(self._ends_at, self._stalls_at)

    @property
    def _ends_at(self) -> float:
        if self._timeout is None:
            return math.inf
        return max(self._begun_at + self._timeout, self._extended_to)

    @property
    def _stalls_at(self) -> float:
        if self._stalled_after is None:
            return math.inf
        return max(self._begun_at, self._reported_at) + self._stalled_after

    @property
    def error(self) -> RedisJobsError:
        """The error for a run that was still running then."""
        if self._stalls_at < self._ends_at:
            return JobStalled(f"the handler reported no progress for {self._stalled_after:g} s")
        if self._ends_at == self._begun_at + (self._timeout or 0):
            return JobTimeout(f"the handler was still running after its timeout of {self._timeout:g} s")
        return JobTimeout(
            f"the handler was still running after {round(self._ends_at - self._begun_at, 3):g} s, to which it had "
            f"extended its timeout of {self._timeout:g} s"
        )


Over = Callable[[float], float]
"""Called with the current time once a run's time is over: it ends the run, or returns when to look again."""


class Deadlines:
    """Ends the runs whose time is over, with one timer for all: a timer for each costs a third of a short job.

    `deadlines` returns those of the jobs that run now. A deadline does not hold what ends its run: that would be a
    reference cycle for each job.
    """

    def __init__(self, deadlines: Callable[[], Iterable[tuple[Deadline, Over]]]) -> None:
        self._deadlines = deadlines
        self._look_at = math.inf  # by the monotonic clock; no deadline is earlier
        self._wakeup = Wakeup()

    def add(self, deadline: Deadline) -> None:
        """Note the deadline of a run that begins."""
        if (at := deadline.at) < self._look_at:
            self._look_at = at
            self._wakeup.wake()

    async def run(self) -> None:
        """Wait for the next deadline, again and again, until cancelled."""
        while True:
            self._wakeup.begin()
            self._look()
            with anyio.move_on_after(max(0.0, self._look_at - time.monotonic())):
                await self._wakeup.wait()

    def _look(self) -> None:
        now, ended = time.monotonic(), list[Over]()
        self._look_at = math.inf
        for deadline, over in self._deadlines():
            if deadline.at <= now:
                ended.append(over)
            else:
                self._look_at = min(self._look_at, deadline.at)
        for over in ended:
            self._look_at = min(self._look_at, over(now))
