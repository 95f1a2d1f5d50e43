"""The blocking read: it brings jobs to a worker with free slots the moment they are there.

It has its own task and connection, so that it waits for nothing else, and nothing waits for it.
"""

import time
from collections.abc import Callable, Sequence

import anyio

from redisjobs.client.backoff import NOT_NOW, Errors
from redisjobs.model.driver import Fenced, Until
from redisjobs.model.transitions import Lease
from redisjobs.worker.source.member import Member

_WAIT = 5.0  # seconds of one blocking read
_BROKEN_OFF: Errors = (*NOT_NOW, Fenced)  # `Recovery` handles these


class Fetcher:
    """Reads after each `begin` until jobs come, or until `end` is called."""

    def __init__(self, member: Member) -> None:
        self.interrupted = False  # the read has to end; the source's task calls `end`
        self.reading_since = float("inf")  # by the monotonic clock; infinity: no read is under way
        self._member = member
        self._wakeup = member.timer
        self._count = 0  # most jobs of each priority that a read may lease
        self._task_ended = False
        self._until: Until | None = None  # ends the read that is under way, or about to begin
        self._begun = anyio.Event()
        self._over = anyio.Event()
        self._claim_after = float("-inf")  # when `interrupt` was last called

    @property
    def waiting(self) -> bool:
        """Whether a read is under way."""
        return self._until is not None

    @property
    def is_ending(self) -> bool:
        """Whether the read under way has to end, or is ending now."""
        return self.interrupted or (self._until is not None and self._until.is_set)

    def begin(self, count: int, sent_at: float) -> None:
        """Begin to read, unless there are jobs that only a claim finds, or the task that reads has ended.

        That task may end first: a worker's tasks are cancelled together, in any order. A claim that was sent at
        `sent_at` found nothing more. The read leases at most `count` jobs of each priority.
        """
        if self._task_ended or sent_at <= self._claim_after:
            return
        self._count = count
        self._until = Until()
        self._over = anyio.Event()
        self._begun.set()

    def interrupt(self) -> None:
        """Allow no read before a claim that is sent from now on.

        A read under way has to end: the source's task calls `end`.
        """
        self._claim_after = time.monotonic()
        if self._until is not None:
            self.interrupted = True
            self._wakeup.wake()

    async def end(self) -> None:
        """End the read and wait until it is over. Then no delivery is under way, or we need recovery."""
        self.interrupted = False
        if self._until is not None:
            self._until.set()
            await self._over.wait()

    async def run(self, take: Callable[[Sequence[Lease], float], object]) -> None:
        """Read after each `begin`, until cancelled. `take` gets the jobs, and when they were asked for."""
        self._task_ended = False
        try:
            while True:
                await self._begun.wait()
                self._begun = anyio.Event()
                if self._until is not None:
                    take(*await self._read(self._until))
                self._end_read()
        finally:
            self._task_ended = True
            self._end_read()  # also a read that was about to begin: nothing else would end it

    async def _read(self, until: Until) -> tuple[Sequence[Lease], float]:
        leases: Sequence[Lease] = ()
        ended, most = False, min(_WAIT, self._member.settings.lease / 2)
        try:
            # Again and again: notifications and the timer report what else there is to do.
            while not leases and not until.is_set:
                self.reading_since = time.monotonic()
                leases = await self._member.consumer.wait(self._count, most, until)
            ended = True
        except _BROKEN_OFF:
            return (), self.reading_since
        finally:
            if not ended:
                self._member.note_lost_reply()
        return leases, self.reading_since

    def _end_read(self) -> None:
        self._until = None
        self.reading_since = float("inf")
        self._over.set()
        self._wakeup.wake()
