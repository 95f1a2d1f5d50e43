"""Durations and times as callers give them: seconds, a timedelta, an aware datetime."""

import math
from datetime import datetime, timedelta
from numbers import Number


def seconds(duration: float | timedelta, what: str) -> float:
    """A duration given as seconds or as a timedelta, in seconds.

    Args:
        duration: The duration.
        what: What the caller calls it, for the message.

    Raises:
        ValueError: It is negative, or no number of seconds.
    """
    value = duration.total_seconds() if isinstance(duration, timedelta) else duration
    # Any kind of number, a Decimal say, but for bool, which is one by its class only.
    if isinstance(value, bool) or not isinstance(value, float | int | Number) or not 0 <= value < 1e10:
        raise ValueError(f"{what}={duration!r}: give seconds from 0 up, or a timedelta")
    return float(value)


def in_words(seconds: float) -> str:
    """A duration for people, as `2.2 s`, `12 min` or `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def milliseconds(value: float) -> int:
    """Seconds in whole ms, rounded up, for nothing may happen before its time."""
    return math.ceil(value * 1000 - 0.001)  # 1.1 s are no 1,101 ms


def aware(time: datetime, what: str) -> datetime:
    """A moment, if it is one.

    Args:
        time: The moment.
        what: What the caller calls it, for the message.

    Raises:
        ValueError: It is no datetime, or has no time zone.
    """
    if not isinstance(time, datetime):
        raise ValueError(f"{what}={time!r}: give a datetime, as datetime(2030, 1, 31, 8, tzinfo=UTC)")
    if time.tzinfo is None:
        raise ValueError(f"{what}={time!r} has no time zone; give an aware datetime")
    return time
