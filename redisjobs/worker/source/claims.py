"""Decides whether a source claims jobs, by an exchange or by the blocking read between exchanges."""

import math
import time

from redisjobs.model.transitions import Exchange, Lingers
from redisjobs.worker.source.batcher import Batch, Batcher
from redisjobs.worker.source.demand import Demand
from redisjobs.worker.source.fetcher import Fetcher
from redisjobs.worker.source.leases import Leases
from redisjobs.worker.source.member import Member
from redisjobs.worker.source.policy import Quarantine
from redisjobs.worker.source.pool import RESERVED, Pool

_DRY = 0.05  # seconds for which a source that found nothing lets others claim for the slots
_MOST_BUSY = 500  # jobs that wait for other transactions, with which a source claims no more


class Claims:
    """What a source knows about jobs that it could claim. Times are by the monotonic clock."""

    def __init__(
        self, member: Member, pool: Pool, demand: Demand, leases: Leases, batcher: Batcher, fetcher: Fetcher
    ) -> None:
        self.quarantine = Quarantine(member.settings.lease)
        self.is_idle = self.queue_paused = False
        self.is_quiet = False  # an operator asked this worker to claim no more jobs
        self.found_nothing = False  # the last exchange neither settled nor claimed anything
        self.claimed_at = -math.inf  # when the latest answered claim was sent
        self.skip_until = -math.inf  # until then it lets other sources claim, because it found nothing
        self.busy_until = math.inf  # until then it keeps its turn for something else to be done; infinity: nothing
        # How many jobs of the worker had ended at the last claim, if that left none behind; None: there may be
        # more.
        self.emptied_at: int | None = None
        self.batcher = batcher
        self.fetcher = fetcher
        self.leases = leases
        self.wake = member.timer.wake
        self.pool = pool
        self.demand = demand
        self._member = member
        self._until_idle = member.settings.until_idle
        self._once_more = False
        self._claimed_after: int | None = None  # `Batch.after` of the last exchange that was answered

    # What the pool uses

    @property
    def is_away(self) -> bool:
        """Whether the server is away, so that no outcome can be settled."""
        return bool(self._member.unavailable)

    @property
    def wants_jobs(self) -> bool:
        """Whether the source would claim if it had slots, or will as soon as it has done something else.

        False while its server is away or hangs: other sources must not starve for it.
        """
        if self.is_away or not self._would_claim:
            return False
        now = time.monotonic()
        return now <= self.busy_until and self.batcher.oldest >= now - RESERVED

    def make_room(self) -> None:
        """End the blocking read: no slot is free for the jobs that it would bring."""
        self.skip_until = time.monotonic() + _DRY
        self.fetcher.interrupt()

    # Whether to claim

    @property
    def is_dry(self) -> bool:
        """Whether the last claim found nothing, and no job has run here since that could have pushed one."""
        return self.found_nothing and self._claimed_after == self.pool.begun and not self.pool.holds

    def claim_once_more(self) -> None:
        """Claim when it is the source's turn, although the last claim found nothing."""
        if not self._once_more:
            self._once_more = True
            self.wake()

    @property
    def claims_nothing(self) -> bool:
        """Whether no claim may bring jobs: the queue is paused, or the worker is quiet or can run none."""
        return self.queue_paused or self.is_quiet or self._is_hung

    @property
    def _is_hung(self) -> bool:
        """Whether no job of this queue can run: all its handlers need a thread, and too many are abandoned.

        Another worker may be idle, and should get the jobs.
        """
        if not self.pool.threads.full or self._until_idle:
            return False
        handlers = self._member.settings.queue.definitions.values()
        return bool(handlers) and not any(each.is_async or each.in_process for each in handlers)

    def note_threads(self) -> None:
        """Note that handlers have no threads any more, or have some again."""
        if self._is_hung:
            self.fetcher.interrupt()
        else:
            self.found_nothing = False
            self.wake()

    @property
    def may_claim(self) -> bool:
        """Whether the source would claim now."""
        return not self.fetcher.waiting and self._would_claim

    @property
    def _would_claim(self) -> bool:
        """Whether the source would claim once a blocking read that has to end has ended."""
        if self.claims_nothing or (self._until_idle and self.is_dry and not self._once_more):
            return False
        if self.fetcher.waiting and not self.fetcher.is_ending:
            return False
        if self.leases.unwritable >= self.pool.concurrency or len(self.leases.busy) >= _MOST_BUSY:
            return False  # jobs that can't be settled must not pile up
        return not self._leaves_slots

    @property
    def _leaves_slots(self) -> bool:
        """Whether it lets others claim, because it found nothing. In strict order it still claims new slots."""
        return time.monotonic() < self.skip_until and not self.demand.has_new_slots_for(self)

    @property
    def must_be_single(self) -> bool:
        """Whether no second exchange may begin, because an isolated job may start soon.

        Only with one exchange at a time can a claim find that nothing runs here.
        """
        return bool(self.batcher.under_way) and self.quarantine.is_near(time.monotonic())

    @property
    def to_claim(self) -> int:
        """Number of jobs that an exchange sent now would claim."""
        if self.fetcher.waiting or self.claims_nothing or self._leaves_slots:
            return 0
        return self.demand.to_claim(self)

    def claiming(self, batch: Batch) -> None:
        """Note that a batch is about to claim, and record in it what its answer depends on."""
        # Only if an isolated job may wait: while an exchange may bring one, the pool allows no other claim.
        if self.quarantine.wants(time.monotonic()) and len(batch.settling) == self.leases.running:
            batch.idle = self.pool.is_idle_but_for(self)
        if self._until_idle and not self.pool.holds:
            batch.after = self.pool.begun
        batch.waiting = [run.lease for run in self.leases.waiting]
        self.demand.claiming(self)

    def keep_turn(self, seconds: float) -> None:
        """Keep the source's turn for up to this many seconds, because something else has to be done first."""
        self.busy_until = time.monotonic() + seconds

    @property
    def again_at(self) -> float:
        """When the source may claim again even if nothing wakes it, by the monotonic clock."""
        now = time.monotonic()
        at = self.skip_until if self.skip_until > now else math.inf
        # Another source has the turn, and may keep it for a while.
        awaits_turn = self.pool.is_shared and not self.batcher.under_way and self.may_claim and self.demand.room
        return min(at, now + _DRY) if awaits_turn else at

    # What answers and notifications change

    def claimed(self, batch: Batch, answer: Exchange, *, prefetches: bool) -> None:
        """Handle the answer to a claim. `prefetches`: if there are more jobs, some may be claimed ahead."""
        if batch.sent >= self.claimed_at:  # else a later claim knew more
            self.emptied_at = None if answer.more else batch.ended
        self.claimed_at, self._once_more = max(self.claimed_at, batch.sent), False
        self.demand.claimed(self, len(answer.leases), batch.sent, more=answer.more, prefetches=prefetches)
        more = answer.more or self.demand.others_want_jobs(self)
        self.quarantine.record(answer.waits, time.monotonic(), more=more)
        self.pool.recycle_for_isolated(self)

    def go_on(self, batch: Batch, answer: Exchange, *, is_late: bool) -> None:
        """Decide from an answer whether to claim again, or to wait for jobs.

        `is_late`: the exchange was sent before the queue was paused or resumed.
        """
        isolated = self.quarantine.one_waits and not self.leases.running and self.pool.is_idle_but_for(self)
        settled = any(not isinstance(run.settlement, Lingers) for run in batch.settling)
        found = settled or answer.leases or answer.more or isolated
        self.found_nothing = (not found or self.claims_nothing) and not is_late
        self._claimed_after = batch.after
        if isolated and not batch.idle and self.quarantine.wants(time.monotonic()):
            self.fetcher.interrupt()  # others had their turn, so this claim could not bring it; the next one can
        elif batch.count and not answer.more and not (self.claims_nothing or self.leases.waiting):
            self._read(batch.sent)

    def _read(self, sent_at: float) -> None:
        """Wait for jobs by a blocking read: the claim sent at `sent_at` found no more."""
        if self.fetcher.waiting or (self._until_idle and not self.pool.holds):
            return  # no job runs here that could push one
        if most := self.demand.to_read(self):
            self.emptied_at = None  # when the read ends, there may be jobs
            self.fetcher.begin(most, sent_at)
        elif self.pool.is_shared:
            self.skip_until = time.monotonic() + _DRY

    def end_last_read(self) -> None:
        """End the blocking read of a worker that runs until idle, once it runs no job that could push one."""
        if self._until_idle and self.fetcher.waiting and not self.pool.holds:
            self.fetcher.interrupt()

    async def end_read(self) -> None:
        """End the blocking read, because only a claim can find what is there now."""
        await self.fetcher.end()
        self.quarantine.one_waits = True  # perhaps: a released job may be one

    def note_released(self) -> None:
        """Claim the jobs that were handed back."""
        self.found_nothing = False
        # The claim would not bring a job that must run isolated. With several sources we claim all the same: the
        # job may have waited long enough that the worker must make room, and the end of another source's job
        # causes no claim here.
        if not (self.quarantine.one_waits and self.pool.holds) or self.pool.is_shared:
            self.fetcher.interrupt()  # only a claim takes them

    def try_isolated(self) -> None:
        """Claim a job that must run isolated, if one waits and could start now."""
        if self.quarantine.one_waits and self.pool.may_isolate(self):
            self.found_nothing = False
            self.fetcher.interrupt()  # only a claim takes it
