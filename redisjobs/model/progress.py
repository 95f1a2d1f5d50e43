"""What a running handler says: its progress, that it needs more time, and what it pushes."""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from numbers import Integral, Number
from typing import Any, Generic, Protocol, TypeVar

from redisjobs.base.visible import visible

Item = TypeVar("Item")

_NOTE = 200  # characters of a note that are kept
_LARGEST = 2**53  # up to here every reader of JSON has whole numbers
_ROUNDING = 1e-9  # by how much a sum of fractions may exceed 1
_GIVE = "give a fraction from 0 to 1, as progress(0.4), or what is done and the total, as progress(12, 30)"


@dataclass(frozen=True, slots=True)
class Progress:
    """The last progress report of a running job.

    Attributes:
        fraction: From 0 to 1; None if the handler gave neither that nor a total.
        done: How much is done, in a unit of the handler's own; None if it gave a fraction, or a note alone.
        total: How much there is to do. It may be an estimate: if more is done, the fraction stays at 1.
        note: A line of text, of up to 200 characters; '' for none.
    """

    fraction: float | None = None
    done: float | None = None
    total: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Extension:
    """A run needs more time: this many seconds, from now."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Pushing:
    """A run pushes a job; name and options are as for `JobQueue.push`."""

    parameters: Any
    name: Any
    options: Any


HandlerMessage = Progress | Extension | Pushing
"""A message from a handler to its worker."""


class MessageSink(Protocol):
    """Receives the messages of a handler."""

    def hear(self, said: HandlerMessage) -> Any:
        """Take in a message, in any thread, without waiting; once the run is over, do nothing.

        Return the job of a push, as a `PushedJob`; else None.
        """


def progress_of(said: tuple[Any, ...], note: Any, before: Progress | None) -> Progress:
    """Return the progress that a handler gave as arguments, the note by name or as the last of them.

    A note alone leaves the numbers of the report before as they were.

    Raises:
        ValueError: A number is wrong, or the note is not text.
        TypeError: There is nothing, or too much.
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
    """Return the progress of one number, a fraction, or of two: what is done and the total, which may be None."""
    match numbers:
        case (fraction,):
            return Progress(_fraction(fraction), note=note)
        case (done, total):
            return counted(_count(done), None if total is None else _count(total), note)
        case _:
            raise TypeError(f"progress{numbers!r}: {_GIVE}; and then a note")


def counted(done: float, total: float | None, note: str) -> Progress:
    """Return the progress of work that is counted; 0 of 0 is all of it."""
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
    """Return any kind of number, such as one of numpy's; but a bool is a number by its class only."""
    if type(value) in (int, float):
        return value  # type: ignore[no-any-return]
    try:
        if isinstance(value, Number) and not isinstance(value, bool):
            return int(value) if isinstance(value, Integral) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):  # a complex one
        pass
    raise ValueError(f"progress: {value!r} is no number: {_GIVE}")


def note_of(note: Any) -> str:
    """Return a note as it is kept, one line of limited length; raise a ValueError if it is not text."""
    if not isinstance(note, str):
        raise ValueError(f"note={note!r}: give text, as progress(0.4, 'page 12 of 30')")
    # Of a class derived from str take the text itself, and no more of it than is kept.
    return visible(str.__str__(note)[: _NOTE + 1], _NOTE)


def total_of(items: Iterable[Any] | AsyncIterable[Any], total: Any) -> float | None:
    """Return how many items there are, by the caller, who may be wrong (ValueError), or by their `len()`."""
    if total is not None:
        return _count(total)
    try:
        return len(items)  # type: ignore[arg-type]
    except TypeError:
        return None


def tracked(items: Iterable[Item], report: Callable[[int], None]) -> Iterator[Item]:
    """Yield the items, and report how many are done: first, and whenever the next one is asked for."""
    done = 0
    report(done)
    for item in items:
        yield item
        done += 1
        report(done)


class AsyncTracked(Generic[Item]):
    """The items of an async iterable; it reports how many are done, as `tracked` does.

    It is no generator: one that a handler leaves early would wait for the event loop to close it.
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
