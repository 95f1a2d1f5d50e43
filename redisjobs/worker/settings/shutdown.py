"""How a worker's run comes to its end: it claims no more, what runs has a grace, and then is given up."""

import math
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import anyio

_DAY = 86_400.0
_TWICE = 0.2  # seconds in which one Ctrl-C may come twice: from the terminal, and from the program that started us


class Interrupts:
    """Tells a Ctrl-C from the second delivery of the one before."""

    def __init__(self) -> None:
        self._at = -math.inf

    def is_new(self, number: int) -> bool:
        """Whether a signal that has just come counts: a SIGINT within 0.2 s of the last one does not."""
        now = time.monotonic()
        if number == signal.SIGINT and now - self._at < _TWICE:
            return False
        if number == signal.SIGINT:
            self._at = now
        return True


def stopping(number: int, jobs: int, grace: float, *, at_once: bool) -> str:
    """What a stop by a signal waits for, for people.

    Args:
        number: The signal.
        jobs: How many run now.
        grace: Seconds that they may finish in.
        at_once: Whether they may not.
    """
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
    """Whether a run is to end, and how long what runs may take. A later stop may shorten that, not lengthen it.

    Attributes:
        stopping: No more jobs are claimed.
        over: The grace is over, and so is the time to unwind.
        broken: An error ends the run.
        recycled: It stops by itself, having had its share of jobs, memory or threads.
        hindered: That was for want of threads which the system does not give.
    """

    def __init__(self) -> None:
        self.stopping = self.over = self.broken = self.recycled = self.hindered = False
        self._until = float("inf")  # by our monotonic clock
        self._asked = anyio.Event()

    def ask(self, grace: float) -> None:
        """Stop, and give up what still runs after `grace` seconds. A callback of the loop may call it."""
        self.stopping = True
        self._until = min(self._until, time.monotonic() + grace)
        self._asked.set()

    async def wait(self, most: float) -> None:
        """Wait until it is asked for, at most so many seconds."""
        with anyio.move_on_after(most):
            await self._asked.wait()

    async def outlast_grace(self, asked: Callable[[], object]) -> None:
        """Wait until the grace is over; `asked` is called at first, and whenever a stop was asked for."""
        while (left := self._until - time.monotonic()) > 0:
            self._asked = anyio.Event()
            asked()
            await self.wait(left)
