"""Values for the relay of an outbox, which pushes jobs that a database holds, each once.

The relay reads rows of the outbox, pushes them, and deletes them in a transaction of the database. It may die or
freeze between any two steps. So the store remembers each row that it has answered until the row is deleted:

1. The relay reads the store's clock, then the rows, and pushes them by `Relay`. The store adds no job for a row
   that it has answered, and takes no push whose clock was read long ago: such rows may be deleted.
2. The relay deletes the rows. Once that is committed, `ForgetRelayed` ends the memory. The store goes on to know
   them only for as long as a push of another relay that has read the same rows may arrive.
3. If the relay died between the two, `FindRelayed` finds what is remembered of rows that are gone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from redisjobs.model.changes import Change
from redisjobs.model.queries import Query
from redisjobs.model.transitions import NewJob, Pushed, Reply


@dataclass(frozen=True, slots=True)
class Relayed:
    """The answer to `Relay`.

    Attributes:
        server_ms: The store's clock.
        pushed: The outcome of each job, from the first on. If it has fewer, push the others again. Of a row that
            was answered before, it is REPEATED. None: the clock was read too long ago, and nothing was written.
    """

    server_ms: float
    pushed: Sequence[Pushed] | None


@dataclass(frozen=True, slots=True)
class Relay(Change[Relayed]):
    """Push rows of an outbox, at most 500, and remember those that are answered.

    Attributes:
        outbox: Names the outbox, among those of other databases.
        jobs: The jobs of its rows; none, to read the clock.
        read_ms: The store's clock before the rows were read; None: unknown, so nothing is written.
    """

    outbox: str
    jobs: Sequence[NewJob] = ()
    read_ms: float | None = None


@dataclass(frozen=True, slots=True)
class ForgetRelayed(Change[Reply]):
    """Forget rows that are deleted, by their names; see `row_name`. At most 500."""

    outbox: str
    rows: Sequence[str]


@dataclass(frozen=True, slots=True)
class FindRelayed(Query[list[str]]):
    """Return the names of up to 500 rows that the store remembers, the oldest first.

    Attributes:
        outbox: See `Relay`.
        older_ms: Only rows that were answered this long ago.
    """

    outbox: str
    older_ms: int


def row_name(job_id: str, nonce: str) -> str:
    """Return the name of a row of the outbox: its job id, after its nonce if it has one."""
    return f"{nonce} {job_id}" if nonce else job_id
