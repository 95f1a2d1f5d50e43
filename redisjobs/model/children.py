"""The children of a job: jobs that it runs in one of its steps, and whose outcomes it waits for.

All children of a step are a group. The store has a record of each group: how many children have not ended, and how
the others have. The step that ends the last child makes the parent ready.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from redisjobs.model.changes import Change
from redisjobs.model.queries import Query

MOST_CHILDREN = 10_000
"""The most children of one step."""

MOST_DEPTH = 100
"""How deep children may have children."""


class ChildState(StrEnum):
    """What has become of a child."""

    PENDING = "pending"
    """It has not ended."""
    COMPLETED = "completed"
    REFUSED = "refused"
    """It is done, but its result could not be kept."""
    DEAD = "dead"
    CANCELLED = "cancelled"
    EXISTS = "exists"
    """It was not added, because another job has its id."""
    DUPLICATE = "duplicate"
    """It was not added, because another job holds its unique key."""


@dataclass(frozen=True, slots=True)
class ChildOutcome:
    """How a child has ended."""

    state: ChildState
    value: bytes = b""  # of a completed one: its result as JSON
    error: str = ""  # why the result was refused; the error of a dead one, in one line; the id of the other job
    error_type: str = ""
    reason: str = ""  # why a dead one is a dead letter, in a word or two
    # '' if it has none of its own, as `Group.child_id`. It says nothing of how the child has ended.
    job_id: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class ChildrenFound:
    """The answer to one step of `FindChildren`."""

    parent: str  # '' if there is no such group, or no more
    total: int = 0
    left: int = 0  # how many have not ended
    outcomes: Sequence[ChildOutcome] = ()  # from the asked index on; empty if that was the last
    key: str = ""  # of the step


@dataclass(frozen=True, slots=True)
class FindChildren(Query[ChildrenFound]):
    """Read how the children of a group have ended, in bounded steps."""

    token: str
    first: int = 0  # the index to begin at
    most: int = 1000  # 0: no child, only how many there are


@dataclass(frozen=True, slots=True)
class CancelChildren(Change[bool]):
    """Cancel children whose parent was cancelled, in bounded steps; True: there are more."""
