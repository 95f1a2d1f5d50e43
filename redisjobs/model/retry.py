"""Retry policies: when a failed job runs again. Pure: no clock, no sleep, no I/O.

A policy takes tenacity's `wait`, `stop` and `retry_if` objects. The attempts of a job may run on different hosts,
so the state that these objects get is made from the stored job, not from a retry loop.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from tenacity import RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_base

from redisjobs.base.arguments import number, seconds, whole
from redisjobs.model.failures import failures_in

Stop = Callable[[RetryCallState], bool]
Wait = Callable[[RetryCallState], float]
RetryIf = Callable[[RetryCallState], bool]

_LONGEST = 1e9  # seconds, 31 years; tenacity's own limit is 146 billion years, which can't be stored
_MOST_ATTEMPTS = 10_000  # the highest attempt that a `wait` gets: a higher power takes Python too long


class wait_jitter(wait_base):
    """A wait of min(2^attempt, max_backoff) × (1 + U[min_jitter, max_jitter)) seconds.

    Source: Hummingbird's `.exponentialJitter`. The jitter is applied after `max_backoff`, so with the defaults the
    longest wait is 180 s.
    """

    def __init__(
        self, max_backoff: float | timedelta = 120, min_jitter: float = -0.5, max_jitter: float = 0.5
    ) -> None:
        if not -1 <= number(min_jitter, "min_jitter") < number(max_jitter, "max_jitter") < math.inf:
            raise ValueError(
                f"jitter from {min_jitter} to {max_jitter}: needs -1 <= min_jitter < max_jitter < inf"
            )
        self.max_backoff = seconds(max_backoff, "max_backoff")
        self.min_jitter = min_jitter
        self.max_jitter = max_jitter

    def __call__(self, retry_state: RetryCallState) -> float:
        """Return the wait in seconds after `retry_state.attempt_number` failed attempts."""
        # 2.0 ** 1024 overflows, and max_backoff is reached long before.
        backoff = min(2.0 ** min(retry_state.attempt_number, 1000), self.max_backoff)
        return backoff * (1 + random.uniform(self.min_jitter, self.max_jitter))


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a failed job runs again, and how often.

    Attributes:
        stop: Returns True once no attempt is left. Defaults to four attempts.
        wait: Returns the seconds until the next attempt. Defaults to exponential backoff with jitter.
        retry_if: Returns whether a failure is worth another attempt. Defaults to any exception.
    """

    stop: Stop = stop_after_attempt(4)
    wait: Wait = wait_jitter()
    retry_if: RetryIf = retry_if_exception_type(BaseException)

    def __post_init__(self) -> None:
        for field, example in _EXAMPLES.items():
            given = getattr(self, field)
            if not callable(given) or isinstance(given, type):  # a class: the caller forgot to call it
                raise ValueError(f"RetryPolicy({field}={_shown(given)}): give {example}")

    @property
    def max_attempts(self) -> int | None:
        """The most attempts that `stop` allows; None if `stop` is not tenacity's `stop_after_attempt`."""
        return self.stop.max_attempt_number if isinstance(self.stop, stop_after_attempt) else None

    def delay_after(
        self, error: BaseException, attempt: int, elapsed: float, *, asked: bool = False
    ) -> float | None:
        """Return the seconds until the next attempt; None if there is none.

        Args:
            error: What the handler raised. Of an exception group, `retry_if` is asked for each failure in it, and
                has to agree to all; `wait` and `stop` see the first.
            attempt: The number of the failed attempt, from 1.
            elapsed: Seconds since the job's first run began, for tenacity's `stop_after_delay`. A run that lost
                its worker, or was released, does not count.
            asked: Whether the handler raised `Retry`; then `retry_if` is ignored.
        """
        states = [_state(each, attempt, elapsed) for each in failures_in(error)]
        agreed = [asked or self.retry_if(each) for each in states]  # no iterator: it may raise StopIteration
        if not all(agreed):
            return None
        state = states[0]
        if self.stop(state):
            return None
        state.upcoming_sleep = self._wait_after(state)
        return None if self.stop(state) else state.upcoming_sleep  # checked again: some stops read the wait

    def _wait_after(self, state: RetryCallState) -> float:
        attempt, state.attempt_number = state.attempt_number, min(state.attempt_number, _MOST_ATTEMPTS)
        try:
            return min(max(0.0, float(self.wait(state))), _LONGEST)
        except OverflowError:
            return _LONGEST
        finally:
            state.attempt_number = attempt


_EXAMPLES = {
    "stop": "tenacity's stop_after_attempt(3), say, or use exponential_jitter(max_attempts=3)",
    "wait": "tenacity's wait_fixed(30), say",
    "retry_if": "tenacity's retry_if_exception_type(OSError), say",
}


def _shown(given: object) -> str:
    return given.__name__ if isinstance(given, type) else repr(given)


def _state(error: BaseException, attempt: int, elapsed: float) -> RetryCallState:
    unused: Any = None
    state = RetryCallState(retry_object=unused, fn=None, args=(), kwargs={})
    state.attempt_number = attempt
    state.set_exception((type(error), error, error.__traceback__))
    state.start_time, state.outcome_timestamp = 0.0, elapsed
    return state


def exponential_jitter(
    max_attempts: int = 4,
    max_backoff: float | timedelta = 120,
    min_jitter: float = -0.5,
    max_jitter: float = 0.5,
) -> RetryPolicy:
    """Return a policy: `max_attempts` runs, min(2^attempt, max_backoff) × (1 + U[min_jitter, max_jitter)) s apart.

    Source: Hummingbird's retry strategy of the same name, with its defaults.

    Raises:
        ValueError: The number of attempts, the wait or the jitter is wrong.
    """
    stop = stop_after_attempt(whole(max_attempts, "max_attempts"))
    return RetryPolicy(stop=stop, wait=wait_jitter(max_backoff, min_jitter, max_jitter))


def no_retry() -> RetryPolicy:
    """Return a policy of one run: if it fails, the job is a dead letter. Hummingbird's `.dontRetry`."""
    return RetryPolicy(stop=stop_after_attempt(1))
