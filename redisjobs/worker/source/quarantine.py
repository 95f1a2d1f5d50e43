"""When a worker stops claiming, so that a job that has to run alone can start. Pure: it is told the time."""

import random

_OTHERS = 9  # for so many times as long as a job took that ran alone, others have their turn


class Quarantine:
    """Says when a worker is to take no new jobs.

    A job that is delivered for the last time runs on a worker that runs nothing else. Mostly one is idle anyway.
    Where all are busy, and such a job has been waiting for about a lease, a worker takes no new jobs for two
    leases, to have nothing to run at their end. If that was not enough it works on for one lease, and tries for
    twice as long. After one that it ran it works on for nine times as long as that took, the last time without
    new jobs before it too: so however many wait, they take a tenth of a worker's time, unless it has nothing else
    to run.

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
        self._began = self._until = float("-inf")  # of the last time without new jobs
        self._taken = self._others_until = float("-inf")
        self._others_wait = False

    def hear(self, waits: float | None, now: float, *, more: bool) -> None:
        """Take in what a claim told.

        Args:
            waits: For how many seconds a job has been waiting that has to run alone; None: there is none.
            now: By the monotonic clock.
            more: Whether the claim left jobs behind.
        """
        self.one_waits, self._others_wait = waits is not None, more
        if waits is None:
            self._until, self._length = float("-inf"), 2 * self._lease
        elif waits >= self._patience and now >= max(self._until + self._lease, self._others_until):
            self._began, self._until, self._length = now, now + self._length, 2 * self._length

    def started(self, now: float) -> None:
        """Take in that one runs alone from now on."""
        self._taken = self._began if self.is_on(now) else now

    def finished(self, now: float) -> None:
        """Take in that it runs no more. There may be others of its kind."""
        self.one_waits = True
        self._others_until = now + _OTHERS * (now - self._taken)
        self._until, self._length = float("-inf"), 2 * self._lease

    def wants(self, now: float) -> bool:
        """Whether the worker is to take such a job, and no others have their turn."""
        return self.one_waits and not (self._others_wait and now < self._others_until)

    def is_near(self, now: float) -> bool:
        """Whether the worker may run nothing before long: by one exchange at a time it finds that it does."""
        return self.wants(now) and (self.is_on(now) or not self._others_wait)

    def is_on(self, now: float) -> bool:
        """Whether the worker is to take no new jobs while it runs any."""
        return now < self._until
