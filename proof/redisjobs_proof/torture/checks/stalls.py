"""Finds times in which a database stood still: jobs were ready, workers could run them, and none started. Pure.

Only jobs that nothing may hold back count: pushed without a delay, without a limit, and not run before. Excused
is the time in which the server was down, the network was cut, the queue was paused, or all workers were killed,
frozen or full.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from redisjobs.events.recording import Line
from redisjobs_proof.torture.checks.capacity import Capacity, Span, merged, without
from redisjobs_proof.torture.checks.causes import Leases, noticed_by
from redisjobs_proof.torture.checks.histories import History, Key

_MARGIN = 3.0  # seconds, on top of a lease
_PLAIN = ("Work", "ThreadWork", "Flaky", "Hopeless", "Parent", "Pusher", "Step", "Saving", "ThreadSaving")
_MOMENT = 1.0  # seconds until jobs start again once a queue is resumed


@dataclass(frozen=True, slots=True)
class Stall:
    """The longest time in which nothing started though something could.

    Attributes:
        seconds: How long it was, without the time that does not count.
        amid: The names of the faults that were in force.
    """

    db: int = 0
    began: float = 0.0
    seconds: float = 0.0
    amid: tuple[str, ...] = ()


def most(leases: Leases) -> float:
    """Return how long a stall may be: the lease of a worker that died ends, and others look."""
    return leases.longest + _MARGIN


def stalls(histories: Mapping[Key, History], lines: Sequence[Line], capacity: Capacity) -> list[Stall]:
    """Return the longest stall of each database; `lines` are in order of time."""
    starts: defaultdict[int, list[float]] = defaultdict(list)
    for line in lines:
        if line["what"] == "start":
            starts[line["db"]].append(line["at"])
    ready = _ready(histories)
    faults = [line for line in lines if line["what"] in ("fault", "stall", "stopped")]
    return [_longest(db, starts[db], ready[db], capacity, faults) for db in sorted(ready)]


def too_long(found: Iterable[Stall], leases: Leases) -> Iterator[str]:
    """Yield the stalls that were too long, in words."""
    for stall in found:
        if stall.seconds > most(leases):
            amid = f", amid {' and '.join(stall.amid)}" if stall.amid else ""
            yield (
                f"database {stall.db} stood still for {stall.seconds:.1f} s{amid}: jobs were ready, "
                f"a worker had a slot free, and nothing started (from {stall.began:.1f} on)"
            )


def _ready(histories: Mapping[Key, History]) -> Mapping[int, Sequence[Span]]:
    """Return, for each database, when some job was ready that nothing held back."""
    found: defaultdict[int, list[Span]] = defaultdict(list)
    for history in histories.values():
        delayed = history.due_at is not None or history.external or history.expected != "new" or history.pushed_by
        if history.name in _PLAIN and not delayed and history.ready_at is not None and history.runs:
            first = min(run.at for run in history.runs)
            found[history.db].append((history.ready_at, first))
    return {db: merged(spans) for db, spans in found.items()}


def _longest(
    db: int, starts: Sequence[float], ready: Sequence[Span], capacity: Capacity, faults: Sequence[Line]
) -> Stall:
    counts = without(capacity.running(db), [*_excused(faults, db), *_gaps(ready)])
    best = Stall(db)
    for since, until in pairwise(starts):
        if until - since > best.seconds:
            seconds = _within(counts, since, until)
            if seconds > best.seconds:
                best = Stall(db, since, seconds, tuple(_amid(faults, db, since, until)))
    return best


def _within(spans: Sequence[Span], since: float, until: float) -> float:
    first = max(0, bisect_left(spans, (since, since)) - 1)
    total = 0.0
    for start, end in spans[first:]:
        if start >= until:
            break
        total += max(0.0, min(end, until) - max(start, since))
    return total


def _gaps(ready: Sequence[Span]) -> Iterator[Span]:
    """Yield when no job was ready."""
    before = 0.0
    for start, end in ready:
        yield before, start
        before = end
    yield before, float("inf")


def _excused(faults: Iterable[Line], db: int) -> Iterator[Span]:
    """Yield when nothing could start: the server was down or cut off, or the queue was paused."""
    for fault in faults:
        if fault.get("db") not in (None, db):
            continue
        if fault["what"] == "stopped":
            if "job" not in fault:
                yield fault["since"], fault["until"] + _MOMENT
        elif fault["hits"] == "all":
            yield fault["began"], noticed_by(fault)


def _amid(faults: Iterable[Line], db: int, since: float, until: float) -> list[str]:
    mine = (each for each in faults if each["what"] == "fault" and each.get("db") in (None, db))
    return sorted({each["name"] for each in mine if each["began"] < until and each["ended"] > since})
