"""What workers count and the store keeps: sums for each minute and ten minutes, and how to add and to read them.

The counts of an interval are sums by name: one for each outcome, and one for each bucket of two histograms.
`run50` is the number of runs that took up to 50 ms, and more than the next lower bound, 20. `wait50` is the same
for waits.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from redisjobs.model.changes import Change
from redisjobs.model.queries import Query

OUTCOMES = ("completed", "retried", "snoozed", "suspended", "dead", "released", "cancelled")
"""How a worker settles a job, as statistics and metrics count it."""

BOUNDS: tuple[int, ...] = tuple(step * 10**power for power in range(9) for step in (1, 2, 5))[:25]
"""The upper bounds of the buckets, in ms: 1, 2, 5, 10, … up to 100,000,000, which is about a day."""

BUCKETS = (*map(str, BOUNDS), "more")

MOST_NAMES, MOST_CAUSES = 200, 50
"""The most job names, and causes of death, that an interval tells apart. `OTHER` has the sum of the rest."""

OTHER = "other"
"""The name for names and causes beyond the most."""

KEPT_MINUTES = {1: 8 * 60, 10: 3 * 24 * 60}
"""For how many minutes intervals are kept, by their length in minutes."""


Sums = Mapping[str, int]
"""Numbers by name, each a sum."""


class Histogram:
    """How many values fell into each bucket.

    Args:
        unit: The unit of the values, in ms.
    """

    __slots__ = ("_bounds", "buckets")

    def __init__(self, unit: int = 1) -> None:
        self._bounds = [bound / unit for bound in BOUNDS]
        self.buckets = [0] * len(BUCKETS)

    def add_all(self, values: Sequence[float], stand_for: int = 0) -> None:
        """Add values, which may stand for more values like them: `stand_for` in all.

        Those of a batch are mostly alike; then one search finds the bucket for all.
        """
        bounds, buckets = self._bounds, self.buckets
        many = stand_for or len(values)
        first, last = bisect_left(bounds, min(values)), bisect_left(bounds, max(values))
        if first == last:
            buckets[first] += many
            return
        each, rest = divmod(many, len(values))
        buckets[first] += rest
        for value in values:
            buckets[bisect_left(bounds, value, first, last)] += each

    def sums(self, kind: str) -> dict[str, int]:
        """Return the buckets that are not empty, by `kind` and upper bound."""
        return {f"{kind}{name}": many for name, many in zip(BUCKETS, self.buckets, strict=True) if many}


def added(parts: Iterable[Sums]) -> Sums:
    """Return the sum of each name over all parts."""
    total: dict[str, int] = {}  # a Counter takes three times as long
    for part in parts:
        for name, many in part.items():
            total[name] = total.get(name, 0) + many
    return total


@dataclass(frozen=True, slots=True)
class Recorded:
    """The answer to `Record`."""

    minute_in_ms: int  # until the next minute begins, by the store's clock
    workers: int  # how many workers share the queue


@dataclass(frozen=True, slots=True)
class Record(Change[Recorded]):
    """Add what a worker has counted to the statistics of this minute and of these ten minutes.

    The first call in an interval also notes the state of the queue. The same number is added once only, so a call
    without an answer can be repeated.
    """

    recorder: str  # a unique name of the part of the worker that counts
    number: int  # of the call; greater each time
    names: Mapping[str, Sums]  # by job name: at most 200, with counts by outcome and by bucket
    causes: Sums  # dead letters by fingerprint or reason: at most 50


@dataclass(frozen=True, slots=True)
class IntervalFound:
    """What was counted within one interval."""

    number: int  # time since 1970, divided by the length of an interval
    total: Sums = field(default_factory=dict)  # of all jobs
    sample: Sums = field(default_factory=dict)  # the state of the queue: `ready`, `running`, …, `oldest_ms`
    names: Mapping[str, Sums] = field(default_factory=dict)  # by job name
    causes: Sums = field(default_factory=dict)  # dead letters by fingerprint, or by reason


@dataclass(frozen=True, slots=True)
class IntervalsFound:
    """The answer to one step of reading statistics: the intervals with any data, the oldest first."""

    now_ms: int  # by the store's clock
    intervals: Sequence[IntervalFound]
    after: str = ""  # where the next step begins; '' at the end


@dataclass(frozen=True, slots=True)
class FindIntervals(Query[IntervalsFound]):
    """Read the statistics of the last intervals and the current one, in steps of up to 120 intervals, or 1 MB."""

    minutes: int  # the length of an interval: 1 or 10
    count: int  # how many intervals
    name: str = ""  # read only this job name; '' reads only the totals
    is_whole: bool = False  # read the totals, all names and all causes
    after: str = ""  # the `after` of the step before, or the number of the first interval; '' to begin
