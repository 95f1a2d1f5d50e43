"""The listeners to events, and what all events have in common."""

import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, TypeVar

from redisjobs.base.logger import Log, is_ctrl_c
from redisjobs.model.annotations import called_as, is_async, is_generator

logger = Log("redisjobs")


@dataclass(frozen=True)
class Event:
    """Something that has happened.

    Attributes:
        queue: Its name.
        at: When it was published, in seconds since 1970 by this machine's clock.
    """

    queue: str
    _: KW_ONLY
    at: float = field(default_factory=time.time)


E_ = TypeVar("E_", bound=Event)
Listener = Callable[[Any], object]


def _always() -> bool:
    return True


def _listens(kind: type[Event], when: Callable[[], bool]) -> bool:
    try:
        return when()
    except BaseException as error:
        _show(kind, error)
        return False


def _show(kind: type[Event], error: BaseException) -> None:
    """Log what a listener raised, which must not end the publisher."""
    if is_ctrl_c(error):
        raise error
    logger.error("a listener to %s raised; nothing else is affected", kind.__name__, exc_info=error)


_INSTEAD = (
    "give a plain function; to await something, it can hand the event over, as by "
    "loop.call_soon_threadsafe(events.put_nowait, event) for a task that reads `events`, an asyncio.Queue"
)


def _check(kind: object, listener: object, when: object) -> None:
    if not (isinstance(kind, type) and issubclass(kind, Event)):
        raise TypeError(f"{kind!r:.60} is no kind of events: give a class, as JobsCompleted")
    for what, function in (("listener", listener), ("when", when)):
        if not callable(function):
            raise TypeError(f"{what}={function!r:.60}: give a function")
        if is_async(function) or is_generator(function):
            does = "is async" if is_async(function) else "is a generator"
            raise TypeError(f"{what}={called_as(function)} {does}, so a call would not run it: {_INSTEAD}")


def _tell(listener: Listener, event: Event) -> None:
    returned = listener(event)
    if isinstance(returned, Coroutine):
        returned.close()
        raise TypeError(f"it returned a coroutine, which nothing awaits: {_INSTEAD}")


class Events:
    """The listeners to the events of one queue, in this process. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # reentrant: a signal handler may push, in the thread that holds it
        self._listeners: Sequence[tuple[type[Event], Listener, Callable[[], bool]]] = ()
        self._by_kind: Mapping[type[Event], Sequence[tuple[Listener, Callable[[], bool]]]] = {}

    def subscribe(
        self, kind: type[E_], listener: Callable[[E_], object], *, when: Callable[[], bool] = _always
    ) -> Callable[[], None]:
        """Call a function with each event of a kind from now on; return a function that ends this.

        The listener is called in the thread in which the event happened, usually the event loop's, so it must be
        quick, and can't be async. What it raises is logged.

        Args:
            kind: The class of the events. It stands for all classes that derive from it, too.
            listener: The function.
            when: Returns whether the listener wants events now. Asked before an event is made, because that costs
                time.

        Raises:
            TypeError: This is no kind of events, or the listener is async or can't be called.
        """
        _check(kind, listener, when)
        entry = (kind, listener, when)
        with self._lock:
            self._listeners, self._by_kind = [*self._listeners, entry], {}

        def unsubscribe() -> None:
            with self._lock:
                self._listeners = [each for each in self._listeners if each is not entry]
                self._by_kind = {}

        return unsubscribe

    def wanted(self, kind: type[Event]) -> bool:
        """Return whether a listener wants events of a kind now. If none does, they need not be made."""
        return any(_listens(kind, when) for _, when in self._of(kind))

    def publish(self, event: Event) -> None:
        """Call each listener to events of its kind."""
        for listener, when in self._of(type(event)):
            if not _listens(type(event), when):
                continue
            try:
                _tell(listener, event)
            except BaseException as error:
                _show(type(event), error)

    def _of(self, kind: type[Event]) -> Sequence[tuple[Listener, Callable[[], bool]]]:
        found = self._by_kind.get(kind)
        if found is None:
            with self._lock:
                found = [(listener, when) for each, listener, when in self._listeners if issubclass(kind, each)]
                self._by_kind = {**self._by_kind, kind: found}
        return found
