"""The calls by which an operator looks at a queue and changes it; `operations.py` says what each does."""

from collections.abc import AsyncIterator, Iterator
from typing import Any, Unpack

from redisjobs.client import operations
from redisjobs.client.calls import Calls, SyncCalls
from redisjobs.client.checks import id_of
from redisjobs.client.operations import FilterOptions
from redisjobs.model.changes import Cancel, Delete, Hold, Unhold
from redisjobs.model.info import DeadGroup, JobInfo, LimitInfo, PauseInfo, WorkerInfo, pause_info
from redisjobs.model.job import JobName, PushedJob, State
from redisjobs.model.queries import Count, Counts, FindPauses
from redisjobs.model.transitions import Reply


class Inspector(Calls):
    """The operator's calls of an async queue."""

    async def get(self, job: str | PushedJob) -> JobInfo | None:
        """Look a job up, by its id or handle: delayed, ready, running or dead; None if it ended or never existed.

        A job that has ended is found if the queue keeps such jobs: see `Retention`.
        """
        return await self._do(operations.get(job))

    async def jobs(
        self, state: State | str | None = None, limit: int = 100, **options: Unpack[FilterOptions]
    ) -> list[JobInfo]:
        """List jobs of one state, or of each: running, ready, delayed, dead, completed, cancelled.

        Running and ready jobs come by priority and age, delayed ones by due time, others newest first. Completed
        and cancelled ones are there if the queue keeps them: see `Retention`.

        Args:
            state: The state. Defaults to all of these, one after another.
            limit: The most jobs of each state; up to 500. `scan` goes through all jobs of one state.
            options: Which of them; see `FilterOptions`.
        """
        return await self._do(operations.jobs(state, limit, options))

    def scan(self, state: State | str, **options: Unpack[FilterOptions]) -> AsyncIterator[JobInfo]:
        """Go through all chosen jobs of one state, however many there are, with `async for`; see `jobs`.

        Each step reads at most 500 jobs and 1 MB, so no step holds the server up, and a step may find nothing. A
        job that stays where it is comes once.
        """
        return self._scan(operations.first_page(state, options))

    async def dead_groups(self) -> list[DeadGroup]:
        """Count the dead letters of each kind: of each fingerprint, or of each reason; the largest groups first.

        All dead letters are read, in steps. Of more than 1,000 kinds only the newest 1,000 are kept.
        """
        return await self._do(operations.dead_groups())

    async def counts(self) -> Counts:
        """Count the jobs of each state, at one instant."""
        return await self._ask(Count())

    async def cancel(self, job: str | PushedJob) -> Reply:
        """Cancel a job.

        Returns:
            CANCELLED: it was delayed or ready, and is gone. CANCELLING: it runs; its handler is being cancelled,
            and it won't run again. DEAD: it is a dead letter, and stays one. NOT_FOUND: it ended, or never
            existed.
        """
        return await self._ask(Cancel(id_of(job)))

    async def pause(self, name: str | JobName[Any] | None = None) -> None:
        """Let no job of the queue, or of one name, start until `resume`. Jobs that run go on to their end.

        A pause outlives workers, producers and restarts. Jobs can be pushed, looked up, cancelled and held
        meanwhile, and delayed ones become ready. No job that is pushed after this has returned starts.
        """
        await self._do(operations.pause(name))

    async def resume(self, name: str | JobName[Any] | None = None) -> None:
        """Let jobs start again, in their places, after a `pause` of the same name, or of the whole queue.

        A paused name stays paused when the queue is resumed.

        Raises:
            Unavailable: No answer until the deadline. If the name is resumed, a worker makes its jobs ready
                within about a minute.
        """
        await self._do(operations.resume(name))

    async def is_paused(self, name: str | JobName[Any] | None = None) -> bool:
        """Return whether the queue is paused; with a name, whether that job name itself is."""
        return await self._do(operations.is_paused(name))

    async def pauses(self) -> PauseInfo:
        """Return since when the queue is paused, which job names are, and how many jobs are held."""
        return pause_info(await self._ask(FindPauses()))

    async def set_limit(
        self,
        name: str | JobName[Any],
        *,
        max_concurrency: int | None = None,
        rate: str | None = None,
        burst: int | None = None,
    ) -> None:
        """Limit the jobs of a name in the whole fleet, in place of its limit so far; with nothing, remove that.

        It holds at once, until a worker starts whose code declares a limit for the name. Jobs that run go on.
        Jobs over the limit wait in a line, one for each key: see `limit_key` of `register`.

        Args:
            name: The job name.
            max_concurrency: The most jobs that run at once; None: any number.
            rate: The most jobs that start in a time, as `50/s`, `100/m` or `5/h`, retries included; None: any.
            burst: The most jobs that may start together after a rest. Defaults to one, plus as many as the rate
                allows in 0.1 s.
        """
        await self._do(operations.set_limit(name, max_concurrency, rate, burst))

    async def limits(self) -> list[LimitInfo]:
        """List the job names that have limits, the jobs that run under each, and how many wait; by name."""
        return await self._do(operations.limits())

    async def workers(self) -> list[WorkerInfo]:
        """List the workers of this queue, each as it was at its last heartbeat; by id."""
        return await self._do(operations.workers())

    async def hold(self, job: str | PushedJob) -> Reply:
        """Let one waiting job not start, until `unhold`. It keeps its due time, its priority and its place.

        Returns:
            HELD: it does not start. RUNNING: it runs already, and goes on. DEAD: it is a dead letter. NOT_FOUND:
            it ended, or never existed.
        """
        return await self._ask(Hold(id_of(job)))

    async def unhold(self, job: str | PushedJob) -> bool:
        """Let a held job start again, and return whether it was held. If it is due it is ready, in its place."""
        return await self._ask(Unhold(id_of(job))) is Reply.OK

    async def requeue(self, job: str | PushedJob, *, parameters: Any = None, ended: bool = False) -> bool:
        """Make a dead letter ready again, under its id, with all its attempts.

        Args:
            job: Its id, or its handle.
            parameters: New parameters for its handler: of the type of the handler registered here, or a dict of
                the fields; without a handler here, anything that JSON can say. None: as they are.
            ended: Also run a completed or cancelled job again, if the queue keeps such jobs: see `Retention`.

        Returns:
            Whether there was such a job.

        Raises:
            EncodeError: The parameters don't fit their type, or are too large; the job stays as it is.
            DecodeError: The entry has more fields than a script can move; it stays.
        """
        return await self._do(operations.requeue(job, parameters, ended, self._edited))

    async def delete(self, job: str | PushedJob) -> bool:
        """Delete a dead letter, or a job that ended and was kept; return whether there was one."""
        return await self._ask(Delete(id_of(job))) is Reply.OK

    async def requeue_all(self, *, rate: str | None = None, **options: Unpack[FilterOptions]) -> int:
        """Make all chosen dead letters ready again, the newest first; one that dies again meanwhile stays dead.

        It works in steps. If the connection ends, what was done stays done, and the same call does the rest.
        Dead letters with more fields than a script can move stay.

        Args:
            rate: How many may run in a time, as `100/s`, `20/m` or `5/h`. The others are delayed, each by its own
                due time, and this call does not wait for them. Defaults to all at once.
            options: Which of them; see `FilterOptions`. Defaults to all.

        Returns:
            How many. After a lost reply it may be fewer than were requeued.
        """
        return await self._do(operations.requeue_all(options, rate))

    async def delete_all(self, **options: Unpack[FilterOptions]) -> int:
        """Delete all chosen dead letters; see `requeue_all` for the options and what it returns."""
        return await self._do(operations.delete_all(options))

    async def cancel_all(self, state: State | str, **options: Unpack[FilterOptions]) -> int:
        """Cancel all chosen jobs that are delayed, ready or running; see `requeue_all` for what it returns.

        A job that has started meanwhile is cancelled too. Of running jobs the handlers are cancelled; their jobs
        end a moment later.
        """
        return await self._do(operations.cancel_all(state, options))

    async def hold_all(self, state: State | str, **options: Unpack[FilterOptions]) -> int:
        """Hold all chosen jobs that are delayed or ready; see `requeue_all` for what it returns.

        A job that has started meanwhile goes on.
        """
        return await self._do(operations.hold_all(state, options))

    async def unhold_all(self, state: State | str, **options: Unpack[FilterOptions]) -> int:
        """Let all chosen held jobs start again; see `hold_all`."""
        return await self._do(operations.unhold_all(state, options))


class SyncInspector(SyncCalls):
    """The operator's calls of a sync queue."""

    def get(self, job: str | PushedJob) -> JobInfo | None:
        """Look a job up; see `redisjobs.JobQueue.get`."""
        return self._do(operations.get(job))

    def jobs(
        self, state: State | str | None = None, limit: int = 100, **options: Unpack[FilterOptions]
    ) -> list[JobInfo]:
        """List jobs of one state, or of each; see `redisjobs.JobQueue.jobs`."""
        return self._do(operations.jobs(state, limit, options))

    def scan(self, state: State | str, **options: Unpack[FilterOptions]) -> Iterator[JobInfo]:
        """Go through all chosen jobs of one state; see `redisjobs.JobQueue.scan`."""
        return self._scan(operations.first_page(state, options))

    def dead_groups(self) -> list[DeadGroup]:
        """Count the dead letters of each kind; see `redisjobs.JobQueue.dead_groups`."""
        return self._do(operations.dead_groups())

    def counts(self) -> Counts:
        """Count the jobs of each state, at one instant."""
        return self._ask(Count())

    def cancel(self, job: str | PushedJob) -> Reply:
        """Cancel a job; see `redisjobs.JobQueue.cancel` for the replies."""
        return self._ask(Cancel(id_of(job)))

    def pause(self, name: str | JobName[Any] | None = None) -> None:
        """Let no job of the queue, or of one name, start; see `redisjobs.JobQueue.pause`."""
        self._do(operations.pause(name))

    def resume(self, name: str | JobName[Any] | None = None) -> None:
        """Let jobs start again; see `redisjobs.JobQueue.resume`."""
        self._do(operations.resume(name))

    def is_paused(self, name: str | JobName[Any] | None = None) -> bool:
        """Return whether the queue is paused; with a name, whether that job name itself is."""
        return self._do(operations.is_paused(name))

    def pauses(self) -> PauseInfo:
        """Return what is paused or held; see `redisjobs.JobQueue.pauses`."""
        return pause_info(self._ask(FindPauses()))

    def set_limit(
        self,
        name: str | JobName[Any],
        *,
        max_concurrency: int | None = None,
        rate: str | None = None,
        burst: int | None = None,
    ) -> None:
        """Limit the jobs of a name in the whole fleet; see `redisjobs.JobQueue.set_limit`."""
        self._do(operations.set_limit(name, max_concurrency, rate, burst))

    def limits(self) -> list[LimitInfo]:
        """List the job names that have limits; see `redisjobs.JobQueue.limits`."""
        return self._do(operations.limits())

    def workers(self) -> list[WorkerInfo]:
        """List the workers of this queue, each as it was at its last heartbeat; by id."""
        return self._do(operations.workers())

    def hold(self, job: str | PushedJob) -> Reply:
        """Let one waiting job not start; see `redisjobs.JobQueue.hold` for the replies."""
        return self._ask(Hold(id_of(job)))

    def unhold(self, job: str | PushedJob) -> bool:
        """Let a held job start again, and return whether it was held."""
        return self._ask(Unhold(id_of(job))) is Reply.OK

    def requeue(self, job: str | PushedJob, *, parameters: Any = None, ended: bool = False) -> bool:
        """Make a dead letter ready again; see `redisjobs.JobQueue.requeue`."""
        return self._do(operations.requeue(job, parameters, ended, self._edited))

    def delete(self, job: str | PushedJob) -> bool:
        """Delete a dead letter, or a job that ended and was kept; return whether there was one."""
        return self._ask(Delete(id_of(job))) is Reply.OK

    def requeue_all(self, *, rate: str | None = None, **options: Unpack[FilterOptions]) -> int:
        """Make all chosen dead letters ready again; see `redisjobs.JobQueue.requeue_all`."""
        return self._do(operations.requeue_all(options, rate))

    def delete_all(self, **options: Unpack[FilterOptions]) -> int:
        """Delete all chosen dead letters; see `redisjobs.JobQueue.delete_all`."""
        return self._do(operations.delete_all(options))

    def cancel_all(self, state: State | str, **options: Unpack[FilterOptions]) -> int:
        """Cancel all chosen jobs; see `redisjobs.JobQueue.cancel_all`."""
        return self._do(operations.cancel_all(state, options))

    def hold_all(self, state: State | str, **options: Unpack[FilterOptions]) -> int:
        """Hold all chosen jobs that wait; see `redisjobs.JobQueue.hold_all`."""
        return self._do(operations.hold_all(state, options))

    def unhold_all(self, state: State | str, **options: Unpack[FilterOptions]) -> int:
        """Let all chosen held jobs start again; see `redisjobs.JobQueue.unhold_all`."""
        return self._do(operations.unhold_all(state, options))
