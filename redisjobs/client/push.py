"""The books of one call that pushes jobs: what may have been sent, and what each answer or error means.

`client/calls.py` makes the call and repeats it. The store recognizes a repeated push for a limited time only; see
`model/times.py`. So each job that may be pushed again stores when it was first sent, and whether it was answered.
"""

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from redisjobs.base.visible import visible
from redisjobs.errors import DriverError, QueueFull, ServerTooOld, Unavailable, UniqueConflict, WrongType
from redisjobs.model.driver import OtherVersion, PushedInPart
from redisjobs.model.job import OnConflict
from redisjobs.model.times import REPEATABLE
from redisjobs.model.transitions import NewJob, Pushed, Reply, Tries

T = TypeVar("T")
Handle_co = TypeVar("Handle_co", covariant=True)

Conflict = tuple[str, str]
"""A unique key that a job did not get, and the id of the job that has it."""

_UNWRITTEN = (QueueFull, WrongType, ServerTooOld, OtherVersion)  # errors after which nothing was written
_KEPT_OUT = (Reply.EXISTS, Reply.DUPLICATE, Reply.REFUSED)


@dataclass(slots=True)
class PushChunk:
    """Jobs that one call pushes."""

    jobs: list[NewJob]
    prepared: bool  # some come from `prepare`, so the caller may push them again
    is_last: bool  # no chunk follows; False if that is not known yet


class MakeHandle(Protocol[Handle_co]):
    """A function that makes the handle of a pushed job: see `PushedJob`."""

    def __call__(  # noqa: D102
        self, job_id: str, name: str, added: bool | None, replaced: bool = False, is_other: bool = False, /
    ) -> Handle_co: ...


class PushCall:
    """The state of one call that pushes jobs, with all its tries.

    With `prepared`, some jobs come from `prepare`. The caller may have pushed them before, or may do so again.

    Attributes:
        deadline: The most seconds the call may take; fewer if some of the jobs were sent before.
        repeated: Whether some of the jobs may have been sent before.
        conflicts: The conflicts of jobs with `on_conflict="raise"`.

    Raises:
        DriverError: Some of the jobs were first sent too long ago.
    """

    __slots__ = ("_began", "_is_unknown", "_since", "conflicts", "deadline", "jobs", "repeated")

    def __init__(self, jobs: Sequence[NewJob], deadline: float, *, prepared: bool) -> None:
        self.jobs = jobs
        self.deadline = deadline
        self.conflicts: Sequence[Conflict] = ()
        self.repeated = self._is_unknown = False
        self._began = self._since = time.monotonic()
        if prepared:
            self._read_earlier_tries()
            self._note()

    def _read_earlier_tries(self) -> None:
        tries = [job.tries for job in self.jobs if job.tries]
        self.repeated = bool(tries)
        self._is_unknown = not all(each.answered for each in tries)
        self._since = min((each.since for each in tries), default=self._began)
        self.deadline = min(self.deadline, self._since + REPEATABLE - self._began)
        if self.deadline <= 0:
            raise self._too_late()

    def _note(self) -> None:
        """Note that the jobs were sent, before the call ends, because it may be cancelled."""
        for job in self.jobs:
            if job.tries is None:
                job.tries = Tries(self._began)

    def lost(self) -> None:
        """Note that the first try had no answer, and that the next tries are repetitions."""
        self._note()
        self.repeated = self._is_unknown = True

    def handles(self, answers: Sequence[Pushed], make: MakeHandle[Handle_co]) -> list[Handle_co]:
        """Return a handle for each job; raise a `DriverError` if one could not be added."""
        handles: list[Handle_co] = []
        unknown: list[NewJob] = []
        conflicts: list[Conflict] = []
        for job, answer in zip(self.jobs, answers, strict=True):
            reply = answer.reply
            if reply is Reply.OK and job.tries is None:  # the usual case
                handles.append(make(job.job_id, name_in(job), True))
                continue
            if reply is Reply.UNKNOWN:
                unknown.append(job)
                continue
            is_added, is_replaced = self._is_added(job, reply), reply is Reply.REPLACED
            if reply is Reply.DUPLICATE and job.on_conflict is OnConflict.RAISE:
                conflicts.append((job.unique, answer.holder))
            holder = answer.holder or job.job_id
            is_other = holder != job.job_id and not is_replaced
            handles.append(make(holder, name_in(job), is_added, is_replaced, is_other))
        if unknown:
            raise self._not_added(unknown, answers)
        self.conflicts = conflicts
        return handles

    def _not_added(self, unknown: Sequence[NewJob], answers: Sequence[Pushed]) -> DriverError:
        names = visible(unknown[0].job_id) + (f" and {len(unknown) - 1} more" if len(unknown) > 1 else "")
        said = (
            f"{len(unknown)} of {len(self.jobs)} jobs may have been added by an earlier try of this push, or may "
            f"not ({names}): the server's clock was set ahead since, so the store can't tell. Nothing was written "
            "for them now; check whether they ran, and push them again if they must run"
        )
        kept_out = sum(answer.reply in _KEPT_OUT for answer in answers)
        others = f", but for {kept_out} that met another job of their id or unique key" if kept_out else ""
        return DriverError(f"{said}. The others are there{others}", jobs=unknown)

    def _is_added(self, job: NewJob, reply: Reply) -> bool:
        """Return whether this push or an earlier, unanswered try of it added the job."""
        tries = job.tries
        if tries is None:
            return reply is Reply.OK
        is_found = reply is Reply.REPEATED and self.repeated and not tries.answered
        if self.repeated or reply in (Reply.OK, Reply.REPEATED, Reply.REPLACED):
            tries.answered = True
        else:
            _forget(job)  # it was refused, and no other try of it can still arrive
        return reply is Reply.OK or is_found

    def failed(self, error: DriverError) -> DriverError:
        """Return the error to raise for an error reply, with the jobs that may not be on the queue."""
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
            self._note()  # some may have been written, so the next push of these jobs is a repetition
        error.jobs = tuple(jobs)
        return error

    def gave_up(self, cause: BaseException | None) -> Unavailable:
        """Return the error of a push that got no answer. If no try could write, the error says so."""
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
            f"After {REPEATABLE:g} s the store no longer knows whether it was there, and has ended: look with "
            "get(id), and push it again if it is to run",
            jobs=self.jobs,
        )

    def _named(self) -> str:
        first, more = visible(self.jobs[0].job_id), len(self.jobs) - 1
        return f"{first} and {more} more" if more else first


async def push_chunks(push: Callable[[PushChunk], Awaitable[list[T]]], chunks: Iterator[PushChunk]) -> list[T]:
    """Push chunks, one after another, and return the handles of all their jobs.

    It encodes the next chunk while a push waits for its answer: both take about the same time.
    """
    handles, chunk = list[T](), next(chunks, None)
    while chunk is not None and not chunk.is_last:
        pushed, chunk = await _push_and_encode(push, chunk, chunks)
        handles += pushed
    return handles if chunk is None else [*handles, *await push(chunk)]


async def _push_and_encode(
    push: Callable[[PushChunk], Awaitable[list[T]]], chunk: PushChunk, chunks: Iterator[PushChunk]
) -> tuple[list[T], PushChunk | None]:
    pushed, broken, following = list[T](), list[BaseException](), None

    async def pushing() -> None:
        try:
            pushed.extend(await push(chunk))
        except Exception as error:
            broken.insert(0, error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pushing)
        await checkpoint()  # the push is sent now
        try:
            following = next(chunks, None)
        except BaseException as error:  # raised after the push has ended, unless the push itself fails
            broken.append(error)
    try:
        for each in broken:
            if isinstance(each, DriverError) and following is not None:
                each.jobs += tuple(following.jobs)
            raise each
    finally:
        broken.clear()  # or the error would be part of a cycle through its traceback
    return pushed, following


def raise_conflicts(conflicts: Sequence[Conflict]) -> None:
    """Raise a `UniqueConflict` if there are conflicts of jobs with `on_conflict="raise"`."""
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


def name_in(job: NewJob) -> str:
    """Return the name of a job that is to be pushed."""
    name = job.fields[1]
    return name if isinstance(name, str) else name.decode("utf-8", "replace")


def gave_up(push: PushCall | None, deadline: float, cause: BaseException | None) -> Unavailable:
    """Return the error of a call that did not succeed until its deadline; `push` is None for other calls."""
    return push.gave_up(cause) if push else Unavailable(no_answer(deadline, cause))


def no_answer(seconds: float, cause: BaseException | None) -> str:
    """Return the message for a call that did not succeed until its deadline."""
    said = str(cause or "").rstrip(".") or "the store accepted the connection and said nothing"
    if isinstance(cause, DriverError) and not isinstance(cause, Unavailable):
        return f"no answer from the store at first, then: {said}"
    return f"gave up after {seconds:.3g} s: {said}"


def _is_open(answer: Pushed | None) -> bool:
    """Return whether a job has no definite answer, so that it may not be on the queue."""
    return answer is None or answer.reply is Reply.UNKNOWN


def _forget(job: NewJob) -> None:
    """Reset a job to unsent, unless an earlier push of it was answered."""
    if job.tries is None or not job.tries.answered:
        job.tries = job.sent_ms = None
