"""Calls of the functions in the database, without I/O: async and sync connections run the same ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from redisjobs.model.changes import Change
from redisjobs.model.driver import supported
from redisjobs.model.queries import Query

T = TypeVar("T")
V = TypeVar("V")

Row = Sequence[Any]
"""The values of a row: whole numbers and booleans as such, all others as texts; None for null."""

Meta = Mapping[str, Any]
"""The JSON in the last row.

`a` is the answer of a call that returns nothing else, `t` the notifications to send, and `now` the server's clock
in ms, if it is there.
"""


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A function to call, and how to read its answer.

    Attributes:
        function: The name, as in `functions/*.sql` after `redisjobs_f.`.
        arguments: Those after the queue's name and `now_ms`: texts (str, or bytes in UTF-8), numbers, booleans,
            None, and lists of these.
        parse: Returns the answer, given the JSON of the last row's first column, and the rows before it.
    """

    function: str
    arguments: Sequence[Any]
    parse: Callable[[Meta, Sequence[Row]], T]


def answer_of(read: Callable[[Any], T]) -> Callable[[Meta, Sequence[Row]], T]:
    """Return a `parse` for a function that answers by JSON alone."""
    return lambda meta, _: read(meta["a"])


QUERIES: dict[type[Any], Callable[[Any], Call[Any]]] = {}
CHANGES: dict[type[Any], Callable[[Any], Call[Any]]] = {}


def query_call(query: Query[T]) -> Call[T]:
    """Return the call of a query.

    Raises:
        Unsupported: There is none.
    """
    make: Callable[[Query[T]], Call[T]] = supported(QUERIES, query, "Postgres")
    return make(query)


def change_call(change: Change[T]) -> Call[T]:
    """Return the call of a change.

    Raises:
        Unsupported: There is none.
    """
    make: Callable[[Change[T]], Call[T]] = supported(CHANGES, change, "Postgres")
    return make(change)


def answers(asked: type[Query[T] | Change[T]]) -> Callable[[Callable[[V], Call[T]]], Callable[[V], Call[T]]]:
    """Register a function that returns the call for a query or a change."""

    def register(make: Callable[[V], Call[T]]) -> Callable[[V], Call[T]]:
        (QUERIES if issubclass(asked, Query) else CHANGES)[asked] = make
        return make

    return register
