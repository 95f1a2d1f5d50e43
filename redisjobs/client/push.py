"""One call that pushes jobs: what is known of them before it, while it is tried, and after.

A push is told apart from its repetitions by what the store remembers, which is not for ever. So each job that may
be pushed again knows when that was tried first, and whether its caller was told what came of it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from redisjobs.base.visible import visible
from redisjobs.errors import DriverError, QueueFull, ServerTooOld, Unavailable, UniqueConflict, WrongType
from redisjobs.model.driver import OtherVersion, PushedInPart
from redisjobs.model.job import OnConflict
from redisjobs.model.transitions import REPEATABLE, NewJob, Pushed, Reply, Tries

PushOutcome = tuple[str, str, bool, bool]
"""Of a job that was pushed: its id, or that of the job which holds its key; its name; whether it was added; and
whether it has replaced that other job."""

Conflict = tuple[str, str]
"""Of a job that met a held key: the key, and the id of the job that holds it."""

_UNWRITTEN = (QueueFull, WrongType, ServerTooOld, OtherVersion)  # what is refused so has written nothing
_KEPT_OUT = (Reply.EXISTS, Reply.DUPLICATE, Reply.REFUSED)


@dataclass(slots=True)
class Chunk:
    """Jobs that one call pushes.

    Attributes:
        jobs: The jobs.
        held: Whether the caller holds any, to push it again.
        is_last: Whether there is none behind it; False where nobody knows yet.
    """

    jobs: list[NewJob]
    held: bool
    is_last: bool


class Push:
    """One call that pushes jobs, and tries until it has an answer or its time is over.

    Args:
        jobs: The jobs.
        deadline: Seconds that it may take.
        held: Whether the caller may push some of these again, or has done so: `prepare` made them.

    Attributes:
        jobs: The jobs.
        deadline: Seconds that it may take; fewer if some of the jobs were tried before.
        repeated: Whether some of these may have been pushed before.
        conflicts: Of the jobs that met a held key, those whose caller wants that as an error.

    Raises:
        DriverError: Some were tried first too long ago.
    """

    __slots__ = ("_began", "_is_unknown", "_since", "conflicts", "deadline", "jobs", "repeated")

    def __init__(self, jobs: Sequence[NewJob], deadline: float, *, held: bool) -> None:
        self.jobs = jobs
        self.deadline = deadline
        self.conflicts: Sequence[Conflict] = ()
        self.repeated = self._is_unknown = False
        self._began = self._since = time.monotonic()
        if held:
            self._look_back()
            self._note()

    def _look_back(self) -> None:
        tries = [job.tries for job in self.jobs if job.tries]
        self.repeated = bool(tries)
        self._is_unknown = not all(each.told for each in tries)
        self._since = min((each.since for each in tries), default=self._began)
        self.deadline = min(self.deadline, self._since + REPEATABLE - self._began)
        if self.deadline <= 0:
            raise self._too_late()

    def _note(self) -> None:
        """Note the tries: whatever ends the call, a cancel say, they were made."""
        for job in self.jobs:
            if job.tries is None:
                job.tries = Tries(self._began)

    def lost(self) -> None:
        """The first try had no answer, and others follow."""
        self._note()
        self.repeated = self._is_unknown = True

    def told(self, answers: Sequence[Pushed]) -> list[PushOutcome]:
        """What became of each job.

        Raises:
            DriverError: One could not be added.
        """
        told: list[PushOutcome] = []
        unknown: list[NewJob] = []
        conflicts: list[Conflict] = []
        for job, answer in zip(self.jobs, answers, strict=True):
            reply = answer.reply
            if reply is Reply.OK and job.tries is None:  # by far the most
                told.append((job.job_id, name_in(job), True, False))
                continue
            if reply is Reply.UNKNOWN:
                unknown.append(job)
                continue
            is_added = self._is_added(job, reply)
            if reply is Reply.DUPLICATE and job.on_conflict is OnConflict.RAISE:
                conflicts.append((job.unique, answer.holder))
            told.append((answer.holder or job.job_id, name_in(job), is_added, reply is Reply.REPLACED))
        if unknown:
            raise self._not_added(unknown, answers)
        self.conflicts = conflicts
        return told

    def _not_added(self, unknown: Sequence[NewJob], answers: Sequence[Pushed]) -> DriverError:
        names = visible(unknown[0].job_id) + (f" and {len(unknown) - 1} more" if len(unknown) > 1 else "")
        said = (
            f"{len(unknown)} of {len(self.jobs)} jobs may have been added by an earlier try of this push, and "
            f"have ended, or may not ({names}): the server's clock was set ahead since, so that it has "
            "forgotten. Nothing was written for them now; look what they did, and if they are to run all the "
            "same, push them again"
        )
        kept_out = sum(answer.reply in _KEPT_OUT for answer in answers)
        others = f", but for {kept_out} that met another job of their id or unique key" if kept_out else ""
        return DriverError(f"{said}. The others are there{others}", jobs=unknown)

    def _is_added(self, job: NewJob, reply: Reply) -> bool:
        """Whether this push made the job, and this is the first time that its caller is told."""
        tries = job.tries
        if tries is None:
            return reply is Reply.OK
        is_found = reply is Reply.REPEATED and self.repeated and not tries.told
        if self.repeated or reply in (Reply.OK, Reply.REPEATED, Reply.REPLACED):
            tries.told = True
        else:
            _forget(job)  # it was refused, and no bytes of it are under way
        return reply is Reply.OK or is_found

    def failed(self, error: DriverError) -> DriverError:
        """What to raise for an error reply: it has the jobs that are not known to be there."""
        if self._is_unknown:
            return self.gave_up(error)
        jobs = self.jobs
        if isinstance(error, PushedInPart):
            cause = error.cause
            jobs = [job for job, answer in zip(jobs, error.answers, strict=True) if _is_open(answer)]
            error = type(cause)(
                f"{len(self.jobs) - len(jobs)} of {len(self.jobs)} jobs had been answered before this failed. Of "
                f"the other {len(jobs)}, which are in error.jobs: {cause}"
            )
        if isinstance(error, _UNWRITTEN):
            for job in jobs:
                _forget(job)
        else:
            self._note()  # it may be written in part, so whoever tries again repeats it
        error.jobs = tuple(jobs)
        return error

    def gave_up(self, cause: BaseException | None) -> Unavailable:
        """The error where no try was answered. The jobs are not there if no try could write them."""
        if all(job.sent_ms is None for job in self.jobs):
            for job in self.jobs:
                _forget(job)
            return Unavailable(
                f"{no_answer(self.deadline, cause)}. The push is not on the queue ({self._named()}): nothing was "
                "written; push_many(error.jobs) pushes it later",
                jobs=self.jobs,
            )
        left = self._since + REPEATABLE - time.monotonic()
        what = (
            f"for another {int(left)} s push_many(error.jobs) repeats it and adds nothing twice"
            if left >= 1
            else "it can't be repeated safely any more: look with get(id), and push it again if need be"
        )
        why = no_answer(self.deadline, cause)
        return Unavailable(
            f"{why}. The push may or may not be on the queue ({self._named()}); {what}", jobs=self.jobs
        )

    def _too_late(self) -> DriverError:
        return DriverError(
            f"nothing was sent: this was first pushed {self._began - self._since:.0f} s ago ({self._named()}). "
            f"After {REPEATABLE:g} s it can't be told any more whether it was stored, and has ended since: look "
            "with get(id), and if it is to be pushed all the same, push it again",
            jobs=self.jobs,
        )

    def _named(self) -> str:
        first, more = visible(self.jobs[0].job_id), len(self.jobs) - 1
        return f"{first} and {more} more" if more else first


def raise_conflicts(conflicts: Sequence[Conflict]) -> None:
    """Raise for the jobs of a call that met a held key and want that as an error, if there are any.

    Raises:
        UniqueConflict: There are.
    """
    if not conflicts:
        return
    (key, holder), more = conflicts[0], len(conflicts) - 1
    others = (
        f", and {more} more of this call met a held key likewise; all its other jobs were pushed" if more else ""
    )
    raise UniqueConflict(
        f"not pushed: the job {visible(holder, 60)} holds the unique key '{visible(key, 60)}'{others}",
        job_ids=[each for _, each in conflicts],
    )


def _is_open(answer: Pushed | None) -> bool:
    """Whether a job that was answered so is not known to be on the queue, nor kept out by another job."""
    return answer is None or answer.reply is Reply.UNKNOWN


def name_in(job: NewJob) -> str:
    """The name of a job on its way in."""
    name = job.fields[1]
    return name if isinstance(name, str) else name.decode("utf-8", "replace")


def _forget(job: NewJob) -> None:
    """Let a job be as if it had not been tried, but for a push of it that was told before."""
    if job.tries is None or not job.tries.told:
        job.tries = job.sent_ms = None


def no_answer(seconds: float, cause: BaseException | None) -> str:
    """What to say of a call that had none until its deadline."""
    said = str(cause or "").rstrip(".") or "it accepted the connection and said nothing"
    if isinstance(cause, DriverError) and not isinstance(cause, Unavailable):
        return f"no answer from the store at first, then: {said}"
    return f"no answer from the store in {seconds:.3g} s: {said}"
