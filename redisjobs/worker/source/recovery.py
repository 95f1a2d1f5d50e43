"""How a source recovers from a lost reply, an unavailable server, or a lease that ran out."""

import time
from dataclasses import dataclass

from redisjobs.client.backoff import retrying
from redisjobs.errors import DriverError, Unavailable, WrongType
from redisjobs.events.kinds import SourceAvailable
from redisjobs.model.driver import Fenced
from redisjobs.worker.source.claims import Claims
from redisjobs.worker.source.dispatcher import Dispatcher
from redisjobs.worker.source.exchanger import Exchanger
from redisjobs.worker.source.heartbeat import Beats
from redisjobs.worker.source.member import Member
from redisjobs.worker.source.settler import Settler
from redisjobs.worker.source.watchdog import ProgressWatchdog

_LATEST = 5.0  # seconds after a lease within which the server may still serve a read that we gave up
_REFUSED = 5.0  # seconds between tries while a key has the wrong type


@dataclass(eq=False, repr=False)
class Recovery:
    """Makes what a source holds agree with what it holds according to Redis."""

    member: Member
    claims: Claims
    settler: Settler
    dispatcher: Dispatcher
    exchanger: Exchanger
    beats: Beats
    progress: ProgressWatchdog

    def __post_init__(self) -> None:
        self.missed_at = time.monotonic() + self.member.settings.lease  # when `find_missed` is due
        self._leases = self.claims.leases
        self._batcher = self.claims.batcher
        self._fetcher = self.claims.fetcher
        self._shutdown = self.claims.pool.shutdown

    @property
    def is_required(self) -> bool:
        """Whether we may hold jobs that we don't know of, or a settlement had no answer."""
        return self.member.needs_recovery or bool(self._batcher.unanswered)

    @property
    def may_read_late(self) -> bool:
        """Whether the server may still serve a read that we gave up."""
        since = time.monotonic() - self.member.lost_at
        return self.is_required or since < self.member.settings.lease + _LATEST

    async def recover(self) -> None:
        """Settle what can be settled, and run the jobs whose delivery was in a lost reply: they are ours.

        Raises:
            Fenced: We hold no job any more.
            DriverError: Recovery is not possible now.
        """
        if isinstance(self.member.failure, Fenced):
            self.member.raise_failure()
        if self.member.may_be_dead:
            self.beats.heartbeat.hurry()
            raise Unavailable("no heartbeat got through for a lease")
        await self._batcher.quiet()
        await self._fetcher.end()  # `recover` would not find what a read still delivers
        await self._batcher.send_again()
        leases = await self.member.consumer.recover(self._leases.all)
        self.member.needs_recovery = False
        if leases:
            self.member.log.info("found %d jobs whose delivery was lost on the way", len(leases))
        self.dispatcher.take(leases, float("inf"))

    async def find_missed(self) -> None:
        """Find jobs of ours that no answer brought, because a claim that we gave up arrived after all."""
        lease, began = self.member.settings.lease, time.monotonic()
        self.missed_at = began + lease
        late = min(self._batcher.oldest, self._fetcher.reading_since) < began - 0.9 * lease
        if late or not self.member.clock.is_trusted(lease, began):
            return  # an answer on its way may bring them; and the server's clock tells how old they are
        with self._leases.missed(10 * lease) as new:
            leases = new(await self.member.consumer.recover(self._leases.all, lease))
        if leases:
            self.member.log.warning("found %d jobs that an abandoned claim had brought", len(leases))
        self.dispatcher.take(leases, float("inf"))

    async def wait_until_available(self, error: DriverError) -> None:
        """Keep what we hold while the server is away or refuses, and retry with backoff until it is back."""
        member = self.member

        async def probe() -> None:
            if not self.exchanger.is_ended:
                try:
                    await self.recover()
                except Fenced as fenced:
                    await self.rejoin(fenced)
                member.tell(SourceAvailable, server=member.server)

        member.became_unavailable(error, len(self._leases))
        try:
            if isinstance(error, WrongType) and not self._shutdown.stopping:
                await self._shutdown.wait(_REFUSED)  # the server answers: backing off would not help
            await retrying(probe, failed=member.note_unavailable)
        finally:
            member.unavailable = ""
        self.progress.resumed()

    async def rejoin(self, fenced: Fenced) -> None:
        """Let go of all jobs and go on under a new id: the server took us for dead, and others have our jobs."""
        member, consumer = self.member, self.member.consumer
        if fenced.worker_id != consumer.worker_id:
            return  # we have rejoined since
        self.member.log.warning("%s; other workers will run its jobs, and it goes on under a new id", fenced)
        member.is_renewing = True
        self.settler.cancel_all()
        await self._batcher.quiet()
        self.lose_all()
        if self._shutdown.stopping:
            return
        began = 0.0

        async def join() -> None:
            nonlocal began
            await self._fetcher.end()
            if consumer.worker_id == fenced.worker_id:
                await consumer.release(refund=False, watch=True)  # what a late read of ours brought
            began = time.monotonic()
            # Another id each time: if a join had no answer, its id may have been fenced since.
            await member.join_again()

        try:
            await retrying(join, failed=member.note_unavailable)
        finally:
            member.unavailable = ""
            if consumer.worker_id != fenced.worker_id:  # also if it was cancelled as soon as it had joined
                member.renewed(began)
                self.claims.found_nothing = False
                self.progress.resumed()

    def lose_all(self) -> None:
        """Let go of all jobs that have an outcome, because they can't be settled any more."""
        unknown = {id(run) for batch in self._batcher.unanswered if batch.unknown for run in batch.settling}
        self._batcher.forget()
        self.settler.lose_all(unknown)
