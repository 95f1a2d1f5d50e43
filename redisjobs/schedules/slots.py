"""The slots of a rule: the moments that it names, as aware datetimes."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from redisjobs.base.arguments import aware

if TYPE_CHECKING:
    from redisjobs.schedules.recurrence import Calendar, FixedInterval

_TICK = timedelta.resolution


@dataclass(frozen=True, slots=True, repr=False)
class SlotRule:
    """The questions that a rule answers: its next slot, its last slot, the slots between two moments."""

    _rule: "Calendar | FixedInterval"

    @property
    def text(self) -> str:
        """The whole rule as one line for `parse`: `*/5 9-17 * * mon-fri Europe/Berlin` or `every 90 s`."""
        return self._rule.text

    def next_after(self, moment: datetime) -> datetime:
        """Return the first slot strictly after a moment.

        Raises:
            ValueError: The moment has no time zone, or there is no slot before the year 10000.
        """
        slots = self._rule.ascending(_just_after(in_utc(moment, "moment")), datetime.max)
        return self._first(slots, f"after {moment}")

    def last_before(self, moment: datetime) -> datetime:
        """Return the last slot strictly before a moment.

        Raises:
            ValueError: The moment has no time zone, or there is no slot since the year 1.
        """
        return self._first(self._rule.descending(datetime.min, in_utc(moment, "moment")), f"before {moment}")

    def between(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """Iterate over the slots strictly after one moment, up to and including another one, in order of time.

        Raises:
            ValueError: A moment has no time zone.
        """
        return self._rule.ascending(_just_after(in_utc(after, "after")), _just_after(in_utc(until, "until")))

    def count(self, after: datetime, until: datetime) -> int:
        """Count the slots strictly after one moment, up to and including another one; see `between`."""
        return self._rule.count(_just_after(in_utc(after, "after")), _just_after(in_utc(until, "until")))

    def _first(self, slots: Iterator[datetime], where: str) -> datetime:
        found = next(slots, None)
        if found is None:
            raise ValueError(f"{self.text!r} has no slot {where}: there are only the years 1 to 9999")
        return found


def in_utc(moment: datetime, what: str) -> datetime:
    """Return an aware datetime as a naive one in UTC; a ValueError for others names the argument `what`."""
    try:
        return aware(moment, what).astimezone(UTC).replace(tzinfo=None)
    except OverflowError:
        raise ValueError(f"{what}={moment} is not in the years 1 to 9999 of UTC") from None


def _just_after(moment: datetime) -> datetime:
    return min(moment, datetime.max - _TICK) + _TICK
