"""Time zones: which one is meant, and how its clock runs through one day of UTC. Pure.

A zone is looked at as stretches of time in which its offset stays the same. Inside of one, local time is plain
arithmetic; what is special about a change of the clock stands in the stretch that follows it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

TICK = timedelta(microseconds=1)  # the smallest step of a datetime
DAY = timedelta(days=1)
FIRST = datetime(1, 1, 2)
"""Where time begins, in UTC: a day later than datetime's, so that every zone can tell its own time."""
LAST = datetime(9999, 12, 31)
"""Where it ends, a day earlier."""

_HOUR = timedelta(hours=1)
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Part of a day of UTC in which a zone's offset stays the same; in local time, `end` excluded."""

    begin: datetime
    end: datetime
    offset: timedelta  # local time minus UTC
    repeated: bool = False  # its local times have been before: the clock was set back
    skipped: datetime | None = None  # the first of the local times that the clock jumped over to get to `begin`


def zone(tz: str | tzinfo) -> tuple[str, tzinfo]:
    """Return a zone's name, and the zone.

    Raises:
        ValueError: It is no name, `ZoneInfo` or `timezone.utc`, or this machine knows no zone of that name.
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
    except (KeyError, ValueError, OSError):  # of a folder it is an OSError
        raise ValueError(
            f"tz={name!r}: this machine knows no such time zone; check the spelling, such as 'Europe/Berlin', "
            "or install tzdata"
        ) from None


@lru_cache(maxsize=4096)
def stretches(zone: tzinfo, day: date) -> tuple[Stretch, ...]:
    """Return the stretches of a day of UTC, from `FIRST` to before `LAST`, in order."""
    return tuple(_stretches(zone, datetime.combine(day, time())))


def _stretches(zone: tzinfo, day: datetime) -> Iterator[Stretch]:
    # No clock was ever set back by more than 24 h: what it showed earlier than the day before does not come again.
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
    """Return a day's parts of one offset: where each begins and ends, in UTC, and its offset."""
    parts = []
    begin, offset, end = day, _offset(zone, day), day + DAY
    for hour in range(1, 25):
        probe = day + hour * _HOUR
        while _offset(zone, probe) != offset:
            change = _change(zone, max(begin, probe - _HOUR), probe)
            if change == end:  # the next day's
                break
            parts.append((begin, change, offset))
            begin, offset = change, _offset(zone, change)
    return (*parts, (begin, end, offset))


def _change(zone: tzinfo, before: datetime, after: datetime) -> datetime:
    """Return the first second in UTC of another offset than that of `before`; `after` has another one."""
    offset = _offset(zone, before)
    while after - before > _SECOND:
        middle = before + (after - before) // _SECOND // 2 * _SECOND
        if _offset(zone, middle) == offset:
            before = middle
        else:
            after = middle
    return after


def _offset(zone: tzinfo, moment: datetime) -> timedelta:
    """Return the offset of a zone at a moment, which is given in UTC without saying so."""
    return zone.fromutc(moment.replace(tzinfo=zone)).replace(tzinfo=None) - moment
