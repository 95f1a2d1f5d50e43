"""Checks of the values that callers pass. An error says what is wrong, and what to pass instead."""

import math
import re
from datetime import datetime, timedelta
from enum import StrEnum
from numbers import Number
from typing import TypeGuard, TypeVar

Choice = TypeVar("Choice", bound=StrEnum)

_HALF_A_PAIR = re.compile("[\ud800-\udfff]")
_UNITS = {"s": 1_000, "m": 60_000, "h": 3_600_000}


def number(value: float, what: str) -> float:
    """Return a number; raise a ValueError that names the argument `what` for anything else."""
    if isinstance(value, bool) or not isinstance(value, float | int):
        raise ValueError(f"{what}={value!r}: give a number")
    return value


def whole(value: int, what: str, least: int = 1) -> int:
    """Return a whole number from 1 up; raise a ValueError that names the argument `what` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{what}={value!r}: give a whole number from {least} up")
    return value


def flag(value: object, what: str) -> bool:
    """Return a bool; raise a ValueError that names the argument `what` for anything else."""
    if not isinstance(value, bool):
        raise ValueError(f"{what}={value!r}: give True or False")
    return value


def one_of(kind: type[Choice], value: str, what: str) -> Choice:
    """Return the enum member for a member or its text; raise a ValueError that names the argument `what`."""
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(f"{kind.__name__}.{each.name} ('{each}')" for each in kind)
        raise ValueError(f"{what}={value!r}: give one of {known}") from None


def is_text(value: object, pattern: str) -> TypeGuard[str]:
    """Return whether a value is text that UTF-8 can encode and that matches the whole pattern."""
    return isinstance(value, str) and bool(re.fullmatch(pattern, value)) and not _HALF_A_PAIR.search(value)


def seconds(duration: float | timedelta, what: str) -> float:
    """Return a duration in seconds; raise a ValueError that names the argument `what` for anything else."""
    value = duration.total_seconds() if isinstance(duration, timedelta) else duration
    # Accept any kind of number, for example a Decimal, but no bool: it is an int only by its class.
    if isinstance(value, bool) or not isinstance(value, float | int | Number) or not 0 <= value < 1e10:
        raise ValueError(f"{what}={duration!r}: give seconds from 0 up, or a timedelta")
    return float(value)


def milliseconds(value: float) -> int:
    """Return seconds as whole ms, rounded up, so that no job starts too early."""
    return math.ceil(value * 1000 - 0.001)  # or 1.1 s would be 1,101 ms


def aware(time: datetime, what: str) -> datetime:
    """Return an aware datetime; raise a ValueError that names the argument `what` for anything else."""
    if not isinstance(time, datetime):
        raise ValueError(f"{what}={time!r}: give a datetime, as datetime(2030, 1, 31, 8, tzinfo=UTC)")
    if time.tzinfo is None:
        raise ValueError(f"{what}={time!r} has no time zone; give an aware datetime")
    return time


def pause_of(rate: str) -> float:
    """Return the ms between two jobs at a rate like `100/s`, `20/m` or `5/h`; a ValueError for any other text."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)/([smh])", rate) if isinstance(rate, str) else None
    if not found or not float(found[1]):
        raise ValueError(f"rate={rate!r}: give how many in a second, a minute or an hour, as 100/s, 20/m or 5/h")
    return _UNITS[found[2]] / float(found[1])
