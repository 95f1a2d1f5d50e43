"""A queue on a PostgreSQL server, as the torture looks at it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

from redisjobs.drivers.postgres.calls import change_call
from redisjobs.drivers.postgres.entries import given, new_job, text_of
from redisjobs.drivers.postgres.functions import installed_as
from redisjobs.drivers.postgres.notices import channel_of
from redisjobs.drivers.postgres.sync_connection import SyncConnection
from redisjobs.drivers.postgres.target import Target
from redisjobs.errors import DriverError
from redisjobs.model.changes import Change, GetStatus, JobStatus, Tidy
from redisjobs.model.job import Priority
from redisjobs.model.stored import ScheduleInfo
from redisjobs.model.transitions import MOST_JOBS, NewJob
from redisjobs_proof.torture.fleet.release import Release
from redisjobs_proof.torture.fleet.store import MARK, Fields, Letter, Store
from redisjobs_proof.torture.topology.session import Session

T = TypeVar("T")

_LONGEST_NOTICE = 7_900  # bytes

_PUT = """
insert into redisjobs.jobs (seq, queue, id, name, parameters, extra, rank, place, since_ms)
values (nextval('redisjobs.line'), %s, %s, %s, %s, %s::jsonb, %s, 'ready',
  floor(extract(epoch from clock_timestamp()) * 1000))
on conflict (queue, id) where place not in ('completed', 'cancelled') do nothing returning seq
"""

_CALLED = {"XREADGROUP": ["exchange"], "claim": ["read"], "BLOCK": ["read"], "settle": ["exchange"]}
"""The functions that do what these commands and scripts do on Redis, where they are called otherwise."""

_LEFT = {
    "the unique key {} of a job that is gone": """select u.key from redisjobs.uniques u
        where queue = %s and until_ms is null and not exists (select from redisjobs.jobs j
          where j.queue = u.queue and j.id = u.id and place not in ('completed', 'cancelled', 'dead'))""",
    "a share of a limit, of {}": "select id from redisjobs.shares where queue = %s",
    "a step of {}, which has ended": """select s.id from redisjobs.steps s where queue = %s and not exists (
        select from redisjobs.jobs j where j.queue = s.queue and j.id = s.id
        and place not in ('completed', 'cancelled'))""",
    "the group {} of children of a job that has ended": """select g.token from redisjobs.groups g where queue = %s
        and not exists (select from redisjobs.steps s
          where s.queue = g.queue and s.id = g.parent and s.value = g.token)""",
    "an outcome of a child of the group {}, which is gone": """select distinct c.token from redisjobs.children c
        where queue = %s and not exists (
          select from redisjobs.groups g where g.queue = c.queue and g.token = c.token)""",
    "a cancel of the children of the group {}": "select token from redisjobs.cancelling where queue = %s",
    "a process that waits for {}": "select id from redisjobs.waiters where queue = %s",
    "a rule: {}": """select kind || ' ' || name from redisjobs.rules
        where queue = %s and kind in ('queue', 'name', 'held')""",
    "a worker without a beat: {}": """select id from redisjobs.workers w where queue = %s
        and not exists (select from redisjobs.beats b where b.queue = w.queue and b.id = w.id)""",
    "a beat of no worker: {}": """select id from redisjobs.beats b where queue = %s
        and not exists (select from redisjobs.workers w where w.queue = b.queue and w.id = b.id)
        and not exists (select from redisjobs.fenced f where f.queue = b.queue and f.id = b.id)""",
}
"""What should be gone at the end, and the statement that finds it."""


class PostgresStore(Store):
    """One queue in one database of a PostgreSQL server; see `Store`.

    Args:
        admin: The URL of a role that may do everything. Defaults to `url`.
    """

    def __init__(self, url: str, queue: str, db: int = 0, admin: str = "") -> None:
        super().__init__(url, queue, db)
        self.admin = admin or url
        self._calls = SyncConnection(Target(self.admin), queue)
        self._session: Session | None = None

    def run(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a statement as a role that may do everything; return its rows."""
        if self._session is None:
            self._session = self.session()
        try:
            return self._session.run(statement, *values)
        except DriverError:
            self._session.close()
            self._session = None
            raise

    def session(self) -> Session:
        """Open another session as a role that may do everything."""
        return Session(self.admin)

    def connect(self) -> None:  # noqa: D102
        with suppress(DriverError):
            self.run("select")
        with suppress(DriverError):
            self._calls.ask(b"select")

    def time(self) -> datetime:  # noqa: D102
        ((now,),) = self.run("select clock_timestamp()")
        found: datetime = now
        return found.astimezone(UTC)

    def put(self, fields: Fields, rank: int = 1) -> bool:  # noqa: D102
        flat = [part for name, value in fields.items() if name != "id" for part in (name, value)]
        if (
            "name" not in fields
        ):  # a row always has a name: '' is one that no worker knows, and would wait for an hour
            flat += ["unknown_since", "1"]
        job = new_job(NewJob(text_of(fields["id"]), flat, Priority.NORMAL))
        return self.put_row(job["id"], job["name"], job["parameters"], json.dumps(job.get("extra")), rank)

    def put_row(self, job_id: str, name: str, parameters: str, extra: str, rank: int = 1) -> bool:
        """Add a row as it is; return False if a job has this id. `extra` is JSON."""
        added = self.run(_PUT, self.queue.name, job_id, name, parameters, None if extra == "null" else extra, rank)
        self.publish(b"ready ")
        return bool(added)

    def publish(self, message: bytes) -> None:  # noqa: D102
        said = message.decode("utf-8", "replace").replace("\0", " ")
        said = said.encode()[: _LONGEST_NOTICE // 2].decode("utf-8", "ignore")
        for payload in (said, "\t" + said.replace(" ", "\t", 1)):
            self.run("select pg_notify(%s, %s)", channel_of(self.queue.name), payload)

    # Workers

    def workers(self, pid: int) -> list[str]:  # noqa: D102
        ids = self.run("select id from redisjobs.workers where queue = %s", self.queue.name)
        return [worker for (worker,) in ids if f":{pid}:" in worker]

    def fenced(self) -> list[str]:  # noqa: D102
        return [
            worker for (worker,) in self.run("select id from redisjobs.fenced where queue = %s", self.queue.name)
        ]

    def tidy(self) -> None:  # noqa: D102
        self.run("delete from redisjobs.settings where queue = %s and name = 'tidied'", self.queue.name)
        tidied = self._do(Tidy())
        while tidied.after:
            tidied = self._do(Tidy(tidied.after))

    def set_clock(self, seconds: float) -> None:  # noqa: D102
        self.run("select setval('redisjobs_torture.clock', %s)", round(seconds * 1000))

    def wires(self, trigger: str, release: Release) -> list[bytes]:  # noqa: D102
        return [f"redisjobs.{name}_".encode() for name in _CALLED.get(trigger, [trigger])]

    def statuses(self, job_ids: Sequence[str]) -> dict[str, JobStatus]:  # noqa: D102
        ids, found = list(dict.fromkeys(job_ids)), dict[str, JobStatus]()
        for start in range(0, len(ids), MOST_JOBS):
            some = ids[start : start + MOST_JOBS]
            found |= zip(some, self._do(GetStatus(some)), strict=True)
        return found

    def _do(self, change: Change[T]) -> T:
        self.connect()
        return self._calls.run(change_call(change))

    # The end

    def letters(self) -> dict[str, Letter]:  # noqa: D102
        rows = self.run(
            "select seq, id, extra from redisjobs.jobs where queue = %s and place = 'dead'", self.queue.name
        )
        return {f"dead {seq}": _letter(job_id, extra) for seq, job_id, extra in rows}

    def located(self) -> dict[str, str]:  # noqa: D102
        rows = self.run(
            "select id, place, seq from redisjobs.jobs"
            " where queue = %s and place not in ('completed', 'cancelled')",
            self.queue.name,
        )
        return {given(job_id): f"dead {seq}" if place == "dead" else place for job_id, place, seq in rows}

    def left(self, schedules: Sequence[ScheduleInfo]) -> Iterator[str]:  # noqa: D102
        self.run(installed_as("select redisjobs_f._clear_keys(%s, 0)"), self.queue.name)  # as tidying does
        for what, statement in _LEFT.items():
            for (found,) in self.run(statement, self.queue.name):
                yield what.format(found)

    def remove(self) -> None:  # noqa: D102
        tables = self.run(
            "select table_name from information_schema.columns join information_schema.tables"
            " using (table_schema, table_name) where table_schema = 'redisjobs' and table_type = 'BASE TABLE'"
            " and column_name = 'queue'"
        )
        for (table,) in tables:
            self.run(f"delete from redisjobs.{table} where queue = %s", self.queue.name)

    def close(self) -> None:  # noqa: D102
        self._calls.close()
        if self._session is not None:
            self._session.close()
        super().close()


def _letter(job_id: str, extra: Any) -> Letter:
    fields: Mapping[str, Any] = extra if isinstance(extra, dict) else {}
    failed_at, deliveries = str(fields.get("failed_at", "")), str(fields.get("deliveries", ""))
    return Letter(
        given(job_id),
        str(fields.get("reason", "")),
        _mark_in(fields),
        int(failed_at) / 1000 if failed_at.isdecimal() else 0.0,
        int(deliveries) if deliveries.isdecimal() else 0,
        len(json.dumps(fields)),
    )


def _mark_in(fields: Mapping[str, Any]) -> str:
    if MARK in fields:
        return str(fields[MARK])
    try:
        return str(json.loads(fields.get("headers", "{}"))[MARK])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
