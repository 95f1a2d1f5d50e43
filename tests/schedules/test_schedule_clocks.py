"""Schedules where clocks change, compared with a table of what each zone's clock shows at each moment.

What a rule should do is said here without any arithmetic of offsets. A rule that names its hours and minutes
fires, for each time that it names, at the first moment when the clock shows that time or a later one, and once for
all that come to the same moment. Any other rule fires at each moment when the clock shows a time that it names.
"""

from bisect import bisect_left, bisect_right
from calendar import monthrange
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import accumulate, pairwise
from zoneinfo import ZoneInfo

import pytest

from redisjobs import Schedule

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
NOTHING = timedelta()


def second(moment: datetime) -> int:
    return int(moment.timestamp())


@dataclass(frozen=True)
class Table:
    """What a zone's clock shows, in seconds since 1970: by UTC, and by that clock.

    Attributes:
        moments: Moments, all as far apart.
        shown: What the clock shows at each.
        latest: The latest that it has shown up to each.
    """

    moments: range
    shown: list[int]
    latest: list[int]


def table(zone: str, begin: datetime, end: datetime, step: timedelta) -> Table:
    clock = ZoneInfo(zone)
    moments = range(second(begin), second(end) + 1, step // SECOND)
    shown = [
        moment + (datetime.fromtimestamp(moment, clock).utcoffset() or NOTHING) // SECOND for moment in moments
    ]
    return Table(moments, shown, list(accumulate(shown, max)))


@dataclass(frozen=True)
class Rule:
    """A cron text, and what it names, said in Python.

    Attributes:
        text: The text.
        hours: The hours.
        minutes: The minutes.
        on: Whether it names a date.
    """

    text: str
    hours: Collection[int]
    minutes: Collection[int]
    on: Callable[[date], bool] = lambda day: True

    @property
    def by_the_clock(self) -> bool:
        minute, hour, *_ = self.text.split()
        return minute[0] != "*" and hour[0] != "*"

    def named(self, known: Table) -> Iterator[int]:
        """All local times that it names while a table lasts."""
        for number in range(known.shown[0] // 86400, known.latest[-1] // 86400 + 1):
            if self.on(date(1970, 1, 1) + number * DAY):
                for hour in self.hours:
                    yield from (number * 86400 + hour * 3600 + minute * 60 for minute in self.minutes)

    def slots(self, known: Table, after: datetime) -> list[int]:
        """When it should fire, of the moments of a table, after one."""
        named = set(self.named(known))
        if self.by_the_clock:
            places = {
                bisect_left(known.latest, each) for each in named if known.shown[0] < each <= known.latest[-1]
            }
            found = [known.moments[place] for place in sorted(places)]
        else:
            found = [moment for moment, shown in zip(known.moments, known.shown, strict=True) if shown in named]
        return found[bisect_right(found, second(after)) :]


def is_last(day: date) -> bool:
    return day.day == monthrange(day.year, day.month)[1]


QUARTERS = range(0, 60, 15)
ALL = range(24)
WORKDAYS = range(5)

RULES = [
    Rule("*/15 * 1,8,15,22,29 * *", ALL, QUARTERS, lambda day: day.day % 7 == 1),
    Rule("0 * * * sat,sun", ALL, [0], lambda day: day.weekday() in (5, 6)),
    Rule("*/30 2 * * *", [2], [0, 30]),
    Rule("45 */2 * * *", range(0, 24, 2), [45]),
    Rule("*/15 1-3 * * sun", [1, 2, 3], QUARTERS, lambda day: day.weekday() == 6),
    Rule("0 0 * * *", [0], [0]),
    Rule("30 2 * * *", [2], [30]),
    Rule("0,15,30,45 0-4 * * *", range(5), QUARTERS),
    Rule("15,45 1-3 * * *", [1, 2, 3], [15, 45]),
    Rule("0 3,2 * * 7L", [2, 3], [0], lambda day: day.weekday() == 6 and (day + 7 * DAY).month != day.month),
    Rule("45 9-17 * * mon-fri", range(9, 18), [45], lambda day: day.weekday() in WORKDAYS),
    Rule("0 2 L * *", [2], [0], is_last),
    Rule("30 1 1-7 * *", [1], [30], lambda day: day.day <= 7),
    Rule("30 1 29 2 *", [1], [30], lambda day: (day.month, day.day) == (2, 29)),
    Rule("15 2 13,29 * sun", [2], [15], lambda day: day.day in (13, 29) or day.weekday() == 6),
    Rule(
        "0 1 */2 4,11 sun", [1], [0], lambda day: day.day % 2 == 1 and day.month in (4, 11) and day.weekday() == 6
    ),
]

FIRST, LAST = datetime(2020, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)


@lru_cache(maxsize=1)
def ten_years(zone: str) -> Table:
    return table(zone, FIRST - 3 * DAY, LAST, 15 * MINUTE)


def agree(found: list[int], expected: list[int]) -> bool:
    """Whether two lists are equal; where they are not it fails with what differs, and that alone."""
    assert sorted(set(found) ^ set(expected))[:20] == []
    return found == expected


@pytest.mark.slow
@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
def test_over_ten_years_every_rule_fires_when_the_clock_shows_its_time(zone: str) -> None:
    known = ten_years(zone)

    for rule in RULES:
        schedule = Schedule.cron(rule.text, zone)
        expected = rule.slots(known, FIRST)
        found = schedule.between(FIRST, LAST)

        assert agree([int(slot.timestamp()) for slot in found], expected), rule.text
        assert schedule.count(FIRST, LAST) == len(expected), rule.text


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
def test_slots_show_what_the_clock_shows(zone: str) -> None:
    clock = ZoneInfo(zone)

    for change in changes(zone, FIRST, FIRST + 366 * DAY):
        for rule in RULES:
            for slot in Schedule.cron(rule.text, zone).between(change - 2 * DAY, change + 2 * DAY):
                same = slot.astimezone(UTC).astimezone(clock)
                assert (slot.replace(tzinfo=None), slot.fold) == (same.replace(tzinfo=None), same.fold), rule.text


ODD = [
    Rule("* * * * *", ALL, range(60)),
    Rule("7 * * * *", ALL, [7]),
    Rule("*/7 0-3 * * *", range(4), range(0, 60, 7)),
    Rule("1 */1 * * *", ALL, [1]),
    Rule("7,31 0-3 * * *", range(4), [7, 31]),
    Rule("0 0 * * *", [0], [0]),
    Rule("1 0 * * *", [0], [1]),
    Rule("59 23,1,2 * * *", [1, 2, 23], [59]),
    Rule("0-59 0-23 * * *", ALL, range(60)),
    Rule("13 2 * * 0", [2], [13], lambda day: day.weekday() == 6),
    Rule("3 0-2 31,1 * *", range(3), [3], lambda day: day.day in (1, 31)),
]


@lru_cache
def changes(zone: str, begin: datetime, end: datetime) -> list[datetime]:
    """The hours of UTC before which a zone's offset has changed."""
    hours = [begin + number * HOUR for number in range((end - begin) // HOUR)]
    offsets = [hour.astimezone(ZoneInfo(zone)).utcoffset() for hour in hours]
    return [hour for hour, (before, after) in zip(hours[1:], pairwise(offsets), strict=True) if before != after]


def agrees_around(zone: str, change: datetime, step: timedelta, before: timedelta, after: timedelta) -> None:
    """Compare in a window around a change; the table begins earlier, with all that the clock can show again."""
    known = table(zone, change - before - 50 * HOUR * (step != SECOND), change + after, step)
    begin, end = change - before, change + after
    for rule in ODD:
        schedule = Schedule.cron(rule.text, zone)
        expected = rule.slots(known, begin)

        found = [int(slot.timestamp()) for slot in schedule.between(begin, end)]
        back, moment = list[int](), end + timedelta(microseconds=1)
        while len(back) < min(len(expected), 150):
            moment = schedule.last_before(moment)
            back.append(int(moment.timestamp()))

        assert agree(found, expected), (zone, change, rule.text)
        assert schedule.count(begin, end) == len(expected), (zone, change, rule.text)
        assert back == expected[::-1][: len(back)], (zone, change, rule.text)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca"])
def test_around_every_change_of_some_years_each_minute_is_as_the_clock_shows_it(zone: str) -> None:
    found = changes(zone, FIRST, FIRST + 4 * 365 * DAY)

    assert len(found) == 8
    for change in found:
        agrees_around(zone, change, MINUTE, 5 * HOUR, 26 * HOUR)


@pytest.mark.parametrize(
    ("zone", "year", "number"),
    [
        ("Asia/Kathmandu", 1986, 1),  # by a quarter of an hour
        ("Africa/Casablanca", 2008, 2),  # at midnight of UTC
        ("Pacific/Apia", 2011, 3),  # 30 December is skipped
        ("Pacific/Kwajalein", 1993, 1),  # 21 August is skipped
        ("America/St_Johns", 1988, 2),  # by two hours, a minute after midnight
        ("America/St_Johns", 2006, 2),
        ("Antarctica/Troll", 2026, 2),  # by two hours
        ("America/Nuuk", 2023, 1),  # forwards in spring, and not back in autumn
        ("Asia/Pyongyang", 2015, 1),  # back by half an hour
        ("Asia/Pyongyang", 2018, 1),  # and forwards
    ],
)
def test_a_change_of_any_length_at_any_time_is_as_the_clock_shows_it(zone: str, year: int, number: int) -> None:
    begin = datetime(year, 1, 1, tzinfo=UTC) - DAY
    found = changes(zone, begin, begin + 367 * DAY)

    assert len(found) == number
    for change in found:
        agrees_around(zone, change, MINUTE, 27 * HOUR, 27 * HOUR)


def test_a_day_that_comes_twice_fires_once() -> None:
    agrees_around("Pacific/Kwajalein", datetime(1969, 9, 30, 12, tzinfo=UTC), MINUTE, DAY, 3 * DAY)


@pytest.mark.parametrize(
    ("zone", "change"),
    [
        ("Africa/Monrovia", datetime(1972, 1, 7, tzinfo=UTC)),  # from 44 min 30 s behind
        ("Asia/Kathmandu", datetime(1919, 12, 31, 18, tzinfo=UTC)),  # from 5 h 41 min 16 s ahead
        ("Europe/Amsterdam", datetime(1937, 6, 30, 22, tzinfo=UTC)),
    ],
)
def test_an_offset_that_is_no_whole_minute_is_as_the_clock_shows_it(zone: str, change: datetime) -> None:
    agrees_around(zone, change, SECOND, 3 * HOUR, 3 * HOUR)


def seen(text: str, zone: str, begin: str, end: str) -> list[str]:
    window = (datetime.fromisoformat(each).replace(tzinfo=ZoneInfo(zone)) for each in (begin, end))
    return [f"{slot:%d %H:%M %z}" for slot in Schedule.cron(text, zone).between(*window)]


def test_a_time_that_the_clock_skips_fires_once_at_the_moment_after() -> None:
    weekend = "Europe/Berlin", "2026-03-28 12:00", "2026-03-30 00:30"

    assert seen("30 2 * * *", *weekend) == ["29 03:00 +0200"]
    assert seen("5,10,50 2 * * *", *weekend) == ["29 03:00 +0200"]
    assert seen("0 2,3 * * *", *weekend) == ["29 03:00 +0200"]
    assert seen("30 2,3 * * *", *weekend) == ["29 03:00 +0200", "29 03:30 +0200"]
    assert seen("0,30 1-3 * * *", *weekend) == [
        "29 01:00 +0100",
        "29 01:30 +0100",
        "29 03:00 +0200",
        "29 03:30 +0200",
    ]


def test_a_time_that_comes_twice_fires_the_first_time() -> None:
    night = "Europe/Berlin", "2026-10-25 00:00", "2026-10-25 04:00"

    assert seen("30 2 * * *", *night) == ["25 02:30 +0200"]
    assert seen("0,30 2-3 * * *", *night) == [
        "25 02:00 +0200",
        "25 02:30 +0200",
        "25 03:00 +0100",
        "25 03:30 +0100",
    ]


def test_a_rule_with_a_star_in_its_minutes_or_hours_goes_by_elapsed_time() -> None:
    spring = "Europe/Berlin", "2026-03-29 00:30", "2026-03-29 04:00"
    autumn = "Europe/Berlin", "2026-10-25 01:30", "2026-10-25 03:00"

    assert seen("0 * * * *", *spring) == ["29 01:00 +0100", "29 03:00 +0200", "29 04:00 +0200"]
    assert seen("*/30 2 * * *", *spring) == []
    assert seen("0 * * * *", *autumn) == ["25 02:00 +0200", "25 02:00 +0100", "25 03:00 +0100"]
    assert seen("*/30 2 * * *", *autumn) == [
        "25 02:00 +0200",
        "25 02:30 +0200",
        "25 02:00 +0100",
        "25 02:30 +0100",
    ]
    assert seen("0 */2 * * *", *autumn) == ["25 02:00 +0200", "25 02:00 +0100"]


def test_a_zone_that_moves_by_half_an_hour_loses_and_doubles_nothing() -> None:
    assert seen("0 2 * * *", "Australia/Lord_Howe", "2026-10-03 12:00", "2026-10-05 01:00") == ["04 02:30 +1100"]
    assert seen("45 1 * * *", "Australia/Lord_Howe", "2026-04-04 12:00", "2026-04-06 01:00") == ["05 01:45 +1100"]
    assert seen("*/15 * * * *", "Australia/Lord_Howe", "2026-04-05 01:15", "2026-04-05 02:00") == [
        "05 01:30 +1100",
        "05 01:45 +1100",
        "05 01:30 +1030",
        "05 01:45 +1030",
        "05 02:00 +1030",
    ]


def test_a_day_that_is_skipped_fires_at_the_first_moment_of_the_next_one() -> None:
    assert seen("0 12 * * *", "Pacific/Apia", "2011-12-29 00:00", "2012-01-01 00:00") == [
        "29 12:00 -1000",
        "31 00:00 +1400",
        "31 12:00 +1400",
    ]
    assert seen("0 * 30 * *", "Pacific/Apia", "2011-12-29 00:00", "2012-01-01 00:00") == []


def test_inside_of_a_repeated_hour_the_next_slot_is_after_the_moment_asked_about() -> None:
    hourly = Schedule.hourly(minute=30, tz="Europe/Berlin")
    moment = datetime(2026, 10, 25, 0, 0, tzinfo=UTC)
    found = list[str]()

    for _ in range(3):
        moment = hourly.next_after(moment)
        found.append(f"{moment:%H:%M %z}")

    assert found == ["02:30 +0200", "02:30 +0100", "03:30 +0100"]


def test_an_interval_goes_by_elapsed_time_alone() -> None:
    zone = ZoneInfo("Europe/Berlin")
    begin, end = datetime(2026, 10, 25, tzinfo=zone), datetime(2026, 10, 26, tzinfo=zone)

    assert Schedule.every(HOUR).count(begin, end) == 25
