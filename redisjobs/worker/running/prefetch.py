"""How many jobs a worker claims before a slot is free for them. Pure: it is told the time."""

_TRIPS = 3  # round trips for which there are to be jobs: 1.5 leave slots idle yet
_EVERY = 0.05  # seconds between looks, at least
_SMOOTH = 0.5  # seconds over which the rate is smoothed, so that jobs that end together are no sign of short ones

PATIENCE = 0.1
"""Seconds that a job may wait for a slot: then it is handed back, as those that run take longer than they did."""


class Prefetch:
    """As many jobs as end in three round trips, by how many ended a second lately.

    A slot would stand idle from the end of its job until the next one has come. With jobs of 10 ms that is a
    tenth of its time, or more; with jobs of some seconds it is nothing, and none is claimed ahead.

    Args:
        most: The most there may be.

    Attributes:
        jobs: How many there are to be.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._took = 0.0  # seconds of a round trip
        self.forget()

    def forget(self) -> None:
        """Claim none ahead until it is known anew how long jobs take: longer than they did."""
        self._rate = 0.0  # jobs that end a second
        self._known_for = 0.0  # seconds over which the rate is known, up to _SMOOTH
        self._ended = 0
        self._looked_at: float | None = None
        self.jobs = 0

    def answered(self, ended: int, sent_at: float, now: float) -> None:
        """Take in that a claim was answered.

        Args:
            ended: How many jobs have ended since the start.
            sent_at: When it was sent, by the monotonic clock.
            now: What time it is, by the same.
        """
        took = now - sent_at
        self._took += (took - self._took) / 8 if self._took else took
        if self._looked_at is None:
            self._looked_at, self._ended = now, ended
        elif (since := now - self._looked_at) >= _EVERY:
            self._known_for = min(_SMOOTH, self._known_for + since)
            self._rate += ((ended - self._ended) / since - self._rate) * min(1.0, since / self._known_for)
            self._looked_at, self._ended = now, ended
        self.jobs = int(min(self._most, self._rate * min(self._took * _TRIPS, PATIENCE / 2)))
