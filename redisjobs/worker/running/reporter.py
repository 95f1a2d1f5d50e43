"""Decides when the progress of jobs is published: for all jobs of a source together."""

import math
import time
from collections import deque
from collections.abc import Callable

from redisjobs.base.eventloop import Wakeup
from redisjobs.worker.running.execution import Execution

_BETWEEN = 0.25  # seconds between two reports of one job, at least
_LATEST = 0.5  # seconds until a report has an exchange of its own, where there is no other


class Reporter:
    """Keeps the jobs of a source that have progress to publish.

    It has no timer. Each exchange with the store takes what is there; at the time `late_at` the source makes an
    exchange for this alone. `wakeup` wakes it when that has become earlier.
    """

    def __init__(self, call_soon: Callable[[Callable[[], object]], None], wakeup: Wakeup) -> None:
        self._call_soon = call_soon
        self._wakeup = wakeup
        self._heard = deque[tuple[Execution, float]]()  # by any thread
        self._since = dict[Execution, float]()  # in the order of these times

    def note(self, run: Execution) -> None:
        """Keep a job that has progress to publish. For any thread."""
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
        """When progress has to be published at the latest, by the monotonic clock; inf: there is none."""
        return next(iter(self._since.values()), math.inf) + _LATEST

    def take(self, now: float, most: int) -> list[Execution]:
        """Return up to `most` jobs whose progress is to be published now: each 4 times a second, oldest first."""
        self._gather()
        taken: list[Execution] = []
        for run in list(self._since):
            reported = run.reported
            if reported is None or run.over:
                del self._since[run]
            elif now >= reported.published_at + _BETWEEN and len(taken) < most:
                del self._since[run]
                # In this order: a report from now on is news again.
                reported.is_noted, reported.published_at = False, now
                taken.append(run)
        return taken

    def forget(self, run: Execution) -> None:
        """Publish nothing more of a job: it is over."""
        self._since.pop(run, None)
