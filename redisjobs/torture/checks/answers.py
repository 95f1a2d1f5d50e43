"""Whether what handlers returned is kept, and told to those who wait for it. Pure.

A result says which run returned it. So it is known whether that was the one whose outcome the store took.
"""

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from redisjobs.events.recording import Line
from redisjobs.model.changes import Ending, JobStatus
from redisjobs.torture.checks.causes import noticed_by
from redisjobs.torture.checks.stories import Key, Story
from redisjobs.torture.fleet.store import Final

_TOLD = 5.0  # seconds after the end of a job in which those who wait are told, where nothing keeps them from it
_ASKED_ANEW = 3.0  # seconds after a fault until whoever waits listens again, and has asked
UNKNOWN = ("TimeoutError", "Unavailable")
"""Errors of those who wait that tell nothing of the job."""
_WHY = {"JobFailed": Ending.DEAD, "JobCancelled": Ending.CANCELLED}
"""What those are told who wait for a job without a result."""


def misanswered(stories: Mapping[Key, Story], finals: Sequence[Final], faults: Sequence[Line]) -> Iterator[str]:
    """Results that are missing or another run's, and wrong answers to those who waited, in words.

    Args:
        stories: All jobs, follow-ups taken as pushed.
        finals: What is in each database at the end, all jobs having ended.
        faults: Faults and stalls, as they were written down.
    """
    for db, final in enumerate(finals):
        dead = {letter.job for letter in final.letters}
        for story in stories.values():
            if story.db != db:
                continue
            standing = final.standings.get(story.job)
            if story.kept and not story.holder and standing is not None:
                yield from _of_kept(story, standing, is_dead=story.job in dead)
                for answer in story.answers:
                    yield from _of_answer(story, answer, standing, faults)
            elif story.mark:
                for answer in story.answers:
                    yield from _of_shared_id(story, answer)
            for watch in story.watches:
                yield from _of_watch(story, watch, faults)


def _of_kept(story: Story, standing: JobStatus, *, is_dead: bool) -> Iterator[str]:
    may_be = _endings(story, is_dead=is_dead)
    if standing.ending not in may_be:
        expected = " or ".join(sorted(may_be))
        yield (
            f"whoever asks for the result of {story.label} ({story.name}) is told {standing.ending}, "
            f"not {expected}"
        )
    elif standing.ending is Ending.COMPLETED:
        yield from _of_result(story, json.loads(standing.value))


def _endings(story: Story, *, is_dead: bool) -> Set[Ending]:
    """What may be said of a job that has ended, by what else is known of it."""
    if is_dead:
        return {Ending.DEAD}
    if story.cancelled or any(line["cancelled"] or line["reply"] == "CANCELLED" for line in story.outcomes):
        return {Ending.CANCELLED}
    if story.completed:
        return {Ending.COMPLETED}
    may_be = {Ending.COMPLETED} if story.done else set()
    if story.cancel_asked:
        may_be.add(Ending.CANCELLED)
    if not story.was_there:
        may_be.add(Ending.NOT_FOUND)
    return may_be or {Ending.COMPLETED}


def _of_result(story: Story, said: Any) -> Iterator[str]:
    """A result is that of the run whose outcome was accepted; of one that went to its end, where nobody knows."""
    label = f"the result of {story.label} ({story.name})"
    if not isinstance(said, dict) or said.get("job") != story.job:
        yield f"{label} is {said!r:.100}"
        return
    lease = said["worker"], said["attempt"], said["deliveries"]
    mine = [run for run in story.done if run.lease == lease]
    whose = f"{lease[0]}, attempt {lease[1]}, delivery {lease[2]}"
    if not mine:
        yield f"{label} is that of a run which never ended: {whose}"
    elif all(run.refused and not (run.settled and run.settled["resent"]) for run in mine):
        yield f"{label} is that of a run which was refused: {whose}"
    elif story.completed and lease[:2] not in {(line["worker"], line["attempt"]) for line in story.completed}:
        yield f"{label} is that of {whose}, and another one ended it"


def _of_answer(story: Story, answer: Line, standing: JobStatus, faults: Sequence[Line]) -> Iterator[str]:
    label = f"who waited for {story.label} ({story.name})"
    error = answer["error"]
    if not error:
        if standing.ending is not Ending.COMPLETED or answer["result"] != json.loads(standing.value):
            yield f"{label} was told {answer['result']}, and {standing.ending} {standing.value!r} is kept"
    elif error in _WHY:
        if standing.ending is not _WHY[error]:
            yield f"{label} was told {error}, and it is {standing.ending}"
    elif error not in UNKNOWN:
        yield f"{label} was told {error}"
    elif answer["over"]:
        yield f"{label} was told {error} when all faults were over and it had ended"
    elif not _is_excused(story, answer, faults):
        after = answer["at"] - _ended_by(story)
        yield f"{label} was told {error} {after:.1f} s after its end, and no fault excuses it"


def _of_shared_id(story: Story, answer: Line) -> Iterator[str]:
    """Of jobs that had one id after another each has its own result."""
    if not answer["error"]:
        yield from _of_result(story, answer["result"])
    elif answer["error"] not in UNKNOWN:
        yield f"who waited for {story.label} ({story.name}) was told {answer['error']}, and it had ended as done"


def _of_watch(story: Story, watch: Line, faults: Sequence[Line]) -> Iterator[str]:
    label = f"who watched {story.label} ({story.name})"
    if watch["strange"]:
        yield f"{label} was told of another job: {watch['strange']}"
    sent_at = min((line["sent_at"] for line in story.completed if not line["resent"]), default=0.0)
    if watch["ended"] and sent_at > watch["at"]:
        yield f"{label} was told that it has ended {sent_at - watch['at']:.3f} s before it did"
    elif not _is_excused(story, watch, faults):
        yield f"{label} was not told of its end, for {watch['at'] - _ended_by(story):.1f} s"


def _ended_by(story: Story) -> float:
    """By when a job is known to have ended."""
    ends = [line["at"] for line in story.completed]
    return min(ends, default=float("inf"))


def _is_excused(story: Story, told: Line, faults: Sequence[Line]) -> bool:
    """Whether somebody may have learnt so late, or nothing, that a job has ended: a fault was in his way."""
    ended_by, at = _ended_by(story), told["at"]
    if at - ended_by <= _TOLD:
        return True
    # He may have been told nothing of what ended in a fault, and asks again when he listens again.
    return any(
        _is_in_the_way(fault, story.db) and fault["began"] <= at and noticed_by(fault) + _ASKED_ANEW >= at - _TOLD
        for fault in faults
    )


def _is_in_the_way(fault: Line, db: int) -> bool:
    """Whether a fault may keep those who wait from the store."""
    here = fault.get("db") in (None, db)
    return here and bool(fault["hits"] == "all" or fault.get("unsteady") or fault.get("recovery") == "workers")
