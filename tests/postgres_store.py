"""A queue's store in Postgres as tests need it; and what is wrong in its tables.

A module of tests about Postgres alone imports its fixtures: `from postgres_store import store as store`.
"""

import itertools
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing, closing
from typing import Any, TypeVar

import orjson
import psycopg
import pytest
from psycopg.types.json import Jsonb
from store import Clock, text_of

from redisjobs.drivers import sync_side
from redisjobs.drivers.postgres import functions, working
from redisjobs.drivers.postgres.calls import CHANGES, QUERIES, Call, change_call
from redisjobs.drivers.postgres.consumer import PostgresConsumer
from redisjobs.drivers.postgres.driver import PostgresDriver
from redisjobs.drivers.postgres.entries import new_job
from redisjobs.drivers.postgres.notices import channel_of
from redisjobs.drivers.postgres.pushes import push, within
from redisjobs.drivers.postgres.sync_connection import SyncConnection
from redisjobs.model.changes import Change
from redisjobs.model.driver import Consumer, Driver
from redisjobs.model.job import Priority
from redisjobs.model.queries import Query
from redisjobs.model.transitions import NewJob, Pushed
from redisjobs_proof.contract.acts import job

T = TypeVar("T")

_numbers = itertools.count(1)
_IDENTITY = "select redisjobs_f._identity()"


class PostgresStore:
    """A queue in a database that others share: tests keep apart by its name.

    Attributes:
        url: Of the database.
        admin: A connection that may do everything.
    """

    def __init__(self, url: str, queue_name: str) -> None:
        self.url, self.queue_name = url, queue_name
        self.clock = Clock()
        self.admin: psycopg.Connection[Any] = psycopg.connect(url, autocommit=True)
        self.driver: Driver = PostgresDriver(url, queue_name, self.clock)
        asked = {*Query.__subclasses__(), *Change.__subclasses__()}
        self.lacks: Collection[type[Any]] = {each for each in asked if each not in QUERIES | CHANGES}

    def another(self) -> Driver:
        return PostgresDriver(self.url, self.queue_name, self.clock)

    def contents(self) -> object:
        return {table: self.rows(f"select * from redisjobs.{table} where queue = %s") for table in self.tables()}

    def tables(self) -> list[str]:
        """The tables that have rows of queues."""
        found = self.admin.execute(
            "select table_name from information_schema.columns join information_schema.tables"
            " using (table_schema, table_name) where table_schema = 'redisjobs' and table_type = 'BASE TABLE'"
            " and column_name = 'queue' order by 1"
        )
        return [table for (table,) in found]

    def places(self) -> list[tuple[str, str]]:
        """Where each job is, by its id."""
        return self.rows("select id, place from redisjobs.jobs where queue = %s")

    def rows(self, query: str, *more: Any) -> list[tuple[Any, ...]]:
        """The rows of a query about the queue, sorted."""
        found = self.admin.execute(query.encode(), (self.queue_name, *more))
        return sorted(found.fetchall(), key=repr)

    def age(self, seconds: float) -> None:
        given = int(seconds * 1000), self.queue_name
        self.admin.execute("update redisjobs.beats set until_ms = until_ms - %s where queue = %s", given)
        self.admin.execute("update redisjobs.jobs set at_ms = at_ms - %s where queue = %s", given)

    def consumer(self, worker_id: str, *, lease: float = 15, max_deliveries: int = 3) -> Consumer:
        consumer = self.driver.consumer(worker_id, lease=lease, max_deliveries=max_deliveries)
        assert isinstance(consumer, PostgresConsumer)
        for _, worker, run in self.rows("select queue, id, run from redisjobs.workers where queue = %s"):
            if worker == worker_id:
                consumer._run_id = run
        connection = SyncConnection(consumer._target, self.queue_name, self.clock)
        connection.run(working.join(worker_id, int(lease * 1000), consumer._run_id))
        connection.close()
        return consumer

    def put(
        self, fields: Mapping[str, str | bytes], priority: Priority = Priority.NORMAL, *, entry: str = "*"
    ) -> str:
        job_id = text_of(fields.get("id")) or f"put-{next(_numbers)}"
        flat = [part for name, value in fields.items() if name != "id" for part in (name, value)]
        job = new_job(NewJob(job_id, flat, priority))
        self.admin.execute(
            "insert into redisjobs.jobs"
            " (seq, queue, id, name, parameters, extra, rank, place, since_ms, limit_key)"
            " values (nextval('redisjobs.line'), %s, %s, %s, %s, %s, %s, 'ready', %s, %s)",
            (
                *(self.queue_name, job["id"], job["name"], job["parameters"]),
                Jsonb(job["extra"]) if "extra" in job else None,
                *(job["rank"], self.clock(), job.get("limit_key")),
            ),
        )
        self.admin.execute("select pg_notify(%s, %s)", (channel_of(self.queue_name), "\tready\t"))
        return job_id

    def faults(self) -> list[str]:
        """What contradicts what in the tables; empty if all is in order."""
        return [f"{what}: {row[0]}" for what, query in _FAULTS.items() for row in self.rows(query)]

    def end(self) -> None:
        """Remove the queue."""
        for table in self.tables():
            self.admin.execute(f"delete from redisjobs.{table} where queue = %s".encode(), (self.queue_name,))
        self.admin.close()


class Other:
    """Another process: a transaction that stays open, and calls in a thread."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store
        self.transaction: psycopg.Connection[Any] = psycopg.connect(store.url)
        self._threads = ThreadPoolExecutor(2)

    def change(self, asked: Change[Any]) -> "Future[Any]":
        """Make a change in a thread, by a connection of its own."""

        def make() -> Any:
            with closing(sync_side(self._store.driver)) as driver:
                return driver.change(asked)

        return self._threads.submit(make)

    def begin(self, asked: Change[Any]) -> None:
        """Make a change in the open transaction."""
        self.run(change_call(asked))

    def run(self, call: Call[T]) -> T:
        """Run a call in the open transaction; what it answers."""
        given = [each.decode() if isinstance(each, bytes) else each for each in call.arguments]
        values = (self._store.queue_name, self._store.clock.set_to, *given)
        cursor = psycopg.RawCursor(self.transaction).execute(functions.statement(call.function), values)
        *rows, (meta, *_) = cursor.fetchall()
        return call.parse(orjson.loads(meta), rows)

    def push(self, *jobs: NewJob) -> list[Pushed]:
        """Push jobs in the open transaction."""
        pushed = self.run(push(jobs, repeated=False, sent_ms=self._store.clock()))
        assert pushed is not None
        return pushed

    def push_later(self, *jobs: NewJob) -> "Future[list[Pushed]]":
        """Push jobs in the open transaction, as an application does, in a thread."""
        return self._threads.submit(self._push_within, jobs)

    def _push_within(self, jobs: Sequence[NewJob]) -> list[Pushed]:
        cursor = self.transaction.execute(functions.installed_as(_IDENTITY))
        ((database,),) = cursor.fetchall()
        (write,) = within(self._store.queue_name, self._store.clock.set_to, database, jobs, lambda *_: None)
        return write.answers(self.transaction.execute(write.statement, write.values).fetchall())

    def ask(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement in the open transaction; its first value is the queue's name."""
        cursor = self.transaction.execute(
            functions.installed_as(statement).encode(), (self._store.queue_name, *values)
        )
        return cursor.fetchall()

    def lock(self, job_id: str) -> None:
        assert self.ask("select id from redisjobs.jobs where queue = %s and id = %s for update", job_id)

    def is_waited_for(self) -> bool:
        """Whether a session waits for the open transaction."""
        pid = self.transaction.info.backend_pid
        waiting = "select pid from pg_stat_activity where %s <> '' and %s = any (pg_blocking_pids(pid))"
        return bool(self._store.rows(waiting, pid))

    def close(self) -> None:
        self.transaction.close()
        self._threads.shutdown()


def jobs(*ids: str) -> list[NewJob]:
    return [job(each) for each in ids]


async def worker(store: PostgresStore, worker_id: str) -> Consumer:
    """A worker that has joined; the caller closes it."""
    consumer = store.consumer(worker_id)
    await consumer.open()
    return consumer


@pytest.fixture
async def store(postgres_store: PostgresStore) -> AsyncIterator[PostgresStore]:
    """One queue's store; its driver is closed at the end."""
    async with aclosing(postgres_store.driver):
        yield postgres_store


@pytest.fixture
def standing_clock(postgres_store: PostgresStore) -> None:
    """The clock of the queue stands still at the begin of an hour."""
    postgres_store.clock.set_to = 1_795_665_600_000


@pytest.fixture
async def one(store: PostgresStore) -> AsyncIterator[Consumer]:
    """A worker that has joined, `w1`."""
    async with aclosing(await worker(store, "w1")) as consumer:
        yield consumer


@pytest.fixture
async def two(store: PostgresStore) -> AsyncIterator[Consumer]:
    """Another worker that has joined, `w2`."""
    async with aclosing(await worker(store, "w2")) as consumer:
        yield consumer


_LIVE = "select from redisjobs.jobs j where j.queue = t.queue and j.place not in ('completed', 'cancelled')"

_FAULTS = {
    "a job in no known place": """select t.id, t.place from redisjobs.jobs t where t.queue = %s and place not in (
        'ready', 'returned', 'alone', 'parked', 'line', 'delayed', 'suspended', 'running', 'dead', 'completed',
        'cancelled')""",
    "a delayed job without a due time, or another one with it": """select t.id from redisjobs.jobs t
        where t.queue = %s and place <> 'suspended' and (place = 'delayed') <> (due_ms is not null)""",
    "a suspended job that is due at another time than its entry says": """select t.id from redisjobs.jobs t
        where t.queue = %s and place = 'suspended'
        and coalesce(extra->>'waits', '') !~ ('^[0-9]+ [a-z]+ [^ ]+' || coalesce(' ' || due_ms, '') || '$')""",
    "steps of a job that is gone, or says that it has none": f"""select t.id, t.key from redisjobs.steps t
        where t.queue = %s and not exists ({_LIVE} and j.id = t.id and j.extra ? 'steps')""",
    "a job that says that it has steps, and has none": """select t.id from redisjobs.jobs t
        where t.queue = %s and place not in ('completed', 'cancelled') and extra ? 'steps'
        and not exists (select from redisjobs.steps s where (s.queue, s.id, s.key) = (t.queue, t.id, ''))""",
    "a group that counts its children wrongly": """select t.token, t.pending from redisjobs.groups t
        where t.queue = %s and t.pending <> t.total - (select count(*) from redisjobs.children c
          where (c.queue, c.token) = (t.queue, t.token) and c.state is not null)""",
    "a group that is over, and of no job": """select t.token from redisjobs.groups t where t.queue = %s
        and t.pending <= 0 and not exists (select from redisjobs.steps s
          where (s.queue, s.id, s.key, s.value) = (t.queue, t.parent, t.key, t.token))""",
    "an outcome of a child of no group": """select t.token, t.index from redisjobs.children t where t.queue = %s
        and not exists (select from redisjobs.groups g where (g.queue, g.token) = (t.queue, t.token))
        and not exists (select from redisjobs.cancelling c where (c.queue, c.token) = (t.queue, t.token))""",
    "children of a step that have no group": """select t.id, t.key from redisjobs.steps t where t.queue = %s
        and how = 'children' and not exists (select from redisjobs.groups g
          where (g.queue, g.token, g.parent, g.key) = (t.queue, t.value, t.id, t.key))""",
    "a job that waits for children, and all have ended": """select t.id from redisjobs.jobs t where t.queue = %s
        and place = 'suspended' and extra->>'waits' like '%% children %%' and not exists (
          select from redisjobs.groups g where (g.queue, g.parent) = (t.queue, t.id) and g.pending > 0)""",
    "a job that has ended and keeps signals": """select t.id from redisjobs.jobs t
        where t.queue = %s and place in ('completed', 'cancelled') and signals is not null""",
    "a running job without a worker, or another one with it": """select t.id from redisjobs.jobs t
        where t.queue = %s and (place = 'running') <> (worker is not null)""",
    "a job that runs at a worker that is not there": """select t.id, t.worker from redisjobs.jobs t
        where t.queue = %s and place = 'running'
        and not exists (select from redisjobs.workers w where (w.queue, w.id) = (t.queue, t.worker))
        and not exists (select from redisjobs.fenced f where (f.queue, f.id) = (t.queue, t.worker))""",
    "a dead letter of no kind, or a job with one": """select t.id from redisjobs.jobs t
        where t.queue = %s and (place = 'dead') <> (kind is not null)""",
    "a job is parked, and neither its name is paused nor it is held": """select t.id from redisjobs.jobs t
        where t.queue = %s and place = 'parked' and not exists (
          select from redisjobs.rules r where r.queue = t.queue
          and ((r.kind = 'name' and r.name = t.name) or (r.kind = 'held' and r.name = t.id)))
        and not exists (select from redisjobs.settings s where (s.queue, s.name) = (t.queue, 'resumed'))""",
    "a job waits in a line at which no worker looks": """select t.id from redisjobs.jobs t
        where t.queue = %s and place = 'line'
        and not exists (select from redisjobs.shares s
          where (s.queue, s.name, s.key) = (t.queue, t.name, coalesce(t.limit_key, '')))
        and not exists (select from redisjobs.buckets b where (b.queue, b.name) = (t.queue, t.name)
          and b.key = coalesce(t.limit_key, '') and b.turn_ms is not null)
        and not exists (select from redisjobs.rules r
          where (r.queue, r.kind, r.name) = (t.queue, 'name', t.name))""",
    "a unique key of a job that does not hold it": f"""select t.key, t.id from redisjobs.uniques t
        where t.queue = %s and until_ms is null and not exists ({_LIVE} and j.id = t.id)""",
    "a bucket that counts other shares than there are": """select t.name, t.key, t.running from redisjobs.buckets t
        where t.queue = %s and t.running <> (select count(*) from redisjobs.shares s
          where (s.queue, s.name, s.key) = (t.queue, t.name, t.key))""",
    "a bucket with two rows": """select t.name, t.key from redisjobs.buckets t where t.queue = %s
        group by 1, 2 having count(*) > 1""",
    "a job in line before where its line is looked at": """select t.id from redisjobs.jobs t
        join redisjobs.buckets b on (b.queue, b.name, b.key) = (t.queue, t.name, coalesce(t.limit_key, ''))
        where t.queue = %s and t.place = 'line' and t.seq < b.line_from[t.rank + 1]""",
    "a share of a job that does not run": """select t.id from redisjobs.shares t where t.queue = %s
        and not exists (select from redisjobs.jobs j
          where j.queue = t.queue and j.id = t.id and j.place = 'running')""",
    "a worker without a beat": """select t.id from redisjobs.workers t where t.queue = %s
        and not exists (select from redisjobs.beats b where (b.queue, b.id) = (t.queue, t.id))""",
    "a beat of no worker": """select t.id from redisjobs.beats t where t.queue = %s
        and not exists (select from redisjobs.workers w where (w.queue, w.id) = (t.queue, t.id))
        and not exists (select from redisjobs.fenced f where (f.queue, f.id) = (t.queue, t.id))""",
    "a worker that is fenced and not": """select t.id from redisjobs.workers t where t.queue = %s
        and exists (select from redisjobs.fenced f where (f.queue, f.id) = (t.queue, t.id))""",
    "a job is held, and gone": f"""select t.name from redisjobs.rules t where t.queue = %s and kind = 'held'
        and not exists ({_LIVE} and j.id = t.name)""",
    "chunks that their job does not count": """select t.id, t.number from redisjobs.chunks t where t.queue = %s
        and not exists (select from redisjobs.streams s where (s.queue, s.id) = (t.queue, t.id)
          and t.number between s.first and s.last)""",
    "a job is waited for, and gone": f"""select t.id from redisjobs.waiters t where t.queue = %s
        and not exists ({_LIVE} and j.id = t.id)""",
}
