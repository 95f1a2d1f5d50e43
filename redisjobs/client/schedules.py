"""`queue.schedules`: list a queue's schedules, and make, pause and remove schedules at run time.

The list includes the schedules that code declares; see `Registry.schedule`. A `Scheduler` fires them.
"""

from typing import Any, Generic, Literal, Unpack

from redisjobs.base.visible import visible
from redisjobs.client.calls import Calls, SyncCalls
from redisjobs.client.operation import Operation, ask
from redisjobs.client.pushing import Handle, Pushing, SyncPushing
from redisjobs.client.registry import Registry
from redisjobs.errors import DriverError, RegistrationError, UnknownSchedule
from redisjobs.model.codec import new_job_id
from redisjobs.model.definition import Accuracy, Definition, job_now
from redisjobs.model.job import Duration, JobName
from redisjobs.model.options import PushOptions
from redisjobs.model.stored import (
    ListSchedules,
    PauseSchedule,
    Put,
    PutSchedules,
    RemoveSchedule,
    ScheduleInfo,
    schedule_infos,
)
from redisjobs.model.transitions import NewJob, Reply
from redisjobs.schedules.schedule import Schedule


class Schedules(Generic[Handle]):
    """The schedules of an async queue. Every method may raise `DriverError`, and `TypeError` for a wrong name."""

    def __init__(self, queue: Registry, calls: Calls, pushing: Pushing[Handle]) -> None:
        self._queue, self._calls, self._pushing = queue, calls, pushing

    async def list(self) -> list[ScheduleInfo]:
        """Return all schedules, by name."""
        return await self._calls.do(listed())

    async def get(self, name: str) -> ScheduleInfo | None:
        """Return the schedule of that name, or None."""
        return await self._calls.do(_get(name))

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
        """Make a schedule, or replace the one of that name. Any scheduler of this queue fires it from now on.

        It stays until you remove it. If only the parameters change, its slots stay; slots of a new rule count from
        now. For the arguments see `Registry.schedule`.

        Raises:
            RegistrationError: A running release declares a schedule of that name in its code. Nothing is changed.
        """
        made = self._queue._define(
            parameters, rule, job=job, name=name, accuracy=accuracy, at_most=at_most, jitter=jitter, **options
        )
        await self._calls.do(_put(name, made))

    async def pause(self, name: str) -> bool:
        """Stop a schedule from firing, even after restarts and new releases; return whether it exists."""
        return await self._calls.do(_pause(name, pause=True))

    async def resume(self, name: str) -> bool:
        """Let a paused schedule fire its slots from now on; return whether it exists."""
        return await self._calls.do(_pause(name, pause=False))

    async def remove(self, name: str) -> bool:
        """Remove a schedule; return whether it existed.

        Raises:
            RegistrationError: A running release declares it in its code, and would declare it again at once.
        """
        return await self._calls.do(_remove(name))

    async def run_now(self, name: str) -> Handle:
        """Push the job of a schedule now, even if the schedule is paused. Its slots don't change.

        Raises:
            UnknownSchedule: No schedule has that name, or its stored form can't be read.
        """
        (handle,) = await self._pushing.push([await self._calls.do(_job_now(name))], [])
        return handle


class SyncSchedules(Generic[Handle]):
    """The schedules of a sync queue, with the methods of `Schedules`."""

    def __init__(self, queue: Registry, calls: SyncCalls, pushing: SyncPushing[Handle]) -> None:
        self._queue, self._calls, self._pushing = queue, calls, pushing

    def list(self) -> list[ScheduleInfo]:
        """See `Schedules.list`."""
        return self._calls.do(listed())

    def get(self, name: str) -> ScheduleInfo | None:
        """See `Schedules.get`."""
        return self._calls.do(_get(name))

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
        made = self._queue._define(
            parameters, rule, job=job, name=name, accuracy=accuracy, at_most=at_most, jitter=jitter, **options
        )
        self._calls.do(_put(name, made))

    def pause(self, name: str) -> bool:
        """See `Schedules.pause`."""
        return self._calls.do(_pause(name, pause=True))

    def resume(self, name: str) -> bool:
        """See `Schedules.resume`."""
        return self._calls.do(_pause(name, pause=False))

    def remove(self, name: str) -> bool:
        """See `Schedules.remove`."""
        return self._calls.do(_remove(name))

    def run_now(self, name: str) -> Handle:
        """See `Schedules.run_now`."""
        (handle,) = self._pushing.push([self._calls.do(_job_now(name))], [])
        return handle


# The operations, for both queue classes; see operation.py


def _named(name: str) -> str:
    if not isinstance(name, str) or not name:
        raise TypeError(f"{name!r:.100} is not a schedule's name: give its text")
    return name


def listed() -> Operation[list[ScheduleInfo]]:
    """List the schedules."""
    pages = [(yield from ask(ListSchedules()))]
    while pages[-1].more is not None:
        pages.append((yield from ask(ListSchedules(after=pages[-1].more))))
    return schedule_infos(pages)


def _get(name: str) -> Operation[ScheduleInfo | None]:
    page = yield from ask(ListSchedules(_named(name)))
    return next(iter(schedule_infos([page])), None)


def _put(name: str, definition: Definition) -> Operation[None]:
    answer = yield from ask(PutSchedules([Put.whole(definition)]))
    if answer.replies[0] is Reply.DECLARED:
        raise RegistrationError(
            f"schedule '{visible(name)}': a release that is running declares it in its code; change it there, or "
            "give yours another name; nothing was changed"
        )
    if answer.replies[0] is Reply.SPOILED:
        raise DriverError(
            f"schedule '{visible(name)}': its key in Redis holds something else; remove it first; nothing was "
            "changed"
        )


def _pause(name: str, *, pause: bool) -> Operation[bool]:
    return (yield from ask(PauseSchedule(_named(name), pause=pause))) is Reply.OK


def _remove(name: str) -> Operation[bool]:
    reply = yield from ask(RemoveSchedule(_named(name)))
    if reply is Reply.DECLARED:
        raise RegistrationError(
            f"schedule '{visible(name)}': a release that is running declares it in its code, and would have it "
            "back at once; take it out there, or pause it; nothing was changed"
        )
    return reply is Reply.OK


def _job_now(name: str) -> Operation[NewJob]:
    """Return the job of a schedule, due now."""
    page = yield from ask(ListSchedules(_named(name)))
    if not page.rows:
        raise UnknownSchedule(f"there is no schedule '{visible(name)}'; nothing was pushed")
    try:
        definition = Definition.read(name, page.rows[0].fields)
    except ValueError as error:
        raise UnknownSchedule(
            f"what is stored of schedule '{visible(name)}' can't be read: {error}; nothing was pushed"
        ) from error
    return job_now(definition, new_job_id(), int(page.server_ms))
