"""How a worker's process ends: on signals, in time, whatever its handlers do.

Threads can't be killed, and a handler may swallow its cancellation. They must not keep the process alive: its jobs
are released, and another worker may run them already.
"""

import logging
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from types import FrameType
from typing import NoReturn

from redisjobs.base.logger import Log, log_from_thread
from redisjobs.worker.settings.shutdown import Interrupts, stopping
from redisjobs.worker.worker import Worker

logger = Log("redisjobs.worker")

_MARGIN = 10.0  # seconds beyond the grace: an answer on its way (1), the last settlements (5), closing
_AFTERWARDS = 3.0  # seconds for the process of a worker that has settled everything
_NONE = 0  # no signal: the worker has ended, or must end
_THREADS = 1.0  # seconds to wait for threads that end anyway
_PATIENCE = 1.0  # seconds that a line in the log may take


class Shutdown:
    """Listens for SIGTERM and SIGINT, and makes sure that the process ends once one came.

    Args:
        grace: Seconds in which running jobs may finish.
        supervised: A supervisor stops this process. SIGTERM may come twice then, from it and from the system that
            stops all processes of a service, and means one stop; SIGINT means at once.

    Attributes:
        asked: Whether a stop was asked for.
    """

    def __init__(self, grace: float, *, supervised: bool = False) -> None:
        self.asked = False
        self._code = 1  # of an end by force
        self._supervised = supervised
        self._grace = grace
        self._worker: Worker | None = None
        self._interrupts = Interrupts()
        # The one way out of a signal handler that can't deadlock: put() may interrupt itself.
        self._signals: SimpleQueue[int] = SimpleQueue()
        threading.Thread(target=self._heed, name="redisjobs shutdown", daemon=True).start()
        self._listen()

    def stop(self) -> None:
        """Stop as the first SIGTERM does; for any thread."""
        self._signals.put(signal.SIGTERM)

    def hurry(self, code: int) -> None:
        """End the process soon, with this exit code: the worker has ended, or must end."""
        self._code = code
        self._signals.put(_NONE)

    def attach(self, worker: Worker) -> None:
        """Stop this worker at a signal."""
        self._worker = worker
        worker.breaking = partial(self.hurry, 1)
        self._listen()  # again: the user's module may have set handlers of its own
        if self.asked:
            worker.stop()

    def _listen(self) -> None:
        # Not by the event loop: a handler that blocks it would block the signals, too.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._heard)

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        # A supervisor has dropped repeated ones already, and its second signal must not be lost.
        if self._supervised or self._interrupts.is_new(number):
            self._signals.put(number)

    def _heed(self) -> NoReturn:
        """Run the thread: the first signal stops, the second one stops at once, and then time runs.

        Time runs, too, once the worker has ended or must end.
        """
        end = float("inf")
        while time.monotonic() < end:
            try:
                number = self._signals.get(timeout=None if end == float("inf") else end - time.monotonic())
            except (Empty, ValueError):
                break
            if number == _NONE:
                end = min(end, time.monotonic() + (_MARGIN if self._code else _AFTERWARDS))
                continue
            at_once = number == signal.SIGINT if self._supervised else self.asked
            if self.asked and not at_once:
                continue
            end = min(end, time.monotonic() + (0 if at_once else self._grace) + _MARGIN)
            self.asked = True  # before we look whether there is a worker to stop
            jobs = 0 if self._worker is None else self._worker.busy
            _say(logging.INFO, stopping(number, jobs, self._grace, at_once=at_once))
            if self._worker is not None:
                (self._worker.stop_now if at_once else self._worker.stop)()
        what = "a handler did not end, though it was cancelled" if self._code else "what handlers left goes on"
        _say(logging.ERROR, f"the process ends by force: {what}")
        os._exit(self._code)

    def leave(self, code: int) -> NoReturn:
        """Exit, even if threads of sync handlers still run."""
        end = time.monotonic() + _THREADS
        others = [t for t in threading.enumerate() if not t.daemon and t is not threading.main_thread()]
        for thread in others:
            thread.join(max(0.0, end - time.monotonic()))
        left = [thread for thread in others if thread.is_alive()]
        if not left:
            sys.exit(code)
        logger.warning("ended while sync handlers still run; their threads end with the process: %d", len(left))
        logging.shutdown()
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _say(level: int, text: str) -> None:
    log_from_thread(logger, level, text, wait=_PATIENCE)
