"""Beats for a worker, from a thread of its own: a handler that blocks the event loop keeps its job.

There is a thread for each server. One for all of them would lose every lease where one server hangs.
"""

import logging
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

from redisjobs._version import __version__
from redisjobs.base.logger import Log, log_from_thread
from redisjobs.errors import DriverError, Unavailable
from redisjobs.model.driver import Beat, Consumer, Fenced
from redisjobs.model.transitions import Lease
from redisjobs.model.workers import names_fact
from redisjobs.worker.source.dispatcher import Dispatcher
from redisjobs.worker.source.member import Member

logger = Log("redisjobs.worker")

_LOOK = 0.25  # seconds between looks at the loop; less than a loop may be silent for


class Beating(Protocol):
    """Who has a lease on a queue. The methods are called in the thread."""

    @property
    def consumer(self) -> Consumer:
        """Its side of the store."""

    @property
    def is_beating(self) -> bool:
        """Whether it wants heartbeats."""

    @property
    def knows_it_is_away(self) -> bool:
        """Whether it has found by itself that the store is away, and has said so."""

    def held(self) -> Sequence[Lease]:
        """What it holds now."""

    def facts(self) -> Mapping[str, str]:
        """What to tell of it."""

    def beaten(self, began: float, cancelled: Sequence[Lease]) -> None:
        """Take what somebody has asked to cancel, by a heartbeat that got through.

        Args:
            began: When it began, by this machine's monotonic clock.
            cancelled: Those of what it holds.
        """

    def fenced(self, error: Fenced) -> None:
        """Take the news that it was fenced."""


class Heartbeat:
    """The thread. It beats every third of a lease, and tries again sooner when that fails.

    Args:
        beating: For whom, in one round trip: their consumers have the same `server`.
        lease: Seconds a lease lasts.
        look: Called in the thread four times a second, for what else is to be watched from outside of the loop.
        log: Where it tells of these queues.

    Attributes:
        started: Whether the thread was.
    """

    def __init__(
        self, beating: Sequence[Beating], lease: float, look: Callable[[], object], log: Log = logger
    ) -> None:
        self._all = beating
        self._interval = lease / 3
        self._look = look
        self._log = log
        self._failing = False  # and that was said
        self._failures = 0  # in a row
        self._ended = False
        self._stir = threading.Event()
        self._thread = threading.Thread(target=self._run, name="redisjobs heartbeat", daemon=True)
        self.started = False

    @property
    def broken(self) -> bool:
        """Whether the thread has ended though nobody asked it to."""
        return self.started and not self._ended and not self._thread.is_alive()

    def start(self) -> None:
        """Begin, if it has not; the first beat is at once."""
        if self.started:
            self.hurry()  # for whoever has come
        else:
            self._thread.start()
            self.started = True

    def hurry(self) -> None:
        """Beat now, to hear now what there is to hear."""
        self._stir.set()

    @property
    def hurries(self) -> bool:
        """Whether it is about to beat, as somebody has asked for that."""
        return self._stir.is_set()

    def end(self) -> None:
        """Begin no more beats."""
        self._ended = True
        self._stir.set()

    def stop(self, timeout: float) -> None:
        """End, waiting up to `timeout` seconds for a beat that is under way."""
        self.end()
        if self.started:
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._ended:
            self._pause(self._beat())
        for each in self._all:
            each.consumer.sync.close()

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            stirred = self._stir.wait(min(_LOOK, left))
            try:
                self._look()
            except Exception as error:  # it looks at the user's code; and a thread that ended would lose every job
                log_from_thread(logger, logging.WARNING, "could not look after the event loop: %r", error)
            if stirred:
                self._stir.clear()
                return

    def _beat(self) -> float:
        """Beat once; seconds until the next time."""
        started = time.monotonic()
        beating = [each for each in self._all if each.is_beating]
        try:
            if beating:
                self._beat_for(beating, started)
        except Exception as error:  # whatever it is: a thread that ended would lose every job
            self._failures += 1
            if not self._failing and not self._is_told(error, beating):
                self._failing = True
                shown = error if isinstance(error, DriverError) else "".join(traceback.format_exception(error))
                log_from_thread(self._log, logging.WARNING, "no heartbeat got through, retrying: %s", shown)
            return min(1.0, self._interval / 2)
        self._failures = 0
        if beating and self._failing:
            log_from_thread(self._log, logging.INFO, "heartbeats get through again")
            self._failing = False
        return max(0.0, started + self._interval - time.monotonic())

    def _is_told(self, error: Exception, beating: Sequence[Beating]) -> bool:
        """Whether others log it: a store that is away is one line, from the source that knows most of it."""
        if not isinstance(error, Unavailable):
            return False
        return self._failures == 1 or all(each.knows_it_is_away for each in beating)

    def _beat_for(self, beating: Sequence[Beating], started: float) -> None:
        beats = [Beat(each.consumer, each.held, each.facts()) for each in beating]
        try:
            answers = beating[0].consumer.sync.beat(*beats)
        except Unavailable:
            raise
        except DriverError:
            if len(beating) == 1:
                raise
            self._beat_for_each(beating, started)
            return
        for each, answer in zip(beating, answers, strict=True):
            if isinstance(answer, Fenced):
                each.fenced(answer)
            else:
                each.beaten(started, answer)

    def _beat_for_each(self, beating: Sequence[Beating], started: float) -> None:
        """Beat for one after another: the server refuses one of them, and the others are to keep their leases."""
        refused: DriverError | None = None
        for each in beating:
            try:
                self._beat_for([each], started)
            except Unavailable:
                raise
            except DriverError as error:
                refused = error
        if refused is not None:
            raise refused


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
