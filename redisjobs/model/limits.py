"""Limits of a job name, for the whole fleet: how many of its jobs run at once, and how many start in a time."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from redisjobs.base.arguments import is_text, pause_of, whole
from redisjobs.model.codec import when
from redisjobs.model.job import JobName
from redisjobs.model.queries import LimitsFound

LimitKey = Callable[[Any], str | int]
"""Says by the parameters of a job under which key it is counted."""

_MOST = 1_000_000
_SLOWEST_US = 32_000_000_000_000  # a year; as `lua/include/limit_of.lua` has it
_LONGEST_US = 100 * _SLOWEST_US
_LATE_US = 100_000  # how late a start may be and cost no rate, where no burst is given; as limit_of.lua has it
_UNITS_US = {"s": 1e6, "m": 6e7, "h": 3.6e9}
_TEXT = re.compile(r"[^\x00-\x1f\x7f]{1,200}")


@dataclass(frozen=True, slots=True)
class Limit:
    """How many jobs may run at once, and how many may start in a time.

    Attributes:
        max_concurrency: So many may run at once, in all workers together; None: any number.
        rate: So many may start in a time, as `50/s`, `100/m` or `5/h`; None: any number.
        burst: How many may start together after a rest; None: one, and as many more as the rate allows in 0.1 s.
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
                raise ValueError(f"burst={self.burst!r}: so many take more than a hundred years; give less")
        elif self.burst is not None:
            raise ValueError(
                f"burst={self.burst!r}: it says how many may start together of a rate=; give that too"
            )

    @property
    def text(self) -> str:
        """As the store has it: `max_concurrency=3 rate=50/s burst=50`; '' for no limit."""
        parts = {"max_concurrency": self.max_concurrency, "rate": self.rate, "burst": self.burst}
        return " ".join(f"{key}={value}" for key, value in parts.items() if value is not None)

    @property
    def every_us(self) -> int | None:
        """How many µs are between two starts; None: none."""
        if self.rate is None:
            return None
        many, _, unit = self.rate.partition("/")
        return max(1, min(math.ceil(_UNITS_US[unit] / float(many)), _SLOWEST_US))

    @property
    def bursting(self) -> int | None:
        """How many may start together; None: any number."""
        return None if self.every_us is None else 1 + (self.ahead_us or 0) // self.every_us

    @property
    def ahead_us(self) -> int | None:
        """By how many µs starts may come before their turn, by a steady rate; None: there is no rate.

        So much a start may be late, too, and the ones after it make up for that.
        """
        if self.every_us is None:
            return None
        if self.burst is None:
            return _LATE_US
        return (max(1, min(self.burst, _MOST, _LONGEST_US // self.every_us)) - 1) * self.every_us

    @classmethod
    def read(cls, text: str) -> Self:
        """A limit as the store has it; what can't be read of it, by somebody's hand, is none; see limit_of.lua.

        What can be read counts, also if `set_limit` would not take it: by `max_concurrency=0` none starts.
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


@dataclass(slots=True)
class LimitedKey:
    """What is counted together: the jobs of a name, or of a name and a key.

    Attributes:
        key: What `limit_key` said; '' where there is none.
        jobs: Ids of the jobs that run, and which worker runs each.
        waiting: How many jobs wait in line.
        next_at: When the first of them may start, as far as that is known; None: when one that runs has ended.
    """

    key: str
    jobs: dict[str, str] = field(default_factory=dict)
    waiting: int = 0
    next_at: datetime | None = None

    @property
    def running(self) -> int:
        """How many jobs run."""
        return len(self.jobs)


@dataclass(frozen=True, slots=True)
class LimitInfo:
    """The limit of a job name, and who holds what of it.

    Attributes:
        name: Of the jobs.
        max_concurrency: So many may run at once, in all workers together; None: any number.
        rate: So many may start in a time, as `50/s`; None: any number.
        burst: So many of these may start together after a rest; None: there is no rate.
        keys: What runs or waits, by key; '' for jobs without one. Some may be left of a limit that was removed.
    """

    name: str
    max_concurrency: int | None
    rate: str | None
    burst: int | None
    keys: Mapping[str, LimitedKey]

    @property
    def running(self) -> int:
        """How many jobs run, of all keys."""
        return sum(key.running for key in self.keys.values())

    @property
    def waiting(self) -> int:
        """How many jobs wait in line, of all keys."""
        return sum(key.waiting for key in self.keys.values())


def limit_infos(steps: Iterable[LimitsFound]) -> list[LimitInfo]:
    """What the store said, for people; by name."""
    limits: dict[str, Limit] = {}
    found: dict[str, dict[str, LimitedKey]] = {}

    def key_of(bucket: str) -> LimitedKey:
        name, _, key = bucket.partition(" ")
        return found.setdefault(name, {}).setdefault(key, LimitedKey(key))

    for step in steps:
        limits |= {name: Limit.read(text) for name, text in step.limits.items()}
        for bucket, waiting, next_ms in step.lines:
            one = key_of(bucket)
            one.waiting, one.next_at = waiting, None if next_ms is None else when(next_ms)
        for bucket, worker, job_id in step.running:
            key_of(bucket).jobs[job_id] = worker
    return [_info(name, limits.get(name, Limit()), found.get(name, {})) for name in sorted(limits | found)]


def _info(name: str, limit: Limit, keys: Mapping[str, LimitedKey]) -> LimitInfo:
    return LimitInfo(name, limit.max_concurrency, limit.rate, limit.bursting, dict(sorted(keys.items())))


def limited_name(name: str | JobName[Any]) -> str:
    """The job name to limit.

    Raises:
        ValueError: It can't be one.
    """
    text = name.name if isinstance(name, JobName) else name
    if not is_text(text, r"[^\s\x00-\x1f]{1,200}"):
        raise ValueError(f"name={name!r}: give the name of a job, 1 to 200 characters, no spaces")
    return text


def checked_key(key: object) -> str:
    """A key under which a job is counted, as text.

    Raises:
        ValueError: It can't be one.
    """
    text = str(key) if isinstance(key, int) and not isinstance(key, bool) else key
    if not is_text(text, _TEXT.pattern):
        raise ValueError(f"limit_key={key!r:.300}: give a whole number, or text of 1 to 200 printable characters")
    return text
