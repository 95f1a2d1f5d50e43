"""Reads that all viewers share: each is made at most once a second, however many pages ask for it."""

import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio

from redisjobs.base.eventloop import loop_key
from redisjobs.errors import DriverError

T = TypeVar("T")

_FRESH = 1.0  # seconds
# A read that took long is kept this many times as long, so that viewers use a tenth of a server at most.
_SHARE = 10
_LONGEST = 60.0
_MOST = 100  # answers to keep


@dataclass(frozen=True, slots=True)
class _Kept:
    until: float
    value: Any
    error: DriverError | None


class Snapshots:
    """Answers of the store, kept for a moment. Concurrent callers wait for one read."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: dict[Hashable, _Kept] = {}
        self._reading: dict[Hashable, anyio.Event] = {}
        self._changes = 0

    async def get(self, key: Hashable, read: Callable[[], Awaitable[T]], keep: float = _FRESH) -> T:
        """Return the answer for a key, at most about a second old, or `keep` seconds.

        An error is kept, too. Without that, each viewer would wait in turn for a server that is away.
        """
        place = loop_key(), key  # an event belongs to its event loop
        while True:
            kept = self._kept.get(key)
            if kept is not None and self._clock() < kept.until:
                break
            if (reading := self._reading.get(place)) is None:
                kept = await self._read(key, place, read, keep)
                break
            await reading.wait()  # if that reader was cancelled, this caller reads
        if kept.error is not None:
            raise kept.error.with_traceback(None)
        value: T = kept.value
        return value

    def forget(self) -> None:
        """Drop all answers, so that a viewer sees what it just changed."""
        self._kept.clear()
        self._changes += 1

    async def _read(
        self, key: Hashable, place: Hashable, read: Callable[[], Awaitable[Any]], keep: float
    ) -> _Kept:
        event = self._reading[place] = anyio.Event()
        began, changes, value, failed = self._clock(), self._changes, None, None
        try:
            try:
                value = await read()
            except DriverError as error:
                failed = error
            ended = self._clock()
            # An error took the deadline, and says nothing about the costs of an answer.
            fresh = _FRESH if failed else min(max(keep, (ended - began) * _SHARE), _LONGEST)
            kept = _Kept(ended + fresh, value, failed)
            self._kept.pop(key, None)
            if changes == self._changes:  # else the answer may be older than a change
                self._kept[key] = kept
            for old in [key for key, each in self._kept.items() if each.until <= ended]:
                self._kept.pop(old, None)
            while len(self._kept) > _MOST:
                self._kept.pop(next(iter(self._kept)), None)
            return kept
        finally:
            self._reading.pop(place, None)
            event.set()
