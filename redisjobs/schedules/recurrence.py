"""The slots of the two kinds of rules: cron texts in a time zone, and fixed intervals. Pure.

Arguments are naive datetimes in UTC, results are aware datetimes. A window includes its begin, but not its end.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, tzinfo
from itertools import islice

from redisjobs.schedules.crontab import Crontab
from redisjobs.schedules.zones import FIRST, LAST, TICK, Stretch, stretches

EPOCH = datetime(1970, 1, 1)
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Calendar:
    """A cron text in a time zone.

    A text without stars in hours and minutes follows the clock. If the clock skips its time, it fires once, at the
    moment after; if a time comes twice, it fires the first time. Any other text fires whenever its time comes.
    """

    crontab: Crontab
    zone_name: str
    zone: tzinfo = field(compare=False)

    @property
    def text(self) -> str:
        """The whole rule as one line, which `Schedule.parse` reads."""
        return self.crontab.text if self.zone_name == "UTC" else f"{self.crontab.text} {self.zone_name}"

    @property
    def code(self) -> str:
        """The call that makes this rule."""
        zone = "" if self.zone_name == "UTC" else f", tz={self.zone_name!r}"
        return f"cron({self.crontab.text!r}{zone})"

    def ascending(self, begin: datetime, end: datetime) -> Iterator[datetime]:
        """Yield the slots in a window, from the first one on."""
        times, zone = self.crontab.times, self.zone
        for stretch, low, high in self._stretches(begin, end):
            if self._fires_at_the_change(stretch, low):
                yield low.replace(tzinfo=zone)
            for day, start, stop in self.crontab.runs(low, high):
                slots = (datetime.combine(day, each, zone) for each in islice(times, start, stop))
                yield from (slot.replace(fold=1) for slot in slots) if stretch.repeated else slots

    def descending(self, begin: datetime, end: datetime) -> Iterator[datetime]:
        """Yield the slots in a window, from the last one back."""
        for stretch, low, high in self._stretches(begin, end, backwards=True):
            for day, start, stop in reversed(list(self.crontab.runs(low, high))):
                for place in range(stop - 1, start - 1, -1):
                    slot = datetime.combine(day, self.crontab.times[place], self.zone)
                    yield slot.replace(fold=int(stretch.repeated))
            if self._fires_at_the_change(stretch, low):
                yield low.replace(tzinfo=self.zone)

    def count(self, begin: datetime, end: datetime) -> int:
        """Return how many slots are in a window."""
        return sum(
            self._fires_at_the_change(stretch, low)
            + sum(stop - start for _, start, stop in self.crontab.runs(low, high))
            for stretch, low, high in self._stretches(begin, end)
        )

    def _fires_at_the_change(self, stretch: Stretch, low: datetime) -> bool:
        """Return whether the clock skipped a time of the rule, so that it fires at the moment after."""
        if stretch.skipped is None or low != stretch.begin or not self.crontab.by_the_clock:
            return False
        skipped = next(self.crontab.runs(stretch.skipped, stretch.begin), None)
        return skipped is not None and next(self.crontab.runs(low, low + TICK), None) is None

    def _stretches(
        self, begin: datetime, end: datetime, *, backwards: bool = False
    ) -> Iterator[tuple[Stretch, datetime, datetime]]:
        """Yield the stretches that may contain slots, each with the part of the window in it, in local time."""
        begin, end = max(begin, FIRST), min(end, LAST)
        if begin >= end:
            return
        for day in self._days(begin.date(), (end - TICK).date(), backwards=backwards):
            found = stretches(self.zone, day)
            for stretch in reversed(found) if backwards else found:
                if stretch.repeated and self.crontab.by_the_clock:
                    continue
                low = max(stretch.begin, begin + stretch.offset)
                high = min(stretch.end, end + stretch.offset)
                if low < high:
                    yield stretch, low, high

    def _days(self, first: date, last: date, *, backwards: bool) -> Iterator[date]:
        """Yield the days of UTC that may contain slots: matching dates, and one day around them for the offset."""
        step = -1 if backwards else 1
        begin, end = (each.toordinal() * step for each in ((last, first) if backwards else (first, last)))
        around = (date.fromordinal(abs(begin - 1)), date.fromordinal(abs(end + 1)))
        for match in self.crontab.dates(*around):
            place = match.toordinal() * step
            for ordinal in range(max(begin, place - 1), min(end, place + 1) + 1):
                yield date.fromordinal(abs(ordinal))
                begin = ordinal + 1


@dataclass(frozen=True, slots=True)
class FixedInterval:
    """Moments at a fixed interval, in whole ms. The anchor is one of them; there are also moments before it."""

    step: timedelta
    anchor: datetime = EPOCH

    @property
    def text(self) -> str:
        """The whole rule as one line, which `Schedule.parse` reads."""
        begin = "" if self.anchor == EPOCH else f" from {self.anchor.replace(tzinfo=UTC).isoformat()}"
        return f"every {_plain_seconds(self.step)} s{begin}"

    @property
    def code(self) -> str:
        """The call that makes this rule."""
        return f"every({_plain_seconds(self.step)})" if self.anchor == EPOCH else f"parse({self.text!r})"

    def ascending(self, begin: datetime, end: datetime) -> Iterator[datetime]:
        """Yield the slots in a window, from the first one on."""
        for number in self._numbers(begin, end):
            yield self._slot(number)

    def descending(self, begin: datetime, end: datetime) -> Iterator[datetime]:
        """Yield the slots in a window, from the last one back."""
        for number in reversed(self._numbers(begin, end)):
            yield self._slot(number)

    def count(self, begin: datetime, end: datetime) -> int:
        """Return how many slots are in a window."""
        return len(self._numbers(begin, end))

    def _slot(self, number: int) -> datetime:
        return (self.anchor + number * self.step).replace(tzinfo=UTC)

    def _numbers(self, begin: datetime, end: datetime) -> range:
        """Return the numbers of the slots in a window; the anchor has number 0."""
        return range(-((self.anchor - begin) // self.step), -((self.anchor - end) // self.step))


def _plain_seconds(step: timedelta) -> str:
    whole, ms = divmod(step // _MILLISECOND, 1000)
    return f"{whole}.{ms:03}".rstrip("0") if ms else str(whole)
