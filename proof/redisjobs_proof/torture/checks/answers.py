"""Checks that results of handlers are kept, and reach the processes that wait for them. Pure.

A result names the run that returned it. So we can compare that run with the one whose outcome Redis accepted.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

from redisjobs.events.recording import Line
from redisjobs.model.changes import Ending, JobStatus
from redisjobs_proof.torture.checks.causes import noticed_by
from redisjobs_proof.torture.checks.dead_letters import KILLERS
from redisjobs_proof.torture.checks.histories import History, Key
from redisjobs_proof.torture.fleet.final import FinalState

MIXED_UP = "mixed up: "
"""Begins what is wrong with a job that has the result of another one: no loss of data excuses that."""

_TOLD = 5.0  # seconds after a job's end in which waiting processes have to learn of it, without a fault
_ASKED_AGAIN = 3.0  # seconds after a fault until waiting processes listen again and have asked
_NOTIFIED = 0.1  # seconds after a commit in which a worker on Postgres has notified
UNKNOWN = ("TimeoutError", "Unavailable")
"""Errors of a wait that say nothing about the job."""
_WHY = {"JobFailed": Ending.DEAD, "JobCancelled": Ending.CANCELLED}
"""The error for each ending without a result."""


def wrong_answers(
    histories: Mapping[Key, History], finals: Sequence[FinalState], faults: Sequence[Line]
) -> Iterator[str]:
    """Yield results that are missing or of another run, and wrong answers to waiting processes, in words.

    Follow-ups count as pushed by now, and all jobs have ended.
    """
    deaths = _deaths(histories.values())
    for db, final in enumerate(finals):
        dead = {letter.job for letter in final.letters}
        for history in histories.values():
            if history.db != db:
                continue
            status = final.statuses.get(history.job)
            if history.kept and not history.holder and status is not None:
                yield from _of_kept(history, status, is_dead=history.job in dead)
                for answer in history.answers:
                    yield from _of_answer(history, answer, status, faults, deaths)
            elif history.mark:
                for answer in history.answers:
                    yield from _of_shared_id(history, answer)
            for watch in history.watches:
                yield from _of_watch(history, watch, faults, deaths)


def _of_kept(history: History, status: JobStatus, *, is_dead: bool) -> Iterator[str]:
    may_be = _endings(history, is_dead=is_dead)
    if status.ending not in may_be:
        expected = " or ".join(sorted(may_be))
        yield (f"the answer for the result of {history.label} ({history.name}) is {status.ending}, not {expected}")
    elif status.ending is Ending.COMPLETED:
        yield from _of_result(history, json.loads(status.value))


def _endings(history: History, *, is_dead: bool) -> Set[Ending]:
    """Return how a job may have ended, by the rest of its history."""
    if is_dead:
        return {Ending.DEAD}
    if history.cancelled or any(line["cancelled"] or line["reply"] == "CANCELLED" for line in history.outcomes):
        return {Ending.CANCELLED}
    if history.completed:
        return {Ending.COMPLETED}
    may_be = {Ending.COMPLETED} if history.done else set()
    if history.cancel_asked:
        may_be.add(Ending.CANCELLED)
    if not history.was_there:
        may_be.add(Ending.NOT_FOUND)
    return may_be or {Ending.COMPLETED}


def _of_result(history: History, said: Any) -> Iterator[str]:
    """Check that a result is of the run whose outcome Redis accepted; without a reply, of any completed run."""
    label = f"the result of {history.label} ({history.name})"
    if not isinstance(said, dict) or said.get("job") != history.job:
        yield f"{MIXED_UP}{label} is {said!r:.100}"
        return
    lease = said["worker"], said["attempt"], said["deliveries"]
    mine = [run for run in history.done if run.lease == lease]
    whose = f"{lease[0]}, attempt {lease[1]}, delivery {lease[2]}"
    if not mine:
        yield f"{label} is that of a run which never ended: {whose}"
    elif all(run.refused and not (run.settled and run.settled["resent"]) for run in mine):
        yield f"{label} is that of a run which was refused: {whose}"
    elif history.completed and lease[:2] not in {(line["worker"], line["attempt"]) for line in history.completed}:
        yield f"{label} is that of {whose}, and another one ended it"


def _of_answer(
    history: History, answer: Line, status: JobStatus, faults: Sequence[Line], deaths: Mapping[int, float]
) -> Iterator[str]:
    label = f"a wait for {history.label} ({history.name})"
    error = answer["error"]
    if not error:
        if status.ending is not Ending.COMPLETED or answer["result"] != json.loads(status.value):
            yield f"{label} returned {answer['result']}, and {status.ending} {status.value!r} is kept"
    elif error in _WHY:
        if status.ending is not _WHY[error]:
            yield f"{label} raised {error}, and it is {status.ending}"
    elif error not in UNKNOWN:
        yield f"{label} raised {error}"
    elif answer["over"]:
        yield f"{label} raised {error} when all faults were over and it had ended"
    elif not _is_excused(history, answer, faults, deaths):
        after = answer["at"] - _ended_by(history)
        yield f"{label} raised {error} {after:.1f} s after its end, and no fault excuses it"


def _of_shared_id(history: History, answer: Line) -> Iterator[str]:
    """Check that each of several jobs that had one id has its own result."""
    if not answer["error"]:
        yield from _of_result(history, answer["result"])
    elif answer["error"] not in UNKNOWN:
        yield f"a wait for {history.label} ({history.name}) raised {answer['error']}, and it had ended as done"


def _of_watch(history: History, watch: Line, faults: Sequence[Line], deaths: Mapping[int, float]) -> Iterator[str]:
    label = f"a watch of {history.label} ({history.name})"
    if watch["strange"]:
        yield f"{label} reported on another job: {watch['strange']}"
    sent_at = min((line["sent_at"] for line in history.completed if not line["resent"]), default=0.0)
    if watch["ended"] and sent_at > watch["at"]:
        yield f"{label} ended {sent_at - watch['at']:.3f} s before the job did"
    elif not _is_excused(history, watch, faults, deaths):
        yield f"{label} missed the job's end, for {watch['at'] - _ended_by(history):.1f} s"


def _ended_by(history: History) -> float:
    """Return the time by which a job had surely ended."""
    ends = [line["at"] for line in history.completed]
    return min(ends, default=float("inf"))


def _deaths(histories: Iterable[History]) -> Mapping[int, float]:
    """Return when processes were killed by a job, by process: each such job kills at once."""
    killers = (history for history in histories if history.name in KILLERS)
    return {run.pid: run.at for history in killers for run in history.runs if run.end is None}


def _is_excused(history: History, told: Line, faults: Sequence[Line], deaths: Mapping[int, float]) -> bool:
    """Whether a fault explains that a process learned of a job's end late, or not at all."""
    ended_by, at = _ended_by(history), told["at"]
    if at - ended_by <= _TOLD:
        return True
    # On Postgres a worker notifies after the commit, and its next job may kill it right then.
    if any(0 <= deaths.get(line["pid"], 0.0) - line["at"] <= _NOTIFIED for line in history.completed):
        return True
    # A notification during a fault may be lost. The process asks again once it listens again.
    return any(
        _is_in_the_way(fault, history.db)
        and fault["began"] <= at
        and noticed_by(fault) + _ASKED_AGAIN >= at - _TOLD
        for fault in faults
    )


def _is_in_the_way(fault: Line, db: int) -> bool:
    """Whether a fault may cut waiting processes off from Redis."""
    here = fault.get("db") in (None, db)
    return here and bool(fault["hits"] == "all" or fault.get("unsteady") or fault.get("recovery") == "workers")
