"""Renews a worker's leases from a thread of its own: a handler that blocks the event loop keeps its job."""

import logging
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence

from redisjobs import driver
from redisjobs.aside import Log, log_aside
from redisjobs.driver import Lease, Word
from redisjobs.errors import DriverError

logger = Log("redisjobs.worker")

_LOOK = 1.0  # seconds between looks at the loop


class Heartbeat:
    """The thread. It renews every third of a lease, and tries again sooner when that fails.

    Args:
        heart: How to renew.
        lease: Seconds a lease lasts.
        held: What the worker holds now; called in the thread.
        facts: What to tell of the worker; called in the thread.
        answered: Takes the leases and the words for them; called in the thread.
        look: Called in the thread about once a second, for what else is to be watched from outside of the loop.

    Attributes:
        renewed: When leases were last renewed, or the first renewal began, by this machine's monotonic clock.
        steady_since: Since when no renewal came so late that a lease could have run out.
    """

    def __init__(
        self,
        heart: driver.Heartbeat,
        lease: float,
        held: Callable[[], Sequence[Lease]],
        facts: Callable[[], Mapping[str, str]],
        answered: Callable[[Sequence[Lease], Sequence[Word]], None],
        look: Callable[[], None],
    ) -> None:
        self._heart = heart
        self._interval = lease / 3
        self._held = held
        self._facts = facts
        self._answered = answered
        self._look = look
        self._failing = False
        self._ended = False
        self._stir = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="redisjobs heartbeat", daemon=True)
        self._started = False
        self.renewed = self.steady_since = time.monotonic()

    @property
    def broken(self) -> bool:
        """Whether the thread has ended though nobody asked it to."""
        return self._started and not self._ended and not self._thread.is_alive()

    def start(self) -> None:
        """Begin; the first renewal is at once."""
        self.renewed = time.monotonic()
        # The others may be about to renew after a time when nobody could; we were not there to know.
        self.steady_since = self.renewed - 2 * self._interval
        self._thread.start()
        self._started = True

    def hurry(self) -> None:
        """Renew now, to hear now what became of the leases."""
        self._stir.set()

    def end(self) -> None:
        """Begin no more renewals."""
        self._ended = True
        self._stir.set()

    def stop(self, timeout: float) -> None:
        """End, waiting up to `timeout` seconds for a renewal that is under way."""
        self.end()
        if self._started:
            self._thread.join(timeout)

    def _beat(self) -> None:
        while not self._ended:
            self._pause(self._renew())
        self._heart.close()

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            stirred = self._stir.wait(min(_LOOK, left))
            try:
                self._look()
            except Exception as error:  # it looks at the user's code; and a thread that ended would lose every job
                log_aside(logger, logging.WARNING, "could not look after the event loop: %r", error)
            if stirred:
                self._stir.clear()
                return

    def _renew(self) -> float:
        """Renew once; seconds until the next time."""
        started = time.monotonic()
        try:
            leases = list(self._held())
            words = self._heart.renew(leases, self._facts())
            self._answered(leases, words)
        except Exception as error:  # whatever it is: a thread that ended would lose every job
            if not self._failing:
                shown = error if isinstance(error, DriverError) else "".join(traceback.format_exception(error))
                log_aside(logger, logging.WARNING, "leases could not be renewed, trying on: %s", shown)
            self._failing = True
            return min(1.0, self._interval / 2)
        if self._failing:
            log_aside(logger, logging.INFO, "leases are renewed again")
        if started - self.renewed > 2 * self._interval:
            self.steady_since = started
        self._failing, self.renewed = False, started
        return max(0.0, started + self._interval - time.monotonic())
