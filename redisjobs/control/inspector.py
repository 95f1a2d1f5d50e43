"""An operator's methods of the async and the sync queue. `operations.py` has the code of each, for both."""

from collections.abc import AsyncIterator, Iterator
from typing import Any, Unpack

from redisjobs.client import operations
from redisjobs.client.checks import id_of
from redisjobs.client.children import children, get
from redisjobs.client.operations import FilterOptions
from redisjobs.control.dead_letters import DeadLetters, SyncDeadLetters
from redisjobs.control.diagnosis import Diagnosis, SyncDiagnosis
from redisjobs.control.workers import SyncWorkers, Workers
from redisjobs.model.changes import Hold, Unhold
from redisjobs.model.info import ChildGroup, JobInfo, LimitInfo, PauseInfo, pause_info
from redisjobs.model.job import JobName, PushedJob, State
from redisjobs.model.queries import Count, Counts, FindPauses
from redisjobs.model.steps import StepInfo
from redisjobs.model.transitions import Reply


class Inspector(Workers, DeadLetters, Diagnosis):
    """The operator's calls of an async queue."""

    async def get(self, job: str | PushedJob) -> JobInfo | None:
        """Look up a delayed, ready, running, suspended or dead job; return None if it ended or never existed.

        It finds completed and cancelled jobs only if the queue keeps them: see `Retention`.
        """
        return await self._do(get(job))

    async def jobs(
        self, state: State | str | None = None, limit: int = 100, **options: Unpack[FilterOptions]
    ) -> list[JobInfo]:
        """List jobs of one state, or of each: running, ready, delayed, suspended, dead, completed, cancelled.

        Running and ready jobs come by priority and age, delayed and suspended jobs by due time, all others newest
        first. The list has completed and cancelled jobs only if the queue keeps them: see `Retention`.

        Args:
            state: The state. Defaults to all of these, one after another.
            limit: The most jobs of each state; up to 500. Use `scan` to get all jobs of one state.
            options: Filters for the jobs; see `FilterOptions`.
        """
        return await self._do(operations.jobs(state, limit, options))

    def scan(self, state: State | str, **options: Unpack[FilterOptions]) -> AsyncIterator[JobInfo]:
        """Iterate over all jobs of one state that match the filters, with `async for`; see `jobs`.

        It reads in steps of at most 500 jobs and 1 MB, so that no step blocks the server for long. A job that
        does not change its place comes exactly once.
        """
        return self._scan(operations.first_page(state, options))

    async def counts(self) -> Counts:
        """Count the jobs of each state, at one instant."""
        return await self._ask(Count())

    async def cancel(self, job: str | PushedJob) -> Reply:
        """Cancel a job, and its children that have not ended; `children` says how many these are.

        Returns:
            CANCELLED: the job was delayed, ready or suspended, and is removed. CANCELLING: it runs; its worker
            cancels the handler, and it won't run again. DEAD: it is a dead letter, and stays one. NOT_FOUND: it
            ended, or never existed.
        """
        return await self._do(operations.cancel(job))

    async def signal(self, job: str | PushedJob, name: str, value: Any = None) -> Reply:
        """Send a signal to a job, which takes it by `context.wait_for`.

        A job takes each signal once. Of each name it keeps one until it waits for it: the first one.

        Args:
            job: Its id, or its handle.
            name: The name of the signal: 1 to 200 characters, no spaces and no `#`.
            value: Plain JSON, which the wait returns.

        Returns:
            OK: the job waited for it, and is ready to go on. KEPT: the job does not wait for it now, and will find
            it when it does. EXISTS: it keeps an earlier signal of this name, so this one was not taken. DEAD: the
            job is a dead letter, and took nothing; requeue it first. NOT_FOUND: the job has ended, or never
            existed.

        Raises:
            EncodeError: The value is no plain JSON, or too large. Nothing was sent.
            StepsFull: The job keeps as many signals as it may. Nothing was written.
            ValueError: The name is wrong.
        """
        return await self._do(operations.signal(job, name, value, self.max_parameters))

    async def steps(self, job: str | PushedJob) -> list[StepInfo]:
        """List the steps that a job has saved, in order; also of a dead letter. A job that was done has none."""
        return await self._do(operations.steps(job))

    async def children(
        self,
        job: str | PushedJob,
        *,
        step: str | None = None,
        first: int = 0,
        limit: int = 100,
        look_up: bool = False,
    ) -> list[ChildGroup]:
        """List the groups of children that a job runs, or has run: one for each step that has any, in order.

        It has them until it ends; a dead letter keeps them. Each read of the server is bounded.

        Args:
            job: Its id, or its handle.
            step: The key of a step: list only its children. Defaults to all steps.
            first: The index of the first child of each step to list.
            limit: The most children of each step to list; 0: only how many there are, and have not ended.
            look_up: Also look up each listed child that has not ended; see `ChildInfo.job`.
        """
        return await self._do(children(job, step, first, limit, look_up))

    async def pause(self, name: str | JobName[Any] | None = None) -> None:
        """Stop the jobs of the queue, or of one name, from starting until `resume`. Running jobs go on.

        A pause outlives workers, producers and restarts. Meanwhile you can push, look up, cancel and hold jobs,
        and delayed jobs become ready. A job that is pushed after `pause` has returned does not start.
        """
        await self._do(operations.pause(name))

    async def resume(self, name: str | JobName[Any] | None = None) -> None:
        """End a `pause` of the queue, or of one name. Jobs keep their places.

        A paused name stays paused when you resume the queue.

        Raises:
            Unavailable: Redis did not answer until the deadline. If it has resumed the name, a worker makes the
                jobs ready within about a minute.
        """
        await self._do(operations.resume(name))

    async def is_paused(self, name: str | JobName[Any] | None = None) -> bool:
        """Return whether the queue is paused; with a name, whether that job name itself is."""
        return await self._do(operations.is_paused(name))

    async def pauses(self) -> PauseInfo:
        """Return since when the queue is paused, which job names are paused, and how many jobs are held."""
        return pause_info(await self._ask(FindPauses()))

    async def set_limit(
        self,
        name: str | JobName[Any],
        *,
        max_concurrency: int | None = None,
        rate: str | None = None,
        burst: int | None = None,
    ) -> None:
        """Set the limit of a job name for all workers together, or remove it if you give no numbers.

        It applies at once, until a worker starts whose code declares a limit for the name. Running jobs go on.
        Jobs over the limit wait in a line. Each key has its own line: see `limit_key` of `register`.

        Args:
            name: The job name.
            max_concurrency: The most jobs that run at once; None: any number.
            rate: How many jobs may start: `50/s`, `100/m` or `5/h`, retries included; None: any number.
            burst: The most jobs that may start together after a rest. Defaults to one, plus as many as the rate
                allows in 0.1 s.
        """
        await self._do(operations.set_limit(name, max_concurrency, rate, burst))

    async def limits(self) -> list[LimitInfo]:
        """List the limits by job name, with the jobs that run under each, and how many wait."""
        return await self._do(operations.limits())

    async def hold(self, job: str | PushedJob) -> Reply:
        """Stop one waiting job from starting until `unhold`. It keeps its due time, its priority and its place.

        Returns:
            HELD: the job won't start. RUNNING: it runs already, and goes on. DEAD: it is a dead letter.
            NOT_FOUND: it ended, or never existed.
        """
        return await self._ask(Hold(id_of(job)))

    async def unhold(self, job: str | PushedJob) -> bool:
        """Let a held job start again; return whether it was held. If it is due, it is ready in its old place."""
        return await self._ask(Unhold(id_of(job))) is Reply.OK

    async def cancel_all(self, state: State | str, **options: Unpack[FilterOptions]) -> int:
        """Cancel all matching jobs of one state: delayed, ready, suspended or running.

        `requeue_all` describes the returned number. It also cancels a job that has started meanwhile. The workers
        cancel the handlers of running jobs, which end a moment later. On Postgres a job that an open transaction
        has locked stays as it was, and does not count.
        """
        return await self._do(operations.cancel_all(state, options))

    async def hold_all(self, state: State | str, **options: Unpack[FilterOptions]) -> int:
        """Hold all matching jobs of one state: delayed, ready or suspended. `requeue_all` describes the number.

        A job that has started meanwhile goes on. `cancel_all` says what happens to locked jobs.
        """
        return await self._do(operations.hold_all(state, options))

    async def unhold_all(self, state: State | str, **options: Unpack[FilterOptions]) -> int:
        """Let all matching held jobs start again; see `hold_all`."""
        return await self._do(operations.unhold_all(state, options))


class SyncInspector(SyncWorkers, SyncDeadLetters, SyncDiagnosis):
    """The operator's calls of a sync queue."""

    def get(self, job: str | PushedJob) -> JobInfo | None:
        """Look a job up; see `redisjobs.JobQueue.get`."""
        return self._do(get(job))

    def jobs(
        self, state: State | str | None = None, limit: int = 100, **options: Unpack[FilterOptions]
    ) -> list[JobInfo]:
        """List jobs of one state, or of each; see `redisjobs.JobQueue.jobs`."""
        return self._do(operations.jobs(state, limit, options))

    def scan(self, state: State | str, **options: Unpack[FilterOptions]) -> Iterator[JobInfo]:
        """Iterate over all matching jobs of one state; see `redisjobs.JobQueue.scan`."""
        return self._scan(operations.first_page(state, options))

    def counts(self) -> Counts:
        """Count the jobs of each state, at one instant."""
        return self._ask(Count())

    def cancel(self, job: str | PushedJob) -> Reply:
        """Cancel a job; see `redisjobs.JobQueue.cancel` for the replies."""
        return self._do(operations.cancel(job))

    def signal(self, job: str | PushedJob, name: str, value: Any = None) -> Reply:
        """Send a signal to a job; see `redisjobs.JobQueue.signal`."""
        return self._do(operations.signal(job, name, value, self.max_parameters))

    def steps(self, job: str | PushedJob) -> list[StepInfo]:
        """List the steps that a job has saved; see `redisjobs.JobQueue.steps`."""
        return self._do(operations.steps(job))

    def children(
        self,
        job: str | PushedJob,
        *,
        step: str | None = None,
        first: int = 0,
        limit: int = 100,
        look_up: bool = False,
    ) -> list[ChildGroup]:
        """List the groups of children that a job runs, or has run; see `redisjobs.JobQueue.children`."""
        return self._do(children(job, step, first, limit, look_up))

    def pause(self, name: str | JobName[Any] | None = None) -> None:
        """Stop the jobs of the queue, or of one name, from starting; see `redisjobs.JobQueue.pause`."""
        self._do(operations.pause(name))

    def resume(self, name: str | JobName[Any] | None = None) -> None:
        """End a pause of the queue, or of one name; see `redisjobs.JobQueue.resume`."""
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
        """Set or remove the limit of a job name; see `redisjobs.JobQueue.set_limit`."""
        self._do(operations.set_limit(name, max_concurrency, rate, burst))

    def limits(self) -> list[LimitInfo]:
        """List the limits by job name; see `redisjobs.JobQueue.limits`."""
        return self._do(operations.limits())

    def hold(self, job: str | PushedJob) -> Reply:
        """Stop one waiting job from starting; see `redisjobs.JobQueue.hold` for the replies."""
        return self._ask(Hold(id_of(job)))

    def unhold(self, job: str | PushedJob) -> bool:
        """Let a held job start again, and return whether it was held."""
        return self._ask(Unhold(id_of(job))) is Reply.OK

    def cancel_all(self, state: State | str, **options: Unpack[FilterOptions]) -> int:
        """Cancel all matching jobs of one state; see `redisjobs.JobQueue.cancel_all`."""
        return self._do(operations.cancel_all(state, options))

    def hold_all(self, state: State | str, **options: Unpack[FilterOptions]) -> int:
        """Hold all matching jobs of one state; see `redisjobs.JobQueue.hold_all`."""
        return self._do(operations.hold_all(state, options))

    def unhold_all(self, state: State | str, **options: Unpack[FilterOptions]) -> int:
        """Let all matching held jobs start again; see `redisjobs.JobQueue.unhold_all`."""
        return self._do(operations.unhold_all(state, options))
