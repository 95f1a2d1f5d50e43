"""Beats for a worker, from a thread of its own: a handler that blocks the event loop keeps its job."""

import logging
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence

from redisjobs import driver
from redisjobs.driver import Fenced, Lease
from redisjobs.errors import DriverError
from redisjobs.logger import Log, log_from_thread

logger = Log("redisjobs.worker")

_LOOK = 1.0  # seconds between looks at the loop


class Heartbeat:
    """The thread. It beats every third of a lease, and tries again sooner when that fails.

    Args:
        heart: How to beat.
        lease: Seconds a lease lasts.
        held: What the worker holds now; called in the thread.
        facts: What to tell of the worker; called in the thread.
        beaten: Takes what somebody has asked to cancel, after each beat; called in the thread.
        fenced: Takes the news that the worker was fenced; called in the thread.
        look: Called in the thread about once a second, for what else is to be watched from outside of the loop.

    Attributes:
        beat_at: When the last beat that got through began, or the first one, by this machine's monotonic clock.
    """

    def __init__(
        self,
        heart: driver.Heartbeat,
        lease: float,
        held: Callable[[], Sequence[Lease]],
        facts: Callable[[], Mapping[str, str]],
        beaten: Callable[[Sequence[Lease]], None],
        fenced: Callable[[Fenced], None],
        look: Callable[[], None],
    ) -> None:
        self._heart = heart
        self._interval = lease / 3
        self._held = held
        self._facts = facts
        self._beaten = beaten
        self._fenced = fenced
        self._look = look
        self._failing = False
        self._ended = False
        self._stir = threading.Event()
        self._thread = threading.Thread(target=self._run, name="redisjobs heartbeat", daemon=True)
        self._started = False
        self.beat_at = time.monotonic()

    @property
    def broken(self) -> bool:
        """Whether the thread has ended though nobody asked it to."""
        return self._started and not self._ended and not self._thread.is_alive()

    def start(self) -> None:
        """Begin; the first beat is at once."""
        self.beat_at = time.monotonic()
        self._thread.start()
        self._started = True

    def hurry(self) -> None:
        """Beat now, to hear now what there is to hear."""
        self._stir.set()

    def end(self) -> None:
        """Begin no more beats."""
        self._ended = True
        self._stir.set()

    def stop(self, timeout: float) -> None:
        """End, waiting up to `timeout` seconds for a beat that is under way."""
        self.end()
        if self._started:
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._ended:
            self._pause(self._beat())
        self._heart.close()

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
        try:
            try:
                cancelled = self._heart.beat(self._held, self._facts())
            except Fenced as error:
                self._fenced(error)
                return self._interval
            self._beaten_at(started, cancelled)
        except Exception as error:  # whatever it is: a thread that ended would lose every job
            if not self._failing:
                shown = error if isinstance(error, DriverError) else "".join(traceback.format_exception(error))
                log_from_thread(logger, logging.WARNING, "no heartbeat got through, retrying: %s", shown)
            self._failing = True
            return min(1.0, self._interval / 2)
        return max(0.0, started + self._interval - time.monotonic())

    def _beaten_at(self, started: float, cancelled: Sequence[Lease]) -> None:
        if self._failing:
            log_from_thread(logger, logging.INFO, "heartbeats get through again")
        self._failing, self.beat_at = False, started
        self._beaten(cancelled)
