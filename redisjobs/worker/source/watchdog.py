"""Watchdogs. One notices that a handler blocks the event loop, and where; one that no exchange gets through."""

import gc
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import anyio

from redisjobs.base.logger import Log
from redisjobs.errors import DriverError
from redisjobs.worker.running.handler_run import HandlerRun
from redisjobs.worker.running.settling import settle
from redisjobs.worker.source.heartbeat import Beats
from redisjobs.worker.source.member import Member

logger = Log("redisjobs.worker")

_IN_HANDLER = 0.5  # seconds of silence in a handler after which the loop counts as blocked
_STUCK = 3  # leases without a byte while beats get through: then reconnect; after twice as many, give up


class LoopWatchdog:
    """Asks the event loop for an answer, again and again, and reports once if none comes.

    Args:
        call_soon: Runs a function soon in the loop; see `threadsafe_caller`.
        patience: Seconds of silence after which probes report the loop as blocked, and it is logged. If a handler
            runs, it is logged after 0.5 s. Without one, a busy machine may be the cause of a shorter silence.
        report: Called when it is logged, with the seconds so far and the place. It has its own thread, because it
            may hang: the log may be what blocks the loop.
        resumed: Called once the loop runs again, with the seconds it was blocked; in its own thread, too.
    """

    def __init__(
        self,
        call_soon: Callable[[Callable[[], object]], None],
        patience: float,
        report: Callable[[float, str], object],
        resumed: Callable[[float], object],
    ) -> None:
        self._call_soon = call_soon
        self._report = report
        self._resumed = resumed
        self._patience = patience
        self._thread = threading.get_ident()
        self._asked = self._looked = self._answered = time.monotonic()
        self._reported = False

    @property
    def blocked(self) -> bool:
        """Whether the loop was found blocked, and has been silent for longer than `patience`."""
        is_silent = self._reported and self._answered < self._asked
        return is_silent and time.monotonic() - self._asked >= self._patience

    def look(self) -> None:
        """Check whether the loop answers; called four times a second, in another thread than the loop's."""
        now = time.monotonic()
        # After the whole process was stopped, the loop is silent too, but not blocked.
        stopped, self._looked = now - self._looked > 2 * _IN_HANDLER, now
        if self._answered >= self._asked:
            if self._reported:
                _in_thread(self._resumed, self._answered - self._asked)
            self._ask(now)
        elif stopped:
            self._ask(now)
        elif not self._reported and now - self._asked >= _IN_HANDLER:
            handler, line = _where(_frame_of(self._thread))
            if handler or now - self._asked >= self._patience:
                self._reported = True
                where = f"{handler or 'code outside handlers'}, {line or 'unknown'}"
                _in_thread(self._report, now - self._asked, where)

    def _ask(self, now: float) -> None:
        self._asked, self._reported = now, False
        self._call_soon(self._answer)

    def _answer(self) -> None:
        self._answered = time.monotonic()


def _in_thread(report: Callable[..., object], *facts: object) -> None:
    telling = threading.Thread(target=report, args=facts, daemon=True)
    with suppress(RuntimeError):  # no thread can be started: nothing is logged
        telling.start()


def _frame_of(thread: int) -> FrameType | None:
    """Return the frame that a thread executes."""
    collects = gc.isenabled()
    gc.disable()  # before 3.11.9 Python may hang for ever if it collects garbage there (gh-106883)
    try:
        return sys._current_frames().get(thread)
    finally:
        if collects:
            gc.enable()


def _where(frame: FrameType | None) -> tuple[str, str]:
    """Return the job whose handler or retry policy the loop's thread is in ('' if none), and the line."""
    line = ""
    for at, number in traceback.walk_stack(frame):
        running = at.f_locals.get("self")
        if type(running) is HandlerRun:  # isinstance would ask any object called `self` for its class
            return running.run.description, line
        if at.f_code is settle.__code__:  # a retry policy
            return at.f_locals["run"].description, line
        line = line or f"{at.f_code.co_filename}:{number}"
    return "", line


class ProgressWatchdog:
    """Notices that no exchange gets through while beats do. Then the source reconnects, and later gives up."""

    def __init__(self, member: Member, beats: Beats) -> None:
        self._member = member
        self._beats = beats
        self._lease = member.settings.lease
        self._done, self.done_at = 0, time.monotonic()  # exchanges that were answered, and when the last one was

    def progressed(self) -> None:
        """Note that an exchange was answered."""
        self._done, self.done_at = self._done + 1, time.monotonic()

    def resumed(self) -> None:
        """Start to count again: until now nothing could get through."""
        self.done_at = time.monotonic()

    @property
    def is_stuck(self) -> bool:
        """Whether nothing has got through for so long that the source reconnects."""
        return self.silent_for > _STUCK * self._lease

    @property
    def silent_for(self) -> float:
        """Seconds since an exchange was answered or a byte of an answer came in."""
        return time.monotonic() - max(self.done_at, self._member.consumer.noticed_at)

    async def run(self, break_off: Callable[[], object]) -> None:
        """Watch until cancelled; `break_off` lets the source reconnect.

        It counts its own ticks, not the time, because a blocked loop gets nothing through.

        Raises:
            DriverError: Nothing got through for too long, or the heartbeat's thread has ended: without it the
                worker keeps no job.
        """
        seen, still, lease = (-1, 0.0), 0, self._lease
        while True:
            await anyio.sleep(lease / 2)
            if self._beats.heartbeat.broken:
                raise DriverError(
                    "the heartbeat thread has ended, so this worker would soon count as dead; its jobs are "
                    "released, or run again when its lease is over"
                )
            got = self._done, self._member.consumer.noticed_at
            still = still + 1 if got == seen and not self._member.may_be_dead else 0
            seen = got
            if still == 2 * _STUCK:
                self._member.log.error("stuck: nothing got through for %g s; reconnecting", _STUCK * lease)
                break_off()
            elif still >= 4 * _STUCK:
                raise DriverError(
                    f"stuck: nothing got through for {2 * _STUCK * lease:g} s although the server is there; "
                    "its jobs are released, or run again when its lease is over"
                )
