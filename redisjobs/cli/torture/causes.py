"""Why a job ran again: which fault hit that very run. Pure.

A run was hit by a fault of processes if its own process is one of these, and by a fault of all if it was in hand
when that was in force: begun before its end, not settled before its beginning. A job whose outcome was accepted
has no excuse for another run, whatever happened around it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from redisjobs.cli.torture.stories import Key, Line, Run, Story

NONE = "none"
POISONED = 0.5  # seconds that a process may live on which has started a job that kills it
_MOMENT = 1.0  # seconds in which one that was held up starts what it had been given
_LEAST_STALL = 0.4  # of a lease: shorter ones leave time enough to renew


def pairs(story: Story) -> Iterable[tuple[Run, Run]]:
    """Runs of a job where the second came though the first had not failed: both are of one attempt."""
    for first, second in pairwise(sorted(story.runs, key=lambda run: (run.start["attempt"], run.at))):
        if first.start["attempt"] == second.start["attempt"]:
            yield first, second


class Causes:
    """The faults of a run, asked about runs of jobs.

    Args:
        faults: Faults and stalls, as they were written down.
        stories: All jobs.
        lease: Seconds that the workers' leases last.
    """

    def __init__(self, faults: Sequence[Line], stories: Mapping[Key, Story], lease: float) -> None:
        # A lease that ran out is found by whoever looks next.
        self._found = lease + 0.5
        # Until a worker is steady again, which takes a lease, nobody looks.
        self._late = lease + 0.5 + self._found
        self._faults = sorted(
            (fault for fault in faults if fault["what"] != "stall" or _seconds(fault) >= _LEAST_STALL * lease),
            key=lambda line: line["began"],
        )
        self._poisoned = _times(stories, "Poison")
        self._upset = _times(stories, "Upsetter")

    def of(self, first: Run, second: Run) -> str:
        """Which fault hit the first run so that the second had to be; `none` for none."""
        return self._of_hit(first, second) or self._of_held_up(first, second) or NONE

    def of_end(self, run: Run) -> str:
        """Which fault ended the process of a run, or took its lease away, before it was settled; `none` for none.

        Poison is no such fault: who ran beside it is to be told from it.
        """
        return self._by_process(run, float("inf")) or self._by_all(run, float("inf")) or NONE

    def of_unseen(self, db: int, ended_at: float) -> str:
        """Which fault may have taken a job from one that was given it and never started it; `none` for none."""
        for fault in reversed(self._faults):
            about_it = fault["hits"] and fault.get("db") in (None, db)
            if about_it and fault["began"] <= ended_at <= _over(fault) + self._late:
                return str(fault["name"])
        return NONE

    def _of_hit(self, run: Run, second: Run) -> str:
        again = second.at
        if run.accepted and run.settled is not None and run.settled["sent_at"] < again:
            return ""
        until = _in_hand_until(run, again)
        if any(run.at - POISONED <= at <= until for at in self._poisoned[run.pid]):
            return "poison job"
        if any(run.at <= at <= until for at in self._upset[run.pid]):
            return "handler that cancels others"
        # Whoever was given it in between never began it, and had to lose it as well.
        between = max(0, second.lease[2] - run.lease[2] - 1)
        return self._by_process(run, again) or self._by_all(run, again, between * self._found)

    def _by_process(self, run: Run, again: float) -> str:
        for fault in self._faults:
            if fault["hits"] == "pids" and run.pid in fault["pids"] and _was_in_hand(run, fault, again):
                return str(fault["name"])
        return ""

    def _by_all(self, run: Run, again: float, longer: float = 0.0) -> str:
        # The last to begin: it comes nearest.
        for fault in reversed(self._faults):
            about_it = fault["hits"] == "all" and fault.get("db") in (None, run.start["db"])
            in_time = again == float("inf") or again <= _over(fault) + self._late + longer
            if about_it and in_time and _was_in_hand(run, fault, again):
                return str(fault["name"])
        return ""

    def _of_held_up(self, first: Run, second: Run) -> str:
        """The second was given the job before the first, and came to start it only after it."""
        if second.lease[2] >= first.lease[2]:
            return ""
        for fault in self._faults:
            mine = fault["hits"] == "pids" and second.pid in fault["pids"]
            if mine and fault["began"] <= first.at and second.at <= fault["ended"] + _MOMENT:
                return str(fault["name"])
        return ""


def _times(stories: Mapping[Key, Story], name: str) -> Mapping[int, Sequence[float]]:
    """When each process began a job of this name."""
    found: defaultdict[int, list[float]] = defaultdict(list)
    for story in stories.values():
        for run in story.runs if story.name == name else ():
            found[run.pid].append(run.at)
    return found


def _was_in_hand(run: Run, fault: Line, again: float) -> bool:
    return run.at <= _over(fault) and fault["began"] <= _in_hand_until(run, again)


def _in_hand_until(run: Run, again: float) -> float:
    return min(again, run.settled["at"]) if run.settled is not None else again


def _over(fault: Line) -> float:
    return float(fault["ended"] + fault["reaches"])


def _seconds(fault: Line) -> float:
    return float(fault["ended"] - fault["began"])
