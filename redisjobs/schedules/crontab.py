"""Cron texts: the dates and times of day that each names, and its normalized text. Pure; cronsim parses them."""

import re
from bisect import bisect_left
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import cache, lru_cache
from itertools import count, pairwise, product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cronsim import CronSim

LAST = -1000
"""cronsim's value for L: the last day of the month, or, with a weekday, the last such weekday of the month."""
LAST_WEEKDAY = -1001
"""cronsim's value for LW: the last day of the month that is not on a weekend."""

WEEKDAYS = dict(enumerate(["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"], 1))
MONTHS = {
    1: "January",
    2: "February",
    3: "March",
    4: "April",
    5: "May",
    6: "June",
    7: "July",
    8: "August",
    9: "September",
    10: "October",
    11: "November",
    12: "December",
}

NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}

_FIELDS = {
    "second": "0 to 59",
    "minute": "0 to 59",
    "hour": "0 to 23",
    "day-of-month": "1 to 31, L or LW",
    "month": "1 to 12, or jan to dec",
    "day-of-week": "0 to 7, or sun to sat, also fri#2 or 5L",
}
"""The fields in order, by their names in cronsim, with the values that each allows."""

_DAY = timedelta(days=1)
_START = datetime(2000, 1, 1, tzinfo=UTC)  # cronsim needs a start, but is not iterated here
_YEARS = date(2000, 1, 1), date(2027, 12, 31)
"""28 years that include each of the 14 possible calendars. A text that matches no date in them never matches."""

# The sixth of six words: a field if it matches this, else a time zone after five fields. Time zones begin with a
# letter, and none is called like a weekday.
_WEEKDAY = re.compile(r"[^a-z]|(mon|tue|wed|thu|fri|sat|sun)\b", re.IGNORECASE)

Weekday = int | tuple[int, int]
"""A weekday from Monday, 1, to Sunday, 7; or a weekday and its number in the month."""


@dataclass(frozen=True, slots=True)
class Crontab:
    """The dates and times of day that a cron text names."""

    text: str  # normalized: values in order, as ranges and names where possible
    seconds: frozenset[int] = field(compare=False)
    minutes: frozenset[int] = field(compare=False)
    hours: frozenset[int] = field(compare=False)
    days: frozenset[int] = field(compare=False)  # of the month; also `LAST` and `LAST_WEEKDAY`
    months: frozenset[int] = field(compare=False)
    weekdays: frozenset[Weekday] = field(compare=False)  # with `LAST`: the last one of the month
    either: bool = field(compare=False)  # a date matches by its day of the month or by its weekday
    by_the_clock: bool = field(compare=False)  # neither hours nor minutes begin with `*`
    times: tuple[time, ...] = field(compare=False, repr=False)  # times of day, ascending
    _cronsim: "CronSim" = field(compare=False, repr=False)

    @classmethod
    def parse(cls, text: str) -> "Crontab":
        """Parse five fields, six fields with the seconds first, or a nickname such as `@daily`.

        Raises:
            ValueError: The text is none of these, or matches no date in any year.
        """
        read = _read(text)
        parts = read.parts
        seconds, minutes, hours = (frozenset(values) for values in (read.seconds, read.minutes, read.hours))
        weekdays = frozenset(_monday_first(value) for value in read.weekdays)
        found = cls(
            text=_written(read, weekdays),
            seconds=seconds,
            minutes=minutes,
            hours=hours,
            days=frozenset(read.days),
            months=frozenset(read.months),
            weekdays=weekdays,
            either=not read.day_and,
            by_the_clock=not (parts[1].startswith("*") or parts[2].startswith("*")),
            times=_times(hours, minutes, seconds),
            _cronsim=read,
        )
        if next(found.dates(*_YEARS), None) is None:
            raise _never(text)
        return found

    def dates(self, start: date, stop: date) -> Iterator[date]:
        """Yield the matching dates from `start` to `stop`, both included, forwards or backwards."""
        step = _DAY if start <= stop else -_DAY
        day = start
        while True:
            if day.month in self.months:
                if self._cronsim.match_day(day):
                    yield day
                if day == stop:
                    return
                day += step
            elif (day.year, day.month) == (stop.year, stop.month):
                return
            else:
                day = _into_next_month(day, step)

    def runs(self, begin: datetime, end: datetime) -> Iterator[tuple[date, int, int]]:
        """Yield the matches from `begin` to before `end`, local times less than two days apart.

        Each match is a date with the start and stop index of its times of day in `times`; none is empty.
        """
        first, last = begin.date(), end.date()
        for ordinal in range(first.toordinal(), last.toordinal() + 1):
            day = date.fromordinal(ordinal)
            start = bisect_left(self.times, begin.time()) if day == first else 0
            stop = bisect_left(self.times, end.time()) if day == last else len(self.times)
            if start < stop and day.month in self.months and self._cronsim.match_day(day):
                yield day, start, stop


@lru_cache(maxsize=256)
def _times(hours: frozenset[int], minutes: frozenset[int], seconds: frozenset[int]) -> tuple[time, ...]:
    """Return times of day, ascending. Many rules share them: a rule for each minute has 1,440."""
    return tuple(time(*parts) for parts in product(sorted(hours), sorted(minutes), sorted(seconds)))


def _read(text: str) -> "CronSim":
    from cronsim import CronSim, CronSimError  # here, because not every program has schedules

    fields = _fields(text)
    try:
        return CronSim(" ".join(fields), _START)
    except CronSimError as error:
        wrong = str(error)
    except ValueError:  # a number of thousands of digits
        raise ValueError(f"cron text of {len(text)} characters holds a number out of range") from None
    if wrong == "Bad day-of-month":  # maybe the day is valid, but none of the months has it
        fields[-2] = "*"
        with suppress(CronSimError):
            CronSim(" ".join(fields), _START)
            raise _never(text)
    raise _bad(text, fields, wrong)


def _fields(text: str) -> list[str]:
    if not isinstance(text, str):
        raise ValueError(f"cron text {text!r}: give text, such as '0 4 * * *'")
    words = text.split()
    if words and words[0].startswith("@"):
        words = _nickname(text).split()
    if len(words) != 5 and not (len(words) == 6 and _WEEKDAY.match(words[5])):
        raise ValueError(
            f"cron text {text!r} has {len(words)} fields: give minute, hour, day of month, month and day of week, "
            "such as '0 4 * * *', or six with the second first; a time zone goes into tz="
        )
    if not text.isascii():
        raise ValueError(f"cron text {text!r}: give digits, *, ranges, lists, steps, and names in English")
    return words


def _nickname(text: str) -> str:
    name = text.strip().lower()
    if name == "@reboot":
        raise ValueError(
            f"cron text {text!r}: a schedule names times, and knows of no machine's start; "
            "push a job when your program starts"
        )
    if name not in NICKNAMES:
        raise ValueError(f"cron text {text!r}: give one of {', '.join(NICKNAMES)}, or five fields")
    return NICKNAMES[name]


def _bad(text: str, fields: list[str], error: str) -> ValueError:
    name = error.removeprefix("Bad ")
    wrong = fields[list(_FIELDS).index(name) - len(_FIELDS)]
    return ValueError(
        f"cron text {text!r}: {wrong!r} is no {name}; give * or {_FIELDS[name]}, a range from low to high (1-5), "
        "a list (1,3) or steps from 1 up (*/2)"
    )


def _never(text: str) -> ValueError:
    return ValueError(f"cron text {text!r} never matches: there is no such date in any year")


def _monday_first(value: int | tuple[int, int]) -> Weekday:
    """Return cron's weekday with Sunday as 7; cron allows 0, too."""
    if isinstance(value, tuple):
        return value[0] or 7, value[1]
    return value or 7


def _into_next_month(day: date, step: timedelta) -> date:
    first = day.replace(day=1)
    return (first + 31 * _DAY).replace(day=1) if step > timedelta() else first - _DAY


# Writing

_EVERY_WEEKDAY = [{value or 7 for value in range(0, 8, step)} for step in range(1, 8)]


def _written(read: "CronSim", weekdays: frozenset[Weekday]) -> str:
    """Return the normalized text of the values and stars that cronsim read."""
    second, minute, hour, day, month, weekday = (part.startswith("*") for part in read.parts)
    special = [name for value, name in ((LAST, "L"), (LAST_WEEKDAY, "LW")) if value in read.days]
    nth = sorted(value for value in weekdays if isinstance(value, tuple))
    plain = {value for value in weekdays if isinstance(value, int)}
    fields = [
        _field(read.minutes, _steps(0, 59), minute),
        _field(read.hours, _steps(0, 23), hour),
        _field({value for value in read.days if value > 0}, _steps(1, 31), day, special),
        _field(read.months, _steps(1, 12), month or len(read.months) == 12, names=MONTHS),
        _field(plain, _EVERY_WEEKDAY, weekday, [_nth(*value) for value in nth], names=WEEKDAYS),
    ]
    if read.seconds != {0}:
        fields.insert(0, _field(read.seconds, _steps(0, 59), second or len(read.seconds) == 60))
    return " ".join(fields)


@cache
def _steps(low: int, high: int) -> list[set[int]]:
    """Return the values of `*`, `*/2`, `*/3` and so on."""
    return [set(range(low, high + 1, step)) for step in range(1, high + 2)]


def _field(
    values: Collection[int],
    steps: list[set[int]],
    starred: bool,
    special: Collection[str] = (),
    *,
    names: dict[int, str] | None = None,
) -> str:
    """Return the text of a field. A field that began with a star still does, because the star has a meaning."""
    terms: list[str] = []
    rest = set(values)
    if starred:
        step, covered = next((step, each) for step, each in zip(count(1), steps, strict=False) if each <= rest)
        terms.append("*" if step == 1 else f"*/{step}")
        rest -= covered
    return ",".join([*terms, *_terms(sorted(rest), names or {}), *special])


def _terms(values: list[int], names: dict[int, str]) -> Iterator[str]:
    """Yield the terms of a field: a range with steps, or ranges and single values."""
    steps = {after - before for before, after in pairwise(values)}
    if len(values) > 4 and len(steps) == 1 and steps != {1}:
        yield f"{_name(values[0], names)}-{_name(values[-1], names)}/{steps.pop()}"
        return
    for first, last in ranges(values, {7} if names is WEEKDAYS else set()):
        yield _name(first, names) if first == last else f"{_name(first, names)}-{_name(last, names)}"


def ranges(values: list[int], apart: Collection[int] = ()) -> Iterator[tuple[int, int]]:
    """Yield ascending values as ranges of three or more, and as single values; `apart` are always single."""
    run: list[int] = []
    for value in [*values, None]:
        if run and (value != run[-1] + 1 or value in apart):
            yield from [(run[0], run[-1])] if len(run) > 2 else [(each, each) for each in run]
            run = []
        if value is not None:
            run.append(value)


def _name(value: int, names: dict[int, str]) -> str:
    return names[value][:3].lower() if names else str(value)


def _nth(weekday: int, which: int) -> str:
    return f"{weekday % 7}L" if which == LAST else f"{_name(weekday, WEEKDAYS)}#{which}"


# Reading a text that may end with a time zone


def without_zone(text: str) -> tuple[str, str]:
    """Return a text's fields, and the name of the zone that follows them; "UTC" if there is none."""
    words = text.split()
    fields = 1 if words and words[0].startswith("@") else 5
    if len(words) == 7 or (len(words) == 6 and _WEEKDAY.match(words[5])):
        fields = 6
    if len(words) == fields + 1:
        return " ".join(words[:-1]), words[-1]
    return text, "UTC"
