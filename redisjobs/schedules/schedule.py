"""`Schedule`, the value that says when a job is pushed again and again. It needs no store and no clock.

The first schedule imports the modules that it needs, because not every program has schedules.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Any, TypeVar

from redisjobs.base.arguments import seconds
from redisjobs.schedules.slots import SlotRule, in_utc

Value = TypeVar("Value")

_EVERY = re.compile(r"every (\d{1,12}(?:\.\d{1,3})?) s(?: from (\S+))?", re.ASCII)
_LONGEST_MONTH = dict.fromkeys(range(1, 13), 31) | dict.fromkeys((4, 6, 9, 11), 30) | {2: 29}


@dataclass(frozen=True, slots=True, repr=False)
class Schedule(SlotRule):
    """A rule of time for something that happens again and again.

    Make one with its class methods: `Schedule.daily(hour=4, tz="Europe/Berlin")`, `Schedule.every(90)`,
    `Schedule.cron("*/5 9-17 * * mon-fri")`. It is a value: two schedules with the same text are equal, a schedule
    can be a dict key and be pickled, and `str` returns it in words. The moments it names are its slots.

    A time zone, `tz`, is a name like `"Europe/Berlin"`, a `ZoneInfo` or `timezone.utc`. A value out of range, an
    empty list and an unknown zone raise a `ValueError`.

    When the clock changes, a rule that names its hours and minutes follows the clock: a skipped time fires once,
    at the moment after; a time that comes twice fires the first time. A rule whose minutes or hours begin with
    `*` follows elapsed time, and so does `every`.

    Its methods take aware datetimes in any zone. They return slots in the rule's zone, and in UTC for `every`.
    Python compares two datetimes of one zone without their UTC offset: around a change of the clock, compare them
    in UTC.
    """

    def __post_init__(self) -> None:
        if not hasattr(self._rule, "ascending"):
            raise ValueError(
                f"Schedule({self._rule!r}): give Schedule.cron('0 4 * * *'), Schedule.daily(hour=4) or the like"
            )

    # Making one

    @classmethod
    def every_minute(cls, *, second: int = 0, tz: str | tzinfo = "UTC") -> "Schedule":
        """Return a schedule for every minute, at one second."""
        return _at(second=str(_number(second, "second", 59)), tz=tz)

    @classmethod
    def on_minutes(cls, minutes: Iterable[int], *, second: int = 0, tz: str | tzinfo = "UTC") -> "Schedule":
        """Return a schedule for these minutes of every hour, from 0 to 59."""
        at = str(_number(second, "second", 59))
        return _at(second=at, minute=_numbers(minutes, "minutes", 0, 59), tz=tz)

    @classmethod
    def hourly(cls, *, minute: int = 0, tz: str | tzinfo = "UTC") -> "Schedule":
        """Return a schedule for every hour."""
        return _at(minute=str(_number(minute, "minute", 59)), tz=tz)

    @classmethod
    def on_hours(cls, hours: Iterable[int], *, minute: int = 0, tz: str | tzinfo = "UTC") -> "Schedule":
        """Return a schedule for these hours of every day, from 0 to 23."""
        at = str(_number(minute, "minute", 59))
        return _at(minute=at, hour=_numbers(hours, "hours", 0, 23), tz=tz)

    @classmethod
    def daily(cls, *, hour: int = 0, minute: int = 0, tz: str | tzinfo = "UTC") -> "Schedule":
        """Return a schedule for every day."""
        return _at_time(hour, minute, tz)

    @classmethod
    def on_days(
        cls, days: Iterable[str], *, hour: int = 0, minute: int = 0, tz: str | tzinfo = "UTC"
    ) -> "Schedule":
        """Return a schedule for these weekdays. A day is a word: `"mon"` or `"monday"`."""
        weekdays = [_weekday(day, "days") for day in _some(days, "days", "['mon', 'fri']")]
        return _at_time(hour, minute, tz, weekday=_listed(weekdays))

    @classmethod
    def weekly(cls, day: str, *, hour: int = 0, minute: int = 0, tz: str | tzinfo = "UTC") -> "Schedule":
        """Return a schedule for one weekday of every week. The day is a word: `"mon"` or `"monday"`."""
        return _at_time(hour, minute, tz, weekday=str(_weekday(day, "day")))

    @classmethod
    def on_dates(
        cls, dates: Iterable[int], *, hour: int = 0, minute: int = 0, tz: str | tzinfo = "UTC"
    ) -> "Schedule":
        """Return a schedule for these days of every month, from 1 to 31. Months that lack a day skip it."""
        return _at_time(hour, minute, tz, date=_numbers(dates, "dates", 1, 31))

    @classmethod
    def monthly(cls, date: int, *, hour: int = 0, minute: int = 0, tz: str | tzinfo = "UTC") -> "Schedule":
        """Return a schedule for every month that has the day. For the last day use `cron("0 0 L * *")`."""
        return _at_time(hour, minute, tz, date=str(_number(date, "date", 31, low=1)))

    @classmethod
    def on_months(
        cls,
        months: Iterable[int | str],
        date: int,
        *,
        hour: int = 0,
        minute: int = 0,
        tz: str | tzinfo = "UTC",
    ) -> "Schedule":
        """Return a schedule for one day of these months; each month must have that day.

        The date is from 1 to 31. A month is a number from 1 to 12, or a word: `"feb"` or `"february"`.
        """
        numbers = [_month(month, "months") for month in _some(months, "months", "[1, 7]")]
        return _at_date(numbers, date, hour, minute, tz)

    @classmethod
    def yearly(
        cls, month: int | str, date: int, *, hour: int = 0, minute: int = 0, tz: str | tzinfo = "UTC"
    ) -> "Schedule":
        """Return a schedule for one day of every year; 29 February fires only in the years that have it.

        The date is from 1 to 31. The month is a number from 1 to 12, or a word: `"feb"` or `"february"`.
        """
        return _at_date([_month(month, "month")], date, hour, minute, tz)

    @classmethod
    def cron(cls, text: str, tz: str | tzinfo = "UTC") -> "Schedule":
        """Return a schedule of a cron text: minute, hour, day of month, month, day of week.

        With six fields the first one is the second. The text may also be `@hourly`, `@daily`, `@midnight`,
        `@weekly`, `@monthly`, `@yearly` or `@annually`.

        Raises:
            ValueError: It is no cron text, it never matches (`0 0 31 2 *`), or the zone is unknown.
        """
        from redisjobs.schedules.crontab import Crontab
        from redisjobs.schedules.recurrence import Calendar
        from redisjobs.schedules.zones import zone

        return cls(Calendar(Crontab.parse(text), *zone(tz)))

    @classmethod
    def every(cls, interval: float | timedelta, anchor: datetime | None = None) -> "Schedule":
        """Return a schedule with a fixed interval, by elapsed time.

        Args:
            interval: Seconds or a timedelta, from 1 s up, in whole ms.
            anchor: One of the slots, an aware datetime in whole ms; there are also slots before it. Defaults to
                the start of 1970 in UTC, so that all processes have the same slots.

        Raises:
            ValueError: The interval is too short, a value is not in whole ms, or the anchor has no zone.
        """
        from redisjobs.schedules.recurrence import FixedInterval

        if anchor is None:
            return cls(FixedInterval(_interval(interval)))
        return cls(FixedInterval(_interval(interval), _in_whole_ms(in_utc(anchor, "anchor"))))

    @classmethod
    def parse(cls, text: str) -> "Schedule":
        """Return the schedule with this `text`; raise a ValueError for any other text."""
        if not isinstance(text, str):
            raise ValueError(f"{text!r}: give the text of a schedule, such as '0 4 * * * Europe/Berlin'")
        if text.split()[:1] == ["every"]:
            return _parse_every(text)
        from redisjobs.schedules.crontab import without_zone

        return cls.cron(*without_zone(text))

    def __str__(self) -> str:
        from redisjobs.schedules.words import words

        return words(self._rule) or self.text

    def __repr__(self) -> str:
        return f"Schedule.{self._rule.code}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the schedule as its text, because another machine has its own time zone data."""
        return Schedule.parse, (self.text,)


def _at_date(months: Collection[int], date: int, hour: int, minute: int, tz: str | tzinfo) -> Schedule:
    from redisjobs.schedules.crontab import MONTHS

    day = _number(date, "date", 31, low=1)
    for month in months:
        if date > _LONGEST_MONTH[month]:
            raise ValueError(f"date={date}: {MONTHS[month]} has no such day; give 1 to {_LONGEST_MONTH[month]}")
    return _at_time(hour, minute, tz, date=str(day), month=_listed(months))


def _at_time(
    hour: int, minute: int, tz: str | tzinfo, *, date: str = "*", month: str = "*", weekday: str = "*"
) -> Schedule:
    at_hour, at_minute = str(_number(hour, "hour", 23)), str(_number(minute, "minute", 59))
    return _at(minute=at_minute, hour=at_hour, date=date, month=month, weekday=weekday, tz=tz)


def _at(
    *,
    second: str = "0",
    minute: str = "*",
    hour: str = "*",
    date: str = "*",
    month: str = "*",
    weekday: str = "*",
    tz: str | tzinfo,
) -> Schedule:
    return Schedule.cron(f"{second} {minute} {hour} {date} {month} {weekday}", tz)


def _parse_every(text: str) -> Schedule:
    found = _EVERY.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{text!r}: give an interval in seconds, such as 'every 90 s', "
            "or 'every 90 s from 2026-01-01T00:00:00+00:00'"
        )
    interval, anchor = found.groups()
    try:
        return Schedule.every(float(interval), datetime.fromisoformat(anchor) if anchor else None)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None


# Checks of arguments


def _in_whole_ms(anchor: datetime) -> datetime:
    if anchor.microsecond % 1000:
        raise ValueError(f"anchor={anchor}: give whole milliseconds, as anchor.replace(microsecond=0)")
    return anchor


def _interval(interval: float | timedelta) -> timedelta:
    given = seconds(interval, "interval")
    step = timedelta(milliseconds=round(given * 1000))
    exact = (
        interval == step if isinstance(interval, timedelta) else abs(given * 1000 - round(given * 1000)) < 0.005
    )
    if given < 1 or not exact:
        raise ValueError(f"interval={interval!r}: give seconds from 1 up, or a timedelta, in whole milliseconds")
    return step


def _number(value: int, what: str, high: int, *, low: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{what}={value!r}: give a whole number from {low} to {high}")
    return value


def _some(values: Iterable[Value], what: str, example: str) -> list[Value]:
    found = [] if isinstance(values, str) or not isinstance(values, Iterable) else list(values)
    if not found:
        raise ValueError(f"{what}={values!r}: give a list with at least one, such as {example}")
    return found


def _numbers(values: Iterable[int], what: str, low: int, high: int) -> str:
    return _listed([_number(value, what, high, low=low) for value in _some(values, what, f"[{low}, {high}]")])


def _listed(values: Iterable[int]) -> str:
    return ",".join(str(value) for value in values)


def _weekday(word: str, what: str) -> int:
    from redisjobs.schedules.crontab import WEEKDAYS

    if found := _named(word, WEEKDAYS):
        return found
    raise ValueError(f"{what}={word!r}: give a weekday as a word, such as 'mon' or 'monday'")


def _month(month: int | str, what: str) -> int:
    from redisjobs.schedules.crontab import MONTHS

    if isinstance(month, int):
        return _number(month, what, 12, low=1)
    if found := _named(month, MONTHS):
        return found
    raise ValueError(f"{what}={month!r}: give 1 to 12, or a word, such as 'feb' or 'february'")


def _named(word: str, names: Mapping[int, str]) -> int | None:
    """Return the number of a name, or of its first three letters."""
    known = {cut: number for number, name in names.items() for cut in (name.lower(), name[:3].lower())}
    return known.get(word.strip().lower()) if isinstance(word, str) else None
