"""What async and sync connections share: how a statement is asked, and when it is asked again. Without waits.

A class of either kind drives these steps: it opens the connection, and waits where a step says so.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from typing import Any, Generic, TypeVar

import psycopg

from redisjobs.drivers.postgres.calls import Call, Row
from redisjobs.drivers.postgres.checks import CHECK, Session, check
from redisjobs.drivers.postgres.errors import Refused, as_ours, lost, not_opened
from redisjobs.drivers.postgres.notices import Notice
from redisjobs.drivers.postgres.target import Target
from redisjobs.drivers.postgres.wire import Statements, answer, apart, packed, rows_of
from redisjobs.drivers.remote.clock import Now, ServerClock, time_left
from redisjobs.errors import DriverError, Unavailable

T = TypeVar("T")
C = TypeVar("C", bound="psycopg.Connection[Any] | psycopg.AsyncConnection[Any]")
Steps = Generator[bool | None, None, T]
"""Yields when its driver has to do something; None: open the connection; else as `Talk` does. Errors of that come
back into it."""

TRIES = 5
"""How often a statement is sent that the server ended for the sake of another one."""


class Link(ABC, Generic[C]):
    """One connection, opened when first used and again after a failure. One user at a time.

    Nothing of ours stays in its session after a transaction, because behind a pooler others have the session, too.
    Where its transactions are not read committed, each statement gets one that it begins itself.

    Attributes:
        clock: The server's clock, as far as it is known.
    """

    def __init__(self, target: Target, queue: str, now_ms: Now, timeout: float) -> None:
        self.clock = ServerClock()
        self._target = target
        self._queue, self._now_ms = queue, now_ms
        self._timeout = timeout  # seconds without a byte of an answer
        self._connection: C | None = None
        self._statements = Statements(None)
        self._is_shared = False

    @abstractmethod
    def _forget(self) -> C | None:
        """Have no connection any more; return the one to close."""

    @abstractmethod
    def _abandon(self) -> None:
        """Close the connection, and have the server end the statement that may still run over it.

        Its answer would be taken for the next call's. And statements that wait for a lock would pile up.
        """

    def _drop(self) -> None:
        """Close the connection at once; it opens again when used."""
        connection = self._forget()
        if connection is not None:
            connection.pgconn.finish()

    def _running(self, call: Call[T], queue: str, until: float) -> Steps[tuple[T, list[Notice]]]:
        """Run a call; return what it answers, and the notifications to send."""
        now_ms = self._now_ms() if self._now_ms is not None else None
        rows = yield from self._asking(*packed(call, queue, now_ms), until)
        result, meta, notices = answer(call, rows)
        if "now" in meta:
            self.clock.record(meta["now"])
        return result, notices

    def _timing(self, until: float) -> Steps[float]:
        """Return the time by the server's clock, or a little earlier."""
        if self._now_ms is not None:
            return self._now_ms()
        if self.clock.now_ms is None:
            (row,) = yield from self._asking(*CHECK, until)
            self._note(check(row))
        return self.clock.now_ms or 0.0

    def _sharing(self) -> Steps[bool]:
        """Return whether others may have the session, too, as behind a pooler."""
        if self._connection is None:
            yield from self._asking(*CHECK, math.inf)
        return self._is_shared

    def _asking(self, statement: bytes, values: Sequence[bytes | None], until: float) -> Steps[list[Row]]:
        """Run a statement, again if the server ended it for the sake of another one; return its rows."""
        if self._connection is not None and self._connection.pgconn.transaction_status != _IDLE:
            self._abandon()  # an exception like Ctrl-C ended the last one: its answer may still come
        for left in reversed(range(TRIES)):
            try:
                if self._connection is None:
                    yield from self._opening(until)
                return (yield from self._talking(statement, values, until))
            except Refused as error:
                self._learn(error)
                if not (left and error.may_be_repeated):
                    raise as_ours(error) from error
            except TimeoutError as error:
                self._abandon()
                raise Unavailable(f"no answer in {self._timeout:g} s") from error
            except (psycopg.Error, OSError) as error:
                was_open = self._connection is not None
                self._drop()
                raise (lost(error) if was_open else not_opened(error)) from error
            except BaseException:
                self._abandon()
                raise
        raise AssertionError("unreachable")

    def _learn(self, error: Refused) -> None:
        if error.is_of_preparing:
            self._target.prepares = False
        if error.is_of_isolation:
            self._target.begins = True
        if error.ends_connection or error.is_of_preparing:
            self._drop()

    def _opening(self, until: float) -> Steps[None]:
        yield None
        assert self._connection is not None
        self._statements, self._is_shared = Statements(self._connection.pgconn), True
        try:
            (row,) = yield from self._talking(*CHECK, until)
            self._note(check(row))
        except DriverError:
            self._drop()  # else the next call would use it
            raise

    def _note(self, session: Session) -> None:
        self.clock.record(session.now_ms)
        if self._connection is not None:
            self._is_shared = session.pid != self._connection.info.backend_pid

    def _talking(self, statement: bytes, values: Sequence[bytes | None], until: float) -> Steps[list[Row]]:
        assert self._connection is not None
        time_left(until, self._timeout)  # not sent after the deadline
        pgconn = self._connection.pgconn
        if self._target.begins:
            results = yield from apart(pgconn, statement, values)
        else:
            prepares = self._target.prepares and not self._is_shared
            results = yield from self._statements.talk(statement, values, prepares=prepares)
        return rows_of(results, pgconn.user)


_IDLE = psycopg.pq.TransactionStatus.IDLE
