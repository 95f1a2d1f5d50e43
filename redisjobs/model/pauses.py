"""What may not start: the name that is paused, and what an operator is told."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from redisjobs.base.arguments import is_text
from redisjobs.model.codec import when
from redisjobs.model.job import JobName
from redisjobs.model.queries import Pauses


@dataclass(frozen=True, slots=True)
class PauseInfo:
    """What of a queue may not start.

    Attributes:
        since: When the queue was paused; None: it is not.
        names: The job names that are paused, and since when.
        held: How many jobs are held.
    """

    since: datetime | None
    names: Mapping[str, datetime]
    held: int

    def is_paused(self, name: str) -> bool:
        """Whether the queue is paused, for '', or a job name is."""
        return name in self.names if name else self.since is not None


def pause_info(pauses: Pauses) -> PauseInfo:
    """What the store said, for people."""
    names = {name: when(ms) for name, ms in sorted(pauses.names.items())}
    return PauseInfo(None if pauses.queue is None else when(pauses.queue), names, pauses.held)


def paused_name(name: str | JobName[Any] | None) -> str:
    """The job name to pause; '' for the whole queue.

    Raises:
        ValueError: It can't be one.
    """
    if name is None:
        return ""
    text = name.name if isinstance(name, JobName) else name
    if not is_text(text, r"[^\s\x00-\x1f]{1,200}"):
        raise ValueError(f"name={name!r}: give the name of a job, 1 to 200 characters, no spaces")
    return text
