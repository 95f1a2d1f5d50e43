"""Notices that a handler blocks the event loop, and says where."""

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from redisjobs.logger import Log, log_from_thread
from redisjobs.worker.execution import Execution

logger = Log("redisjobs.worker")


class LoopWatchdog:
    """Asks the event loop for an answer, again and again, and says once when it stays silent.

    Args:
        call_soon: Runs a function soon in the loop; see `threadsafe_caller`.
        patience: Seconds of silence after which the loop counts as blocked.
        tell: Told then, for how long it has been so and where; in a thread of its own, as it may hang: what blocks
            the loop may be the log.
    """

    def __init__(
        self,
        call_soon: Callable[[Callable[[], object]], None],
        patience: float,
        tell: Callable[[float, str], object],
    ) -> None:
        self._call_soon = call_soon
        self._tell = tell
        self._patience = patience
        self._thread = threading.get_ident()
        self._asked = self._looked = self._answered = time.monotonic()
        self._said = False

    @property
    def blocked(self) -> bool:
        """Whether the loop was found blocked, and has not answered since."""
        return self._said and self._answered < self._asked

    def look(self) -> None:
        """Look whether the loop lives; about once a second, from another thread than the loop's."""
        now = time.monotonic()
        # A process that was stopped as a whole finds the loop silent too; that is nobody's fault.
        stopped, self._looked = now - self._looked > self._patience, now
        if self._answered >= self._asked:
            if self._said:
                log_from_thread(
                    logger, logging.INFO, "the event loop runs again, after %.1f s", self._answered - self._asked
                )
            self._ask(now)
        elif stopped:
            self._ask(now)
        elif not self._said and now - self._asked >= self._patience:
            self._said = True
            where = _where(sys._current_frames().get(self._thread))
            telling = threading.Thread(target=self._tell, args=(now - self._asked, where), daemon=True)
            with suppress(RuntimeError):  # no thread can be started: nothing is said
                telling.start()

    def _ask(self, now: float) -> None:
        self._asked, self._said = now, False
        self._call_soon(self._answer)

    def _answer(self) -> None:
        self._answered = time.monotonic()


def _where(frame: FrameType | None) -> str:
    """The job whose handler the loop's thread is in, and the line."""
    line = ""
    for at, number in traceback.walk_stack(frame):
        running = at.f_locals.get("self")
        if type(running) is Execution:  # isinstance would ask it for its class: whatever is called `self` here
            return f"{running.description}, {line}"
        line = line or f"{at.f_code.co_filename}:{number}"
    return f"something that is no handler, {line or 'unknown'}"
