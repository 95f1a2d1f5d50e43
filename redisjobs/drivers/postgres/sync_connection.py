"""A sync connection to the database; see `link.py`."""

import math
import os
import selectors
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import psycopg

from redisjobs.drivers.postgres.calls import Call, Row
from redisjobs.drivers.postgres.link import Link, Steps
from redisjobs.drivers.postgres.notices import NOTIFY, Notice, SendNow
from redisjobs.drivers.postgres.target import ANSWER, Target
from redisjobs.drivers.postgres.wire import value_of
from redisjobs.drivers.remote.clock import Now, time_left

T = TypeVar("T")
SyncTell = Callable[[Sequence[Notice], SendNow], object]

_NOTIFYING = 1.0  # seconds that notifications may take: they are only hints


class SyncConnection(Link["psycopg.Connection[Any]"]):
    """One sync connection, for one thread; see `Link`.

    `timeout` is in seconds without a byte of the answer.
    """

    def __init__(
        self,
        target: Target,
        queue: str = "",
        now_ms: Now = None,
        tell: SyncTell | None = None,
        timeout: float = ANSWER,
    ) -> None:
        super().__init__(target, queue, now_ms, timeout)
        self._tell = tell
        self._process = 0  # that opened it

    def run(self, call: Call[T], until: float = math.inf, queue: str = "") -> T:
        """Call a function of the database; see `Connection.run`. `queue` is another queue in this database."""
        result, notices = self._drive(self._running(call, queue or self._queue, until), until)
        if notices and self._tell is not None:
            self._tell(notices, partial(self.notify, until=until))
        return result

    def notify(self, channels: Sequence[str], payloads: Sequence[str], until: float = math.inf) -> None:
        """Send notifications, in one statement of their own."""
        self.ask(NOTIFY, (value_of(channels), value_of(payloads)), min(until, time.monotonic() + _NOTIFYING))

    def time_ms(self, until: float = math.inf) -> float:
        """Return the time by the server's clock, or a little earlier."""
        return self._drive(self._timing(until), until)

    def ask(self, statement: bytes, values: Sequence[bytes | None] = (), until: float = math.inf) -> list[Row]:
        """Do the same as `Connection.ask`."""
        return self._drive(self._asking(statement, values, until), until)

    def _drive(self, steps: Steps[T], until: float) -> T:
        try:
            wants = next(steps)
            while True:
                try:
                    self._open(until) if wants is None else self._wait(wants, until)
                except BaseException as error:
                    wants = steps.throw(error)
                else:
                    wants = next(steps)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    def _open(self, until: float) -> None:
        self._process = os.getpid()
        self._connection = self._target.connect_sync(time_left(until, self._timeout))

    def _wait(self, sends: bool, until: float) -> None:
        """Wait until the socket has bytes, or with `sends` room; take the bytes."""
        assert self._connection is not None
        pgconn = self._connection.pgconn
        with _Selector() as selector:
            selector.register(pgconn.socket, selectors.EVENT_READ | (selectors.EVENT_WRITE if sends else 0))
            if not selector.select(time_left(until, self._timeout)):
                raise TimeoutError
        pgconn.consume_input()

    def close(self) -> None:
        """Close the connection; it opens again when used."""
        self._drop()

    def __del__(self) -> None:
        self.close()  # of a driver that was forgotten

    def _forget(self) -> "psycopg.Connection[Any] | None":
        self.clock.forget()
        connection, self._connection = self._connection, None
        return connection if self._process == os.getpid() else None  # else it is that of a parent, who goes on

    def _abandon(self) -> None:
        connection = self._forget()
        if connection is not None:
            threading.Thread(target=_cancel, args=(connection,), daemon=True).start()


_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)  # the quickest for a single socket


def _cancel(connection: "psycopg.Connection[Any]") -> None:
    try:
        with suppress(psycopg.Error, OSError):
            connection.cancel_safe(timeout=1)
    finally:
        connection.pgconn.finish()
