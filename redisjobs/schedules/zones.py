"""Time zones: finds a zone, and divides a day of UTC into stretches with one UTC offset each. Pure.

Inside a stretch, local time is plain arithmetic. If the clock changed before a stretch, the stretch says which
local times were skipped or come again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

TICK = timedelta(microseconds=1)  # the smallest step of a datetime
DAY = timedelta(days=1)
FIRST = datetime(1, 1, 2)
"""The first moment, in UTC: a day after datetime's, so that the local time of every zone is still a datetime."""
LAST = datetime(9999, 12, 31)
"""The end of time, in UTC: a day before datetime's, for the same reason."""

_HOUR = timedelta(hours=1)
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a day of UTC in which a zone's offset does not change. Its times are local; `end` is excluded."""

    begin: datetime
    end: datetime
    offset: timedelta  # local time minus UTC
    repeated: bool = False  # the clock was set back, so its local times come for the second time
    skipped: datetime | None = None  # the clock was set ahead from this local time to `begin`


def zone(tz: str | tzinfo) -> tuple[str, tzinfo]:
    """Return a zone's name, and the zone.

    Raises:
        ValueError: `tz` is no name, `ZoneInfo` or `timezone.utc`, or this machine knows no zone of that name.
    """
    if tz is UTC:
        return "UTC", UTC
    name = tz.key if isinstance(tz, ZoneInfo) else tz
    if not isinstance(name, str):
        raise ValueError(f"tz={tz!r}: give the name of a time zone, such as 'Europe/Berlin'")
    if name == "UTC":
        return name, UTC
    try:
        return name, ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # OSError: the name of a folder in the time zone data
        raise ValueError(
            f"tz={name!r}: this machine knows no such time zone; check the spelling, such as 'Europe/Berlin', "
            "or install tzdata"
        ) from None


@lru_cache(maxsize=4096)
def stretches(zone: tzinfo, day: date) -> tuple[Stretch, ...]:
    """Return the stretches of a day of UTC in order; the day is from `FIRST` to before `LAST`."""
    return tuple(_stretches(zone, datetime.combine(day, time())))


def _stretches(zone: tzinfo, day: datetime) -> Iterator[Stretch]:
    # No clock was ever set back by more than 24 h, so only local times of the day before can come again.
    before = _parts(zone, day - DAY) if day > FIRST else ()
    reached = max((end + offset for _, end, offset in before), default=None)
    for start, stop, offset in _parts(zone, day):
        begin, end = start + offset, stop + offset
        if reached is None or begin == reached:
            yield Stretch(begin, end, offset)
        elif begin > reached:
            yield Stretch(begin, end, offset, skipped=reached)
        else:
            yield Stretch(begin, min(reached, end), offset, repeated=True)
            if reached < end:
                yield Stretch(reached, end, offset)
        reached = end if reached is None else max(reached, end)


@lru_cache(maxsize=4096)
def _parts(zone: tzinfo, day: datetime) -> tuple[tuple[datetime, datetime, timedelta], ...]:
    """Return the parts of a day with one offset each: begin and end in UTC, and the offset."""
    parts = []
    begin, offset, end = day, _offset(zone, day), day + DAY
    for hour in range(1, 25):
        probe = day + hour * _HOUR
        while _offset(zone, probe) != offset:
            change = _change(zone, max(begin, probe - _HOUR), probe)
            if change == end:  # it belongs to the next day
                break
            parts.append((begin, change, offset))
            begin, offset = change, _offset(zone, change)
    return (*parts, (begin, end, offset))


def _change(zone: tzinfo, before: datetime, after: datetime) -> datetime:
    """Return the first second, in UTC, with another offset than `before`; `after` has another offset."""
    offset = _offset(zone, before)
    while after - before > _SECOND:
        middle = before + (after - before) // _SECOND // 2 * _SECOND
        if _offset(zone, middle) == offset:
            before = middle
        else:
            after = middle
    return after


def _offset(zone: tzinfo, moment: datetime) -> timedelta:
    """Return the offset of a zone at a moment, a naive datetime in UTC."""
    return zone.fromutc(moment.replace(tzinfo=zone)).replace(tzinfo=None) - moment
