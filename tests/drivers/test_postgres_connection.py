"""Connections to Postgres: lost, cut, slow and refused ones, and what their errors say."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import anyio
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from postgres_store import PostgresStore, jobs
from store import eventually

from redisjobs import JobQueue, Unavailable
from redisjobs.drivers.postgres import connection
from redisjobs.drivers.postgres.connection import Connection
from redisjobs.drivers.postgres.driver import PostgresDriver
from redisjobs.drivers.postgres.link import TRIES
from redisjobs.drivers.postgres.sync_connection import SyncConnection
from redisjobs.drivers.postgres.target import Target
from redisjobs.drivers.postgres.wire import value_of
from redisjobs.model.changes import Pause
from redisjobs.model.queries import Count
from redisjobs.model.transitions import NewJob, Reply
from redisjobs_proof.torture.proxy import HOST, Proxy

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@contextmanager
def locked(store: PostgresStore) -> Iterator[None]:
    """Another session holds the lock that rare changes of the queue take."""
    with psycopg.connect(store.url, autocommit=True) as other:
        other.execute(
            "select pg_advisory_lock(hashtextextended('redisjobs queue ' || %s, 0))", (store.queue_name,)
        )
        yield


def sessions(store: PostgresStore, where: str = "true") -> list[int]:
    """Those that a driver of this store has, which names itself by the queue."""
    found = store.admin.execute(
        f"select pid from pg_stat_activity where application_name = %s and {where}".encode(), (store.queue_name,)
    )
    return [pid for (pid,) in found]


def waiting(store: PostgresStore) -> list[int]:
    return sessions(store, "wait_event_type = 'Lock'")


@pytest.fixture
def named(postgres_store: PostgresStore) -> PostgresStore:
    """A store whose driver's sessions have the queue's name."""
    url = f"{postgres_store.url}?application_name={postgres_store.queue_name}"
    postgres_store.driver = PostgresDriver(url, postgres_store.queue_name)
    return postgres_store


@pytest.fixture
async def driver(named: PostgresStore) -> Any:
    yield named.driver
    await named.driver.aclose()


def through(proxy: Proxy, url: str) -> str:
    """A database's URL, by a proxy."""
    parts = urlsplit(url)
    user = f"{parts.username}@" if parts.username else ""
    return parts._replace(netloc=f"{user}{HOST}:{proxy.port}").geturl()


@contextmanager
def proxied(store: PostgresStore) -> Iterator[tuple[Proxy, PostgresDriver]]:
    parts = urlsplit(store.url)
    with Proxy(parts.hostname or HOST, parts.port or 5432) as proxy:
        yield proxy, PostgresDriver(through(proxy, store.url), store.queue_name)


async def test_a_connection_that_ended_while_it_was_idle_is_opened_again_without_an_error(
    named: PostgresStore, driver: PostgresDriver
) -> None:
    await driver.push(jobs("a"), repeated=False)
    for pid in sessions(named):
        named.admin.execute("select pg_terminate_backend(%s, 5000)", (pid,))
    await eventually(lambda: all(each.failure for each in driver._loop().connections.all))

    assert [each.reply for each in await driver.push(jobs("b"), repeated=False)] == [Reply.OK]


async def test_a_lost_session_leaves_the_readers_of_other_connections_in_the_event_loop(
    postgres_store: PostgresStore,
) -> None:
    loop, link = asyncio.get_running_loop(), Connection(Target(postgres_store.url))
    await link.ask(b"select 1")
    assert link._connection is not None
    number = link._connection.pgconn.socket
    postgres_store.admin.execute("select pg_terminate_backend(%s, 5000)", (link._connection.info.backend_pid,))
    await eventually(lambda: link.failure)

    with ExitStack() as opened:  # one of these gets the number that libpq gave back
        pairs = [opened.enter_context(each) for _ in range(4) for each in socket.socketpair()]
        (heir,) = [each for each in pairs if each.fileno() == number]
        came = asyncio.Event()
        loop.add_reader(heir.fileno(), came.set)
        await link.ask(b"select 1")  # over a new session
        pairs[pairs.index(heir) ^ 1].send(b"x")
        with anyio.fail_after(5):
            await came.wait()
        assert loop.remove_reader(heir.fileno())
    await link.aclose()


async def test_a_call_whose_session_is_ended_is_unavailable_and_the_next_one_is_answered(
    named: PostgresStore, driver: PostgresDriver
) -> None:
    with locked(named):
        async with anyio.create_task_group() as tasks:

            async def pause() -> None:
                with pytest.raises(Unavailable, match="terminating connection"):
                    await driver.change(Pause())

            tasks.start_soon(pause)
            await eventually(lambda: waiting(named))
            named.admin.execute("select pg_terminate_backend(%s)", (waiting(named)[0],))

    assert await driver.change(Pause())


async def test_a_push_whose_answer_was_lost_is_unavailable_and_found_when_it_is_repeated(
    postgres_store: PostgresStore,
) -> None:
    with proxied(postgres_store) as (proxy, driver):
        await driver.push(jobs("a"), repeated=False)
        again = jobs("b")
        proxy.cut_after_reply_bytes(0, b"push")

        with pytest.raises(Unavailable):
            await driver.push(again, repeated=False)

        assert [each.reply for each in await driver.push(again, repeated=True)] == [Reply.REPEATED]
        await driver.aclose()


@pytest.mark.parametrize("is_sync", [False, True])
async def test_a_server_that_is_silent_makes_calls_unavailable_in_time(
    postgres_store: PostgresStore, is_sync: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "ANSWER", 0.3)
    with proxied(postgres_store) as (proxy, driver):
        sync = driver.make_sync()

        async def async_sync(jobs: Sequence[NewJob], *, repeated: bool) -> object:
            return sync.push(jobs, repeated=repeated, until=time.monotonic() + 0.3)

        await (async_sync if is_sync else driver.push)(jobs("a"), repeated=False)
        proxy.black_hole(True)

        began = time.monotonic()
        with pytest.raises(Unavailable, match="no answer in"):
            await (async_sync if is_sync else driver.push)(jobs("b"), repeated=False)
        assert time.monotonic() - began < 2

        proxy.black_hole(False)
        assert [each.reply for each in await driver.push(jobs("c"), repeated=False)] == [Reply.OK]
        sync.close()
        await driver.aclose()


async def test_a_cancelled_call_ends_at_the_server_too(named: PostgresStore, driver: PostgresDriver) -> None:
    with locked(named):
        task = asyncio.create_task(driver.change(Pause()))
        await eventually(lambda: waiting(named))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: not waiting(named))

    assert await driver.change(Pause())  # true: the cancelled one did not pause the queue


def test_a_sync_call_ends_at_its_deadline_and_at_the_server_too(named: PostgresStore) -> None:
    assert isinstance(named.driver, PostgresDriver)
    sync = named.driver.make_sync()
    with locked(named):
        with pytest.raises(Unavailable, match="no answer"):
            sync.change(Pause(), until=time.monotonic() + 0.2)
        until = time.monotonic() + 5
        while waiting(named) and time.monotonic() < until:
            time.sleep(0.01)
        assert not waiting(named)

    assert sync.change(Pause())
    sync.close()


@pytest.fixture
def failing(postgres_store: PostgresStore) -> Iterator[Callable[[str, int], bytes]]:
    """Makes a statement that fails with an SQLSTATE a number of times."""
    admin, name = postgres_store.admin, postgres_store.queue_name

    def make(state: str, times: int) -> bytes:
        admin.execute(f'create sequence "{name}"'.encode())
        admin.execute(
            f"""create function "{name}"() returns text language plpgsql as $$ begin
            if nextval('"{name}"') <= {times} then raise exception 'oh' using errcode = '{state}'; end if;
            return 'done'; end $$""".encode()
        )
        return f'select "{name}"()'.encode()

    yield make
    admin.execute(f'drop function if exists "{name}"'.encode())
    admin.execute(f'drop sequence if exists "{name}"'.encode())


@pytest.mark.parametrize("state", ["40001", "40P01"])
@pytest.mark.parametrize("is_sync", [False, True])
async def test_what_the_server_gave_up_for_another_statement_is_sent_again(
    postgres_store: PostgresStore, failing: Callable[[str, int], bytes], state: str, is_sync: bool
) -> None:
    statement, target = failing(state, TRIES - 1), Target(postgres_store.url)
    if is_sync:
        sync = SyncConnection(target)
        assert sync.ask(statement) == [("done",)]
        sync.close()
    else:
        link = Connection(target)
        assert await link.ask(statement) == [("done",)]
        await link.aclose()


async def test_what_the_server_gives_up_each_time_is_unavailable(
    postgres_store: PostgresStore, failing: Callable[[str, int], bytes]
) -> None:
    link = Connection(Target(postgres_store.url))
    with pytest.raises(Unavailable, match="oh"):
        await link.ask(failing("40001", 1000))
    assert postgres_store.admin.execute(
        f'select last_value from "{postgres_store.queue_name}"'.encode()
    ).fetchall() == [(TRIES,)]
    await link.aclose()


def test_threads_share_a_driver(named: PostgresStore) -> None:
    assert isinstance(named.driver, PostgresDriver)
    sync, most = named.driver.make_sync(), 16
    failures = list[Exception]()

    def push(thread: int) -> None:
        try:
            for number in range(20):
                sync.push(jobs(f"{thread}-{number}"), repeated=False)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=push, args=(each,)) for each in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert failures == []
    assert len(named.rows("select id from redisjobs.jobs where queue = %s")) == 24 * 20
    assert len(sessions(named)) <= most
    sync.close()


async def test_many_calls_of_one_loop_share_few_connections(named: PostgresStore, driver: PostgresDriver) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(200):
            tasks.start_soon(partial(driver.push, jobs(str(number)), repeated=False))
            tasks.start_soon(driver.read, Count())

    assert len(named.rows("select id from redisjobs.jobs where queue = %s")) == 200
    assert len(sessions(named)) <= 20


async def test_a_closed_driver_has_no_sessions(named: PostgresStore) -> None:
    async with JobQueue(named.driver, named.queue_name) as queue:
        await queue.control.pause()
        assert sessions(named)
    await eventually(lambda: not sessions(named))


async def test_large_jobs_come_and_go(postgres_store: PostgresStore, driver: PostgresDriver) -> None:
    job = NewJob("large", ["name", "Work", "parameters", f'"{"x" * 8_000_000}"'])
    assert [each.reply for each in await driver.push([job], repeated=False)] == [Reply.OK]
    consumer = driver.consumer("w", lease=15, max_deliveries=3)
    await consumer.open()

    (lease,) = (await consumer.exchange([], 1)).leases

    assert len(lease.fields[b"parameters"]) == 8_000_002
    await consumer.release(refund=True, watch=False)
    await consumer.aclose()


texts = some.text(some.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@pytest.fixture
def session(postgres_store: PostgresStore) -> Iterator[SyncConnection]:
    link = SyncConnection(Target(postgres_store.url))
    yield link
    link.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some.data())
def test_arguments_arrive_as_they_are(session: SyncConnection, data: Any) -> None:
    one, many = data.draw(texts), data.draw(some.lists(some.none() | texts))
    numbers, flag = data.draw(some.lists(some.integers(-(2**63), 2**63 - 1))), data.draw(some.booleans())

    assert session.ask(b"select $1::text, $2::boolean", [value_of(one), value_of(flag)]) == [(one, flag)]
    assert session.ask(b"select unnest($1::text[])", [value_of(many)]) == [(each,) for each in many]
    assert session.ask(b"select unnest($1::bigint[])", [value_of(numbers)]) == [(each,) for each in numbers]


SUM = b"select $1::integer + $2::integer"


async def ask(link: Connection | SyncConnection, statement: bytes, *values: bytes) -> list[Any]:
    answer = link.ask(statement, values)
    return answer if isinstance(answer, list) else list(await answer)


@pytest.mark.parametrize("kind", [Connection, SyncConnection])
async def test_what_is_asked_often_is_prepared_and_not_where_a_pooler_forgets_it(
    postgres_store: PostgresStore, kind: type[Connection | SyncConnection]
) -> None:
    link = kind(target := Target(postgres_store.url))
    for number in range(4):
        assert await ask(link, SUM, b"1", b"%d" % number) == [(1 + number,)]
    assert await ask(link, b"select count(*) from pg_prepared_statements") == [(1,)]

    await ask(link, b"deallocate all")
    for number in range(4):
        assert await ask(link, SUM, b"1", b"%d" % number) == [(1 + number,)]

    assert not target.prepares
    assert await ask(link, b"select count(*) from pg_prepared_statements") == [(0,)]
    if isinstance(link, Connection):
        await link.aclose()
    else:
        link.close()
