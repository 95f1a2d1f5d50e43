"""Pushes within a transaction of a database: to its outbox, or to a queue that is in it."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from redisjobs.client.push import MakeHandle, PushCall, name_in, raise_conflicts
from redisjobs.drivers.postgres.connecting import FORBIDDEN, NO_SCHEMA
from redisjobs.drivers.postgres.outbox import ADD
from redisjobs.drivers.postgres.schema import MIGRATE
from redisjobs.drivers.postgres.within import Transaction, state_of, transaction_of
from redisjobs.errors import Forbidden
from redisjobs.events.middleware import PushEnds
from redisjobs.model.context import note_transaction
from redisjobs.model.driver import OtherVersion
from redisjobs.model.job import OnConflict, PushedJob
from redisjobs.model.outbox import rows_of
from redisjobs.model.transitions import MOST_JOBS, NewJob, Pushed

Handle = TypeVar("Handle", bound=PushedJob)


def transaction(connection: Any, *, is_async: bool) -> Transaction:
    """Return the transaction to write in.

    Raises:
        TypeError: The connection is none that we know, or a sync one for an async queue, or the other way round.
    """
    found = transaction_of(connection)
    if found.is_async is not is_async:
        wanted = "an async queue needs an async connection" if is_async else "a sync queue needs a sync connection"
        raise TypeError(f"within={type(connection).__module__}.{type(connection).__qualname__}: {wanted}")
    return found


class Writing(Protocol):
    """A statement that pushes jobs."""

    @property
    def statement(self) -> str:
        """With `%s` for each value."""

    @property
    def values(self) -> Sequence[Any]:
        """The values."""

    def answers(self, rows: Sequence[Sequence[Any]]) -> list[Pushed]:
        """Return the answer to each job; none where they will be known after the commit."""

    def follow(self, transaction: Transaction) -> None:
        """Do what is to be done once the transaction has ended."""


@dataclass(frozen=True, slots=True)
class ToOutbox:
    """A statement that writes jobs to the outbox; see `Writing`."""

    values: Sequence[Any]
    statement: str = ADD

    def answers(self, rows: Sequence[Sequence[Any]]) -> list[Pushed]:
        """Return none."""
        return []

    def follow(self, transaction: Transaction) -> None:
        """Do nothing: relays look for themselves."""


def to_outbox(queue: str, jobs: Sequence[NewJob]) -> list[ToOutbox]:
    """Return the statements that write jobs to the outbox.

    Raises:
        EncodeError: See `rows_of`.
        ValueError: A job has `on_conflict="raise"`.
    """
    if any(job.on_conflict is OnConflict.RAISE for job in jobs):
        raise ValueError(
            'on_conflict="raise" within= a transaction: whether it conflicts is known after the commit'
        )
    chunks = (jobs[first : first + MOST_JOBS] for first in range(0, len(jobs), MOST_JOBS))
    return [ToOutbox([rows_of(queue, chunk)]) for chunk in chunks]


class Writes:
    """What was written within a transaction: the part of such a push that both queues share."""

    def __init__(self, jobs: Sequence[NewJob]) -> None:
        self._jobs = jobs
        self._answers: list[Pushed] = []
        self._written: list[Writing] = []

    @contextmanager
    def explaining(self, failed: Callable[[BaseException], object]) -> Iterator[None]:
        """Raise what an error of a statement means, after a call of `failed` with it."""
        try:
            yield
        except BaseException as error:
            cause = _meaning(error)
            failed(cause)
            if cause is error:
                raise
            raise cause from error

    def add(self, writing: Writing, rows: Sequence[Sequence[Any]]) -> None:
        """Add the rows that a statement returned."""
        self._answers += writing.answers(rows)
        self._written.append(writing)

    def follow(self, transaction: Transaction) -> None:
        """Note that the transaction has pushed, for the job that runs here and for workers."""
        note_transaction(transaction.watch())
        for writing in self._written:
            writing.follow(transaction)

    def handles(self, make: MakeHandle[Handle], ends: PushEnds) -> list[Handle]:
        """Return a handle for each job, after the calls that wait for the end of the push.

        Raises:
            UniqueConflict: Other jobs hold unique keys, and `on_conflict` is `"raise"`. The rest was written.
        """
        if not self._answers:  # in the outbox
            ends.tell([True] * len(self._jobs))
            return [make(job.job_id, name_in(job), None) for job in self._jobs]
        push = PushCall(self._jobs, math.inf, prepared=False)
        handles = push.handles(self._answers, make)
        ends.tell([bool(handle.added) for handle in handles])
        raise_conflicts(push.conflicts)
        return handles


def _meaning(error: BaseException) -> BaseException:
    """Return what a failed statement means; a library's error as it is, if it is not about the outbox."""
    state = state_of(error)
    if state in NO_SCHEMA:
        return OtherVersion(
            f"the database lacks what this release needs ({error}): {MIGRATE}. Nothing was written"
        )
    if state == FORBIDDEN:
        return Forbidden(
            f"the role may not push ({error}): SELECT redisjobs.allow('ROLE', 'outbox') lets it write to the "
            "outbox, and 'producer' push to queues in the database. Nothing was written"
        )
    return error
