"""Roles of the database: each may do its part of the work and no more, and learns what it lacks."""

import re
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import anyio
import psycopg
import pytest
import typer.testing
from databases import Owned, Postgres
from psycopg import sql
from store import eventually

from redisjobs import JobQueue, Schedule, Worker
from redisjobs.cli.app import make
from redisjobs.control.relay.relay import Relayer
from redisjobs.drivers import connect
from redisjobs.drivers.postgres import functions, schema
from redisjobs.errors import Forbidden
from redisjobs.model.changes import Pause, Resume, Tidy
from redisjobs.model.queries import Count

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@dataclass
class Greet:
    job_name: ClassVar[str] = "greet"
    name: str


def a_queue(url: str) -> JobQueue:
    """A queue as a program has it: each role's is the same."""
    queue = JobQueue(url, name="emails")

    @queue.register(Greet)
    async def greet(parameters: Greet) -> str:
        return f"hello {parameters.name}"

    return queue


async def pushed(queue: JobQueue) -> None:
    await queue.push(Greet("joe"))


async def worked(queue: JobQueue) -> None:
    await Worker(queue).run(until_idle=True)


async def listed(queue: JobQueue) -> None:
    await queue.control.jobs()


async def cancelled(queue: JobQueue) -> None:
    await queue.cancel("nothing")


async def paused(queue: JobQueue) -> None:
    await queue.control.pause("nothing")
    await queue.control.resume("nothing")


DEEDS: dict[str, Callable[[JobQueue], Awaitable[None]]] = {
    "push": pushed,
    "work": worked,
    "list": listed,
    "cancel": cancelled,
    "pause": paused,
}


@pytest.mark.parametrize(
    ("part", "deeds"),
    [
        ("producer", ["push"]),
        ("worker", ["push", "work"]),
        ("operator", ["list", "cancel", "pause"]),
        ("reader", ["list"]),
        ("outbox", []),
        ("relay", []),
    ],
)
async def test_a_role_may_do_its_part_and_no_more(owned: Owned, part: str, deeds: list[str]) -> None:
    role = owned.role(part)

    done = []
    async with a_queue(owned.url_of(role)) as queue:
        for name, deed in DEEDS.items():
            try:
                await deed(queue)
            except Forbidden:
                continue
            done.append(name)

    assert done == deeds


READS = [
    *("stats", "queues", "workers", "jobs", "job mine", "why mine", "dead list", "dead groups"),
    *("schedules list", "limits list", "doctor"),
]
CHANGES = [
    *("cancel mine", "hold mine", "unhold mine", "pause", "resume", "pause --name greet", "resume --name greet"),
    *("dead requeue mine", "limits set greet --max-concurrency 3", "workers quiet a"),
    *("schedules pause mine", "schedules remove mine"),
]


@pytest.mark.parametrize(
    ("part", "allowed", "refused"),
    [("reader", READS, CHANGES), ("operator", [*READS, *CHANGES], []), ("producer", ["job mine"], ["stats"])],
)
def test_commands_run_with_the_part_that_the_page_says(
    owned: Owned, part: str, allowed: list[str], refused: list[str]
) -> None:
    url = owned.url_of(owned.role(part))

    def said(command: str) -> str:
        done = typer.testing.CliRunner().invoke(make(), [*command.split(), "--url", url, "--queue", "emails"])
        return f"{command}: {done.exception!r} {done.output}"

    assert [line for line in map(said, allowed) if "may not do this" in line or "Usage" in line] == []
    assert [line for line in map(said, refused) if "may not do this" not in line] == []


async def test_no_part_but_the_readers_reads_tables_and_none_writes_to_them(owned: Owned) -> None:
    tables = [name for (name,) in owned.run("SELECT tablename FROM pg_tables WHERE schemaname = 'redisjobs'")]
    for part in ("producer", "worker", "operator", "reader"):
        role = owned.role(part)
        for table in tables:
            assert owned.run(
                "SELECT has_table_privilege(%s, %s, 'SELECT'),"
                " has_table_privilege(%s, %s, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')",
                *(role, f"redisjobs.{table}") * 2,
            ) == [(part == "reader", False)], (part, table)


@pytest.mark.parametrize(
    ("part", "rights"),
    [("outbox", {"INSERT"}), ("relay", {"SELECT", "UPDATE", "DELETE"}), ("worker", set())],
)
async def test_only_its_parts_use_the_outbox(owned: Owned, part: str, rights: set[str]) -> None:
    role = owned.role(part)

    found = {
        right
        for right in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")
        if owned.run("SELECT has_table_privilege(%s, 'redisjobs.outbox', %s)", role, right) == [(True,)]
    }

    assert found == rights


async def test_a_producer_writes_to_the_outbox_and_a_relay_pushes_from_it(owned: Owned) -> None:
    producer, relay = owned.role("outbox"), owned.role("relay")

    async with a_queue("memory://") as queue:
        async with await psycopg.AsyncConnection.connect(owned.url_of(producer)) as connection:
            handle = await queue.push(Greet("joe"), within=connection)
        relaying = Relayer(queue, owned.url_of(relay))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(relaying.run)
            with anyio.fail_after(20):
                while await handle.info() is None:  # noqa: ASYNC110  (the store tells of no push)
                    await anyio.sleep(0.02)
            relaying.stop()

    assert owned.run("SELECT count(*) FROM redisjobs.outbox") == [(0,)]


async def test_a_role_may_do_several_parts(owned: Owned) -> None:
    role = owned.role("producer", "operator")

    async with a_queue(owned.url_of(role)) as queue:
        handle = await queue.push(Greet("joe"))
        assert await queue.cancel(handle.id)


async def test_a_worker_runs_jobs_and_schedules_and_keeps_results(owned: Owned) -> None:
    role = owned.role("worker")
    queue = a_queue(owned.url_of(role))
    ran = anyio.Event()

    @queue.job(schedule=Schedule.every(1), keep_result=60)
    async def tick() -> int:
        ran.set()
        return 1

    async with queue, a_queue(owned.url_of(owned.role("producer"))) as producer:
        handle = await producer.push(Greet("joe"), keep_result=60)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Worker(queue).run)
            with anyio.fail_after(20):
                assert await handle.result() == "hello joe"
                await ran.wait()
            tasks.cancel_scope.cancel()


async def test_a_role_without_a_right_learns_which_and_how_it_gets_it(owned: Owned) -> None:
    role = owned.role("reader")

    async with a_queue(owned.url_of(role)) as queue:
        with pytest.raises(Forbidden) as caught:
            await queue.push(Greet("joe"))
        said = str(caught.value)
        assert f"the role '{role}' may not do this (permission denied for procedure push_plain_" in said
        line = said.partition("As the owner of the schema, run: ")[2]
        assert line == f"select redisjobs.allow('{role}', 'producer')"

        owned.run(line)

        assert (await queue.push(Greet("joe"))).added


async def test_a_role_that_was_allowed_nothing_learns_that_too(owned: Owned) -> None:
    role = owned.role()

    async with a_queue(owned.url_of(role)) as queue:
        with pytest.raises(Forbidden, match=rf"the role '{role}' may not .*schema redisjobs.*run: select"):
            await queue.push(Greet("joe"))


async def test_a_role_without_rights_learns_it_in_sync_code_too(owned: Owned) -> None:
    from redisjobs.sync import JobQueue as SyncJobQueue

    role = owned.role("reader")
    with SyncJobQueue(owned.url_of(role), name="emails") as queue, pytest.raises(Forbidden, match="'producer'"):
        queue.push(Greet("joe"))


async def test_a_release_installed_later_gives_its_functions_to_the_same_roles(
    owned: Owned, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = owned.role("producer")
    text = functions._text() + "\n-- a later release\n"
    monkeypatch.setattr(functions, "_text", lambda: text)
    list(schema.migrate(owned.url))

    allowed = owned.run(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'redisjobs'::regnamespace AND prosecdef"
        " AND has_function_privilege(%s, oid, 'EXECUTE') ORDER BY proname",
        role,
    )

    releases = Counter(name.rpartition("_")[0] for (name,) in allowed)
    assert {"push", "find", "status"} <= {*releases}
    assert {*releases.values()} == {2}


async def test_a_role_that_was_dropped_stops_no_later_release(
    owned: Owned, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = owned.role("producer")
    with psycopg.connect(owned.url_of("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP OWNED BY {0}").format(sql.Identifier(role)))
        connection.execute(sql.SQL("DROP ROLE {0}").format(sql.Identifier(role)))
    text = functions._text() + "\n-- a later release\n"
    monkeypatch.setattr(functions, "_text", lambda: text)

    assert [*schema.migrate(owned.url)] == [f"installed the functions of release {functions.release()}"]


async def test_a_forbidden_role_has_no_right_left(owned: Owned) -> None:
    role = owned.role("producer", "worker", "operator", "reader", "outbox", "relay")
    owned.run("SELECT redisjobs.forbid(%s)", role)

    assert owned.run("SELECT has_schema_privilege(%s, 'redisjobs', 'USAGE')", role) == [(False,)]
    owned.postgres.run(f'DROP ROLE "{role}"')  # refused while any right depends on it
    assert owned.run("SELECT count(*) FROM redisjobs.roles") == [(0,)]


async def test_only_the_owner_allows_and_only_parts_that_there_are(owned: Owned) -> None:
    role = owned.role("operator")

    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        owned.run("SELECT redisjobs.allow(%s, 'worker')", role, role=role)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        owned.run("SELECT redisjobs.forbid(%s)", role, role=role)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="there is no part boss"):
        owned.run("SELECT redisjobs.allow(%s, 'boss')", role)


async def test_no_role_calls_what_is_for_other_functions(owned: Owned) -> None:
    role = owned.role("producer", "worker", "operator", "reader")

    assert (
        owned.run(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'redisjobs'::regnamespace AND NOT prosecdef"
            " AND prokind = 'f' AND has_function_privilege(%s, oid, 'EXECUTE')",
            role,
        )
        == []
    )


async def test_a_stranger_that_holds_a_queues_lock_delays_work_and_loses_none(owned: Owned) -> None:
    ran: list[int] = []
    queue = JobQueue(owned.url_of(owned.role("worker")), name="emails")

    @queue.job
    async def count(number: int) -> None:
        ran.append(number)

    with psycopg.connect(owned.url_of(owned.role()), autocommit=True) as stranger:
        stranger.execute("SELECT pg_advisory_lock(hashtextextended('redisjobs queue emails', 0))")
        await count.push(1)
        async with anyio.create_task_group() as group, queue:
            group.start_soon(Worker(queue).run)
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            await eventually(lambda: owned.run(waiting) != [(0,)], within=20)
            await count.push(2)
            assert ran == []
            stranger.execute("SELECT pg_advisory_unlock_all()")
            await eventually(lambda: len(ran) == 2, within=20)
            group.cancel_scope.cancel()
    assert sorted(ran) == [1, 2]


def documented(*words: str) -> list[str]:
    """The lines of SQL in the page that begin with one of these words."""
    page = (Path(__file__).parents[2] / "docs/how-to/restrict-access.md").read_text("utf-8")
    blocks = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    return [line for line in "".join(blocks).splitlines() if line.startswith(words)]


async def test_the_documented_lines_make_the_roles(postgres: Postgres) -> None:
    mark = secrets.token_hex(4)
    own = {name: f"{name}_{mark}" for name in ("redisjobs", "jobs", "web", "fleet", "admin", "stranger")}

    def run(line: str, database: str, user: str) -> None:
        line = re.sub(r"\b(jobs|web|fleet|admin)\b", lambda found: own[found[0]], line)
        line = re.sub(r"(ROLE|OWNER) redisjobs\b", rf"\1 {own['redisjobs']}", line)
        with psycopg.connect(postgres.url_of(database, user), autocommit=True) as connection:
            connection.execute(line.encode())

    try:
        for line in documented("CREATE"):
            run(line, "postgres", "postgres")
        for name in ("web", "fleet", "admin", "stranger"):
            postgres.run(f"CREATE ROLE {own[name]} LOGIN")
        owner = postgres.url_of(own["jobs"], own["redisjobs"])
        list(schema.migrate(owner))
        for line in documented("SELECT redisjobs.allow"):
            run(line, own["jobs"], own["redisjobs"])

        with psycopg.connect(owner) as connection:
            found = connection.execute("SELECT role, part FROM redisjobs.roles ORDER BY part").fetchall()
        assert found == [(own["admin"], "operator"), (own["web"], "producer"), (own["fleet"], "worker")]

        for line in documented("REVOKE CONNECT ON DATABASE jobs FROM PUBLIC", "GRANT CONNECT"):
            run(line, own["jobs"], own["redisjobs"])
        run("SELECT 1", own["jobs"], own["web"])
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            run("SELECT 1", own["jobs"], own["stranger"])

        for line in documented("SELECT redisjobs.forbid", "REVOKE CONNECT ON DATABASE jobs FROM web"):
            run(line, own["jobs"], own["redisjobs"])
        postgres.run(f"DROP ROLE {own['web']}")
    finally:
        postgres.run(f"DROP DATABASE IF EXISTS {own['jobs']} WITH (FORCE)")
        for name in set(own) - {"jobs"}:
            postgres.run(f"DROP ROLE IF EXISTS {own[name]}")


def test_the_page_names_every_part() -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/restrict-access.md").read_text("utf-8")
    migration = next(each for each in schema.migrations() if each.name == "roles")
    (parts,) = re.findall(r"parts constant text\[\] := array\[(.*?)\]", migration.text)

    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == re.findall(r"\w+", parts)


def test_every_function_that_a_client_calls_is_for_some_part() -> None:
    assert {name for name in functions._headers() if not name.startswith("_")} <= {*functions.parts()}


async def test_an_ordinary_owner_migrates_and_works(owned: Owned) -> None:
    driver = connect(owned.url, "emails")
    try:
        await driver.change(Pause())
        await driver.change(Resume())
        await driver.change(Tidy())
        assert (await driver.read(Count())).running == 0
    finally:
        await driver.aclose()
    assert schema.danger(owned.url) == ""


def test_a_superuser_that_migrates_is_warned(owned: Owned, database: str) -> None:
    warned, quiet = (
        typer.testing.CliRunner().invoke(make(), ["migrate", "--database", url]) for url in (database, owned.url)
    )

    assert "warning: the role 'postgres' is a superuser" in warned.stderr, repr(warned.exception)
    assert (quiet.stderr, quiet.exception) == ("", None)
