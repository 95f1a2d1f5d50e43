"""When a failed job is tried again: the policies, ours and tenacity's own."""

import statistics
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import tenacity
from tenacity import retry_if_exception_type, retry_if_not_exception_type, stop, wait

from redisjobs import RetryPolicy, exponential_jitter, no_retry
from redisjobs.model.retry import wait_jitter

ERROR = ValueError("no good")
YEARS = 31 * 365 * 24 * 3600.0


def delay(policy: RetryPolicy, attempt: int, elapsed: float = 0, error: BaseException = ERROR) -> float | None:
    return policy.delay_after(error, attempt, elapsed)


def attempts(policy: RetryPolicy, error: BaseException = ERROR) -> int:
    """How often a job that always fails so is run."""
    return next(attempt for attempt in range(1, 100) if delay(policy, attempt, error=error) is None)


def uniform_at(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    monkeypatch.setattr("redisjobs.model.retry.random.uniform", lambda low, high: low + (high - low) * share)


@pytest.mark.parametrize("policy", [RetryPolicy(), exponential_jitter()])
def test_by_default_a_job_has_four_attempts(policy: RetryPolicy) -> None:
    assert attempts(policy) == 4


@pytest.mark.parametrize(
    ("attempt", "backoff"), [(1, 2), (2, 4), (3, 8), (6, 64), (7, 120), (50, 120), (1025, 120), (10**15, 120)]
)
def test_the_wait_is_two_to_the_attempt_capped_and_then_jittered_by_half(
    attempt: int, backoff: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = exponential_jitter(max_attempts=10**16)

    bounds = []
    for share in (0, 0.5, 1):
        uniform_at(monkeypatch, share)
        bounds.append(delay(policy, attempt))

    assert bounds == [backoff * 0.5, backoff, backoff * 1.5]


def test_waits_spread_over_the_whole_jitter() -> None:
    waits = [delay(exponential_jitter(), 3) or 0 for _ in range(2000)]

    assert all(4 <= wait < 12 for wait in waits)
    assert min(waits) < 4.5
    assert max(waits) > 11.5
    assert statistics.fmean(waits) == pytest.approx(8, abs=0.5)


def test_the_bounds_of_the_jitter_and_the_cap_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    uniform_at(monkeypatch, 1)
    assert delay(exponential_jitter(9, max_backoff=10, min_jitter=0, max_jitter=1), 5) == 20
    assert delay(exponential_jitter(9, max_backoff=timedelta(minutes=1), min_jitter=-1, max_jitter=0), 8) == 60
    assert attempts(exponential_jitter(max_attempts=9)) == 9


@pytest.mark.parametrize("bounds", [(0.5, -0.5), (0, 0), (-1.5, 0), (float("nan"), 1), (0, float("inf"))])
def test_a_jitter_that_could_make_a_wait_negative_or_has_no_width_is_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="needs -1 <= min_jitter < max_jitter"):
        exponential_jitter(min_jitter=bounds[0], max_jitter=bounds[1])


def test_no_retry_is_one_run() -> None:
    assert attempts(no_retry()) == 1
    assert attempts(exponential_jitter(1)) == 1


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "4"])
def test_attempts_that_cannot_be_counted_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=f"^max_attempts={wrong!r}: give a whole number from 1 up$"):
        exponential_jitter(wrong)


def test_a_backoff_that_is_no_time_is_refused_by_its_name() -> None:
    with pytest.raises(ValueError, match=r"^max_backoff"):
        exponential_jitter(max_backoff=-1)


@pytest.mark.parametrize(
    ("waiting", "waits"),
    [
        (tenacity.wait_fixed(3), [3, 3, 3]),
        (tenacity.wait_fixed(timedelta(minutes=1)), [60, 60, 60]),
        (tenacity.wait_none(), [0, 0, 0]),
        (tenacity.wait_exponential(multiplier=1, max=3), [1, 2, 3]),
        (tenacity.wait_incrementing(start=1, increment=10), [1, 11, 21]),
        (tenacity.wait_fixed(3) + tenacity.wait_incrementing(1, 1), [4, 5, 6]),
        (wait_jitter(1, -1e-9, 1e-9) + tenacity.wait_fixed(3), [4, 4, 4]),
        (tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(2)), [1, 2, 2]),
        (tenacity.wait_combine(tenacity.wait_fixed(1), tenacity.wait_random(5, 5)), [6, 6, 6]),
        (lambda state: state.attempt_number * 0.5, [0.5, 1, 1.5]),
    ],
)
def test_tenacitys_waits_are_taken_as_they_are(waiting: wait.wait_base, waits: list[float]) -> None:
    policy = RetryPolicy(wait=waiting)
    assert [delay(policy, attempt) for attempt in (1, 2, 3)] == pytest.approx(waits)


@pytest.mark.parametrize(
    ("stopping", "expected"),
    [
        (tenacity.stop_after_attempt(7), 7),
        (tenacity.stop_after_attempt(7) | tenacity.stop_after_attempt(2), 2),
        (tenacity.stop_after_attempt(7) & tenacity.stop_after_attempt(2), 7),
        (tenacity.stop_any(tenacity.stop_after_attempt(3), tenacity.stop_after_delay(1e9)), 3),
        (tenacity.stop_all(tenacity.stop_after_attempt(3), tenacity.stop_after_attempt(5)), 5),
        (lambda state: state.attempt_number >= 6, 6),
    ],
)
def test_tenacitys_stops_are_taken_as_they_are(stopping: stop.stop_base, expected: int) -> None:
    assert attempts(RetryPolicy(stop=stopping, wait=tenacity.wait_none())) == expected


@pytest.mark.parametrize(
    ("stopping", "last_elapsed"),
    [
        (tenacity.stop_after_delay(60), 59.9),
        (tenacity.stop_after_delay(timedelta(minutes=1)) | tenacity.stop_after_attempt(99), 59.9),
        (tenacity.stop_before_delay(60), 49.9),  # it counts the wait of 10 s that would follow
    ],
)
def test_a_stop_by_time_counts_from_when_the_first_run_began(stopping: Any, last_elapsed: float) -> None:
    policy = RetryPolicy(stop=stopping, wait=tenacity.wait_fixed(10))
    assert delay(policy, 2, elapsed=last_elapsed) == 10
    assert delay(policy, 2, elapsed=last_elapsed + 0.2) is None


@pytest.mark.parametrize(
    ("retry_if", "tried_again"),
    [
        (retry_if_exception_type(ValueError), {"ValueError"}),
        (retry_if_not_exception_type(ValueError), {"OSError", "KeyError"}),
        (retry_if_not_exception_type((ValueError, OSError)), {"KeyError"}),
        (retry_if_exception_type(ValueError) | retry_if_exception_type(OSError), {"ValueError", "OSError"}),
        (retry_if_exception_type(Exception) & retry_if_not_exception_type(OSError), {"ValueError", "KeyError"}),
        (tenacity.retry_any(tenacity.retry_never, retry_if_exception_type(OSError)), {"OSError"}),
        (tenacity.retry_if_exception(lambda error: "now" in str(error)), {"OSError"}),
        (tenacity.retry_if_exception_message(match="no"), {"ValueError", "OSError"}),
        (tenacity.retry_always, {"ValueError", "OSError", "KeyError"}),
        (tenacity.retry_never, set()),
    ],
)
def test_tenacitys_conditions_are_taken_as_they_are(retry_if: Callable[..., bool], tried_again: set[str]) -> None:
    policy = RetryPolicy(retry_if=retry_if)
    errors = [ValueError("no good"), OSError("not now"), KeyError("k")]
    assert {type(e).__name__ for e in errors if delay(policy, 1, error=e) is not None} == tried_again


def test_by_default_any_exception_is_worth_another_attempt_even_one_that_ends_programs() -> None:
    for error in (ValueError(), SystemExit(1), ExceptionGroup("several", [ValueError()])):
        assert delay(RetryPolicy(), 1, error=error) is not None


def test_a_retry_the_handler_asked_for_is_not_the_conditions_business_but_stops_all_the_same() -> None:
    policy = RetryPolicy(retry_if=tenacity.retry_never, wait=tenacity.wait_fixed(7))
    assert policy.delay_after(ERROR, 1, 0, asked=True) == 7
    assert policy.delay_after(ERROR, 4, 0, asked=True) is None


def test_a_policy_sees_the_exception_itself() -> None:
    seen = []
    policy = RetryPolicy(wait=lambda state: float(seen.append(state.outcome.exception()) is None))  # type: ignore[union-attr,func-returns-value]
    delay(policy, 1)
    assert seen == [ERROR]


@pytest.mark.parametrize("asked", [float("inf"), 1e300, tenacity.wait.wait_exponential()])
def test_no_wait_is_longer_than_a_store_can_keep(asked: Any) -> None:
    waiting = asked if callable(asked) else lambda state: asked
    assert delay(RetryPolicy(stop=tenacity.stop_never, wait=waiting), 500) == pytest.approx(YEARS, rel=0.03)


@pytest.mark.parametrize("wrong", [-5.0, float("nan")])
def test_a_wait_that_is_none_is_no_wait(wrong: float) -> None:
    assert delay(RetryPolicy(wait=lambda state: wrong), 1) == 0


@pytest.mark.parametrize(
    "waiting",
    [
        tenacity.wait_exponential_jitter(exp_base=10),
        tenacity.wait_exponential(exp_base=10),
        tenacity.wait_random_exponential(exp_base=10),
        tenacity.wait_exponential(multiplier=1.5, exp_base=10, max=10**9),
    ],
)
@pytest.mark.parametrize("stopping", [tenacity.stop_never, tenacity.stop_after_attempt(4)])
def test_no_attempt_is_too_many_to_be_judged_at_once(waiting: wait.wait_base, stopping: Any) -> None:
    policy = RetryPolicy(stop=stopping, wait=waiting)
    started = time.process_time()
    waited = delay(policy, 10**8)
    assert time.process_time() - started < 1
    assert (waited is None) == (stopping is not tenacity.stop_never)


def test_a_wait_is_not_computed_for_a_job_that_stops() -> None:
    def never(_: object) -> float:
        raise AssertionError

    assert delay(RetryPolicy(stop=tenacity.stop_after_attempt(2), wait=never), 2) is None


def test_a_wait_too_long_to_be_computed_is_the_longest() -> None:
    policy = RetryPolicy(stop=tenacity.stop_never, wait=lambda state: 10.0**state.attempt_number)
    assert delay(policy, 5_000) == pytest.approx(YEARS, rel=0.1)


def test_stops_and_conditions_are_told_the_attempt_as_it_is() -> None:
    seen: list[int] = []

    def note(state: tenacity.RetryCallState) -> bool:
        seen.append(state.attempt_number)
        return False

    policy = RetryPolicy(stop=note, wait=tenacity.wait_none(), retry_if=lambda state: not note(state))
    assert delay(policy, 10**8) == 0
    assert set(seen) == {10**8}
