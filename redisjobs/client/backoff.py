"""Retries of calls while the store is unavailable: one policy, with jitter, for async and for sync code."""

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
"""The errors after which a worker keeps its jobs, waits and tries again."""

# Random waits up to 0.05 s, 0.1 s, 0.2 s, … 1 s: short, but not all processes call a restarted store at once.
_wait = wait_random_exponential(multiplier=0.05, max=1)


async def retrying(
    call: Callable[[], Awaitable[T]],
    *,
    on: Errors = NOT_NOW,
    within: float = math.inf,
    failed: Callable[[DriverError], object] = lambda _: None,
) -> T:
    """Call the store until it is available, and return the result of `call`.

    After `within` seconds, raise the last error. `failed` gets each error, before the pause that follows it.
    """

    async def attempt() -> T:  # tenacity awaits only coroutine functions, and a lambda is not one
        return await call()

    stop = stop_never if within == math.inf else stop_after_delay(within)
    retry = AsyncRetrying(**_policy(on, failed), stop=stop, sleep=anyio.sleep)
    return await retry(attempt)


def retrying_sync(call: Callable[[], T], *, on: Errors = NOT_NOW, within: float) -> T:
    """Call the store until it is available, in sync code. No pause lasts longer than the `within` seconds."""
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
