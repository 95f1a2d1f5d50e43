"""How long one run may take: until its timeout, and for as long as it reports progress."""

import math
import threading
import time
from collections.abc import Callable

import anyio

from redisjobs.errors import JobStalled, JobTimeout, RedisJobsError

_OFTEN = 0.25  # seconds between moves of the deadline, at most; by so much a stalled run may be noticed late


class Limit:
    """The limit of one run, from now. What it says of itself moves it; any thread may bring that.

    Args:
        timeout: Seconds that it may take; None: any number.
        stalled_after: Seconds that it may go on without reporting progress; None: any number.
        call_soon: Runs a function soon in the event loop, which is the one of the current thread.

    Attributes:
        scope: Is cancelled at the limit; for the current task, around the run.
    """

    __slots__ = (
        "_begun_at",
        "_call_soon",
        "_ends_at",
        "_given",
        "_has_stalled",
        "_moves_at",
        "_offset",
        "_stalled_after",
        "_stalls_at",
        "_thread",
        "_timeout",
        "scope",
    )

    def __init__(
        self,
        timeout: float | None,
        stalled_after: float | None,
        call_soon: Callable[[Callable[[], object]], None],
    ) -> None:
        self._timeout = timeout
        self._stalled_after = stalled_after
        self._call_soon = call_soon
        self._thread = threading.get_ident()
        now = self._begun_at = time.monotonic()
        self._offset = anyio.current_time() - now
        self._ends_at = math.inf if timeout is None else now + timeout
        self._stalls_at = math.inf if stalled_after is None else now + stalled_after
        self._moves_at = -math.inf
        self._given = timeout
        self._has_stalled = self._stalls_at < self._ends_at
        self.scope = anyio.CancelScope(deadline=min(self._ends_at, self._stalls_at) + self._offset)

    def extend(self, seconds: float) -> None:
        """Let the timeout be over so many seconds from now, if not later anyway; without one nothing changes."""
        ends_at = time.monotonic() + seconds
        if self._timeout is not None and ends_at > self._ends_at:
            self._ends_at = ends_at
            self._move_soon()

    def progressed(self, now: float) -> None:
        """Take in that it reported progress, at a time of the monotonic clock."""
        if self._stalled_after is None:
            return
        often = min(_OFTEN, self._stalled_after)
        # Not early: for reports that come before the next move there is none.
        self._stalls_at = now + self._stalled_after + often
        if now >= self._moves_at:
            self._moves_at = now + often
            self._move_soon()

    def _move_soon(self) -> None:
        if threading.get_ident() == self._thread:
            self._move()
        else:
            self._call_soon(self._move)

    def _move(self) -> None:
        if self.scope.cancel_called:
            return  # what it was cancelled for stays so
        if self._timeout is not None:
            self._given = self._ends_at - self._begun_at
        self._has_stalled = self._stalls_at < self._ends_at
        self.scope.deadline = min(self._ends_at, self._stalls_at) + self._offset

    @property
    def error(self) -> RedisJobsError:
        """What a run is told to have failed by that was cancelled at the limit."""
        if self._has_stalled:
            return JobStalled(f"the handler reported no progress for {self._stalled_after:g} s")
        if self._given == self._timeout:
            return JobTimeout(f"the handler was still running after its timeout of {self._timeout:g} s")
        return JobTimeout(
            f"the handler was still running after {round(self._given or 0, 3):g} s, to which it had extended its "
            f"timeout of {self._timeout:g} s"
        )
