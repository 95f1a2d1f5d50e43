"""A sync connection to the database; see `connection.py`."""

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
from redisjobs.drivers.postgres.checks import CHECK, check
from redisjobs.drivers.postgres.connection import TRIES
from redisjobs.drivers.postgres.errors import Refused, as_ours, lost, not_opened
from redisjobs.drivers.postgres.notices import NOTIFY, Notice, SendNow
from redisjobs.drivers.postgres.target import ANSWER, Target
from redisjobs.drivers.postgres.wire import Statements, answer, packed, rows_of, value_of
from redisjobs.drivers.remote.clock import Now, ServerClock, time_left
from redisjobs.errors import DriverError, Unavailable

T = TypeVar("T")
SyncTell = Callable[[Sequence[Notice], SendNow], object]

_NOTIFYING = 1.0  # seconds that notifications may take: they are only hints


class SyncConnection:
    """One sync connection, opened when first used and again after a failure. For one thread; see `Connection`.

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
        self.clock = ServerClock()
        self._target = target
        self._queue, self._now_ms, self._tell = queue, now_ms, tell
        self._timeout = timeout
        self._connection: psycopg.Connection[Any] | None = None
        self._process = 0  # that opened it
        self._statements = Statements(None, False)

    def run(self, call: Call[T], until: float = math.inf, queue: str = "") -> T:
        """Do the same as `Connection.run`; `queue` is another queue in this database."""
        now_ms = self._now_ms() if self._now_ms is not None else None
        rows = self.ask(*packed(call, queue or self._queue, now_ms), until)
        result, meta, notices = answer(call, rows)
        if "now" in meta:
            self.clock.record(meta["now"])
        if notices and self._tell is not None:
            self._tell(notices, partial(self.notify, until=until))
        return result

    def notify(self, channels: Sequence[str], payloads: Sequence[str], until: float = math.inf) -> None:
        """Send notifications, in one statement of their own."""
        self.ask(NOTIFY, (value_of(channels), value_of(payloads)), min(until, time.monotonic() + _NOTIFYING))

    def time_ms(self, until: float = math.inf) -> float:
        """Return the time by the server's clock, or a little earlier."""
        if self._now_ms is not None:
            return self._now_ms()
        if self.clock.now_ms is None:
            (row,) = self.ask(*CHECK, until)
            self.clock.record(check(row))
        return self.clock.now_ms or 0.0

    def ask(self, statement: bytes, values: Sequence[bytes | None] = (), until: float = math.inf) -> list[Row]:
        """Do the same as `Connection.ask`."""
        if self._connection is not None and self._connection.pgconn.transaction_status != _IDLE:
            self._abandon()  # an exception like Ctrl-C ended the last one: its answer may still come
        for left in reversed(range(TRIES)):
            try:
                if self._connection is None:
                    self._open(until)
                return self._talk(statement, values, until)
            except Refused as error:
                if error.is_of_preparing:
                    self._target.prepares = False
                if error.ends_connection or error.is_of_preparing:
                    self.close()
                if not (left and error.may_be_repeated):
                    raise as_ours(error) from error
            except (psycopg.Error, OSError) as error:
                was_open = self._connection is not None
                self.close()
                raise (lost(error) if was_open else not_opened(error)) from error
            except Unavailable:  # no answer in time
                self._abandon()
                raise
        raise AssertionError("unreachable")

    def _open(self, until: float) -> None:
        self._process = os.getpid()
        self._connection = self._target.connect_sync(time_left(until, self._timeout))
        self._statements = Statements(self._connection.pgconn, self._target.prepares)
        try:
            (row,) = self._talk(*CHECK, until)
            self.clock.record(check(row))
        except DriverError:
            self.close()
            raise

    def _talk(self, statement: bytes, values: Sequence[bytes | None], until: float) -> list[Row]:
        assert self._connection is not None
        pgconn = self._connection.pgconn
        time_left(until, self._timeout)  # not sent after the deadline
        steps = self._statements.talk(statement, values)
        try:
            while True:
                if not _is_ready(pgconn.socket, next(steps), time_left(until, self._timeout)):
                    raise Unavailable(f"no answer in {self._timeout:g} s")
                pgconn.consume_input()
        except StopIteration as done:
            return rows_of(done.value, self._connection.pgconn.user)

    def close(self) -> None:
        """Close the connection; it opens again when used."""
        self.clock.forget()
        connection, self._connection = self._connection, None
        if connection is not None and self._process == os.getpid():  # else it is that of a parent, who goes on
            connection.pgconn.finish()

    def __del__(self) -> None:
        self.close()  # of a driver that was forgotten

    def _abandon(self) -> None:
        """Do the same as `Connection._abandon`."""
        self.clock.forget()
        connection, self._connection = self._connection, None
        if connection is not None:
            threading.Thread(target=_cancel, args=(connection,), daemon=True).start()


_IDLE = psycopg.pq.TransactionStatus.IDLE


_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)  # the quickest for a single socket


def _is_ready(socket: int, sends: bool, timeout: float) -> bool:
    """Wait until a socket has bytes, or with `sends` room; return False if that takes too long."""
    with _Selector() as selector:
        selector.register(socket, selectors.EVENT_READ | (selectors.EVENT_WRITE if sends else 0))
        return bool(selector.select(timeout))


def _cancel(connection: psycopg.Connection[Any]) -> None:
    try:
        with suppress(psycopg.Error, OSError):
            connection.cancel_safe(timeout=1)
    finally:
        connection.pgconn.finish()
