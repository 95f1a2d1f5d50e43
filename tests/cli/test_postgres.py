"""The commands for Postgres: `migrate`, `relay`, and `dev --postgres`."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from commands import line_with, module_of, until
from databases import POSTGRES_ENGINES, Postgres
from store import RedisStore, eventually

from redisjobs import JobName, sync

pytestmark = pytest.mark.slow

Add = JobName("Add", dict[str, Any])
INSIDE = 'inside = JobQueue("memory://")\n'
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path, redis_store: RedisStore) -> Iterator[Start]:
    """Start a command in a folder with an app, whose queue is `redis_store`'s; what still runs is ended."""
    (tmp_path / "app.py").write_text(module_of(redis_store.queue_name, INSIDE))
    started = list["subprocess.Popen[str]"]()
    env = {name: value for name, value in os.environ.items() if not name.startswith("REDIS")}
    env |= {"PYTHONPATH": str(Path(__file__).parents[2]), "REDISJOBS_URL": redis_store.url}

    def command(*arguments: str, **more: str) -> "subprocess.Popen[str]":
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        words = [sys.executable, "-m", "redisjobs", *arguments]
        started.append(subprocess.Popen(words, cwd=tmp_path, env=env | more, **pipes))
        return started[-1]

    yield command
    for process in started:
        process.kill()
        process.communicate()


def said(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def write(url: str, name: str, count: int) -> None:
    with psycopg.connect(url) as connection:
        sync.JobQueue("memory://", name).push_many([{"a": n} for n in range(count)], Add, within=connection)


def test_migrate_makes_the_schema_once_and_prints_what_it_would_run(start: Start, postgres: Postgres) -> None:
    with postgres.database(migrated=False) as url:
        code, out, _ = said(start("migrate", "--database", url, "--print"))
        assert (code, out.startswith("-- 0000 migrations\n")) == (0, True)

        code, out, _ = said(start("migrate", REDISJOBS_DATABASE=url))
        assert code == 0
        assert out.splitlines()[:2] == ["migrated to 0000 migrations", "migrated to 0001 outbox"]

        assert said(start("migrate", "--database", url, "--print"))[1].endswith(": nothing to do\n")
        assert said(start("migrate", "--database", url))[1].endswith(" already: nothing to do\n")


def test_migrate_of_what_is_no_database_is_a_mistake_and_shows_no_password(start: Start) -> None:
    code, _, err = said(start("migrate", "--database", "mysql://joe:secret@host/x"))

    assert code == 2
    assert "--database 'mysql://…@host/x' is no database" in err


@pytest.mark.anyio
async def test_a_relay_pushes_until_it_is_asked_to_end(
    start: Start, redis_store: RedisStore, database: str
) -> None:
    relay = start("relay", "app:queue", "--database", database)
    line_with(relay.stderr, "relaying the outbox")

    write(database, redis_store.queue_name, 3)
    await eventually(lambda: redis_store.admin.xlen(redis_store.stream()) == 3, within=20)
    relay.send_signal(signal.SIGTERM)

    code, _, err = said(relay)
    assert code == 0
    assert "the relay ended" in err


def test_a_relay_pushes_once_and_says_what_is_left(start: Start, redis_store: RedisStore, database: str) -> None:
    write(database, redis_store.queue_name, 3)
    with psycopg.connect(database) as connection:
        connection.execute("INSERT INTO redisjobs.outbox (queue, name) VALUES (%s, '')", (redis_store.queue_name,))

    code, out, err = said(start("relay", "app:queue", "--once", "--database", database))

    assert code == 0
    assert out.endswith(": pushed 3 jobs; 0 rows left; 1 row set aside\n")
    assert "is set aside: the name is wrong" in err


def test_a_relay_says_what_is_wrong_at_its_start(start: Start, postgres: Postgres) -> None:
    with postgres.database(migrated=False) as url:
        code, _, err = said(start("relay", "app:queue", "--database", url))
        assert (code, "run `redisjobs migrate" in err) == (1, True)
    away = ("--database", "postgresql://127.0.0.1:1/x")
    code, _, err = said(start("relay", "app:inside", *away, REDISJOBS_URL="memory://"))
    assert (code, "a queue inside one process" in err) == (2, True)
    code, _, err = said(start("relay", "app:queue", "--once", *away))
    assert (code, "is unavailable" in err) == (1, True)


@pytest.mark.skipif(not POSTGRES_ENGINES or POSTGRES_ENGINES == ["PG_URL"], reason="needs a PostgreSQL program")
@pytest.mark.parametrize("kept", [False, True])
def test_dev_runs_a_postgres_too(start: Start, tmp_path: Path, kept: bool) -> None:
    for path in (tmp_path, *tmp_path.parents[:-2]):  # as root, the server is another user's
        path.chmod(path.stat().st_mode | 0o111)
    dev = start("dev", "--postgres", *(["--dir", "data"] if kept else []))
    url = until(dev, "export REDISJOBS_URL=").strip().partition("=")[2]
    database = until(dev, "export REDISJOBS_DATABASE=").strip().partition("=")[2]
    with redis.Redis.from_url(url) as client, psycopg.connect(database) as connection:
        assert client.ping()
        assert connection.execute("SELECT 1").fetchone() == (1,)

    dev.send_signal(signal.SIGINT)

    assert said(dev)[0] == 0
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(database)
    assert (tmp_path / "data" / "postgres").exists() is kept


@pytest.mark.skipif(not POSTGRES_ENGINES or POSTGRES_ENGINES == ["PG_URL"], reason="needs a PostgreSQL program")
def test_dev_ends_when_its_postgres_does(start: Start) -> None:
    dev = start("dev", "--postgres")
    found = re.search(r"process (\d+)", until(dev, "PostgreSQL"))
    assert found is not None

    os.kill(int(found[1]), signal.SIGKILL)

    code, _, err = said(dev)
    assert code == 1
    assert "the server ended by itself" in err
