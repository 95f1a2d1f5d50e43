"""Faults made by sessions of other applications in the queue's database: what they hold, and what they block."""

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from redisjobs.errors import DriverError
from redisjobs_proof.torture.fleet.mix import a_job
from redisjobs_proof.torture.fleet.store import through
from redisjobs_proof.torture.nemesis.backends import OTHERS, PostgresFault, on_postgres
from redisjobs_proof.torture.nemesis.fault import System

if TYPE_CHECKING:
    from redisjobs_proof.torture.fleet.postgres_store import PostgresStore
    from redisjobs_proof.torture.topology.session import Session

_SHARED = 10  # transactions that look at their isolation, one after the other
_FENCES = "select proname from pg_proc where pronamespace = 'redisjobs'::regnamespace and proname ~ '^reclaim_'"

_ROWS = (
    ("jobs", "and place = 'running' order by seq"),
    ("jobs", "and place = 'ready' order by seq"),
    ("beats", "order by id"),
)
"""What deadlocks are made with: a table, and which rows in which order, turned round."""


class HoldSnapshot(PostgresFault):
    """A REPEATABLE READ transaction stays open, for a minute or until all faults are over.

    No row that is deleted meanwhile can be vacuumed, and no table that it has read can be truncated.
    """

    name = "snapshot held"
    holds = 0.2
    SECONDS = 60.0

    def begin(self, system: System) -> None:  # noqa: D102
        store = on_postgres(system.some_store())
        self.db, session = store.db, store.session()
        system.stack.callback(session.close)
        session.run("begin isolation level repeatable read")
        session.run("select count(*) from redisjobs.ledger, redisjobs.turns")
        until = time.monotonic() + self.SECONDS

        def let_go() -> bool:
            if time.monotonic() < until and not system.over:
                return False
            session.close()
            return True

        system.late.append(let_go)


class LeaveTransactionOpen(PostgresFault):
    """An application pushes jobs in a transaction, some with keys that others use, and stays in it for seconds.

    So other jobs, later in line, are there before them. Then it commits, or sometimes rolls back.
    """

    name = "push left open"
    holds = 0.2
    JOBS, SECONDS = 30, 6.0

    def begin(self, system: System) -> None:  # noqa: D102
        store = on_postgres(system.some_store())
        self.db, session, producer = store.db, store.session(), system.producer(store.db)
        system.stack.callback(session.close)
        jobs = [a_job(store.queue, system.rng) for _ in range(self.JOBS)]
        until = time.monotonic() + system.rng.uniform(0, self.SECONDS)
        how = system.rng.choice(("commit", "commit", "commit", "rollback"))
        self.detail = f"{len(jobs)} jobs, {how}"
        producer.note_attempt(jobs)
        session.run("begin")
        told = store.queue.push_many(jobs, within=session.connection)

        def end() -> bool:
            if time.monotonic() < until and not system.over:
                return False
            with suppress(DriverError):  # the server may have ended the session
                session.run(how)
                if how == "commit":
                    producer.note_success(jobs, told, again=False)
            session.close()
            return True

        system.late.append(end)


class LockInDisorder(PostgresFault):
    """Sessions lock the queue, and rows and keys of it, in another order than our functions: deadlocks.

    The server ends one of the two transactions after a second.
    """

    name = "deadlocks"
    holds = 3.0
    unsteady = True  # the row that a beat waits for may be locked

    def begin(self, system: System) -> None:  # noqa: D102
        self.store = on_postgres(system.some_store())
        self.db, self.rounds, self.deadlocks = self.store.db, 0, 0
        self.before = _deadlocks(self.store)
        self.keep(system)

    def keep(self, system: System) -> None:  # noqa: D102
        session = self.store.session()
        queue = self.store.queue.name
        table, which = system.rng.choice(_ROWS)
        rows = f"select from redisjobs.{table} where queue = %s {which} desc limit 20 for update"
        try:
            session.run("begin")
            session.run("set local lock_timeout = '1500ms'")
            session.run(rows, queue)
            session.run("select pg_advisory_xact_lock(hashtextextended('redisjobs queue ' || %s, 0))", queue)
            session.run("select from redisjobs.uniques where queue = %s order by key desc for update", queue)
        except DriverError:
            pass  # it was the one that the server ended
        finally:
            with suppress(DriverError):
                session.run("rollback")  # a close alone lets the locks go a moment later
            session.close()
        self.rounds += 1

    def end(self, system: System) -> None:  # noqa: D102
        with suppress(DriverError):
            self.deadlocks = _deadlocks(self.store) - self.before
        self.detail = f"{self.rounds} rounds, {self.deadlocks} deadlocks"


def _deadlocks(store: "PostgresStore") -> int:
    ((number,),) = store.run("select deadlocks from pg_stat_database where datname = current_database()")
    return int(number)


class RaiseIsolation(PostgresFault):
    """The database's default isolation is SERIALIZABLE, as some have it: serialization failures.

    Behind a pooler an application has it as well, though it shares its sessions with redisjobs.
    """

    name = "serializable"
    holds = 2.0
    recovery = "workers"
    unsteady = True

    def begin(self, system: System) -> None:  # noqa: D102
        self.store, self.strange = on_postgres(system.some_store()), ""
        self.db = self.store.db
        self._set("set default_transaction_isolation = 'serializable'")

    def keep(self, system: System) -> None:  # noqa: D102
        if system.pooler is None or self.strange:
            return
        from redisjobs_proof.torture.topology.session import Session

        session = Session(through(self.store.url, system.pooler.port))
        try:
            self.strange = self._other_isolation(session)
        finally:
            session.close()
        if self.strange:
            text = f"a transaction of an application behind the pooler is {self.strange}, not serializable"
            system.note("found", text=text)

    def _other_isolation(self, session: "Session") -> str:
        """Return the isolation that an application gets in some session which it shares; '' if it is its own."""
        for _ in range(_SHARED):
            ((isolation,),) = session.run("select current_setting('transaction_isolation')")
            if isolation != "serializable":
                return str(isolation)
        return ""

    def end(self, system: System) -> None:  # noqa: D102
        def undo() -> bool:
            self._set("reset default_transaction_isolation")
            return True

        system.late.append(undo)
        system.tend()

    def _set(self, what: str) -> None:
        ((name,),) = self.store.run("select current_database()")
        self.store.run(f"alter database {name} {what}")
        self.store.run(f"select pg_terminate_backend(pid) {OTHERS} and datname = current_database()")


class IdleAtFence(PostgresFault):
    """A session fences a living worker and stays in its transaction, until the server ends it for being idle.

    So nothing of the fence may be seen: no job may be started again, and that worker goes on.
    """

    name = "idle at a fence"
    holds = 1.2
    unsteady = True
    IDLE_MS = 700

    def begin(self, system: System) -> None:  # noqa: D102
        store = on_postgres(system.some_store())
        self.db, queue = store.db, store.queue.name
        session = store.session()
        system.stack.callback(session.close)
        session.run(f"set idle_in_transaction_session_timeout = {self.IDLE_MS}")
        self._fence(session, queue)

    def _fence(self, session: "Session", queue: str) -> None:
        names = session.run(_FENCES)
        session.run("begin")
        session.run("select pg_advisory_xact_lock(hashtextextended('redisjobs queue ' || %s, 0))", queue)
        alive = session.run(
            "select id, until_ms from redisjobs.beats join redisjobs.workers using (queue, id) where queue = %s"
            " order by until_ms for update of beats",
            queue,
        )
        if len(alive) > 1:
            (one, until_ms), (by, _) = alive[:2]
            call = f"select redisjobs.{names[0][0]}(%s, null, %s, array[%s], array[%s]::bigint[], true)"
            ((answer,),) = session.run(call, queue, by, one, until_ms)
            self.detail = f"{one}: {answer}"

    @property
    def happened(self) -> bool:  # noqa: D102
        return bool(self.detail)
