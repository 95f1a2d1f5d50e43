"""Messages of a running handler to its worker: progress, chunks, a request for more time, and jobs to push."""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from numbers import Integral, Number
from typing import Any, Generic, Protocol, TypeVar

from redisjobs.base.visible import visible
from redisjobs.model.emissions import NewChunk
from redisjobs.model.requests import Asked

Item = TypeVar("Item")

_NOTE = 200  # the most characters of a note
_LARGEST = 2**53  # up to here, all JSON readers keep whole numbers exact
_ROUNDING = 1e-9  # how much a sum of fractions may exceed 1
_GIVE = "give a fraction from 0 to 1, as progress(0.4), or what is done and the total, as progress(12, 30)"


@dataclass(frozen=True, slots=True)
class Progress:
    """The last progress report of a running job.

    Attributes:
        fraction: From 0 to 1; None if the handler gave neither a fraction nor a total.
        done: How much is done, in the handler's own unit; None if it gave a fraction, or only a note.
        total: How much there is to do. It may be an estimate: if more is done, the fraction stays at 1.
        note: A line of text, of up to 200 characters; '' for none.
    """

    fraction: float | None = None
    done: float | None = None
    total: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Extension:
    """A request of a run for this many more seconds, from now."""

    seconds: float


@dataclass(frozen=True, slots=True)
class PushRequest:
    """A job that a run pushes, with the arguments of `JobQueue.push`."""

    parameters: Any
    name: Any
    options: Any


HandlerMessage = Progress | NewChunk | Extension | PushRequest
"""A message from a handler to its worker."""


class MessageSink(Asked, Protocol):
    """A receiver of the messages and requests of a handler."""

    def handle(self, message: HandlerMessage) -> Any:
        """Receive a message, in any thread, without waiting; do nothing once the run is over.

        Return a `PushedJob` for a push, else None. For a chunk, a thread of the handler waits until there is room.

        Raises:
            ChunksFull: There is no room for the chunk, and this is the thread of the event loop.
        """


def amount(progress: Progress) -> str:
    """Return how much is done: `40 %`, `12 of 1,500` or `12`; '' if that is not known."""
    if progress.done is not None:
        return _in_words(progress.done) + ("" if progress.total is None else f" of {_in_words(progress.total)}")
    return "" if progress.fraction is None else f"{progress.fraction:.0%}".replace("%", " %")


def _in_words(value: float) -> str:
    """Return a number for people; a large number has no decimals."""
    return f"{value:,.0f}" if value >= 10_000 or value == int(value) else f"{value:g}"


def progress_of(said: tuple[Any, ...], note: Any, before: Progress | None) -> Progress:
    """Return the progress in the arguments of a report; the note is the last argument or a keyword.

    A note alone keeps the numbers of the report before.

    Raises:
        ValueError: A number is wrong, or the note is not text.
        TypeError: There are no arguments, or too many.
    """
    if said and isinstance(said[-1], str):
        if note is not None:
            raise TypeError(
                f"progress{said!r} has a note already: give it once, as progress(0.4, 'page 12 of 30')"
            )
        said, note = said[:-1], said[-1]
    text = "" if note is None else note_of(note)
    if said:
        return measured(said, text)
    if note is None:
        raise TypeError(f"progress() says nothing: {_GIVE}, or a note")
    return replace(before, note=text) if before else Progress(note=text)


def measured(numbers: tuple[Any, ...], note: str) -> Progress:
    """Return the progress for one number, a fraction, or for two: the done and the total amount (may be None)."""
    match numbers:
        case (fraction,):
            return Progress(_fraction(fraction), note=note)
        case (done, total):
            return counted(_count(done), None if total is None else _count(total), note)
        case _:
            raise TypeError(f"progress{numbers!r}: {_GIVE}; and then a note")


def counted(done: float, total: float | None, note: str) -> Progress:
    """Return the progress for a done and a total amount; 0 of 0 counts as complete."""
    fraction = None if total is None else min(1.0, done / total) if total else 1.0
    return Progress(fraction, done, total, note)


def _fraction(value: Any) -> float:
    fraction = float(_number(value))
    if not 0 <= fraction <= 1 + _ROUNDING:
        raise ValueError(f"progress({value!r}): {_GIVE}")
    return min(1.0, fraction)


def _count(value: Any) -> float:
    count = _number(value)
    if not 0 <= count <= _LARGEST:
        raise ValueError(f"progress: {value!r} is no amount of work: {_GIVE}, both from 0 to 2**53")
    return count


def _number(value: Any) -> float:
    """Return a number of any kind, for example from numpy, as int or float; raise a ValueError for a bool."""
    if type(value) in (int, float):
        return value  # type: ignore[no-any-return]
    try:
        if isinstance(value, Number) and not isinstance(value, bool):
            return int(value) if isinstance(value, Integral) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):  # for example a complex number
        pass
    raise ValueError(f"progress: {value!r} is no number: {_GIVE}")


def note_of(note: Any) -> str:
    """Return a note as one line of limited length; raise a ValueError if it is not text."""
    if not isinstance(note, str):
        raise ValueError(f"note={note!r}: give text, as progress(0.4, 'page 12 of 30')")
    # str.__str__, because a subclass of str may override it. Cut first, because a long text is slow to check.
    return visible(str.__str__(note)[: _NOTE + 1], _NOTE)


def total_of(items: Iterable[Any] | AsyncIterable[Any], total: Any) -> float | None:
    """Return how many items there are: the caller's total, checked, or their `len()`, or None."""
    if total is not None:
        return _count(total)
    try:
        return len(items)  # type: ignore[arg-type]
    except TypeError:
        return None


def tracked(items: Iterable[Item], report: Callable[[int], None]) -> Iterator[Item]:
    """Yield the items, and report how many are done: at the start, and at each request for the next item."""
    done = 0
    report(done)
    for item in items:
        yield item
        done += 1
        report(done)


class AsyncTracked(Generic[Item]):
    """An async iterator over items that reports how many are done, like `tracked`.

    It is no async generator, because the event loop would have to close one that a handler leaves early.
    """

    def __init__(self, items: AsyncIterable[Item], report: Callable[[int], None]) -> None:
        self._items = items
        self._report = report
        self._begun: AsyncIterator[Item] | None = None
        self._done = 0

    def __aiter__(self) -> AsyncIterator[Item]:
        return self

    async def __anext__(self) -> Item:
        if self._begun is None:
            self._begun = aiter(self._items)
        else:
            self._done += 1
        self._report(self._done)
        return await anext(self._begun)
