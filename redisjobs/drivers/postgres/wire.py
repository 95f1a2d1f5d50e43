"""How a call travels: its statement and arguments as bytes, its answer as rows. Without I/O; see `Connection`."""

import hashlib
from collections.abc import Generator, Sequence
from functools import cache
from typing import Any, TypeVar

import orjson
from psycopg import pq

from redisjobs.drivers.postgres import functions
from redisjobs.drivers.postgres.calls import Call, Meta, Row
from redisjobs.drivers.postgres.entries import given_json, text_of
from redisjobs.drivers.postgres.errors import refusal
from redisjobs.drivers.postgres.notices import Notice, notices_in

T = TypeVar("T")

Talk = Generator[bool, None, list[Any]]
"""Sends a statement and returns its results. It yields when it has to wait for the server, until more bytes of the
answer were consumed; True: it also waits until it can send more."""

_INTEGERS = {20, 21, 23}  # the types bigint, smallint and integer
_BOOLEAN = 16
_GOOD = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK)


OFTEN = 3
"""A connection prepares a statement when it is sent this often. The server then no longer parses it."""


class Statements:
    """The statements that were sent over a connection of libpq, and those of them that are prepared.

    Args:
        pgconn: The connection.
    """

    def __init__(self, pgconn: Any) -> None:
        self._pgconn = pgconn
        self._sent: dict[bytes, int] = {}  # how often, by statement

    def talk(self, statement: bytes, values: Sequence[bytes | None], *, prepares: bool) -> Talk:
        """Send a statement with its values, prepared if that is allowed and pays off; see `Talk`."""
        times = self._sent.get(statement, 0) + 1
        if times < OFTEN or not (prepares and values):
            self._pgconn.send_query_params(statement, values)
        else:
            name = _name_of(statement)
            if times == OFTEN:
                self._pgconn.send_prepare(name, statement)
                results = yield from _results(self._pgconn)
                if results[0].status != pq.ExecStatus.COMMAND_OK:
                    return results
            self._pgconn.send_query_prepared(name, values)
        self._sent[statement] = times
        return (yield from _results(self._pgconn))


@cache
def _name_of(statement: bytes) -> bytes:
    """Return a name that is the same in each session."""
    return b"redisjobs_" + hashlib.sha256(statement).hexdigest()[:32].encode()


def _results(pgconn: Any) -> Talk:
    while pgconn.flush():
        yield True
    results = list[Any]()
    while True:
        while pgconn.is_busy():
            yield False
        result = pgconn.get_result()
        if result is None:
            return results
        results.append(result)


def packed(call: Call[Any], queue: str, now_ms: int | None) -> tuple[bytes, list[bytes | None]]:
    """Return the statement of a call, and its values."""
    return functions.committing(call.function), [value_of(each) for each in (queue, now_ms, *call.arguments)]


def value_of(argument: Any) -> bytes | None:
    """Return an argument as Postgres reads it; bytes are text in UTF-8."""
    match argument:
        case None | bytes():
            return argument
        case str():
            return argument.encode()
        case bool():
            return b"t" if argument else b"f"
        case list() | tuple():
            return b"{%b}" % b",".join([_element(value_of(each)) for each in argument])
    return str(argument).encode()


def _element(value: bytes | None) -> bytes:
    if value is None:
        return b"NULL"
    if b"\\" in value or b'"' in value:
        value = value.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return b'"%b"' % value


def rows_of(results: Sequence[Any], role: bytes = b"") -> list[Row]:
    """Return the rows of a statement's results; raise its error, which names the role that asked.

    Raises:
        Refused: The server refused the statement.
        psycopg.Error: The connection was lost.
    """
    for result in results:  # an error may come after the rows: a statement commits last, and its session may end
        if result.status not in _GOOD:
            raise refusal(result, role)
    result = results[0]
    if result.status == pq.ExecStatus.COMMAND_OK:
        return []
    get = result.get_value
    rows = range(result.ntuples)
    columns = [
        _column(result.ftype(column), [get(row, column) for row in rows]) for column in range(result.nfields)
    ]
    return list(zip(*columns, strict=True))


def _column(kind: int, values: list[bytes | None]) -> list[Any]:
    """Return the values of a column: whole numbers and booleans as such, all others as texts."""
    if kind in _INTEGERS:
        return [None if value is None else int(value) for value in values]
    if kind == _BOOLEAN:
        return [None if value is None else value == b"t" for value in values]
    return [None if value is None else value.decode() for value in values]


def answer(call: Call[T], rows: list[Row]) -> tuple[T, Meta, list[Notice]]:
    """Return what a call answers, the JSON of the last row, and the notifications to send."""
    *others, (text, *_) = rows
    if functions.writes(call.function):
        (_, *listed) = rows[-1]
        others = orjson.loads(listed[0]) if listed and listed[0] else []
    meta = given_json(text)
    return call.parse(meta, others), meta, notices_of(meta)


def notices_of(meta: Meta) -> list[Notice]:
    """Return the notifications to send after a call."""
    return notices_in(text_of(meta.get("t") or ""))
