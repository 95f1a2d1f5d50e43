"""What the next exchange of a source takes, and what the answer to one means."""

import time

from redisjobs.base.eventloop import Wakeup
from redisjobs.errors import DriverError
from redisjobs.model.driver import Consumer
from redisjobs.model.transitions import Exchange, Lingers
from redisjobs.worker.running.execution import PATIENCE
from redisjobs.worker.source.batcher import Batch, Batcher, most_of
from redisjobs.worker.source.claiming import Quarantine
from redisjobs.worker.source.dispatcher import Dispatcher
from redisjobs.worker.source.fetcher import Fetcher
from redisjobs.worker.source.pool import RESERVED, Pool
from redisjobs.worker.source.promoter import Promoter
from redisjobs.worker.source.reclaimer import Reclaimer
from redisjobs.worker.source.watchdog import ProgressWatchdog

_DRY = 0.05  # seconds for which a source that had nothing leaves the slots to others
_BUSY = 0.1  # seconds between promotions by a worker that has no room for what is due


class Exchanger:
    """Settles and claims for one source.

    Args:
        pool: The worker's slots.
        consumer: The worker's side of the store.
        dispatcher: Its jobs.
        fetcher: The blocking read: none is claimed meanwhile, but by it.
        promoter: Says when a delayed job may be due.
        reclaimer: Is told what time it is at the server.
        quarantine: Says whether a job waits that has to run alone.
        progress: Is told of each answer.
        wakeup: Wakes the source.
        until_idle: Whether the worker claims no more once it found nothing, with no job running that may push one.

    Attributes:
        batcher: The exchanges under way.
        trouble: Why one failed.
        needs_recovery: Jobs may have been delivered into a reply that was lost.
        lost_at: When one failed last, by the monotonic clock.
        found_nothing: The last one neither settled nor claimed anything.
        claimed_at: When the latest claim was sent that was answered, by the monotonic clock.
        skip_until: It had nothing, and leaves the slots to other sources until then, by the monotonic clock.
        busy_until: Until when the source keeps its turn though it does something else, by the monotonic clock;
            infinity: it does nothing else.
        emptied_at: How many jobs of the worker had ended when the last claim was sent, if that left nothing; None:
            there may be jobs.
        queue_paused: The queue is paused, as far as is known: nothing is claimed.
    """

    def __init__(
        self,
        pool: Pool,
        consumer: Consumer,
        dispatcher: Dispatcher,
        fetcher: Fetcher,
        promoter: Promoter,
        reclaimer: Reclaimer,
        quarantine: Quarantine,
        progress: ProgressWatchdog,
        wakeup: Wakeup,
        *,
        until_idle: bool,
    ) -> None:
        self.batcher = Batcher(consumer, self)
        self.fetcher = fetcher
        self.quarantine = quarantine
        self.dispatcher = dispatcher
        self.trouble: DriverError | None = None
        self.needs_recovery = self.found_nothing = self.queue_paused = self._has_lines = False
        self.busy_until = float("inf")
        self.emptied_at: int | None = None
        self.lost_at = self.claimed_at = self._pause_heard_at = self._asked_at = float("-inf")
        self._promoted_at = float("-inf")  # when it last promoted, or claimed, by the monotonic clock
        self._turns_wait = False  # of lines, for somebody to look whose turn it is
        self._claimed_after: int | None = None  # as `Batch.after`, of the last one that was answered
        self._pool = pool
        self._promoter = promoter
        self._reclaimer = reclaimer
        self._progress = progress
        self._wakeup = wakeup
        self._until_idle = until_idle
        self._claims_once_more = False
        self.skip_until = float("-inf")

    # As the pool sees it

    @property
    def wants_jobs(self) -> bool:
        """Whether it would claim, were it given slots, or does so as soon as it has done something else.

        Not while its store is away, or hangs: others are not to starve for it.
        """
        if self.dispatcher.is_away or not self._has_appetite:
            return False
        now = time.monotonic()
        return now <= self.busy_until and self.batcher.oldest >= now - RESERVED

    def make_room(self) -> None:
        """End the blocking read, for no slot is free for what it would bring."""
        self.skip_until = time.monotonic() + _DRY
        self.fetcher.interrupt()

    def wake(self) -> None:
        """Look again what is to be done."""
        self._wakeup.wake()

    # Whether there is more to do

    @property
    def is_stopping(self) -> bool:
        """Whether the worker was told to stop."""
        return self._pool.shutdown.stopping

    @property
    def is_through(self) -> bool:
        """Whether it was told to stop and has nothing left to wait for; what is kept may take for ever."""
        leases = self.dispatcher.leases
        return self.is_stopping and len(leases) == len(leases.kept)

    @property
    def is_ended(self) -> bool:
        """Whether there is nothing more to do."""
        return self._pool.shutdown.over or self.is_through

    @property
    def is_dry(self) -> bool:
        """Whether the last claim found nothing, and no job has run here since that may have pushed one."""
        return self.found_nothing and self._claimed_after == self._pool.begun and not self._pool.holds

    @property
    def _is_done(self) -> bool:
        """Whether it claims no more, as a worker that runs until idle, once that found nothing."""
        return self._until_idle and self.is_dry and not self._claims_once_more

    def claim_once_more(self) -> None:
        """Claim though the last claim found nothing, as soon as it is the source's turn."""
        if not self._claims_once_more:
            self._claims_once_more = True
            self._wakeup.wake()

    # What an exchange takes

    @property
    def _may_claim(self) -> bool:
        return not self.fetcher.waiting and self._has_appetite

    @property
    def _has_appetite(self) -> bool:
        """Whether it would claim, once a blocking read that is to end has."""
        if self.queue_paused or self._is_done:
            return False
        if self.fetcher.waiting and not self.fetcher.is_ending:
            return False
        if self.dispatcher.leases.unwritable >= self._pool.concurrency:
            return False  # what can't be settled must not become more and more
        return not self._leaves_slots

    @property
    def _leaves_slots(self) -> bool:
        """Whether it had nothing just now, and leaves slots to others; in strict order those that were free."""
        return time.monotonic() < self.skip_until and not self._pool.has_new_slots_for(self)

    @property
    def _has_to_be_single(self) -> bool:
        """Whether there is to be no exchange beside the one under way: a job has to run alone, and may soon."""
        return bool(self.batcher.under_way) and self.quarantine.is_near(time.monotonic())

    @property
    def has_batch(self) -> bool:
        """Whether to begin an exchange now."""
        if self._has_to_be_single:
            return False  # the next one may find that nothing runs here
        outcomes = len(self.dispatcher.leases.unsettled)
        room = self._pool.share(self) if self._may_claim else 0
        is_late = self.dispatcher.reporter.late_at <= time.monotonic()
        return bool(outcomes or room or is_late or self._promotes) and self.batcher.has_room(outcomes, room)

    @property
    def _promotes(self) -> bool:
        """Whether to promote what is due. Who can run none of it leaves that to who can, but for now and then.

        Else many busy workers would keep the store from everybody else, with nobody to run what they promote. What
        is due is to be counted as ready, though: by that somebody may start more workers.
        """
        if not self._promoter.is_due:
            return False
        if self._turns_wait or self._has_lines or self.fetcher.waiting or self._pool.room:
            return True
        return time.monotonic() >= self._promoted_at + _BUSY

    @property
    def look_at(self) -> float:
        """When there may be more to do, though nobody wakes the source, by the monotonic clock."""
        skip_until = self.skip_until if self.skip_until > time.monotonic() else float("inf")
        look_at = min(skip_until, min(self._pool.slots.oldest, self.dispatcher.over_since) + PATIENCE)
        if self.batcher.under_way:  # its answer wakes the source
            return look_at
        if self._awaits_turn:
            look_at = min(look_at, time.monotonic() + _DRY)
        promoting_at = self._promoted_at + _BUSY if self._promoter.is_due else float("inf")
        return min(look_at, self.dispatcher.reporter.late_at, promoting_at)

    @property
    def _awaits_turn(self) -> bool:
        """Whether it would claim for free slots, but another source has its turn, for as long as it may."""
        return self._pool.is_shared and self._may_claim and self._pool.room > 0

    def keep_turn(self, seconds: float) -> None:
        """Keep the source's turn for so long at most, as something else is to be done first."""
        self.busy_until = time.monotonic() + seconds

    def begin(self) -> None:
        """Begin an exchange."""
        batch = self.next_batch()
        self.batcher.begin(batch)
        if batch.count:
            self._pool.claims(self)

    def next_batch(self) -> Batch:
        """What the next exchange takes: outcomes, and, if it asks for jobs, room for as many."""
        most, leases = most_of(self._pool.concurrency + self._pool.ahead), self.dispatcher.leases
        settling = leases.next(most)
        sent_at = time.time()
        for run in settling:
            run.sent_at = sent_at
        claims = not (self.fetcher.waiting or self.queue_paused or self._leaves_slots)
        count = min(self._pool.share(self), most) if claims and not self.is_stopping else 0
        asks = bool(count) or self._promotes
        if asks:
            self._promoter.is_due = self._turns_wait = False
            self._promoted_at = time.monotonic()
        # Only where one may wait: beside an exchange that may bring such a job the pool lets no other claim.
        alone = bool(count) and self.quarantine.wants(time.monotonic()) and len(settling) == leases.running
        reporting = self.dispatcher.take_reports(most - len(settling))
        idle = alone and self._pool.runs_nothing_but(self)
        after = self._pool.begun if self._until_idle and count and not self._pool.holds else None
        ahead, waiting = self._pool.ahead, [run.lease for run in self.dispatcher.over] if count else ()
        batch = Batch(settling, count if asks else None, ahead, idle, reporting=reporting, after=after)
        batch.waiting, batch.ended = waiting, self._pool.ended
        return batch

    # What an answer means

    def answered(self, batch: Batch, answer: Exchange) -> None:
        """Take the answer to an exchange."""
        self._progress.progressed()
        self._take_replies(batch, answer)
        if batch.count is not None:
            self.hear(answer, batch.sent)
            self.dispatcher.report.note_ended(answer.ended)
            self.dispatcher.report.tell()
            if answer.restricted or answer.paused:  # what has waited may be what is not to start by now
                self.dispatcher.hand_back_over()
            self.dispatcher.take_claimed(batch, answer)
        if batch.count:
            if batch.sent >= self.claimed_at:  # else a later one knew more
                self.emptied_at = None if answer.more else batch.ended
            self.claimed_at, self._claims_once_more = max(self.claimed_at, batch.sent), False
            self._pool.brought(self, len(answer.leases), more=answer.more)
            # Not where some may not start: one that has a limit and waits here has a place that another could use.
            wanted = answer.more and not (answer.restricted or self.dispatcher.has_priorities)
            self._pool.claim_ahead(batch.sent, wanted=wanted)
            more = answer.more or self._pool.is_sought_beside(self)
            self.quarantine.hear(answer.waits, time.monotonic(), more=more)
            self._pool.hear_of_one_alone(self)
        elif answer.turns:
            self._promoter.is_due = self._turns_wait = True  # for others, should there be no room here
            self.hear_of_released()
        one_more = (
            self.quarantine.one_waits and not self.dispatcher.leases.running and self._pool.runs_nothing_but(self)
        )
        settled = any(not isinstance(run.settlement, Lingers) for run in batch.settling)
        found = settled or answer.leases or answer.more or one_more
        is_late = batch.sent <= self._pause_heard_at  # it was sent before the queue was paused, or resumed
        self.found_nothing = (not found or self.queue_paused) and not is_late
        self._claimed_after = batch.after
        if one_more and not batch.idle and self.quarantine.wants(time.monotonic()):
            self.fetcher.interrupt()  # this claim was not to bring it, as others had their turn: the next one is
        elif batch.count and not answer.more and not (self.queue_paused or self.dispatcher.over):
            self._read(batch.sent)
        self._pool.changed()

    def hand_back_waiting(self, *, at_once: bool = False) -> None:
        """Hand back the jobs that wait for a slot, if it takes too long, or no more are to start.

        Args:
            at_once: Whether some may not start any more: those that may are claimed again.
        """
        slots, over = self._pool.slots, self.dispatcher.over
        if not over and slots.oldest == float("inf"):
            return
        at_once = at_once or self.is_stopping or self.queue_paused
        patience = 0.0 if at_once else PATIENCE
        if over:
            self.dispatcher.hand_back_over(time.monotonic() - patience)
        for run in self._pool.take_back(patience):
            run.owner.hand_back(run)

    def hear(self, answer: Exchange, sent_at: float) -> None:
        """Take in what an answer tells of the server's clock and of delayed jobs, asked at `sent_at`."""
        self._reclaimer.hear_time(answer.server_ms, sent_at)
        self._promoter.learn(answer, sent_at)
        was_paused, self._asked_at = self.queue_paused, sent_at
        self.queue_paused = answer.paused and sent_at > self._pause_heard_at
        self._has_lines = answer.lines
        if was_paused and not self.queue_paused:
            self.found_nothing = False

    @property
    def paused_at(self) -> float:
        """When an answer last said that the queue is paused, by the monotonic clock; infinity: it may not be."""
        return self._asked_at if self.queue_paused else float("inf")

    def hear_of_pause(self) -> None:
        """Ask by a claim whether the queue is paused: it was paused, or resumed, somebody says."""
        self.queue_paused = self.found_nothing = False
        self._pause_heard_at = time.monotonic()
        self.fetcher.interrupt()
        self._wakeup.wake()

    def _take_replies(self, batch: Batch, answer: Exchange) -> None:
        leases, report = self.dispatcher.leases, self.dispatcher.report
        report.begin()
        replies = zip(batch.settling, batch.settlements, answer.replies, strict=False)
        for at, (run, (lease, _), reply) in enumerate(replies):
            if run.lease is lease:
                self.dispatcher.settled(run, reply, answer.added.get(at, ()), answer.spoiled.get(at, ""))
            else:  # handed back, or run out, and taken again by us meanwhile: that lease has to be settled too
                leases.unsettled.append(run)
        report.tell()

    def _read(self, sent_at: float) -> None:
        """Wait for jobs by a blocking read: a claim that was sent then found no more."""
        if self.fetcher.waiting or (self._until_idle and not self._pool.holds):
            return  # where nothing runs, nobody here will push a job
        most = 0 if self._pool.are_others_before_reads(self) else self._pool.to_read
        if most:
            self.emptied_at = None  # as soon as it ends
            self.fetcher.begin(most, sent_at)
        elif self._pool.is_shared:
            self.skip_until = time.monotonic() + _DRY

    def look_after_lines(self) -> None:
        """End the blocking read where the next of a line may start: a claim takes it, no other worker is woken."""
        if self._promoter.is_due and self._has_lines and self.fetcher.waiting and not self.is_stopping:
            self.fetcher.interrupt()

    def end_last_read(self) -> None:
        """End the blocking read of a worker that runs until idle, once no job runs that may push one."""
        if self._until_idle and self.fetcher.waiting and not self._pool.holds:
            self.fetcher.interrupt()

    async def end_read(self) -> None:
        """End the blocking read: there is something that only a claim finds."""
        await self.fetcher.end()
        self.quarantine.one_waits = True  # perhaps: it may be what was released

    def hear_of_released(self) -> None:
        """Claim what was handed back."""
        self.found_nothing = False
        # One that has to run alone would not be had. With several sources it is asked for all the same: it may
        # have waited long enough for room to be made, and the jobs of the others bring no claim here.
        if not (self.quarantine.one_waits and self._pool.holds) or self._pool.is_shared:
            self.fetcher.interrupt()  # only a claim takes it

    def emptied(self) -> None:
        """Look whether a job that has to run alone can start: one was let go, or some time has gone by."""
        if self.quarantine.one_waits and self._pool.quiet(self):
            self.found_nothing = False
            self.fetcher.interrupt()  # only a claim takes it

    def failed(self, batch: Batch, error: DriverError | None) -> None:
        """Take in that an exchange may or may not have arrived."""
        for run in batch.settling:
            run.resent = True
        if not batch.settling:  # else they are sent again with what it settles
            self.dispatcher.report_again(batch.reporting)
        self.needs_recovery, self.lost_at = True, time.monotonic()
        self.trouble = error
        self._pool.changed()  # it asks for no slots any more

    def raise_trouble(self) -> None:
        """Raise what an exchange failed by, where the next step is decided."""
        trouble, self.trouble = self.trouble, None
        if trouble is not None:
            raise trouble
