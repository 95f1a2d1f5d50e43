"""Looks for lost workers, fences those whose lease is surely over (see `LeaseClock`), and hands back their jobs.

It has no task: the source's task calls it when a look is due.
"""

import random
import time
from collections.abc import Sequence

from redisjobs.client.backoff import NOT_NOW
from redisjobs.errors import DriverError
from redisjobs.events.kinds import JobsReclaimed
from redisjobs.model.changes import Tidy
from redisjobs.model.transitions import Reclaimed, Silent
from redisjobs.worker.source.member import Member
from redisjobs.worker.source.timer import Promoter

_RECLAIM = 2.0  # seconds between looks for lost workers; less for a short lease
_ONLY_WORKER = 7.5  # the same for the only worker: another that joins sends a notification, but that may be lost
_TIDY = 60.0  # seconds between looks for what dead workers left behind
_TIDY_STEP = 0.02  # seconds between the steps of one look, which leave time for other things


class Reclaimer:
    """What a worker knows of the other workers of its queue. Times are by the monotonic clock."""

    def __init__(self, member: Member, promoter: Promoter) -> None:
        self.look_at = 0.0  # when to look for lost workers
        self.tidy_at = time.monotonic() + _TIDY * random.random()  # when to look for what dead workers left behind
        self.silent: Sequence[Silent] = ()  # their lease is over by the server's clock, if that can be trusted
        self.others: int | None = None  # jobs that other workers hold; None: not known
        self.asked_at = float("-inf")  # when the last look that was answered was sent
        self._member = member
        self._promoter = promoter
        self._timer = member.timer
        self._lease = member.settings.lease
        self._after = ""  # where tidying continues
        self._thorough = True  # check every worker's beat: the server's clock may have been set back
        self._is_only_worker = False  # the last look found no other worker
        self._another_at = float("-inf")  # when another worker last joined, by the monotonic clock
        self._unreported = 0  # jobs handed back that no event has reported yet

    @property
    def every(self) -> float:
        """Seconds between looks."""
        if self._is_only_worker:
            return min(_ONLY_WORKER, self._lease / 2)
        shortest = min((each.lease for each in self.silent), default=float("inf"))
        return min(_RECLAIM, self._lease / 4, max(0.02, shortest / 8))

    def note_another(self) -> None:
        """Note that another worker has joined. A worker that was alone now looks as often as others do."""
        self._another_at = time.monotonic()
        if self._is_only_worker:
            self._is_only_worker = False
            self.look_at = min(self.look_at, time.monotonic() + self.every)
            self._timer.wake()

    def note_time(self, server_ms: float, sent: float) -> None:
        """Record the server's time, asked for at `sent` by the monotonic clock."""
        step = self._member.clock.record(server_ms, sent, time.monotonic())
        self._thorough = self._thorough or step < 0
        if abs(step) > self._lease / 2:
            self._member.log.warning(
                "the server's clock was set %.1f s %s: no worker is taken for dead for a lease",
                abs(step),
                "ahead" if step > 0 else "back",
            )

    def _note_server(self, server: str) -> None:
        if self._member.clock.note_server(server, self._lease, time.monotonic()):
            self._member.log.warning(
                "another server answers, or it was restarted: no worker is taken for dead for a lease"
            )

    async def look(self, *, others: bool) -> bool:
        """Fence workers that are surely lost and hand back the jobs of fenced ones; return whether there were any.

        A claim takes these jobs. `others`: also count the jobs that other workers hold.
        """
        sent = time.monotonic()
        lost = [each for each in self.silent if self._member.clock.is_trusted(each.lease, sent)]
        thorough, self._thorough = self._thorough, False
        answer = await self._member.consumer.reclaim(lost, others=others, thorough=thorough)
        self.note_time(answer.server_ms, sent)
        self._note_server(answer.server)
        self._publish(answer)
        self.silent = [each for each in answer.silent if each.worker_id != self._member.consumer.worker_id]
        self.others = answer.others
        self._is_only_worker = answer.alone and self._another_at < sent  # else one joined while we asked
        self.asked_at = sent
        self._promoter.note_others(answer.workers, promotes=answer.promotes, late=answer.late)
        if answer.untidy:
            self.tidy_at = 0.0
        now = time.monotonic()
        sure = any(self._member.clock.is_trusted(each.lease, now) for each in self.silent)
        self.look_at = 0.0 if answer.more or sure else now + self.every
        return bool(answer.released)

    def _publish(self, answer: Reclaimed) -> None:
        """Publish what a look found. If handing back takes several looks, publish the jobs once, at the end."""
        self._unreported += answer.jobs
        jobs = 0 if answer.more else self._unreported
        if answer.fenced or jobs:
            self._member.tell(JobsReclaimed, lost=answer.fenced, jobs=jobs)
        self._unreported -= jobs

    async def tidy(self) -> None:
        """Look for what dead workers left behind."""
        self.tidy_at = time.monotonic() + _TIDY
        try:
            tidied = await self._member.consumer.change(Tidy(self._after))
        except NOT_NOW:
            raise
        except DriverError as error:  # not worth ending the worker
            self._member.log.warning("could not look for what was left behind: %s", error)
            return
        self._after = tidied.after
        if tidied.after:
            self.tidy_at = time.monotonic() + _TIDY_STEP
        if tidied.restored:
            self._member.log.warning(
                "handed back %d jobs that were neither pending nor unread: the consumer group was changed "
                "outside redisjobs",
                tidied.restored,
            )
