"""What a worker says of its own health."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a worker works, judged by what it got done.

    Attributes:
        live: It is worth keeping. A worker whose store is unavailable is: to start it again would not help.
        ready: It takes jobs.
        why: In a few words.
    """

    live: bool
    ready: bool
    why: str
