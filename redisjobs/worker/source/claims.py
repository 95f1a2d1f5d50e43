"""Whether a source claims jobs: by exchanges, or by the blocking read between them."""

import math
import time

from redisjobs.model.transitions import Exchange, Lingers
from redisjobs.worker.source.batcher import Batch, Batcher
from redisjobs.worker.source.fetcher import Fetcher
from redisjobs.worker.source.leases import Leases
from redisjobs.worker.source.member import Member
from redisjobs.worker.source.policy import Quarantine
from redisjobs.worker.source.pool import RESERVED, Turns

_DRY = 0.05  # seconds for which a source that found nothing leaves the slots to others


class Claims:
    """What is known of the jobs that a source could claim. Times are by the monotonic clock."""

    def __init__(self, member: Member, turns: Turns, leases: Leases, batcher: Batcher, fetcher: Fetcher) -> None:
        self.quarantine = Quarantine(member.settings.lease)
        self.is_idle = self.queue_paused = False
        self.found_nothing = False  # the last exchange neither settled nor claimed anything
        self.claimed_at = -math.inf  # when the latest answered claim was sent
        self.skip_until = -math.inf  # it found nothing, and leaves the slots to other sources
        self.busy_until = math.inf  # it keeps its turn while it does something else; infinity: nothing
        # How many jobs of the worker had ended at the last claim, if that left no jobs; None: there may be jobs.
        self.emptied_at: int | None = None
        self.batcher = batcher
        self.fetcher = fetcher
        self.leases = leases
        self.wake = member.timer.wake
        self.pool = turns.pool
        self._member = member
        self._turns = turns
        self._until_idle = member.settings.until_idle
        self._once_more = False
        self._claimed_after: int | None = None  # as `Batch.after`, of the last exchange that was answered

    # As the pool sees them

    @property
    def is_away(self) -> bool:
        """Whether the server is away, so that no outcome can be settled."""
        return bool(self._member.unavailable)

    @property
    def wants_jobs(self) -> bool:
        """Whether the source would claim if it had slots, or does so as soon as it has done something else.

        Not while its server is away, or hangs: other sources must not starve for it.
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
        """Whether the last claim found nothing, and no job has run here since that may have pushed one."""
        return self.found_nothing and self._claimed_after == self.pool.begun and not self.pool.holds

    def claim_once_more(self) -> None:
        """Claim though the last claim found nothing, as soon as it is the source's turn."""
        if not self._once_more:
            self._once_more = True
            self.wake()

    @property
    def may_claim(self) -> bool:
        """Whether the source would claim now."""
        return not self.fetcher.waiting and self._would_claim

    @property
    def _would_claim(self) -> bool:
        """Whether it would claim, once a blocking read that is to end has ended."""
        if self.queue_paused or (self._until_idle and self.is_dry and not self._once_more):
            return False
        if self.fetcher.waiting and not self.fetcher.is_ending:
            return False
        if self.leases.unwritable >= self.pool.concurrency:
            return False  # jobs that can't be settled must not pile up
        return not self._leaves_slots

    @property
    def _leaves_slots(self) -> bool:
        """Whether it found nothing just now, and leaves slots to others; in strict order those that were free."""
        return time.monotonic() < self.skip_until and not self._turns.has_new_slots_for(self)

    @property
    def must_be_single(self) -> bool:
        """Whether no exchange may be begun beside the one under way: an isolated job may start soon.

        The next exchange may find that nothing runs here.
        """
        return bool(self.batcher.under_way) and self.quarantine.is_near(time.monotonic())

    @property
    def room(self) -> int:
        """How many jobs it would claim now."""
        return self._turns.share(self) if self.may_claim else 0

    def count(self, most: int) -> int:
        """Return how many jobs an exchange claims that is made in any case."""
        if self.fetcher.waiting or self.queue_paused or self._leaves_slots:
            return 0
        return min(self._turns.share(self), most)

    def claiming(self, batch: Batch) -> None:
        """Note that a batch is to claim, and in the batch what its answer depends on."""
        # Only where such a job may wait: beside an exchange that may bring one the pool allows no other claim.
        if self.quarantine.wants(time.monotonic()) and len(batch.settling) == self.leases.running:
            batch.idle = self.pool.is_idle_but_for(self)
        if self._until_idle and not self.pool.holds:
            batch.after = self.pool.begun
        batch.waiting = [run.lease for run in self.leases.waiting]
        self._turns.claiming(self)

    def keep_turn(self, seconds: float) -> None:
        """Keep the source's turn for so long at most, as something else has to be done first."""
        self.busy_until = time.monotonic() + seconds

    @property
    def again_at(self) -> float:
        """When the source may claim again though nothing wakes it, by the monotonic clock."""
        now = time.monotonic()
        at = self.skip_until if self.skip_until > now else math.inf
        # Another source has its turn, for as long as it may.
        awaits_turn = self.pool.is_shared and not self.batcher.under_way and self.may_claim and self.pool.room > 0
        return min(at, now + _DRY) if awaits_turn else at

    # What answers and notifications say

    def claimed(self, batch: Batch, answer: Exchange, *, prefetches: bool) -> None:
        """Take the answer to a claim. `prefetches`: jobs may be claimed ahead, if there are more."""
        if batch.sent >= self.claimed_at:  # else a later claim knew more
            self.emptied_at = None if answer.more else batch.ended
        self.claimed_at, self._once_more = max(self.claimed_at, batch.sent), False
        self._turns.brought(self, len(answer.leases), more=answer.more)
        self.pool.claim_ahead(batch.sent, wanted=answer.more and prefetches)
        more = answer.more or self._turns.others_want_jobs(self)
        self.quarantine.hear(answer.waits, time.monotonic(), more=more)
        self.pool.recycle_for_isolated(self)

    def go_on(self, batch: Batch, answer: Exchange, *, is_late: bool) -> None:
        """Decide by an answer whether to claim again, or to wait for jobs.

        `is_late`: the exchange was sent before the queue was paused or resumed.
        """
        isolated = self.quarantine.one_waits and not self.leases.running and self.pool.is_idle_but_for(self)
        settled = any(not isinstance(run.settlement, Lingers) for run in batch.settling)
        found = settled or answer.leases or answer.more or isolated
        self.found_nothing = (not found or self.queue_paused) and not is_late
        self._claimed_after = batch.after
        if isolated and not batch.idle and self.quarantine.wants(time.monotonic()):
            self.fetcher.interrupt()  # this claim could not bring it, as others had their turn: the next one can
        elif batch.count and not answer.more and not (self.queue_paused or self.leases.waiting):
            self._read(batch.sent)

    def _read(self, sent_at: float) -> None:
        """Wait for jobs by a blocking read: a claim that was sent then found no more."""
        if self.fetcher.waiting or (self._until_idle and not self.pool.holds):
            return  # with no job running, none will be pushed here
        most = 0 if self._turns.others_come_before_reads(self) else self.pool.read_count
        if most:
            self.emptied_at = None  # as soon as it ends
            self.fetcher.begin(most, sent_at)
        elif self.pool.is_shared:
            self.skip_until = time.monotonic() + _DRY

    def end_last_read(self) -> None:
        """End the blocking read of a worker that runs until idle, once it runs no job that may push one."""
        if self._until_idle and self.fetcher.waiting and not self.pool.holds:
            self.fetcher.interrupt()

    async def end_read(self) -> None:
        """End the blocking read: there is something that only a claim finds."""
        await self.fetcher.end()
        self.quarantine.one_waits = True  # perhaps: it may be what was released

    def note_released(self) -> None:
        """Claim the jobs that were handed back."""
        self.found_nothing = False
        # The claim would not bring one that has to run isolated. With several sources it is made all the same: the
        # job may have waited long enough for room to be made, and jobs of other sources bring no claim here.
        if not (self.quarantine.one_waits and self.pool.holds) or self.pool.is_shared:
            self.fetcher.interrupt()  # only a claim takes them

    def try_isolated(self) -> None:
        """Claim a job that has to run isolated, if one waits and it could start now."""
        if self.quarantine.one_waits and self.pool.may_isolate(self):
            self.found_nothing = False
            self.fetcher.interrupt()  # only a claim takes it
