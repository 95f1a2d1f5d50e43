"""Which jobs have said how far they are, and when that is to be published: for all jobs of a source at once."""

import math
import time
from collections import deque
from collections.abc import Callable

from redisjobs.base.eventloop import Wakeup
from redisjobs.worker.running.execution import Execution

_BETWEEN = 0.25  # seconds between two that are published of one job, at least
_LATEST = 0.5  # seconds until one is published though nothing else is said to the store
_MOST = 500  # at once


class Reporter:
    """Keeps the jobs of a source that have news of how far they are, until somebody takes these.

    There is no timer of its own: whoever talks to the store takes what is there with each exchange, and at the
    time that `late_at` says makes one for that alone.

    Args:
        call_soon: Executions a function soon in the event loop.
        wakeup: Wakes who talks to the store, when `late_at` has become earlier.
    """

    def __init__(self, call_soon: Callable[[Callable[[], object]], None], wakeup: Wakeup) -> None:
        self._call_soon = call_soon
        self._wakeup = wakeup
        self._heard = deque[tuple[Execution, float]]()  # by any thread
        self._since = dict[Execution, float]()  # in the order of these times

    def note(self, run: Execution) -> None:
        """Keep a job that has news; at once again where it could not be published. For any thread."""
        self._heard.append((run, time.monotonic()))
        self._call_soon(self._look)

    def _look(self) -> None:
        before = self.late_at
        self._gather()
        if self.late_at < before:
            self._wakeup.wake()

    def _gather(self) -> None:
        while self._heard:
            run, now = self._heard.popleft()
            if not run.over:
                self._since.setdefault(run, now)

    @property
    def late_at(self) -> float:
        """When something is to be published at the latest, by the monotonic clock; inf: there is nothing."""
        return next(iter(self._since.values()), math.inf) + _LATEST

    def take(self, now: float, most: int = _MOST) -> list[Execution]:
        """The jobs whose report is to be published now, at most 4 times a second each; who waits longest first.

        Args:
            now: By the monotonic clock.
            most: How many at most.
        """
        self._gather()
        taken: list[Execution] = []
        for run in list(self._since):
            reported = run.reported
            if reported is None or run.over:
                del self._since[run]
            elif now >= reported.published_at + _BETWEEN and len(taken) < most:
                del self._since[run]
                # In this order: what is said from now on is news again.
                reported.is_noted, reported.published_at = False, now
                taken.append(run)
        return taken

    def forget(self, run: Execution) -> None:
        """Publish nothing of a job: it is over."""
        self._since.pop(run, None)
