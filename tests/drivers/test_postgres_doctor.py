"""The doctor of a queue in Postgres: what contradicts itself in the tables, and what is wrong with the server."""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import orjson
import psycopg
import pytest
from postgres_store import PostgresStore
from traffic import LOOKS, looks_while_busy

from redisjobs import JobQueue
from redisjobs.control.findings import FAULTS
from redisjobs.drivers.postgres import functions, schema
from redisjobs.drivers.postgres.remarks import findings, warning_texts
from redisjobs.model.changes import SetLimit
from redisjobs.model.health import CheckServer, Finding, Level
from redisjobs.model.transitions import After, Group, NewJob, Settlement, Suspend, Wait, WaitsFor
from redisjobs_proof.contract.acts import FAILED, claim, job, push, settle

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

DATA = {*FAULTS, "data"}
CHILD = NewJob("child", ["name", "Work", "parameters", "{}", "child_of", "g 0"])


@pytest.fixture
async def queue(postgres_store: PostgresStore) -> AsyncIterator[JobQueue]:
    """A queue with a worker that lives, and with jobs in each state; one of them waits for a child."""
    worker = postgres_store.consumer("w1")
    await push(postgres_store, "dead", "runs", "sleeps", "waits", "parent")
    ends: dict[str, Settlement] = {
        "dead": FAILED,
        "sleeps": Suspend(Wait(1, WaitsFor.TIME, "sleep"), After(60_000)),
        "waits": Suspend(Wait(1, WaitsFor.SIGNAL, "go")),
        "parent": Suspend(Wait(1, WaitsFor.CHILDREN, "render"), group=Group("g", "render", 1), pushes=[CHILD]),
    }
    for lease in await claim(worker, 5):
        if lease.job_id in ends:
            await settle(worker, lease, ends[lease.job_id])
    await push(postgres_store, job("ready", unique="k"), job("later", due=After(60_000)))
    async with JobQueue(postgres_store.driver, postgres_store.queue_name) as queue:
        yield queue
    await worker.aclose()


async def faults_of(queue: JobQueue, *, repair: bool = False) -> dict[str, Finding]:
    found = {each.check: each for each in await queue.control.doctor(repair=repair) if each.check in DATA}
    if [each.level for each in found.values()] == [Level.OK]:
        return {}
    return found


# Each invariant, broken by an admin

FAULTY = {
    "no place": "update redisjobs.jobs set place = 'nowhere' where queue = %(q)s and id = 'ready'",
    "no record": "update redisjobs.jobs set worker = 'unknown' where queue = %(q)s and id = 'runs'",
    "parked": "update redisjobs.jobs set place = 'parked' where queue = %(q)s and id = 'ready'",
    "line": "update redisjobs.jobs set place = 'line' where queue = %(q)s and id = 'ready'",
    "no due time": "update redisjobs.jobs set due_ms = null "
    "where queue = %(q)s and id in ('later', 'sleeps')",  # each gets back when it is due
    "group": "update redisjobs.jobs set kind = 'other' where queue = %(q)s and id = 'dead'",
    "held": "insert into redisjobs.rules (queue, kind, name, since_ms) values (%(q)s, 'held', 'gone', 1)",
    "share": "insert into redisjobs.shares select queue, seq, name, '', id from redisjobs.jobs "
    "where queue = %(q)s and id = 'ready'",
    "waiters": "insert into redisjobs.waiters values (%(q)s, 'gone', 'process', 1)",
    "steps": "insert into redisjobs.steps (queue, id, key, at_ms) values (%(q)s, 'gone', '', 1)",
    "waits": "with ended as (update redisjobs.children set state = 'dead' where queue = %(q)s) "
    "update redisjobs.groups set pending = 0 where queue = %(q)s",
    "children": "with gone as (insert into redisjobs.groups values (%(q)s, 'a', 'gone', 'render', 2, 0)) "
    "insert into redisjobs.children (queue, token, index, state) "
    "values (%(q)s, 'a', 0, 'dead'), (%(q)s, 'b', 0, 'dead')",
    "worker": "delete from redisjobs.beats where queue = %(q)s and id = 'w1'",
    "overdue": "insert into redisjobs.progress values (%(q)s, 'gone', '1', 1)",
}


@pytest.mark.parametrize("kind", FAULTY)
async def test_what_contradicts_itself_is_found_and_repaired_without_the_loss_of_a_job(
    postgres_store: PostgresStore, queue: JobQueue, kind: str
) -> None:
    assert await faults_of(queue) == {}
    jobs = postgres_store.rows("select id from redisjobs.jobs where queue = %s")
    postgres_store.admin.execute(FAULTY[kind], {"q": postgres_store.queue_name})

    assert (await faults_of(queue)).keys() == {kind}
    assert (await faults_of(queue)).keys() == {kind}  # it only looked
    assert (await faults_of(queue, repair=True))[kind].repaired == FAULTS[kind].repaired
    assert await faults_of(queue) == {}
    assert postgres_store.rows("select id from redisjobs.jobs where queue = %s") == jobs


async def test_a_limit_that_counts_wrongly_is_corrected(postgres_store: PostgresStore, queue: JobQueue) -> None:
    await postgres_store.driver.change(SetLimit("Work", "max_concurrency=1"))
    running = "select running from redisjobs.buckets where queue = %s"
    assert postgres_store.rows(running) == [(1,)]
    wrong = "update redisjobs.buckets set running = 5 where queue = %s"
    postgres_store.admin.execute(wrong, (postgres_store.queue_name,))

    assert (await faults_of(queue))["share"].examples == ("Work",)
    await faults_of(queue, repair=True)
    assert await faults_of(queue) == {}
    assert postgres_store.rows(running) == [(1,)]


async def test_what_is_only_odd_is_no_fault(postgres_store: PostgresStore, queue: JobQueue) -> None:
    """Keys that expire, or that tidying will delete, a job that is held, and a name that was just resumed."""
    for statement in (
        "insert into redisjobs.uniques values (%s, 'for a time', 'gone', 9e15)",
        "insert into redisjobs.uniques (queue, key, id) values (%s, 'left', 'gone')",
        "insert into redisjobs.rules (queue, kind, name, since_ms) values (%s, 'held', 'later', 1)",
    ):
        postgres_store.admin.execute(statement.encode(), (postgres_store.queue_name,))
    await queue.control.pause("Work")
    postgres_store.admin.execute(FAULTY["parked"], {"q": postgres_store.queue_name})
    assert await faults_of(queue) == {}
    await queue.control.resume("Work")
    assert await faults_of(queue) == {}
    postgres_store.rows("delete from redisjobs.uniques where queue = %s and key = 'left' returning key")


async def test_an_audit_looks_at_each_job_once_in_steps(postgres_store: PostgresStore, queue: JobQueue) -> None:
    for start in range(0, 1200, 400):
        await push(postgres_store, *(str(number) for number in range(start, start + 400)))
    seen: list[tuple[int, int]] = []
    await queue.control.doctor(progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (1200 + 8 + 1 + 3 + 2 + 2,) * 2
    # jobs, a unique key, those with steps, a group and its child that has an id, a worker and its beat
    assert len(seen) > 4


async def test_a_busy_queue_has_no_faults(postgres_store: PostgresStore) -> None:
    """Jobs are pushed with keys, done, retried, delayed, cancelled, paused and resumed, all the while."""
    async with JobQueue(postgres_store.driver, postgres_store.queue_name) as queue:
        assert await looks_while_busy(queue, faults_of, pauses=True) == [{}] * LOOKS


# The server

ORDER: dict[str, Any] = {
    "now": 1.0,
    "pid": 7,
    "replica": False,
    "replicas": 1,
    "server_version": "17.2",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "autovacuum": "on",
    "track_counts": "on",
    "unvacuumed": [],
    "jobs": [1000, 50_000, 9e7],
    "frozen": 200_000_000,
    "pins": [],
    "slots": [["standby", 1000], ["unused", None]],
    "rings": [],
    "sessions": 20,
    "max_sessions": 100,
    "superuser": None,
    "blind": None,
    "refused": [],
}


def test_a_server_in_order_has_no_warnings() -> None:
    assert {each.level for each in findings(ORDER)} == {Level.OK}
    assert warning_texts(ORDER) == []


@pytest.mark.parametrize(
    ("facts", "check", "level", "words"),
    [
        ({"replica": True}, "replication", Level.ERROR, "replica"),
        ({"fsync": "off"}, "persistence", Level.WARNING, "fsync is off"),
        ({"full_page_writes": "off"}, "persistence", Level.WARNING, "full_page_writes is off"),
        ({"synchronous_commit": "off"}, "persistence", Level.WARNING, "synchronous_commit is off"),
        ({"autovacuum": "off"}, "autovacuum", Level.WARNING, "autovacuum is off"),
        ({"track_counts": "off"}, "autovacuum", Level.WARNING, "track_counts is off"),
        ({"unvacuumed": ["jobs"]}, "autovacuum", Level.WARNING, "redisjobs.jobs"),
        ({"jobs": [10, 2_000_000, 1e9]}, "dead rows", Level.WARNING, "2,000,000 dead rows"),
        ({"frozen": 1_500_000_000}, "transaction ids", Level.ERROR, "1,500,000,000"),
        (
            {"pins": [["session", "pid 5 dump of joe", 300, "idle in transaction", 9]]},
            "horizon",
            Level.WARNING,
            "session pid 5 dump of joe (idle in transaction) since 5 min",
        ),
        (
            {"pins": [["session", "pid 5", None, "", 200_000]]},
            "horizon",
            Level.WARNING,
            "since 200,000 transactions",
        ),
        (
            {"pins": [["prepared transaction", "x", 3600, "", 9]]},
            "horizon",
            Level.WARNING,
            "prepared transaction x since 60 min",
        ),
        (
            {"pins": [["replication slot", "old", None, "inactive", 2e5]]},
            "horizon",
            Level.WARNING,
            "replication slot old (inactive)",
        ),
        ({"slots": [["old", 5_000_000_000]]}, "slots", Level.WARNING, "5.0 GB of the log: old"),
        (
            {"rings": [["turns_1", 1e9, 7200]]},
            "rings",
            Level.WARNING,
            "redisjobs.turns_1 was not emptied for 2.0 h",
        ),
        ({"sessions": 95}, "connections", Level.WARNING, "95 of 100"),
        ({"blind": "jobs"}, "horizon", Level.UNKNOWN, "the role jobs may not see"),
        ({"superuser": "postgres"}, "roles", Level.WARNING, "superuser postgres"),
        ({"refused": ["cancel", "claim"]}, "permissions", Level.INFO, "2 functions of redisjobs: cancel, claim"),
    ],
)
def test_what_is_wrong_with_a_server_is_said_with_what_to_do(
    facts: dict[str, Any], check: str, level: Level, words: str
) -> None:
    found = next(each for each in findings(ORDER | facts) if each.level is not Level.OK)
    assert (found.check, found.level) == (check, level)
    assert words in found.sentence
    assert found.advice
    assert len(warning_texts(ORDER | facts)) == (level in (Level.WARNING, Level.ERROR))


def test_a_worker_behind_a_pooler_is_warned() -> None:
    (text,) = warning_texts(ORDER, is_shared=True)
    assert text.startswith("A pooler is between this worker and the server")


Look = Callable[[int], dict[str, Any]]


@pytest.fixture
def look(database: str) -> Any:
    """Ask the server of a database of this test, which snapshots are older than some ms."""
    statement = functions.statement("look_at_server")
    with psycopg.connect(database, autocommit=True, cursor_factory=psycopg.RawCursor) as connection:

        def look(older_ms: int) -> dict[str, Any]:
            connection.execute("select 1")
            (row,) = connection.execute(statement, ("q", None, functions.release(), older_ms)).fetchall()
            answer: dict[str, Any] = orjson.loads(row[0])["a"]
            return answer

        yield look


@pytest.mark.parametrize(
    "statements",
    [
        ["begin isolation level repeatable read", "select from redisjobs.jobs"],
        ["begin", "create table theirs ()"],  # it has written, and has no snapshot between two statements
    ],
)
def test_an_old_transaction_is_named_by_its_session(database: str, look: Look, statements: list[str]) -> None:
    assert look(0)["pins"] == []
    with psycopg.connect(database, application_name="a report") as reader:
        for statement in statements:
            reader.execute(statement.encode())
        (pin,) = look(0)["pins"]
        assert look(60_000)["pins"] == []  # it is young
        assert pin[:2] == ["session", f"pid {reader.info.backend_pid} a report of {reader.info.user}"]
        assert pin[3] == "idle in transaction"


def test_a_ring_that_is_not_emptied_is_named(database: str, look: Look) -> None:
    fill = "insert into redisjobs.ledger_1 select 'q', repeat('x', 8000) || n, '', 1 from generate_series(1, {}) n"
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute("alter table redisjobs.ledger_1 alter key set storage external")
        admin.execute("drop index if exists redisjobs.ledger_1_queue_key_idx")
        admin.execute(fill.format(3).encode())
        assert look(0)["rings"] == []
        admin.execute(fill.format(4000).encode())
        ((name, size, seconds),) = look(0)["rings"]
    assert (name, size > 16e6, seconds > 1e9) == ("ledger_1", True, True)


def test_autovacuum_that_is_off_for_a_table_is_named(database: str, look: Look) -> None:
    assert look(0)["unvacuumed"] == []
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute("alter table redisjobs.jobs set (autovacuum_enabled = off)")
        admin.execute("alter table redisjobs.beats set (autovacuum_enabled = false)")
    assert look(0)["unvacuumed"] == ["beats", "jobs"]


async def test_the_doctor_and_the_first_worker_that_starts_say_the_same(postgres_store: PostgresStore) -> None:
    async with aclosing(postgres_store.driver) as driver:
        facts = await driver.read(CheckServer())
        workers = [driver.consumer(worker_id, lease=15, max_deliveries=3) for worker_id in ("w1", "w2")]
        said = [await worker.open() for worker in workers]
        for worker in workers:
            await worker.aclose()

    assert facts.pings
    assert abs(facts.offset) < 60
    wrong = [each for each in facts.findings or () if each.level in (Level.WARNING, Level.ERROR)]
    assert said == [[f"{each.sentence} {each.advice}" for each in wrong], []]
    assert "roles" in {each.check for each in wrong}  # the tests migrate as a superuser


def test_an_ordinary_owner_looks_too_and_sees_starts_of_transactions_once_it_may(postgres: Any) -> None:
    role = f"owner_{secrets.token_hex(4)}"
    statement = functions.statement("look_at_server")
    with postgres.database(migrated=False) as url:
        name = url.rpartition("/")[2]
        postgres.run(f"create role {role} login")
        postgres.run(f"grant create on database {name} to {role}")
        list(schema.migrate(postgres.url_of(name, role)))
        with (
            psycopg.connect(
                postgres.url_of(name, role), autocommit=True, cursor_factory=psycopg.RawCursor
            ) as connection,
            psycopg.connect(url) as reader,
        ):

            def look() -> dict[str, Any]:
                arguments = ("q", None, functions.release(), 0)
                (row,) = connection.execute(statement, arguments).fetchall()
                answer: dict[str, Any] = orjson.loads(row[0])["a"]
                return answer

            reader.execute("begin isolation level repeatable read")
            reader.execute("select")
            pid = reader.info.backend_pid
            hidden = look()
            postgres.run(f"grant pg_read_all_stats to {role}")
            ((kind, session, *_),) = look()["pins"]
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute(f"drop owned by {role}".encode())
            admin.execute(f"drop role {role}".encode())

    assert (hidden["pins"], hidden["blind"], hidden["superuser"], hidden["refused"]) == ([], role, None, [])
    assert (kind, session.split()[:2]) == ("session", ["pid", str(pid)])
