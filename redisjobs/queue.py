"""The async face of a queue: register handlers, push jobs, look at them, act on them."""

import functools
import math
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Concatenate, Generic, Protocol, Self, TypeVar, Unpack, cast, overload

import anyio
from anyio.lowlevel import checkpoint

from redisjobs import drivers
from redisjobs.base.arguments import flag, one_of, seconds, whole
from redisjobs.client.backoff import retrying
from redisjobs.client.push import Chunk, Conflict, Push, no_answer, raise_conflicts
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
from redisjobs.client.schedules import Schedules
from redisjobs.client.waiting import Waitings
from redisjobs.errors import DecodeError, DriverError, Unavailable
from redisjobs.middleware import NOBODY, Middleware, before_push
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
from redisjobs.model.job import AppState, Duration, JobName, Named, PushedJob, State, TypedMapping
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
from redisjobs.model.transitions import LONGEST_TRY, MOST_JOBS, NewJob, Reply
from redisjobs.model.workers import WorkerInfo, worker_infos
from redisjobs.serving import Serving

R = TypeVar("R")
T = TypeVar("T")


@dataclass(slots=True, unsafe_hash=True)
class JobHandle(PushedJob, Generic[R]):
    """A job that was pushed; see `PushedJob`. For type checkers it knows what the job's handler returns."""

    _queue: "JobQueue" = field(repr=False, compare=False)

    async def result(self, *, timeout: Duration | None = None) -> R:
        """Wait until the job has ended, and give what its handler returned; see `JobQueue.result`.

        Where this queue has its handler, that is of the type that the handler says. Where the push met a held
        unique key the job may be of another name: then it is of that type if it fits, else what its JSON says.
        """
        returned: R = await self._queue.result(self, timeout=timeout)
        return returned

    def watch(self) -> AsyncIterator[Progress]:
        """Go through what the job reports of how far it is, until it has ended; see `JobQueue.watch`."""
        return self._queue.watch(self.id)

    async def info(self) -> JobInfo | None:
        """Look the job up; see `JobQueue.get`."""
        return await self._queue.get(self.id)

    async def cancel(self) -> Reply:
        """Cancel the job; see `JobQueue.cancel` for the replies."""
        return await self._queue.cancel(self.id)


class JobQueue(Serving):
    """A queue of jobs: what producers push to, and where handlers are registered.

    Use it as `async with queue:`, or call `aclose` at the end; connections open when first needed.

    Args:
        where: `memory://`, `redis://…`, `rediss://…`, `unix://…`, an existing redis-py client, or a driver.
        name: The queue's name; jobs of different queues never mix.
        retry: The retry policy of handlers that name none. Defaults to `exponential_jitter()`.
        max_parameters: Bytes of JSON that a job's parameters may have. Defaults to 512 KiB.
        deadline: Seconds that a call is retried for while the store is unavailable. Defaults to 10 s.
        middleware: Who takes part in what happens to the jobs, the outermost first; see `add_middleware`.
        retention: What the queue keeps, and for how long. A worker of it stores that as it begins, and the last
            that did so counts. None leaves what is stored: at first 30 days and 100,000 of the dead, no others.
    """

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
        self.driver = drivers.connect(where, name)
        self._waitings = Waitings()

    def move(self, where: Any) -> None:
        """Let the queue be somewhere else, before its first call; `where` as for the queue itself."""
        self.driver = drivers.connect(where, self.name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; the queue can be used again after."""
        await self.disconnect()

    async def disconnect(self) -> None:
        """Close all connections, also those of a worker of this queue; for the event loop that this runs in."""
        self._waitings.close()
        await super().disconnect()

    @property
    def schedules(self) -> Schedules[JobHandle[Any]]:
        """The schedules of this queue, to look at, and to make and change at run time."""
        return Schedules(self)

    @property
    def job(self) -> "JobDecorator":
        """Make the decorated function a job: its signature is the parameters, and it can still be called.

        An argument annotated `JobContext` gets the context and is no parameter. Where it comes first, type
        checkers know what is to be pushed; see `JobFunction`.

        Args:
            function: The function, or a partial of one, or an object that can be called.
            name: The job's name. Defaults to the function's.
            limit_key: Says under which key a job is counted. It gets an object with the arguments as attributes.
            options: See `HandlerOptions`.

        Raises:
            RegistrationError: The name has a handler already, or the signature can't be a job's; or what it
                returns can't be kept.
            TypeError: There is no such option.
            ValueError: A limit makes no sense.
        """
        return cast("JobDecorator", self._job)

    def _job(self, function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        check_job_options(function, options)
        if function is None:
            return functools.partial(self._job, **options)
        return JobFunction(self, function, *self.register_function(function, **options))

    @overload
    async def push(self, parameters: P, name: JobName[P], **options: Unpack[PushOptions]) -> JobHandle[Any]: ...

    @overload
    async def push(
        self, parameters: dict[str, Any], name: JobName[TypedMapping], **options: Unpack[PushOptions]
    ) -> JobHandle[Any]: ...

    @overload
    async def push(
        self, parameters: Named, name: None = None, **options: Unpack[PushOptions]
    ) -> JobHandle[Any]: ...

    @overload
    async def push(self, parameters: Any, name: str, **options: Unpack[PushOptions]) -> JobHandle[Any]: ...

    async def push(
        self, parameters: Any, name: JobName[Any] | str | None = None, **options: Unpack[PushOptions]
    ) -> JobHandle[Any]:
        """Put a job on the queue; when this returns, it is there.

        Args:
            parameters: What the handler gets: an instance of the declared type.
            name: For parameters whose type has no `job_name` of its own, or serves several names: a JobName, or
                the name of a job that has a handler here, and then a dict of the fields will do for parameters.
            options: See `PushOptions`.

        Returns:
            The job: its `id`, and whether it was `added`. It was not if a job of this id is on the queue, or if
            another job holds the unique key: the id is that job's then, and `replaced` says whether that one is by
            now what was pushed.

        Raises:
            EncodeError: The parameters don't fit their declared type, or are too large; nothing was sent.
            UnknownJob: No handler here has that name; nothing was sent.
            UniqueConflict: Another job holds the unique key, and `on_conflict` is `"raise"`; nothing was written.
            QueueFull: The server is out of memory; nothing was written.
            WrongType: A key was made by hand as something else; nothing was written.
            Unavailable: No answer until the deadline. The job may or may not be there.
            DriverError: Any of these, or another error of the store. It has the job in `jobs`: up to 50 s after
                the push began, `push_many(error.jobs)` makes the same push again, and adds nothing twice; after
                that it is refused, for it can't be told any more whether the job was there and has ended.
        """
        conflicts: list[Conflict] = []
        (handle,) = await self._push([self.prepare(parameters, name, **options)], conflicts)
        raise_conflicts(conflicts)
        return handle

    @overload
    async def push_many(
        self, items: Iterable[P | NewJob], name: JobName[P], **options: Unpack[PushOptions]
    ) -> list[JobHandle[Any]]: ...

    @overload
    async def push_many(
        self, items: Iterable[dict[str, Any] | NewJob], name: JobName[TypedMapping], **options: Unpack[PushOptions]
    ) -> list[JobHandle[Any]]: ...

    @overload
    async def push_many(
        self, items: Iterable[Named | NewJob], name: None = None, **options: Unpack[PushOptions]
    ) -> list[JobHandle[Any]]: ...

    @overload
    async def push_many(
        self, items: Iterable[Any], name: str, **options: Unpack[PushOptions]
    ) -> list[JobHandle[Any]]: ...

    async def push_many(
        self, items: Iterable[Any], name: JobName[Any] | str | None = None, **options: Unpack[PushOptions]
    ) -> list[JobHandle[Any]]:
        """Put many jobs on the queue, in order, one script call for each 500.

        Args:
            items: Parameters, or what `prepare` made of them; taken as needed, so a generator is fine. What was
                prepared can be pushed again, up to 50 s after it was pushed first: that is the same push.
            name: As for `push`.
            options: As for `push`, for all of them but those already prepared.

        Returns:
            What `push` returns, for each.

        Raises:
            EncodeError: One of them is bad; the chunks before its own were pushed, nothing of its own was.
            UniqueConflict: Other jobs hold unique keys, and `on_conflict` is `"raise"`. All others were pushed.
            DriverError: As for `push`. The chunks before were pushed. In `jobs` are those of its own that are not
                known to be there, and behind them the next one, if that was encoded meanwhile. What comes after
                was not taken from `items` yet.
        """
        handles, conflicts = list[JobHandle[Any]](), list[Conflict]()
        chunks = self.prepare_many(items, name, options)
        chunk = next(chunks, None)
        while chunk is not None:
            pushed, chunk = await self._push_and_encode(chunk, chunks, conflicts)
            handles += pushed
        raise_conflicts(conflicts)
        return handles

    @overload
    async def result(self, job: str | PushedJob, *, timeout: Duration | None = None, returns: type[R]) -> R: ...

    @overload
    async def result(
        self, job: str | PushedJob, *, timeout: Duration | None = None, returns: None = None
    ) -> Any: ...

    async def result(self, job: str | PushedJob, *, timeout: Duration | None = None, returns: Any = None) -> Any:
        """Wait until a job has ended, and give what its handler returned.

        The result is kept where the push says so, or the handler's registration: `keep_result=`. Nothing is
        polled: however many wait in this process, it listens on one connection, and is told. When the queue is
        closed meanwhile, whoever waits yet opens it again.

        Args:
            job: Its id, or its handle.
            timeout: How long to wait; 0 to look once. Defaults to for ever. The job goes on in any case.
            returns: The type that the result is to be of, and is checked by. Of a handle it defaults to what the
                handler says, if this queue has it; else to what JSON says: dicts, lists, strings, numbers.

        Raises:
            TimeoutError: It has not ended in that time.
            JobFailed: It is a dead letter; the error has type, message and traceback.
            JobCancelled: It was cancelled.
            ResultRefused: It is done, but what its handler returned could not be kept.
            ResultExpired: It is done, and its result was kept until a while ago.
            ResultNotKept: No result is kept: at once where that is known, else when the job has ended. Also where
                nothing is known of such a job.
            DecodeError: The result does not fit the type.
            DriverError: The store refuses to answer. While it is merely away, this waits; only a look, with
                `timeout=0`, raises `Unavailable`.
        """
        job_id, expected = id_of(job), self.expected(job, returns)
        limit = None if timeout is None else seconds(timeout, "timeout")
        return await self._waitings.here(self.driver, self.name).result(job_id, expected, limit)

    def watch(self, job: str | PushedJob) -> AsyncIterator[Progress]:
        """Go through what a job reports of how far it is, for `async for`; it ends as the job ends.

        It begins with the last that is known. Reports that come faster than they are looked at are left out, but
        for the newest. How the job has ended `result` and `get` tell. A job of which nothing is known has ended.

        Args:
            job: Its id, or its handle.

        Raises:
            DriverError: The store refuses to answer. While it is merely away, this waits.
        """
        return self._progress(id_of(job))

    async def _progress(self, job_id: str) -> AsyncGenerator[Progress, None]:
        async with aclosing(self._waitings.here(self.driver, self.name).progress(job_id)) as reports:
            async for progress in reports:
                yield progress

    @overload
    async def run(
        self,
        parameters: P,
        name: JobName[P],
        *,
        timeout: Duration | None = None,
        **options: Unpack[PushOptions],
    ) -> Any: ...

    @overload
    async def run(
        self,
        parameters: dict[str, Any],
        name: JobName[TypedMapping],
        *,
        timeout: Duration | None = None,
        **options: Unpack[PushOptions],
    ) -> Any: ...

    @overload
    async def run(
        self,
        parameters: Named,
        name: None = None,
        *,
        timeout: Duration | None = None,
        **options: Unpack[PushOptions],
    ) -> Any: ...

    @overload
    async def run(
        self, parameters: Any, name: str, *, timeout: Duration | None = None, **options: Unpack[PushOptions]
    ) -> Any: ...

    async def run(
        self,
        parameters: Any,
        name: JobName[Any] | str | None = None,
        *,
        timeout: Duration | None = None,
        **options: Unpack[PushOptions],
    ) -> Any:
        """Push a job, wait until it has ended, and give what its handler returned.

        Args:
            parameters: As for `push`.
            name: As for `push`.
            timeout: How long to wait once it is pushed. Defaults to for ever. The job goes on in any case.
            options: As for `push`. `keep_result` defaults to what the registration says, else to an hour.

        Raises:
            NoResult: As `result`, as do TimeoutError, DecodeError and DriverError.
            EncodeError: As `push`.
            ValueError: As `push`; and `keep_result=0` keeps nothing that could be waited for.
            RegistrationError: What its handler here returns can't be read; nothing was pushed.
        """
        limit = None if timeout is None else seconds(timeout, "timeout")
        job, conflicts = self._awaited(self.prepare(parameters, name, **options)), list[Conflict]()
        (handle,) = await self._push([job], conflicts)
        raise_conflicts(conflicts)
        return await self.result(handle, timeout=limit)

    async def get(self, job: str | PushedJob) -> JobInfo | None:
        """Look a job up, by its id or handle: delayed, ready, running or dead; None if it ended or never was.

        One that has ended is found where the queue keeps such: see `Retention`.

        A job put in by hand goes by its entry id; where that is taken, by entry and stream, as `1732-0@low`.
        """
        row = await self._read(Find(id_of(job)))
        return None if row is None else codec.job_info(row)

    async def jobs(
        self, state: State | str | None = None, limit: int = 100, **options: Unpack[FilterOptions]
    ) -> list[JobInfo]:
        """List jobs of one state, or of each: running, ready, delayed, dead, completed, cancelled.

        Running and ready jobs come by priority and age, delayed ones by due time, others newest first.

        Args:
            state: delayed, ready, running, dead; or completed or cancelled, where the queue keeps those. Defaults
                to all of these, one after another.
            limit: How many of each state at most; up to 500. `scan` goes through all jobs of one.
            options: Which of them; see `FilterOptions`.

        Raises:
            ValueError: There is no such state, the limit is less than 1, or an option makes no sense.
            TypeError: There is no such option.
        """
        states, wanted, most = states_of(state), filter_of(options), min(whole(limit, "limit"), MOST_JOBS)
        return [job for each in states async for job in self._scan(each, wanted, most)]

    def scan(self, state: State | str, **options: Unpack[FilterOptions]) -> AsyncIterator[JobInfo]:
        """Go through all jobs of one state that are meant, however many there are, for `async for`.

        They come ready and running by priority and age, delayed by due time, others newest first. Each step looks
        at 500 jobs and 1 MB at most, so none holds a server up, and one may find nothing. A job that stays where
        it is comes once.

        Args:
            state: delayed, ready, running, dead; or completed or cancelled, where the queue keeps those.
            options: Which of them; see `FilterOptions`.

        Raises:
            ValueError: There is no such state, or an option makes no sense.
            TypeError: There is no such option.
        """
        return self._scan(one_of(State, state, "state"), filter_of(options))

    async def _scan(self, state: State, wanted: Filter, most: float = math.inf) -> AsyncIterator[JobInfo]:
        after = None
        while after != "" and most > 0:
            step = await self._read(Scan(state, wanted, after or "", int(min(most, MOST_JOBS))))
            for row in step.rows:
                yield codec.job_info(row)
            after, most = step.after, most - len(step.rows)

    async def dead_groups(self) -> list[DeadGroup]:
        """Tell how many dead letters there are of each kind: of each fingerprint, or reason where there is none.

        All of them are looked at, in steps; what is kept here are the groups alone, at most the newest 1,000.

        Returns:
            The groups, the largest first.
        """
        groups, after = Groups(), None
        while after != "":
            step = await self._read(GroupDead(after or ""))
            groups.add(step.groups)
            after = step.after
        return groups.result()

    async def counts(self) -> Counts:
        """How many jobs are in each state at one instant."""
        return await self._read(Count())

    async def cancel(self, job: str | PushedJob) -> Reply:
        """Cancel a job.

        Returns:
            CANCELLED: it was delayed or ready, and is gone. CANCELLING: it runs, its handler is being
            cancelled, and it won't run again. DEAD: it is a dead letter, and stays. NOT_FOUND: it ended, or
            never was.
        """
        return await self._change(Cancel(id_of(job)))

    async def pause(self, name: str | JobName[Any] | None = None) -> None:
        """Let no job start, of the queue or of one name, until `resume`. What runs goes on to its end.

        It outlives workers, producers and restarts. Jobs can be pushed, looked up, cancelled and held meanwhile,
        and delayed ones become ready. No job that is pushed after this has returned starts.

        Args:
            name: Of the jobs; None: the whole queue.

        Raises:
            ValueError: There can be no such name.
        """
        await self._change(Pause(paused_name(name)))

    async def resume(self, name: str | JobName[Any] | None = None) -> None:
        """Let jobs start again, in their places: what `pause` of the same name has stopped.

        Args:
            name: Of the jobs; None: the whole queue. A name that is paused stays so when the queue is resumed.

        Raises:
            ValueError: There can be no such name.
            Unavailable: No answer until the deadline. If it is resumed, some worker gives the jobs back that
                were passed over, within a minute or so.
        """
        await self._change(Resume(paused_name(name)))
        after = None
        while name is not None and after != "":
            after = await self._change(Unpark(after or ""))

    async def is_paused(self, name: str | JobName[Any] | None = None) -> bool:
        """Whether the queue is paused, or, if one is given, that job name by itself."""
        return (await self.pauses()).is_paused(paused_name(name))

    async def pauses(self) -> PauseInfo:
        """What may not start: since when the queue is paused, which names are, and how many jobs are held."""
        return pause_info(await self._read(FindPauses()))

    async def set_limit(
        self,
        name: str | JobName[Any],
        *,
        max_concurrency: int | None = None,
        rate: str | None = None,
        burst: int | None = None,
    ) -> None:
        """Limit the jobs of a name in the whole fleet, in place of what was said before; with nothing, no more.

        It counts at once, and until a worker begins whose code declares a limit for the name. What runs goes on.
        Jobs over the limit wait in a line, each key in one of its own: see `limit_key` of `register`.

        Args:
            name: Of the jobs.
            max_concurrency: So many run at once at most; None: any number.
            rate: So many start in a time, runs that are tried again too, as `50/s`, `100/m` or `5/h`; None: any.
            burst: How many may start together after a rest. Defaults to one, and as many more as the rate
                allows in 0.1 s.

        Raises:
            ValueError: There can be no such name, or a limit makes no sense.
        """
        limit, after = Limit(max_concurrency, rate, burst).text, None
        while after != "":
            after = await self._change(SetLimit(limited_name(name), limit, after or ""))

    async def limits(self) -> list[LimitInfo]:
        """Which job names have limits, which jobs run under them, and how many wait in line; by name."""
        steps = [await self._read(FindLimits())]
        while steps[-1].after:
            steps.append(await self._read(FindLimits(steps[-1].after)))
        return limit_infos(steps)

    async def workers(self) -> list[WorkerInfo]:
        """The workers of this queue, each as it was at its last heartbeat; by their ids."""
        steps = [await self._read(FindWorkers())]
        while steps[-1].after:
            steps.append(await self._read(FindWorkers(steps[-1].after)))
        return worker_infos(steps)

    async def hold(self, job: str | PushedJob) -> Reply:
        """Let one waiting job not start, until `unhold`. It keeps its due time, its priority and its place.

        Returns:
            HELD: it does not start. RUNNING: it does already, and goes on. DEAD: it is a dead letter.
            NOT_FOUND: it ended, or never was.
        """
        return await self._change(Hold(id_of(job)))

    async def unhold(self, job: str | PushedJob) -> bool:
        """Let go of a job that is held; whether it was. If it is due it is ready at once, in its place."""
        return await self._change(Unhold(id_of(job))) is Reply.OK

    async def requeue(self, job: str | PushedJob, *, parameters: Any = None, ended: bool = False) -> bool:
        """Give a dead letter another life: ready, under its old id, with all its attempts.

        Args:
            job: Its id, or its handle.
            parameters: What its handler gets in place of what it had: of the type of the handler that this queue
                has here, or a dict of the fields; where it has none, what JSON can say. None: as they are.
            ended: Run a completed or cancelled job again, too, where the queue keeps such: see `Retention`.

        Returns:
            Whether there was one.

        Raises:
            EncodeError: The parameters don't fit their type, or are too large; it stays as it is.
            DecodeError: The entry, put in by hand, is too large to be moved; it stays.
        """
        job_id, is_ended = id_of(job), flag(ended, "ended")
        if parameters is None:
            return requeued(job_id, await self._change(Requeue(job_id, ended=is_ended)))
        row = await self._read(Find(job_id))
        if row is None or row.state not in (ASIDE if is_ended else (State.DEAD,)):
            return False
        return requeued(job_id, await self._change(self.edited(row, parameters)))

    async def delete(self, job: str | PushedJob) -> bool:
        """Throw away a dead letter, or a job that has ended and was kept; whether there was one."""
        return await self._change(Delete(id_of(job))) is Reply.OK

    async def requeue_all(self, *, rate: str | None = None, **options: Unpack[FilterOptions]) -> int:
        """Give all dead letters that are meant another life, the newest first; who dies anew is not taken again.

        It is done in steps. Should the connection end, what was done stays done, and the same call does the rest.
        Letters put in by hand with too many fields to be moved stay.

        Args:
            rate: How many may run in a time, as `100/s`, `20/m` or `5/h`. The others are delayed, each by its own
                due time, so nobody has to wait for them here. Defaults to all at once.
            options: Which of them; see `FilterOptions`. Defaults to all.

        Returns:
            How many. After a reply that was lost it may be less than were.

        Raises:
            ValueError: An option makes no sense.
            TypeError: There is no such option.
        """
        return await self._take_all(Requeuing(filter_of(options), rate).step)

    async def delete_all(self, **options: Unpack[FilterOptions]) -> int:
        """Throw all dead letters away that are meant; see `requeue_all` for the options and what it returns."""
        wanted = filter_of(options)
        return await self._take_all(lambda taken: DeleteAll(wanted, taken.after))

    async def cancel_all(self, state: State | str, **options: Unpack[FilterOptions]) -> int:
        """Cancel all jobs that are meant; see `requeue_all` for the options and what it returns.

        Args:
            state: delayed, ready or running. A job that has begun to run meanwhile is cancelled too. Of those
                that run the handlers are cancelled; their jobs end a moment later.
            options: Which of them; see `FilterOptions`. Defaults to all.

        Raises:
            ValueError: There is no such state, or an option makes no sense.
            TypeError: There is no such option.
        """
        return await self._change_all(cancellable_state(state), filter_of(options), cancellation)

    async def hold_all(self, state: State | str, **options: Unpack[FilterOptions]) -> int:
        """Hold all waiting jobs that are meant; see `requeue_all` for the options and what it returns.

        Args:
            state: delayed or ready. A job that has begun to run meanwhile goes on.
            options: Which of them; see `FilterOptions`. Defaults to all.

        Raises:
            ValueError: There is no such state, or an option makes no sense.
            TypeError: There is no such option.
        """
        return await self._change_all(waiting_state(state), filter_of(options), holding)

    async def unhold_all(self, state: State | str, **options: Unpack[FilterOptions]) -> int:
        """Let go of all held jobs that are meant; see `hold_all`."""
        return await self._change_all(waiting_state(state), filter_of(options), letting_go)

    async def _take_all(self, step: Callable[[BulkResult], Change[BulkResult]]) -> int:
        taken, total = BulkResult(()), 0
        while True:
            taken = await self._change(step(taken))
            total += len(taken.job_ids)
            if not taken.after:
                return total

    async def _change_all(
        self, state: State, wanted: Filter, change: Callable[[Sequence[Row]], ChangeMany]
    ) -> int:
        total, after = 0, None
        while after != "":
            step = await self._read(Scan(state, wanted, after or "", AT_ONCE))
            several = change(step.rows)
            if several.changes:
                total += done(await self._change(several))
            after = step.after
        return total

    async def _push(
        self, jobs: Sequence[NewJob], conflicts: list[Conflict], *, held: bool = False
    ) -> list[JobHandle[Any]]:
        ends = await before_push(self.on_push, jobs, self.name) if self.on_push else NOBODY
        try:
            push = Push(jobs, self.deadline, held=held)
            answers = await self._call(lambda: self.driver.push(jobs, repeated=push.repeated), push)
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

    async def _push_and_encode(
        self, chunk: Chunk, chunks: Iterator[Chunk], conflicts: list[Conflict]
    ) -> tuple[list[JobHandle[Any]], Chunk | None]:
        """Push a chunk, and encode the next one while it is on its way: each takes about as long."""
        if chunk.is_last:
            return await self._push(chunk.jobs, conflicts, held=chunk.held), None
        pushed, broken, following = list[JobHandle[Any]](), list[BaseException](), None

        async def push() -> None:
            try:
                pushed.extend(await self._push(chunk.jobs, conflicts, held=chunk.held))
            except Exception as error:
                broken.insert(0, error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(push)
            await checkpoint()  # now it is on its way
            try:
                following = next(chunks, None)
            except BaseException as error:  # to be raised once the push has ended, and if that went well
                broken.append(error)
        try:
            for each in broken:
                if isinstance(each, DriverError) and following is not None:
                    each.jobs += tuple(following.jobs)
                raise each
        finally:
            broken.clear()  # or an error would hold itself: its traceback leads here
        return pushed, following

    def handle(self, job_id: str, name: str, *, added: bool | None) -> JobHandle[Any]:
        """The handle of a job of this queue."""
        return JobHandle(job_id, name, added, False, self)

    async def _read(self, query: Query[T]) -> T:
        return await self._call(lambda: self.driver.read(query))

    async def _change(self, change: Change[T]) -> T:
        answer = await self._call(lambda: self.driver.change(change))
        self._tell_changed(change, answer)
        return answer

    async def _call(self, call: Callable[[], Awaitable[T]], push: Push | None = None) -> T:
        """Call the store, and again with backoff and jitter while it is unavailable, until the deadline."""
        cause: BaseException | None = None
        deadline, began = push.deadline if push else self.deadline, time.monotonic()
        try:
            if push and deadline >= LONGEST_TRY:
                return await call()  # it ends in time by itself, and a scope would cost as much as all else here
            with anyio.fail_after(deadline):
                return await call()
        except (Unavailable, TimeoutError) as error:
            cause = error
        except DriverError as error:
            raise push.failed(error) if push else error  # noqa: B904  (the same error, most often)
        if push:
            push.lost()
        with anyio.move_on_after(began + deadline - time.monotonic()):
            try:
                return await retrying(call, on=(Unavailable,), within=deadline)
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
    """A function that is a job of an async queue as well; see `FunctionJob`."""

    def __init__(
        self, queue: JobQueue, function: Callable[Args, Returned_co], name: JobName[Any], signature: Signature
    ) -> None:
        super().__init__(queue, function, name, signature)
        self._queue = queue

    @overload
    async def push(
        self: "JobFunction[Args, Given, Coroutine[Any, Any, R]]", *args: Given.args, **kwargs: Given.kwargs
    ) -> JobHandle[R]: ...

    @overload
    async def push(
        self: "JobFunction[Args, Given, R]", *args: Given.args, **kwargs: Given.kwargs
    ) -> JobHandle[R]: ...

    async def push(self, *args: Given.args, **kwargs: Given.kwargs) -> JobHandle[Any]:
        """Put a call of the function on the queue; see `JobQueue.push`."""
        parameters = self._signature.arguments(*args, **kwargs)
        return await self._queue.push(parameters, self.name, **self._options)

    @overload
    async def run(
        self: "JobFunction[Args, Given, Coroutine[Any, Any, R]]", *args: Given.args, **kwargs: Given.kwargs
    ) -> R: ...

    @overload
    async def run(self: "JobFunction[Args, Given, R]", *args: Given.args, **kwargs: Given.kwargs) -> R: ...

    async def run(self, *args: Given.args, **kwargs: Given.kwargs) -> Any:
        """Push a call of the function, and wait for what it returns; see `JobQueue.run`.

        How long to wait is for the caller to say, as `asyncio.timeout` does: arguments are the function's here.
        """
        parameters = self._signature.arguments(*args, **kwargs)
        return await self._queue.run(parameters, self.name, **self._options)


def requeued(job_id: str, reply: Reply) -> bool:
    """What a requeue's reply means to the caller."""
    if reply is Reply.NO_IDS:
        raise DriverError(
            f"{job_id}: no ready stream has entry ids left, by somebody's hand; it stays a dead letter"
        )
    if reply is Reply.OVERSIZED:
        raise DecodeError(f"{job_id}: the entry was put in by hand with more fields than can be moved; it stays")
    return reply is Reply.OK


def gave_up(push: Push | None, deadline: float, cause: BaseException | None) -> Unavailable:
    """The error of a call that got no answer until its deadline."""
    return push.gave_up(cause) if push else Unavailable(no_answer(deadline, cause))
