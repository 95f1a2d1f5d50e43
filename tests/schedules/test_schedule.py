"""Schedules: what each rule names, its slots, its text and its words, and what is refused."""

import pickle
import zoneinfo
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from itertools import islice, pairwise
from typing import Any

import pytest
from cronsim import CronSim
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from redisjobs import Schedule
from redisjobs.schedules.crontab import Crontab

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)  # a Thursday


def slots(schedule: Schedule, number: int, after: datetime = NEW_YEAR) -> list[str]:
    """The first slots after a moment, in UTC."""
    found = islice(schedule.between(after, datetime.max.replace(tzinfo=UTC)), number)
    return [f"{slot.astimezone(UTC):%Y-%m-%d %H:%M:%S}".removesuffix(":00") for slot in found]


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# What each rule names


@pytest.mark.parametrize(
    ("schedule", "after", "expected"),
    [
        (Schedule.every_minute(), "2025-12-31 23:58:30", ["2025-12-31 23:59", "2026-01-01 00:00"]),
        (Schedule.every_minute(second=30), "2025-12-31 23:59:00", ["2025-12-31 23:59:30", "2026-01-01 00:00:30"]),
        (
            Schedule.on_minutes([45, 0, 15, 45]),
            "2026-01-01 00:10",
            ["2026-01-01 00:15", "2026-01-01 00:45", "2026-01-01 01:00"],
        ),
        (Schedule.on_minutes([20]), "2026-01-01 00:20", ["2026-01-01 01:20", "2026-01-01 02:20"]),
        (Schedule.on_minutes([20], second=5), "2026-01-01 00:20", ["2026-01-01 00:20:05", "2026-01-01 01:20:05"]),
        (Schedule.hourly(), "2025-12-31 22:59:59", ["2025-12-31 23:00", "2026-01-01 00:00"]),
        (Schedule.hourly(minute=25), "2026-01-01 00:25", ["2026-01-01 01:25", "2026-01-01 02:25"]),
        (
            Schedule.on_hours([18, 6], minute=10),
            "2026-01-01 06:10",
            ["2026-01-01 18:10", "2026-01-02 06:10", "2026-01-02 18:10"],
        ),
        (Schedule.on_hours({3}), "2026-01-01 06:10", ["2026-01-02 03:00", "2026-01-03 03:00"]),
        (Schedule.daily(), "2025-12-31 12:00", ["2026-01-01 00:00", "2026-01-02 00:00"]),
        (
            Schedule.daily(hour=4, minute=30),
            "2028-02-28 04:30",
            ["2028-02-29 04:30", "2028-03-01 04:30"],
        ),
        (
            Schedule.on_days(["friday", "mon"], hour=4),
            "2026-01-01 00:00",
            ["2026-01-02 04:00", "2026-01-05 04:00", "2026-01-09 04:00"],
        ),
        (Schedule.on_days(["sun"]), "2026-01-01 00:00", ["2026-01-04 00:00", "2026-01-11 00:00"]),
        (
            Schedule.weekly("Sunday", hour=8, minute=15),
            "2026-01-01 00:00",
            ["2026-01-04 08:15", "2026-01-11 08:15"],
        ),
        (
            Schedule.on_dates([1, 20, 31], hour=3),
            "2026-01-20 03:00",
            ["2026-01-31 03:00", "2026-02-01 03:00", "2026-02-20 03:00", "2026-03-01 03:00"],
        ),
        (Schedule.on_dates([25]), "2026-01-26 00:00", ["2026-02-25 00:00", "2026-03-25 00:00"]),
        (Schedule.monthly(2, hour=1), "2025-12-02 01:00", ["2026-01-02 01:00", "2026-02-02 01:00"]),
        (Schedule.monthly(31), "2026-01-31 00:00", ["2026-03-31 00:00", "2026-05-31 00:00"]),
        (
            Schedule.on_months(["jul", 1, "January"], 10, hour=2, minute=5),
            "2026-01-10 02:05",
            ["2026-07-10 02:05", "2027-01-10 02:05"],
        ),
        (Schedule.on_months([4], date=30), "2026-01-01 00:00", ["2026-04-30 00:00", "2027-04-30 00:00"]),
        (Schedule.yearly("dec", 24, hour=18), "2026-01-01 00:00", ["2026-12-24 18:00", "2027-12-24 18:00"]),
        (Schedule.yearly(2, 29), "2096-02-29 00:00", ["2104-02-29 00:00", "2108-02-29 00:00"]),
        (Schedule.every(90), "2026-01-01 00:00", ["2026-01-01 00:01:30", "2026-01-01 00:03"]),
        (Schedule.every(timedelta(days=7)), "2026-01-01 00:00", ["2026-01-08 00:00", "2026-01-15 00:00"]),
    ],
    ids=repr,
)
def test_a_rule_names_these_slots(schedule: Schedule, after: str, expected: list[str]) -> None:
    assert slots(schedule, len(expected), at(after)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5 12 20 4 *", ["2026-04-20 12:05", "2027-04-20 12:05"]),
        ("0 0 * * 0", ["2026-01-04 00:00", "2026-01-11 00:00"]),
        ("0 0 * * 7", ["2026-01-04 00:00", "2026-01-11 00:00"]),
        ("0 0 * * 4", ["2026-01-08 00:00", "2026-01-15 00:00"]),
        ("0 3-4 * * *", ["2026-01-01 03:00", "2026-01-01 04:00", "2026-01-02 03:00"]),
        ("0 0 1 6-7 *", ["2026-06-01 00:00", "2026-07-01 00:00", "2027-06-01 00:00"]),
        ("0 0 * * 6-7", ["2026-01-03 00:00", "2026-01-04 00:00", "2026-01-10 00:00"]),
        ("0 */12 * * *", ["2026-01-01 12:00", "2026-01-02 00:00"]),
        ("0 0 * * */3", ["2026-01-03 00:00", "2026-01-04 00:00", "2026-01-07 00:00"]),
        ("0 0 */10 * *", ["2026-01-11 00:00", "2026-01-21 00:00", "2026-01-31 00:00", "2026-02-01 00:00"]),
        ("0 0 1 */6 *", ["2026-07-01 00:00", "2027-01-01 00:00"]),
        ("0 1-6/3 * * *", ["2026-01-01 01:00", "2026-01-01 04:00", "2026-01-02 01:00"]),
        ("0 0 * * 1-5/2", ["2026-01-02 00:00", "2026-01-05 00:00", "2026-01-07 00:00"]),
        ("0 0 1 2-8/3 *", ["2026-02-01 00:00", "2026-05-01 00:00", "2026-08-01 00:00"]),
        ("0 3,5,7 * * *", ["2026-01-01 03:00", "2026-01-01 05:00", "2026-01-01 07:00", "2026-01-02 03:00"]),
        ("0,20 0 * * *", ["2026-01-01 00:20", "2026-01-02 00:00", "2026-01-02 00:20"]),
        ("0 0 1 1,3 *", ["2026-03-01 00:00", "2027-01-01 00:00"]),
        ("1-2,58 23 * * *", ["2026-01-01 23:01", "2026-01-01 23:02", "2026-01-01 23:58"]),
        ("* * 2 * *", ["2026-01-02 00:00", "2026-01-02 00:01"]),
        ("* 5 * * *", ["2026-01-01 05:00", "2026-01-01 05:01"]),
        ("0 0 * * sun", ["2026-01-04 00:00", "2026-01-11 00:00"]),
        ("0 0 * * MON-Wed", ["2026-01-05 00:00", "2026-01-06 00:00", "2026-01-07 00:00", "2026-01-12 00:00"]),
        ("0 0 * * sun,tue", ["2026-01-04 00:00", "2026-01-06 00:00"]),
        ("0 0 1 feb *", ["2026-02-01 00:00", "2027-02-01 00:00"]),
        ("0 0 1 jun-jul *", ["2026-06-01 00:00", "2026-07-01 00:00", "2027-06-01 00:00"]),
        ("0 0 1 mar,dec *", ["2026-03-01 00:00", "2026-12-01 00:00"]),
        ("@hourly", ["2026-01-01 01:00", "2026-01-01 02:00"]),
        ("@daily", ["2026-01-02 00:00", "2026-01-03 00:00"]),
        (" @Midnight ", ["2026-01-02 00:00", "2026-01-03 00:00"]),
        ("@weekly", ["2026-01-04 00:00", "2026-01-11 00:00"]),
        ("@monthly", ["2026-02-01 00:00", "2026-03-01 00:00"]),
        ("@yearly", ["2027-01-01 00:00", "2028-01-01 00:00"]),
        ("@annually", ["2027-01-01 00:00", "2028-01-01 00:00"]),
        ("15 * * * * *", ["2026-01-01 00:00:15", "2026-01-01 00:01:15"]),
        ("*/20 59 23 * * *", ["2026-01-01 23:59", "2026-01-01 23:59:20", "2026-01-01 23:59:40"]),
        ("0 0 L * *", ["2026-01-31 00:00", "2026-02-28 00:00"]),
        ("0 0 LW * *", ["2026-01-30 00:00", "2026-02-27 00:00"]),
        ("0 0 * * 5L", ["2026-01-30 00:00", "2026-02-27 00:00"]),
        ("0 0 * * fri#2", ["2026-01-09 00:00", "2026-02-13 00:00"]),
        ("0 0 31 2 mon", ["2026-02-02 00:00", "2026-02-09 00:00"]),
        ("0 0 13 * fri", ["2026-01-02 00:00", "2026-01-09 00:00", "2026-01-13 00:00"]),
        ("0 0 */12 * fri", ["2026-02-13 00:00", "2026-03-13 00:00", "2026-05-01 00:00"]),
    ],
)
def test_a_cron_text_names_these_slots(text: str, expected: list[str]) -> None:
    assert slots(Schedule.cron(text), len(expected)) == expected


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("2026-01-03 12:00", ["2026-01-04 03:00", "2026-01-04 04:00", "2026-01-04 05:00", "2026-02-04 03:00"]),
        ("2026-01-04 03:00", ["2026-01-04 04:00", "2026-01-04 05:00", "2026-02-04 03:00"]),
        ("2026-01-04 04:30", ["2026-01-04 05:00", "2026-02-04 03:00"]),
        ("2026-01-04 05:00", ["2026-02-04 03:00"]),
        ("2026-01-05 01:00", ["2026-02-04 03:00"]),
    ],
)
def test_several_ranges_are_gone_through_from_any_moment(after: str, expected: list[str]) -> None:
    assert slots(Schedule.cron("0 3-5 4 * *"), len(expected), at(after)) == expected
    both = [
        slot for slot in slots(Schedule.cron("0 3-5 3-4 * *"), 12, at(after)) if " 0" in slot and "-04 " in slot
    ]
    assert both[: len(expected)] == expected


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("2026-02-26 00:00", ["2026-02-27 10:00", "2026-02-28 10:00", "2026-03-27 10:00"]),
        ("2028-02-26 00:00", ["2028-02-27 10:00", "2028-02-28 10:00", "2028-02-29 10:00", "2028-03-27 10:00"]),
    ],
)
def test_dates_that_a_month_lacks_are_left_out(after: str, expected: list[str]) -> None:
    assert slots(Schedule.cron("0 10 27-30 * *"), len(expected), at(after)) == expected


def test_a_rule_of_another_zone_fires_by_its_clock() -> None:
    schedule = Schedule.daily(hour=4, tz="Etc/GMT-2")

    assert slots(schedule, 2) == ["2026-01-01 02:00", "2026-01-02 02:00"]


def test_slots_of_a_rule_are_in_its_zone_and_those_of_an_interval_in_utc() -> None:
    tokyo = timezone(timedelta(hours=9))

    for schedule, zone in [
        (Schedule.daily(tz="Europe/Berlin"), zoneinfo.ZoneInfo("Europe/Berlin")),
        (Schedule.daily(), UTC),
        (Schedule.every(60), UTC),
    ]:
        moment = NEW_YEAR.astimezone(tokyo)
        assert schedule.next_after(moment).tzinfo is zone
        assert schedule.last_before(moment).tzinfo is zone
        assert next(schedule.between(moment, moment + timedelta(days=9))).tzinfo is zone


@pytest.mark.parametrize(
    "schedule", [Schedule.daily(tz="Asia/Tokyo"), Schedule.cron("*/10 * * * *"), Schedule.every(86400)], ids=str
)
def test_a_slot_is_strictly_after_or_before_the_moment_asked_about_and_up_to_the_last_one(
    schedule: Schedule,
) -> None:
    slot = schedule.next_after(NEW_YEAR)
    tick = timedelta(microseconds=1)

    assert schedule.next_after(slot) > slot
    assert schedule.next_after(slot - tick) == slot
    assert schedule.last_before(slot) < slot
    assert schedule.last_before(slot + tick) == slot
    assert list(schedule.between(slot, slot)) == []
    assert list(schedule.between(slot - tick, slot)) == [slot]
    assert list(schedule.between(slot, slot - timedelta(days=9))) == []
    assert schedule.count(slot, slot) == schedule.count(slot, slot - timedelta(days=9)) == 0
    assert schedule.count(slot - tick, slot) == 1


def test_slots_are_worked_out_one_by_one() -> None:
    found = Schedule.every_minute(tz="Europe/Berlin").between(
        datetime(1, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    )

    assert next(found) < next(found)


# Intervals


def test_an_interval_is_counted_from_1970_so_that_every_process_has_the_same_slots() -> None:
    week = Schedule.every(timedelta(days=7))

    assert week.next_after(at("1970-01-01 00:00")) == at("1970-01-08 00:00")
    assert week.last_before(at("1970-01-01 00:00")) == at("1969-12-25 00:00")


def test_an_interval_goes_on_from_its_anchor_in_both_directions() -> None:
    schedule = Schedule.every(1.5, anchor=datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))))

    assert slots(schedule, 3, at("2026-01-01 00:00")) == [
        "2026-01-01 00:00:01",
        "2026-01-01 00:00:03",
        "2026-01-01 00:00:04",
    ]
    assert schedule.last_before(NEW_YEAR) == NEW_YEAR - timedelta(seconds=1.5)


def test_an_interval_counts_without_going_through_its_slots() -> None:
    assert Schedule.every(1).count(at("0001-01-01"), at("9999-12-31")) == 3652058 * 86400


def test_an_interval_of_centuries_has_few_slots() -> None:
    schedule = Schedule.every(9_999_999_999, anchor=NEW_YEAR)  # 317 years
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)

    found = list(schedule.between(first, last))

    assert NEW_YEAR in found
    assert schedule.count(first, last) == len(found) == 32


# A value


SCHEDULES: list[tuple[Schedule, str, str, str]] = [
    (
        Schedule.daily(hour=4, tz="Europe/Berlin"),
        "0 4 * * * Europe/Berlin",
        "every day at 04:00, Europe/Berlin",
        "Schedule.cron('0 4 * * *', tz='Europe/Berlin')",
    ),
    (Schedule.daily(hour=4), "0 4 * * *", "every day at 04:00, UTC", "Schedule.cron('0 4 * * *')"),
    (Schedule.every(90), "every 90 s", "every 90 seconds", "Schedule.every(90)"),
    (Schedule.every(timedelta(hours=1)), "every 3600 s", "every hour", "Schedule.every(3600)"),
    (Schedule.every(timedelta(minutes=7)), "every 420 s", "every 7 minutes", "Schedule.every(420)"),
    (Schedule.every(1), "every 1 s", "every second", "Schedule.every(1)"),
    (Schedule.every(1.05), "every 1.05 s", "every 1.05 seconds", "Schedule.every(1.05)"),
    (
        Schedule.every(90, anchor=datetime(1970, 1, 1, tzinfo=UTC)),
        "every 90 s",
        "every 90 seconds",
        "Schedule.every(90)",
    ),
    (
        Schedule.every(90, anchor=NEW_YEAR),
        "every 90 s from 2026-01-01T00:00:00+00:00",
        "every 90 seconds, counted from 2026-01-01 00:00:00+00:00",
        "Schedule.parse('every 90 s from 2026-01-01T00:00:00+00:00')",
    ),
]


@pytest.mark.parametrize(("schedule", "text", "words", "code"), SCHEDULES, ids=lambda given: str(given))
def test_a_schedule_says_itself_in_a_text_in_words_and_in_code(
    schedule: Schedule, text: str, words: str, code: str
) -> None:
    assert schedule.text == text
    assert Schedule.parse(text) == schedule
    assert str(schedule) == words
    assert repr(schedule) == code
    assert eval(code) == schedule


CRON = [
    ("* * * * *", "* * * * *", "every minute, UTC"),
    ("*/5 9-17 * * 1-5", "*/5 9-17 * * mon-fri", "every 5 minutes from 09:00 to 17:59, Monday to Friday, UTC"),
    ("*/1 * * * *", "* * * * *", "every minute, UTC"),
    ("0-59 * * * *", "0-59 * * * *", "every minute, UTC"),
    ("*/7 2,4 * * *", "*/7 2,4 * * *", "at minutes 0, 7, 14, 21, 28, 35, 42, 49 and 56 in the hours 2 and 4, UTC"),
    ("*/5 2,4 * * *", "*/5 2,4 * * *", "every 5 minutes in the hours 2 and 4, UTC"),
    ("15 * * * *", "15 * * * *", "every hour at minute 15, UTC"),
    (
        "15,45 * * 1-3 *",
        "15,45 * * jan-mar *",
        "every hour at minutes 15 and 45, every day in January to March, UTC",
    ),
    ("0 */2 * * *", "0 */2 * * *", "every 2 hours at minute 0, UTC"),
    ("0 9-17 * * *", "0 9-17 * * *", "every hour at minute 0 from 09:00 to 17:59, UTC"),
    ("0 1,2,3,7,9 * * *", "0 1-3,7,9 * * *", "at minute 0 in the hours 1, 2, 3, 7 and 9, UTC"),
    ("0,30 4 * * 6,7", "0,30 4 * * sat,sun", "every Saturday and Sunday at 04:00 and 04:30, UTC"),
    ("0,15,30,45 * * * *", "0,15,30,45 * * * *", "every 15 minutes, UTC"),
    ("0-59 0-59 0-23 1 1-12 *", "* 0-59 0-23 1 * *", "every second, on the 1st of every month, UTC"),
    ("0 0 * * 0", "0 0 * * sun", "every Sunday at 00:00, UTC"),
    ("0 0 * * 5-7", "0 0 * * fri,sat,sun", "Friday to Sunday at 00:00, UTC"),
    ("0 0 * * 1-3,5", "0 0 * * mon-wed,fri", "every Monday to Wednesday and Friday at 00:00, UTC"),
    ("0 0 * 6 1", "0 0 * jun mon", "every Monday in June at 00:00, UTC"),
    ("0 0 1,2,3,11,22 * *", "0 0 1-3,11,22 * *", "on the 1st to 3rd, 11th and 22nd of every month at 00:00, UTC"),
    ("0 12 24 12 *", "0 12 24 dec *", "on the 24th of December at 12:00, UTC"),
    ("0 0 l * *", "0 0 L * *", "on the last day of every month at 00:00, UTC"),
    ("0 0 1,LW * *", "0 0 1,LW * *", "on the 1st and last day from Monday to Friday of every month at 00:00, UTC"),
    ("0 0 * * 7L", "0 0 * * 0L", "on the last Sunday of every month at 00:00, UTC"),
    ("0 0 * * 1#2,3", "0 0 * * wed,mon#2", "every Wednesday and on the 2nd Monday of every month at 00:00, UTC"),
    ("0 0 13 * 5", "0 0 13 * fri", "on the 13th of every month and every Friday at 00:00, UTC"),
    ("0 0 1-31 * 5", "0 0 1-31 * fri", "every day at 00:00, UTC"),
    ("30 * * * * *", "30 * * * * *", "every minute, at second 30, UTC"),
    ("30 5 4 * * *", "30 5 4 * * *", "every day at 04:05:30, UTC"),
    ("0 5 4 * * *", "5 4 * * *", "every day at 04:05, UTC"),
    ("* * * * * *", "* * * * * *", "every second, UTC"),
    (
        "0 1,4,7,10,13 1 1 *",
        "0 1-13/3 1 jan *",
        "at minute 0 in the hours 1, 4, 7, 10 and 13, on the 1st of January, UTC",
    ),
    # Where words would be longer than the text, it says itself.
    ("*/10 * * * * *", "*/10 * * * * *", "*/10 * * * * *"),
    ("0 0 */2 * mon", "0 0 */2 * mon", "0 0 */2 * mon"),
    ("*/5,3 * * * *", "*/5,3 * * * *", "*/5,3 * * * *"),
    (
        "0,5,6 1-23/2,2,4 * * *",
        "0,5,6 1-5,7,9,11,13,15,17,19,21,23 * * *",
        "0,5,6 1-5,7,9,11,13,15,17,19,21,23 * * *",
    ),
    ("0 0 1-31/2 * 1", "0 0 1-31/2 * mon", "0 0 1-31/2 * mon"),
]


@pytest.mark.parametrize(("given", "text", "words"), CRON)
def test_a_cron_text_has_one_way_of_writing_and_words(given: str, text: str, words: str) -> None:
    schedule = Schedule.cron(given)

    assert schedule.text == text
    assert Schedule.parse(text) == schedule
    assert str(schedule) == words


def test_texts_of_the_same_meaning_are_equal_and_of_another_one_are_not() -> None:
    weekdays = Schedule.cron("0 9 * * 1-5", "Europe/Berlin")
    same = Schedule.on_days(
        ["Mon", "tue", "wed", "thursday", "fri"], hour=9, tz=zoneinfo.ZoneInfo("Europe/Berlin")
    )

    assert weekdays == same
    assert {weekdays: 1}[same] == 1
    assert len({weekdays, Schedule.cron("0 9 * * 1-5"), Schedule.cron("0 9 * * 1-4", "Europe/Berlin")}) == 3
    assert Schedule.cron("@daily") == Schedule.daily() == Schedule.daily(tz=UTC) == Schedule.daily(tz=timezone.utc)  # noqa: UP017
    assert Schedule.daily(tz=zoneinfo.ZoneInfo("UTC")) == Schedule.daily()
    assert Schedule.every(60) == Schedule.every(timedelta(minutes=1)) != Schedule.every(60, anchor=NEW_YEAR)
    assert Schedule.every(60) != Schedule.every_minute() != "* * * * *"  # type: ignore[comparison-overlap]
    # A star says by which time a rule goes where the clock changes.
    assert Schedule.cron("0 0-23 * * *") != Schedule.cron("0 * * * *")


@pytest.mark.parametrize("schedule", [each for each, *_ in SCHEDULES], ids=str)
def test_a_schedule_can_be_pickled_and_not_changed(schedule: Schedule) -> None:
    same = pickle.loads(pickle.dumps(schedule))

    assert same == schedule
    assert hash(same) == hash(schedule)
    assert same.next_after(NEW_YEAR) == schedule.next_after(NEW_YEAR)
    with pytest.raises(AttributeError):
        schedule._rule = Schedule.daily()._rule  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("  @daily   Europe/Berlin ", Schedule.daily(tz="Europe/Berlin")),
        ("0 4 * * * UTC", Schedule.daily(hour=4)),
        ("30 0 4 * * MON", Schedule.cron("30 0 4 * * mon")),
        ("30 0 4 * * MON MET", Schedule.cron("30 0 4 * * mon", "MET")),
        ("0 4 * * * MET", Schedule.daily(hour=4, tz="MET")),
        ("every 60.0 s from 2026-01-01T01:00:00+01:00", Schedule.every(60, anchor=NEW_YEAR)),
    ],
)
def test_a_text_that_people_write_is_read_as_well(text: str, same: Schedule) -> None:
    assert Schedule.parse(text) == same


# What is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Schedule.every_minute(second=60), r"second=60: give a whole number from 0 to 59"),
        (lambda: Schedule.hourly(minute=-1), r"minute=-1: give a whole number from 0 to 59"),
        (lambda: Schedule.hourly(minute=True), r"minute=True: give a whole number"),
        (lambda: Schedule.hourly(minute="5"), r"minute='5': give a whole number"),  # type: ignore[arg-type]
        (lambda: Schedule.hourly(minute=5.0), r"minute=5\.0: give a whole number"),  # type: ignore[arg-type]
        (lambda: Schedule.daily(hour=24), r"hour=24: give a whole number from 0 to 23"),
        (lambda: Schedule.on_minutes([]), r"minutes=\[\]: give a list with at least one"),
        (lambda: Schedule.on_minutes([0, 60]), r"minutes=60: give a whole number from 0 to 59"),
        (lambda: Schedule.on_minutes("5"), r"minutes='5': give a list"),  # type: ignore[arg-type]
        (lambda: Schedule.on_minutes(5), r"minutes=5: give a list"),  # type: ignore[arg-type]
        (lambda: Schedule.on_hours([]), r"hours=\[\]: give a list"),
        (lambda: Schedule.on_hours([24]), r"hours=24: give a whole number from 0 to 23"),
        (lambda: Schedule.on_days([]), r"days=\[\]: give a list"),
        (lambda: Schedule.on_days("mon"), r"days='mon': give a list"),
        (lambda: Schedule.on_days(["mon", "jan"]), r"days='jan': give a weekday as a word"),
        (lambda: Schedule.on_days([1]), r"days=1: give a weekday as a word"),  # type: ignore[list-item]
        (lambda: Schedule.weekly("mond"), r"day='mond': give a weekday as a word"),
        (lambda: Schedule.on_dates([]), r"dates=\[\]: give a list"),
        (lambda: Schedule.on_dates([0]), r"dates=0: give a whole number from 1 to 31"),
        (lambda: Schedule.monthly(32), r"date=32: give a whole number from 1 to 31"),
        (lambda: Schedule.on_months([], 1), r"months=\[\]: give a list"),
        (lambda: Schedule.on_months([13], 1), r"months=13: give a whole number from 1 to 12"),
        (lambda: Schedule.on_months(["mon"], 1), r"months='mon': give 1 to 12, or a word"),
        (lambda: Schedule.on_months([1, "feb"], 30), r"date=30: February has no such day; give 1 to 29"),
        (lambda: Schedule.yearly("feb", 31), r"date=31: February has no such day; give 1 to 29"),
        (lambda: Schedule.yearly("jun", 31), r"date=31: June has no such day; give 1 to 30"),
        (lambda: Schedule.yearly(0, 1), r"month=0: give a whole number from 1 to 12"),
        (
            lambda: Schedule.daily(tz="Europe/Berlyn"),
            r"tz='Europe/Berlyn': .* check the spelling, .* or install tzdata",
        ),
        (lambda: Schedule.daily(tz="Europe"), r"tz='Europe': .* no such time zone"),
        (lambda: Schedule.daily(tz=""), r"tz='': .* no such time zone"),
        (lambda: Schedule.daily(tz="../etc/passwd"), r"no such time zone"),
        (lambda: Schedule.daily(tz="a\0b"), r"no such time zone"),
        (lambda: Schedule.daily(tz=timezone(timedelta(hours=2))), r"give the name of a time zone"),
        (lambda: Schedule.daily(tz=None), r"tz=None: give the name of a time zone"),  # type: ignore[arg-type]
        (lambda: Schedule.every(0.5), r"interval=0\.5: give seconds from 1 up"),
        (lambda: Schedule.every(-5), r"interval=-5: give seconds"),
        (lambda: Schedule.every(True), r"interval=True: give seconds"),
        (lambda: Schedule.every("90"), r"interval='90': give seconds"),  # type: ignore[arg-type]
        (lambda: Schedule.every(float("nan")), r"interval=nan: give seconds"),
        (lambda: Schedule.every(1.0005), r"interval=1\.0005: .* in whole milliseconds"),
        (lambda: Schedule.every(timedelta(seconds=1, microseconds=1)), r"in whole milliseconds"),
        (lambda: Schedule.every(90, anchor=datetime(2026, 1, 1)), r"anchor=.* has no time zone"),
        (
            lambda: Schedule.every(90, anchor=NEW_YEAR.replace(microsecond=1)),
            r"anchor=.*: give whole milliseconds",
        ),
        (lambda: Schedule.every(90, anchor=date(2026, 1, 1)), r"anchor=.*: give a datetime"),  # type: ignore[arg-type]
        (lambda: Schedule("0 4 * * *"), r"give Schedule\.cron\('0 4 \* \* \*'\)"),  # type: ignore[arg-type]
    ],
)
def test_what_makes_no_rule_is_refused_at_once_with_what_to_give(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("75 * * * *", r"'75 \* \* \* \*': '75' is no minute; give \* or 0 to 59"),
        ("*/0 * * * *", r"'\*/0' is no minute"),
        ("* 24 * * *", r"'24' is no hour; give \* or 0 to 23"),
        ("* * 0 * *", r"'0' is no day-of-month; give \* or 1 to 31, L or LW"),
        ("* * 32 * *", r"'32' is no day-of-month"),
        ("* * * 13 *", r"'13' is no month; give \* or 1 to 12, or jan to dec"),
        ("* * 31 13 *", r"'13' is no month"),
        ("* * * * 8", r"'8' is no day-of-week; give \* or 0 to 7, or sun to sat"),
        ("60 * * * * *", r"'60' is no second"),
        ("* * * * sun,jan,fri", r"'sun,jan,fri' is no day-of-week"),
        ("* * * jan-sat *", r"'jan-sat' is no month"),
        ("* 22-2 * * *", r"'22-2' is no hour; .* a range from low to high"),
        ("* 2- * * *", r"'2-' is no hour"),
        ("5,,6 * * * *", r"'5,,6' is no minute"),
        ("* * * * fri#6", r"'fri#6' is no day-of-week"),
        ("* * * *", r"has 4 fields: give minute, hour"),
        ("* * * * * * *", r"has 7 fields"),
        ("", r"has 0 fields"),
        ("0 4 * * * Europe/Berlin", r"a time zone goes into tz="),
        ("@never", r"'@never': give one of @hourly, @daily"),
        ("@daily 5", r"'@daily 5': give one of @hourly"),
        ("@reboot", r"'@reboot': a schedule names times, and knows of no machine's start"),
        ("0 0 31 2 *", r"'0 0 31 2 \*' never matches"),
        ("0 0 30 feb *", r"never matches"),
        ("0 0 31 2,4,6 *", r"never matches"),
        ("0 0 */31 * mon#2", r"never matches"),
        ("0 0 */30 2 mon#2", r"never matches"),
        ("9" * 5000 + " * * * *", r"cron text of 5008 characters holds a number out of range"),
        ("٣ 4 * * *", r"give digits"),
        ("0 0 * ﬆ *", r"give digits"),
        (None, r"cron text None: give text"),
        (b"0 4 * * *", r"give text"),
    ],
)
def test_a_cron_text_that_is_none_or_never_matches_is_refused_when_it_is_written(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule.cron(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "every",
        "every 90",
        "every 90 seconds",
        "every 0 s",
        "every 0.5 s",
        "every 1.0001 s",
        "every -5 s",
        "every 99999999999 s",
        "every ٣ s",
        "every 90 s from",
        "every 90 s from yesterday",
        "every 90 s from 2026-01-01T00:00:00",
        "every 90 s from 0001-01-01T00:00:00+05:00",
        "every 90 s from 2026-01-01T00:00:00.000001+00:00",
        "every 90 s\n",
        "0 4 * * * Europe/Berlyn",
        "0 4 * * Europe/Berlin",
        "0 4 * * * Europe/Berlin Europe/Berlin",
        "@daily @daily",
        "@daily Europe/Berlin x",
        "75 * * * * Europe/Berlin",
        "garbage",
        None,
        b"every 90 s",
        90,
    ],
)
def test_a_text_that_is_no_schedules_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Schedule.parse(text)


@given(st.text(max_size=40) | st.text("0123456789*/-,L#WFRIMONJAN@ every sfrom.:+T", max_size=40))
def test_any_text_is_a_schedule_or_a_value_error(text: str) -> None:
    try:
        schedule = Schedule.parse(text)
    except ValueError:
        return
    assert Schedule.parse(schedule.text) == schedule


def ask(schedule: Schedule) -> Iterator[Callable[[datetime], object]]:
    """Each question about a moment."""
    yield schedule.next_after
    yield schedule.last_before
    yield lambda moment: schedule.between(moment, NEW_YEAR)
    yield lambda moment: schedule.between(NEW_YEAR, moment)
    yield lambda moment: schedule.count(moment, NEW_YEAR)
    yield lambda moment: schedule.count(NEW_YEAR, moment)


@pytest.mark.parametrize("schedule", [Schedule.daily(), Schedule.every(60)], ids=str)
def test_a_moment_without_a_zone_is_refused_at_the_call(schedule: Schedule) -> None:
    for question in ask(schedule):
        with pytest.raises(ValueError, match="has no time zone"):
            question(datetime(2026, 1, 1))


@pytest.mark.parametrize("schedule", [Schedule.daily(), Schedule.every(60)], ids=str)
def test_a_moment_that_utc_cannot_tell_is_refused(schedule: Schedule) -> None:
    for question in ask(schedule):
        with pytest.raises(ValueError, match="not in the years 1 to 9999 of UTC"):
            question(datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))))


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule.daily(tz="Asia/Tokyo"),
        Schedule.cron("* * * * *", "America/New_York"),
        Schedule.cron("59 59 23 31 12 *"),
        Schedule.cron("0 0 1 1 *", "Pacific/Kiritimati"),
        Schedule.cron("0 0 29 2 *"),
        Schedule.every(timedelta(days=1)),
        Schedule.every(9_000_000_000),
    ],
    ids=str,
)
def test_time_ends_with_the_year_9999_and_begins_with_the_year_1(schedule: Schedule) -> None:
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)

    assert first < schedule.next_after(first) < schedule.last_before(last) < last
    with pytest.raises(ValueError, match=r"has no slot after 9999-12-31 .*: there are only the years 1 to 9999"):
        schedule.next_after(last)
    with pytest.raises(ValueError, match=r"has no slot before 0001-01-01 .*: there are only the years 1 to 9999"):
        schedule.last_before(first)
    assert schedule.next_after(first) == next(schedule.between(first, last))
    assert list(schedule.between(schedule.last_before(last), last)) == []
    assert list(schedule.between(last, last)) == []


# What holds for every rule


def fields(low: int, high: int) -> st.SearchStrategy[str]:
    """What may stand in a field of numbers."""
    value = st.integers(low, high)
    span = st.tuples(value, value).map(lambda pair: f"{min(pair)}-{max(pair)}")
    star = st.just("*")
    stepped = st.tuples(st.one_of(star, span, value.map(str)), st.integers(1, high + 2)).map(
        lambda pair: f"{pair[0]}/{pair[1]}"
    )
    term = st.one_of(value.map(str), span, stepped, star)
    return st.one_of(star, value.map(str), st.lists(term, min_size=1, max_size=4).map(",".join))


def also(field: st.SearchStrategy[str], *others: str) -> st.SearchStrategy[str]:
    return st.lists(st.one_of(field, st.sampled_from(others)), min_size=1, max_size=3).map(",".join) | field


FIVE = st.tuples(
    fields(0, 59),
    fields(0, 23),
    also(fields(1, 31), "L", "LW"),
    also(fields(1, 12), "feb", "mar-jun"),
    also(fields(0, 7), "fri", "mon-wed", "tue#2", "0#1", "5L", "7L"),
).map(" ".join)
SIX = st.tuples(fields(0, 59), FIVE).map(" ".join)
ZONES = st.sampled_from(
    [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "America/St_Johns",
        "Australia/Lord_Howe",
        "Africa/Casablanca",
        "Asia/Kathmandu",
        "Pacific/Apia",
        "Pacific/Kwajalein",
        "Europe/Dublin",
    ]
)
MOMENTS = st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
CRONS = st.builds(lambda text, tz: (text, tz), FIVE | SIX, ZONES)
EVERY = st.builds(
    Schedule.every,
    st.integers(1000, 10**9).map(lambda ms: timedelta(milliseconds=ms)),
    st.none() | MOMENTS.map(lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)),
)


def cron(text: str, tz: str = "UTC") -> Schedule:
    """A rule, if there is one of this text."""
    try:
        return Schedule.cron(text, tz)
    except ValueError as error:
        assume("never matches" not in str(error))
        raise


RULES = CRONS.map(lambda given: cron(*given)) | EVERY


@given(RULES)
def test_a_schedule_comes_back_from_its_text_and_from_its_pickle(schedule: Schedule) -> None:
    assert Schedule.parse(schedule.text) == schedule
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert schedule.text.isprintable()
    assert str(schedule).isprintable()


@given(FIVE | SIX)
def test_the_text_that_a_rule_is_written_as_means_what_it_was_made_from(text: str) -> None:
    cron(text)
    given, written = Crontab.parse(text), Crontab.parse(Crontab.parse(text).text)

    for name in (
        "text",
        "times",
        "hours",
        "minutes",
        "seconds",
        "days",
        "months",
        "weekdays",
        "either",
        "by_the_clock",
    ):
        assert getattr(given, name) == getattr(written, name), name


@given(FIVE | SIX, MOMENTS)
@settings(max_examples=50)
def test_in_utc_the_slots_are_those_that_cronsim_itself_goes_through(text: str, moment: datetime) -> None:
    schedule = cron(text)

    expected = list(islice(CronSim(text, moment), 5))

    assert list(islice(schedule.between(moment, datetime.max.replace(tzinfo=UTC)), 5)) == expected


@given(RULES, MOMENTS)
@example(Schedule.cron("30 2 * * *", "Europe/Berlin"), datetime(2026, 3, 27, tzinfo=UTC))
@example(Schedule.cron("*/30 * * * *", "Australia/Lord_Howe"), datetime(2026, 4, 4, tzinfo=UTC))
@example(Schedule.cron("0 * * * *", "America/New_York"), datetime(2026, 11, 1, tzinfo=UTC))
def test_all_ways_to_ask_for_slots_agree(schedule: Schedule, moment: datetime) -> None:
    ahead = list(islice(schedule.between(moment, datetime.max.replace(tzinfo=UTC)), 60))
    in_utc = [slot.astimezone(UTC) for slot in ahead]
    last = in_utc[-1]

    assert all(earlier < later for earlier, later in pairwise([moment, *in_utc]))
    assert list(schedule.between(moment, last)) == ahead
    assert schedule.count(moment, last) == len(ahead)
    assert schedule.count(moment, last - timedelta(microseconds=1)) == len(ahead) - 1
    for earlier, later in pairwise([moment, *ahead]):
        assert schedule.next_after(earlier).astimezone(UTC) == later.astimezone(UTC)
    for earlier, later in pairwise(ahead):
        assert schedule.last_before(later).astimezone(UTC) == earlier.astimezone(UTC)
    assert schedule.last_before(in_utc[0]).astimezone(UTC) <= moment


@given(
    RULES, MOMENTS, st.timedeltas(timedelta(0), timedelta(days=3)), st.timedeltas(timedelta(0), timedelta(days=3))
)
def test_slots_of_two_windows_are_those_of_both_together(
    schedule: Schedule, moment: datetime, first: timedelta, second: timedelta
) -> None:
    middle, end = moment + first, moment + first + second
    assume(schedule.count(moment, end) < 5000)

    whole = list(schedule.between(moment, end))

    assert [*schedule.between(moment, middle), *schedule.between(middle, end)] == whole
    assert schedule.count(moment, middle) + schedule.count(middle, end) == len(whole)
