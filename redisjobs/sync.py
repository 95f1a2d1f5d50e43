"""The sync face of a queue, for code without an event loop: the same names, the same meaning, no `await`.

A module can define one of these and serve both sides: web code pushes to it, `redisjobs worker` runs its
handlers.
"""

import functools
import math
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Concatenate, Generic, Protocol, Self, TypeVar, Unpack, cast, overload

from redisjobs import drivers
from redisjobs.base.arguments import flag, one_of, seconds, whole
from redisjobs.client.backoff import retrying_sync
from redisjobs.client.push import Conflict, Push, raise_conflicts
from redisjobs.client.registry import (
    Args,
    FunctionJob,
    Given,
    P,
    Returned,
    Returned_co,
    Unchecked,
    check_job_options,
    id_of,
)
from redisjobs.client.schedules import SyncSchedules
from redisjobs.client.waiting import Waitings, WaitingThread
from redisjobs.errors import DriverError, Unavailable
from redisjobs.middleware import NOBODY, Middleware, before_push_sync
from redisjobs.model import codec
from redisjobs.model.codec import JobInfo
from redisjobs.model.context import JobContext
from redisjobs.model.filters import (
    AT_ONCE,
    FilterOptions,
    Requeuing,
    cancellable_state,
    cancellation,
    done,
    filter_of,
    holding,
    letting_go,
    states_of,
    waiting_state,
)
from redisjobs.model.groups import DeadGroup, Groups
from redisjobs.model.job import AppState, Duration, Expected, JobName, Named, PushedJob, State, TypedMapping
from redisjobs.model.limits import Limit, LimitInfo, LimitKey, limit_infos, limited_name
from redisjobs.model.options import HandlerOptions, PushOptions
from redisjobs.model.pauses import PauseInfo, pause_info, paused_name
from redisjobs.model.progress import Progress
from redisjobs.model.queries import (
    BulkResult,
    Cancel,
    Change,
    ChangeMany,
    Count,
    Counts,
    Delete,
    DeleteAll,
    Filter,
    Find,
    FindLimits,
    FindPauses,
    FindWorkers,
    GroupDead,
    Hold,
    Pause,
    Query,
    Requeue,
    Resume,
    Row,
    Scan,
    SetLimit,
    Unhold,
    Unpark,
)
from redisjobs.model.retention import ASIDE, Retention
from redisjobs.model.retry import RetryPolicy
from redisjobs.model.signature import Signature
from redisjobs.model.transitions import MOST_JOBS, NewJob, Reply
from redisjobs.model.workers import WorkerInfo, worker_infos
from redisjobs.queue import gave_up, requeued
from redisjobs.serving import Serving

R = TypeVar("R")
T = TypeVar("T")


@dataclass(slots=True, unsafe_hash=True)
class JobHandle(PushedJob, Generic[R]):
    """A job that was pushed; see `PushedJob`. For type checkers it knows what the job's handler returns."""

    _queue: "JobQueue" = field(repr=False, compare=False)

    def result(self, *, timeout: Duration | None = None) -> R:
        """Wait until the job has ended, and give what its handler returned; see `redisjobs.JobQueue.result`."""
        returned: R = self._queue.result(self, timeout=timeout)
        return returned

    def watch(self) -> Iterator[Progress]:
        """Go through what the job reports of how far it is, until it has ended; see `redisjobs.JobQueue.watch`."""
        return self._queue.watch(self.id)

    def info(self) -> JobInfo | None:
        """Look the job up; see `redisjobs.JobQueue.get`."""
        return self._queue.get(self.id)

    def cancel(self) -> Reply:
        """Cancel the job; see `redisjobs.JobQueue.cancel` for the replies."""
        return self._queue.cancel(self.id)


class JobQueue(Serving):
    """A queue of jobs for sync code; see `redisjobs.JobQueue`, whose arguments and methods these are.

    It may be shared by threads. Use it as `with queue:`, or call `close` at the end.
    """

    _awaits_push = False

    def __init__(
        self,
        where: Any,
        name: str = "default",
        *,
        retry: RetryPolicy | None = None,
        max_parameters: int = codec.MAX_PARAMETERS,
        deadline: Duration = 10,
        middleware: Iterable[Middleware] = (),
        retention: Retention | None = None,
    ) -> None:
        super().__init__(
            name,
            retry=retry,
            max_parameters=max_parameters,
            deadline=deadline,
            middleware=middleware,
            retention=retention,
        )
        self.driver, self._store = drivers.connect_sync(where, name)
        self._waitings, self._thread = Waitings(), WaitingThread()

    def move(self, where: Any) -> None:
        """Let the queue be somewhere else, before its first call; `where` as for the queue itself."""
        self.driver, self._store = drivers.connect_sync(where, self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the queue can be used again after."""
        self._thread.close(self._stop_waiting)
        self._store.close()

    async def _stop_waiting(self) -> None:
        self._waitings.close()
        await self.driver.aclose()

    async def disconnect(self) -> None:
        """Close all connections, also those of a worker of this queue; for the event loop that this runs in."""
        await super().disconnect()
        self.close()

    @property
    def schedules(self) -> SyncSchedules[JobHandle[Any]]:
        """The schedules of this queue, to look at, and to make and change at run time."""
        return SyncSchedules(self)

    @property
    def job(self) -> "JobDecorator":
        """Make the decorated function a job; see `redisjobs.JobQueue.job`."""
        return cast("JobDecorator", self._job)

    def _job(self, function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        check_job_options(function, options)
        if function is None:
            return functools.partial(self._job, **options)
        return JobFunction(self, function, *self.register_function(function, **options))

    @overload
    def push(self, parameters: P, name: JobName[P], **options: Unpack[PushOptions]) -> JobHandle[Any]: ...

    @overload
    def push(
        self, parameters: dict[str, Any], name: JobName[TypedMapping], **options: Unpack[PushOptions]
    ) -> JobHandle[Any]: ...

    @overload
    def push(self, parameters: Named, name: None = None, **options: Unpack[PushOptions]) -> JobHandle[Any]: ...

    @overload
    def push(self, parameters: Any, name: str, **options: Unpack[PushOptions]) -> JobHandle[Any]: ...

    def push(
        self, parameters: Any, name: JobName[Any] | str | None = None, **options: Unpack[PushOptions]
    ) -> JobHandle[Any]:
        """Put a job on the queue; see `redisjobs.JobQueue.push` for what it returns and raises."""
        conflicts: list[Conflict] = []
        (handle,) = self._push([self.prepare(parameters, name, **options)], conflicts)
        raise_conflicts(conflicts)
        return handle

    @overload
    def push_many(
        self, items: Iterable[P | NewJob], name: JobName[P], **options: Unpack[PushOptions]
    ) -> list[JobHandle[Any]]: ...

    @overload
    def push_many(
        self, items: Iterable[dict[str, Any] | NewJob], name: JobName[TypedMapping], **options: Unpack[PushOptions]
    ) -> list[JobHandle[Any]]: ...

    @overload
    def push_many(
        self, items: Iterable[Named | NewJob], name: None = None, **options: Unpack[PushOptions]
    ) -> list[JobHandle[Any]]: ...

    @overload
    def push_many(
        self, items: Iterable[Any], name: str, **options: Unpack[PushOptions]
    ) -> list[JobHandle[Any]]: ...

    def push_many(
        self, items: Iterable[Any], name: JobName[Any] | str | None = None, **options: Unpack[PushOptions]
    ) -> list[JobHandle[Any]]:
        """Put many jobs on the queue; see `redisjobs.JobQueue.push_many`."""
        handles, conflicts = list[JobHandle[Any]](), list[Conflict]()
        for chunk in self.prepare_many(items, name, options):
            handles += self._push(chunk.jobs, conflicts, held=chunk.held)
        raise_conflicts(conflicts)
        return handles

    @overload
    def result(self, job: str | PushedJob, *, timeout: Duration | None = None, returns: type[R]) -> R: ...

    @overload
    def result(self, job: str | PushedJob, *, timeout: Duration | None = None, returns: None = None) -> Any: ...

    def result(self, job: str | PushedJob, *, timeout: Duration | None = None, returns: Any = None) -> Any:
        """Wait until a job has ended, and give what its handler returned; see `redisjobs.JobQueue.result`.

        All threads that wait share one connection, in a thread of its own, which begins with the first of them.
        `close` ends it; for whoever waits yet another one begins.
        """
        job_id, expected = id_of(job), self.expected(job, returns)
        limit = None if timeout is None else seconds(timeout, "timeout")
        since = time.monotonic()
        return self._thread.call(lambda: self._wait_for(job_id, expected, limit, since))

    async def _wait_for(self, job_id: str, expected: Expected, limit: float | None, since: float) -> Any:
        return await self._waitings.here(self.driver, self.name).result(job_id, expected, limit, since)

    def watch(self, job: str | PushedJob) -> Iterator[Progress]:
        """Go through what a job reports of how far it is, until it has ended; see `redisjobs.JobQueue.watch`."""
        return self._thread.each(functools.partial(self._progress, id_of(job)))

    async def _progress(self, job_id: str) -> AsyncGenerator[Progress, None]:
        async with aclosing(self._waitings.here(self.driver, self.name).progress(job_id)) as reports:
            async for progress in reports:
                yield progress

    @overload
    def run(
        self,
        parameters: P,
        name: JobName[P],
        *,
        timeout: Duration | None = None,
        **options: Unpack[PushOptions],
    ) -> Any: ...

    @overload
    def run(
        self,
        parameters: dict[str, Any],
        name: JobName[TypedMapping],
        *,
        timeout: Duration | None = None,
        **options: Unpack[PushOptions],
    ) -> Any: ...

    @overload
    def run(
        self,
        parameters: Named,
        name: None = None,
        *,
        timeout: Duration | None = None,
        **options: Unpack[PushOptions],
    ) -> Any: ...

    @overload
    def run(
        self, parameters: Any, name: str, *, timeout: Duration | None = None, **options: Unpack[PushOptions]
    ) -> Any: ...

    def run(
        self,
        parameters: Any,
        name: JobName[Any] | str | None = None,
        *,
        timeout: Duration | None = None,
        **options: Unpack[PushOptions],
    ) -> Any:
        """Push a job, wait until it has ended, and give what it returned; see `redisjobs.JobQueue.run`."""
        limit = None if timeout is None else seconds(timeout, "timeout")
        job, conflicts = self._awaited(self.prepare(parameters, name, **options)), list[Conflict]()
        (handle,) = self._push([job], conflicts)
        raise_conflicts(conflicts)
        return self.result(handle, timeout=limit)

    def get(self, job: str | PushedJob) -> JobInfo | None:
        """Look a job up; see `redisjobs.JobQueue.get`."""
        row = self._read(Find(id_of(job)))
        return None if row is None else codec.job_info(row)

    def jobs(
        self, state: State | str | None = None, limit: int = 100, **options: Unpack[FilterOptions]
    ) -> list[JobInfo]:
        """List jobs of one state, or of each; see `redisjobs.JobQueue.jobs`."""
        states, wanted, most = states_of(state), filter_of(options), min(whole(limit, "limit"), MOST_JOBS)
        return [job for each in states for job in self._scan(each, wanted, most)]

    def scan(self, state: State | str, **options: Unpack[FilterOptions]) -> Iterator[JobInfo]:
        """Go through all jobs of one state that are meant; see `redisjobs.JobQueue.scan`."""
        return self._scan(one_of(State, state, "state"), filter_of(options))

    def _scan(self, state: State, wanted: Filter, most: float = math.inf) -> Iterator[JobInfo]:
        after = None
        while after != "" and most > 0:
            step = self._read(Scan(state, wanted, after or "", int(min(most, MOST_JOBS))))
            yield from map(codec.job_info, step.rows)
            after, most = step.after, most - len(step.rows)

    def dead_groups(self) -> list[DeadGroup]:
        """Tell how many dead letters there are of each kind; see `redisjobs.JobQueue.dead_groups`."""
        groups, after = Groups(), None
        while after != "":
            step = self._read(GroupDead(after or ""))
            groups.add(step.groups)
            after = step.after
        return groups.result()

    def counts(self) -> Counts:
        """How many jobs are in each state at one instant."""
        return self._read(Count())

    def cancel(self, job: str | PushedJob) -> Reply:
        """Cancel a job; see `redisjobs.JobQueue.cancel` for the replies."""
        return self._change(Cancel(id_of(job)))

    def pause(self, name: str | JobName[Any] | None = None) -> None:
        """Let no job start, of the queue or of one name; see `redisjobs.JobQueue.pause`."""
        self._change(Pause(paused_name(name)))

    def resume(self, name: str | JobName[Any] | None = None) -> None:
        """Let jobs start again; see `redisjobs.JobQueue.resume`."""
        self._change(Resume(paused_name(name)))
        after = None
        while name is not None and after != "":
            after = self._change(Unpark(after or ""))

    def is_paused(self, name: str | JobName[Any] | None = None) -> bool:
        """Whether the queue is paused, or, if one is given, that job name by itself."""
        return self.pauses().is_paused(paused_name(name))

    def pauses(self) -> PauseInfo:
        """What may not start; see `redisjobs.JobQueue.pauses`."""
        return pause_info(self._read(FindPauses()))

    def set_limit(
        self,
        name: str | JobName[Any],
        *,
        max_concurrency: int | None = None,
        rate: str | None = None,
        burst: int | None = None,
    ) -> None:
        """Limit the jobs of a name in the whole fleet; see `redisjobs.JobQueue.set_limit`."""
        limit, after = Limit(max_concurrency, rate, burst).text, None
        while after != "":
            after = self._change(SetLimit(limited_name(name), limit, after or ""))

    def limits(self) -> list[LimitInfo]:
        """Which job names have limits, and who holds what; see `redisjobs.JobQueue.limits`."""
        steps = [self._read(FindLimits())]
        while steps[-1].after:
            steps.append(self._read(FindLimits(steps[-1].after)))
        return limit_infos(steps)

    def workers(self) -> list[WorkerInfo]:
        """The workers of this queue, each as it was at its last heartbeat; by their ids."""
        steps = [self._read(FindWorkers())]
        while steps[-1].after:
            steps.append(self._read(FindWorkers(steps[-1].after)))
        return worker_infos(steps)

    def hold(self, job: str | PushedJob) -> Reply:
        """Let one waiting job not start; see `redisjobs.JobQueue.hold` for the replies."""
        return self._change(Hold(id_of(job)))

    def unhold(self, job: str | PushedJob) -> bool:
        """Let go of a job that is held; whether it was."""
        return self._change(Unhold(id_of(job))) is Reply.OK

    def requeue(self, job: str | PushedJob, *, parameters: Any = None, ended: bool = False) -> bool:
        """Make a dead letter ready again; see `redisjobs.JobQueue.requeue`."""
        job_id, is_ended = id_of(job), flag(ended, "ended")
        if parameters is None:
            return requeued(job_id, self._change(Requeue(job_id, ended=is_ended)))
        row = self._read(Find(job_id))
        if row is None or row.state not in (ASIDE if is_ended else (State.DEAD,)):
            return False
        return requeued(job_id, self._change(self.edited(row, parameters)))

    def delete(self, job: str | PushedJob) -> bool:
        """Throw a dead letter away; whether there was one."""
        return self._change(Delete(id_of(job))) is Reply.OK

    def requeue_all(self, *, rate: str | None = None, **options: Unpack[FilterOptions]) -> int:
        """Give all dead letters that are meant another life; see `redisjobs.JobQueue.requeue_all`."""
        return self._take_all(Requeuing(filter_of(options), rate).step)

    def delete_all(self, **options: Unpack[FilterOptions]) -> int:
        """Throw all dead letters away that are meant; see `redisjobs.JobQueue.delete_all`."""
        wanted = filter_of(options)
        return self._take_all(lambda taken: DeleteAll(wanted, taken.after))

    def cancel_all(self, state: State | str, **options: Unpack[FilterOptions]) -> int:
        """Cancel all jobs that are meant; see `redisjobs.JobQueue.cancel_all`."""
        return self._change_all(cancellable_state(state), filter_of(options), cancellation)

    def hold_all(self, state: State | str, **options: Unpack[FilterOptions]) -> int:
        """Hold all waiting jobs that are meant; see `redisjobs.JobQueue.hold_all`."""
        return self._change_all(waiting_state(state), filter_of(options), holding)

    def unhold_all(self, state: State | str, **options: Unpack[FilterOptions]) -> int:
        """Let go of all held jobs that are meant; see `redisjobs.JobQueue.unhold_all`."""
        return self._change_all(waiting_state(state), filter_of(options), letting_go)

    def _take_all(self, step: Callable[[BulkResult], Change[BulkResult]]) -> int:
        taken, total = BulkResult(()), 0
        while True:
            taken = self._change(step(taken))
            total += len(taken.job_ids)
            if not taken.after:
                return total

    def _change_all(self, state: State, wanted: Filter, change: Callable[[Sequence[Row]], ChangeMany]) -> int:
        total, after = 0, None
        while after != "":
            step = self._read(Scan(state, wanted, after or "", AT_ONCE))
            several = change(step.rows)
            if several.changes:
                total += done(self._change(several))
            after = step.after
        return total

    def _push(
        self, jobs: Sequence[NewJob], conflicts: list[Conflict], *, held: bool = False
    ) -> list[JobHandle[Any]]:
        ends = before_push_sync(self.on_push, jobs, self.name) if self.on_push else NOBODY
        try:
            push = Push(jobs, self.deadline, held=held)
            answers = self._call(lambda until: self._store.push(jobs, repeated=push.repeated, until=until), push)
            told = self._told(push, answers)
            conflicts += push.conflicts
        except BaseException as error:
            self._tell_failed(error, ends)
            raise
        if ends is not NOBODY:
            ends.tell([added for _, _, added, _ in told])
        return [
            JobHandle(*each, self, is_other=each[0] != job.job_id and not each[3])
            for job, each in zip(jobs, told, strict=True)
        ]

    def handle(self, job_id: str, name: str, *, added: bool | None) -> JobHandle[Any]:
        """The handle of a job of this queue."""
        return JobHandle(job_id, name, added, False, self)

    def _read(self, query: Query[T]) -> T:
        return self._call(lambda until: self._store.read(query, until=until))

    def _change(self, change: Change[T]) -> T:
        answer = self._call(lambda until: self._store.change(change, until=until))
        self._tell_changed(change, answer)
        return answer

    def _call(self, call: Callable[[float], T], push: Push | None = None) -> T:
        """Call the store, and again with backoff and jitter while it is unavailable, until the deadline.

        `call` is told when that is, by the monotonic clock.
        """
        deadline = push.deadline if push else self.deadline
        end = time.monotonic() + deadline
        try:
            return call(end)
        except Unavailable as error:
            cause: BaseException = error
        except DriverError as error:
            raise push.failed(error) if push else error  # noqa: B904  (the same error, most often)
        if push:
            push.lost()

        def again() -> T:
            nonlocal cause
            if time.monotonic() >= end:  # the pause before lasted until then
                raise cause
            try:
                return call(end)
            except Unavailable as error:
                if time.monotonic() < end:  # else it was cut off, which says less than what went before
                    cause = error
                raise cause from None

        try:
            return retrying_sync(again, on=(Unavailable,), within=end - time.monotonic())
        except DriverError as error:  # refused now; but an earlier try of a push may have been stored
            if not (push or isinstance(error, Unavailable)):
                raise
            cause = error
        raise gave_up(push, deadline, cause) from cause


class JobDecorator(Protocol):
    """Makes a function a job."""

    @overload
    def __call__(self, function: Unchecked[Returned, AppState], /) -> "JobFunction[..., ..., Returned]": ...

    @overload
    def __call__(
        self, function: Callable[Concatenate[JobContext[AppState], Given], Returned], /
    ) -> "JobFunction[Concatenate[JobContext[AppState], Given], Given, Returned]": ...

    @overload
    def __call__(self, function: Callable[Args, Returned], /) -> "JobFunction[Args, Args, Returned]": ...

    @overload
    def __call__(
        self,
        /,
        *,
        name: str | None = None,
        limit_key: LimitKey | None = None,
        **options: Unpack[HandlerOptions],
    ) -> "JobDecorator": ...


class JobFunction(FunctionJob[Args, Given, Returned_co]):
    """A function that is a job of a sync queue as well; see `FunctionJob`."""

    def __init__(
        self, queue: JobQueue, function: Callable[Args, Returned_co], name: JobName[Any], signature: Signature
    ) -> None:
        super().__init__(queue, function, name, signature)
        self._queue = queue

    @overload
    def push(
        self: "JobFunction[Args, Given, Coroutine[Any, Any, R]]", *args: Given.args, **kwargs: Given.kwargs
    ) -> JobHandle[R]: ...

    @overload
    def push(self: "JobFunction[Args, Given, R]", *args: Given.args, **kwargs: Given.kwargs) -> JobHandle[R]: ...

    def push(self, *args: Given.args, **kwargs: Given.kwargs) -> JobHandle[Any]:
        """Put a call of the function on the queue; see `JobQueue.push`."""
        parameters = self._signature.arguments(*args, **kwargs)
        return self._queue.push(parameters, self.name, **self._options)

    @overload
    def run(
        self: "JobFunction[Args, Given, Coroutine[Any, Any, R]]", *args: Given.args, **kwargs: Given.kwargs
    ) -> R: ...

    @overload
    def run(self: "JobFunction[Args, Given, R]", *args: Given.args, **kwargs: Given.kwargs) -> R: ...

    def run(self, *args: Given.args, **kwargs: Given.kwargs) -> Any:
        """Push a call of the function, and wait for what it returns; see `JobQueue.run`.

        All arguments are the function's own. To wait no longer than for some time, push it and ask for the result,
        as `price.options(keep_result=60).push(5).result(timeout=10)`.
        """
        parameters = self._signature.arguments(*args, **kwargs)
        return self._queue.run(parameters, self.name, **self._options)
