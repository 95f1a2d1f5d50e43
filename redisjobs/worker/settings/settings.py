"""A worker's settings, and the queues that it takes jobs from."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from redisjobs.base.logger import Log
from redisjobs.client.registry import Registry
from redisjobs.events.middleware import Middleware

Listed = Registry | tuple[Registry, float]
"""A queue, by itself or with its weight."""

_MOST = 1e9  # the largest weight: sums of larger ones would lose the small ones


@dataclass(frozen=True, slots=True)
class Settings:
    """A worker's settings for one of its queues; see `Worker`. Times are in seconds; infinity is no limit.

    Attributes:
        next_id: Makes the id under which the worker goes on after the server has taken it for dead.
        middleware: The worker's own; it runs inside the queue's.
        until_idle: Whether the run ends as soon as nothing is left to do.
        queues: The names of all its queues, if it has several.
    """

    queue: Registry
    worker_id: str
    next_id: Callable[[], str]
    concurrency: int
    lease: float
    max_deliveries: int
    unknown_ms: int
    abandoned: int
    supervised: bool = False
    max_jobs: float = math.inf
    max_rss: float = math.inf
    middleware: tuple[Middleware, ...] = ()
    schedules: bool = False
    until_idle: bool = False
    queues: tuple[str, ...] = ()

    @property
    def log(self) -> Log:
        """The log for this queue. If the worker has several, each line names the queue."""
        return Log("redisjobs.worker", [self.queue.name] if self.queues else ())


@dataclass(frozen=True, slots=True)
class Queues:
    """The queues of a worker, in the order in which they were listed."""

    all: tuple[Registry, ...]
    weights: tuple[float, ...]
    strict: bool  # turns go by order, not by weight

    @classmethod
    def of(
        cls, listed: Registry | Iterable[Listed], weights: Mapping[str, float] | None, *, strict: bool
    ) -> "Queues":
        """Return the queues that a caller lists; see `Worker`.

        Raises:
            TypeError: An item is not a queue, or `weights` is not a mapping.
            ValueError: No queue is listed, one is listed twice, or `weights` or `strict` is invalid.
        """
        if not isinstance(strict, bool):
            raise ValueError(f"strict={strict!r}: give True or False")
        pairs = [_pair(each) for each in _each(listed)]
        queues = tuple(queue for queue, _ in pairs)
        _check_once(queues)
        if weights is not None:
            _add_weights(pairs, weights)
        heavy = {queue.name: weight for queue, weight in pairs if weight is not None}
        if strict and heavy:
            raise ValueError(f"strict=True: only the order counts then, so give no weights, as {heavy}")
        return cls(queues, tuple(1 if weight is None else weight for _, weight in pairs), strict)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the queues."""
        return tuple(queue.name for queue in self.all)

    def __str__(self) -> str:
        """Return the queues as a log line shows them."""
        if self.strict:
            return f"{quoted(self.names)}, in strict order"
        if len(set(self.weights)) == 1:
            return quoted(self.names)
        return ", ".join(
            f"'{name}' (weight {weight:g})" for name, weight in zip(self.names, self.weights, strict=True)
        )


def quoted(names: Iterable[str]) -> str:
    """Return the names of queues as a message shows them."""
    return ", ".join(f"'{name}'" for name in names)


def _each(listed: Any) -> list[Any]:
    if isinstance(listed, Registry):
        return [listed]
    # Text and bytes are not lists of queues; a mapping would lose its values, and a set has no order.
    if not isinstance(listed, Iterable) or isinstance(listed, str | bytes | Mapping | Set | type):
        raise _no_queue(listed)
    queues = list(listed)
    if not queues:
        raise ValueError(f"Worker({listed!r}): there is no queue to run jobs of; list at least one")
    return queues


def _pair(each: Any) -> tuple[Registry, float | None]:
    match each:
        case Registry():
            return each, None
        case (Registry() as queue, weight) if isinstance(each, tuple):
            return queue, _weight(weight, queue)
    raise _no_queue(each)


def _no_queue(given: object) -> TypeError:
    # Don't show its text, which may contain a password.
    shown = f"the class {given.__name__}" if isinstance(given, type) else f"a {type(given).__name__}"
    return TypeError(
        f"Worker runs the jobs of a queue, not of {shown}: give a JobQueue with its handlers, as "
        "Worker(JobQueue('redis://HOST:PORT/0')), or a list of queues or of pairs (queue, weight)"
    )


def _check_once(queues: tuple[Registry, ...]) -> None:
    if len(queues) == 1:
        return
    places = Counter(queue.driver.place for queue in queues)
    for queue in queues:
        if places[queue.driver.place] > 1:
            raise ValueError(
                f"queue '{queue.name}' is listed twice: list each once, and for more turns with a weight, as "
                "(queue, 2)"
            )


def _weight(weight: Any, queue: Registry, where: str = "") -> float:
    is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not (is_number and 0 < weight <= _MOST):
        raise ValueError(
            f"{where}weight {weight!r} of queue '{queue.name}': give a number above 0, and at most {_MOST:g}"
        )
    return float(weight)


def _add_weights(pairs: list[tuple[Registry, float | None]], weights: Any) -> None:
    """Add the weights that are given by queue name."""
    if not isinstance(weights, Mapping):
        raise TypeError(f"weights={weights!r}: give numbers by the names of queues, as {{'emails': 3}}")
    for name, weight in weights.items():
        places = [place for place, (queue, _) in enumerate(pairs) if queue.name == name]
        if not places:
            raise ValueError(
                f"weights={weights!r}: {name!r} is none of the queues {quoted(queue.name for queue, _ in pairs)}"
            )
        if len(places) > 1:
            raise ValueError(
                f"weights={weights!r}: several of the queues are called '{name}'; give each its weight where it "
                "is listed, as (queue, 2)"
            )
        queue, own = pairs[places[0]]
        if own is not None:
            raise ValueError(f"weights={weights!r}: queue '{name}' is listed with the weight {own:g} already")
        pairs[places[0]] = queue, _weight(weight, queue, f"weights={weights!r}: ")
