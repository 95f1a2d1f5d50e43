"""The limit of a job name for all workers together: how many jobs run at once, and how many may start per time."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from redisjobs.base.arguments import is_text, pause_of, whole

LimitKey = Callable[[Any], str | int]
"""A function of the parameters that returns a job's key for the limit."""

_MOST = 1_000_000
_SLOWEST_US = 32_000_000_000_000  # a year; the same value is in `lua/include/limit_of.lua`
_LONGEST_US = 100 * _SLOWEST_US
_LATE_US = 100_000  # without a burst, a start may be this late without lowering the rate; also in limit_of.lua
_UNITS_US = {"s": 1e6, "m": 6e7, "h": 3.6e9}
_TEXT = re.compile(r"[^\x00-\x1f\x7f]{1,200}")


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit on how many jobs run at once, and on how many may start per second, minute or hour.

    Attributes:
        max_concurrency: The most jobs that run at once, in all workers together; None: any number.
        rate: How many jobs may start: `50/s`, `100/m` or `5/h`; None: any number.
        burst: The most jobs that start together after a rest; None: one, plus as many as the rate allows in 0.1 s.
    """

    max_concurrency: int | None = None
    rate: str | None = None
    burst: int | None = None

    def __post_init__(self) -> None:
        for what, number in (("max_concurrency", self.max_concurrency), ("burst", self.burst)):
            if number is not None and whole(number, what) > _MOST:
                raise ValueError(f"{what}={number!r}: give at most {_MOST:,}, or leave it out for any number")
        if self.rate is not None:
            if pause_of(self.rate) * 1000 > _SLOWEST_US:
                raise ValueError(f"rate={self.rate!r}: it is too slow; give at least one in a year")
            if (self.every_us or 0) * (self.burst or 1) > _LONGEST_US:
                raise ValueError(f"burst={self.burst!r}: these jobs take more than a hundred years; give less")
        elif self.burst is not None:
            raise ValueError(
                f"burst={self.burst!r}: it says how many jobs of a rate= may start together; give that too"
            )

    @property
    def text(self) -> str:
        """The stored form: `max_concurrency=3 rate=50/s burst=50`; '' for no limit."""
        parts = {"max_concurrency": self.max_concurrency, "rate": self.rate, "burst": self.burst}
        return " ".join(f"{key}={value}" for key, value in parts.items() if value is not None)

    @property
    def every_us(self) -> int | None:
        """The µs between two starts; None: there is no rate."""
        if self.rate is None:
            return None
        many, _, unit = self.rate.partition("/")
        return max(1, min(math.ceil(_UNITS_US[unit] / float(many)), _SLOWEST_US))

    @property
    def bursting(self) -> int | None:
        """How many jobs may start together; None: any number."""
        return None if self.every_us is None else 1 + (self.ahead_us or 0) // self.every_us

    @property
    def ahead_us(self) -> int | None:
        """How many µs a start may come before its turn at a steady rate; None: there is no rate.

        A start may also be late by this time, and the next starts make up for it.
        """
        if self.every_us is None:
            return None
        if self.burst is None:
            return _LATE_US
        return (max(1, min(self.burst, _MOST, _LONGEST_US // self.every_us)) - 1) * self.every_us

    @classmethod
    def read(cls, text: str) -> Self:
        """Return the stored limit. Parts that can't be read are ignored, as in limit_of.lua.

        All other parts count, even if `set_limit` would refuse them: with `max_concurrency=0` no job starts.
        """
        found = re.search(r"rate=([0-9]+\.?[0-9]*)/([smh])", text)
        rate = f"{found[1]}/{found[2]}" if found and float(found[1]) else None
        limit = object.__new__(cls)
        values = (_number(text, "max_concurrency"), rate, _number(text, "burst") if rate else None)
        for name, value in zip(("max_concurrency", "rate", "burst"), values, strict=True):
            object.__setattr__(limit, name, value)
        return limit


def _number(text: str, name: str) -> int | None:
    found = re.search(rf"{name}=([0-9]+)", text)
    return int(min(float(found[1]), 1e15)) if found else None


def checked_key(key: object) -> str:
    """Return a limit key as text; raise a ValueError if it can't be one."""
    text = str(key) if isinstance(key, int) and not isinstance(key, bool) else key
    if not is_text(text, _TEXT.pattern):
        raise ValueError(f"limit_key={key!r:.300}: give a whole number, or text of 1 to 200 printable characters")
    return text
