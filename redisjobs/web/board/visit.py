"""One request for a view, and the answer that a view makes."""

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from redisjobs.errors import DriverError, Unavailable
from redisjobs.web.board.access import Verb
from redisjobs.web.board.board import Board
from redisjobs.web.board.bulk import Bulks
from redisjobs.web.board.filters import query_of

T = TypeVar("T")


class Missing(Exception):
    """There is no such page, job or schedule."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of a viewer.

    Attributes:
        board: The queue.
        bulks: The acts on many jobs of this queue, in this process.
        base: The address of the queue's pages, without a slash at its end.
        verbs: What the viewer may do.
        query: The fields of the query string; of several with one name, the last.
        now: The time of the request.
    """

    board: Board
    bulks: Bulks
    base: str
    verbs: frozenset[Verb]
    query: Mapping[str, str]
    now: datetime

    def url(self, view: str = "", **query: str) -> str:
        """Return the address of a view of this queue."""
        asked = query_of(query)
        return f"{self.base}/{view}" + (f"?{asked}" if asked else "")


@dataclass(frozen=True, slots=True)
class ViewAnswer:
    """The answer of a view.

    Attributes:
        template: The template's name, without its suffix.
        title: The title.
        data: What the template shows.
        status: The HTTP status.
        view: The view whose tab is marked; '' for none.
        is_live: Whether the page reads itself again every 2 seconds.
    """

    template: str
    title: str
    data: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200
    view: str = ""
    is_live: bool = True


async def part(read: Awaitable[T], otherwise: T, faults: list[str]) -> T:
    """Return a part of a view; if the server refuses it, note why, so that the rest of the view is shown."""
    try:
        return await read
    except Unavailable:
        raise
    except DriverError as error:
        faults.append(str(error))
        return otherwise
