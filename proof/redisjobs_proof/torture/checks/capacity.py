"""When workers could have started a job, and from when to when each job waited for that. Pure."""

from bisect import bisect_left, bisect_right
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from redisjobs.events.recording import Line
from redisjobs_proof.torture.checks.causes import MAX_DELIVERIES, holds_up, noticed_by
from redisjobs_proof.torture.checks.histories import History, Key, Run
from redisjobs_proof.torture.checks.lines import supervisors
from redisjobs_proof.torture.checks.suspensions import woken
from redisjobs_proof.torture.fleet.fleet import CONCURRENCY

Span = tuple[float, float]

_RETRIED = 0.5  # seconds by which a retry may be delayed: see the retry policy of `jobs`
_CLEARING = 4  # leases for which a worker takes no new jobs, so that an isolated job can start
_OTHERS = 9  # after an isolated job, others have their turn for this many times as long
_LIMITED = ("Limited", "Paced")  # what they wait for keeps no worker from other jobs
_EVER = float("inf")


@dataclass(slots=True)
class _Process:
    """A worker process.

    Attributes:
        db: The database of its jobs.
        heard: When it recorded a line.
        busy: When it took no jobs: its slots were full, or it ran an isolated job, or a job blocked it.
        running: The same, but a job counts only until its handler has ended, and not until it is settled.
        away: When a fault had hit it.
        resting: When it took no isolated job, because it had just run one: these use at most a tenth of its time.
    """

    db: int
    heard: list[float] = field(default_factory=list)
    busy: list[Span] = field(default_factory=list)
    running: list[Span] = field(default_factory=list)
    away: list[Span] = field(default_factory=list)
    resting: list[Span] = field(default_factory=list)

    def able(self) -> list[Span]:
        """Return the spans in which it could have started a job."""
        return without([(self.heard[0], _EVER)], [*self.busy, *self.away])

    def with_slots(self) -> list[Span]:
        """Return the spans in which it had a slot without a handler."""
        return without([(self.heard[0], _EVER)], [*self.running, *self.away])

    def able_isolated(self) -> list[Span]:
        """Return the spans in which it could have started an isolated job."""
        return without(self.able(), self.resting)


class Capacity:
    """When the workers of each database could have started a job.

    Attributes:
        waits: Each run with its job, and the time from which the job waited for this run, if that is known.
    """

    def __init__(self, histories: Mapping[Key, History], lines: Sequence[Line], lease: float) -> None:
        self._processes: dict[int, _Process] = {}
        no_workers = supervisors(lines)
        for line in lines:
            if "pid" in line and line["pid"] not in no_workers:
                self._processes.setdefault(line["pid"], _Process(line["db"])).heard.append(line["at"])
        faults = [line for line in lines if line["what"] in ("fault", "stall")]
        self._note_busy([run for history in histories.values() for run in history.runs], lease)
        poison = [run for history in histories.values() if history.name == "Poison" for run in history.runs]
        self._note_away(faults, poison)
        databases = {process.db for process in self._processes.values()}
        self.waits = [(history, *wait) for history in histories.values() for wait in self._waits_of(history)]
        self._able = {db: self._able_in(db, list(_held_up(faults, db, lease))) for db in databases}
        self._urgent = {(db, rank): self._waits_above(db, rank) for db in databases for rank in (1, 2)}

    def running(self, db: int) -> list[Span]:
        """Return when some worker of a database had a slot in which no handler ran, and no fault had hit it.

        Not while a job waits to run isolated: workers make room for it.
        """
        processes = [process for process in self._processes.values() if process.db == db]
        return without((span for each in processes for span in each.with_slots()), self._clearing(db))

    def seconds(self, job: History, since: float, until: float, *, isolated: bool) -> float:
        """Return how much of that time a worker could have started a job, and none more urgent waited."""
        able = self._able[job.db][isolated] if job.db in self._able else []
        span = [(max(start, since), min(end, until)) for start, end in able]
        return sum(end - start for start, end in without(span, self._urgent.get((job.db, job.rank), [])))

    def turn(self, db: int, since: float) -> float:
        """Return when nine in ten of the jobs that had waited for longer at that time have started."""
        starts = sorted(run.at for job, before, run in self.waits if job.db == db and before < since < run.at)
        return starts[len(starts) * 9 // 10] if starts else since

    def _waits_above(self, db: int, rank: int) -> list[Span]:
        """Return when a job of a more urgent priority waited."""
        return merged(
            (since, run.at)
            for job, since, run in self.waits
            if job.db == db and job.rank < rank and job.name not in _LIMITED
        )

    def _able_in(self, db: int, held_up: Sequence[Span]) -> Mapping[bool, Sequence[Span]]:
        """Return when some worker of a database could have started a job, by whether that runs isolated."""
        processes = [process for process in self._processes.values() if process.db == db]
        return {
            False: without((span for each in processes for span in each.able()), [*held_up, *self._clearing(db)]),
            True: without((span for each in processes for span in each.able_isolated()), held_up),
        }

    def _clearing(self, db: int) -> list[Span]:
        """Return when workers made room for a job that waited to run isolated."""
        return [(since, run.at) for job, since, run in self.waits if job.db == db and is_isolated(run)]

    def _waits_of(self, history: History) -> Iterator[tuple[float, Run]]:
        # They may wait for a worker that knows them, longer each time, or for an hour.
        if history.name in ("Newcomer", "Seldom"):
            return
        runs = sorted(history.runs, key=lambda run: run.at)
        if history.ready_at is not None and runs:
            yield history.ready_at, runs[0]
        for first, second in pairwise(runs):
            if first.suspended:
                if (woken_at := woken(history, first)) is not None:
                    yield woken_at, second
            elif first.end is not None and first.end["at"] <= second.at:
                yield first.end["at"] + (_RETRIED if first.end["result"] == "raised" else 0.0), second
            else:
                yield self._heard_of(first.pid, second.at), second

    def _heard_of(self, pid: int, before: float) -> float:
        """Return when a process recorded a line for the last time before that."""
        heard = self._processes[pid].heard
        return heard[max(0, bisect_left(heard, before) - 1)]

    def _note_busy(self, runs: Iterable[Run], lease: float) -> None:
        turns: defaultdict[int, list[tuple[float, int]]] = defaultdict(list)
        ends: defaultdict[int, list[tuple[float, int]]] = defaultdict(list)
        last = dict[int, float]()
        for run in sorted(runs, key=lambda run: run.at):
            process = self._processes[run.pid]
            over = run.settled["at"] if run.settled is not None else self._heard_of(run.pid, _EVER)
            if is_isolated(run):
                # Before it the worker took no new jobs, for some leases at most.
                began = max(last.get(run.pid, run.at), run.at - _CLEARING * lease)
                process.resting.append((over, over + _OTHERS * (over - began)))
            ended = run.end["at"] if run.end is not None else over
            if is_isolated(run) or run.start["name"] == "Blocker":
                process.busy.append((run.at, over))
                process.running.append((run.at, ended))
            last[run.pid] = run.at
            turns[run.pid] += [(run.at, 1), (over, -1)]
            ends[run.pid] += [(run.at, 1), (ended, -1)]
        for pid, changes in turns.items():
            self._processes[pid].busy += _full(changes)
            self._processes[pid].running += _full(ends[pid])

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


def is_isolated(run: Run) -> bool:
    """Whether it was delivered to a worker that ran nothing else."""
    return run.lease[2] >= MAX_DELIVERIES


def _held_up(faults: Iterable[Line], db: int, lease: float) -> Iterator[Span]:
    """Yield when workers of a database could not renew, or did not yet fence lost ones."""
    steady = 2 * lease + 1.0  # for one lease no worker is sure
    for fault in faults:
        if holds_up(fault, db):
            yield fault["began"], noticed_by(fault) + steady


def _full(changes: Iterable[tuple[float, int]]) -> Iterator[Span]:
    """Yield when all slots of a process were in use; `changes` says when a job came or went."""
    in_hand, since = 0, 0.0
    for at, change in sorted(changes):
        in_hand += change
        if change > 0 and in_hand == CONCURRENCY:
            since = at
        elif change < 0 and in_hand == CONCURRENCY - 1:
            yield since, at


def merged(spans: Iterable[Span]) -> list[Span]:
    """Return the same time in spans that do not overlap, in order."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if end <= start:
            continue
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def without(spans: Iterable[Span], taken: Iterable[Span]) -> list[Span]:
    """Return what is left of the spans, in order."""
    left: list[Span] = []
    rest = deque(merged(taken))
    for start, end in merged(spans):
        while rest and rest[0][0] < end:
            low, high = rest[0]
            if start < low:
                left.append((start, low))
            start = max(start, high)
            if high > end:
                break
            rest.popleft()
        if start < end:
            left.append((start, end))
    return left
