"""Ends a worker process on signals, in time, even if its handlers don't end.

A thread can't be killed, and an async handler may suppress its cancellation. They must not keep the process alive,
because its jobs are released and other workers may already run them.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from types import FrameType
from typing import NoReturn

from redisjobs.base.logger import Log, log_from_thread
from redisjobs.worker.settings.shutdown import Interrupts, stopping
from redisjobs.worker.worker import Worker

logger = Log("redisjobs.worker")

_MARGIN = 10.0  # seconds after the grace: for a pending answer (1), the last settlements (5), closing
_AFTERWARDS = 3.0  # seconds for the process to exit after its worker has settled everything
_NONE = 0  # no signal: the worker has ended, or must end
_OPERATOR = -1  # no signal: an operator asked the worker to stop
_THREADS = 1.0  # seconds to wait for threads that are about to end
_PATIENCE = 1.0  # seconds that a log line may take


class ForcedEnd:
    """A listener for SIGTERM and SIGINT that makes sure that the process ends after one of them.

    Args:
        grace: Seconds that running jobs have to finish.
        supervised: Whether a supervisor stops this process. SIGTERM may then come twice, from the supervisor and
            from a service manager that stops all processes; it means a single stop. SIGINT means stop at once.
        stopping: Called when a stop begins, and for a signal after an operator's request once more.

    Attributes:
        asked: Whether a signal or `stop` has asked for a stop.
    """

    def __init__(
        self, grace: float, *, supervised: bool = False, stopping: Callable[[], object] = lambda: None
    ) -> None:
        self.asked = False
        self._code = 1  # the exit code of an end by force
        self._supervised = supervised
        self._grace = grace
        self._stopping = stopping
        self._is_reported = threading.Event()  # clear while an operator's stop is not
        self._is_reported.set()
        self._worker: Worker | None = None
        self._interrupts = Interrupts()
        # SimpleQueue.put() is reentrant, so it can't deadlock in a signal handler.
        self._signals: SimpleQueue[int] = SimpleQueue()
        threading.Thread(target=self._log_refused, name="redisjobs shutdown", daemon=True).start()
        self._listen()

    def stop(self) -> None:
        """Stop like after a first SIGTERM; any thread may call it."""
        self._signals.put(signal.SIGTERM)

    def note_asked(self) -> None:
        """Note that the worker stops because an operator asked for it; any thread may call it."""
        self._is_reported.clear()
        self._signals.put(_OPERATOR)

    def hurry(self, code: int) -> None:
        """End the process soon with this exit code, because the worker has ended or must end."""
        self._code = code
        self._signals.put(_NONE)

    def attach(self, worker: Worker) -> None:
        """Stop this worker when a signal comes."""
        self._worker = worker
        worker.breaking = partial(self.hurry, 1)
        self._listen()  # again, because the user's module may have set other signal handlers
        if self.asked:
            worker.stop()

    def _listen(self) -> None:
        # Not through the event loop: a handler that blocks the loop would block the signals, too.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._heard)

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        # A supervisor drops repeated signals itself, and its second signal must not be lost.
        if self._supervised or self._interrupts.is_new(number):
            self._signals.put(number)

    def _log_refused(self) -> NoReturn:
        """Run the thread: the first signal stops the worker, a second one stops it at once.

        From the first signal on, or once the worker has ended or must end, the process has limited time to exit.
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
            if number == _OPERATOR:  # the worker stops already; a signal that follows is the first one
                end = min(end, time.monotonic() + self._grace + _MARGIN)
                self._stopping()
                self._is_reported.set()
                continue
            at_once = number == signal.SIGINT if self._supervised else self.asked
            if self.asked and not at_once:
                continue
            end = min(end, time.monotonic() + (0 if at_once else self._grace) + _MARGIN)
            if not self.asked:
                self._stopping()
            self.asked = True  # set before `_worker` is read: `attach` sets it and then reads `asked`
            jobs = 0 if self._worker is None else self._worker.busy
            _say(logging.INFO, stopping(number, jobs, self._grace, at_once=at_once))
            if self._worker is not None:
                (self._worker.stop_now if at_once else self._worker.stop)()
        what = "a handler did not end, though it was cancelled" if self._code else "what handlers left goes on"
        _say(logging.ERROR, f"the process ends by force: {what}")
        os._exit(self._code)

    def leave(self, code: int) -> NoReturn:
        """Exit the process, even if threads of sync handlers still run."""
        end = time.monotonic() + _THREADS
        self._is_reported.wait(_THREADS)  # a worker without jobs has stopped at once
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
