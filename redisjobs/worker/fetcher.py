"""The blocking read: how a worker with free slots is given jobs the moment they are there.

It has a task and a connection of its own, so that it waits behind nothing, and nothing waits behind it.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

import anyio

from redisjobs.backoff import NOT_NOW
from redisjobs.driver import Consumer, Lease

_WAIT = 5.0  # seconds of one blocking read
_UNBLOCKING = (0.02, 0.05, 0.2, 0.5)  # seconds to wait after each try to let it end in order
_IN_ORDER = 2.0  # seconds that all of that may take; then it is cut off


class Owner(Protocol):
    """Whose jobs are fetched."""

    def arrived(self, leases: Sequence[Lease]) -> None:
        """Take jobs that the read leased."""

    def changed(self) -> None:
        """Look again: the read has ended, or is to be ended."""


class Fetcher:
    """Reads when told to, and until told otherwise.

    Args:
        consumer: The worker's side of the store.
        owner: Who takes the jobs.
        lease: Seconds a lease lasts.

    Attributes:
        interrupted: The read is to be ended; somebody has to call `end`.
        lost_at: When a read broke off last, by the monotonic clock.
        reading_since: When the read began that is under way, by the monotonic clock; infinity: none is.
        needs_recovery: A read broke off; jobs may have been delivered into the reply we did not see.
    """

    def __init__(self, consumer: Consumer, owner: Owner, *, lease: float) -> None:
        self.needs_recovery = self.interrupted = False
        self.reading_since = float("inf")
        self.lost_at = float("-inf")
        self._consumer = consumer
        self._owner = owner
        self._lease = lease
        self._count = 0  # most jobs of each priority that it may lease
        self._ending = False  # it is not to begin again
        self._task_ended = False
        self._read: anyio.CancelScope | None = None
        self._begun = anyio.Event()
        self._over = anyio.Event()
        self._claim_after = float("-inf")  # when it was last interrupted

    @property
    def waiting(self) -> bool:
        """Whether the read is under way."""
        return self._read is not None

    def begin(self, count: int, sent_at: float) -> None:
        """Let the read begin, if nothing was heard meanwhile that only a claim can find.

        Nor when the task that would read has ended: a worker's tasks are cancelled together, and hear of it in
        any order.

        Args:
            count: Most jobs of each priority that it may lease.
            sent_at: When the claim was sent that found nothing more, by our monotonic clock.
        """
        if self._task_ended or sent_at <= self._claim_after:
            return
        self._count = count
        self._ending = False
        self._read = anyio.CancelScope()
        self._over = anyio.Event()
        self._begun.set()

    def interrupt(self) -> None:
        """Ask for a claim sent from now on, before any read.

        If one is under way it is to be ended; somebody has to call `end`.
        """
        self._claim_after = time.monotonic()
        if self._read is not None:
            self.interrupted = True
            self._owner.changed()

    async def end(self) -> None:
        """End the read and wait until it is over: then no delivery is under way.

        In order where the server lets us: a read that is cut off can still be delivered to, until the server
        sees that the connection is closed. To be called by whoever owns the consumer.
        """
        self.interrupted, self._ending = False, True
        with suppress(*NOT_NOW), anyio.move_on_after(_IN_ORDER):
            for pause in _UNBLOCKING:
                # Again if it was too early: a read that had not arrived could not be ended.
                if self._read is None or not await self._consumer.unblock():
                    break
                with anyio.move_on_after(pause):
                    await self._over.wait()
        if self._read is not None:
            self._read.cancel()
            await self._over.wait()

    async def run(self) -> None:
        """Read whenever told to, until cancelled."""
        self._task_ended = False
        try:
            while True:
                await self._begun.wait()
                self._begun = anyio.Event()
                await self._read_once()
        finally:
            self._task_ended = True
            self._end_read()  # also one that was to begin: nobody would end it

    async def _read_once(self) -> None:
        cut_off = self._read is not None
        try:
            if self._read is not None:
                with self._read:
                    await self._wait()
                    cut_off = False
        finally:
            if cut_off:
                self.needs_recovery = True
                self._note_lost()
            self._end_read()

    async def _wait(self) -> None:
        leases: Sequence[Lease] = ()
        try:
            # On and on: what else there may be to do, notifications and the clock tell.
            while not leases and not self._ending:
                self.reading_since = time.monotonic()
                leases = await self._consumer.wait(self._count, min(_WAIT, self._lease / 2))
            await self._consumer.adopt(leases)
        except NOT_NOW:
            self.needs_recovery = True
            self._note_lost()
        else:
            self._owner.arrived(leases)

    def _note_lost(self) -> None:
        if self._consumer.is_reading:  # else it had not asked yet
            self.lost_at = time.monotonic()

    def _end_read(self) -> None:
        self._read = None
        self.reading_since = float("inf")
        self._over.set()
        self._owner.changed()
