"""A worker's membership of one queue: its id there, and whether its lease still holds."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha1
from typing import Concatenate, ParamSpec

import anyio

from redisjobs.client.backoff import retrying
from redisjobs.errors import DriverError, QueueFull, WrongType
from redisjobs.events.kinds import SourceAvailable, SourceUnavailable, WorkerEvent
from redisjobs.model.changes import Declare, Retain, SetLimit
from redisjobs.model.driver import Consumer, IdTaken
from redisjobs.worker.settings.settings import Settings
from redisjobs.worker.source.clock import LeaseClock
from redisjobs.worker.source.timer import Timer

Facts = ParamSpec("Facts")


def refuses(error: DriverError) -> bool:
    """Return whether the server answers but refuses: it is full, or a key has the wrong type."""
    return isinstance(error, QueueFull | WrongType)


class Member:
    """A worker in one queue, from joining to leaving."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings  # with its current id
        self.consumer: Consumer = settings.queue.driver.consumer(
            settings.worker_id, lease=settings.lease, max_deliveries=settings.max_deliveries
        )
        self.log = settings.log
        self.timer = Timer()  # wakes the source's task
        self.clock = LeaseClock()
        self.opening = anyio.CancelScope()  # cancelled to give up joining
        # By the monotonic clock: when the last heartbeat that got through began, and when a reply was last lost.
        self.beat_at, self.lost_at = time.monotonic(), -math.inf
        self.opened = False  # it has joined, and begun to work
        self.left = False  # all jobs are settled or released
        self.is_renewing = False  # it was fenced, and has no new id yet
        self.unavailable = ""  # why the server can't be used, in words; '' if it can
        self.failure: DriverError | None = None  # why an exchange or a beat failed; the next step raises it
        self.needs_recovery = False  # the worker may hold jobs that it does not know of
        self._declared = ""  # a hash of what the code declared and Redis has; '' for nothing

    async def join(self) -> None:
        """Connect, however long that takes, and become a member.

        Raises:
            DriverError: The server refuses for good.
        """
        for warning in await retrying(self._enter, failed=self._could_not_join):
            self.log.warning("%s", warning)
        if self.unavailable:
            self.unavailable = ""
            self.tell(SourceAvailable, server=self.server)
        self.beat_at = time.monotonic()

    async def _enter(self) -> list[str]:
        """Join, and set what the code declares; return warnings about the server, in words."""
        try:
            warnings = await self.consumer.open(self.settings.worker_id)
        except IdTaken:  # by us: an earlier try had no answer, and other workers have fenced it since
            self.settings = replace(self.settings, worker_id=self.settings.next_id())
            warnings = await self.consumer.open(self.settings.worker_id)
        await self._declare()
        return warnings

    async def join_again(self) -> None:
        """Join under a new id, and set what the code declares if the server has lost it.

        If the server only took the worker for dead, it keeps what an operator has set since.
        """
        await self.consumer.open(self.settings.next_id())
        if self._declared and not await self.consumer.change(Declare(self._declared)):
            await self._declare()

    async def _declare(self) -> None:
        """Set what the queue keeps and the limits of its jobs, if the code declares them."""
        retention, definitions = self.settings.queue.retention, self.settings.queue.definitions
        limits = {name: definition.limit for name, definition in definitions.items() if definition.limit}
        if retention is not None:
            await self.consumer.change(Retain(retention))
        for name, limit in limits.items():
            after: str | None = None
            while after != "":
                after = await self.consumer.change(SetLimit(name, limit, after or ""))
        if retention or limits:
            self._declared = sha1(repr((retention, sorted(limits.items()))).encode()).hexdigest()[:16]
            await self.consumer.change(Declare(self._declared, done=True))  # last: other workers rely on it

    def _could_not_join(self, error: DriverError) -> None:
        self.became_unavailable(error, None)

    def became_unavailable(self, error: DriverError, leases: int | None) -> None:
        """Note and publish why the server can't be used, and how many jobs the worker holds."""
        self.note_unavailable(error)
        self.tell(SourceUnavailable, why=str(error), refuses=refuses(error), leases=leases, server=self.server)

    @property
    def server(self) -> str:
        """Where the server is, in words for people."""
        return self.settings.queue.driver.where

    def note_unavailable(self, error: DriverError) -> None:
        """Note why the server can't be used. For a refusal, note its reason: that holds no address."""
        self.unavailable = f"the store refuses: {error}" if refuses(error) else "the store is unavailable"

    def raise_failure(self) -> None:
        """Raise the error of a failed exchange or beat, in the task that decides the next step."""
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure

    def note_lost_reply(self) -> None:
        """Note that a reply was lost: jobs may have been delivered in it."""
        self.needs_recovery, self.lost_at = True, time.monotonic()

    def renewed(self, joined_at: float) -> None:
        """Work under the new id that the consumer got when it joined at `joined_at`."""
        self.settings = replace(self.settings, worker_id=self.consumer.worker_id)
        self.beat_at = joined_at  # joining was a beat
        self.is_renewing = self.needs_recovery = False
        self.log.info("this worker is now %s", self.settings.worker_id)

    @property
    def unheard(self) -> float:
        """Seconds since the last heartbeat that got through began."""
        return time.monotonic() - self.beat_at

    @property
    def may_be_dead(self) -> bool:
        """Whether no heartbeat has got through for a lease: other workers may have our jobs by now."""
        return self.unheard >= self.settings.lease

    def tell(
        self, kind: Callable[Concatenate[str, str, Facts], WorkerEvent], *args: Facts.args, **facts: Facts.kwargs
    ) -> None:
        """Publish an event of the queue, if it has a listener; `kind` is the event's class."""
        queue = self.settings.queue
        if queue.events.wanted(kind):  # type: ignore[arg-type]  # a class is a callable that knows its arguments
            event = kind(queue.name, self.settings.worker_id, *args, **facts)
            if self.settings.queues:
                event = replace(event, queues=self.settings.queues)
            queue.events.publish(event)
