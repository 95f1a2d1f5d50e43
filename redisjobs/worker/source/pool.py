"""The slots that the sources of a worker share, and what a source may claim for them."""

import time
from collections.abc import Sequence
from typing import Protocol

from anyio.abc import TaskGroup

from redisjobs.base.visible import number_of
from redisjobs.worker.running.call import HandlerRuntime
from redisjobs.worker.running.deadline import Deadlines
from redisjobs.worker.running.execution import Execution
from redisjobs.worker.running.guard import keep_up
from redisjobs.worker.running.threads import Threads
from redisjobs.worker.settings.settings import Settings
from redisjobs.worker.settings.shutdown import Shutdown
from redisjobs.worker.source.batcher import Batcher
from redisjobs.worker.source.claiming import Allocator, Prefetch, Quarantine
from redisjobs.worker.source.fetcher import Fetcher
from redisjobs.worker.source.leases import Leases
from redisjobs.worker.source.slots import Slots

_WORTH = 25  # free slots that are worth a claim beside another source's
_MOST_CLAIMS = 2  # by all sources at once
_MOST_AHEAD = 2  # for each slot: with one, two workers on two cores wait for the server

RESERVED = 1.0
"""Seconds for which a claim keeps its slots from other sources, and for which one that is busy keeps its turn."""


class Claimant(Protocol):
    """Who claims for one source.

    Attributes:
        batcher: Its exchanges.
        fetcher: Its blocking read.
        dispatcher: Its jobs.
        quarantine: Says whether the worker is to take no new jobs for it.
        skip_until: It had nothing, and leaves the slots to other sources until then, by the monotonic clock.
        emptied_at: How many jobs of the worker had ended when it claimed last, and left nothing; None: it may have
            jobs.
    """

    batcher: Batcher
    fetcher: Fetcher
    quarantine: Quarantine
    skip_until: float
    emptied_at: int | None

    @property
    def dispatcher(self) -> "Holder":
        """Who gives its jobs to slots."""

    @property
    def wants_jobs(self) -> bool:
        """Whether it would claim, were it given slots."""

    def make_room(self) -> None:
        """End the blocking read, for no slot is free for what it would bring."""

    def wake(self) -> None:
        """Look again what is to be done."""


class Holder(Protocol):
    """Who holds jobs."""

    @property
    def leases(self) -> Leases:
        """The book of them."""

    @property
    def is_away(self) -> bool:
        """Whether its store is: what has run can't be settled."""


class Owner(Protocol):
    """The worker's run."""

    def recycle(self, why: str) -> None:
        """End once all that runs has run."""


class Pool:
    """As many slots as jobs may run at once, and which sources may claim for them.

    Free slots are not divided among the sources: whoever's turn it is may claim for all of them.

    Args:
        settings: The worker's.
        threads: Where sync handlers run.
        allocator: Says whose turn it is.
        shutdown: Says whether the worker stops.
        owner: Is told when the worker has had its share of jobs.

    Attributes:
        sources: Who shares it.
        is_shared: Whether they are several.
        slots: The slots.
        deadlines: When what runs there has to have ended.
        concurrency: How many there are.
        alone: The job that runs with nothing beside it.
        shutdown: Whether the worker stops, and how.
        ahead: How many jobs more than there are free slots may be claimed: some will end meanwhile.
        begun: Jobs given to slots since the start.
        means: What handlers are run with; set when the worker's run begins.
    """

    means: HandlerRuntime

    def __init__(
        self, settings: Settings, threads: Threads, allocator: Allocator, shutdown: Shutdown, owner: Owner
    ) -> None:
        self.sources: Sequence[Claimant] = ()
        self.is_shared = False
        self.slots = Slots(settings.concurrency)
        self.deadlines = Deadlines(self.slots.running)
        self.alone: Execution | None = None
        self.ahead = self.begun = 0
        self.threads = threads
        self._allocator = allocator
        self._prefetch = Prefetch(_MOST_AHEAD * settings.concurrency)
        self.shutdown = shutdown
        self._owner = owner
        self.concurrency = settings.concurrency
        self._max_jobs = settings.max_jobs
        self._supervised = settings.supervised

    def share_among(self, sources: Sequence[Claimant]) -> None:
        """Let these share it."""
        self.sources, self.is_shared = sources, len(sources) > 1

    def start(self, tasks: TaskGroup) -> None:
        """Start the slots."""
        self.slots.start(tasks, self.means.guard)
        tasks.start_soon(keep_up, self.deadlines.run)

    @property
    def room(self) -> int:
        """How many jobs could start now, beyond those that were asked for."""
        return self.room_with(0)

    def room_with(self, ahead: int) -> int:
        """How many jobs could start now, or wait for a slot, if so many may, beyond those that were asked for."""
        if self.shutdown.stopping or (self.alone is not None and self._is_taken_alone(self.alone)):
            return 0
        asked, since, one_waits = 0, self._reserved_since, False
        for source in self.sources:
            if source.batcher.under_way:
                if source.batcher.brings_one_alone(since):
                    return 0
                asked += source.batcher.asked(since)
            one_waits = one_waits or source.quarantine.one_waits
        if one_waits and self._is_clearing:
            return 0
        places = min(self.concurrency + ahead - self.slots.held, self._max_jobs - self.begun)
        return max(0, int(places - asked))

    @property
    def holds(self) -> int:
        """How many jobs the worker holds, of all sources, but for those that wait for an abandoned thread only."""
        return sum(len(source.dispatcher.leases) for source in self.sources) - self.lingering

    @property
    def lingering(self) -> int:
        """How many jobs wait for no more than the end of a thread of theirs, which was given up."""
        return sum(source.dispatcher.leases.lingering for source in self.sources)

    @property
    def ended(self) -> int:
        """How many jobs have ended since the start."""
        return self.begun - self.slots.held

    @property
    def _reserved_since(self) -> float:
        """From when on claims keep slots for what they bring: a store that hangs is to cost only its own source.

        What comes later goes back, if the slots have been filled.
        """
        return time.monotonic() - RESERVED if self.is_shared else float("-inf")

    def _is_taken_alone(self, run: Execution) -> bool:
        """Whether a job has the worker to itself: until it is settled, or has run if its store is away."""
        if not self.is_shared or not run.ended:
            return True
        return not any(each.dispatcher.is_away and run in each.dispatcher.leases for each in self.sources)

    @property
    def _is_clearing(self) -> bool:
        """Whether no new jobs are taken until those that run are done, so that one can run alone.

        What is held at a store that is away can't be let go: then there is no end to wait for.
        """
        now = time.monotonic()
        if not any(each.quarantine.is_on(now) for each in self.sources):
            return False
        holders = [each.dispatcher for each in self.sources if each.dispatcher.leases.running]
        return bool(holders) and (not self.is_shared or not any(holder.is_away for holder in holders))

    def share(self, source: Claimant) -> int:
        """How many jobs a source may claim now; 0 where it is another's turn, who is told."""
        if not self.is_shared:
            return self.room_with(self.ahead)
        room = self.room
        if not room:
            return 0
        if self._allocator.is_strict:
            return self._left_for(source, room)
        since = self._reserved_since
        claims = sum(other.batcher.asked(since) > 0 for other in self.sources if other is not source)
        if claims >= _MOST_CLAIMS or (claims and room < _WORTH):
            return 0
        turn = self._allocator.next([each is source or each.wants_jobs for each in self.sources])
        if turn is None or self.sources[turn] is source:
            return room
        self.sources[turn].wake()
        return 0

    def _left_for(self, source: Claimant, room: int) -> int:
        """How many free slots a source may have, in strict order: those that all before it had no jobs for."""
        left = room
        for other in self.sources:
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
        """How many of the free slots a source has not claimed for since they are free."""
        if source.emptied_at is None:
            return room
        asked = source.batcher.asked(self._reserved_since)
        return min(room, max(0, self.ended - source.emptied_at - asked))

    def has_new_slots_for(self, source: Claimant) -> bool:
        """Whether slots are free, in strict order, that a source has not claimed for since they are."""
        return self.is_shared and self._allocator.is_strict and self._new_to(source, self.room) > 0

    def claims(self, source: Claimant) -> None:
        """Note that a source claims, which was its turn."""
        if self.is_shared:
            number = self.sources.index(source)
            self._allocator.claimed(number, [each is source or each.wants_jobs for each in self.sources])
            self.changed()

    def brought(self, source: Claimant, jobs: int, *, more: bool) -> None:
        """Note how many jobs a claim brought, and whether there are more.

        Turns are counted by jobs. Counted by claims, a source whose turn it is whenever many slots are free would
        have more than its share: with jobs that all take the same time that repeats itself for ever.
        """
        if not self.is_shared:
            return
        number = self.sources.index(source)
        if jobs > 1:  # the first was counted when it was claimed
            hungry = [each is source or each.wants_jobs for each in self.sources]
            self._allocator.claimed(number, hungry, jobs - 1)
        if not more:
            self._allocator.emptied(number)

    def are_others_before_reads(self, source: Claimant) -> bool:
        """Whether others claim before a source reads: in strict order each new slot would end such a read."""
        return self._allocator.is_strict and self.is_sought_beside(source)

    @property
    def to_read(self) -> int:
        """How many jobs of each priority a blocking read may bring; 0: there is no room for any."""
        room = self.room
        # COUNT goes for each of three streams, so a third of the slots leaves little to hand back.
        return max(1, room // (3 * len(self.sources))) if room else 0

    def runs_nothing_but(self, source: Claimant) -> bool:
        """Whether a job that ran now would run alone, once the source's outcomes are settled.

        A thread of a handler that was given up may be what ends this process. It may also run for ever: who has
        waited long enough for it takes the job, or, where there is another to do that, makes room.
        """
        if (self.threads.abandoned and not source.quarantine.is_on(time.monotonic())) or self.slots.held:
            return False
        return not any(
            each.batcher.under_way or (each.fetcher.waiting and each is not source) for each in self.sources
        )

    def is_sought_beside(self, source: Claimant) -> bool:
        """Whether other sources would claim, were they given slots."""
        return any(each is not source and each.wants_jobs for each in self.sources)

    def quiet(self, source: Claimant) -> bool:
        """Let a source that holds a job back claim with nothing beside it, if it holds no job and none runs."""
        if source.dispatcher.leases.running or (self.slots.held and self.is_shared):
            return False
        for other in self.sources:
            if other is not source and other.fetcher.waiting:
                other.make_room()
        return True

    def hear_of_one_alone(self, source: Claimant) -> None:
        """Make room for a job that has to run alone; with threads that never end another worker has to."""
        if self._supervised and self.threads.abandoned and source.quarantine.is_on(time.monotonic()):
            self._owner.recycle("a job has to run alone, and threads of handlers that were given up still run")

    def give(self, run: Execution, *, alone: bool) -> None:
        """Let a slot run a job."""
        self.alone = run if alone else self.alone
        self.begun += 1
        self.slots.give(run)

    def claim_ahead(self, sent_at: float, *, wanted: bool) -> None:
        """Decide how many jobs may be claimed before a slot is free for them; of a worker's last jobs none waits.

        With several sources none: these would have more or less than their share.

        Args:
            sent_at: When the claim was sent that has just been answered, by the monotonic clock.
            wanted: Whether there are more jobs than it brought, and all may start.
        """
        self._prefetch.answered(self.ended, sent_at, time.monotonic())
        jobs = self._prefetch.jobs if wanted and not self.is_shared else 0
        self.ahead = max(0, int(min(jobs, self._max_jobs - self.begun - self.concurrency)))

    def take_back(self, waited: float) -> list[Execution]:
        """Jobs that have been waiting for a slot for so many seconds; they are the caller's again.

        If there are any, none is claimed ahead until it is known anew how long jobs take.
        """
        late = self.slots.take_back(time.monotonic() - waited)
        self.begun -= len(late)
        if late:
            self._prefetch.forget()
            self.ahead = 0
        return late

    def given(self, holder: Holder) -> None:
        """Note that somebody has given its jobs: the worker may have had its share, or the slots be full."""
        if self.begun >= self._max_jobs and not self.shutdown.stopping:
            self._owner.recycle(f"{number_of(self.begun, 'job')} {'was' if self.begun == 1 else 'were'} run")
        if self.is_shared and not self.room:
            for other in self.sources:
                if other.dispatcher is not holder and other.fetcher.waiting:
                    other.make_room()
        self.changed()

    def let_go(self, run: Execution) -> None:
        """Note that a job is another's; it may be the one that ran alone."""
        if self.alone is run:
            self.alone = None

    def changed(self) -> None:
        """Let every source look again: slots are free, or an answer came."""
        for source in self.sources:
            source.wake()
