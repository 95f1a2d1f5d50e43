"""Hears from sentinels which server is the master, in a thread, while connections to the master are open.

After `SENTINEL FAILOVER` the old master takes writes for about ten seconds more, and these are lost. So it would
be too late to ask when a call fails. The thread listens to one sentinel, and each second asks another one: the
first may be cut off from the rest.
"""

import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import redis

from redisjobs.base.forks import begin_after_fork
from redisjobs.drivers.redis.locator import Address, BySentinel, Locator

_LOOK = 1.0  # seconds between two questions
_PAUSE = 0.2  # seconds before the next sentinel, if one fails


class SentinelUser(Protocol):
    """What the thread watches for."""

    locator: Locator

    @property
    def has_open(self) -> bool:
        """Whether a connection to the master is open."""

    def sync_connection(self, address: Address | None, timeout: float, *, is_sentinel: bool = False) -> Any:
        """Return a new connection, not yet open."""

    def end_others(self) -> None:
        """End the connections to other servers than the master."""


class SentinelWatch:
    """A thread that listens to sentinels, as long as its target exists and has open connections."""

    def __init__(self, target: SentinelUser) -> None:
        self._target = weakref.ref(target)
        self.begin()
        begin_after_fork(self)

    def begin(self) -> None:
        """Start without a thread: a forked process lacks its parent's."""
        self._lock = threading.RLock()  # a signal's handler may push while its thread is in `start`
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread if it does not run."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():  # it may have failed to start
                self._thread = threading.Thread(target=self._run, name="redisjobs sentinels", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        turn = 0
        while sentinels := self._sentinels():
            with suppress(redis.RedisError, OSError):
                self._listen(sentinels[turn % len(sentinels)], sentinels[(turn + 1) % len(sentinels)])
            turn += 1
            time.sleep(_PAUSE)

    def _sentinels(self) -> list[Address]:
        """Return the sentinels; none if the thread is to end."""
        with self._lock:  # so that `start` finds either a thread that goes on or none
            target = self._wanted()
            if target is None or not isinstance(target.locator, BySentinel):
                self._thread = None
                return []
            return target.locator.sentinels

    def _wanted(self) -> SentinelUser | None:
        target = self._target()
        return target if target is not None and target.has_open else None

    def _listen(self, heard: Address, asked: Address) -> None:
        """Listen to one sentinel and ask another one, until one fails or no connection is open."""
        with self._open(heard) as listening, self._open(heard) as near, self._open(asked) as far:
            listening.send_command("SUBSCRIBE", "+switch-master")
            listening.read_response()
            self._ask(near)  # after the subscription, so that nothing falls between
            while self._wanted() is not None:
                if listening.can_read(timeout=_LOOK):
                    listening.read_response()
                    self._ask(near)
                else:
                    self._ask(far)

    @contextmanager
    def _open(self, sentinel: Address) -> Iterator[Any]:
        target = self._wanted()
        if target is None:
            raise ConnectionError("no connection to the master is open")
        connection = target.sync_connection(sentinel, _LOOK, is_sentinel=True)
        del target
        try:
            connection.connect()
            yield connection
        finally:
            with suppress(redis.RedisError, OSError):
                connection.disconnect()

    def _ask(self, sentinel: Any) -> None:
        target = self._wanted()
        if target is not None and isinstance(target.locator, BySentinel):
            for wire in target.locator.questions:
                sentinel.send_command(*wire)
            target.locator.hear([sentinel.read_response() for _ in target.locator.questions])
            target.end_others()
