"""Pushes that wait for the commit of a SQLAlchemy session."""

from collections.abc import Sequence
from typing import Any, Unpack

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, SessionTransaction, scoped_session
from sqlalchemy.util import await_only

from redisjobs import sync
from redisjobs.client.checks import prepared_by
from redisjobs.errors import DriverError
from redisjobs.model.job import JobName, PushedJob
from redisjobs.model.options import PushOptions
from redisjobs.model.transitions import NewJob
from redisjobs.queue import JobQueue

AnySession = Session | scoped_session[Any] | AsyncSession | async_scoped_session[Any]

_KEY = "redisjobs"  # in `session.info`
_COMMITTED = "The database transaction is committed."
_NOT_PUSHED = " What was not pushed is in the error's `jobs`: push_many(error.jobs)."


def push_on_commit(
    session: AnySession,
    queue: JobQueue | sync.JobQueue,
    parameters: Any,
    name: JobName[Any] | str | None = None,
    **options: Unpack[PushOptions],
) -> PushedJob:
    """Push a job when the current transaction of a session has committed. If there is none, it begins.

    After a rollback, of the transaction or of a savepoint that this call was in, nothing is pushed. The job is
    encoded now, so wrong parameters are an error before the commit.

    This is no outbox: if the process dies, or an async task is cancelled, between the commit and the push, the
    job is lost.

    Args:
        session: A session with a sync queue, or an async session with an async queue. A scoped session is fine.
        queue: The queue.
        parameters: The parameters, or a job that `prepare` of the queue or of a job function made.
        name: The job's name; see `JobQueue.push`.
        options: See `PushOptions`. A `delay` counts from the commit.

    Returns:
        A handle of the job, with its id. Its `added` is None, because it is not pushed yet.

    Raises:
        TypeError: An async session needs an async queue, and a sync session a sync queue. A prepared job has its
            name and options.
        EncodeError: See `JobQueue.push`, also for UnknownJob and ValueError.
        ValueError: Another queue prepared the job.

    `session.commit()` raises what the push raises, for example `Unavailable`. The database is committed then.
    """
    of, is_async = _sync_session(session)
    if is_async is not isinstance(queue, JobQueue):
        wanted = "an async session needs a redisjobs.JobQueue" if is_async else "a session needs a sync.JobQueue"
        raise TypeError(
            f"{type(queue).__module__}.{type(queue).__qualname__} with {type(session).__name__}: {wanted}"
        )
    if isinstance(parameters, NewJob):
        job = prepared_by(queue.name, parameters, name, options)
    else:
        job = queue.prepare(parameters, name, **options)
    key = f"{_KEY}-{of.hash_key}"  # of this session: another one may have begun with the same `info`
    pushes: _SessionPushes | None = of.info.get(key)
    if pushes is None:
        pushes = of.info[key] = _SessionPushes(of)
    pushes.add(of, queue, job)
    return queue._handle(job.job_id, str(job.fields[1]), None)


def _sync_session(session: AnySession) -> tuple[Session, bool]:
    """Return the session that has the events, and whether it belongs to an async one."""
    found: Any = session.registry() if isinstance(session, scoped_session | async_scoped_session) else session
    return (found.sync_session, True) if isinstance(found, AsyncSession) else (found, False)


class _SessionPushes:
    """The jobs that wait for the commit of a session, by the transaction or savepoint that they were added in."""

    def __init__(self, session: Session) -> None:
        self._waiting: dict[SessionTransaction, list[tuple[Any, NewJob]]] = {}
        self._committed: SessionTransaction | None = None
        event.listen(session, "after_commit", self._note_commit)
        event.listen(session, "after_transaction_end", self._end)

    def add(self, session: Session, queue: Any, job: NewJob) -> None:
        """Add a job to the innermost savepoint that is open, or else to the transaction."""
        # Begun here, or a rollback before the first statement would be no event.
        transaction = _innermost(session) or session.begin()
        self._waiting.setdefault(transaction, []).append((queue, job))

    def _note_commit(self, session: Session) -> None:
        self._committed = _innermost(session)

    def _end(self, session: Session, transaction: SessionTransaction) -> None:
        """Push the jobs of a transaction; move those of a savepoint to what is around it; or drop them."""
        if not transaction.nested and transaction.parent is not None:
            return  # a part of a flush
        is_committed, self._committed = self._committed is transaction, None
        jobs = self._waiting.pop(transaction, [])
        if jobs and is_committed:
            if (around := _innermost(session)) is not None:
                self._waiting.setdefault(around, []).extend(jobs)
            else:
                _push(jobs)


def _innermost(session: Session) -> SessionTransaction | None:
    return session.get_nested_transaction() or session.get_transaction()


def _push(jobs: Sequence[tuple[Any, NewJob]]) -> None:
    errors = list[Exception]()
    for queue in dict.fromkeys(queue for queue, _ in jobs):
        try:
            pushed = queue.push_many([job for other, job in jobs if other is queue])
            if isinstance(queue, JobQueue):
                await_only(pushed)
        except Exception as error:  # the jobs of other queues are pushed all the same
            error.add_note(_COMMITTED + (_NOT_PUSHED if isinstance(error, DriverError) else ""))
            errors.append(error)
    if errors:
        raise errors[0] if len(errors) == 1 else ExceptionGroup("pushes after a commit failed", errors)
