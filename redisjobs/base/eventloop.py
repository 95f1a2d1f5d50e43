"""How tasks wait for each other at the least cost, and how another thread calls into an event loop."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from contextlib import suppress
from contextvars import Context
from types import GeneratorType
from typing import Any, Protocol, TypeGuard

import anyio


class Gate(Protocol):
    """Something to wait for, once; for tasks of one event loop."""

    def open(self) -> None:
        """Let the tasks that wait go on, and those that will."""

    def wait(self) -> Awaitable[object]:
        """Wait until it is open; for one task."""


class AsyncioGate:
    """A gate by a future of asyncio's; see `Gate`."""

    # anyio.Event asks at each turn which event loop it is in; that alone costs more than this.
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
    """Return whether a value is awaitable. `inspect.isawaitable` runs its code: a lazy proxy may raise."""
    return hasattr(type(value), "__await__") or (type(value) is GeneratorType and inspect.isawaitable(value))


def gates() -> Callable[[], Gate]:
    """Return what makes gates in the running event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _Gate
    return AsyncioGate


def loop_key() -> Hashable:
    """Return a key that tells the running event loop from any other."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        import trio

        return trio.lowlevel.current_trio_token()


def has_closed(key: Hashable) -> bool:
    """Return whether the event loop of a `loop_key` has closed; for any thread."""
    if isinstance(key, asyncio.AbstractEventLoop):
        return key.is_closed()
    import trio

    assert isinstance(key, trio.lowlevel.TrioToken)
    try:
        key.run_sync_soon(int)  # which does nothing; a token can't be asked
    except trio.RunFinishedError:
        return True
    return False


def was_asked() -> bool:
    """Return whether a scope around the current task cancelled it, which may end it."""
    return anyio.current_effective_deadline() == float("-inf")


def is_cancelled() -> bool:
    """Return whether the current task was cancelled; else other code made the CancelledError that it met."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # on trio no other code can make one
        return True
    return task is None or task.cancelling() > 0 or was_asked()


_spawned: set[asyncio.Task[None]] = set()  # the event loop keeps only weak references to its tasks


def spawn(call: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], object]:
    """Run a call in a task of the event loop's own, without the caller's context; return what cancels it.

    It is for a task that serves many callers: the first one may leave before the others.
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
    """Wakes one task of the event loop, again and again: it looks what there is to do, then waits here."""

    __slots__ = ("_gate", "_is_woken", "_new_gate")

    def __init__(self) -> None:
        self._new_gate = gates()
        self._gate = self._new_gate()
        self._is_woken = False

    def begin(self) -> None:
        """Begin a look: a change from here on ends the next wait."""
        self._gate = self._new_gate()
        self._is_woken = False

    def wake(self) -> None:
        """Something has changed."""
        if not self._is_woken:  # each job that ends wakes its source
            self._is_woken = True
            self._gate.open()

    def wait(self) -> Awaitable[object]:
        """Wait until something has changed since `begin`."""
        return self._gate.wait()


def threadsafe_caller() -> Callable[[Callable[[], object]], None]:
    """Return a function that soon runs another one in the running event loop; any thread may call it.

    It never blocks. anyio's portal starts a task for each call; here a call is one callback. After the loop has
    ended, calls do nothing.
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
