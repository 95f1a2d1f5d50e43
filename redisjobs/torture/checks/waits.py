"""How long jobs waited though somebody could have run them. Pure.

A job waits from when it may be run until it is started, and again from when its run ended, or its process died,
until the next one. What counts of that is only the time in which a worker of its database had a slot free, and no
fault kept workers from beating, or from fencing those that were lost.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from redisjobs.events.recording import Line
from redisjobs.torture.checks.causes import MAX_DELIVERIES, Leases, holds_up, noticed_by
from redisjobs.torture.checks.stories import Key, Run, Story
from redisjobs.torture.fleet.fleet import CONCURRENCY

Span = tuple[float, float]

_RETRIED = 0.5  # seconds that a job may be delayed for which failed: see the retry policy of `jobs`
_MARGIN = 10.0  # seconds, on top of leases, for a machine that is slow
_EVER = float("inf")


def bound(lease: float, *, alone: bool = False) -> float:
    """Seconds that a job may wait: until a lease is over, others have looked, and it is its turn.

    One that has to run alone may be one of many that a killer had beside it, which run one after another.
    """
    return 15 * lease + _MARGIN if alone else 3 * lease + _MARGIN


def late(stories: Mapping[Key, Story], lines: Sequence[Line], leases: Leases) -> Iterator[str]:
    """Jobs that waited for too long, in words.

    Args:
        stories: All jobs.
        lines: What was written down, by time.
        leases: Of the workers. Nobody knows who had a job and never began it, so the longest counts.
    """
    lease = leases.longest
    able = _Able(stories, lines, lease)
    for story, since, run in able.waits:
        alone = _is_alone(run)
        if run.at - since <= (longest := bound(lease, alone=alone)):
            continue
        seconds = able.seconds(story.db, since, run.at, alone=alone)
        if seconds > longest:
            yield (
                f"{story.label} ({story.name}) waited for {run.at - since:.1f} s, "
                f"for {seconds:.1f} s of which a worker had a slot free"
            )


@dataclass(slots=True)
class _Process:
    """What is known of a worker process.

    Attributes:
        db: In which database it works.
        heard: When it wrote something down.
        busy: When it took no more jobs: its slots were full, or it ran one that has to be alone or blocks it.
        away: When a fault had hit it.
    """

    db: int
    heard: list[float] = field(default_factory=list)
    busy: list[Span] = field(default_factory=list)
    away: list[Span] = field(default_factory=list)


class _Able:
    """When which database had workers that could have started a job.

    Attributes:
        waits: From when on each run was waited for, where that is known.
    """

    def __init__(self, stories: Mapping[Key, Story], lines: Sequence[Line], lease: float) -> None:
        self._processes: dict[int, _Process] = {}
        for line in lines:
            if "pid" in line:
                self._processes.setdefault(line["pid"], _Process(line["db"])).heard.append(line["at"])
        faults = [line for line in lines if line["what"] in ("fault", "stall")]
        self._note_busy([run for story in stories.values() for run in story.runs])
        self._note_away(
            faults, [run for story in stories.values() if story.name == "Poison" for run in story.runs]
        )
        databases = {process.db for process in self._processes.values()}
        self._held_up = {db: list(_held_up(faults, db, lease)) for db in databases}
        self.waits = [(story, *wait) for story in stories.values() for wait in self._waits_of(story)]
        # While one waits that has to run alone, workers make room for it.
        self._clearing: defaultdict[int, list[Span]] = defaultdict(list)
        for story, since, run in self.waits:
            if _is_alone(run):
                self._clearing[story.db].append((since, run.at))

    def seconds(self, db: int, since: float, until: float, *, alone: bool) -> float:
        """How much of that time a worker of the database could have started a job; `alone`: one that runs so."""
        able: list[Span] = []
        for process in self._processes.values():
            if process.db == db:
                able += _without([(max(since, process.heard[0]), until)], [*process.busy, *process.away])
        held_up = [*self._held_up.get(db, []), *([] if alone else self._clearing[db])]
        return sum(end - start for start, end in _without(_merged(able), held_up))

    def _waits_of(self, story: Story) -> Iterator[tuple[float, Run]]:
        if story.name in (
            "Newcomer",
            "Seldom",
        ):  # they may wait for who knows them, longer each time; or for an hour
            return
        runs = sorted(story.runs, key=lambda run: run.at)
        if story.ready_at is not None and runs:
            yield story.ready_at, runs[0]
        for first, second in pairwise(runs):
            if first.end is not None and first.end["at"] <= second.at:
                yield first.end["at"] + (_RETRIED if first.end["result"] == "raised" else 0.0), second
            else:
                yield self._heard_of(first.pid, second.at), second

    def _heard_of(self, pid: int, before: float) -> float:
        """When a process wrote something down for the last time before that."""
        heard = self._processes[pid].heard
        return heard[max(0, bisect_left(heard, before) - 1)]

    def _note_busy(self, runs: Iterable[Run]) -> None:
        turns: defaultdict[int, list[tuple[float, int]]] = defaultdict(list)
        for run in runs:
            over = run.settled["at"] if run.settled is not None else self._heard_of(run.pid, _EVER)
            if _is_alone(run) or run.start["name"] == "Blocker":
                self._processes[run.pid].busy.append((run.at, over))
            turns[run.pid] += [(run.at, 1), (over, -1)]
        for pid, changes in turns.items():
            self._processes[pid].busy += _full(changes)

    def _note_away(self, faults: Iterable[Line], poison: Iterable[Run]) -> None:
        for run in poison:
            self._processes[run.pid].away.append((run.at, _EVER))
        for fault in faults:
            for pid in fault["pids"] if fault["hits"] == "pids" else ():
                process = self._processes.get(pid)
                if process is not None:  # it is back when it is heard of again
                    at = bisect_right(process.heard, fault["ended"] + fault["reaches"])
                    back = process.heard[at] if at < len(process.heard) else _EVER
                    process.away.append((fault["began"], back))


def _is_alone(run: Run) -> bool:
    """Whether it was given to a worker that ran nothing else."""
    return run.lease[2] >= MAX_DELIVERIES


def _held_up(faults: Iterable[Line], db: int, lease: float) -> Iterator[Span]:
    """When workers of a database could not beat, or did not fence yet who was lost."""
    steady = 2 * lease + 1.0  # for a lease nobody is sure, and then whoever looks next is
    for fault in faults:
        if holds_up(fault, db):
            yield fault["began"], noticed_by(fault) + steady


def _full(changes: Iterable[tuple[float, int]]) -> Iterator[Span]:
    """When all slots of a process were in use; `changes` tells when a job came or went."""
    in_hand, since = 0, 0.0
    for at, change in sorted(changes):
        in_hand += change
        if change > 0 and in_hand == CONCURRENCY:
            since = at
        elif change < 0 and in_hand == CONCURRENCY - 1:
            yield since, at


def _merged(spans: Iterable[Span]) -> list[Span]:
    """The same time, in spans that do not overlap, in order."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if end <= start:
            continue
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def _without(spans: Sequence[Span], taken: Iterable[Span]) -> list[Span]:
    """What is left of the spans."""
    left = list(spans)
    for start, end in _merged(taken):
        left = [
            piece
            for low, high in left
            for piece in ((low, min(high, start)), (max(low, end), high))
            if piece[0] < piece[1]
        ]
    return left
