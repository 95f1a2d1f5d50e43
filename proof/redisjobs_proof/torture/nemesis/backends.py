"""Faults of a PostgreSQL server and of its backends, and of what it knows about a worker."""

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from redisjobs.errors import DriverError
from redisjobs_proof.torture.fleet.store import Store
from redisjobs_proof.torture.nemesis.fault import Fault, System
from redisjobs_proof.torture.nemesis.records import RecordFault
from redisjobs_proof.torture.nemesis.servers import KillServer, SetClockAhead, SetClockBack

if TYPE_CHECKING:  # it needs psycopg, which is an extra
    from redisjobs_proof.torture.fleet.postgres_store import PostgresStore
    from redisjobs_proof.torture.topology.session import Session

OTHERS = "from pg_stat_activity where backend_type = 'client backend' and application_name <> 'redisjobs torture'"
"""The sessions that are not the torture's own."""

_UNFLUSHED = 1.0  # seconds; more than three times wal_writer_delay
_STARTED = 0.5  # seconds until a worker has recorded the start of a job that it got


def on_postgres(store: Store) -> "PostgresStore":
    """Return a store that a fault needs to be on Postgres."""
    return cast("PostgresStore", store)


class PostgresFault(Fault):
    """A fault of a server that we started, in which a superuser may do everything."""

    @classmethod
    def possible(cls, system: System) -> bool:  # noqa: D102
        return system.own is not None


class CrashServer(KillServer):
    """SIGKILL of the server and all its backends. It starts again from its write-ahead log."""

    keeps_jobs = True

    def begin(self, system: System) -> None:  # noqa: D102
        self.lossy = _exposed()
        super().begin(system)


class CrashBackend(PostgresFault):
    """SIGKILL of one backend: the server ends all others, and recovers from its log."""

    name = "backend crashed"
    holds = 0.5
    hits = "all"
    recovery = "workers"
    reaches = 1.0  # the longest pause between two tries
    keeps_jobs = True

    def begin(self, system: System) -> None:  # noqa: D102
        pids = [pid for (pid,) in on_postgres(system.store).run(f"select pid {OTHERS}")]
        self.lossy = _exposed()
        pid = system.rng.choice(sorted(pids))
        os.kill(pid, signal.SIGKILL)
        self.detail = f"process {pid}"

    def is_undone(self, system: System) -> bool:  # noqa: D102
        with suppress(DriverError):
            return bool(on_postgres(system.store).run("select true"))
        return False


def _exposed() -> list[float]:
    """Return when claims and ends of jobs may not have reached the disk: they do not wait for it."""
    now = time.time()
    return [now - _UNFLUSHED, now + _STARTED]


class KillBackends(PostgresFault):
    """`pg_terminate_backend` of every session, also of those that listen; or of every statement."""

    name = "backends terminated"
    holds = 0.3
    recovery = "workers"
    unsteady = True

    def begin(self, system: System) -> None:  # noqa: D102
        how = system.rng.choice(("pg_terminate_backend", "pg_terminate_backend", "pg_cancel_backend"))
        (killed,) = on_postgres(system.store).run(f"select count({how}(pid)) {OTHERS}")
        self.detail = f"{how} of {killed[0]}"


class KillEars(PostgresFault):
    """`pg_terminate_backend` of every session that listens, and of no other: notifications are lost meanwhile."""

    name = "listeners terminated"
    holds = 0.3
    recovery = "workers"

    def begin(self, system: System) -> None:  # noqa: D102
        listening = f"{OTHERS} and query ~* '^ *(un)?listen'"
        (killed,) = on_postgres(system.store).run(f"select count(pg_terminate_backend(pid)) {listening}")
        self.detail = f"{killed[0]} sessions"


class KillPooler(Fault):
    """SIGKILL of PgBouncer, which starts again."""

    name = "pooler killed"
    holds = 1.0
    hits = "all"
    recovery = "workers"
    reaches = 1.0  # the longest pause between two tries

    @classmethod
    def possible(cls, system: System) -> bool:  # noqa: D102
        return system.pooler is not None

    def begin(self, system: System) -> None:  # noqa: D102
        assert system.pooler is not None
        system.pooler.kill()

    def end(self, system: System) -> None:  # noqa: D102
        assert system.pooler is not None
        system.pooler.start()


class FillConnections(PostgresFault):
    """Idle sessions take all connections, and all others are ended: none gets in until those are gone."""

    name = "connections used up"
    holds = 2.0
    hits = "all"
    recovery = "workers"
    reaches = 1.0  # the longest pause between two tries
    uneven = True  # one of them may get a connection that just became free
    MOST = 200

    def __init__(self) -> None:
        super().__init__()
        self.sessions: list[Session] = []

    @property
    def happened(self) -> bool:  # noqa: D102
        return bool(self.sessions)

    def begin(self, system: System) -> None:  # noqa: D102
        self._fill(system)
        self.keep(system)

    def keep(self, system: System) -> None:  # noqa: D102
        # Again and again, as some get in meanwhile.
        on_postgres(system.store).run(f"select pg_terminate_backend(pid) {OTHERS}")
        self._fill(system)

    def _fill(self, system: System) -> None:
        from redisjobs_proof.torture.topology.session import Session

        with suppress(DriverError):
            while len(self.sessions) < self.MOST:
                self.sessions.append(Session(system.store.url))

    def end(self, system: System) -> None:  # noqa: D102
        self.detail = f"{len(self.sessions)} sessions"
        for session in self.sessions:
            session.close()


class _RowsFault(RecordFault):
    """It deletes rows about a worker. `tidy` finds its jobs; workers do that once a minute, here it comes soon."""

    releases_at_once = True
    tables: Sequence[str] = ("workers",)

    def harm(self, system: System, pid: int, worker: str) -> None:
        self.pids = [pid]
        for table in self.tables:
            on_postgres(self.store).run(
                f"delete from redisjobs.{table} where queue = %s and id = %s", self.store.queue.name, worker
            )

    def keep(self, system: System) -> None:
        if self.pids:
            self.store.tidy()


class DeleteWorkerRow(_RowsFault):
    """DELETE of a worker's row: from then on the worker is refused, and its jobs are handed back."""

    name = "worker deleted"

    def harm(self, system: System, pid: int, worker: str) -> None:  # noqa: D102
        super().harm(system, pid, worker)
        system.note("fenced", worker=worker, db=self.store.db)


class LoseWorkerRows(_RowsFault):
    """SIGKILL of a worker, and DELETE of all that is known about it."""

    name = "worker lost"
    tables = ("workers", "beats")

    def harm(self, system: System, pid: int, worker: str) -> None:  # noqa: D102
        system.fleet.victims.add(pid)
        os.kill(pid, signal.SIGKILL)
        super().harm(system, pid, worker)


class ForgetBeats(_RowsFault):
    """DELETE of what beats of a living worker changed: it is refused then, or the row comes again."""

    name = "beats deleted"
    tables = ("beats",)


class DatabaseAhead(SetClockAhead, PostgresFault):
    """The same on Postgres; only where we set up the database, as its functions are changed for that."""


class DatabaseBack(SetClockBack, PostgresFault):
    """The same, with the clock set back first."""
