"""What is refused by Postgres, and what is said of it: rights, schemas, encodings, URLs."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg
import pytest
from databases import Postgres
from postgres_store import jobs

from redisjobs import DriverError, Unavailable
from redisjobs.drivers import connect
from redisjobs.drivers.postgres.checks import check
from redisjobs.drivers.postgres.errors import Locked, Refused, as_ours
from redisjobs.drivers.postgres.target import Target
from redisjobs.errors import Forbidden, QueueFull, ServerTooOld
from redisjobs.model.queries import Count

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.mark.parametrize(
    ("state", "error"),
    [
        *((state, Unavailable) for state in ("57P01", "57014", "53300", "08006", "25006")),
        *((state, QueueFull) for state in ("53100", "53200")),
        ("55P03", Locked),
        ("42501", Forbidden),
        *((state, DriverError) for state in ("42883", "42P01", "3F000", "P0001", "XX000")),
    ],
)
def test_an_error_says_whether_a_new_try_may_help(state: str, error: type[DriverError]) -> None:
    assert type(as_ours(Refused("said the server", state))) is error
    assert "said the server" in str(as_ours(Refused("said the server", state)))


async def refusal_of(url: str) -> DriverError:
    driver = connect(url, "q")
    with pytest.raises(DriverError) as caught:
        await driver.read(Count())
    await driver.aclose()
    return caught.value


@contextmanager
def a_role(postgres: Postgres, url: str, limit: str = "") -> Iterator[str]:
    """Make a role without rights; the URL of the database for it."""
    name = urlsplit(url).path.removeprefix("/")
    role = f"role_{name}"
    postgres.run(f"CREATE ROLE {role} LOGIN {limit}")
    try:
        yield postgres.url_of(name, role)
    finally:
        postgres.run(f"DROP ROLE {role}")


async def test_a_database_that_was_not_migrated_says_what_to_run(postgres: Postgres) -> None:
    with postgres.database(migrated=False) as url:
        error = await refusal_of(url)
    assert type(error) is DriverError
    assert "the database has no tables of redisjobs: run `redisjobs migrate --database URL`" in str(error)


async def test_a_database_with_the_functions_of_another_release_says_what_to_run(postgres: Postgres) -> None:
    with postgres.database() as url:
        with psycopg.connect(url, autocommit=True) as admin:
            (name,) = admin.execute("select proname from pg_proc where proname ~ '^_answer_'").fetchone() or ("",)
            admin.execute(f"alter function redisjobs.{name} rename to _answer_0123456789".encode())
        assert "has no functions of this release of redisjobs: run `redisjobs" in str(await refusal_of(url))


async def test_a_role_without_rights_learns_which_it_needs(postgres: Postgres) -> None:
    with postgres.database() as url, a_role(postgres, url) as given:
        error = await refusal_of(given)
    assert type(error) is Forbidden
    assert "permission denied for schema redisjobs" in str(error)


async def test_a_database_that_refuses_writes_is_unavailable(postgres: Postgres) -> None:
    with postgres.database() as url:
        postgres.run(f"ALTER DATABASE {url.rpartition('/')[2]} SET default_transaction_read_only = on")
        driver = connect(url, "q")
        with pytest.raises(Unavailable, match="read-only"):
            await driver.push(jobs("a"), repeated=False)
        await driver.aclose()


async def test_a_role_with_too_many_connections_is_unavailable(postgres: Postgres) -> None:
    with postgres.database() as url, a_role(postgres, url, "CONNECTION LIMIT 0") as given:
        error = await refusal_of(given)
    assert type(error) is Unavailable
    assert "too many connections" in str(error)


async def test_a_database_in_another_encoding_is_refused(postgres: Postgres) -> None:
    name = "latin_database"
    postgres.run(f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    try:
        assert "has the encoding LATIN1; redisjobs needs one with UTF8" in str(
            await refusal_of(postgres.url_of(name))
        )
    finally:
        postgres.run(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize(
    ("part", "error"), [("database", DriverError), ("user", DriverError), ("port", Unavailable)]
)
async def test_what_is_not_there_is_named(postgres: Postgres, part: str, error: type[DriverError]) -> None:
    parts = urlsplit(postgres.url)
    host = f"{parts.hostname}:{1 if part == 'port' else parts.port}"
    user = "not_there" if part == "user" else parts.username
    url = f"postgresql://{user}:secret-word@{host}/{'not_there' if part == 'database' else 'postgres'}"

    raised = await refusal_of(url)

    assert type(raised) is error
    assert ("not_there" in str(raised)) or part == "port"
    assert "secret-word" not in repr(raised)


def test_too_old_servers_and_replicas_are_refused() -> None:
    with pytest.raises(ServerTooOld, match=r"needs PostgreSQL 15 or newer; the server is 14\.2"):
        check((1, 140002, "14.2", "UTF8", False, True, True, 7))
    with pytest.raises(Unavailable, match="read-only replica"):
        check((1, 160002, "16.2", "UTF8", True, True, True, 7))


SECRET = "postgresql://joe:secret-word@host:5433/jobs?sslpassword=secret-word&sslmode=require"


def test_a_password_is_shown_nowhere() -> None:
    driver = connect(SECRET, "q")
    assert driver.where == "postgresql://joe@host:5433/jobs"
    assert "secret-word" not in f"{driver.place} {driver!r} {vars(driver)}"
    for wrong in (SECRET + "&oops=1", SECRET.replace("-word", "%zz")):
        with pytest.raises(ValueError) as caught:
            connect(wrong, "q")
        assert "secret" not in str(caught.value)


def test_a_url_may_have_all_that_libpq_knows() -> None:
    conninfo = Target("postgres://a:1,b:2/jobs?sslmode=verify-full&options=-c%20work_mem%3D1MB").conninfo
    for part in ("host=a,b", "port=1,2", "sslmode=verify-full", "work_mem", "target_session_attrs=read-write"):
        assert part in conninfo
    assert "target_session_attrs" not in Target("postgresql://a/jobs").conninfo
    assert "connect_timeout=3" in Target("postgresql://a/jobs?connect_timeout=3").conninfo


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_on_trio_an_error_says_what_works(anyio_backend: str) -> None:
    with pytest.raises(DriverError, match="psycopg needs asyncio; on trio only memory:// works"):
        await connect("postgresql://host/jobs", "q").read(Count())
