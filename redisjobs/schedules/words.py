"""Rules in words: "Monday to Friday at 09:00, Europe/Berlin". Pure."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, timedelta

from redisjobs.schedules.crontab import LAST, LAST_WEEKDAY, MONTHS, WEEKDAYS, Crontab, Weekday, ranges
from redisjobs.schedules.recurrence import EPOCH, Calendar, FixedInterval

_UNITS = {"hour": timedelta(hours=1), "minute": timedelta(minutes=1), "second": timedelta(seconds=1)}
_MOST_TIMES = 4  # times of day to list; more are described by minutes and hours
_MOST_VALUES = 12  # values to list; a longer list is no easier to read than the cron text


def words(rule: Calendar | FixedInterval) -> str | None:
    """Return a rule in words; None if its text is easier to read."""
    return _interval_words(rule) if isinstance(rule, FixedInterval) else _calendar_words(rule)


def _interval_words(interval: FixedInterval) -> str:
    unit, length = next(
        ((unit, length) for unit, length in _UNITS.items() if not interval.step % length),
        ("second", _UNITS["second"]),
    )
    number = f"{interval.step / length:.3f}".rstrip("0").rstrip(".")
    every = f"every {unit}" if number == "1" else f"every {number} {unit}s"
    if interval.anchor == EPOCH:
        return every
    return f"{every}, counted from {interval.anchor.replace(tzinfo=UTC)}"


def _calendar_words(calendar: Calendar) -> str | None:
    times, dates = _times(calendar.crontab), _dates(calendar.crontab)
    if times is None or dates is None:
        return None
    if times.startswith("at ") and len(calendar.crontab.times) <= _MOST_TIMES:
        told = f"{dates} {times}"
    else:
        told = times if dates == "every day" else f"{times}, {dates}"
    return f"{told}, {calendar.zone_name}"


# Times of day


def _times(crontab: Crontab) -> str | None:
    if len(crontab.times) <= _MOST_TIMES:
        exact = "minutes" if crontab.seconds == {0} else "seconds"
        return f"at {_and([time.isoformat(exact) for time in crontab.times])}"
    if len(crontab.times) == 24 * 60 * 60:
        return "every second"
    if len(crontab.seconds) > 1:
        return None
    told = _minutes_and_hours(sorted(crontab.minutes), sorted(crontab.hours))
    (second,) = crontab.seconds
    return f"{told}, at second {second}" if told and second else told


def _minutes_and_hours(minutes: list[int], hours: list[int]) -> str | None:
    often = _often(minutes, 60)
    if not often and len(minutes) > _MOST_VALUES:
        return None
    at = f"at minute{'s' if len(minutes) > 1 else ''} {_and(minutes)}"
    if len(hours) == 24:
        return f"every {often}" if often else f"every hour {at}"
    if len(hours) == hours[-1] - hours[0] + 1:
        within = f"from {hours[0]:02}:00 to {hours[-1]:02}:59"
        return f"every {often} {within}" if often else f"every hour {at} {within}"
    if not often and (hourly := _often(hours, 24)):
        return f"every {hourly.replace('minute', 'hour')} {at}"
    if len(hours) > _MOST_VALUES:
        return None
    return f"{f'every {often}' if often else at} in the hours {_and(hours)}"


def _often(values: list[int], of: int) -> str | None:
    """Return "minute" or "N minutes" if the values are evenly spaced around the clock; else None."""
    step = of // len(values)
    if len(values) == 1 or values != list(range(0, of, step)) or of % step:
        return None
    return "minute" if step == 1 else f"{step} minutes"


# Dates


def _dates(crontab: Crontab) -> str | None:
    any_day = crontab.days >= set(range(1, 32))
    any_weekday = crontab.weekdays >= set(range(1, 8))
    months = _months(crontab.months)
    if (any_day or any_weekday) if crontab.either else (any_day and any_weekday):
        return "every day" if not months else f"every day in {months}"
    on_weekdays = _weekdays(crontab.weekdays, months)
    on_days = _days(crontab.days, months)
    if crontab.either:
        return f"{on_days} and {on_weekdays}" if on_days else None
    if any_day:
        return on_weekdays
    return on_days if any_weekday else None


def _months(months: Collection[int]) -> str:
    return "" if len(months) == 12 else _and(_spans(sorted(months), MONTHS))


def _days(days: frozenset[int], months: str) -> str | None:
    names = {day: _ordinal(day) for day in range(1, 32)}
    told = _spans(sorted(day for day in days if day > 0), names)
    told += [
        name for day, name in ((LAST, "last day"), (LAST_WEEKDAY, "last day from Monday to Friday")) if day in days
    ]
    return f"on the {_and(told)} of {months or 'every month'}" if len(told) <= _MOST_VALUES else None


def _weekdays(weekdays: frozenset[Weekday], months: str) -> str:
    plain = sorted(day for day in weekdays if isinstance(day, int))
    told = []
    if plain:
        spans = _spans(plain, WEEKDAYS)
        every = "" if len(spans) == 1 and len(plain) > 1 else "every "
        told.append(f"{every}{_and(spans)}" + (f" in {months}" if months else ""))
    which = sorted(
        (which if which > 0 else 6, day) for day, which in (each for each in weekdays if isinstance(each, tuple))
    )
    if which:
        named = [f"{_ordinal(place) if place < 6 else 'last'} {WEEKDAYS[day]}" for place, day in which]
        told.append(f"on the {_and(named)} of {months or 'every month'}")
    return " and ".join(told)


def _spans(values: list[int], names: Mapping[int, str]) -> list[str]:
    return [names[low] if low == high else f"{names[low]} to {names[high]}" for low, high in ranges(values)]


def _ordinal(number: int) -> str:
    ending = "th" if 11 <= number <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _and(values: Sequence[object]) -> str:
    *others, last = (str(value) for value in values)
    return f"{', '.join(others)} and {last}" if others else last
