"""Looks for lost workers: whose lease is surely over is fenced, and its jobs are handed back; see `Clock`.

It does nothing by itself: whoever owns it asks when a look is due.
"""

import random
import time
from collections.abc import Sequence
from typing import Protocol

from redisjobs.base.logger import Log
from redisjobs.client.backoff import NOT_NOW
from redisjobs.errors import DriverError
from redisjobs.model.changes import Tidy
from redisjobs.model.driver import Consumer
from redisjobs.model.transitions import Reclaimed, Silent
from redisjobs.worker.source.clock import Clock
from redisjobs.worker.source.promoter import Promoter

_RECLAIM = 2.0  # seconds between looks for lost workers; less for a short lease
_ALONE = 7.5  # the same where there is no other worker: who comes says so, and this is for where that is lost
_TIDY = 60.0  # seconds between looks for what dead workers left behind
_TIDY_STEP = 0.02  # seconds between the steps of one that takes several: other things are done in between


class Owner(Protocol):
    """Whoever looks."""

    def reclaimed(self, lost: Sequence[str], jobs: int) -> None:
        """Tell of workers that were fenced just now, and of jobs that were handed back."""


class Reclaimer:
    """What is known of other workers of a queue.

    Args:
        consumer: The worker's side of the store.
        clock: The server's.
        promoter: Is told whether it is for this worker to look when delayed jobs are due.
        owner: Who is told.
        log: Where it tells of the queue.
        lease: Seconds; the worker's own.

    Attributes:
        look_at: When the next look for lost workers is due, by our monotonic clock.
        tidy_at: When the next one for what dead workers left behind is.
        silent: Whose lease is over by the server's clock, if that can be trusted.
        others: How many jobs others hold; None: not known.
        asked_at: When the last look that was answered was sent, by our monotonic clock.
    """

    def __init__(
        self, consumer: Consumer, clock: Clock, promoter: Promoter, owner: Owner, log: Log, *, lease: float
    ) -> None:
        self.look_at = 0.0
        self.tidy_at = time.monotonic() + _TIDY * random.random()
        self.silent: Sequence[Silent] = ()
        self.others: int | None = None
        self.asked_at = float("-inf")
        self._consumer = consumer
        self._clock = clock
        self._promoter = promoter
        self._owner = owner
        self._log = log
        self._lease = lease
        self._after = ""  # where tidying goes on
        self._thorough = True  # to look at every worker's beat: the server's clock may have been set back
        self._alone = False  # there was no other worker
        self._another_at = float("-inf")  # when the last one came, by our monotonic clock
        self._untold = 0  # jobs that were handed back and not told of

    @property
    def every(self) -> float:
        """Seconds between looks."""
        if self._alone:
            return min(_ALONE, self._lease / 2)
        shortest = min((each.lease for each in self.silent), default=float("inf"))
        return min(_RECLAIM, self._lease / 4, max(0.02, shortest / 8))

    @property
    def next_at(self) -> float:
        """When the next of either look is due, by our monotonic clock."""
        return min(self.look_at, self.tidy_at)

    def hear_of_another(self) -> None:
        """Take the news that another worker has come: whoever was alone looks as often as others do."""
        self._another_at = time.monotonic()
        if self._alone:
            self._alone = False
            self.look_at = min(self.look_at, time.monotonic() + self.every)

    def hear_time(self, server_ms: float, sent: float) -> None:
        """Take in what time the server said it is, asked at `sent` by our monotonic clock."""
        step = self._clock.hear(server_ms, sent, time.monotonic())
        self._thorough = self._thorough or step < 0
        if abs(step) > self._lease / 2:
            self._log.warning(
                "the server's clock was set %.1f s %s: nobody is taken for dead for a lease",
                abs(step),
                "ahead" if step > 0 else "back",
            )

    async def look(self, *, others: bool) -> bool:
        """Fence those that are surely lost, and hand back what fenced ones hold.

        Args:
            others: Whether to count what others hold.

        Returns:
            Whether any job was handed back: a claim takes it.
        """
        sent = time.monotonic()
        lost = [each for each in self.silent if self._clock.is_trusted(each.lease, sent)]
        thorough, self._thorough = self._thorough, False
        answer = await self._consumer.reclaim(lost, others=others, thorough=thorough)
        self.hear_time(answer.server_ms, sent)
        self._tell(answer)
        self.silent = [each for each in answer.silent if each.worker_id != self._consumer.worker_id]
        self.others = answer.others
        self._alone = answer.workers < 2 and self._another_at < sent  # else it came as we asked
        self.asked_at = sent
        self._promoter.hear_of_others(answer.workers, promotes=answer.promotes, late=answer.late)
        if answer.untidy:
            self.tidy_at = 0.0
        now = time.monotonic()
        sure = any(self._clock.is_trusted(each.lease, now) for each in self.silent)
        self.look_at = 0.0 if answer.more or sure else now + self.every
        return bool(answer.released)

    def _tell(self, answer: Reclaimed) -> None:
        """All in one at the end, where handing back takes several looks."""
        self._untold += answer.jobs
        jobs = 0 if answer.more else self._untold
        if answer.fenced or jobs:
            self._owner.reclaimed(answer.fenced, jobs)
        self._untold -= jobs

    async def tidy(self) -> None:
        """Look for what dead workers left behind."""
        self.tidy_at = time.monotonic() + _TIDY
        try:
            tidied = await self._consumer.change(Tidy(self._after))
        except NOT_NOW:
            raise
        except DriverError as error:  # a matter of tidiness: no reason to end
            self._log.warning("could not look for what was left behind: %s", error)
            return
        self._after = tidied.after
        if tidied.after:
            self.tidy_at = time.monotonic() + _TIDY_STEP
        if tidied.restored:
            self._log.warning(
                "%d jobs were handed back that were neither pending nor still to be read: somebody has changed "
                "the consumer group by hand",
                tidied.restored,
            )
