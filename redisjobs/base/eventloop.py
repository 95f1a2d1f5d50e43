"""Cheap ways for tasks to wait for each other, and calls into an event loop from another thread."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from contextlib import suppress
from contextvars import Context
from types import GeneratorType
from typing import Any, Protocol, TypeGuard

import anyio


class Gate(Protocol):
    """A one-time event for tasks of one event loop."""

    def open(self) -> None:
        """Let all present and later waits end."""

    def wait(self) -> Awaitable[object]:
        """Wait until the gate is open; for one task."""


class AsyncioGate:
    """A `Gate` made of an asyncio future."""

    # anyio.Event looks up the running event loop in each call; that alone costs more than this class.
    __slots__ = ("_future",)

    def __init__(self, future: asyncio.Future[None] | None = None) -> None:
        self._future = future if future is not None else asyncio.get_running_loop().create_future()

    def open(self) -> None:  # noqa: D102
        if not self._future.done():
            self._future.set_result(None)

    def wait(self) -> Awaitable[object]:  # noqa: D102
        return self._future


class _Gate:
    def __init__(self) -> None:
        self._event = anyio.Event()

    def open(self) -> None:
        self._event.set()

    def wait(self) -> Awaitable[object]:
        return self._event.wait()


def is_awaitable(value: Any) -> TypeGuard[Awaitable[Any]]:
    """Return whether a value is awaitable. `inspect.isawaitable` runs the value's code, which may raise."""
    return hasattr(type(value), "__await__") or (type(value) is GeneratorType and inspect.isawaitable(value))


def gates() -> Callable[[], Gate]:
    """Return the function that makes gates in the running event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _Gate
    return AsyncioGate


def loop_key() -> Hashable:
    """Return a key that identifies the running event loop."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        import trio

        return trio.lowlevel.current_trio_token()


def has_closed(key: Hashable) -> bool:
    """Return whether the event loop of a `loop_key` has closed; any thread may call it."""
    if isinstance(key, asyncio.AbstractEventLoop):
        return key.is_closed()
    import trio

    assert isinstance(key, trio.lowlevel.TrioToken)
    try:
        key.run_sync_soon(int)  # calling int() does nothing; a token has no other way to ask
    except trio.RunFinishedError:
        return True
    return False


def was_asked() -> bool:
    """Return whether a cancel scope around the current task was cancelled."""
    return anyio.current_effective_deadline() == float("-inf")


def is_cancelled() -> bool:
    """Return whether the current task was cancelled. If not, other code raised the CancelledError it caught."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # trio: no other code can raise its Cancelled
        return True
    return task is None or task.cancelling() > 0 or was_asked()


_spawned: set[asyncio.Task[None]] = set()  # the event loop keeps only weak references to its tasks


def spawn(call: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], object]:
    """Run a call in a task that belongs to the event loop; return the function that cancels it.

    The task has its own context, because it serves many callers and the first one may end before the others.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return _spawn_on_trio(call)
    task = loop.create_task(call(), context=Context())
    _spawned.add(task)
    task.add_done_callback(_spawned.discard)
    return task.cancel


def _spawn_on_trio(call: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], object]:
    import trio

    scope = trio.CancelScope()

    async def run() -> None:
        with scope:
            await call()

    trio.lowlevel.spawn_system_task(run, context=Context())
    return scope.cancel


class Wakeup:
    """A repeatable wakeup for one task, which does what there is to do and then waits for more."""

    __slots__ = ("_gate", "_is_woken", "_new_gate")

    def __init__(self) -> None:
        self._new_gate = gates()
        self._gate = self._new_gate()
        self._is_woken = False

    def begin(self) -> None:
        """Begin a round: a change from now on ends the next wait."""
        self._gate = self._new_gate()
        self._is_woken = False

    def wake(self) -> None:
        """End the wait, because something has changed."""
        if not self._is_woken:  # checked for speed: each job that ends wakes its source
            self._is_woken = True
            self._gate.open()

    def wait(self) -> Awaitable[object]:
        """Wait until something has changed since `begin`."""
        return self._gate.wait()


def threadsafe_caller() -> Callable[[Callable[[], object]], None]:
    """Return a function for any thread that schedules a callback in the running event loop.

    It never blocks, and does nothing once the loop has ended. anyio's portal would start a task for each call.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        import trio

        token = trio.lowlevel.current_trio_token()

        def wake(call: Callable[[], object]) -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(call)

        return wake

    def wake_asyncio(call: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(call)

    return wake_asyncio
