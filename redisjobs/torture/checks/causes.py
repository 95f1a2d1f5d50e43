"""Why a job ran again, or was given up: which fault hit that very run. Pure.

A run was hit by a fault of processes if its own process is one of these, and by a fault of all if it was in hand
when that was in force: begun before its end, not settled before its beginning. A job whose outcome was accepted
has no excuse for another run, whatever happened around it. A later attempt needs a run that failed, and whose
retry the store took.

Nor does a fault excuse a second run that it can't have led to yet. Most only keep a worker from beating: then its
own lease has to be over, which began with its last beat before that. One that asks a worker to end lets it finish
what it has: that is handed on once it has ended, or the grace is over.

A worker that was fenced goes on under a new id, in the same process: so a second run may be of that very process.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from redisjobs.events.recording import Line
from redisjobs.torture.checks.stories import Key, Run, Story

NONE = "none"
FAILED = "failed"
"""No fault was needed: the first run failed, as it may, and the second is its next attempt."""

MAX_DELIVERIES = 3
POISONED = 0.5  # seconds that a process may live on which has started a job that kills it
_MOMENT = 1.0  # seconds in which one that was held up starts what it had been given
_LEAST_STALL = 0.4  # of a lease: shorter ones leave time enough to beat
_LAG = 0.5  # seconds that a process may be late by with nobody noting that it stood still
_BEATEN = 1 / 3  # of a lease: from one beat to the next
_SILENCE = 1 / 2  # of a lease: who heard nothing of the store for longer fences nobody for a lease after that
_UNDONE = 0.1  # seconds: nobody knows to the moment when the store was back
_LOOKS = 0.75  # seconds between two looks for lost workers, at most


@dataclass(frozen=True, slots=True)
class Leases:
    """The leases of the workers, in seconds.

    Attributes:
        default: Of a process that has not said.
        each: Of the others, by process.
    """

    default: float
    each: Mapping[int, float] = field(default_factory=dict)

    def of(self, pid: int) -> float:
        """Of one process."""
        return self.each.get(pid, self.default)

    @property
    def longest(self) -> float:
        """The longest of any."""
        return max([self.default, *self.each.values()])

    @property
    def shortest(self) -> float:
        """The shortest of any."""
        return min([self.default, *self.each.values()])


def pairs(story: Story) -> Iterable[tuple[Run, Run]]:
    """Each run of a job that another one followed, and that one: by attempt, then by time."""
    return pairwise(sorted(story.runs, key=lambda run: (run.attempt, run.at)))


class Causes:
    """The faults of a run, asked about runs of jobs.

    Args:
        faults: Faults and stalls, as they were written down.
        stories: All jobs.
        leases: Of the workers.
        databases: Which database each process works in.
    """

    def __init__(
        self, faults: Sequence[Line], stories: Mapping[Key, Story], leases: Leases, databases: Mapping[int, int]
    ) -> None:
        # A lease that is over is seen by whoever looks next.
        self._found = leases.longest + _LOOKS
        # Whoever heard nothing of the store for long fences nobody for a lease after that.
        self._late = leases.longest + _LOOKS + self._found
        self._leases = leases
        self._faults = sorted(filter(self._is_long, faults), key=lambda line: line["began"])
        self._all = sorted(faults, key=lambda line: line["began"])  # short stalls as well
        self._databases = databases
        self._poisoned = _starts(stories, "Poison")
        self._poisonings: defaultdict[int, list[float]] = defaultdict(list)  # of each database, by time
        for at, db in sorted((begun["at"], begun["db"]) for each in self._poisoned.values() for begun in each):
            self._poisonings[db].append(at)

    def of(self, story: Story, first: Run, second: Run) -> str:
        """Why the second run of a job had to be: `failed`, or the fault that hit the first; `none` for neither."""
        if first.attempt == second.attempt:
            return self._of_again(first, second)
        if not story.by_hand and second.attempt > first.attempt + 1:
            return NONE
        causes = [self._of_retry(story, run, second) for run in story.runs if run.attempt == first.attempt]
        if any(causes) and first.done and not first.refused:
            return self._of_again(first, second)  # another run of its attempt failed, but this one did not
        return FAILED if FAILED in causes else next(filter(None, causes), NONE)

    def of_end(self, run: Run, ended_at: float) -> str:
        """Which fault ended the process of a run, or took its lease away; `none` for none.

        Poison is no such fault: who ran beside it is to be told from it. Whatever comes after it found the process
        dead.

        Args:
            run: The last run of a job that was given up.
            ended_at: When it was.
        """
        poisoned = [begun["at"] for begun in self._poisoned[run.pid] if begun["at"] >= run.at - POISONED]
        last = min([ended_at, *poisoned])
        mine = [fault for fault in self._faults if _hit(fault, run) and _was_in_hand(run, fault, last)]
        for fault in sorted(mine, key=lambda fault: fault["hits"] == "all"):
            if ended_at <= self._found_by(fault, run.start["db"]):
                return str(fault["name"])
        return NONE

    def of_unseen(self, db: int, since: float, ended_at: float) -> str:
        """Which fault may have taken a job from one that was given it and never started it; `none` for none.

        Args:
            db: The job's database.
            since: When it was started last; 0 if never.
            ended_at: When it was given up.
        """
        for fault in reversed(self._faults):
            # Whoever was killed was given nothing after that.
            lived = (fault["ended"] if fault["hits"] == "all" else fault["began"]) + fault["reaches"]
            in_time = fault["began"] <= ended_at <= self._found_by(fault, db) and since <= lived
            if in_time and self._is_of(fault, db):
                return str(fault["name"])
        return NONE

    def _is_long(self, fault: Line) -> bool:
        """Whether a fault may have kept anybody from beating for long enough; a short stall does not."""
        lease = min(map(self._leases.of, fault["pids"]), default=self._leases.shortest)
        return bool(fault["what"] != "stall" or _seconds(fault) >= _LEAST_STALL * lease)

    def _is_of(self, fault: Line, db: int) -> bool:
        """Whether a fault hit workers of a database."""
        if fault["hits"] == "pids":
            return any(self._databases.get(pid) == db for pid in fault["pids"])
        return fault["hits"] == "all" and fault.get("db") in (None, db)

    def _found_by(self, fault: Line, db: int) -> float:
        """By when others have found what a fault took away; who can't trust the clock meanwhile fences nobody."""
        until = noticed_by(fault) + self._late
        for other in self._faults:
            if holds_up(other, db) and fault["began"] <= noticed_by(other) and other["began"] <= until:
                until = max(until, noticed_by(other) + self._late)
        return until

    def _of_retry(self, story: Story, run: Run, second: Run) -> str:
        """Whether a run is why there is another attempt; '' if it is not."""
        if run.end is None or run.done or run.end["at"] > second.at:
            return ""
        if run.end["result"] == "raised" and story.was_retried(run):
            return FAILED
        # What was cut had no fault of its own; whose retry nobody saw accepted was kept from seeing that.
        excuse = self._of_hit(run, second)
        if run.end["result"] == "raised":
            return FAILED if excuse and run.settled is None else ""
        return excuse if story.was_retried(run) or run.settled is None else ""

    def _of_again(self, first: Run, second: Run) -> str:
        return self._of_hit(first, second) or self._of_held_up(first, second) or NONE

    def _of_hit(self, run: Run, second: Run) -> str:
        again = second.at
        if run.accepted and run.settled is not None and run.settled["sent_at"] < again:
            return ""
        until = _in_hand_until(run, again)
        if any(run.at - POISONED <= begun["at"] <= until for begun in self._poisoned[run.pid]):
            return "poison job"
        return self._by_process(run, second) or self._by_all(run, second, self._unseen(run, second) * self._found)

    def _unseen(self, run: Run, second: Run) -> int:
        """How many were given the job in between: they never began it, and had to lose it as well."""
        is_counted_anew = any(
            fault.get("forgets_deliveries") and _hit(fault, run) and run.at <= fault["began"] <= second.at
            for fault in self._faults
        )
        return max(0, second.lease[2] - (0 if is_counted_anew else run.lease[2]) - 1)

    def _by_process(self, run: Run, second: Run) -> str:
        # Who was stopped by a fault says as well that he stood still.
        for fault in sorted(self._faults, key=lambda fault: fault["what"] == "stall"):
            mine = fault["hits"] == "pids" and _hit(fault, run) and _was_in_hand(run, fault, second.at)
            if mine and self._led_to(fault, run, second):
                return str(fault["name"])
        return ""

    def _by_all(self, run: Run, second: Run, longer: float = 0.0) -> str:
        # The last to begin: it comes nearest.
        for fault in reversed(self._faults):
            mine = fault["hits"] == "all" and _hit(fault, run) and _was_in_hand(run, fault, second.at)
            in_time = mine and second.at <= self._comes_by(fault, run.start["db"], longer)
            if in_time and self._led_to(fault, run, second):
                return str(fault["name"])
        return ""

    def _comes_by(self, fault: Line, db: int, longer: float) -> float:
        """By when a job comes again after a fault that took it: it waits while poison ends who would start it.

        It waits as well while another fault keeps all from the store, be that of before or after this one.
        """
        until = self._found_by(fault, db) + longer
        for at in self._poisonings[db]:
            if fault["began"] <= at <= until:
                until = max(until, at + self._late)
        return until

    def _led_to(self, fault: Line, run: Run, second: Run) -> bool:
        """Whether a fault that hit a run can have led to the second one as soon as that."""
        if second.attempt != run.attempt or second.lease[2] < run.lease[2]:
            return True  # the store had settled the first; or the second had been given the job before
        has_ended = run.end is not None and run.end["at"] <= second.at
        if grace := fault.get("grace", 0.0):
            return has_ended or second.at >= float(fault["began"] + grace)
        if fault.get("hands_on") or (has_ended and _was_handed_back(run)):
            return True
        return second.at >= self._runs_out(fault, run) and second.at >= self._looked_for(fault, run)

    def _runs_out(self, fault: Line, run: Run) -> float:
        """When the lease of the worker that had a run was over, at the earliest: it had beaten until the fault."""
        lease = self._leases.of(run.pid)
        return self._kept_from_beating(fault, run, lease) + (1 - _BEATEN) * lease - _LAG

    def _kept_from_beating(self, fault: Line, run: Run, lease: float) -> float:
        """From when on a worker may not have got to beat: something may have been in its way before a fault."""
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
        """When somebody fenced a worker that was lost in a fault, at the earliest.

        Where nobody heard of the store for so long that its clock can't be trusted, that is a lease of that worker
        later. Nor does anybody who has come only now fence it sooner.
        """
        is_outage = fault["what"] == "fault" and fault["hits"] == "all"
        undone, lease = fault.get("undone", fault["ended"]), self._leases.of(run.pid)
        if not is_outage or undone - fault["began"] <= _SILENCE * lease + _UNDONE:
            return 0.0
        return float(undone + lease - _UNDONE)

    def _of_held_up(self, first: Run, second: Run) -> str:
        """The second was given the job before the first, and came to start it only after it."""
        if second.lease[2] >= first.lease[2]:
            return ""
        for fault in self._faults:
            mine = fault["hits"] == "pids" and second.pid in fault["pids"]
            if mine and fault["began"] <= first.at and second.at <= fault["ended"] + _MOMENT:
                return str(fault["name"])
        return ""


def holds_up(fault: Line, db: int) -> bool:
    """Whether workers of a database may not get to beat in it, or trust the clock: none is fenced for a lease."""
    return fault.get("db") in (None, db) and bool(fault["hits"] == "all" or fault.get("unsteady"))


def noticed_by(fault: Line) -> float:
    """By when all have noticed that a fault is over: who waits on a half-open connection does so only then."""
    return float(fault["ended"] + max(fault["reaches"], fault["lingers"]))


def _starts(stories: Mapping[Key, Story], name: str) -> Mapping[int, Sequence[Line]]:
    """What each process began of the jobs of this name."""
    found: defaultdict[int, list[Line]] = defaultdict(list)
    for story in stories.values():
        for run in story.runs if story.name == name else ():
            found[run.pid].append(run.start)
    return found


def _hit(fault: Line, run: Run) -> bool:
    """Whether a fault was about the process of a run, or about all of its database."""
    if fault["hits"] == "pids":
        return run.pid in fault["pids"]
    return fault["hits"] == "all" and fault.get("db") in (None, run.start["db"])


def _was_in_hand(run: Run, fault: Line, again: float) -> bool:
    return run.at <= _over(fault) and fault["began"] <= _in_hand_until(run, again)


def _was_handed_back(run: Run) -> bool:
    """Whether its worker gave it back, or was about to when it was last heard of."""
    if run.settled is not None:
        return bool(run.settled["settlement"] == "Release")
    return run.end is not None and bool(run.end["result"] == "cut")


def _in_hand_until(run: Run, again: float) -> float:
    return min(again, run.settled["at"]) if run.settled is not None else again


def _over(fault: Line) -> float:
    return float(fault["ended"] + fault["reaches"])


def _seconds(fault: Line) -> float:
    return float(fault["ended"] - fault["began"])
