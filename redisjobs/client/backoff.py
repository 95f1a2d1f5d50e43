"""How to try again while the store is unavailable: one policy, with jitter, for async code and for sync code."""

import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_delay,
    stop_never,
    wait_random_exponential,
)

from redisjobs.errors import DriverError, QueueFull, Unavailable, WrongType

T = TypeVar("T")
Errors = tuple[type[DriverError], ...]

NOT_NOW: Errors = (Unavailable, QueueFull, WrongType)
"""The store is unavailable or full, or a key has the wrong type: wait, keep what is held, try again."""

# Up to 0.05 s, 0.1 s, 0.2 s, … 1 s: a store that is back is found soon, and not asked by all at once.
_wait = wait_random_exponential(multiplier=0.05, max=1)


async def retrying(
    call: Callable[[], Awaitable[T]],
    *,
    on: Errors = NOT_NOW,
    within: float = math.inf,
    failed: Callable[[DriverError], object] = lambda _: None,
) -> T:
    """Call the store until it is available, and return what `call` returned.

    After `within` seconds it is not called again, and the last error is raised. `failed` is called with each
    error, before the pause that follows.
    """

    async def attempt() -> T:  # tenacity awaits only what it sees to be a coroutine function; a lambda is not one
        return await call()

    stop = stop_never if within == math.inf else stop_after_delay(within)
    retry = AsyncRetrying(**_policy(on, failed), stop=stop, sleep=anyio.sleep)
    return await retry(attempt)


def retrying_sync(call: Callable[[], T], *, on: Errors = NOT_NOW, within: float) -> T:
    """Call the store until it is available, in sync code; no pause goes beyond the `within` seconds."""
    end = time.monotonic() + within
    retry = Retrying(
        **_policy(on, lambda _: None),
        stop=lambda _: time.monotonic() >= end,
        sleep=lambda pause: time.sleep(max(0.0, min(pause, end - time.monotonic()))),
    )
    return retry(call)


def _policy(on: Errors, failed: Callable[[DriverError], object]) -> dict[str, Any]:
    def before_sleep(state: RetryCallState) -> None:
        error = state.outcome and state.outcome.exception()
        if isinstance(error, DriverError):
            failed(error)

    return {"retry": retry_if_exception_type(on), "wait": _wait, "before_sleep": before_sleep, "reraise": True}
