"""When a worker that runs until idle has nothing left to do for one source."""

import time

from redisjobs.worker.source.exchanger import Exchanger
from redisjobs.worker.source.pool import Pool
from redisjobs.worker.source.promoter import Promoter
from redisjobs.worker.source.reclaimer import Reclaimer
from redisjobs.worker.source.recovery import Recovery

_PUT_OFF = 2.0  # seconds within which a job that found no thread is due again


class Idleness:
    """Looks whether anything is left: ready, running here, or held by others who may be dead.

    A thread that was given up may run for ever too; while it counts for a limit, jobs may wait for its end.

    Args:
        pool: The worker's slots.
        exchanger: The source's exchanges.
        promoter: Its delayed jobs.
        reclaimer: What is known of other workers.
        recovery: What is to be made good.
        lease: Seconds a lease lasts.
    """

    def __init__(
        self,
        pool: Pool,
        exchanger: Exchanger,
        promoter: Promoter,
        reclaimer: Reclaimer,
        recovery: Recovery,
        *,
        lease: float,
    ) -> None:
        self._pool = pool
        self._exchanger = exchanger
        self._promoter = promoter
        self._reclaimer = reclaimer
        self._recovery = recovery
        self._lease = lease
        self._since: float | None = None  # since when nothing is left to do here

    def look(self) -> bool:
        """Whether nothing is left. Others may hold jobs: whether they do is asked first, and waited for a lease.

        Then a claim looks once more. What others held when the last one looked may have kept a line from moving,
        or may have pushed jobs, and a notification of that may still be under way.
        """
        if self._exchanger.fetcher.waiting or not self._is_dry:
            self._since = self._reclaimer.others = None
            return False
        if self._exchanger.batcher.under_way:
            return False
        now = time.monotonic()
        if self._since is None:
            self._since, self._reclaimer.look_at = now, 0.0  # do others hold anything?
            self._exchanger.wake()
        # Of those who do one may be dead: a look shows that after a lease. By its time, as this process may stall.
        waited = self._reclaimer.asked_at - self._since > self._lease + 2 * self._reclaimer.every
        has_waited = waited and not self._reclaimer.silent
        held = self._reclaimer.others or self._pool.lingering
        if self._reclaimer.others is None or (held and not has_waited):
            return False
        if self._exchanger.queue_paused or self._exchanger.claimed_at > self._reclaimer.asked_at:
            return True
        self._exchanger.claim_once_more()
        return False

    @property
    def _is_dry(self) -> bool:
        is_paused = self._exchanger.queue_paused  # then no claim looks once more, whoever asked for one
        if not (self._exchanger.is_dry or is_paused) or self._pool.holds or self._recovery.is_required:
            return False
        if self._exchanger.quarantine.one_waits and not is_paused:  # for a thread to end
            return False
        # What found no thread is ready in truth, and only put off.
        is_put_off = self._promoter.is_due or self._promoter.expects(_PUT_OFF)
        return not (self._pool.threads.turned_away and is_put_off)
