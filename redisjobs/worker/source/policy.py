"""Decides what a worker claims next: from which queue, how many jobs ahead of free slots, and when none. Pure."""

import random
from collections.abc import Sequence

from redisjobs.worker.running.handler_run import PATIENCE

_TRIPS = 3  # round trips for which jobs are claimed ahead; with 1.5, slots were still idle
_EVERY = 0.05  # seconds between two measurements, at least
_SMOOTH = 0.5  # seconds over which the rate is smoothed: jobs that end together need not be short
_OTHERS = 9  # other jobs have their turn for this many times as long as an isolated job took


class Allocator:
    """Gives sources their turns: by weight, or strictly in order.

    By weight, turns are spread evenly: weights 2 and 1 give a, b, a, and not a, a, b (nginx's smooth weighted
    round robin). A turn is for one job: a claim that brings several jobs takes that many turns. In strict order
    the first source that wants jobs has every turn.
    """

    def __init__(self, weights: Sequence[float], *, strict: bool = False) -> None:
        self._weights = weights
        self.is_strict = strict
        self._credit = [0.0] * len(weights)

    def next(self, wanting: Sequence[bool]) -> int | None:
        """Return whose turn it is among the sources that want jobs; None if none does."""
        waiting = [source for source, wants in enumerate(wanting) if wants]
        if self.is_strict or len(waiting) < 2:
            return min(waiting, default=None)
        return max(waiting, key=lambda source: (self._credit[source] + self._weights[source], -source))

    def claimed(self, source: int, wanting: Sequence[bool], turns: int = 1) -> None:
        """Note that a source took one turn or several, while the sources in `wanting` wanted jobs."""
        total = 0.0
        for each, wants in enumerate(wanting):
            if wants:
                self._credit[each] += turns * self._weights[each]
                total += turns * self._weights[each]
        self._credit[source] -= total

    def emptied(self, source: int) -> None:
        """Note that a source has no more jobs, so it saves no turns for later."""
        saved, debts = self._credit[source], -sum(credit for credit in self._credit if credit < 0)
        if saved > 0:
            left = max(0.0, 1 - saved / debts)  # share of the others' debts that stays: credits add up to 0
            self._credit = [credit * left if credit < 0 else credit for credit in self._credit]
            self._credit[source] = 0.0


class Prefetch:
    """How many jobs to claim before a slot is free: as many as end in three round trips, at the recent rate.

    Without them, a slot is idle from the end of its job until the next one arrives. With jobs of 10 ms that is a
    tenth of its time, or more. With jobs of some seconds it is next to nothing, and none is claimed ahead.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._took = 0.0  # seconds of a round trip, smoothed
        self.forget()

    def forget(self) -> None:
        """Claim none ahead until the rate is known again: jobs take longer than they did."""
        self._rate = 0.0  # jobs that end per second
        self._known_for = 0.0  # seconds over which the rate was measured, up to _SMOOTH
        self._ended = 0
        self._looked_at: float | None = None
        self.jobs = 0  # to claim ahead

    def answered(self, ended: int, sent_at: float, now: float) -> None:
        """Update the rate when a claim is answered. `ended` counts the jobs that have ended since the start."""
        took = now - sent_at
        self._took += (took - self._took) / 8 if self._took else took
        if self._looked_at is None:
            self._looked_at, self._ended = now, ended
        elif (since := now - self._looked_at) >= _EVERY:
            self._known_for = min(_SMOOTH, self._known_for + since)
            self._rate += ((ended - self._ended) / since - self._rate) * min(1.0, since / self._known_for)
            self._looked_at, self._ended = now, ended
        self.jobs = int(min(self._most, self._rate * min(self._took * _TRIPS, PATIENCE / 2)))


class Quarantine:
    """Decides when a worker takes no new jobs, so that a job that must run isolated can start.

    A job that is delivered for the last time runs isolated: on a worker that runs no other job. Usually some
    worker is idle. If all are busy, and such a job has waited for about a lease, a worker takes no new jobs for
    two leases, so that its running jobs can end. If that was not enough, it works on for one lease, and then tries
    for twice as long. After an isolated job it works on for nine times as long as that job took, including the
    time without new jobs before it. So isolated jobs use at most a tenth of a worker's time, unless it has nothing
    else to run.
    """

    def __init__(self, lease: float) -> None:
        self.one_waits = True  # perhaps, as far as claims and notifications show
        self._lease = lease
        self._patience = lease * random.uniform(0.5, 1.5)  # random: not all workers at once
        self._length = 2 * lease
        self._began = self._until = float("-inf")  # the last time without new jobs
        self._taken = self._others_until = float("-inf")
        self._others_wait = False

    def record(self, waits: float | None, now: float, *, more: bool) -> None:
        """Record the seconds that an isolated job has waited; None: none waits. `more`: jobs were left behind."""
        self.one_waits, self._others_wait = waits is not None, more
        if waits is None:
            self._until, self._length = float("-inf"), 2 * self._lease
        elif waits >= self._patience and now >= max(self._until + self._lease, self._others_until):
            self._began, self._until, self._length = now, now + self._length, 2 * self._length

    def started(self, now: float) -> None:
        """Note that a job runs isolated from now on."""
        self._taken = self._began if self.is_on(now) else now

    def finished(self, now: float) -> None:
        """Note that the isolated job has ended. Others may wait."""
        self.one_waits = True
        self._others_until = now + _OTHERS * (now - self._taken)
        self._until, self._length = float("-inf"), 2 * self._lease

    def wants(self, now: float) -> bool:
        """Return whether the worker may take an isolated job, because it is not the turn of other jobs."""
        return self.one_waits and not (self._others_wait and now < self._others_until)

    def is_near(self, now: float) -> bool:
        """Return whether the worker may soon run no job. It notices that only with one exchange at a time."""
        return self.wants(now) and (self.is_on(now) or not self._others_wait)

    def is_on(self, now: float) -> bool:
        """Return whether the worker takes no new jobs as long as it runs one."""
        return now < self._until
