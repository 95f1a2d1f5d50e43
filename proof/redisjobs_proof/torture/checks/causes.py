"""Finds the fault that explains why a job ran again, or became a dead letter. Pure.

A fault with `pids` hits the runs of these processes. A fault of all workers hits each run in progress: one that
began before the fault's end, and was not settled before its beginning. If Redis accepted a job's outcome, nothing
excuses another run, but one of the same lease: Redis gave it to the worker twice, as it counted deliveries from
zero again, and the first run's outcome ended both. A later attempt needs a run that failed, and a retry that Redis
accepted.

A fault excuses a second run only if there was time for it. Most faults only keep a worker from renewing its lease:
then that lease must be over, counted from the last renewal before the fault. A worker that is asked to end may
finish its jobs: it releases the rest once it has ended, or its grace is over.

A worker that was fenced goes on under a new id in the same process, so both runs may be in one process.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from redisjobs.events.recording import Line
from redisjobs_proof.torture.checks.histories import History, Key, Run

NONE = "none"
FAILED = "failed"
"""No fault was needed: the first run failed, as it may, and the second is the next attempt."""

WOKEN = "woken"
"""No fault was needed: the first run suspended the job, and the second goes on after the wait."""

MAX_DELIVERIES = 3
POISONED = 0.5  # seconds that a process may live on after it started a job that kills it
_MOMENT = 1.0  # seconds in which a worker that was held up starts jobs that it got before
_LEAST_STALL = 0.4  # of a lease: shorter stalls leave enough time to renew it
_LAG = 0.5  # seconds that a process may be late without a recorded stall
_BEATEN = 1 / 3  # of a lease: from one heartbeat to the next
_SILENCE = 1 / 2  # of a lease: after a longer outage a worker fences no other worker for one lease
_UNDONE = 0.1  # seconds by which the recorded end of an outage may be wrong
_LOOKS = 0.75  # the most seconds between two looks for lost workers


@dataclass(frozen=True, slots=True)
class Leases:
    """The leases of the workers, in seconds; `default` is for a process that recorded none."""

    default: float
    each: Mapping[int, float] = field(default_factory=dict)

    def of(self, pid: int) -> float:
        """Return the lease of one process."""
        return self.each.get(pid, self.default)

    @property
    def longest(self) -> float:
        """The longest lease of any process."""
        return max([self.default, *self.each.values()])

    @property
    def shortest(self) -> float:
        """The shortest lease of any process."""
        return min([self.default, *self.each.values()])


def pairs(history: History) -> Iterable[tuple[Run, Run]]:
    """Return each run of a job with the one that followed it, by attempt, then by time."""
    return pairwise(sorted(history.runs, key=lambda run: (run.attempt, run.at)))


class Causes:
    """The faults of a torture, and which of them excuse a second run of a job; `databases` is by process."""

    def __init__(
        self,
        faults: Sequence[Line],
        histories: Mapping[Key, History],
        leases: Leases,
        databases: Mapping[int, int],
    ) -> None:
        self._found = leases.longest + _LOOKS
        # After a long outage workers fence no other worker for one lease.
        self._late = leases.longest + _LOOKS + self._found
        self._leases = leases
        self._faults = sorted(filter(self._is_long, faults), key=lambda line: line["began"])
        self._all = sorted(faults, key=lambda line: line["began"])  # short stalls as well
        self._databases = databases
        self._poisoned = _starts(histories, "Poison")
        self._poisonings: defaultdict[int, list[float]] = defaultdict(list)  # of each database, by time
        for at, db in sorted((begun["at"], begun["db"]) for each in self._poisoned.values() for begun in each):
            self._poisonings[db].append(at)

    def of(self, history: History, first: Run, second: Run) -> str:
        """Return why a job ran a second time: `failed`, `woken`, the fault that hit the first run, or `none`."""
        if first.was_suspended and first.attempt == second.attempt:
            return WOKEN
        if first.suspended and first.settled is None and (cause := self._of_unheard(first, second)):
            return cause
        if first.attempt == second.attempt:
            return self._of_again(first, second)
        if not history.external and second.attempt > first.attempt + 1:
            return NONE
        causes = [self._of_retry(history, run, second) for run in history.runs if run.attempt == first.attempt]
        if any(causes) and first.done and not first.refused:
            return self._of_again(first, second)  # another run of this attempt failed, but `first` did not
        return FAILED if FAILED in causes else next(filter(None, causes), NONE)

    def of_end(self, run: Run, ended_at: float) -> str:
        """Return the fault that ended the process of a run or took its lease, or `none`.

        Poison does not count: a job that ran beside poison needs another cause, from before the poison. `run` is
        the last run of a job that became a dead letter at `ended_at`.
        """
        poisoned = [begun["at"] for begun in self._poisoned[run.pid] if begun["at"] >= run.at - POISONED]
        last = min([ended_at, *poisoned])
        mine = [fault for fault in self._faults if _hit(fault, run) and _was_held(run, fault, last)]
        for fault in sorted(mine, key=lambda fault: fault["hits"] == "all"):
            if ended_at <= self._found_by(fault, run.start["db"]):
                return str(fault["name"])
        return NONE

    def of_unstarted(self, db: int, since: float, ended_at: float) -> str:
        """Return the fault that may have taken a job from a worker that never started it, or `none`.

        The job was started last at `since`, 0 if never, and became a dead letter at `ended_at`.
        """
        for fault in reversed(self._faults):
            # A killed process received no job after its death.
            lived = (fault["ended"] if fault["hits"] == "all" else fault["began"]) + fault["reaches"]
            in_time = fault["began"] <= ended_at <= self._found_by(fault, db) and since <= lived
            if in_time and self._is_of(fault, db):
                return str(fault["name"])
        return NONE

    def _is_long(self, fault: Line) -> bool:
        """Whether a fault may have kept a worker from renewing its lease for long enough; a short stall can't."""
        lease = min(map(self._leases.of, fault["pids"]), default=self._leases.shortest)
        return bool(fault["what"] != "stall" or _seconds(fault) >= _LEAST_STALL * lease)

    def _is_of(self, fault: Line, db: int) -> bool:
        if fault["hits"] == "pids":
            return any(self._databases.get(pid) == db for pid in fault["pids"])
        return fault["hits"] == "all" and fault.get("db") in (None, db)

    def _found_by(self, fault: Line, db: int) -> float:
        """Return when other workers have surely found the jobs; while they distrust the clock they fence none."""
        until = noticed_by(fault) + self._late
        for other in self._faults:
            if holds_up(other, db) and fault["began"] <= noticed_by(other) and other["began"] <= until:
                until = max(until, noticed_by(other) + self._late)
        return until

    def _of_retry(self, history: History, run: Run, second: Run) -> str:
        """Return why a run led to another attempt; '' if it did not."""
        if run.end is None or run.done or run.end["at"] > second.at:
            return ""
        if run.end["result"] == "raised" and history.was_retried(run):
            return FAILED
        # A run that was cut did not fail by itself. A retry without a reply needs a fault that kept it away.
        excuse = self._of_hit(run, second)
        if run.end["result"] == "raised":
            return FAILED if excuse and run.settled is None else ""
        return excuse if history.was_retried(run) or run.settled is None else ""

    def _of_again(self, first: Run, second: Run) -> str:
        return self._of_hit(first, second) or self._of_held_up(first, second) or NONE

    def _of_hit(self, run: Run, second: Run) -> str:
        again = second.at
        sent = run.settled["sent_at"] if run.accepted and run.settled is not None else again
        has_one_lease = run.lease == second.lease and again - sent <= _MOMENT and self._is_recounted(run, second)
        if sent < again and not has_one_lease:
            return ""  # but where deliveries were counted from zero again, the worker had one lease twice
        until = _held_until(run, again)
        if any(run.at - POISONED <= begun["at"] <= until for begun in self._poisoned[run.pid]):
            return "poison job"
        return self._by_process(run, second) or self._by_all(
            run, second, self._unstarted(run, second) * self._found
        )

    def _of_unheard(self, run: Run, second: Run) -> str:
        """Return the fault that kept a worker from hearing whether its run has suspended the job, or ''.

        If it has, the second run may come at any time.
        """
        assert run.end is not None
        until = min(second.at, run.end["at"] + self._found)
        if any(run.at - POISONED <= begun["at"] <= until for begun in self._poisoned[run.pid]):
            return "poison job"
        hit = [fault for fault in self._faults if _hit(fault, run) and _was_held(run, fault, until)]
        return str(hit[-1]["name"]) if hit else ""

    def _unstarted(self, run: Run, second: Run) -> int:
        """Return how many workers received the job in between, never started it, and had to lose it as well."""
        return max(0, second.lease[2] - (0 if self._is_recounted(run, second) else run.lease[2]) - 1)

    def _is_recounted(self, run: Run, second: Run) -> bool:
        """Whether the store counted a job's deliveries from zero again between the starts of two runs."""
        return any(
            fault.get("forgets_deliveries") and _hit(fault, run) and run.at <= fault["began"] <= second.at
            for fault in self._faults
        )

    def _by_process(self, run: Run, second: Run) -> str:
        # A process that a fault stopped also records a stall: name the fault.
        for fault in sorted(self._faults, key=lambda fault: fault["what"] == "stall"):
            mine = fault["hits"] == "pids" and _hit(fault, run) and _was_held(run, fault, second.at)
            if mine and self._led_to(fault, run, second):
                return str(fault["name"])
        return ""

    def _by_all(self, run: Run, second: Run, longer: float = 0.0) -> str:
        # The last to begin: it comes nearest.
        for fault in reversed(self._faults):
            mine = fault["hits"] == "all" and _hit(fault, run) and _was_held(run, fault, second.at)
            in_time = mine and _lost_by(run, second) <= self._comes_by(fault, run.start["db"], longer)
            if in_time and self._led_to(fault, run, second):
                return str(fault["name"])
        return ""

    def _comes_by(self, fault: Line, db: int, longer: float) -> float:
        """By when a job starts again after a fault took it: it waits for poison and other faults to end."""
        until = self._found_by(fault, db) + longer
        for at in self._poisonings[db]:
            if fault["began"] <= at <= until:
                until = max(until, at + self._late)
        return until

    def _led_to(self, fault: Line, run: Run, second: Run) -> bool:
        """Whether a fault that hit a run can have led to the second one this soon."""
        if second.attempt != run.attempt or second.lease[2] < run.lease[2]:
            return True  # Redis had settled the first, or delivered the job to the second before
        has_ended = run.end is not None and run.end["at"] <= second.at
        if grace := fault.get("grace", 0.0):
            return has_ended or second.at >= float(fault["began"] + grace)
        if fault.get("releases_at_once") or (has_ended and _was_released(run)):
            return True
        return second.at >= self._runs_out(fault, run) and second.at >= self._looked_for(fault, run)

    def _runs_out(self, fault: Line, run: Run) -> float:
        """When the lease of a run's worker was over, at the earliest: it had renewed until the fault."""
        lease = self._leases.of(run.pid)
        return self._kept_from_renewing(fault, run, lease) + (1 - _BEATEN) * lease - _LAG

    def _kept_from_renewing(self, fault: Line, run: Run, lease: float) -> float:
        """Return since when a worker may not have renewed its lease: an earlier fault may have prevented it."""
        since, before = float(fault["began"]), float("inf")
        while since < before:
            before = since
            for other in self._all:
                about = other["hits"] == "all" or other.get("unsteady") or run.pid in other["pids"]
                here = other.get("db") in (None, run.start["db"])
                if about and here and other["began"] < since <= _over(other) + other["lingers"] + lease:
                    since = float(other["began"])
        return since

    def _looked_for(self, fault: Line, run: Run) -> float:
        """Return the earliest time at which a worker that was lost in a fault can have been fenced.

        After an outage too long to trust the server's clock, that is one lease of that worker later.
        """
        is_outage = fault["what"] == "fault" and fault["hits"] == "all" and not fault.get("uneven")
        undone, lease = fault.get("undone", fault["ended"]), self._leases.of(run.pid)
        if not is_outage or undone - fault["began"] <= _SILENCE * lease + _UNDONE:
            return 0.0
        return float(undone + lease - _UNDONE)

    def _of_held_up(self, first: Run, second: Run) -> str:
        """Return the fault that held up the second run: delivered before the first one, it started after it.

        Where the job was suspended in between, its deliveries were counted from one again since.
        """
        is_earlier = second.lease[2] < first.lease[2]
        if not is_earlier and not (
            second.refused and second.lease[2] == first.lease[2] and second.pid != first.pid
        ):
            return ""
        for fault in self._faults:
            here = fault["hits"] == "all" and _hit(fault, second)
            mine = fault["hits"] == "pids" and second.pid in fault["pids"]
            began = fault["began"] <= (second.at if here else first.at)
            if (mine or here) and began and second.at <= fault["ended"] + _MOMENT:
                return str(fault["name"])
        return ""


def holds_up(fault: Line, db: int) -> bool:
    """Whether workers of a database can't renew during a fault, or distrust the clock, so that they fence none."""
    return fault.get("db") in (None, db) and bool(fault["hits"] == "all" or fault.get("unsteady"))


def noticed_by(fault: Line) -> float:
    """Return when all processes have noticed that a fault is over, even on a half-open connection."""
    return float(fault["ended"] + max(fault["reaches"], fault["lingers"]))


def _starts(histories: Mapping[Key, History], name: str) -> Mapping[int, Sequence[Line]]:
    """Return the starts of the jobs with a name, by process."""
    found: defaultdict[int, list[Line]] = defaultdict(list)
    for history in histories.values():
        for run in history.runs if history.name == name else ():
            found[run.pid].append(run.start)
    return found


def _hit(fault: Line, run: Run) -> bool:
    """Whether a fault hit the process of a run, or its whole database."""
    if fault["hits"] == "pids":
        return run.pid in fault["pids"]
    return fault["hits"] == "all" and fault.get("db") in (None, run.start["db"])


def _was_held(run: Run, fault: Line, again: float) -> bool:
    return run.at <= _over(fault) and fault["began"] <= _held_until(run, again)


def _was_released(run: Run) -> bool:
    """Whether the worker released the job, or was about to when it recorded its last line."""
    if run.settled is not None:
        return bool(run.settled["settlement"] == "Release")
    return run.end is not None and bool(run.end["result"] == "cut")


def _lost_by(run: Run, second: Run) -> float:
    """Return by when a run had surely lost its job: it was refused, or the next began, which may wait its turn."""
    return float(run.settled["at"]) if run.refused and run.settled is not None else second.at


def _held_until(run: Run, again: float) -> float:
    return min(again, run.settled["at"]) if run.settled is not None else again


def _over(fault: Line) -> float:
    return float(fault["ended"] + fault["reaches"])


def _seconds(fault: Line) -> float:
    return float(fault["ended"] - fault["began"])
