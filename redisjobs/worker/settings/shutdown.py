"""How a worker's run ends: it claims no more, running jobs have a grace, and then they are given up."""

import math
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import anyio

_DAY = 86_400.0
_TWICE = 0.2  # seconds within which one Ctrl-C may arrive twice: from the terminal and from the parent process


class Interrupts:
    """Recognises the second delivery of one Ctrl-C."""

    def __init__(self) -> None:
        self._at = -math.inf

    def is_new(self, number: int) -> bool:
        """Return whether a signal that has just come counts: a SIGINT within 0.2 s of the last one does not."""
        now = time.monotonic()
        if number == signal.SIGINT and now - self._at < _TWICE:
            return False
        if number == signal.SIGINT:
            self._at = now
        return True


def how_ended(code: int) -> str:
    """Return how a process ended, by its exit code, in words."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def stopping(number: int, jobs: int, grace: float, *, at_once: bool) -> str:
    """Return the log line of a stop by a signal: what it waits for. `grace` is in seconds."""
    name, running = signal.Signals(number).name, f"{jobs} job{'' if jobs == 1 else 's'}"
    if at_once:
        return f"{name}: stopping at once; {running} cancelled and handed back"
    if not jobs:
        return f"{name}: stopping; no job runs"
    again = "Ctrl-C" if number == signal.SIGINT else "signal"
    until = ""
    if grace < _DAY:
        until = f" until {datetime.now(UTC) + timedelta(seconds=grace):%H:%M:%S} UTC ({grace:g} s)"
    return f"{name}: stopping; waiting for {running}{until}; a second {again} ends at once"


class Shutdown:
    """Whether a run ends, and how long its running jobs may take.

    A later stop may shorten that, not lengthen it.
    """

    def __init__(self) -> None:
        self.stopping = False  # no more jobs are claimed
        self.over = False  # the grace is over, and so is the time to unwind
        self.broken = False  # an error ends the run
        self.recycled = False  # it stops by itself: a limit of jobs, memory or abandoned threads is reached
        self.hindered = False  # it stops because the system gives it no threads
        self._until = float("inf")  # by our monotonic clock
        self._asked = anyio.Event()

    def ask(self, grace: float) -> None:
        """Stop, and give up the jobs that still run after `grace` seconds. A callback of the loop may call it."""
        self.stopping = True
        self._until = min(self._until, time.monotonic() + grace)
        self._asked.set()

    async def wait(self, most: float) -> None:
        """Wait until a stop is asked for, at most `most` seconds."""
        with anyio.move_on_after(most):
            await self._asked.wait()

    async def outlast_grace(self, asked: Callable[[], object]) -> None:
        """Wait until the grace is over; call `asked` at first, and each time that a stop was asked for."""
        while (left := self._until - time.monotonic()) > 0:
            self._asked = anyio.Event()
            asked()
            await self.wait(left)
