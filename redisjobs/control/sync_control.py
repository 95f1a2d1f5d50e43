"""The control of a sync queue: the verbs of `Control`, without `await`."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Unpack

from redisjobs.base.arguments import flag
from redisjobs.client.calls import SyncCalls
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


class SyncControl:
    """An operator's calls on a sync queue; see `Control`."""

    def __init__(self, queue: Registry, calls: SyncCalls) -> None:
        self._queue, self._calls = queue, calls

    # Look at jobs

    def jobs(
        self, state: State | str | None = None, limit: int = 100, **options: Unpack[FilterOptions]
    ) -> list[JobInfo]:
        """List jobs of one state, or of each; see `Control.jobs`."""
        return self._calls.do(operations.jobs(state, limit, options))

    def scan(self, state: State | str, **options: Unpack[FilterOptions]) -> Iterator[JobInfo]:
        """Iterate over all matching jobs of one state; see `Control.scan`."""
        return self._calls.scan(operations.first_page(state, options))

    def counts(self) -> Counts:
        """Count the jobs of each state, at one instant."""
        return self._calls.ask(Count())

    def dead_groups(self) -> list[DeadGroup]:
        """Count the dead letters of each kind; see `Control.dead_groups`."""
        return self._calls.do(operations.dead_groups())

    def steps(self, job: str | PushedJob) -> list[StepInfo]:
        """List the steps that a job has saved; see `Control.steps`."""
        return self._calls.do(steps(job))

    def children(
        self,
        job: str | PushedJob,
        *,
        step: str | None = None,
        first: int = 0,
        limit: int = 100,
        look_up: bool = False,
    ) -> list[ChildGroup]:
        """List the groups of children that a job runs, or has run; see `Control.children`."""
        return self._calls.do(children(job, step, first, limit, look_up))

    def why(self, job: str | PushedJob | None = None, *, unique: str | None = None) -> Why:
        """Find out why a job does not run, or what became of it; see `Control.why`."""
        return self._calls.do(why(self._queue.name, job, unique))

    # Change one job

    def hold(self, job: str | PushedJob) -> Reply:
        """Stop one waiting job from starting; see `Control.hold` for the replies."""
        return self._calls.ask(Hold(id_of(job)))

    def unhold(self, job: str | PushedJob) -> bool:
        """Let a held job start again, and return whether it was held."""
        return self._calls.ask(Unhold(id_of(job))) is Reply.OK

    def requeue(
        self,
        job: str | PushedJob,
        *,
        parameters: Any = None,
        ended: bool = False,
        unique: bool = True,
        from_step: str | None = GO_ON,
    ) -> Reply | None:
        """Make a dead letter ready again; see `Control.requeue`."""
        return self._calls.do(requeue(job, parameters, ended, unique, from_step, self._queue._edited))

    def delete(self, job: str | PushedJob) -> bool:
        """Delete a dead letter, or a job that ended and was kept; return whether there was one."""
        return self._calls.ask(Delete(id_of(job))) is Reply.OK

    # Change many jobs

    def cancel_all(self, state: State | str, **options: Unpack[FilterOptions]) -> int:
        """Cancel all matching jobs of one state; see `Control.cancel_all`."""
        return self._calls.do(operations.cancel_all(state, options))

    def hold_all(self, state: State | str, **options: Unpack[FilterOptions]) -> int:
        """Hold all matching jobs of one state; see `Control.hold_all`."""
        return self._calls.do(operations.hold_all(state, options))

    def unhold_all(self, state: State | str, **options: Unpack[FilterOptions]) -> int:
        """Let all matching held jobs start again; see `Control.unhold_all`."""
        return self._calls.do(operations.unhold_all(state, options))

    def requeue_all(self, *, rate: str | None = None, **options: Unpack[FilterOptions]) -> int:
        """Make all matching dead letters ready again; see `Control.requeue_all`."""
        return self._calls.do(operations.requeue_all(options, rate))

    def delete_all(self, **options: Unpack[FilterOptions]) -> int:
        """Delete all matching dead letters; see `Control.delete_all`."""
        return self._calls.do(operations.delete_all(options))

    # The whole queue, or one name

    def pause(self, name: str | JobName[Any] | None = None) -> None:
        """Stop the jobs of the queue, or of one name, from starting; see `Control.pause`."""
        self._calls.do(operations.pause(name))

    def resume(self, name: str | JobName[Any] | None = None) -> None:
        """End a pause of the queue, or of one name; see `Control.resume`."""
        self._calls.do(operations.resume(name))

    def is_paused(self, name: str | JobName[Any] | None = None) -> bool:
        """Return whether the queue is paused; with a name, whether that job name itself is."""
        return self._calls.do(operations.is_paused(name))

    def pauses(self) -> PauseInfo:
        """Return what is paused or held; see `Control.pauses`."""
        return pause_info(self._calls.ask(FindPauses()))

    def set_limit(
        self,
        name: str | JobName[Any],
        *,
        max_concurrency: int | None = None,
        rate: str | None = None,
        burst: int | None = None,
    ) -> None:
        """Set or remove the limit of a job name; see `Control.set_limit`."""
        self._calls.do(operations.set_limit(name, max_concurrency, rate, burst))

    def limits(self) -> list[LimitInfo]:
        """List the limits by job name; see `Control.limits`."""
        return self._calls.do(operations.limits())

    # Workers

    def workers(self) -> list[WorkerInfo]:
        """List the workers of this queue by id, as they were at their last heartbeats."""
        return self._calls.do(operations.workers())

    def quiet_worker(self, worker: str | WorkerInfo) -> Reply:
        """Ask a worker to claim no more jobs of this queue; see `Control.quiet_worker`."""
        return self._calls.do(operations.ask_worker(worker, Wish.QUIET))

    def resume_worker(self, worker: str | WorkerInfo) -> Reply:
        """Ask a quiet worker to claim jobs again; see `Control.quiet_worker` for the replies."""
        return self._calls.do(operations.ask_worker(worker, Wish.RESUME))

    def stop_worker(self, worker: str | WorkerInfo) -> Reply:
        """Ask a worker to stop; see `Control.stop_worker`."""
        return self._calls.do(operations.ask_worker(worker, Wish.STOP))

    # Health

    def statistics(
        self,
        last: float | timedelta = 3600,
        name: str | JobName[Any] | None = None,
        *,
        since: datetime | None = None,
    ) -> list[Interval]:
        """Return what happened lately on the queue; see `Control.statistics`."""
        return self._calls.do(statistics(last, name, since))

    def overview(self, previous: Overview | None = None) -> Overview:
        """Return what happened in the last hour, by name and cause; see `Control.overview`."""
        return self._calls.do(overview(previous))

    def doctor(self, *, repair: bool = False, progress: Progress | None = None) -> list[Finding]:
        """Check the queue and its server, and maybe repair its data; see `Control.doctor`."""
        return self._calls.do(doctor(self._queue.name, flag(repair, "repair"), progress))
