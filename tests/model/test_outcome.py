"""What becomes of a job: a table of what its run came to, its attempt and its policy."""

import traceback
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import tenacity

from redisjobs.errors import (
    Fail,
    JobCancelled,
    JobFailed,
    JobSuspended,
    JobTimeout,
    NoResult,
    Retry,
    Snooze,
    UnwritableResult,
)
from redisjobs.model.failures import Fingerprint, deciding, fingerprint_of
from redisjobs.model.outcome import (
    Done,
    Ended,
    Expired,
    LeaseGone,
    Raised,
    RemoteTraceback,
    Undecodable,
    UnknownName,
    Unplaced,
    decide,
)
from redisjobs.model.retry import RetryPolicy, no_retry
from redisjobs.model.transitions import Ack, After, At, DeadLetter, Due, RetryLater, Settlement

NOW = 1_700_000_000_000
FIXED = RetryPolicy(wait=tenacity.wait_fixed(8))  # four attempts, 8 s apart
HOUR = 3_600_000


def settlement_of(
    outcome: Ended, attempt: int = 1, policy: RetryPolicy = FIXED, started_ms: int = NOW, now_ms: int = NOW
) -> Settlement | None:
    return decide(outcome, attempt=attempt, started_ms=started_ms, now_ms=now_ms, policy=policy)


def raised(error: BaseException) -> Raised:
    """As a handler raises it, with a traceback."""
    try:
        raise error
    except BaseException as caught:
        return Raised(caught)


def again(due: Due, attempt: int, error: str) -> RetryLater:
    changes = {"attempt": str(attempt), "error": error, "started_at": str(NOW), "unknown_since": ""}
    return RetryLater(due, changes)


def snoozed(due: Due) -> RetryLater:
    return RetryLater(due, {"started_at": str(NOW), "unknown_since": ""})


def dead(outcome: Ended, **more: Any) -> DeadLetter:
    settlement = settlement_of(outcome, **more)
    assert isinstance(settlement, DeadLetter)
    return settlement


@pytest.mark.parametrize(
    ("outcome", "settlement"),
    [
        (Done(), Ack()),
        (Unplaced(), RetryLater(After(1000))),
        (LeaseGone(), None),
        (Undecodable("no name"), DeadLetter("undecodable", "no name")),
        (Expired("too late"), DeadLetter("expired", "too late")),
    ],
)
@pytest.mark.parametrize("attempt", [1, 4])
@pytest.mark.parametrize("policy", [FIXED, no_retry()])
def test_what_is_no_failure_of_the_handler_is_no_business_of_its_policy(
    outcome: Ended, settlement: Settlement | None, attempt: int, policy: RetryPolicy
) -> None:
    assert settlement_of(outcome, attempt, policy) == settlement


@pytest.mark.parametrize(
    ("error", "attempt", "policy", "settlement"),
    [
        (ValueError("no good"), 1, FIXED, again(After(8000), 2, "ValueError: no good")),
        (ValueError("no good"), 3, FIXED, again(After(8000), 4, "ValueError: no good")),
        (JobTimeout("30 s"), 1, FIXED, again(After(8000), 2, "JobTimeout: 30 s")),
        (SystemExit(3), 1, FIXED, again(After(8000), 2, "SystemExit: 3")),
        (Retry(), 1, FIXED, again(After(8000), 2, "Retry: the handler asked for a retry")),
        (Retry(0), 1, FIXED, again(After(0), 2, "Retry: the handler asked for a retry")),
        (Retry(0.25, reason="busy"), 1, FIXED, again(After(250), 2, "Retry: busy")),
        (Retry(timedelta(hours=1), reason="x"), 3, FIXED, again(After(3600000), 4, "Retry: x")),
        (Retry(5, reason="x"), 1, RetryPolicy(retry_if=tenacity.retry_never), again(After(5000), 2, "Retry: x")),
        (Snooze(for_=5), 1, FIXED, snoozed(After(5000))),
        (Snooze(for_=timedelta(minutes=1)), 4, no_retry(), snoozed(After(60000))),
        (Snooze(until=datetime(2030, 1, 1, tzinfo=UTC)), 9, FIXED, snoozed(At(1893456000000))),
        (Snooze(until=datetime(1950, 1, 1, tzinfo=UTC)), 1, FIXED, snoozed(At(0))),
    ],
)
def test_a_job_runs_again(error: BaseException, attempt: int, policy: RetryPolicy, settlement: Settlement) -> None:
    assert settlement_of(raised(error), attempt, policy) == settlement


def test_a_snooze_may_end_at_the_very_end_of_time_in_any_zone() -> None:
    west = timezone(timedelta(hours=-5))
    settlement = settlement_of(Raised(Snooze(until=datetime.max.replace(tzinfo=west))))
    assert settlement == snoozed(At(253402318800000))


@pytest.mark.parametrize(
    ("error", "attempt", "policy", "text"),
    [
        (ValueError("no good"), 4, FIXED, "ValueError: no good"),
        (ValueError("no good"), 99, FIXED, "ValueError: no good"),
        (ValueError("no good"), 1, no_retry(), "ValueError: no good"),
        (ValueError("no good"), 1, RetryPolicy(retry_if=tenacity.retry_never), "ValueError: no good"),
        (KeyError(), 1, no_retry(), "KeyError"),
        (Retry(5), 4, FIXED, "Retry: the handler asked for a retry"),
        (Fail("never mind"), 1, FIXED, "never mind"),
    ],
)
def test_a_job_is_dead(error: BaseException, attempt: int, policy: RetryPolicy, text: str) -> None:
    letter = dead(raised(error), attempt=attempt, policy=policy)
    assert (letter.reason, letter.error) == ("failed", text)
    assert letter.traceback.startswith("Traceback (most recent call last)")
    assert "raise error" in letter.traceback


def group(*errors: BaseException) -> Raised:
    """As a task group raises errors, with others around it."""
    return raised(BaseExceptionGroup("all", [BaseExceptionGroup("tasks", errors)]))


def of_child(error: NoResult) -> NoResult:
    error.of_child = True
    return error


@pytest.mark.parametrize(
    ("errors", "settlement"),
    [
        ([Retry(9, reason="busy")], again(After(9000), 2, "Retry: busy")),
        (
            [ValueError("a"), Retry(9)],
            again(After(9000), 2, "ValueError: a; Retry: the handler asked for a retry"),
        ),
        ([Snooze(5)], snoozed(After(5000))),
        ([Snooze(5), JobSuspended("waits")], snoozed(After(5000))),
        ([Snooze(5), ValueError("a")], again(After(8000), 2, "ValueError: a")),
        ([JobSuspended("waits"), ValueError("a")], again(After(8000), 2, "ValueError: a")),
        ([JobTimeout("30 s")], again(After(8000), 2, "JobTimeout: 30 s")),
        (
            [OSError(str(n)) for n in range(5)],
            again(After(8000), 2, "OSError: 0; OSError: 1; OSError: 2; and 2 more"),
        ),
        ([JobFailed("a", "", "of another job")], again(After(8000), 2, "JobFailed: job a failed: of another job")),
    ],
)
def test_a_group_of_errors_steers_its_job_as_one_of_them_alone_and_its_error_names_them(
    errors: list[BaseException], settlement: Settlement
) -> None:
    assert settlement_of(group(*errors)) == settlement


@pytest.mark.parametrize(
    ("errors", "text"),
    [
        ([Snooze(5), ValueError("a"), Retry(9), Fail("never mind")], "never mind"),
        ([UnwritableResult("too large")], "too large"),
        ([ValueError("a"), of_child(JobFailed("a", "", "no luck"))], "JobFailed: job a failed: no luck"),
        ([of_child(JobCancelled("a", "cancelled"))], "JobCancelled: cancelled"),
    ],
)
def test_what_ends_a_job_ends_it_from_within_a_group_too(errors: list[BaseException], text: str) -> None:
    letter = dead(group(*errors))
    assert (letter.reason, letter.error) == ("failed", text)
    assert "| ExceptionGroup: tasks" in letter.traceback.replace("Base", "")
    assert letter.error_type == fingerprint_of(deciding(group(*errors).error)).error_type != "ExceptionGroup"


@pytest.mark.parametrize(
    ("errors", "is_retried"),
    [([OSError()], True), ([OSError(), OSError()], True), ([OSError(), ValueError()], False)],
)
def test_a_policy_is_asked_for_each_error_of_a_group(errors: list[BaseException], is_retried: bool) -> None:
    policy = RetryPolicy(retry_if=tenacity.retry_if_exception_type(OSError))
    assert isinstance(settlement_of(group(*errors), policy=policy), RetryLater) is is_retried


def test_a_stop_by_time_counts_from_when_the_first_run_began() -> None:
    policy = RetryPolicy(stop=tenacity.stop_after_delay(60), wait=tenacity.wait_none())
    assert isinstance(settlement_of(raised(ValueError()), policy=policy, started_ms=NOW - 59_999), RetryLater)
    assert isinstance(settlement_of(raised(ValueError()), policy=policy, started_ms=NOW - 60_000), DeadLetter)


def parked(waited_ms: int | None, give_up_ms: int = HOUR) -> Settlement | None:
    since = None if waited_ms is None else NOW - waited_ms
    return settlement_of(UnknownName("Send", since, give_up_ms), attempt=3)


@pytest.mark.parametrize(
    ("waited_ms", "due"),
    [
        (None, After(1000)),
        (-500, After(1000)),
        (0, After(1000)),
        (999, After(1000)),
        (2_000, After(1000)),
        (31_000, After(7750)),
        (600_000, After(15000)),
    ],
)
def test_a_job_no_worker_knows_waits_longer_each_time_and_spends_no_attempt(
    waited_ms: int | None, due: Due
) -> None:
    since = str(NOW if waited_ms is None else NOW - waited_ms)
    error = "no handler registered for 'Send'"
    assert parked(waited_ms) == RetryLater(due, {"unknown_since": since, "error": error})


def test_a_job_no_worker_knows_is_dead_in_the_end() -> None:
    assert isinstance(parked(HOUR - 1), RetryLater)
    assert parked(HOUR) == DeadLetter("unknown name", "no worker had a handler for 'Send' in 3600 s")
    assert parked(None, give_up_ms=0) == DeadLetter("unknown name", "no worker had a handler for 'Send' in 0 s")


def test_a_job_no_worker_knows_is_looked_at_often_in_its_first_minute_and_then_each_15_seconds() -> None:
    now_ms, looks = NOW, 0
    while isinstance(settlement := settlement_of(UnknownName("Send", NOW, HOUR), now_ms=now_ms), RetryLater):
        assert isinstance(settlement.due, After)
        now_ms += int(settlement.due.ms)
        looks += 1
    assert looks == 253
    assert now_ms - NOW <= HOUR + 15_000


def test_long_errors_are_clipped() -> None:
    letter = dead(raised(ValueError("x" * 100_000)), policy=no_retry())
    assert (len(letter.error), letter.error[-3:]) == (1_000, "xx…")
    assert len(dead(Undecodable("y" * 5_000)).error) == 1_000
    assert len(dead(raised(Fail("z" * 5_000))).error) == 1_000


@pytest.mark.parametrize("message", ["short", "two\nlines", "x" * 3_987, ""])
def test_a_traceback_that_is_short_enough_is_kept_as_python_prints_it(message: str) -> None:
    outcome = raised(ValueError(message))
    assert dead(outcome, policy=no_retry()).traceback == "".join(traceback.format_exception(outcome.error))


def test_of_a_message_that_is_too_long_the_first_characters_are_kept() -> None:
    kept = dead(raised(ValueError("x" * 3_988)), policy=no_retry()).traceback
    assert kept.splitlines()[-1] == "ValueError: " + "x" * 3_987 + "…"


def test_the_traceback_of_an_error_in_another_process_is_the_one_from_there() -> None:
    error = ValueError("far away")
    error.__cause__ = RemoteTraceback("as it was there")
    assert dead(Raised(error), policy=no_retry()).traceback == "as it was there"


@pytest.mark.parametrize("error", [ValueError("x"), Fail("x")], ids=["no attempt is left", "Fail"])
def test_a_job_that_failed_has_the_fingerprint_of_its_error(error: Exception) -> None:
    outcome = raised(error)
    letter = dead(outcome, policy=no_retry())
    assert Fingerprint(letter.error_type, letter.fingerprint) == fingerprint_of(outcome.error)


def test_the_fingerprint_of_an_error_in_another_process_is_the_one_from_there() -> None:
    error, known = ValueError("far away"), Fingerprint("shop.Declined", "0123456789ab")
    error.__cause__ = RemoteTraceback("as it was there", known)
    letter = dead(Raised(error), policy=no_retry())
    assert Fingerprint(letter.error_type, letter.fingerprint) == known


@pytest.mark.parametrize("outcome", [Undecodable("no name"), Expired("late"), UnknownName("Send", 0, 1)])
def test_what_is_dead_without_having_failed_has_no_fingerprint(outcome: Ended) -> None:
    letter = dead(outcome)
    assert (letter.error_type, letter.fingerprint) == ("", "")


def test_an_error_that_was_never_raised_has_its_message_for_a_traceback() -> None:
    assert (
        dead(Raised(ValueError("out of nowhere")), policy=no_retry()).traceback == "ValueError: out of nowhere\n"
    )


def chained(message: str) -> Raised:
    try:
        try:
            raise OSError(message)
        except OSError as cause:
            raise ValueError("short") from cause
    except ValueError as error:
        return Raised(error)


def noted(note: str) -> Raised:
    error = ValueError("short")
    error.add_note(note)
    return raised(error)


@pytest.mark.parametrize(
    "outcome",
    [
        raised(ValueError("x" * 100_000)),
        raised(ValueError("x\n" * 100_000)),
        noted("x\n" * 100_000),
        chained("x" * 100_000),
        raised(ExceptionGroup("x" * 100_000, [ValueError()])),
    ],
)
def test_a_long_message_is_clipped_and_leaves_the_frames_in_the_traceback(outcome: Ended) -> None:
    kept = dead(outcome, policy=no_retry()).traceback
    assert 'File "' in kept
    assert "raise error" in kept or "raise ValueError" in kept
    assert "xx" in kept or "x\nx" in kept
    assert len(kept) <= 16_000


def test_of_a_long_traceback_the_last_frames_are_kept() -> None:
    letter = dead(raised(deep(300)), policy=no_retry())
    assert len(letter.traceback) <= 16_000
    assert letter.traceback.endswith("KeyError: 'at the bottom'\n")
    assert "in bottom" in letter.traceback


def deep(frames: int) -> BaseException:
    """An error from the bottom of many functions, each a line of its own in a traceback."""
    code = "def bottom():\n    raise KeyError('at the bottom')\n"
    code += "".join(f"def f{n}():\n    {f'f{n - 1}' if n else 'bottom'}()\n" for n in range(frames))
    names: dict[str, Any] = {}
    exec(code, names)
    try:
        names[f"f{frames - 1}"]()
    except KeyError as error:
        return error
    raise AssertionError


class Mute(Exception):
    def __str__(self) -> str:
        raise BaseException

    __repr__ = __str__


def test_an_error_whose_text_cannot_be_had_keeps_its_type_and_its_policy() -> None:
    text = "Mute: its text can't be read: __str__ raised BaseException"
    assert settlement_of(raised(Mute())) == again(After(8000), 2, text)
    letter = dead(raised(Mute()), policy=RetryPolicy(retry_if=tenacity.retry_if_not_exception_type(Mute)))
    assert letter.error == text
    assert "raise error" in letter.traceback


def test_a_fail_whose_text_cannot_be_had_is_dead_all_the_same() -> None:
    class MuteFail(Fail):
        def __str__(self) -> str:
            raise ValueError

    assert dead(raised(MuteFail("x"))).error == "its text can't be read: __str__ raised ValueError"


def test_an_error_whose_text_is_no_plain_str_keeps_its_type_and_its_policy() -> None:
    class Text(str):
        def split(self, *_: Any) -> Any:
            raise BaseException

    class Told(Exception):
        def __str__(self) -> str:
            return Text("told")

    assert settlement_of(raised(Told())) == again(After(8000), 2, "Told: told")


def test_an_error_whose_cause_cannot_be_had_keeps_its_type_and_its_policy() -> None:
    class Causes(Exception):
        @property
        def __cause__(self) -> Any:  # type: ignore[override]
            raise LookupError

    letter = dead(raised(Causes("x")), policy=no_retry())
    assert letter.error == "Causes: x"
    assert letter.traceback == "the traceback can't be read: LookupError"


def test_an_error_is_one_line() -> None:
    assert dead(raised(ValueError("a\n  b\r\n\tc ")), policy=no_retry()).error == "ValueError: a b c"


@pytest.mark.parametrize("wrap", [ValueError, Fail])
def test_half_a_surrogate_pair_in_a_message_can_still_be_written(wrap: type[Exception]) -> None:
    letter = dead(raised(wrap("bad \ud83d")), policy=no_retry())
    assert (letter.error + letter.traceback).encode()  # raises if it can't be
    assert letter.error.endswith(r"bad \ud83d")
    assert dead(Undecodable("bad \ud83d")).error == r"bad \ud83d"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Snooze(),
        lambda: Snooze(for_=1, until=datetime.now(UTC)),
        lambda: Snooze(until=datetime.now()),
        lambda: Snooze(for_=-1),
        lambda: Snooze(for_=float("nan")),
        lambda: Retry(-1),
        lambda: Retry(timedelta(seconds=-1)),
        lambda: Retry(float("inf")),
    ],
)
def test_steering_that_makes_no_sense_is_an_error_in_the_handler(make: Any) -> None:
    with pytest.raises(ValueError):
        make()
