"""The slots of a worker, which its sources share."""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from anyio.abc import TaskGroup

from redisjobs.base.visible import number_of
from redisjobs.worker.running.deadline import Deadlines
from redisjobs.worker.running.execution import Execution, HandlerRuntime
from redisjobs.worker.running.threads import Threads
from redisjobs.worker.settings.settings import Settings
from redisjobs.worker.settings.shutdown import Shutdown
from redisjobs.worker.source.batcher import Batcher
from redisjobs.worker.source.fetcher import Fetcher
from redisjobs.worker.source.leases import Leases
from redisjobs.worker.source.policy import Quarantine
from redisjobs.worker.source.slots import Slots

RESERVED = 1.0
"""Seconds for which a claim keeps its slots from other sources, and a busy source keeps its turn."""


class Claimant(Protocol):
    """The claims of one source, as the pool uses them; see `Claims`."""

    batcher: Batcher
    fetcher: Fetcher
    leases: Leases
    quarantine: Quarantine
    skip_until: float
    emptied_at: int | None
    is_idle: bool

    @property
    def is_away(self) -> bool:
        """Whether its server is away, so that no outcome can be settled."""

    @property
    def wants_jobs(self) -> bool:
        """Whether it would claim if it had slots."""

    def make_room(self) -> None:
        """End the blocking read: no slot is free for the jobs that it would bring."""

    def wake(self) -> None:
        """Let its source check again what there is to do."""


class Pool:
    """The slots of a worker: as many as jobs may run at once. `Demand` decides for how many of them to claim."""

    runtime: HandlerRuntime  # set when the run begins

    def __init__(
        self,
        settings: Settings,
        threads: Threads,
        shutdown: Shutdown,
        recycle: Callable[[str], object],
        leave: Callable[[], object],
    ) -> None:
        self.sources: Sequence[Claimant] = ()
        self.is_shared = False
        self.slots = Slots(settings.concurrency)
        self.deadlines = Deadlines(self.slots.deadlines)
        self.isolated: Execution | None = None  # the job that runs with no other beside it
        self.begun = 0  # jobs given to slots since the start
        self.threads = threads
        self.shutdown = shutdown
        self.concurrency = settings.concurrency
        self.leave = leave  # stops the worker, because an operator asked for it; any thread may call it
        self.max_jobs = settings.max_jobs
        self._recycle = recycle
        self._supervised = settings.supervised

    def share_among(self, sources: Sequence[Claimant]) -> None:
        """Let these sources share the slots."""
        self.sources, self.is_shared = sources, len(sources) > 1

    def start(self, tasks: TaskGroup) -> None:
        """Start the slots."""
        self.slots.start(tasks)
        tasks.start_soon(self.deadlines.run)

    @property
    def holds(self) -> int:
        """Number of jobs the worker holds in all sources, except those that only wait for an abandoned thread."""
        return sum(len(source.leases) for source in self.sources) - self.lingering

    @property
    def lingering(self) -> int:
        """Number of jobs that only wait for their abandoned thread to end."""
        return sum(source.leases.lingering for source in self.sources)

    @property
    def ended(self) -> int:
        """Number of jobs that have ended since the start."""
        return self.begun - self.slots.held

    def is_idle_but_for(self, source: Claimant) -> bool:
        """Return whether a job that started now would run isolated, once the source's outcomes are settled.

        The thread of an abandoned handler may be what ends this process. It may also run for ever. So a worker
        that has waited long enough for the thread takes the job; a supervised one makes room for another worker.
        """
        if (self.threads.abandoned and not source.quarantine.is_on(time.monotonic())) or self.slots.held:
            return False
        return not any(
            each.batcher.under_way or (each.fetcher.waiting and each is not source) for each in self.sources
        )

    def may_isolate(self, source: Claimant) -> bool:
        """Return whether a source may claim the isolated job that it waits for: no job is held or running.

        If so, end the blocking reads of other sources.
        """
        if source.leases.running or (self.slots.held and self.is_shared):
            return False
        for other in self.sources:
            if other is not source and other.fetcher.waiting:
                other.make_room()
        return True

    def recycle_for_isolated(self, source: Claimant) -> None:
        """Recycle a supervised worker that can't run an isolated job, because abandoned threads never end."""
        if self._supervised and self.threads.abandoned and source.quarantine.is_on(time.monotonic()):
            self._recycle("a job has to run alone, but threads of abandoned handlers still run")

    def isolate(self, run: Execution) -> None:
        """Let a slot run a job with no other job beside it."""
        self.isolated = run
        self.begun += 1
        self.slots.give_isolated(run)

    def end_isolated(self, run: Execution) -> bool:
        """Let other jobs start again, if this is the isolated job; return whether it is."""
        is_it = self.isolated is run
        if is_it:
            self.isolated = None
        return is_it

    def give(self, runs: Sequence[Execution]) -> None:
        """Let slots run these jobs, in this order."""
        self.begun += len(runs)
        self.slots.give(runs)

    def take_back(self, waited: float) -> list[Execution]:
        """Take back the jobs that have waited `waited` seconds for a slot."""
        late = self.slots.take_back(time.monotonic() - waited)
        self.begun -= len(late)
        return late

    def jobs_begun(self) -> None:
        """Note that jobs were given to slots. These may have been the last jobs of this worker."""
        if self.begun >= self.max_jobs and not self.shutdown.stopping:
            self._recycle(f"{number_of(self.begun, 'job')} {'was' if self.begun == 1 else 'were'} run")
        self.changed()

    def changed(self) -> None:
        """Let every source check again: slots are free, or an answer came."""
        for source in self.sources:
            source.wake()
