"""How tasks wait for each other at the least cost, and how another thread reaches into an event loop."""

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
        """Let go who waits, and who will."""

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
    """As `inspect.isawaitable`, which runs code of the value's: a lazy proxy may raise outside of its request."""
    return hasattr(type(value), "__await__") or (type(value) is GeneratorType and inspect.isawaitable(value))


def gates() -> Callable[[], Gate]:
    """What makes gates in the running event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _Gate
    return AsyncioGate


def loop_key() -> Hashable:
    """What tells the running event loop from any other."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        import trio

        return trio.lowlevel.current_trio_token()


def has_closed(key: Hashable) -> bool:
    """Whether that event loop, of `loop_key`, is no more; for any thread."""
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
    """Whether the current task was cancelled by a scope around it: by who may end it."""
    return anyio.current_effective_deadline() == float("-inf")


def is_cancelled() -> bool:
    """Whether the current task was cancelled; else a CancelledError that it meets was made by other code."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # on trio no other code can make one
        return True
    return task is None or task.cancelling() > 0 or was_asked()


_spawned: set[asyncio.Task[None]] = set()  # the event loop keeps only weak references to its tasks


def spawn(call: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], object]:
    """Run something in a task of the event loop's own, in no context of the caller's; what is returned cancels it.

    It is for what serves many callers, of whom the first one may leave before the others.
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
    """Wakes one task of the event loop, again and again: it looks what is to be done, then waits here."""

    __slots__ = ("_gate", "_is_woken", "_new_gate")

    def __init__(self) -> None:
        self._new_gate = gates()
        self._gate = self._new_gate()
        self._is_woken = False

    def begin(self) -> None:
        """Look now: what changes from here on ends the next wait."""
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
    """A function that runs another soon in the running event loop; callable from any thread, never blocks.

    anyio's portal can do this only from inside a task that it starts anew each time; here a call is one
    callback. After the loop has ended, calls do nothing.
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
