"""How a worker's run ends: it claims no more, waits for running jobs during the grace, and cancels the rest."""

import signal
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import anyio

from redisjobs.base.visible import number_of

_DAY = 86_400.0
_TWICE = 0.2  # seconds within which one signal may arrive twice


class Interrupts:
    """Recognizes when one signal arrives twice.

    A Ctrl-C comes from the terminal and from the parent process. `timeout` and some service managers signal the
    process, and then its whole group.
    """

    def __init__(self) -> None:
        self._at = dict[int, float]()  # by signal: when the last one came that counted

    def is_new(self, number: int) -> bool:
        """Return whether a signal counts. The same one does not within 0.2 s after one that counted."""
        now = time.monotonic()
        # `setdefault` in one step: the second signal may interrupt the handler of the first one right here.
        last = self._at.setdefault(number, now)
        if last is now:
            return True
        if now - last < _TWICE:
            return False
        self._at[number] = now
        return True


async def signals_to_stop() -> AsyncIterator[signal.Signals]:
    """Yield each SIGTERM and SIGINT that counts. It handles these signals until it is closed."""
    interrupts = Interrupts()
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            if interrupts.is_new(number):
                yield number


def how_ended(code: int) -> str:
    """Return in words how a process with this exit code ended."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def stopping(number: int, jobs: int, grace: float, *, at_once: bool) -> str:
    """Return the log line for a stop by a signal. `grace` is in seconds."""
    name = signal.Signals(number).name
    if at_once:
        return f"{name}: stopping at once; {number_of(jobs, 'job')} cancelled and handed back"
    again = "Ctrl-C" if number == signal.SIGINT else "signal"
    return f"{name}: stopping; {waiting(jobs, grace)}" + (f"; a second {again} ends at once" if jobs else "")


def waiting(jobs: int, grace: float) -> str:
    """Return in words which jobs a stop waits for, and until when. `grace` is in seconds."""
    if not jobs:
        return "no job runs"
    until = ""
    if grace < _DAY:
        until = f" until {datetime.now(UTC) + timedelta(seconds=grace):%H:%M:%S} UTC ({grace:g} s)"
    return f"waiting for {number_of(jobs, 'job')}{until}"


class Shutdown:
    """Whether a run is stopping, why, and how long its running jobs may take.

    A later stop can shorten that time, but not lengthen it.
    """

    def __init__(self) -> None:
        self.stopping = False  # the run claims no more jobs
        self.over = False  # cancelled jobs have had their time to clean up, after the grace: let go of them
        self.broken = False  # an error ends the run, and a job may be the cause
        self.recycled = False  # the run stops by itself, so that another worker can take its place
        self.asked_by_operator = False  # an operator asked the worker to stop, through one of its queues
        self.hindered = False  # it stops because the system gives it no threads
        self._until = float("inf")  # when the grace is over, by the monotonic clock
        self._asked = anyio.Event()

    def ask(self, grace: float) -> None:
        """Ask for a stop: jobs that still run after `grace` seconds are cancelled. Call it in the event loop."""
        self.stopping = True
        self._until = min(self._until, time.monotonic() + grace)
        self._asked.set()

    @property
    def has_grace(self) -> bool:
        """Whether a stop was asked for that limits the time of running jobs. Recycling sets them no limit."""
        return self._until < float("inf")

    async def wait(self, most: float) -> None:
        """Wait until a stop is asked for, or for `most` seconds."""
        with anyio.move_on_after(most):
            await self._asked.wait()

    async def outlast_grace(self, asked: Callable[[], object]) -> None:
        """Wait until the grace after a stop is over. Call `asked` at first, and again after each stop."""
        while (left := self._until - time.monotonic()) > 0:
            self._asked = anyio.Event()
            asked()
            await self.wait(left)
