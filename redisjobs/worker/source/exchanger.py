"""Decides what the next exchange of a source takes, and acts on the answers."""

import math
import time
from dataclasses import dataclass

from redisjobs.errors import DriverError
from redisjobs.model.driver import Unwritable
from redisjobs.model.transitions import Exchange
from redisjobs.worker.source.batcher import Batch
from redisjobs.worker.source.claims import Claims
from redisjobs.worker.source.dispatcher import Dispatcher
from redisjobs.worker.source.member import Member
from redisjobs.worker.source.reclaimer import Reclaimer
from redisjobs.worker.source.settler import Settler
from redisjobs.worker.source.timer import Promoter
from redisjobs.worker.source.watchdog import ProgressWatchdog


@dataclass(eq=False, repr=False)
class Exchanger:
    """Settles and claims for one source."""

    member: Member
    claims: Claims
    settler: Settler
    dispatcher: Dispatcher
    promoter: Promoter
    reclaimer: Reclaimer
    progress: ProgressWatchdog

    def __post_init__(self) -> None:
        self._pause_noted_at = -math.inf  # when a notification last reported a pause or a resume
        self._asked_at = -math.inf  # when the last exchange was sent that showed whether the queue is paused
        self._pool = self.claims.pool
        self._demand = self.claims.demand
        self._leases = self.claims.leases
        self._batcher = self.claims.batcher

    # Whether there is more to do

    @property
    def only_kept_jobs_left(self) -> bool:
        """Whether the worker is stopping, and holds only jobs that it can't settle now."""
        return self._pool.shutdown.stopping and len(self._leases) == len(self._leases.kept)

    @property
    def is_ended(self) -> bool:
        """Whether there is nothing more to do."""
        return self._pool.shutdown.over or self.only_kept_jobs_left

    # What an exchange takes

    @property
    def has_batch(self) -> bool:
        """Whether to begin an exchange now."""
        if self.claims.must_be_single:
            return False
        outcomes = len(self._leases.unsettled) + len(self._leases.notes) + self.settler.emitter.urgent
        room = self._demand.to_claim(self.claims) if self.claims.may_claim else 0
        is_late = self._news_at <= time.monotonic()
        return bool(outcomes or room or is_late or self._promotes) and self._batcher.has_room(outcomes, room)

    @property
    def _news_at(self) -> float:
        """When progress or chunks have to be sent at the latest, by the monotonic clock."""
        return min(self.settler.reporter.late_at, self.settler.emitter.late_at)

    @property
    def _promotes(self) -> bool:
        if not self.promoter.is_due:
            return False
        return self.promoter.may_promote(has_room=self.claims.fetcher.waiting or self._demand.room > 0)

    @property
    def look_at(self) -> float:
        """When there may be more to do even if nothing wakes the source, by the monotonic clock."""
        look_at = min(self.dispatcher.hand_back_at, self.claims.again_at)
        if self._batcher.under_way:  # the answer wakes the source
            return look_at
        return min(look_at, self._news_at, self.promoter.look_at)

    def begin(self) -> None:
        """Begin an exchange."""
        self._batcher.begin(self.next_batch())

    def next_batch(self) -> Batch:
        """Return the next exchange: the outcomes that it settles, and how many jobs it claims."""
        most = self._demand.batch
        notes = self.settler.next_notes(most)
        settling = self._leases.next(most - len(notes))
        sent_at = time.time()
        for run in settling:
            run.sent_at = sent_at
        count = self.claims.to_claim
        asks = bool(count) or self._promotes
        if asks:
            self.promoter.promoting()
        reporting = self.settler.reporter.take(time.monotonic(), most - len(settling) - len(notes))
        batch = Batch(settling, count if asks else None, self._demand.ahead, notes=notes, reporting=reporting)
        batch.ended = self._pool.ended
        if count:
            self.claims.claiming(batch)
        return batch

    # What an answer means

    def answered(self, batch: Batch, answer: Exchange) -> None:
        """Handle the answer to an exchange."""
        self.progress.progressed()
        self.settler.answered(batch, answer)
        if batch.count is not None:
            self.learn(answer, batch.sent)
            self.settler.report.note_ended(answer.ended)
            self.settler.report.tell()
            if answer.restricted or answer.paused:  # a waiting job may be one that must not start any more
                self.dispatcher.hand_back_unclaimed()
            self.dispatcher.take_claimed(batch, answer)
        if batch.count:
            # Not if some jobs may not start: a job with a limit that waits here takes a place that another could
            # use.
            prefetches = not (answer.restricted or self.dispatcher.has_priorities)
            self.claims.claimed(batch, answer, prefetches=prefetches)
        elif answer.turns:
            self.promoter.is_asked = True  # promote for other workers too, in case there is no room here
            self.claims.note_released()
        self.claims.go_on(batch, answer, is_late=batch.sent <= self._pause_noted_at)
        self._pool.changed()

    def learn(self, answer: Exchange, sent_at: float) -> None:
        """Update the clock, the delayed jobs and the pause from the answer to a request sent at `sent_at`."""
        self.reclaimer.note_time(answer.server_ms, sent_at)
        self.promoter.learn(answer, sent_at)
        claims = self.claims
        was_paused, self._asked_at = claims.queue_paused, sent_at
        claims.queue_paused = answer.paused and sent_at > self._pause_noted_at
        if was_paused and not claims.queue_paused:
            claims.found_nothing = False

    @property
    def paused_at(self) -> float:
        """When the last exchange was sent, by the monotonic clock, if it showed a pause; else infinity."""
        return self._asked_at if self.claims.queue_paused else math.inf

    def note_pause(self) -> None:
        """Find out by a claim whether the queue is paused: a notification reported a pause or a resume."""
        self.claims.queue_paused = self.claims.found_nothing = False
        self._pause_noted_at = time.monotonic()
        self.claims.fetcher.interrupt()
        self.claims.wake()

    def end_read_for_line(self) -> None:
        """End the blocking read if the next job of a line may start: a claim takes it without waking others."""
        may_start = self.promoter.has_lines and self.promoter.is_due
        if may_start and self.claims.fetcher.waiting and not self._pool.shutdown.stopping:
            self.claims.fetcher.interrupt()

    def failed(self, batch: Batch, error: DriverError | None) -> None:
        """Note that an exchange may or may not have arrived."""
        for run in batch.settling:
            run.resent = True
        if not (batch.settling or batch.notes):  # else they are sent again with the batch's settlements
            self.settler.report_again(batch.reporting)
        self.member.note_lost_reply()
        if not isinstance(error, Unwritable):  # else its parts are sent
            self.member.failure = error
        self._pool.changed()  # the failed exchange keeps no slots any more
