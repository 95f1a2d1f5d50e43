"""What is asked for wrongly is said at the call, with what to write; what is plainly meant is done."""

import logging
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import tenacity

import redisjobs.sync
from redisjobs import (
    EncodeError,
    Fail,
    JobContext,
    JobQueue,
    Priority,
    Retry,
    RetryPolicy,
    Snooze,
    State,
    Worker,
    exponential_jitter,
    no_retry,
)
from redisjobs.model.outcome import Raised, decide
from redisjobs.model.transitions import After, DeadLetter, RetryLater

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[JobQueue, redisjobs.sync.JobQueue], ids=["async", "sync"])
def queue(request: pytest.FixtureRequest) -> Any:
    return request.param("memory://", "emails")


def resize(path: str, width: int = 64) -> None: ...


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"stop": 3}, r"RetryPolicy\(stop=3\): give tenacity's stop_after_attempt\(3\)"),
        ({"stop": tenacity.stop_after_attempt}, r"RetryPolicy\(stop=stop_after_attempt\): give"),
        ({"wait": 30}, r"RetryPolicy\(wait=30\): give tenacity's wait_fixed\(30\)"),
        ({"wait": timedelta(seconds=3)}, r"give tenacity's wait_fixed"),
        (
            {"retry_if": OSError},
            r"RetryPolicy\(retry_if=OSError\): give tenacity's retry_if_exception_type\(OSError\)",
        ),
        ({"retry_if": (OSError, KeyError)}, "give tenacity's retry_if_exception_type"),
    ],
)
def test_a_retry_policy_says_which_of_tenacitys_objects_it_wants(wrong: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        RetryPolicy(**wrong)


@pytest.mark.parametrize("attempts", [0, -1, 2.5, "3", None])
def test_a_number_of_attempts_is_a_whole_number(attempts: Any) -> None:
    with pytest.raises(ValueError, match=r"max_attempts=.*: give a whole number from 1 up"):
        exponential_jitter(attempts)


def test_the_longest_wait_is_seconds_or_a_timedelta() -> None:
    with pytest.raises(ValueError, match="max_backoff='2m': give seconds from 0 up, or a timedelta"):
        exponential_jitter(max_backoff="2m")  # type: ignore[arg-type]


def test_an_option_that_a_job_does_not_have_is_refused_at_once_with_those_it_has(queue: Any) -> None:
    with pytest.raises(
        TypeError,
        match=r"no handler option retries; there are name, limit_key, retry, timeout, .*exponential_jitter\(max_",
    ):
        queue.job(retries=3)
    with pytest.raises(TypeError, match=r"no handler option colour; there are name, limit_key, .*, children$"):
        queue.job(resize, colour="red")
    with pytest.raises(TypeError, match=r"job\('resize'\): give it a function; a name is given as job\(name="):
        queue.job("resize")
    assert queue.definitions == {}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"at": "tomorrow"}, r"at='tomorrow': give a datetime, as datetime\(2030, 1, 31, 8, tzinfo=UTC\)"),
        ({"at": date(2030, 1, 1)}, "give a datetime, as"),
        ({"at": 1_700_000_000}, "give a datetime, as"),
        ({"delay": "5s"}, "delay='5s': give seconds from 0 up, or a timedelta"),
        ({"delay": "5"}, "delay='5': give seconds"),
        ({"delay": True}, "delay=True: give seconds"),
        ({"delay": datetime.now(UTC)}, "delay=datetime.*: give seconds"),
        ({"delay": 10**400}, "delay=1000.*: give seconds"),
        ({"expires_in": "1h"}, "expires_in='1h': give seconds"),
        ({"unique": "a", "unique_for": "1h"}, "unique_for='1h': give seconds"),
        ({"priority": "urgent"}, "priority='urgent': give one of Priority.HIGH"),
        ({"priority": 0}, "priority=0: give one of"),
        ({"priority": ""}, "priority='': give one of"),
        ({"delay": 1, "at": datetime.now(UTC)}, "not both"),
        ({"job_id": 5}, "job_id=5: give 1 to 500 characters"),
    ],
)
def test_the_options_of_a_function_are_looked_at_when_they_are_given(queue: Any, options: Any, why: str) -> None:
    job = queue.job(resize)
    with pytest.raises(ValueError, match=why):
        job.options(**options)
    with pytest.raises(ValueError, match=why):
        queue.prepare({"path": "a"}, job.name, **options)


def test_options_given_one_after_the_other_have_to_make_sense_together(queue: Any) -> None:
    later = queue.job(resize).options(delay=5)
    with pytest.raises(ValueError, match="not both"):
        later.options(at=datetime.now(UTC))
    with pytest.raises(EncodeError, match="headers are strings to strings"):
        later.options(headers={"a": 1})


@pytest.mark.parametrize("priority", [Priority.HIGH, "high"])
def test_a_priority_may_be_said_in_words(queue: Any, priority: Any) -> None:
    assert queue.job(resize).options(priority=priority).prepare("a").priority is Priority.HIGH
    assert (
        queue.prepare({"path": "a"}, queue.definitions["resize"].name, priority=None).priority is Priority.NORMAL
    )


def test_a_delay_may_be_any_kind_of_number(queue: Any) -> None:
    assert queue.job(resize).options(delay=Decimal("1.5")).prepare("a").due == After(1500)


# Steering


def after(make: Callable[[], BaseException]) -> RetryLater | DeadLetter:
    """What becomes of a job whose handler does `raise make()`."""
    try:
        raise make()
    except BaseException as error:
        raised = Raised(error)
    settlement = decide(
        raised, attempt=1, started_ms=0, now_ms=0, policy=no_retry() if made(raised) else RetryPolicy()
    )
    assert isinstance(settlement, RetryLater | DeadLetter)
    return settlement


def made(raised: Raised) -> bool:
    """Whether the handler's error was another than what it meant to raise."""
    return isinstance(raised.error, ValueError)


def test_a_snooze_of_a_number_is_in_seconds() -> None:
    assert after(lambda: Snooze(5)) == after(lambda: Snooze(for_=5))
    assert after(lambda: Snooze(timedelta(minutes=1))) == after(lambda: Snooze(for_=60))


def test_a_retry_may_have_a_delay_and_a_reason_by_place_or_by_name() -> None:
    both = [Retry(5, reason="busy"), Retry(delay=5, reason="busy"), Retry("busy", delay=5)]
    assert {(retry.delay, str(retry)) for retry in both} == {(5.0, "busy")}
    assert (Retry().delay, Retry(0).delay, Retry(timedelta(minutes=1)).delay) == (None, 0.0, 60.0)


def test_a_retry_of_a_text_is_one_for_that_reason() -> None:
    settlement = after(lambda: Retry("the line is busy"))
    assert isinstance(settlement, RetryLater)
    assert settlement.changes["error"] == "Retry: the line is busy"
    assert Retry("5s").args == ("5s",)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Snooze, r"as Snooze\(for_=60\) or Snooze\(until=a_datetime\)"),
        (lambda: Snooze(datetime.now(UTC)), r"a time is given as Snooze\(until=...\)"),  # type: ignore[arg-type]
        (lambda: Snooze(until="tomorrow"), "until='tomorrow': give a datetime"),  # type: ignore[arg-type]
        (lambda: Snooze(for_="5s"), "for_='5s': give seconds"),  # type: ignore[arg-type]
        (lambda: Retry(delay=True), "delay=True: give seconds"),
        (lambda: Retry(delay="5s"), "delay='5s': give seconds from 0 up, or a timedelta"),  # type: ignore[arg-type]
        (
            lambda: Retry("30", reason="x"),
            r"Retry\('30', ...\): give one delay and one reason, as Retry\(30, reason=",
        ),
        (lambda: Retry(30, delay=5), r"Retry\(30, ...\): give one delay"),
    ],
)
def test_steering_that_can_not_be_meant_is_a_failure_that_says_what_to_write(make: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        raise make()


async def test_a_handler_may_raise_the_class_of_what_it_means() -> None:
    async with JobQueue("memory://", retry=exponential_jitter()) as queue:

        @queue.job
        def steer(how: str) -> None:
            match how:
                case "retry":
                    raise Retry
                case "fail":
                    raise Fail
                case "snooze":
                    raise Snooze

        for how in ("retry", "fail", "snooze"):
            await steer.options(job_id=how).push(how)
        await Worker(queue).run(until_idle=True)
        told = {how: await queue.get(how) for how in ("retry", "fail", "snooze")}

    states = {how: (info.state, info.attempt, info.error) for how, info in told.items() if info}
    assert states["retry"] == (State.DELAYED, 2, "Retry: the handler asked for a retry")
    assert states["fail"] == (State.DEAD, 1, "the handler said so")
    assert states["snooze"][:2] == (State.DELAYED, 2)  # a failure like any other
    assert "Snooze(for_=60)" in states["snooze"][2]


# The context's logger


async def test_the_logger_of_a_context_keeps_what_the_caller_adds(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with JobQueue("memory://", "emails") as queue:

        @queue.job
        def talk(context: JobContext) -> None:
            context.logger.info("hello", extra={"colour": "red"})
            context.logger.info("bye")

        await talk.options(job_id="mine").push()
        await Worker(queue).run(until_idle=True)

    hello, bye = (record for record in caplog.records if record.name == "redisjobs.job")
    assert (vars(hello)["colour"], vars(hello)["job_id"], vars(hello)["queue"]) == ("red", "mine", "emails")
    assert (vars(bye).get("colour"), vars(bye)["attempt"]) == (None, 1)
