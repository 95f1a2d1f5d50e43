"""The slots of a worker, which its sources share. `Turns` decides which source may claim for them."""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from anyio.abc import TaskGroup

from redisjobs.base.visible import number_of
from redisjobs.worker.running.deadline import Deadlines
from redisjobs.worker.running.execution import Execution
from redisjobs.worker.running.handler_run import HandlerRuntime
from redisjobs.worker.running.threads import Threads
from redisjobs.worker.settings.settings import Settings
from redisjobs.worker.settings.shutdown import Shutdown
from redisjobs.worker.source.batcher import Batcher
from redisjobs.worker.source.fetcher import Fetcher
from redisjobs.worker.source.leases import Leases
from redisjobs.worker.source.policy import Allocator, Prefetch, Quarantine
from redisjobs.worker.source.slots import Slots

_WORTH = 25  # free slots that make a claim worthwhile beside another source's
_MOST_CLAIMS = 2  # of all sources together
_MOST_AHEAD = 2  # jobs for each slot; with one, two workers on two cores wait for the server

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
    """The slots of a worker: as many as jobs may run at once.

    Free slots are not divided among the sources. The source that has the turn may claim for all of them.
    """

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
        self.ahead = 0  # how many more jobs than free slots may be claimed, because some jobs end meanwhile
        self.begun = 0  # jobs given to slots since the start
        self.threads = threads
        self.shutdown = shutdown
        self.concurrency = settings.concurrency
        self.leave = leave  # stops the worker, because an operator asked for it; any thread may call it
        self._prefetch = Prefetch(_MOST_AHEAD * settings.concurrency)
        self._recycle = recycle
        self._max_jobs = settings.max_jobs
        self._supervised = settings.supervised

    def share_among(self, sources: Sequence[Claimant]) -> None:
        """Let these sources share the slots."""
        self.sources, self.is_shared = sources, len(sources) > 1

    def start(self, tasks: TaskGroup) -> None:
        """Start the slots."""
        self.slots.start(tasks)
        tasks.start_soon(self.deadlines.run)

    @property
    def room(self) -> int:
        """How many jobs could start now, beyond those that claims have asked for."""
        return self.room_with(0)

    def room_with(self, ahead: int) -> int:
        """Return how many jobs could start, or (up to `ahead`) wait, beyond those that claims asked for."""
        if self.shutdown.stopping or (self.isolated is not None and self._keeps_others_out(self.isolated)):
            return 0
        asked, since, one_waits = 0, self.reserved_since, False
        for source in self.sources:
            if source.batcher.under_way:
                if source.batcher.may_bring_isolated(since):
                    return 0
                asked += source.batcher.asked(since)
            one_waits = one_waits or source.quarantine.one_waits
        if one_waits and self._takes_no_new_jobs:
            return 0
        places = min(self.concurrency + ahead - self.slots.held, self._max_jobs - self.begun)
        return max(0, int(places - asked))

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

    @property
    def reserved_since(self) -> float:
        """Claims sent since then keep slots for their jobs, so a server that hangs delays only its own source.

        Jobs that come later go back if the slots have been filled.
        """
        return time.monotonic() - RESERVED if self.is_shared else float("-inf")

    def _keeps_others_out(self, run: Execution) -> bool:
        """Return whether the isolated job has the worker to itself: until it is settled, or its server is away."""
        if not self.is_shared or not run.ended:
            return True
        return not any(each.is_away and run in each.leases for each in self.sources)

    @property
    def _takes_no_new_jobs(self) -> bool:
        """Whether the worker takes no new jobs until the running ones are done, so that a job can run isolated.

        Jobs of a server that is away can't be settled, so it would wait for ever.
        """
        now = time.monotonic()
        if not any(each.quarantine.is_on(now) for each in self.sources):
            return False
        holders = [each for each in self.sources if each.leases.running]
        return bool(holders) and (not self.is_shared or not any(holder.is_away for holder in holders))

    @property
    def read_count(self) -> int:
        """How many jobs of each priority a blocking read may bring; 0 if there is no room."""
        room = self.room
        # COUNT applies to each of three streams, so a third of the slots leaves little to hand back.
        return max(1, room // (3 * len(self.sources))) if room else 0

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

    def give(self, runs: Sequence[Execution]) -> None:
        """Let slots run these jobs, in this order."""
        self.begun += len(runs)
        self.slots.give(runs)

    def claim_ahead(self, sent_at: float, *, wanted: bool) -> None:
        """Decide how many jobs may be claimed before a slot is free for them; none of a worker's last jobs waits.

        With several sources none may, or sources would get more or less than their share. `wanted`: there are more
        jobs than the claim sent at `sent_at` brought, and all of them may start.
        """
        self._prefetch.answered(self.ended, sent_at, time.monotonic())
        jobs = self._prefetch.jobs if wanted and not self.is_shared else 0
        self.ahead = max(0, int(min(jobs, self._max_jobs - self.begun - self.concurrency)))

    def take_back(self, waited: float) -> list[Execution]:
        """Take back the jobs that have waited `waited` seconds for a slot.

        If there are any, none is claimed ahead until the rate at which jobs end is known again.
        """
        late = self.slots.take_back(time.monotonic() - waited)
        self.begun -= len(late)
        if late:
            self._prefetch.forget()
            self.ahead = 0
        return late

    def given(self, by: Claimant) -> None:
        """Note that a source has given jobs to slots. These may have been the last jobs, or the last slots."""
        if self.begun >= self._max_jobs and not self.shutdown.stopping:
            self._recycle(f"{number_of(self.begun, 'job')} {'was' if self.begun == 1 else 'were'} run")
        if self.is_shared and not self.room:
            for other in self.sources:
                if other is not by and other.fetcher.waiting:
                    other.make_room()
        self.changed()

    def let_go(self, run: Execution) -> None:
        """Note that another worker has this job, which may be the isolated one."""
        if self.isolated is run:
            self.isolated = None

    def changed(self) -> None:
        """Let every source check again: slots are free, or an answer came."""
        for source in self.sources:
            source.wake()


class Turns:
    """Shares the free slots among the sources of a worker, by weight or in strict order."""

    def __init__(self, pool: Pool, allocator: Allocator) -> None:
        self.pool = pool
        self._allocator = allocator

    def share(self, source: Claimant) -> int:
        """Return how many jobs a source may claim now. If it is another's turn, wake that one and return 0."""
        pool = self.pool
        if not pool.is_shared:
            return pool.room_with(pool.ahead)
        room = pool.room
        if not room:
            return 0
        if self._allocator.is_strict:
            return self._left_for(source, room)
        since = pool.reserved_since
        claims = sum(other.batcher.asked(since) > 0 for other in pool.sources if other is not source)
        if claims >= _MOST_CLAIMS or (claims and room < _WORTH):
            return 0
        turn = self._allocator.next(self._wanting(source))
        if turn is None or pool.sources[turn] is source:
            return room
        pool.sources[turn].wake()
        return 0

    def _wanting(self, source: Claimant) -> list[bool]:
        """Return whether each source would claim; `source` counts in any case."""
        return [each is source or each.wants_jobs for each in self.pool.sources]

    def _left_for(self, source: Claimant, room: int) -> int:
        """Return how many free slots a source may have in strict order: those that no earlier one had jobs for."""
        left = room
        for other in self.pool.sources:
            if other is source:
                break
            if other.wants_jobs:
                left = min(left, room - self._new_to(other, room))
                if not left:
                    other.wake()
                    return 0
        if time.monotonic() < source.skip_until:
            left -= room - self._new_to(source, room)
        return max(0, left)

    def _new_to(self, source: Claimant, room: int) -> int:
        """Return for how many of the free slots a source has not claimed since they became free."""
        if source.emptied_at is None:
            return room
        asked = source.batcher.asked(self.pool.reserved_since)
        return min(room, max(0, self.pool.ended - source.emptied_at - asked))

    def has_new_slots_for(self, source: Claimant) -> bool:
        """Return whether, in strict order, a source has not claimed for some slots since they became free."""
        return self.pool.is_shared and self._allocator.is_strict and self._new_to(source, self.pool.room) > 0

    def claiming(self, source: Claimant) -> None:
        """Note that a source claims in its turn."""
        if self.pool.is_shared:
            self._allocator.claimed(self.pool.sources.index(source), self._wanting(source))
            self.pool.changed()

    def brought(self, source: Claimant, jobs: int, *, more: bool) -> None:
        """Note how many jobs a claim brought, and whether there are more.

        Turns are counted by jobs. Counted by claims, a source whose turn comes whenever many slots are free would
        get more than its share. If all jobs took the same time, that would go on for ever.
        """
        if not self.pool.is_shared:
            return
        number = self.pool.sources.index(source)
        if jobs > 1:  # `claiming` counted the first
            self._allocator.claimed(number, self._wanting(source), jobs - 1)
        if not more:
            self._allocator.emptied(number)

    def others_come_before_reads(self, source: Claimant) -> bool:
        """Return whether others claim before a source reads: in strict order each free slot would end its read."""
        return self._allocator.is_strict and self.others_want_jobs(source)

    def others_want_jobs(self, source: Claimant) -> bool:
        """Return whether other sources would claim if they had slots."""
        return any(each is not source and each.wants_jobs for each in self.pool.sources)
