"""The schedules of a queue, for an operator, and for code that makes them at run time: `queue.schedules`.

Those that code declares show in the same list; see `Registry.schedule`. Who fires them is a `Scheduler`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Generic, Literal, Protocol, TypeVar, Unpack

from redisjobs.base.visible import visible
from redisjobs.errors import DriverError, RegistrationError, UnknownSchedule
from redisjobs.model.codec import new_job_id
from redisjobs.model.job import Duration, JobName
from redisjobs.model.options import PushOptions
from redisjobs.model.queries import Change, Query
from redisjobs.model.stored import (
    Accuracy,
    Definition,
    ListSchedules,
    PauseSchedule,
    Put,
    PutAnswer,
    PutSchedules,
    RemoveSchedule,
    ScheduleInfo,
    SchedulePage,
    job_now,
    schedule_infos,
    schedule_pages,
)
from redisjobs.model.transitions import NewJob, Reply
from redisjobs.schedules.schedule import Schedule

T = TypeVar("T")
Handle = TypeVar("Handle", covariant=True)


class Queue(Protocol[Handle]):
    """What an async queue lends to its schedules."""

    @property
    def define(self) -> Callable[..., Definition]: ...  # noqa: D102

    async def _read(self, query: Query[T]) -> T: ...

    async def _change(self, change: Change[T]) -> T: ...

    async def _push(self, jobs: Sequence[NewJob], conflicts: list[tuple[str, str]]) -> Sequence[Handle]: ...


class Schedules(Generic[Handle]):
    """The schedules of an async queue. Every method may raise `DriverError`, as those of the queue do.

    A name that is no text is a `TypeError`.
    """

    def __init__(self, queue: Queue[Handle]) -> None:
        self._queue = queue

    async def list(self) -> list[ScheduleInfo]:
        """All schedules, in the order of their names."""
        pages = [await self._queue._read(ListSchedules())]
        while pages[-1].more is not None:
            pages.append(await self._queue._read(ListSchedules(after=pages[-1].more)))
        return schedule_infos(pages)

    async def get(self, name: str) -> ScheduleInfo | None:
        """One schedule; None if there is none of that name."""
        return next(iter(schedule_infos([await self._queue._read(ListSchedules(_named(name)))])), None)

    async def put(
        self,
        name: str,
        parameters: Any,
        rule: Schedule,
        *,
        job: JobName[Any] | str | None = None,
        accuracy: Accuracy | Literal["latest", "all"] = Accuracy.LATEST,
        at_most: int = 100,
        jitter: Duration | None = None,
        **options: Unpack[PushOptions],
    ) -> None:
        """Make a schedule, or change the one of that name: any scheduler of this queue fires it from now on.

        It stays until it is removed. A change of its parameters alone keeps its slots; with another rule they
        count from now. The arguments are those of `Registry.schedule`.

        Raises:
            RegistrationError: A release that is running declares one of that name in its code; nothing is changed.
        """
        made = self._queue.define(
            parameters, rule, job=job, name=name, accuracy=accuracy, at_most=at_most, jitter=jitter, **options
        )
        _check_put(name, await self._queue._change(_put(made)))

    async def pause(self, name: str) -> bool:
        """Let a schedule fire nothing, over restarts and releases; whether there is one of that name."""
        return await self._queue._change(PauseSchedule(_named(name), pause=True)) is Reply.OK

    async def resume(self, name: str) -> bool:
        """Let a paused schedule fire again, from now on, what it left out left out; whether there is one."""
        return await self._queue._change(PauseSchedule(_named(name), pause=False)) is Reply.OK

    async def remove(self, name: str) -> bool:
        """Forget a schedule; whether there was one.

        Raises:
            RegistrationError: A release that is running declares it in its code, and would have it back at once.
        """
        return _removed(name, await self._queue._change(RemoveSchedule(_named(name))))

    async def run_now(self, name: str) -> Handle:
        """Push what a schedule pushes, at once; its slots stay as they are, also where it is paused.

        Raises:
            UnknownSchedule: There is none of that name, or what is stored of it can't be read.
        """
        job = _now(name, await self._queue._read(ListSchedules(_named(name))))
        (handle,) = await self._queue._push([job], [])
        return handle


class SyncQueue(Protocol[Handle]):
    """What a sync queue lends to its schedules."""

    @property
    def define(self) -> Callable[..., Definition]: ...  # noqa: D102

    def _read(self, query: Query[T]) -> T: ...

    def _change(self, change: Change[T]) -> T: ...

    def _push(self, jobs: Sequence[NewJob], conflicts: list[tuple[str, str]]) -> Sequence[Handle]: ...


class SyncSchedules(Generic[Handle]):
    """The schedules of a sync queue; see `Schedules`, whose methods these are."""

    def __init__(self, queue: SyncQueue[Handle]) -> None:
        self._queue = queue

    def list(self) -> list[ScheduleInfo]:
        """See `Schedules.list`."""
        return schedule_infos(schedule_pages(self._queue._read))

    def get(self, name: str) -> ScheduleInfo | None:
        """See `Schedules.get`."""
        return next(iter(schedule_infos([self._queue._read(ListSchedules(_named(name)))])), None)

    def put(
        self,
        name: str,
        parameters: Any,
        rule: Schedule,
        *,
        job: JobName[Any] | str | None = None,
        accuracy: Accuracy | Literal["latest", "all"] = Accuracy.LATEST,
        at_most: int = 100,
        jitter: Duration | None = None,
        **options: Unpack[PushOptions],
    ) -> None:
        """See `Schedules.put`."""
        made = self._queue.define(
            parameters, rule, job=job, name=name, accuracy=accuracy, at_most=at_most, jitter=jitter, **options
        )
        _check_put(name, self._queue._change(_put(made)))

    def pause(self, name: str) -> bool:
        """See `Schedules.pause`."""
        return self._queue._change(PauseSchedule(_named(name), pause=True)) is Reply.OK

    def resume(self, name: str) -> bool:
        """See `Schedules.resume`."""
        return self._queue._change(PauseSchedule(_named(name), pause=False)) is Reply.OK

    def remove(self, name: str) -> bool:
        """See `Schedules.remove`."""
        return _removed(name, self._queue._change(RemoveSchedule(_named(name))))

    def run_now(self, name: str) -> Handle:
        """See `Schedules.run_now`."""
        job = _now(name, self._queue._read(ListSchedules(_named(name))))
        (handle,) = self._queue._push([job], [])
        return handle


def _named(name: str) -> str:
    """A schedule's name; what was put there by hand may have any."""
    if not isinstance(name, str) or not name:
        raise TypeError(f"{name!r:.100} is no schedule's name: give its text")
    return name


def _put(definition: Definition) -> PutSchedules:
    return PutSchedules([Put.whole(definition)])


def _check_put(name: str, answer: PutAnswer) -> None:
    if answer.replies[0] is Reply.DECLARED:
        raise RegistrationError(
            f"schedule '{visible(name)}': a release that is running declares it in its code; change it there, or "
            "give yours another name; nothing was changed"
        )
    if answer.replies[0] is Reply.SPOILED:
        raise DriverError(
            f"schedule '{visible(name)}': what is stored of it is no schedule, by somebody's hand; remove it "
            "first; nothing was changed"
        )


def _removed(name: str, reply: Reply) -> bool:
    if reply is Reply.DECLARED:
        raise RegistrationError(
            f"schedule '{visible(name)}': a release that is running declares it in its code, and would have it "
            "back at once; take it out there, or pause it; nothing was changed"
        )
    return reply is Reply.OK


def _now(name: str, page: SchedulePage) -> NewJob:
    """The job that a schedule pushes, for now."""
    if not page.rows:
        raise UnknownSchedule(f"there is no schedule '{visible(name)}'; nothing was pushed")
    try:
        definition = Definition.read(name, page.rows[0].fields)
    except ValueError as error:
        raise UnknownSchedule(
            f"what is stored of schedule '{visible(name)}' can't be read: {error}; nothing was pushed"
        ) from error
    return job_now(definition, new_job_id(), int(page.server_ms))
