"""Runs sync handlers in threads.

A thread can't be killed. If we give up on a run, we abandon its thread, and the thread keeps running.
"""

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

from redisjobs.base.eventloop import has_closed, loop_key, threadsafe_caller
from redisjobs.base.logger import Log
from redisjobs.worker.running.contexts import without_frames

_LOOK = 1.0  # seconds between looks of a waiting thread whether an answer can still come

logger = Log("redisjobs.worker")


class NoThread(Exception):
    """There is no thread or process to run a handler in."""


class ThreadTimes:
    """When a handler was given to a thread, began and ended there, and when the event loop stopped waiting for it.

    A blocked loop starts no thread, and notices late that one has ended. Neither counts as the handler's run time.
    """

    __slots__ = ("_given_at", "began_at", "ended_at", "is_abandoned", "noticed_at")

    def __init__(self) -> None:
        self._given_at = time.monotonic()
        # By the monotonic clock; infinity: not yet. `noticed_at`: the loop noticed that the handler ended, or gave
        # it up.
        self.began_at = self.ended_at = self.noticed_at = math.inf
        self.is_abandoned = False  # its thread still runs, although we gave up on the run

    def lost(self, now: float) -> float:
        """Return how many seconds until `now` don't count: before the handler began, and after it had ended."""
        until = min(now, self.noticed_at)
        return min(self.began_at, until) - self._given_at + max(0.0, until - self.ended_at)


class Trouble:
    """Why handlers of one kind can't be started. `why` is the reason in a few words, '' if they can."""

    def __init__(self, kind: str, kinds: str, begun: Callable[[], object] = int) -> None:
        self.why = ""
        self._kind, self._kinds = kind, kinds
        self._begun = begun

    def __str__(self) -> str:
        return f"no {self._kind} is started: {self.why}"

    def note(self, why: str) -> None:
        """Note why they can't be started ('' if they can), and log when that begins or is over."""
        before, self.why = self.why, why
        if why and not before:
            logger.error("no %s is started, their jobs wait or go to other workers: %s", self._kind, why)
            self._begun()
        elif before and not why:
            logger.info("%s are started again", self._kinds)


class Threads:
    """Runs sync handlers in threads, until too many threads are abandoned.

    While `most` threads are abandoned, no handler is started. Handlers that run then may be abandoned, too.
    `none_start` is called when no handler can be started any more.
    """

    def __init__(self, most: int, none_start: Callable[[], object]) -> None:
        self.full = False  # too many threads are abandoned
        self.trouble = Trouble("sync handler", "sync handlers", none_start)
        self.turned_away = False  # a job found no thread or process, and waits for the next try
        self.abandoned = 0
        self._most = most
        # The slots are the limit. On trio an abandoned thread would keep its place in a lower one.
        self._limiter = anyio.CapacityLimiter(math.inf)
        self.call_soon = threadsafe_caller()
        self._loop, self._thread = loop_key(), threading.get_ident()

    @property
    def is_loop_here(self) -> bool:
        """Whether the current thread is that of the event loop."""
        return threading.get_ident() == self._thread

    async def run(
        self, call: Callable[[], Any], times: ThreadTimes, ended: Callable[[], object]
    ) -> tuple[Any, BaseException | None]:
        """Call a handler in a thread; return what it returned, and what it raised.

        `ended` is called in the event loop when the thread of an abandoned handler has ended.

        Raises:
            NoThread: The handler was not called.
            BaseException: A cancellation, at once; the thread may keep running.
        """
        if self.full:
            raise NoThread("too many threads of abandoned handlers still run")
        errand = _ThreadCall(call, times, partial(self._end, times, ended))
        try:
            await anyio.to_thread.run_sync(errand.run, abandon_on_cancel=True, limiter=self._limiter)
        except RuntimeError as error:  # from starting the thread, not from the handler
            self.trouble.note(f"the system starts no more threads: {error}")
            raise NoThread from None
        except anyio.get_cancelled_exc_class():
            if errand.abandon():
                self._count(1)
                times.is_abandoned = True
            raise
        finally:
            times.noticed_at = time.monotonic()
        if self.trouble.why and not self.full:
            self.trouble.note("")
        return errand.take_result()

    def wait_for(self, ask: Callable[[Callable[[Any], object]], object], is_over: Callable[[], bool]) -> list[Any]:
        """Ask in the event loop, and block this thread, which is another one, until the answer is there.

        Args:
            ask: Called in the loop, with the function that takes the answer.
            is_over: Whether to wait no more. Any thread may call it.

        Returns:
            The answer, or what `ask` raised; nothing if the wait was over before, or the loop has closed.
        """
        answers, is_there = list[Any](), threading.Event()

        def answered(answer: Any) -> None:
            answers.append(answer)
            is_there.set()

        def call() -> None:
            try:
                ask(answered)
            except Exception as error:  # our own: the thread would wait for ever
                answered(error)

        self.call_soon(call)
        while not (is_there.wait(_LOOK) or is_over() or has_closed(self._loop)):
            pass  # the loop may end before it comes to `call`
        return answers

    def _end(self, times: ThreadTimes, ended: Callable[[], object]) -> None:  # called in the thread
        def end() -> None:
            self._count(-1)
            times.is_abandoned = False
            ended()

        self.call_soon(end)

    def _count(self, number: int) -> None:
        self.abandoned += number
        self.full = self.abandoned >= self._most
        said = f"{self.abandoned} threads of abandoned handlers still run"
        self.trouble.note(said if self.full else "")


def call_in(surroundings: Context, call: Callable[..., Any], *arguments: Any) -> Any:
    """Call a handler in a thread, in the context of its job."""
    if sniffio := sys.modules.get("sniffio"):  # anyio and trio ask it; it would say that this is the loop's thread
        surroundings.run(sniffio.current_async_library_cvar.set, None)
    return surroundings.run(call, *arguments)


class _ThreadCall:
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
            self._result = None, without_frames(error, 2)  # the frames of this function and of `call_in`
        finally:
            self._times.ended_at = time.monotonic()
            with self._lock:
                self._over, is_abandoned = True, self._abandoned
            if is_abandoned:
                self._end()

    def take_result(self) -> tuple[Any, BaseException | None]:
        """Return what was returned and raised, and drop it: the thread may keep this object for a while."""
        result, self._result = self._result, (None, None)
        return result

    def abandon(self) -> bool:
        """Give up the call; return whether it still runs."""
        with self._lock:
            self._abandoned = True
            return self._begun and not self._over
