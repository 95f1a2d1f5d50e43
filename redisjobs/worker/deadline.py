"""How long one run may take: until its timeout, and for as long as it reports progress."""

import math
import time

import anyio

from redisjobs.errors import JobStalled, JobTimeout, RedisJobsError
from redisjobs.eventloop import Loop

_OFTEN = 0.25  # seconds between moves of the deadline, at most; by so much a stalled run may be noticed late


class Deadline:
    """When a run has to have ended, counted from now. What it says of itself moves that, in any thread.

    Args:
        timeout: Seconds that it may take; None: any number. One of the two is given.
        stalled_after: Seconds that it may go on without reporting progress; None: any number.
        loop: The event loop that it runs in.

    Attributes:
        scope: Is cancelled at the deadline; for the current task, around the run.
    """

    # By the monotonic clock. Of the class, as few runs say anything: one is made for each.
    _extended_to: float = -math.inf
    _reported_at: float = -math.inf
    _moves_at: float = -math.inf  # when a report may move the deadline again
    _is_moving: bool = False  # or is soon
    _given: float | None = None  # seconds, of a timeout that was extended

    def __init__(self, timeout: float | None, stalled_after: float | None, loop: Loop) -> None:
        self._timeout = timeout
        self._stalled_after = stalled_after
        self._loop = loop
        self._begun_at = loop.time()
        self._has_stalled = stalled_after is not None and (timeout is None or stalled_after < timeout)
        first = stalled_after if self._has_stalled else timeout
        self.scope = anyio.CancelScope(deadline=self._begun_at + (first or 0))

    def extend(self, seconds: float) -> None:
        """Let the timeout be over so many seconds from now, if not later anyway; without one nothing changes."""
        extended_to = time.monotonic() + seconds
        if self._timeout is not None and extended_to > self._extended_to:
            self._extended_to = extended_to
            self._move_soon()

    def progressed(self, now: float) -> None:
        """Take in that it reported progress, at a time of the monotonic clock."""
        if self._stalled_after is None:
            return
        self._reported_at = now
        if now >= self._moves_at:
            self._moves_at = now + self._often
            self._move_soon()

    @property
    def _often(self) -> float:
        return min(_OFTEN, self._stalled_after or 0)

    def _move_soon(self) -> None:
        if not self._is_moving:
            self._is_moving = True
            self._loop.run(self._move)

    def _move(self) -> None:
        self._is_moving = False  # first: what is said from now on moves it again
        if self.scope.cancel_called:
            return  # what it was cancelled for stays so
        offset = self._loop.time() - time.monotonic()
        ends_at, stalls_at = self._ends_at(offset), self._stalls_at(offset)
        self._has_stalled = stalls_at < ends_at
        self.scope.deadline = min(ends_at, stalls_at)

    def _ends_at(self, offset: float) -> float:
        """When the timeout is over, by the loop's clock, which is that much ahead of the monotonic one."""
        if self._timeout is None:
            return math.inf
        first, extended_to = self._begun_at + self._timeout, self._extended_to + offset
        if extended_to > first:
            self._given = extended_to - self._begun_at
        return max(first, extended_to)

    def _stalls_at(self, offset: float) -> float:
        if self._stalled_after is None:
            return math.inf
        # Not early: reports that come before the next move don't move it.
        reported = self._reported_at + offset + self._often
        return max(self._begun_at, reported) + self._stalled_after

    @property
    def error(self) -> RedisJobsError:
        """What a run has failed by that was cancelled at the deadline."""
        if self._has_stalled:
            return JobStalled(f"the handler reported no progress for {self._stalled_after:g} s")
        if self._given is None:
            return JobTimeout(f"the handler was still running after its timeout of {self._timeout:g} s")
        return JobTimeout(
            f"the handler was still running after {round(self._given, 3):g} s, to which it had extended its "
            f"timeout of {self._timeout:g} s"
        )
