"""How a worker with nothing to do hears of work: a blocking read, notifications, and a timer for delayed jobs.

Each has its own task and its own connection, so that none waits behind another, nor behind a settlement.
"""

import re
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import anyio

from redisjobs.backoff import NOT_NOW, retrying
from redisjobs.driver import Consumer, Lease, Notification
from redisjobs.worker.clock import Clock

_TIME = re.compile("[0-9]{1,15}")  # ms; anybody may write to the channel
_WAIT = 5.0  # seconds of one blocking read
_UNBLOCKING = (0.02, 0.05, 0.2, 0.5)  # seconds to wait after each try to let it end in order
_IN_ORDER = 2.0  # seconds that all of that may take; then it is cut off


class Lookout:
    """Waits for work on a worker's behalf.

    Args:
        consumer: The worker's side of the store.
        arrived: Takes jobs that the blocking read leased.
        changed: Called when something below has changed.
        cancelled: Takes the id of a job that somebody says is cancelled.
        listening: Called when listening begins, for what was said before was missed.
        clock: The server's.
        lease: Seconds a lease lasts.

    Attributes:
        promote: A delayed job may be due: somebody has to promote it.
        interrupted: The blocking read is to be ended.
        lost_at: When a read broke off last, by the monotonic clock.
        reading_since: When the read began that is under way, by the monotonic clock; infinity: none is.
        needs_recovery: A blocking read broke off; jobs may have been delivered into the reply we did not see.
    """

    def __init__(
        self,
        consumer: Consumer,
        *,
        arrived: Callable[[Sequence[Lease]], None],
        changed: Callable[[], None],
        cancelled: Callable[[str], None],
        listening: Callable[[], None],
        clock: Clock,
        lease: float,
    ) -> None:
        self.promote = False
        self.needs_recovery = self.interrupted = False
        self.reading_since = float("inf")
        self.lost_at = float("-inf")
        self._consumer = consumer
        self._arrived = arrived
        self._changed = changed
        self._cancelled = cancelled
        self._listening = listening
        self._clock = clock
        self._lease = lease
        self._count = 0  # most jobs of each priority that the blocking read may lease
        self._ending = False  # the blocking read is not to begin again
        self._reader_ended = False  # the task of the blocking reads has ended
        self._read: anyio.CancelScope | None = None
        self._begun = anyio.Event()
        self._over = anyio.Event()
        self._told = float("-inf")  # when the last claim was sent that told of delayed jobs
        self._due_at: float | None = None  # when the next delayed job is, by our monotonic clock
        self._due_changed = anyio.Event()
        self._notified_due: float | None = (
            None  # the earliest due time that notifications told, and no claim since
        )
        self._notified_at = self._claim_after = float("-inf")  # when the last of these was heard; see `interrupt`

    @property
    def waiting(self) -> bool:
        """Whether the blocking read is under way."""
        return self._read is not None

    def begin(self, count: int, sent_at: float) -> None:
        """Let the blocking read begin, if nothing was heard meanwhile that only a claim can find.

        Nor when the task that would read has ended: a worker's tasks are cancelled together, and hear of it in
        any order.

        Args:
            count: Most jobs of each priority that it may lease.
            sent_at: When the claim was sent that found nothing more, by our monotonic clock.
        """
        if self._reader_ended or sent_at <= self._claim_after:
            return
        self._count = count
        self._ending = False
        self._read = anyio.CancelScope()
        self._over = anyio.Event()
        self._begun.set()

    def interrupt(self) -> None:
        """Ask for a claim sent from now on, before any blocking read.

        If one is under way it is to be ended; somebody has to call `end`.
        """
        self._claim_after = time.monotonic()
        if self._read is not None:
            self.interrupted = True
            self._changed()

    async def end(self) -> None:
        """End the blocking read and wait until it is over: then no delivery is under way.

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

    def expects(self, within: float) -> bool:
        """Whether a delayed job is due within so many seconds, as well as we know it."""
        return self._due_at is not None and self._due_at - time.monotonic() <= within

    def learn(self, due_in: float | None, sent_at: float) -> None:
        """Take in what a claim told of the next delayed job.

        Args:
            due_in: Seconds until it is due; None: there is none.
            sent_at: When the claim was sent, by our monotonic clock.
        """
        if sent_at < self._told:
            return  # overtaken by a later one, which knew more
        self._told = sent_at
        if sent_at > self._notified_at:
            self._notified_due = None
        # Else a notification may have overtaken this answer; one that was in it already costs a look too many.
        due_at = None if due_in is None else time.monotonic() + due_in
        told = [at for at in (self._notified_due, due_at) if at is not None]
        self._set_due(min(told, default=None))

    @property
    def watches(self) -> tuple[Callable[[], Awaitable[object]], ...]:
        """What to run in a task each, until cancelled."""
        return self._watch_reads, self._watch_due, self._keep_listening

    async def _watch_reads(self) -> None:
        self._reader_ended = False
        try:
            while True:
                await self._begun.wait()
                self._begun = anyio.Event()
                await self._read_once()
        finally:
            self._reader_ended = True
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

    def _note_lost(self) -> None:
        if self._consumer.is_reading:  # else it had not asked yet
            self.lost_at = time.monotonic()

    def _end_read(self) -> None:
        self._read = None
        self.reading_since = float("inf")
        self._over.set()
        self._changed()

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
            self._arrived(leases)

    async def _keep_listening(self) -> None:
        while True:  # also where a handler has cancelled a task of the driver's, and the listening ended in order
            await retrying(self._listen)

    async def _listen(self) -> None:
        await self._consumer.listen(self._heard)

    def _heard(self, notification: Notification) -> None:
        match notification.kind:
            case "cancel":
                self._cancelled(notification.value)
            case "released":
                self.interrupt()
            case "due" if _TIME.fullmatch(notification.value):
                self._notified_at = time.monotonic()
                due_at = self._notified_at + self._clock.seconds_until(int(notification.value), self._notified_at)
                if self._notified_due is None or due_at < self._notified_due:
                    self._notified_due = due_at
                if self._due_at is None or due_at < self._due_at:
                    self._set_due(due_at)
            case "subscribed":  # a claim of its own learns what was said before
                self.interrupt()
                self._listening()

    def _set_due(self, due_at: float | None) -> None:
        self._due_at = due_at
        self._due_changed.set()

    async def _watch_due(self) -> None:
        """A blocking read ends on the server's 100 ms timer, too coarse for jobs that have a time."""
        while True:
            self._due_changed = anyio.Event()
            wait = float("inf") if self._due_at is None else self._due_at - time.monotonic()
            with anyio.move_on_after(max(0.0, wait)) as until_due:
                await self._due_changed.wait()
            if until_due.cancelled_caught:
                self._due_at = None
                self.promote = True
                self._changed()
