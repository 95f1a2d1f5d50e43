"""What a call of a queue does, written once for the async and the sync queue.

An operation is a generator. It yields queries and changes, gets their answers, and returns the call's result.
`Calls.do` and `SyncCalls.do` carry it out.
"""

from collections.abc import Callable, Generator
from typing import Any, Protocol, TypeVar

from redisjobs.errors import DriverError, Unavailable
from redisjobs.model.changes import Change
from redisjobs.model.queries import Query

T = TypeVar("T")
D = TypeVar("D")

Operation = Generator[Query[Any] | Change[Any], Any, T]
"""An operation that returns a T."""


class _PageAnswer(Protocol):
    @property
    def after(self) -> str: ...


Page = TypeVar("Page", bound=_PageAnswer)


def ask(request: Query[T] | Change[T]) -> Operation[T]:
    """Yield one query or change, and return its answer."""
    answer: T = yield request
    return answer


def pages_of(query: Callable[[str], Query[Page]]) -> Operation[list[Page]]:
    """Read all pages of a query, which is given where the last page ended."""
    pages = [(yield from ask(query("")))]
    while pages[-1].after:
        pages.append((yield from ask(query(pages[-1].after))))
    return pages


def or_default(operation: Operation[T], default: D) -> Operation[T | D]:
    """Return an operation's result, or a default if the server or the driver refuses to answer."""
    try:
        return (yield from operation)
    except Unavailable:
        raise
    except DriverError:
        return default
