"""Statistics by minute and ten minutes: what workers have counted, and samples of the queue."""

from collections.abc import Iterable

from redisjobs.drivers.memory.reading import backlog, count
from redisjobs.drivers.memory.state import Memory, StoredTallies, answers
from redisjobs.model.queries import Count, GetBacklog
from redisjobs.model.recording import (
    KEPT_MINUTES,
    MOST_CAUSES,
    MOST_NAMES,
    OTHER,
    FindIntervals,
    IntervalFound,
    IntervalsFound,
    Record,
    Recorded,
    Sums,
    added,
)

_MINUTE = 60_000
_REMEMBERED = 3_600_000  # ms for which a record that is sent again is recognized
_STEP = 120  # intervals that one step reads


@answers(Record)
def _record(memory: Memory, change: Record) -> Recorded:
    now_ms = memory.now_ms()
    is_new = change.number > (memory.recorded.current(change.recorder, now_ms) or 0)
    for minutes, intervals in memory.intervals.items():
        number = now_ms // _MINUTE // minutes
        tallies = intervals.setdefault(number, StoredTallies())
        tallies.sample = tallies.sample or _sample(memory, now_ms)
        if is_new:
            _add_all(tallies, change)
        for old in [each for each in intervals if each <= number - KEPT_MINUTES[minutes] // minutes]:
            del intervals[old]
    if is_new and (change.names or change.causes):
        memory.recorded.put(change.recorder, change.number, now_ms + _REMEMBERED, now_ms)
    return Recorded(_MINUTE - now_ms % _MINUTE, len(memory.workers))


def _sample(memory: Memory, now_ms: int) -> dict[str, int]:
    counts, oldest = count(memory, Count()), backlog(memory, GetBacklog()).oldest.values()
    return {
        "ready": sum(counts.ready.values()),
        "running": counts.running,
        "delayed": counts.delayed,
        "suspended": counts.suspended,
        "dead": counts.dead,
        "oldest_ms": round(max(oldest, default=0) * 1000),
        "pushed": counts.totals["pushed"],
        "workers": len(memory.workers),
    }


def _add_all(tallies: StoredTallies, change: Record) -> None:
    room = MOST_NAMES + 3 - tallies.fields
    if change.names:
        _add(tallies.total, added(change.names.values()))
    for name, sums in change.names.items():
        is_known = name in tallies.names
        room -= not is_known
        _add(tallies.names.setdefault(name if is_known or room >= 0 else OTHER, {}), sums)
    _add(tallies.causes, change.causes, MOST_CAUSES)


def _add(to: dict[str, int], sums: Sums, most: float = float("inf")) -> None:
    for name, many in sums.items():
        known = name if name in to or len(to) < most else OTHER
        to[known] = to.get(known, 0) + many


@answers(FindIntervals)
def _find_intervals(memory: Memory, query: FindIntervals) -> IntervalsFound:
    now_ms = memory.now_ms()
    last = now_ms // _MINUTE // query.minutes
    first = max(int(query.after or 0), last - query.count + 1)
    numbers: Iterable[int] = range(first, min(last + 1, first + _STEP))
    intervals = memory.intervals[query.minutes]
    found = [_found(number, intervals[number], query) for number in numbers if number in intervals]
    return IntervalsFound(now_ms, found, str(first + _STEP) if first + _STEP <= last else "")


def _found(number: int, tallies: StoredTallies, query: FindIntervals) -> IntervalFound:
    total, names, causes = dict(tallies.total), tallies.names, dict(tallies.causes)
    if query.name:
        total, names = {}, {name: sums for name, sums in names.items() if name == query.name}
    elif not query.is_whole:
        names = {}
    kept = {name: dict(sums) for name, sums in names.items()}
    return IntervalFound(number, total, dict(tallies.sample), kept, causes if query.is_whole else {})
