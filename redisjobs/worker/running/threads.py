"""Runs sync handlers in threads. A thread can't be killed: one whose run is given up is abandoned, and runs on."""

import math
import sys
import threading
import time
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from redisjobs.base.eventloop import threadsafe_caller


class NoThread(Exception):
    """The system starts no more threads, or processes."""


class ThreadTimes:
    """When a handler was given to a thread, began and ended there, and when the event loop heard of that.

    A blocked loop starts no thread, and hears late that one has ended: both is no time of the handler's.

    Attributes:
        began_at: When it began, by the monotonic clock; infinity: not yet. Set in the thread.
        ended_at: When it ended, likewise.
        heard_at: When the loop went on with its job: the handler has ended, or was given up; likewise.
        runs_on: Whether it was given up, and its thread still runs.
    """

    __slots__ = ("_given_at", "began_at", "ended_at", "heard_at", "runs_on")

    def __init__(self) -> None:
        self._given_at = time.monotonic()
        self.began_at = self.ended_at = self.heard_at = math.inf
        self.runs_on = False

    def lost(self, now: float) -> float:
        """Return how many seconds until now the handler, and what else its job waits for, did not have."""
        until = min(now, self.heard_at)
        return min(self.began_at, until) - self._given_at + max(0.0, until - self.ended_at)


class Trouble:
    """The reason why handlers of some kind can't be started.

    Args:
        changed: Called when that begins, and when it is over.

    Attributes:
        why: The reason, in a few words; '' if they can.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.why = ""
        self._changed = changed

    def note(self, why: str) -> None:
        """Note why they can't be started; '' if they can."""
        changed, self.why = bool(why) != bool(self.why), why
        if changed:
            self._changed()


class Threads:
    """Runs sync handlers in threads, until too many threads are abandoned.

    Args:
        most: While this many threads are abandoned, no other handler is started. Those that run may add to them.
        changed: Called when no handler can be started any more, and when that is over.

    Attributes:
        full: Whether too many threads are abandoned.
        trouble: Why no handler can be started.
        turned_away: Whether a job has found no thread, or process, and waits for the next try.
        abandoned: How many threads are.
        call_soon: Runs a function soon in the event loop that waits for the handlers.
    """

    def __init__(self, most: int, changed: Callable[[], None]) -> None:
        self.full = False
        self.trouble = Trouble(changed)
        self.turned_away = False
        self.abandoned = 0
        self._most = most
        # The slots are the limit; on trio an abandoned thread would keep its share.
        self._limiter = anyio.CapacityLimiter(math.inf)
        self.call_soon = threadsafe_caller()

    async def run(
        self, call: Callable[[], Any], times: ThreadTimes, ended: Callable[[], object]
    ) -> tuple[Any, BaseException | None]:
        """Call a handler in a thread.

        Args:
            call: The handler.
            times: Notes when it ran.
            ended: Called in the event loop when the thread of a handler that was given up has ended.

        Returns:
            What it returned, and what it raised.

        Raises:
            NoThread: It was not called.
            BaseException: A cancellation, at once; the handler may run on.
        """
        if self.full:
            raise NoThread("too many threads of handlers that were given up still run")
        errand = _Errand(call, times, partial(self._end, times, ended))
        try:
            await anyio.to_thread.run_sync(errand.run, abandon_on_cancel=True, limiter=self._limiter)
        except RuntimeError as error:  # not the handler's
            self.trouble.note(f"the system starts no more threads: {error}")
            raise NoThread from None
        except anyio.get_cancelled_exc_class():
            if errand.abandon():
                self._count(1)
                times.runs_on = True
            raise
        finally:
            times.heard_at = time.monotonic()
        if self.trouble.why and not self.full:
            self.trouble.note("")
        return errand.take_result()

    def _end(self, times: ThreadTimes, ended: Callable[[], object]) -> None:  # called in the thread
        def end() -> None:
            self._count(-1)
            times.runs_on = False
            ended()

        self.call_soon(end)

    def _count(self, number: int) -> None:
        self.abandoned += number
        self.full = self.abandoned >= self._most
        said = f"{self.abandoned} threads of handlers that were given up still run"
        self.trouble.note(said if self.full else "")


def call_in(surroundings: Context, call: Callable[..., Any], *arguments: Any) -> Any:
    """Call a handler in a thread, in the context of its job."""
    if sniffio := sys.modules.get("sniffio"):  # anyio and trio ask it: it would say that this is the loop's thread
        surroundings.run(sniffio.current_async_library_cvar.set, None)
    return surroundings.run(call, *arguments)


class _Errand:
    """One call in a thread, which may be given up before it begins, while it runs, or when it is over."""

    __slots__ = ("_abandoned", "_begun", "_call", "_end", "_lock", "_over", "_result", "_times")

    def __init__(self, call: Callable[[], Any], times: ThreadTimes, end: Callable[[], None]) -> None:
        self._call = call
        self._times = times
        self._end = end
        self._lock = threading.Lock()
        self._begun = self._over = self._abandoned = False
        self._result: tuple[Any, BaseException | None] = None, None

    def run(self) -> None:
        with self._lock:
            if self._abandoned:
                return
            self._begun = True
        self._times.began_at = time.monotonic()
        try:
            self._result = self._call(), None
        except BaseException as error:
            self._result = None, error
        finally:
            self._times.ended_at = time.monotonic()
            with self._lock:
                self._over, runs_on = True, self._abandoned
            if runs_on:
                self._end()

    def take_result(self) -> tuple[Any, BaseException | None]:
        """Return what was returned and raised, and drop it: the thread may keep this errand until its next one."""
        result, self._result = self._result, (None, None)
        return result

    def abandon(self) -> bool:
        """Give the call up, and return whether it runs on."""
        with self._lock:
            self._abandoned = True
            return self._begun and not self._over
