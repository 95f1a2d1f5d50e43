"""One queue on the page: its reads, which all viewers share."""

import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from redisjobs.client.calls import Calls
from redisjobs.client.registry import Registry
from redisjobs.control.children import story
from redisjobs.control.control import Control
from redisjobs.control.doctor import quick_checks
from redisjobs.control.filters import FilterOptions, filter_of
from redisjobs.control.why import why
from redisjobs.model.health import Finding
from redisjobs.model.info import ChildGroup, DeadGroup, JobInfo, LimitInfo, PauseInfo, WorkerInfo, job_info
from redisjobs.model.job import State
from redisjobs.model.payload import encode_untyped
from redisjobs.model.queries import Backlog, Counts, GetBacklog, Scan
from redisjobs.model.statistics import Interval, Overview
from redisjobs.model.steps import StepInfo
from redisjobs.model.stored import ScheduleInfo
from redisjobs.model.why import Why
from redisjobs.queue import JobQueue
from redisjobs.web.board.checkup import Checkup
from redisjobs.web.board.redaction import Redaction
from redisjobs.web.board.rights import Rights
from redisjobs.web.board.snapshot import Snapshots

_DEADLINE = 3.0  # seconds that a page waits for an unavailable server
_STEPS = 4  # of a scan, for one view: each reads up to 500 jobs
_SPEED_OF = 20.0  # seconds over which a speed is measured
_READ = 25  # groups of dead letters whose newest letter is read, to know what to hide
_MOST_KEPT = 40  # rows of intervals
_CHECKED_FOR = 30.0  # seconds for which the quick checks are kept; they take some ten round trips
_CHILDREN, _GROUPS = 20, 10  # of one job, of the newest ones
_LISTED = 2_000  # characters of parameters and errors in a list

Story = tuple[Sequence[StepInfo], Sequence[ChildGroup]]
"""The steps of a job, and its children."""


@dataclass(frozen=True, slots=True)
class JobPage:
    """Some jobs of a list.

    Attributes:
        jobs: The jobs.
        after: Where the next page begins; '' at the end.
        scanned: The most jobs that were looked at for these.
    """

    jobs: Sequence[JobInfo]
    after: str
    scanned: int


class Board:
    """One queue on the page."""

    def __init__(self, registry: Registry, slug: str, redaction: Redaction) -> None:
        self.slug, self.redaction = slug, redaction
        self.snapshots = Snapshots()
        self.registry, self.checkup, self.rights = registry, Checkup(registry), Rights(registry)
        self._queue: JobQueue | None = None
        self._intervals: dict[tuple[float, str], list[Interval]] = {}
        self._overview: Overview | None = None
        self._seen = deque[tuple[float, Mapping[str, int]]](maxlen=20)

    @property
    def name(self) -> str:
        """The queue's name."""
        return self.registry.name

    @property
    def where(self) -> str:
        """The server, without a password."""
        return self.registry.driver.where

    @property
    def queue(self) -> JobQueue:
        """The queue, on the connections of the application's own queue; the page gives up sooner."""
        if self._queue is None or self._queue.driver is not self.registry.driver:
            self._queue = JobQueue(
                self.registry.driver,
                self.registry.name,
                max_parameters=self.registry.max_parameters,
                deadline=_DEADLINE,
                middleware=self.registry.middleware,
            )
            self._queue.definitions = self.registry.definitions
        return self._queue

    @property
    def control(self) -> Control:
        """The operator's calls on the queue."""
        return self.queue.control

    @property
    def _calls(self) -> Calls:
        return Calls(self.queue)

    # Reads

    async def counts(self) -> Counts:
        """Count the jobs of each state."""
        return await self.snapshots.get("counts", self._count)

    async def _count(self) -> Counts:
        counts = await self.control.counts()
        self._seen.append((time.monotonic(), counts.totals))
        return counts

    def speed(self, counter: str) -> float | None:
        """Return how fast a counter grew in the last seconds, per second; None if that is not known yet."""
        seen = [(at, totals) for at, totals in self._seen if at > time.monotonic() - _SPEED_OF]
        if len(seen) < 2 or seen[-1][0] - seen[0][0] < 1:
            return None
        (since, before), (until, after) = seen[0], seen[-1]
        return max(0.0, (after.get(counter, 0) - before.get(counter, 0)) / (until - since))

    async def backlog(self) -> Backlog:
        """Find the age of the oldest ready jobs."""
        return await self.snapshots.get("backlog", lambda: self._calls.ask(GetBacklog()))

    async def pauses(self) -> PauseInfo:
        """Find what is paused or held."""
        return await self.snapshots.get("pauses", self.control.pauses)

    async def workers(self) -> list[WorkerInfo]:
        """List the workers."""
        return await self.snapshots.get("workers", self.control.workers)

    async def limits(self) -> list[LimitInfo]:
        """List the limits."""
        return await self.snapshots.get("limits", self._limits)

    async def _limits(self) -> list[LimitInfo]:
        return [*map(self.redaction.limit, await self.control.limits())]

    async def schedules(self) -> list[ScheduleInfo]:
        """List the schedules."""
        return await self.snapshots.get("schedules", self.queue.schedules.list)

    async def groups(self) -> list[DeadGroup]:
        """Count the dead letters of each kind."""
        return await self.snapshots.get("groups", self._groups)

    async def _groups(self) -> list[DeadGroup]:
        groups = await self.control.dead_groups()
        read = groups[:_READ] if self.redaction.needs_jobs else ()
        newest = {group.fingerprint: await self.queue.get(group.job_id) for group in read}
        return [self.redaction.group(group, newest.get(group.fingerprint)) for group in groups]

    async def statistics(self, last: float, name: str = "", keep: float = 1.0) -> list[Interval]:
        """Return what happened lately, by minute or by ten minutes, at most `keep` seconds old."""
        return await self.snapshots.get(("statistics", last, name), lambda: self._statistics(last, name), keep)

    async def _statistics(self, last: float, name: str) -> list[Interval]:
        """Read only the intervals that may have changed since the last read."""
        before = self._intervals.get((last, name), [])
        since = next((interval.start for interval in before if not interval.is_closed), None)
        found = await self.control.statistics(last, name or None, since=since)
        if since is not None and found and found[0].start <= since:
            length = len(before)
            found = [*(each for each in before if each.start < found[0].start), *found][-length:]
        self._intervals.pop((last, name), None)
        self._intervals[last, name] = found
        while len(self._intervals) > _MOST_KEPT:
            del self._intervals[next(iter(self._intervals))]
        return found

    async def overview(self) -> Overview:
        """Return what happened in the last hour, by job name and by cause."""
        return await self.snapshots.get("overview", self._read_overview)

    async def _read_overview(self) -> Overview:
        self._overview = await self.control.overview(self._overview)
        _ = self._overview.names  # added up here: it takes longer than the read, and says how long both are kept
        return self._overview

    async def job(self, job_id: str) -> JobInfo | None:
        """Look a job up."""
        found = await self.snapshots.get(("job", job_id), lambda: self.queue.get(job_id))
        return found and self.redaction.job(found)

    async def story(self, job_id: str) -> Story:
        """List the steps that a job has saved, and its children: the first ones of the newest groups."""
        return await self.snapshots.get(("story", job_id), lambda: self._story(job_id))

    async def _story(self, job_id: str) -> Story:
        steps, groups = await self._calls.do(story(job_id, _CHILDREN, _GROUPS))
        if self.redaction.hides and (steps or groups):
            stored = await self.queue.get(job_id)
            steps, groups = self.redaction.story(steps, groups, stored) if stored else ([], [])
        return steps, [
            replace(group, children=[replace(child, result=child.result[:_LISTED]) for child in group.children])
            for group in groups
        ]

    async def why(self, job_id: str) -> Why:
        """Find out why a job does not run, or what became of it."""

        async def ask() -> Why:
            stored = list[JobInfo]()

            def shown(job: JobInfo) -> JobInfo:
                stored.append(job)
                return self.redaction.job(job)

            known = await self._calls.do(why(self.name, job_id, shown=shown))
            return self.redaction.why(known, stored[0] if stored else None)

        return await self.snapshots.get(("why", job_id), ask)

    async def quick_checks(self) -> list[Finding]:
        """Check workers, backlog, schedules and server, without the data."""
        return await self.snapshots.get("checks", lambda: self._calls.do(quick_checks()), _CHECKED_FOR)

    async def result(self, job_id: str) -> str:
        """Return the JSON text of a job's result, or raise as `JobQueue.result` does."""
        value = await self.snapshots.get(("result", job_id), lambda: self.queue.result(job_id, timeout=0))
        return encode_untyped("result", value, sys.maxsize).decode()

    async def jobs(self, state: State, wanted: FilterOptions, after: str, limit: int) -> JobPage:
        """List jobs of one state that match, in a few bounded steps."""
        key = state, *wanted.items(), after, limit
        return await self.snapshots.get(key, lambda: self._jobs(state, wanted, after, limit))

    async def _jobs(self, state: State, wanted: FilterOptions, after: str, limit: int) -> JobPage:
        found, text, scanned = list[JobInfo](), wanted.get("text"), 0
        if is_hidden := bool(text) and self.redaction.hides:  # where the server finds it tells what is hidden
            wanted = FilterOptions(**{**wanted, "text": None})
        for _ in range(_STEPS * 5 if is_hidden else _STEPS):
            step = await self._calls.ask(Scan(state, filter_of(wanted), after, limit - len(found)))
            jobs = [self.redaction.job(job_info(row)) for row in step.rows]
            found += [_listed(job) for job in jobs if not is_hidden or _has(job, text or "")]
            after, scanned = step.after, scanned + (len(step.rows) if is_hidden else 500)
            if not after or len(found) >= limit:
                break
        return JobPage(found, after, scanned)


def _listed(job: JobInfo) -> JobInfo:
    """Return a job for a list, which is kept in memory for a moment, without its long texts."""
    return replace(job, parameters=job.parameters[:_LISTED], error=job.error[:_LISTED], traceback="")


def _has(job: JobInfo, text: str) -> bool:
    return text in job.parameters or text in job.error
