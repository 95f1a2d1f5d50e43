"""When a worker stops claiming, so that a job that has to run alone can start. Pure: it is told the time."""

import random


class Clearance:
    """Says when a worker is to take no new jobs.

    A job that is delivered for the last time runs on a worker that runs nothing else. Mostly one is idle anyway.
    Where all are busy, and such a job has been waiting for about a lease, a worker takes no new jobs for two
    leases, to have nothing to run at their end. If that was not enough it works on for one lease, and tries for
    twice as long.

    Args:
        lease: Seconds.

    Attributes:
        one_waits: Whether such a job may be there, as far as claims and notifications tell.
    """

    def __init__(self, lease: float) -> None:
        self.one_waits = True
        self._lease = lease
        self._patience = lease * random.uniform(0.5, 1.5)  # not all workers at once
        self._length = 2 * lease
        self._until = float("-inf")

    def hear(self, waits: float | None, now: float) -> None:
        """Take in what a claim told.

        Args:
            waits: For how many seconds a job has been waiting that has to run alone; None: there is none.
            now: By the monotonic clock.
        """
        self.one_waits = waits is not None
        if waits is None:
            self._until, self._length = float("-inf"), 2 * self._lease
        elif waits >= self._patience and now >= self._until + self._lease:
            self._until, self._length = now + self._length, 2 * self._length

    def is_on(self, now: float) -> bool:
        """Whether the worker is to take no new jobs while it runs any."""
        return now < self._until
