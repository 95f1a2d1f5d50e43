"""What a worker's heartbeats say of one queue, and what they hear: called in the heartbeat's thread."""

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

from redisjobs._version import __version__
from redisjobs.model.driver import Consumer, Fenced
from redisjobs.model.info import names_fact
from redisjobs.model.transitions import Lease
from redisjobs.worker.source.dispatcher import Dispatcher
from redisjobs.worker.source.heartbeat import Heartbeat
from redisjobs.worker.source.member import Member


class Owner(Protocol):
    """Who acts on what the heartbeats hear, in the event loop."""

    @property
    def must_recover(self) -> bool:
        """Whether it waits for a heartbeat to get through; asked in the thread."""

    def beaten(self) -> None:
        """A heartbeat got through."""

    def fenced(self, error: Fenced) -> None:
        """The store takes the worker for dead."""


class Beats:
    """The heartbeats of one source; see `Beating`.

    Args:
        member: The worker, as the queue knows it.
        dispatcher: Its jobs.
        owner: Who acts on what they hear.
        call_soon: Runs a function soon in the event loop.

    Attributes:
        heartbeat: The thread; whoever makes it sets this.
        is_beating: Whether heartbeats are wanted.
    """

    heartbeat: Heartbeat

    def __init__(
        self,
        member: Member,
        dispatcher: Dispatcher,
        owner: Owner,
        call_soon: Callable[[Callable[[], object]], None],
    ) -> None:
        self.is_beating = False
        self._member = member
        self._dispatcher = dispatcher
        self._owner = owner
        self._call_soon = call_soon
        self._names = names_fact(member.settings.queue.definitions)
        self._started = datetime.now(UTC).isoformat(timespec="seconds")

    def start(self) -> None:
        """Beat from now on."""
        self.is_beating = True
        self.heartbeat.start()

    @property
    def knows_it_is_away(self) -> bool:
        """Whether it was found that the store is away, and said."""
        return bool(self._member.unavailable)

    def end(self) -> None:
        """Beat no more: the worker leaves the queue."""
        self.is_beating = False

    def hurry(self) -> None:
        """Beat now, to hear now what there is to hear."""
        self.heartbeat.hurry()

    def hurry_for(self, job_id: str) -> None:
        """Beat now if that job is held: somebody says that it is cancelled, and the store tells whether it is."""
        # One look at all that is held is enough for many cancels: the beat that is to come hears of all of them.
        if not self.heartbeat.hurries and any(lease.job_id == job_id for lease in self.held()):
            self.hurry()

    @property
    def consumer(self) -> Consumer:
        """The worker's side of the store."""
        return self._member.consumer

    def held(self) -> Sequence[Lease]:
        """What it holds now."""
        return self._dispatcher.leases.all

    def facts(self) -> Mapping[str, str]:
        """What to tell of the worker."""
        settings = self._member.settings
        return {
            "host": socket.gethostname(),
            "pid": str(os.getpid()),
            "started": self._started,
            "concurrency": str(settings.concurrency),
            "running": str(self._dispatcher.running),
            "refused": str(self._dispatcher.refused),
            "version": __version__,
            "names": self._names,
        }

    def beaten(self, began: float, cancelled: Sequence[Lease]) -> None:
        """Take what somebody has asked to cancel, by a heartbeat that got through and began then."""
        self._member.beat_at = began
        if cancelled or self._owner.must_recover:
            self._call_soon(lambda: self._hear(cancelled))

    def _hear(self, cancelled: Sequence[Lease]) -> None:
        self._dispatcher.cancel(cancelled)
        self._owner.beaten()

    def fenced(self, error: Fenced) -> None:
        """Take the news that it was fenced."""
        self._call_soon(lambda: self._owner.fenced(error))
