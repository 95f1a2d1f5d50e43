"""Values that move a queue from one store, the source, to another one, the target: each job once.

A job is in one of three: the queue of the source, in transit, the queue of the target.

1. `Take` takes jobs that do not run out of the source's queue, and puts them in transit, in one step. They stay at
   the source, each with a place in line: a text that is greater than all before it, also after a loss of data.
2. `FindTaken` reads jobs in transit, in order, and `Import` adds them to the target, in the same order. In the
   same step the target notes the place of the last one, and the places of those that it refused. So it has all
   jobs up to that place, but for these, and a job that comes again adds nothing, however late.
3. `ForgetTaken` deletes the jobs from transit that the target has.

A mover may die or freeze between any two calls, and several may run: no call depends on a clock, and each may be
repeated. A refused job stays in transit, and may be imported later.

A job takes along what it has saved, and how its children have ended. Until all of a group have, its parent and its
children stay at the source, and end there as running jobs do: so no outcome crosses between two stores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from redisjobs.model.changes import Change, JobStatus
from redisjobs.model.children import ChildOutcome
from redisjobs.model.job import ENDED, WAITING, Priority, State
from redisjobs.model.queries import Query, Row
from redisjobs.model.retention import Retention
from redisjobs.model.steps import Steps
from redisjobs.model.transitions import MOST_JOBS, Pushed, Reply


@dataclass(frozen=True, slots=True)
class MovedOutcome:
    """How a job has ended, if its result is kept.

    Attributes:
        status: As `GetStatus` returns it, with the result while that is there.
        until_ms: How long the outcome is kept.
        value_until_ms: How long the result is kept.
    """

    status: JobStatus
    until_ms: int
    value_until_ms: int


@dataclass(frozen=True, slots=True)
class Taken:
    """A job in transit.

    Attributes:
        place: Its place in line: all places of a source have the same length, and are compared as texts.
        fields: Those of its entry, with its history.
        since_ms: When it came to its state.
        taken_ms: When it was taken.
        due_ms: Of a delayed job; of a suspended one, when it is woken at the latest. None: no time.
        held: Whether it is not to start.
        window_ms: Until when it holds a unique key that it was pushed with for a time; None: it holds none.
        outcome: Of a job that has ended; None: its result is not kept.
        steps: What it has saved.
        signals: Those that it has not waited for yet, by name.
        children: How the children of each of its groups have ended, by the token of the group.
    """

    place: str
    job_id: str
    state: State
    priority: Priority
    fields: Mapping[bytes, bytes]
    since_ms: int
    taken_ms: int
    due_ms: int | None = None
    held: bool = False
    window_ms: int | None = None
    outcome: MovedOutcome | None = None
    steps: Steps = field(default_factory=Steps)
    signals: Mapping[str, bytes] = field(default_factory=dict)
    children: Mapping[str, Sequence[ChildOutcome]] = field(default_factory=dict)

    @property
    def waits(self) -> bool:
        """Whether it is ready, delayed or suspended."""
        return self.state in WAITING

    @property
    def has_ended(self) -> bool:
        """Whether it is done or cancelled, and kept: its id is free for another job."""
        return self.state in ENDED


MOST_OUTCOME_BYTES = 1024 * 1024
"""A job whose children have returned more than this in all is not moved."""


@dataclass(frozen=True, slots=True)
class Took:
    """The answer to `Take`.

    Attributes:
        store: Names the queue of this store among all others, once and for all.
        replies: For each row: OK. NOT_FOUND: the job is not in this state any more, or can't be read. STAYS: it
            waits until all children of a group have ended, as their parent or as one of them; or its children have
            returned too much. PARTIAL: not looked at, because those before it are large.
    """

    store: str
    replies: Sequence[Reply]


@dataclass(frozen=True, slots=True)
class Take(Change[Took]):
    """Put jobs in transit, at most 500, as one step of a scan has found them. Without rows, only ask for the name.

    They leave their unique keys, holds and waiting lines. Their pushes are remembered, as of jobs that end. It is
    no outcome: nothing is counted, and processes that wait for them get no notification.

    Attributes:
        rows: The jobs.
        most_bytes: A job whose children have returned more than this in all stays; -1: one that has had children.
    """

    rows: Sequence[Row] = ()
    most_bytes: int = MOST_OUTCOME_BYTES


@dataclass(frozen=True, slots=True)
class InTransit:
    """The answer to `FindTaken`.

    Attributes:
        store: See `Took`; '' if nothing was ever taken.
        jobs: The first jobs, in order.
        total: How many there are in all, also before `after`.
    """

    store: str
    jobs: Sequence[Taken]
    total: int


@dataclass(frozen=True, slots=True)
class FindTaken(Query[InTransit]):
    """Find jobs in transit, at most 500 and about 1 MB of them.

    Attributes:
        after: Only jobs after this place; '' begins.
        limit: The most jobs.
    """

    after: str = ""
    limit: int = MOST_JOBS


@dataclass(frozen=True, slots=True)
class Import(Change[list[Pushed]]):
    """Add jobs in transit to the target's queue, as one call of `FindTaken` has found them.

    Each gets an answer: OK; REPEATED: it was added before; EXISTS, or DUPLICATE with the id of the holder:
    another job has its id or its unique key; OVERSIZED: it has more fields, or longer ids or keys, than this
    store takes; STAYS: it has children, and this store can have none. A job that is refused is looked at again
    when it is imported again. A job comes in the state that it had, behind those that are there. Its deliveries
    are counted from 0 again. A store may count the time in its state from now on; its fields say when it was
    pushed, and when it failed or ended. A suspended job whose time has come is woken like the others there.

    Attributes:
        source: The `store` of the source.
    """

    source: str
    jobs: Sequence[Taken]


@dataclass(frozen=True, slots=True)
class ForgetTaken(Change[Reply]):
    """Delete jobs from transit that the target has, by their places; at most 500. OK."""

    places: Sequence[str]


@dataclass(frozen=True, slots=True)
class FindRetention(Query[Retention | None]):
    """Find what the queue keeps; None: it was never set."""
