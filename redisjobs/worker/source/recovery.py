"""How a source gets over what goes wrong: a lost reply, an unavailable store, a lease that ran out."""

import time

from redisjobs.client.backoff import retrying
from redisjobs.errors import DriverError, Unavailable, WrongType
from redisjobs.events import SourceAvailable, SourceUnavailable
from redisjobs.model.driver import Fenced
from redisjobs.worker.settings.shutdown import Shutdown
from redisjobs.worker.source.clock import Clock
from redisjobs.worker.source.dispatcher import Dispatcher
from redisjobs.worker.source.exchanger import Exchanger
from redisjobs.worker.source.heartbeat import Beats
from redisjobs.worker.source.member import Member, refuses
from redisjobs.worker.source.watchdog import ProgressWatchdog

_LATEST = 5.0  # seconds, beyond a lease, that a read which was given up may still be served for
_REFUSED = 5.0  # seconds between tries while somebody's key is in the way


class Recovery:
    """What one source has to make good.

    Args:
        member: The worker, as the queue knows it.
        dispatcher: Its jobs.
        exchanger: Its exchanges.
        beats: Its heartbeats.
        clock: The server's.
        shutdown: Whether the worker stops.
        progress: Whether anything gets through.

    Attributes:
        is_needed: What the parts hold may not be all that is ours.
        missed_at: When the next look is due for jobs of ours that we never heard of, by the monotonic clock.
    """

    def __init__(
        self,
        member: Member,
        dispatcher: Dispatcher,
        exchanger: Exchanger,
        beats: Beats,
        clock: Clock,
        shutdown: Shutdown,
        progress: ProgressWatchdog,
    ) -> None:
        self.is_needed = False
        self.missed_at = time.monotonic() + member.settings.lease
        self._member = member
        self._dispatcher = dispatcher
        self._exchanger = exchanger
        self._batcher = exchanger.batcher
        self._fetcher = exchanger.fetcher
        self._beats = beats
        self._clock = clock
        self._progress = progress
        self._shutdown = shutdown

    @property
    def is_required(self) -> bool:
        """Whether jobs may be ours of which we don't know, or outcomes be settled that we hold."""
        doubt = self._exchanger.needs_recovery or self._fetcher.needs_recovery or self._dispatcher.needs_recovery
        return self.is_needed or doubt or bool(self._batcher.unanswered)

    def _is_sure(self) -> None:
        """What is held is all that is ours."""
        self.is_needed = self._exchanger.needs_recovery = False
        self._fetcher.needs_recovery = self._dispatcher.needs_recovery = False

    @property
    def may_read_late(self) -> bool:
        """Whether a read that was given up may still be served."""
        lost_at = max(self._exchanger.lost_at, self._fetcher.lost_at)
        return self.is_required or time.monotonic() - lost_at < self._member.settings.lease + _LATEST

    async def recover(self) -> None:
        """Settle what may be settled, and find what was delivered into a lost reply: it is ours, so we run it.

        Raises:
            Fenced: Nothing is ours any more.
            DriverError: It could not be done now.
        """
        if isinstance(self._exchanger.trouble, Fenced):
            self._exchanger.raise_trouble()
        if self._member.may_be_dead:
            self._beats.hurry()
            raise Unavailable("no heartbeat got through for a lease")
        await self._batcher.quiet()
        await self._fetcher.end()  # what a read still delivers would not be found
        await self._batcher.send_again()
        leases = await self._member.consumer.recover(self._dispatcher.leases.all)
        self._is_sure()
        if leases:
            self._member.log.info("found %d jobs whose delivery was lost on the way", len(leases))
        self._dispatcher.take(leases, float("inf"))

    async def find_missed(self) -> None:
        """Find jobs that are ours and of which we never heard: a claim that was given up arrived after all."""
        lease, began = self._member.settings.lease, time.monotonic()
        self.missed_at = began + lease
        late = min(self._batcher.oldest, self._fetcher.reading_since) < began - 0.9 * lease
        if late or not self._clock.is_trusted(lease, began):
            return  # what is on its way may bring them; and their age is told by the server's clock
        held = self._dispatcher.leases
        with held.missed(10 * lease) as new:
            leases = new(await self._member.consumer.recover(held.all, lease))
        if leases:
            self._member.log.warning("found %d jobs that a claim brought which was given up", len(leases))
        self._dispatcher.take(leases, float("inf"))

    async def outlast(self, error: DriverError) -> None:
        """Keep what we hold while the store is unavailable, or refuses; try again with backoff until it is back.

        Args:
            error: What the store said, or what became of a call.
        """
        member = self._member
        held = len(self._dispatcher.leases)
        why, refused = str(error), refuses(error)
        member.tell(SourceUnavailable, why=why, refuses=refused, leases=held, server=member.server)

        async def probe() -> None:
            if not self._exchanger.is_ended:
                try:
                    await self.recover()
                except Fenced as gone:
                    await self.begin_anew(gone)
                member.tell(SourceAvailable, server=member.server)

        member.note_unavailable(error)
        try:
            if isinstance(error, WrongType) and not self._shutdown.stopping:
                await self._shutdown.wait(_REFUSED)  # it answers: there is no backing off from that
            await retrying(probe, failed=member.note_unavailable)
        finally:
            member.unavailable = ""
        self._progress.resumed()

    async def begin_anew(self, fenced: Fenced) -> None:
        """Let go of all, and go on under a new id: the store takes us for dead, and others may run our jobs."""
        member, consumer = self._member, self._member.consumer
        if fenced.worker_id != consumer.worker_id:
            return  # that was before
        self._member.log.warning("%s; its jobs are for others, and it goes on under a new id", fenced)
        member.is_renewing = True
        self._dispatcher.cancel_all()
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
            # Another id each time: one whose reply was lost may have been fenced since.
            await member.join_again()

        try:
            await retrying(join, failed=member.note_unavailable)
        finally:
            member.unavailable = ""
            if consumer.worker_id != fenced.worker_id:  # also where it was cut off as soon as it had joined
                self._is_sure()
                self._exchanger.found_nothing = False
                member.renewed(began)
                self._progress.resumed()

    def lose_all(self) -> None:
        """Let go of all that has an outcome: it is not to be settled any more."""
        unknown = {id(run) for batch in self._batcher.unanswered if batch.unknown for run in batch.settling}
        self._batcher.forget()
        self._dispatcher.lose_all(unknown)

    def fenced(self, error: Fenced) -> None:
        """Take in what a heartbeat was told: no job is begun from now on."""
        if error.worker_id == self._member.consumer.worker_id:
            self._member.is_renewing = True
            self._dispatcher.cancel_all()
            self._exchanger.trouble = error
