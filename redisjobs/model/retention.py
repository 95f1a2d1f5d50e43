"""How long dead letters and ended jobs are kept."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from redisjobs.base.arguments import milliseconds, seconds, whole


@dataclass(frozen=True, slots=True)
class Keep:
    """How long jobs of one state are kept. A job over one of the limits is deleted, the oldest first.

    Args:
        age: Seconds or a timedelta since the job came to that state, by the server's clock. None: any age.
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
        """The age in ms; None: any age."""
        return None if self.age is None else milliseconds(seconds(self.age, "age"))

    @property
    def text(self) -> str:
        """The stored form of the limits: ms and count, with `-` for no limit."""
        return f"{self.age_ms or '-'} {self.count or '-'}"


def keep_of(text: str) -> Keep:
    """Return the limits of a stored form; what is no number there is no limit."""
    age_ms, _, count = text.partition(" ")
    return Keep(int(age_ms) / 1000 if age_ms.isdecimal() else None, int(count) if count.isdecimal() else None)


_DEAD = Keep(timedelta(days=30), 100_000)


@dataclass(frozen=True, slots=True)
class Retention:
    """Which ended jobs a queue keeps, and for how long. Jobs over a limit are deleted within about a minute.

    Args:
        completed: For jobs that are done. By default none are kept.
        cancelled: For jobs that were cancelled. By default none are kept.
        dead: For dead letters. By default up to 100,000 are kept for 30 days; `Keep()` has no limit.

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
"""The retention of a queue that has no other one."""
