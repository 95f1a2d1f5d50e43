"""The operator's door to a queue: look at its jobs and workers, change them, and find out what is wrong.

Each verb is an operation, written once for the async and the sync control in the modules beside this one.
"""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any, Unpack

from redisjobs.base.arguments import flag
from redisjobs.client.calls import Calls
from redisjobs.client.checks import id_of
from redisjobs.client.registry import Registry
from redisjobs.control import operations
from redisjobs.control.children import children, steps
from redisjobs.control.doctor import Progress, doctor
from redisjobs.control.filters import FilterOptions
from redisjobs.control.requeuing import GO_ON, requeue
from redisjobs.control.statistics import overview, statistics
from redisjobs.control.why import why
from redisjobs.model.changes import Delete, Hold, Unhold, Wish
from redisjobs.model.health import Finding
from redisjobs.model.info import ChildGroup, DeadGroup, JobInfo, LimitInfo, PauseInfo, WorkerInfo, pause_info
from redisjobs.model.job import JobName, PushedJob, State
from redisjobs.model.queries import Count, Counts, FindPauses
from redisjobs.model.statistics import Interval, Overview
from redisjobs.model.steps import StepInfo
from redisjobs.model.transitions import Reply
from redisjobs.model.why import Why


class Control:
    """An operator's calls on a queue: `queue.control`.

    Each raises `Unavailable` if the store does not answer until the queue's deadline, `Forbidden` if the store's
    rights do not allow it, and another `DriverError` if the store refuses it.
    """

    def __init__(self, queue: Registry, calls: Calls) -> None:
        self._queue, self._calls = queue, calls

    # Look at jobs

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
        return await self._calls.do(operations.jobs(state, limit, options))

    def scan(self, state: State | str, **options: Unpack[FilterOptions]) -> AsyncIterator[JobInfo]:
        """Iterate over all jobs of one state that match the filters, with `async for`; see `jobs`.

        It reads in steps of at most 500 jobs and 1 MB, so that no step blocks the server for long. A job that
        does not change its place comes exactly once.
        """
        return self._calls.scan(operations.first_page(state, options))

    async def counts(self) -> Counts:
        """Count the jobs of each state, at one instant."""
        return await self._calls.ask(Count())

    async def dead_groups(self) -> list[DeadGroup]:
        """Count the dead letters of each kind, the largest groups first.

        Dead letters with the same fingerprint are of one kind; without a fingerprint, those with the same reason.
        Redis counts them as they come and go. This reads the newest ten of each kind, in steps.
        """
        return await self._calls.do(operations.dead_groups())

    async def steps(self, job: str | PushedJob) -> list[StepInfo]:
        """List the steps that a job has saved, in order; also of a dead letter. A job that was done has none."""
        return await self._calls.do(steps(job))

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
        return await self._calls.do(children(job, step, first, limit, look_up))

    async def why(self, job: str | PushedJob | None = None, *, unique: str | None = None) -> Why:
        """Find out why a job does not run, or what became of it.

        Args:
            job: The job, or its id.
            unique: A unique key, instead of the job: the job that holds it.

        Returns:
            The cause, a sentence for a person, the facts behind it, and what to do. It looks at no more than 1,000
            jobs that start before it. A fact that the server's ACL hides is left out.
        """
        return await self._calls.do(why(self._queue.name, job, unique))

    # Change one job

    async def hold(self, job: str | PushedJob) -> Reply:
        """Stop one waiting job from starting until `unhold`. It keeps its due time, its priority and its place.

        Returns:
            HELD: the job won't start. RUNNING: it runs already, and goes on. DEAD: it is a dead letter.
            NOT_FOUND: it ended, or never existed.
        """
        return await self._calls.ask(Hold(id_of(job)))

    async def unhold(self, job: str | PushedJob) -> bool:
        """Let a held job start again; return whether it was held. If it is due, it is ready in its old place."""
        return await self._calls.ask(Unhold(id_of(job))) is Reply.OK

    async def requeue(
        self,
        job: str | PushedJob,
        *,
        parameters: Any = None,
        ended: bool = False,
        unique: bool = True,
        from_step: str | None = GO_ON,
    ) -> Reply | None:
        """Make a dead letter ready again, under its id, with all its attempts.

        If it has saved steps, it goes on where it stopped. New parameters do not change what is saved.

        A child stays a child while its parent waits for others of its step, and the parent waits for it, too. If
        the parent has gone on, or has ended, it gets nothing of what the child comes to now.

        Args:
            job: Its id, or its handle.
            parameters: New parameters: an instance of the handler's type, or a dict of its fields. If no handler
                is registered here, any value that JSON can hold. None keeps the parameters.
            ended: Also run a completed or cancelled job again, if the queue keeps such jobs: see `Retention`.
            unique: Give it its unique key again, if it had one until its end. False: run it without a key.
            from_step: The key of a step that `steps` lists: the job forgets it and the steps saved after it, and
                its checkpoint. None: it forgets all. Defaults to nothing: the job goes on where it stopped.

        Returns:
            OK: it is ready. INDEPENDENT: it is ready; but it was a child, and is a job by itself now, because its
            parent had gone on. None: there is no such job.

        Raises:
            EncodeError: The parameters don't fit their type, or are too large. The job stays as it is.
            UniqueConflict: Another job holds its unique key; `job_id` names it. The job stays as it is.
            DecodeError: The entry has more fields than a script can move. It stays a dead letter.
            ValueError: It has not saved the step `from_step`; the error says which it has. It stays as it is.
        """
        return await self._calls.do(requeue(job, parameters, ended, unique, from_step, self._queue._edited))

    async def delete(self, job: str | PushedJob) -> bool:
        """Delete a dead letter, or a job that ended and was kept; return whether there was one."""
        return await self._calls.ask(Delete(id_of(job))) is Reply.OK

    # Change many jobs

    async def cancel_all(self, state: State | str, **options: Unpack[FilterOptions]) -> int:
        """Cancel all matching jobs of one state: delayed, ready, suspended or running.

        `requeue_all` describes the returned number. It also cancels a job that has started meanwhile. The workers
        cancel the handlers of running jobs, which end a moment later. On Postgres a job that an open transaction
        has locked stays as it was, and does not count.
        """
        return await self._calls.do(operations.cancel_all(state, options))

    async def hold_all(self, state: State | str, **options: Unpack[FilterOptions]) -> int:
        """Hold all matching jobs of one state: delayed, ready or suspended. `requeue_all` describes the number.

        A job that has started meanwhile goes on. `cancel_all` says what happens to locked jobs.
        """
        return await self._calls.do(operations.hold_all(state, options))

    async def unhold_all(self, state: State | str, **options: Unpack[FilterOptions]) -> int:
        """Let all matching held jobs start again; see `hold_all`."""
        return await self._calls.do(operations.unhold_all(state, options))

    async def requeue_all(self, *, rate: str | None = None, **options: Unpack[FilterOptions]) -> int:
        """Make all matching dead letters ready again, the newest first. One that dies again meanwhile stays dead.

        It works in steps. If the connection fails, the finished steps stay done, and a new call does the rest.
        Dead letters whose unique key another job holds stay; so of several with one key, the newest is requeued.
        Those with more fields than a script can move stay, too.

        Args:
            rate: How many become due: `100/s`, `20/m` or `5/h`. The rest are delayed, each with its due time, and
                this call does not wait for them. Defaults to all at once.
            options: Filters for the dead letters; see `FilterOptions`. Defaults to all.

        Returns:
            How many were requeued. After a lost reply the number may be too low.
        """
        return await self._calls.do(operations.requeue_all(options, rate))

    async def delete_all(self, **options: Unpack[FilterOptions]) -> int:
        """Delete all matching dead letters; see `requeue_all` for the options and the returned number."""
        return await self._calls.do(operations.delete_all(options))

    # The whole queue, or one name

    async def pause(self, name: str | JobName[Any] | None = None) -> None:
        """Stop the jobs of the queue, or of one name, from starting until `resume`. Running jobs go on.

        A pause outlives workers, producers and restarts. Meanwhile you can push, look up, cancel and hold jobs,
        and delayed jobs become ready. A job that is pushed after `pause` has returned does not start.
        """
        await self._calls.do(operations.pause(name))

    async def resume(self, name: str | JobName[Any] | None = None) -> None:
        """End a `pause` of the queue, or of one name. Jobs keep their places.

        A paused name stays paused when you resume the queue.

        Raises:
            Unavailable: Redis did not answer until the deadline. If it has resumed the name, a worker makes the
                jobs ready within about a minute.
        """
        await self._calls.do(operations.resume(name))

    async def is_paused(self, name: str | JobName[Any] | None = None) -> bool:
        """Return whether the queue is paused; with a name, whether that job name itself is."""
        return await self._calls.do(operations.is_paused(name))

    async def pauses(self) -> PauseInfo:
        """Return since when the queue is paused, which job names are paused, and how many jobs are held."""
        return pause_info(await self._calls.ask(FindPauses()))

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
        await self._calls.do(operations.set_limit(name, max_concurrency, rate, burst))

    async def limits(self) -> list[LimitInfo]:
        """List the limits by job name, with the jobs that run under each, and how many wait."""
        return await self._calls.do(operations.limits())

    # Workers

    async def workers(self) -> list[WorkerInfo]:
        """List the workers of this queue by id, as they were at their last heartbeats."""
        return await self._calls.do(operations.workers())

    async def quiet_worker(self, worker: str | WorkerInfo) -> Reply:
        """Ask a worker to claim no more jobs of this queue, until `resume_worker`. Running jobs go on.

        The worker obeys with its next heartbeat, mostly within milliseconds. Jobs that it has claimed and not
        begun go back to the queue. It still fires schedules, and takes jobs of its other queues.

        Args:
            worker: The worker, or its id.

        Returns:
            OK: it was asked. STOPPING: it stops already. NOT_FOUND: there is no such worker.
        """
        return await self._calls.do(operations.ask_worker(worker, Wish.QUIET))

    async def resume_worker(self, worker: str | WorkerInfo) -> Reply:
        """Ask a quiet worker to claim jobs again; see `quiet_worker` for the replies."""
        return await self._calls.do(operations.ask_worker(worker, Wish.RESUME))

    async def stop_worker(self, worker: str | WorkerInfo) -> Reply:
        """Ask a worker to stop as it does after SIGTERM: its running jobs may finish within its grace.

        It leaves all its queues, and `Worker.run` returns. `redisjobs worker` ends its process with exit status 0,
        and with `--processes` no other process takes its place. A service manager may start another one. A stop
        can't be taken back.

        Args:
            worker: The worker, or its id.

        Returns:
            OK: it was asked. NOT_FOUND: there is no such worker.
        """
        return await self._calls.do(operations.ask_worker(worker, Wish.STOP))

    # Health

    async def statistics(
        self,
        last: float | timedelta = 3600,
        name: str | JobName[Any] | None = None,
        *,
        since: datetime | None = None,
    ) -> list[Interval]:
        """Return what happened lately on the queue, by minute, or by ten minutes for more than 8 hours.

        Workers report what they settle about every 10 seconds, and each minute how many jobs are in each state. A
        minute in which no worker was there has zeros and no sample.

        Args:
            last: How many seconds to go back, or a timedelta; up to 3 days.
            name: A job name. Defaults to all.
            since: Leave out the intervals that ended before this time. A closed interval does not change any more,
                so read the rest again from the start of the last interval that was not closed.

        Returns:
            The intervals, the oldest first. The last one is the current one, which is not closed.
        """
        return await self._calls.do(statistics(last, name, since))

    async def overview(self, previous: Overview | None = None) -> Overview:
        """Return what happened in the last hour, by job name and by cause of death.

        Args:
            previous: The result of an earlier call. Then only the minutes since are read.
        """
        return await self._calls.do(overview(previous))

    async def doctor(self, *, repair: bool = False, progress: Progress | None = None) -> list[Finding]:
        """Check the queue and its server: each job is in one place, notes are right, workers and schedules run.

        It may run on a busy queue. It looks at all jobs, in steps of at most 500 and 1 MB, and at the names of all
        keys of the server. A run that is stopped leaves nothing half done: just run it again.

        Args:
            repair: Correct what loses no job. Nothing is deleted that could be a job.
            progress: Called after each step, with how many things were looked at, and about how many there are.

        Returns:
            The findings: first the data, then workers, backlog and schedules, then the server. What the server's
            ACL hides has the level `unknown`.
        """
        return await self._calls.do(doctor(self._queue.name, flag(repair, "repair"), progress))
