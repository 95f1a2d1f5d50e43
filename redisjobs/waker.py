"""How another thread reaches into an event loop, asyncio's or trio's, without waiting for it."""

import asyncio
from collections.abc import Callable
from contextlib import suppress


def waker() -> Callable[[Callable[[], object]], None]:
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
