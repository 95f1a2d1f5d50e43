"""The systems that are measured on Postgres, and a session of one: a database of its own, on a fresh server."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.session import Session, family_cpu
from benchmarks.systems import CHECKOUT, US, VENVS, Commands, Failed, System
from redisjobs.local import postgres_server

_DATABASE = "bench"
_OPTIONS = ("shared_buffers=256MB", "max_wal_size=4GB", "log_line_prefix=%d ")
_MIGRATED_WITHIN = 60.0  # seconds


@dataclass(frozen=True)
class OnPostgres(System):
    """A system on Postgres.

    Attributes:
        schema: From the folder of its programs, the command that makes its tables in the database `URL`.
        is_durable: Whether the server waits for its disk. The disk of a machine that others use would be measured.
    """

    schema: Callable[[Path], list[str]] = lambda programs: []
    is_durable: bool = False

    @property
    def venv(self) -> Path:
        """Where its environment is; on Redis ours has other packages."""
        return VENVS / f"{self.name}-postgres"


class PostgresSession(Session):
    """A context manager: a fresh server with the system's tables, and all that was started ended at its end."""

    system: OnPostgres

    @property
    def url(self) -> str:
        """Where the system's database is."""
        return self.server.url.removesuffix("postgres") + _DATABASE

    def _start_server(self) -> None:
        options = [word for option in _OPTIONS for word in ("-c", option)]
        self.server = postgres_server.start(options=options, durable=self.system.is_durable)
        self._admin = psycopg.connect(self.server.url, autocommit=True)
        try:
            self._make_tables()
        except BaseException:
            self._stop_server()
            raise

    def _make_tables(self) -> None:
        self._admin.execute(f"create database {_DATABASE}".encode())
        command = [self.url if word == "URL" else word for word in self.system.schema(self.system.programs)]
        environment = self.environment(None)
        done = subprocess.run(
            command, cwd=self.system.peers, env=environment, capture_output=True, timeout=_MIGRATED_WITHIN
        )
        if done.returncode:
            raise Failed(f"its tables can't be made: {done.stderr.decode(errors='replace').strip()[-300:]}")

    def _stop_server(self) -> None:
        self._admin.close()
        self.server.stop()

    def ask(self, statement: str) -> Any:
        """Return the first value that a statement returns in the system's database."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            row = connection.execute(statement.encode()).fetchone()
        return row[0] if row else None

    def server_cpu(self) -> float:
        """CPU seconds that the server has used, all its processes together."""
        return family_cpu(self.server.pid)

    def sizes(self) -> tuple[int, int]:
        """Bytes of all tables of the system, what was moved out of rows included, and of their indexes."""
        tables, indexes = (
            int(
                self.ask(
                    f"select coalesce(sum({size}(oid)), 0) from pg_class where relkind = 'r' and oid >= 16384"
                )
            )
            for size in ("pg_table_size", "pg_indexes_size")
        )
        return tables, indexes

    def dead_rows(self) -> int:
        """Rows that are deleted, and not yet removed."""
        return int(self.ask("select coalesce(sum(n_dead_tup), 0) from pg_stat_user_tables"))

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Hold a snapshot of the database, as a long report does: rows deleted meanwhile can't be removed."""
        with psycopg.connect(self.url) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.execute("select count(*) from pg_class")
            yield

    @contextmanager
    def statements(self) -> Iterator[list[str]]:
        """Collect the statements that are run in the system's database; the list is filled at the end."""
        said = list[str]()
        log = self.server.directory / "server.log"
        self._log_statements("all")
        start = log.stat().st_size
        yield said
        with open(log, errors="replace") as lines:
            lines.seek(start)
            marks = (f"{_DATABASE} LOG:  statement: ", f"{_DATABASE} LOG:  execute ")
            said += [line.rstrip("\n") for line in lines if line.startswith(marks)]
        self._log_statements("none")

    def _log_statements(self, which: str) -> None:
        self._admin.execute(f"alter system set log_statement = '{which}'".encode())
        self._admin.execute("select pg_reload_conf(), pg_sleep(0.2)")


def _redisjobs(programs: Path, processes: int | None, concurrency: int | None) -> Commands:
    worker = [str(programs / "redisjobs"), "worker", "redisjobs_jobs:queue", "--log-level", "warning"]
    return [[*worker, "--concurrency", str(concurrency)]] * (processes or 1)


def _awa(programs: Path, processes: int | None, concurrency: int | None) -> Commands:
    return [[str(programs / "python"), "awa_jobs.py"]] * (processes or 1)


def _pgqueuer(programs: Path, processes: int | None, concurrency: int | None) -> Commands:
    worker = [str(programs / "pgq"), "run", "pgqueuer_jobs:worker"]
    half = str((concurrency or 100) // 2)  # of a batch it demands room for two
    return [[*worker, "--batch-size", half, "--max-concurrent-tasks", str(concurrency or 100)]] * (processes or 1)


def _procrastinate(programs: Path, processes: int | None, concurrency: int | None) -> Commands:
    worker = [str(programs / "procrastinate"), "--app", "procrastinate_jobs.app", "worker"]
    return [[*worker, "--concurrency", str(concurrency), "--delete-jobs", "always"]] * (processes or 1)


ON_POSTGRES = {
    system.name: system
    for system in (
        OnPostgres(
            US,
            US,
            ("--editable", f"{CHECKOUT}[worker,postgres]", "psycopg[binary]==3.3.9"),
            US,
            "uvloop, psycopg, every check on",
            _redisjobs,
            schema=lambda programs: [str(programs / "redisjobs"), "migrate", "--database", "URL"],
        ),
        OnPostgres(
            "awa",
            "awa",
            ("awa-pg==0.6.9", "uvloop==0.23.0"),
            "awa-pg",
            "a runtime in Rust, uvloop, 4 claimers, batches of 100, pushes of many by COPY",
            _awa,
            schema=lambda programs: [str(programs / "python"), "awa_jobs.py", "install"],
        ),
        OnPostgres(
            "pgqueuer",
            "pgqueuer",
            ("pgqueuer==1.6.0", "psycopg[binary]==3.3.9", "uvloop==0.23.0", "typer==0.19.2"),
            "pgqueuer",
            "psycopg, uvloop, batches of 50",
            _pgqueuer,
            scale=0.25,
            schema=lambda programs: [str(programs / "pgq"), "--pg-dsn", "URL", "install"],
        ),
        OnPostgres(
            "procrastinate",
            "procrastinate",
            ("procrastinate==3.10.0", "psycopg[binary]==3.3.9", "uvloop==0.23.0"),
            "procrastinate",
            "psycopg, jobs deleted when done",
            _procrastinate,
            scale=0.05,
            schema=lambda programs: [
                str(programs / "procrastinate"),
                *("--app", "procrastinate_jobs.app", "schema", "--apply"),
            ],
        ),
    )
}
