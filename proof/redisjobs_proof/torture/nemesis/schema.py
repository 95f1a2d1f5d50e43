"""Faults of a database: migrations, releases side by side, maintenance, and rows that no release wrote."""

from contextlib import suppress

from redisjobs.errors import DriverError
from redisjobs.model.codec import new_job_id
from redisjobs_proof.torture.nemesis.backends import PostgresFault, on_postgres
from redisjobs_proof.torture.nemesis.fault import Fault, System
from redisjobs_proof.torture.nemesis.processes import UpgradeInPlace

_MAINTENANCE = (
    "vacuum full redisjobs.jobs",
    "vacuum (analyze) redisjobs.jobs",
    "vacuum full redisjobs.beats",
    "analyze",
    "reindex table concurrently redisjobs.jobs",
    "reindex table redisjobs.uniques",
    "checkpoint",
)
_INVALID = """select indexrelid::regclass::text from pg_index
where not indisvalid and indexrelid::regclass::text ~ '_ccnew'"""

_WORK = '{"seconds": 0.001}'
_ROWS = (
    ("Work", _WORK, "[1, 2]"),
    ("Work", _WORK, '"text"'),
    ("Work", _WORK, "5"),
    ("Work", _WORK, '{"attempt": {"a": 1}, "expires_at": [], "queued_at": null}'),
    ("Flaky", '{"until": 2}', '{"attempt": [], "keep_result": {"a": 1}, "headers": 7}'),
    ("Flaky", '{"until": 2}', "[]"),
    ("Hopeless", "{}", "true"),
    ("Work", "{", "{}"),
    ("Work", "no JSON", "null"),
    ("Work", "", "null"),
    ("Unknown", "{}", '{"unknown_since": "1"}'),
    ("", "{}", '{"unknown_since": "1"}'),
)
"""Names, parameters and extra fields of rows that a person may write by SQL."""


class PutRows(Fault):
    """Rows that no push has added: fields that are no object, parameters that are no JSON, unknown names."""

    name = "malformed rows"
    holds = 1.0

    def begin(self, system: System) -> None:  # noqa: D102
        store = on_postgres(system.some_store())
        for name, parameters, extra in system.rng.sample(_ROWS, len(_ROWS)):
            job = f"row-{new_job_id()}"
            with suppress(DriverError):  # the table takes no fields that are no object
                store.put_row(job, name, parameters, extra, system.rng.randrange(3))
                system.note("external", job=job, db=store.db, pushed=False)
                self.jobs.append(job)
        self.detail = f"{len(self.jobs)} rows of {len(_ROWS)}"


class Migrate(PostgresFault):
    """The database is migrated again and again, as each host does that starts."""

    name = "migrated again"
    holds = 2.0

    def begin(self, system: System) -> None:  # noqa: D102
        self.keep(system)

    def keep(self, system: System) -> None:  # noqa: D102
        system.fleet.migrate(system.rng.choice(system.stores).url)


class AddColumn(PostgresFault):
    """A migration of a later release adds a column to the jobs; it waits for no lock, and tries again."""

    name = "column added"
    holds = 0.5

    def begin(self, system: System) -> None:  # noqa: D102
        self.store = on_postgres(system.some_store())
        self.column = f"torture_{system.rng.randrange(1_000_000)}"
        self.db = self.store.db
        with suppress(DriverError):
            self.keep(system)

    def keep(self, system: System) -> None:  # noqa: D102
        if not self.happened:
            self.store.run("set lock_timeout = '100ms'")
            self.store.run(f"alter table redisjobs.jobs add column if not exists {self.column} integer")
            self.store.run("reset lock_timeout")
            self.detail = self.column

    @property
    def happened(self) -> bool:  # noqa: D102
        return bool(self.detail)


class TwoReleases(UpgradeInPlace, PostgresFault):
    """A release with other functions is installed beside the running one; then one host goes over to it."""

    name = "two releases"

    def begin(self, system: System) -> None:  # noqa: D102
        host = system.fleet.some_host()
        if host is None:
            return
        next_one = system.fleet.release.changed()
        for store in system.stores:
            system.fleet.migrate(store.url, next_one)
        system.fleet.release.take_functions(next_one)
        self.pids = system.fleet.members(host)
        system.fleet.stop(host)
        self.detail = f"process {host.process.pid} is stopped"


class Maintain(PostgresFault):
    """VACUUM FULL, ANALYZE, REINDEX and the like, one after the other."""

    name = "maintenance"
    holds = 2.0
    unsteady = True  # a beat may wait for its table

    def begin(self, system: System) -> None:  # noqa: D102
        self.store = on_postgres(system.some_store())
        self.db, self.left = self.store.db, system.rng.sample(_MAINTENANCE, len(_MAINTENANCE))
        self.detail = f"{len(self.left)} statements"
        with suppress(DriverError):
            self.keep(system)

    def keep(self, system: System) -> None:  # noqa: D102
        if self.left:
            statement = self.left.pop()
            self.store.run("set lock_timeout = '500ms'")
            self.store.run("set statement_timeout = '2s'")  # REINDEX waits for a snapshot that another fault holds
            self.store.run(statement)
            self.store.run("set statement_timeout = 0")

    def end(self, system: System) -> None:  # noqa: D102
        def clean() -> bool:
            self.store.run("set statement_timeout = 0")
            for (index,) in self.store.run(_INVALID):
                self.store.run(f"drop index {index}")
            return True

        system.late.append(clean)
        system.tend()
