"""Faults of clients that do not read the answers of a PostgreSQL server: it waits until they do."""

import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from redisjobs.errors import DriverError
from redisjobs.model.codec import new_job_id
from redisjobs.model.job import Priority
from redisjobs_proof.torture.fleet import jobs
from redisjobs_proof.torture.nemesis.backends import PostgresFault, on_postgres
from redisjobs_proof.torture.nemesis.fault import System
from redisjobs_proof.torture.nemesis.processes import ProcessFault, send

if TYPE_CHECKING:
    from redisjobs_proof.torture.fleet.postgres_store import PostgresStore

_ASKING = r"""select count(distinct pid) from pg_stat_activity where wait_event_type = 'Lock'
  and datname = current_database() and query ~ 'redisjobs\.(exchange|read)_'"""
_WRITING = """select count(*) from pg_stat_activity
  where wait_event = 'ClientWrite' and state = 'active' and datname = current_database()"""
_ASKED_WITHIN = 3.0  # seconds
_LOOK = 0.05  # seconds


class FreezeAtClaim(ProcessFault, PostgresFault):
    """SIGSTOP of a worker that has asked for jobs, and whose answer is larger than the buffers of its socket.

    All others have to go on while the server can't write that answer. For this, jobs with large parameters come in
    a transaction that locks the table until all workers have asked.
    """

    name = "frozen at a claim"
    holds = 9.0
    alone = True  # other faults would end the session that waits
    JOBS, BYTES = 60, 300_000

    def prepare(self, system: System) -> None:  # noqa: D102
        pass

    def begin(self, system: System) -> None:  # noqa: D102
        self.writing = 0
        pid = system.fleet.some_pid(supervised=False)
        if pid is None:
            return
        found, self.silent = system.workers_of(pid)
        self.db, self.store = found.db, on_postgres(found)
        self.detail = f"process {pid}"
        with suppress(DriverError):
            self._freeze_between(system, pid)

    def _freeze_between(self, system: System, pid: int) -> None:
        """Stop a process after it has asked for jobs, and before it is answered."""
        queue, producer, session = self.store.queue, system.producer(self.store.db), self.store.session()
        heavy = jobs.Heavy("x" * self.BYTES)
        pushed = [queue.prepare(heavy, job_id=new_job_id(), priority=Priority.HIGH) for _ in range(self.JOBS)]
        producer.note_attempt(pushed)
        try:
            session.run("begin")
            told = queue.push_many(pushed, within=session.connection)
            session.run("set local lock_timeout = '1s'")
            session.run("lock table redisjobs.jobs in access exclusive mode")
            self._wait_until_all_ask(system)
            system.fleet.host_of(pid).frozen = True
            os.kill(pid, signal.SIGSTOP)
            self.pids = [pid]
            session.run("commit")
            producer.note_success(pushed, told, again=False)
        finally:
            session.close()

    def _wait_until_all_ask(self, system: System) -> None:
        workers = [pid for pid in system.fleet.pids() if system.fleet.host_of(pid).kind.db == self.db]
        until = time.monotonic() + _ASKED_WITHIN
        while _count(self.store, _ASKING) < len(workers) and time.monotonic() < until:
            time.sleep(_LOOK)

    def keep(self, system: System) -> None:  # noqa: D102
        if self.pids and not self.writing:
            self.writing = _count(self.store, _WRITING)

    def end(self, system: System) -> None:  # noqa: D102
        for pid in self.pids:
            send(pid, signal.SIGCONT)
        system.fleet.thaw()
        self.detail += ", the server waited for it" if self.writing else ", which had its answer"


def _count(store: "PostgresStore", statement: str) -> int:
    ((number,),) = store.run(statement)
    return int(number)
