"""How long dead letters and ended jobs are kept."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from redisjobs.base.arguments import milliseconds, seconds, whole


@dataclass(frozen=True, slots=True)
class Keep:
    """How long jobs of one state are kept: within both limits; the oldest are deleted first.

    Args:
        age: Seconds, or a timedelta, since the job came to that state, by the server's clock. None: any time.
        count: The most jobs that are kept. None: any number.

    Raises:
        ValueError: A limit is not more than 0.
    """

    age: float | timedelta | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        if self.age is not None and not seconds(self.age, "age"):
            raise ValueError(f"age={self.age!r}: give more than 0; a state that is not kept gets no Keep")
        if self.count is not None:
            whole(self.count, "count")

    @property
    def age_ms(self) -> int | None:
        """The age in ms; None: any."""
        return None if self.age is None else milliseconds(seconds(self.age, "age"))

    @property
    def text(self) -> str:
        """The limits as they are stored: ms and count, `-` for no limit."""
        return f"{self.age_ms or '-'} {self.count or '-'}"


_DEAD = Keep(timedelta(days=30), 100_000)


@dataclass(frozen=True, slots=True)
class Retention:
    """What a queue keeps, and for how long. What is over a limit is deleted within about a minute.

    Args:
        completed: Jobs that are done. Defaults to none of them.
        cancelled: Jobs that were cancelled. Defaults to none of them.
        dead: Dead letters. Defaults to 100,000 of them, for 30 days; `Keep()` has no limit.

    Raises:
        TypeError: One of these is not a `Keep`.
    """

    completed: Keep | None = None
    cancelled: Keep | None = None
    dead: Keep = _DEAD

    def __post_init__(self) -> None:
        given: dict[str, Any] = {"completed": self.completed, "cancelled": self.cancelled, "dead": self.dead}
        for state, keep in given.items():
            if not isinstance(keep, Keep) and (keep is not None or state == "dead"):
                none = "" if state == "dead" else ", or None to keep none"
                raise TypeError(
                    f"{state}={keep!r}: give a Keep, as Keep(age=timedelta(days=7), count=10_000){none}"
                )

    def of(self, state: str) -> Keep | None:
        """Return how long jobs of a state are kept; None: not at all."""
        return {"completed": self.completed, "cancelled": self.cancelled, "dead": self.dead}[state]


DEFAULT = Retention()
"""What a queue keeps unless its code or an operator sets something else."""

ASIDE = ("completed", "cancelled", "dead")
"""The states of jobs that will not run unless they are requeued."""
