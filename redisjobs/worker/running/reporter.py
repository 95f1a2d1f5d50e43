"""Decides when the progress of jobs is published, for all jobs of a source together."""

import math
import time
from collections import deque
from collections.abc import Callable

from redisjobs.base.eventloop import Wakeup
from redisjobs.worker.running.execution import Execution

_BETWEEN = 0.25  # seconds between two reports of one job, at least
_LATEST = 0.5  # seconds after which a report gets its own exchange, if there is no other


class Reporter:
    """Keeps the jobs of a source that have progress to publish.

    It has no timer. Each exchange takes the reports that wait. At `late_at` the source makes an exchange for them
    alone, and `wakeup` wakes the source when that time becomes earlier.
    """

    def __init__(self, call_soon: Callable[[Callable[[], object]], None], wakeup: Wakeup) -> None:
        self._call_soon = call_soon
        self._wakeup = wakeup
        self._reported = deque[tuple[Execution, float]]()  # by any thread
        self._since = dict[Execution, float]()  # since when each job has progress to publish, in that order

    def note(self, run: Execution) -> None:
        """Keep a job that has progress to publish. Any thread may call it."""
        self._reported.append((run, time.monotonic()))
        self._call_soon(self._look)

    def _look(self) -> None:
        before = self.late_at
        self._gather()
        if self.late_at < before:
            self._wakeup.wake()

    def _gather(self) -> None:
        while self._reported:
            run, now = self._reported.popleft()
            if not run.over:
                self._since.setdefault(run, now)

    @property
    def late_at(self) -> float:
        """When progress has to be published at the latest, by the monotonic clock; infinity if there is none."""
        return next(iter(self._since.values()), math.inf) + _LATEST

    def take(self, now: float, most: int) -> list[Execution]:
        """Return up to `most` jobs to publish the progress of, oldest first, and each at most 4 times a second."""
        self._gather()
        taken: list[Execution] = []
        for run in list(self._since):
            reported = run.reported
            if reported is None or run.over:
                del self._since[run]
            elif now >= reported.published_at + _BETWEEN and len(taken) < most:
                del self._since[run]
                # In this order, so that a report from now on is published too.
                reported.is_noted, reported.published_at = False, now
                taken.append(run)
        return taken

    def forget(self, run: Execution) -> None:
        """Publish no more progress of a job, because it is over."""
        self._since.pop(run, None)
