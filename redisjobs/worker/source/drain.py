"""How a worker leaves a queue: it settles the jobs that have an outcome, and hands back the rest."""

from contextlib import suppress

import anyio

from redisjobs.client.backoff import retrying
from redisjobs.errors import DriverError, WrongType
from redisjobs.model.driver import Fenced
from redisjobs.worker.source.claims import Claims
from redisjobs.worker.source.exchanger import Exchanger
from redisjobs.worker.source.heartbeat import Beats
from redisjobs.worker.source.member import Member
from redisjobs.worker.source.recovery import Recovery
from redisjobs.worker.source.settler import Settler

_DRAIN = 5.0  # seconds for the last settlements; after that the leases run out by themselves
_LAST_TRY = 1.0  # seconds to hand back what could not be settled, or to leave before anything was claimed


class Drain:
    """Settles and releases what is left at the end."""

    def __init__(
        self,
        member: Member,
        claims: Claims,
        settler: Settler,
        exchanger: Exchanger,
        recovery: Recovery,
        beats: Beats,
    ) -> None:
        self._member = member
        self._leases = claims.leases
        self._batcher = claims.batcher
        self._fetcher = claims.fetcher
        self._settler = settler
        self._exchanger = exchanger
        self._recovery = recovery
        self._beats = beats

    async def run(self, *, broken: bool) -> None:
        """Settle the jobs that have an outcome and release the rest, also those that no answer brought.

        Args:
            broken: Whether an error ends the worker: a job that ran may be the cause.
        """
        self._settler.interrupt_all(broken=broken)
        why = "no answer came in time"

        async def settle() -> None:
            nonlocal why
            try:
                await self._settle()
            except WrongType as error:
                why = str(error)
                raise

        try:
            with anyio.fail_after(_DRAIN):
                await retrying(settle)
        except (DriverError, TimeoutError) as error:
            self._log_unsettled(str(error) or why)
            if not broken:
                await self._hand_back()
        self._member.left = True

    async def leave_unopened(self) -> None:
        """Leave before anything was claimed; the server may know the worker all the same."""
        with suppress(DriverError), anyio.move_on_after(_LAST_TRY):
            await self._member.consumer.release(refund=True, watch=False)
        self._member.left = True

    async def _settle(self) -> None:
        leases = self._leases
        await self._fetcher.end()
        await self._batcher.quiet()
        try:
            await self._batcher.send_again()
            while leases.unsettled:
                await self._batcher.carry(self._exchanger.next_batch())
        except Fenced as error:
            self._member.log.warning("%s; its %d jobs are for others", error, len(leases))
            self._recovery.lose_all()
        await self._release()
        if leases.kept:
            self._member.log.warning("%d jobs could not be settled, and run again", len(leases.kept))
            self._settler.lose_pushes()

    async def _release(self) -> None:
        self._beats.end()  # or they would be for a worker that has left
        await self._member.consumer.release(refund=True, watch=self._recovery.may_read_late)

    async def _hand_back(self) -> None:
        """Hand back what could not be settled: a refusal by the server is no sign that a job kills its workers."""
        with suppress(DriverError, TimeoutError), anyio.fail_after(_LAST_TRY):
            await self._release()

    def _log_unsettled(self, why: str) -> None:
        if held := len(self._leases):
            self._member.log.warning(
                "%d jobs could not be settled, and run again once their leases are over: %s", held, why
            )
            self._settler.lose_pushes()
        else:
            self._member.log.info(
                "the server does not know that this worker has ended, and forgets it later: %s", why
            )
