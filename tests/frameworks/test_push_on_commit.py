"""Pushes that wait for the commit of a SQLAlchemy session, and are gone after a rollback."""

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from results import drain
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import StaticPool
from store import Store

from redisjobs import EncodeError, JobQueue, Unavailable, UniqueConflict, sync
from redisjobs.contrib.sqlalchemy import push_on_commit

pytestmark = pytest.mark.anyio


@dataclass
class Welcome:
    job_name: ClassVar[str] = "Welcome"
    to: str


@pytest.fixture
def queue(store: Store) -> Iterator[sync.JobQueue]:
    with sync.JobQueue(store.driver, store.queue_name) as queue:
        yield queue


@pytest.fixture
def session() -> Iterator[Session]:
    engine = create_engine("sqlite://")
    with Session(engine) as session:
        yield session
    engine.dispose()


def pushed(queue: sync.JobQueue) -> list[str]:
    """To whom the jobs on the queue are, in order."""
    return re.findall(r'"to":"(\w+)"', " ".join(job.parameters for job in queue.control.jobs("ready")))


def test_jobs_are_pushed_at_the_commit_in_order_and_once(session: Session, queue: sync.JobQueue) -> None:
    session.execute(text("SELECT 1"))
    first = push_on_commit(session, queue, Welcome("ann"))
    push_on_commit(session, queue, Welcome("bob"), delay=0)
    assert (first.added, first.name, pushed(queue)) == (None, "Welcome", [])

    session.commit()
    assert pushed(queue) == ["ann", "bob"]
    assert queue.get(first.id) is not None
    session.execute(text("SELECT 1"))
    session.commit()
    assert pushed(queue) == ["ann", "bob"]


def test_without_a_transaction_one_begins_so_that_a_rollback_drops_the_job(
    session: Session, queue: sync.JobQueue
) -> None:
    push_on_commit(session, queue, Welcome("ann"))
    assert session.in_transaction()
    session.rollback()
    push_on_commit(session, queue, Welcome("bob"))
    session.commit()

    assert pushed(queue) == ["bob"]


@pytest.mark.parametrize("end", ["rollback", "close", "reset"])
def test_after_a_rollback_nothing_is_pushed_not_even_by_the_next_commit(
    session: Session, queue: sync.JobQueue, end: str
) -> None:
    session.execute(text("SELECT 1"))
    push_on_commit(session, queue, Welcome("ann"))
    getattr(session, end)()

    push_on_commit(session, queue, Welcome("bob"))
    session.commit()

    assert pushed(queue) == ["bob"]


def test_an_error_in_the_transaction_drops_its_jobs(session: Session, queue: sync.JobQueue) -> None:
    def fail() -> None:
        with session.begin():
            push_on_commit(session, queue, Welcome("ann"))
            raise LookupError("in the transaction")

    with pytest.raises(LookupError):
        fail()
    session.commit()

    assert pushed(queue) == []


def test_a_savepoint_that_is_rolled_back_takes_only_its_own_jobs_along(
    session: Session, queue: sync.JobQueue
) -> None:
    push_on_commit(session, queue, Welcome("before"))
    with session.begin_nested():
        push_on_commit(session, queue, Welcome("kept"))
        inner = session.begin_nested()
        push_on_commit(session, queue, Welcome("lost"))
        inner.rollback()
        with session.begin_nested():
            push_on_commit(session, queue, Welcome("deep"))
        assert pushed(queue) == []
    outer = session.begin_nested()
    with session.begin_nested():
        push_on_commit(session, queue, Welcome("released"))
    outer.rollback()  # takes along what a savepoint in it had kept
    push_on_commit(session, queue, Welcome("after"))
    assert pushed(queue) == []

    session.commit()

    assert sorted(pushed(queue)) == ["after", "before", "deep", "kept"]


def test_a_commit_of_all_ends_open_savepoints_too(session: Session, queue: sync.JobQueue) -> None:
    session.begin_nested()
    push_on_commit(session, queue, Welcome("ann"))
    session.commit()

    assert pushed(queue) == ["ann"]


def test_wrong_parameters_are_an_error_before_the_commit(session: Session, queue: sync.JobQueue) -> None:
    with pytest.raises(EncodeError):
        push_on_commit(session, queue, Welcome(5))  # type: ignore[arg-type]
    session.commit()

    assert pushed(queue) == []


def test_a_prepared_job_that_would_not_be_pushed_as_it_is_is_an_error_before_the_commit(
    session: Session, queue: sync.JobQueue, store: Store
) -> None:
    with pytest.raises(ValueError, match="was prepared by queue 'other'"):
        push_on_commit(session, queue, sync.JobQueue(store.driver, "other").prepare(Welcome("ann")))
    with pytest.raises(TypeError, match="give these to prepare"):
        push_on_commit(session, queue, queue.prepare(Welcome("ann")), delay=60)
    session.commit()

    assert pushed(queue) == []


def test_sessions_that_share_their_info_push_at_their_own_commit(session: Session, queue: sync.JobQueue) -> None:
    push_on_commit(session, queue, Welcome("ann"))
    with Session(session.bind, info=session.info) as other:
        push_on_commit(other, queue, Welcome("bob"))
        other.commit()
    assert pushed(queue) == ["bob"]

    session.commit()
    assert pushed(queue) == ["bob", "ann"]


def test_a_prepared_call_of_a_job_function_is_fine_and_so_is_a_scoped_session(queue: sync.JobQueue) -> None:
    engine = create_engine("sqlite://")
    scoped = scoped_session(sessionmaker(engine))

    @queue.job
    def greet(to: str) -> None: ...

    push_on_commit(scoped, queue, greet.prepare("ann"))
    push_on_commit(scoped, queue, {"to": "bob"}, "greet")
    scoped.commit()
    scoped.remove()
    engine.dispose()

    assert pushed(queue) == ["ann", "bob"]


def test_a_push_that_fails_raises_from_the_commit_which_holds_and_the_session_goes_on(
    session: Session, queue: sync.JobQueue
) -> None:
    session.execute(text("CREATE TABLE names (name TEXT)"))
    session.execute(text("INSERT INTO names VALUES ('ann')"))
    away = sync.JobQueue("redis://127.0.0.1:1/0", deadline=0.05)
    push_on_commit(session, away, Welcome("ann"))
    push_on_commit(session, queue, Welcome("bob"))

    with pytest.raises(Unavailable) as raised:
        session.commit()

    assert raised.value.__notes__ == [
        "The database transaction is committed. What was not pushed is in the error's `jobs`: "
        "push_many(error.jobs)."
    ]
    assert len(raised.value.jobs) == 1
    assert pushed(queue) == ["bob"]
    session.rollback()
    assert session.execute(text("SELECT name FROM names")).scalars().all() == ["ann"]
    session.commit()

    push_on_commit(session, away, Welcome("ann"))
    push_on_commit(session, sync.JobQueue("redis://127.0.0.1:1/0", "two", deadline=0.05), Welcome("ann"))
    with pytest.raises(ExceptionGroup) as several:
        session.commit()
    assert [type(error) for error in several.value.exceptions] == [Unavailable, Unavailable]


def test_a_job_that_meets_its_unique_key_after_the_commit_is_an_error_without_jobs_to_push(
    session: Session, queue: sync.JobQueue
) -> None:
    queue.push(Welcome("ann"), unique="ann")
    push_on_commit(session, queue, Welcome("ann"), unique="ann", on_conflict="raise")
    push_on_commit(session, queue, Welcome("bob"))

    with pytest.raises(UniqueConflict) as raised:
        session.commit()

    assert raised.value.__notes__ == ["The database transaction is committed."]
    assert pushed(queue) == ["ann", "bob"]


def test_a_queue_that_does_not_fit_the_session_is_refused(session: Session, queue: sync.JobQueue) -> None:
    with pytest.raises(TypeError, match=r"redisjobs.queue.JobQueue with Session: a session needs a sync.JobQueue"):
        push_on_commit(session, JobQueue("memory://"), Welcome("ann"))
    with pytest.raises(TypeError, match=r"an async session needs a redisjobs.JobQueue"):
        push_on_commit(AsyncSession(), queue, Welcome("ann"))


@pytest.fixture
async def async_session() -> AsyncIterator[Any]:
    engine = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
    async with AsyncSession(engine) as session:
        yield session
    await engine.dispose()


async def test_an_async_session_pushes_to_an_async_queue(async_session: AsyncSession, store: Store) -> None:
    sent = list[str]()
    async with JobQueue(store.driver, store.queue_name) as queue:

        @queue.register(Welcome)
        async def welcome(parameters: Welcome) -> None:
            sent.append(parameters.to)

        await async_session.execute(text("SELECT 1"))
        handle = push_on_commit(async_session, queue, Welcome("ann"))
        assert await queue.get(handle.id) is None
        await async_session.commit()
        assert await queue.get(handle.id) is not None

        push_on_commit(async_session, queue, Welcome("bob"))
        await async_session.rollback()
        async with async_session.begin():
            push_on_commit(async_session, queue, Welcome("eve"))
        scoped = async_scoped_session(async_sessionmaker(async_session.bind), scopefunc=lambda: 1)
        push_on_commit(scoped, queue, Welcome("joe"))
        await scoped.commit()
        await scoped.remove()
        await drain(queue)

    assert sent == ["ann", "eve", "joe"]
