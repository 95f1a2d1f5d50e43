"""The blocking read: how a worker with free slots is given jobs the moment they are there.

It has a task and a connection of its own, so that it waits behind nothing, and nothing waits behind it.
"""

import time
from collections.abc import Sequence
from typing import Protocol

import anyio

from redisjobs.base.eventloop import Wakeup
from redisjobs.client.backoff import NOT_NOW, Errors
from redisjobs.model.driver import Consumer, Fenced, Until
from redisjobs.model.transitions import Lease

_WAIT = 5.0  # seconds of one blocking read
_BROKEN_OFF: Errors = (*NOT_NOW, Fenced)  # what recovery sees to


class Owner(Protocol):
    """Whose jobs are fetched."""

    def take(self, leases: Sequence[Lease], asked_at: float) -> None:
        """Take jobs; `asked_at` is when they were asked for, by the monotonic clock."""


class Fetcher:
    """Reads when told to, and until told otherwise.

    Args:
        consumer: The worker's side of the store.
        owner: Who takes the jobs.
        wakeup: Wakes whoever decides, when the read has ended, or is to be ended.
        lease: Seconds a lease lasts.

    Attributes:
        interrupted: The read is to be ended; somebody has to call `end`.
        lost_at: When a read broke off last, by the monotonic clock.
        reading_since: When the read began that is under way, by the monotonic clock; infinity: none is.
        needs_recovery: A read broke off; jobs may have been delivered into the reply we did not see.
    """

    def __init__(self, consumer: Consumer, owner: Owner, wakeup: Wakeup, *, lease: float) -> None:
        self.needs_recovery = self.interrupted = False
        self.reading_since = float("inf")
        self.lost_at = float("-inf")
        self._consumer = consumer
        self._owner = owner
        self._wakeup = wakeup
        self._lease = lease
        self._count = 0  # most jobs of each priority that it may lease
        self._task_ended = False
        self._until: Until | None = None  # ends the read that is under way, or about to begin
        self._begun = anyio.Event()
        self._over = anyio.Event()
        self._claim_after = float("-inf")  # when it was last interrupted

    @property
    def waiting(self) -> bool:
        """Whether the read is under way."""
        return self._until is not None

    @property
    def is_ending(self) -> bool:
        """Whether the read that is under way is to end, or ends now."""
        return self.interrupted or (self._until is not None and self._until.is_set)

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
        self._until = Until()
        self._over = anyio.Event()
        self._begun.set()

    def interrupt(self) -> None:
        """Ask for a claim sent from now on, before any read.

        If one is under way it is to be ended; somebody has to call `end`.
        """
        self._claim_after = time.monotonic()
        if self._until is not None:
            self.interrupted = True
            self._wakeup.wake()

    async def end(self) -> None:
        """End the read and wait until it is over: no delivery is under way then, or it `needs_recovery`."""
        self.interrupted = False
        if self._until is not None:
            self._until.set()
            await self._over.wait()

    async def run(self) -> None:
        """Read whenever told to, until cancelled."""
        self._task_ended = False
        try:
            while True:
                await self._begun.wait()
                self._begun = anyio.Event()
                if self._until is not None:
                    await self._read(self._until)
                self._end_read()
        finally:
            self._task_ended = True
            self._end_read()  # also one that was to begin: nobody would end it

    async def _read(self, until: Until) -> None:
        leases: Sequence[Lease] = ()
        ended = False
        try:
            # On and on: what else there may be to do, notifications and the clock tell.
            while not leases and not until.is_set:
                self.reading_since = time.monotonic()
                leases = await self._consumer.wait(self._count, min(_WAIT, self._lease / 2), until)
            ended = True
        except _BROKEN_OFF:
            return
        finally:
            if not ended:
                self.needs_recovery = True
                self.lost_at = time.monotonic()
        self._owner.take(leases, self.reading_since)

    def _end_read(self) -> None:
        self._until = None
        self.reading_since = float("inf")
        self._over.set()
        self._wakeup.wake()
