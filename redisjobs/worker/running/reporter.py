"""Decides when what jobs report and emit is sent, for all jobs of a source together."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator

from redisjobs.base.eventloop import Wakeup
from redisjobs.worker.running.execution import Execution
from redisjobs.worker.running.outbox import ChunkOutbox, Part, Room

_BETWEEN = 0.25  # seconds between two reports of one job, at least


class News:
    """Keeps the jobs of a source that have something to send, in order.

    It has no timer. Each exchange takes what waits. At `late_at` the source makes an exchange for that alone, and
    `wakeup` wakes the source when that time becomes earlier.
    """

    latest: float  # seconds after which news get their own exchange, if there is no other

    def __init__(self, call_soon: Callable[[Callable[[], object]], None], wakeup: Wakeup) -> None:
        self._call_soon = call_soon
        self._wakeup = wakeup
        self._noted = deque[tuple[Execution, float]]()  # by any thread
        self._since = dict[Execution, float]()  # since when each job has something to send, in that order

    def note(self, run: Execution) -> None:
        """Keep a job that has something to send. Any thread may call it."""
        self._noted.append((run, time.monotonic()))
        self._call_soon(self._look)

    def _look(self) -> None:
        before = self.late_at
        self._gather()
        if self.late_at < before:
            self._wakeup.wake()

    def _gather(self) -> None:
        while self._noted:
            self._keep(*self._noted.popleft())

    def _keep(self, run: Execution, now: float) -> None:
        if not run.over:
            self._since.setdefault(run, now)

    @property
    def late_at(self) -> float:
        """When something has to be sent at the latest, by the monotonic clock; infinity if nothing has."""
        return next(iter(self._since.values()), math.inf) + self.latest

    def forget(self, run: Execution) -> None:
        """Send no more of a job, because it is over."""
        self._since.pop(run, None)


class Reporter(News):
    """Keeps the jobs of a source that have progress to publish."""

    latest = 0.5

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


class Emitter(News):
    """Keeps the jobs of a source that have chunks to send, or steps behind chunks."""

    latest = 0.1  # a reader may look on as the text grows

    def __init__(self, call_soon: Callable[[Callable[[], object]], None], wakeup: Wakeup) -> None:
        super().__init__(call_soon, wakeup)
        self._urgent = dict[Execution, None]()

    def _keep(self, run: Execution, now: float) -> None:
        outbox = run.outbox
        if outbox is None or outbox.under_way or not outbox.has_some:
            return  # if it is under way, the answer calls this again
        if outbox.is_urgent:
            self._urgent[run] = None
        self._since.setdefault(run, outbox.since)

    @property
    def late_at(self) -> float:
        """When something has to be sent at the latest; see `News`."""
        return -math.inf if self._urgent else super().late_at

    @property
    def urgent(self) -> int:
        """How many jobs have something that has to be sent now."""
        return len(self._urgent)

    def write(self, run: Execution, step: Part) -> bool:
        """Save a step behind the chunks that the job has emitted before; return False if there are none."""
        outbox = run.outbox
        if outbox is None or outbox.is_empty:
            return False
        outbox.write(step)
        self._list(run, outbox)
        return True

    def flush(self, run: Execution, then: Callable[[], object]) -> bool:
        """Send all of a run that is over, and then call `then`; return False if there is nothing to send."""
        outbox = run.outbox
        if outbox is None:
            return False
        outbox.close()
        if outbox.is_empty:
            return False
        outbox.then = then
        self._list(run, outbox)
        return True

    def _list(self, run: Execution, outbox: ChunkOutbox) -> None:
        self._keep(run, outbox.since)
        self._wakeup.wake()

    def take(self, most: int) -> Iterator[tuple[Execution, Part]]:
        """Yield what goes in the next exchange: up to `most` parts, of the jobs that wait longest."""
        self._gather()
        room = Room()
        for run in [*self._urgent, *self._since]:
            outbox = run.outbox
            if most <= 0 or not room.is_left or outbox is None:
                return
            if run not in self._since:  # taken as an urgent one
                continue
            self.forget(run)
            if run.over and outbox.then is None:  # it was given up
                continue
            parts = outbox.take(most, room)
            most -= len(parts)
            for part in parts:
                yield run, part

    def answered(self, run: Execution) -> None:
        """Go on with a job, because one of its parts was answered."""
        outbox = run.outbox
        if outbox is None:
            return
        outbox.under_way -= 1
        if outbox.is_empty and outbox.then is not None:
            then, outbox.then = outbox.then, None
            then()
        else:
            self._list(run, outbox)

    def clear(self) -> None:
        """Send nothing more, because the jobs are no longer ours."""
        self._since.clear()
        self._urgent.clear()

    def forget(self, run: Execution) -> None:
        """Send no more of a job; see `News`."""
        super().forget(run)
        self._urgent.pop(run, None)
