"""Statistics of a queue as an operator sees them, made from what `recording.py` has."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

from redisjobs.base.arguments import seconds
from redisjobs.model.codec import when
from redisjobs.model.recording import (
    BOUNDS,
    BUCKETS,
    KEPT_MINUTES,
    OUTCOMES,
    IntervalFound,
    IntervalsFound,
    Sums,
    added,
)


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Three percentiles in seconds, interpolated within the buckets of a histogram.

    Attributes:
        p50: Half of the values are not above this one.
        p95: 95 % are not above this one.
        p99: 99 % are not above this one.
    """

    p50: float
    p95: float
    p99: float


def percentiles(sums: Sums, kind: str) -> Percentiles | None:
    """Return the percentiles of a histogram, `run` or `wait`; None if it is empty."""
    buckets = [sums.get(f"{kind}{name}", 0) for name in BUCKETS]
    if not any(buckets):
        return None
    return Percentiles(*(_percentile(buckets, share) for share in (0.5, 0.95, 0.99)))


def _percentile(buckets: Sequence[int], share: float) -> float:
    rank, below = share * sum(buckets), 0
    for number, many in enumerate(buckets[:-1]):
        if many and below + many >= rank:
            low: float = BOUNDS[number - 1] if number else 0
            return round((low + (BOUNDS[number] - low) * (rank - below) / many) / 1000, 6)
        below += many
    return BOUNDS[-1] / 1000


@dataclass(frozen=True)
class Tally:
    """What happened to jobs within a time: counts by outcome, and how long they ran and waited.

    Attributes:
        seconds: The length of that time.
        sums: The counts as they are stored, by outcome and by bucket.
    """

    seconds: float
    sums: Sums

    @property
    def completed(self) -> int:
        """How many jobs were done."""
        return self.sums.get("completed", 0)

    @property
    def retried(self) -> int:
        """How many runs failed and are tried again."""
        return self.sums.get("retried", 0)

    @property
    def snoozed(self) -> int:
        """How many runs ended with `Snooze`."""
        return self.sums.get("snoozed", 0)

    @property
    def suspended(self) -> int:
        """How many runs ended because their handler waits."""
        return self.sums.get("suspended", 0)

    @property
    def dead(self) -> int:
        """How many jobs became dead letters."""
        return self.sums.get("dead", 0)

    @property
    def released(self) -> int:
        """How many jobs were handed back without an outcome."""
        return self.sums.get("released", 0)

    @property
    def cancelled(self) -> int:
        """How many jobs a worker ended because they were cancelled."""
        return self.sums.get("cancelled", 0)

    @property
    def throughput(self) -> float:
        """How many jobs were done per second."""
        return self.completed / self.seconds

    @property
    def run(self) -> Percentiles | None:
        """How long runs took; None if no job ran."""
        return percentiles(self.sums, "run")

    @property
    def wait(self) -> Percentiles | None:
        """How long jobs were ready before they ran, without a deliberate delay; None if no job ran."""
        return percentiles(self.sums, "wait")


def total(tallies: Sequence[Tally]) -> Tally:
    """Return the sum of several tallies."""
    return Tally(sum(each.seconds for each in tallies), added(each.sums for each in tallies))


def rate_of(tally: Tally) -> float:
    """Return how many runs ended a second, and freed a slot each."""
    outcomes = ("completed", "retried", "snoozed", "suspended", "dead", "cancelled")
    return sum(tally.sums.get(outcome, 0) for outcome in outcomes) / tally.seconds


@dataclass(frozen=True, slots=True)
class QueueSample:
    """The state of a queue at one moment of an interval, mostly its beginning.

    Attributes:
        ready: How many jobs were ready.
        running: How many jobs ran.
        delayed: How many jobs were delayed.
        dead: How many dead letters there were.
        oldest: For how many seconds the oldest ready job had been ready; 0 without one.
        pushed: How many jobs had been pushed since the queue began.
        workers: How many workers there were.
        suspended: How many jobs waited in the middle of their handler.
    """

    ready: int = 0
    running: int = 0
    delayed: int = 0
    dead: int = 0
    oldest: float = 0.0
    pushed: int = 0
    workers: int = 0
    suspended: int = 0


@dataclass(frozen=True)
class Interval(Tally):
    """The statistics of one minute, or of ten.

    A job counts in the interval in which its worker reported it, up to about 10 seconds after its end.

    Attributes:
        seconds: Its length; for the current interval, how many seconds of it have passed.
        sums: The counts as they are stored, by outcome and by bucket.
        start: When it begins, by the server's clock.
        is_closed: Whether it has ended. Then it does not change any more.
        sample: The state of the queue in it; None if no worker was there, and for a time before redisjobs had
            statistics.
    """

    start: datetime
    is_closed: bool
    sample: QueueSample | None = None


@dataclass(frozen=True)
class NameStatistics(Tally):
    """The statistics of one job name over the intervals of an `Overview`.

    Attributes:
        seconds: The length of all intervals together.
        sums: The counts as they are stored, by outcome and by bucket.
        name: The name. `unknown`: their worker had no handler. `other`: all names beyond 200 in an interval.
        series: How many jobs were done in each interval.
        dead_series: How many became dead letters in each interval.
    """

    name: str
    series: Sequence[int]
    dead_series: Sequence[int]


@dataclass(frozen=True, slots=True)
class CauseStatistics:
    """How many jobs died of one cause over the intervals of an `Overview`.

    Attributes:
        cause: The fingerprint of the failure, or the reason if there is none: see `DeadGroup`. `other` for causes
            beyond 50 in an interval.
        count: How many in all.
        series: How many in each interval.
    """

    cause: str
    count: int
    series: Sequence[int]


def intervals_of(last: float | timedelta) -> tuple[int, int]:
    """Return how many minutes an interval has, and how many intervals there are, for the last seconds.

    Raises:
        ValueError: These are no seconds, or more than 3 days.
    """
    minutes = math.ceil(seconds(last, "last") / 60)
    for length, kept in KEPT_MINUTES.items():
        if 0 < minutes <= kept:
            return length, -(-minutes // length)
    raise ValueError(f"last={last!r}: give more than 0 seconds, and at most 3 days")


class Span:
    """A row of intervals up to now, all of one length.

    Args:
        minutes: The length of an interval: 1 or 10.
        count: How many there are, with the current one.
        steps: What the steps of the query found, with the server's time.
        found: What was found before, by number.
    """

    def __init__(
        self,
        minutes: int,
        count: int,
        steps: Iterable[IntervalsFound],
        found: Mapping[int, IntervalFound] | None = None,
    ) -> None:
        self.found = dict(found or {})
        for step in steps:
            self._now_ms = step.now_ms
            self.found |= {each.number: each for each in step.intervals}
        self.minutes, self._ms = minutes, minutes * 60_000
        self.current = self._now_ms // self._ms
        self.numbers = range(self.current - count + 1, self.current + 1)
        self.found = {number: self.found[number] for number in self.numbers if number in self.found}

    @property
    def seconds(self) -> float:
        """The length of all intervals, without the part of the current one that is still to come."""
        return max(1.0, (self._now_ms - self.numbers[0] * self._ms) / 1000)

    def intervals(self, name: str = "", first: int = 0) -> list[Interval]:
        """Return the intervals, the oldest first, for one job name or all; those without data have zeros.

        Args:
            name: The job name; '' for all.
            first: The number of the first interval.
        """
        return [self._interval(number, name) for number in self.numbers if number >= first]

    def _interval(self, number: int, name: str) -> Interval:
        found, begin_ms, is_closed = self.found.get(number), number * self._ms, number < self.current
        passed_ms = self._ms if is_closed else max(1000, self._now_ms - begin_ms)
        sums: Sums = {}
        if found is not None:
            sums = found.names.get(name, {}) if name else found.total
        sample = None if found is None else _sample(found.sample)
        return Interval(passed_ms / 1000, sums, when(begin_ms), is_closed, sample)


def _sample(sums: Sums) -> QueueSample | None:
    if not sums:
        return None
    names = ("ready", "running", "delayed", "suspended", "dead", "pushed", "workers")
    counts = {name: sums.get(name, 0) for name in names}
    return QueueSample(**counts, oldest=sums.get("oldest_ms", 0) / 1000)


@dataclass(frozen=True)
class Overview:
    """What happened on a queue in the last hour, minute by minute: in total, by job name, and by cause of death.

    Attributes:
        span: What was read, for the next call.
    """

    span: Span

    @cached_property
    def intervals(self) -> Sequence[Interval]:
        """The minutes, the oldest first."""
        return self.span.intervals()

    @cached_property
    def names(self) -> Sequence[NameStatistics]:
        """The job names, those with the most jobs first."""
        rows: list[Mapping[str, Sums]] = [each.names for each in self._found]
        names = {name for row in rows for name in row}
        found = [self._name(name, [row.get(name, {}) for row in rows]) for name in names]
        return sorted(found, key=lambda each: (-sum(each.sums.get(outcome, 0) for outcome in OUTCOMES), each.name))

    @cached_property
    def causes(self) -> Sequence[CauseStatistics]:
        """The causes of death, the most frequent first."""
        rows: list[Sums] = [each.causes for each in self._found]
        series = {cause: [row.get(cause, 0) for row in rows] for cause in {cause for row in rows for cause in row}}
        found = [CauseStatistics(cause, sum(counts), counts) for cause, counts in series.items()]
        return sorted(found, key=lambda each: (-each.count, each.cause))

    @property
    def _found(self) -> list[IntervalFound]:
        none = IntervalFound(0)
        return [self.span.found.get(number, none) for number in self.span.numbers]

    def _name(self, name: str, parts: Sequence[Sums]) -> NameStatistics:
        series, dead = ([part.get(outcome, 0) for part in parts] for outcome in ("completed", "dead"))
        return NameStatistics(self.span.seconds, added(part for part in parts if part), name, series, dead)
