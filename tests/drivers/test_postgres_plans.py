"""Plans: a call reads what it needs, whatever is in the tables, or was there when it was planned."""

import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import count
from typing import Any

import orjson
import psycopg
import pytest
from databases import Postgres

from redisjobs.drivers.postgres import driver as _registers_all_calls  # noqa: F401
from redisjobs.drivers.postgres import functions, pushes, working
from redisjobs.drivers.postgres.calls import Call, change_call, query_call
from redisjobs.model.changes import (
    Cancel,
    Delete,
    DeleteAll,
    GetStatus,
    Hold,
    Pause,
    Requeue,
    RequeueAll,
    Resume,
    SetLimit,
    Tidy,
    Unhold,
)
from redisjobs.model.children import CancelChildren, FindChildren
from redisjobs.model.job import Priority, State
from redisjobs.model.limits import Limit
from redisjobs.model.moving import FindRetention, FindTaken, ForgetTaken, Import, Take, Taken
from redisjobs.model.queries import (
    Find,
    FindLimits,
    FindPauses,
    FindWorkers,
    GetBacklog,
    GroupDead,
    Query,
    Row,
    Scan,
)
from redisjobs.model.steps import GetSteps, Signal
from redisjobs.model.transitions import (
    Ack,
    AddChildren,
    After,
    Group,
    Lease,
    NewJob,
    Release,
    Result,
    RetryLater,
    SaveStep,
    Settlement,
    Suspend,
    Turn,
    Wait,
    WaitsFor,
)

PLACES = ["ready", "parked", "line", "delayed", "suspended", "running", "dead", "completed"]
TABLES = [
    "jobs",
    "steps",
    "groups",
    "children",
    "cancelling",
    "uniques",
    "shares",
    "buckets",
    "waiters",
    "results",
    "progress",
    "beats",
    "workers",
    "fenced",
]
MANY = 20_000
DONE, GAVE_1 = Ack(), Ack(result=Result(0, b"1"))
NEWEST = f"0 -{10**15}"  # before all dead letters


@pytest.fixture
def admin(postgres: Postgres) -> Iterator[psycopg.Connection[Any]]:
    """A connection to a database of its own, in which nothing is vacuumed or analyzed but by the test."""
    with postgres.database() as url, closing(psycopg.connect(url, autocommit=True)) as connection:
        for table in TABLES:
            connection.execute(f"alter table redisjobs.{table} set (autovacuum_enabled = off)".encode())
        yield connection


class Session:
    """One connection, which plans each function once; it counts the entries and rows of jobs that calls read."""

    def __init__(self, admin: psycopg.Connection[Any]) -> None:
        self.admin = admin
        self.floors = working.Floors()
        self.turns = count(1)
        self.leases: Sequence[Lease] = ()

    def run(self, call: Call[Any]) -> tuple[Any, int]:
        """Return the answer, and how much was read of the jobs."""
        text = re.sub(r"\$\d+", "%s", functions.statement(call.function).decode())
        given = [each.decode() if isinstance(each, bytes) else each for each in call.arguments]
        with self.admin.transaction():
            before = self._read()
            *rows, (meta, *_) = self.admin.execute(text.encode(), ["q", None, *given]).fetchall()
            return call.parse(orjson.loads(meta), rows), self._read() - before

    def _read(self) -> int:
        return int(self.admin.execute(_READ).fetchall()[0][0])

    def ask(self, asked: Any) -> int:
        make = query_call if isinstance(asked, Query) else change_call
        return self.run(make(asked))[1]

    def push(self, many: int, *, by_id: bool = False, keys: bool = False) -> int:
        fields = ["name", "a", *(["nonce", "n"] if by_id else [])]
        ids = [secrets.token_hex(8) for _ in range(many)]
        jobs = [NewJob(job_id, fields, unique=job_id if keys else "") for job_id in ids]
        return self.run(pushes.push(jobs, repeated=False, sent_ms=time.time() * 1000))[1]

    def exchange(self, many: int = 100, settlement: Settlement = DONE, now: float = 0) -> int:
        turn, settled = Turn(0, next(self.turns)), [(lease, settlement) for lease in self.leases]
        done, read = self.run(working.exchange(self.floors, "w", turn, settled, many, 3, idle=False, now=now))
        self.leases = done.leases
        return read

    def add_children(self, many: int) -> int:
        """Add some children of one of its jobs."""
        token = secrets.token_hex(12)
        fields = ["name", "a", "child_of"]
        children = [NewJob(f"{token}-{n}", [*fields, f"{token} {n}"], Priority.HIGH) for n in range(many)]
        return self.note(AddChildren(Group(token, "all", many), children), self.leases[:1])

    def note(self, step: SaveStep | AddChildren, leases: Sequence[Lease] = ()) -> int:
        """Save a step of each of these jobs, else of all that it has."""
        settled = [(lease, step) for lease in leases or self.leases]
        call = working.exchange(self.floors, "w", Turn(0, next(self.turns)), settled, None, 3, idle=False, now=0)
        return self.run(call)[1]


_READ = """select sum(pg_stat_get_xact_tuples_returned(oid)) from pg_class
  where relnamespace = 'redisjobs'::regnamespace and relkind in ('r', 'i')"""

_FILL = """insert into redisjobs.jobs (seq, queue, id, rank, place, since_ms, due_ms, worker)
  select nextval('redisjobs.line'), 'q', place || number, 1, place, 0,
    case when place = 'delayed' or place = 'suspended' and number & 1 = 0 then 9e12 end,
    case place when 'running' then 'other' end
  from unnest(%s::text[]) place, generate_series(1, %s) number"""

_STEPS = """insert into redisjobs.steps (queue, id, key, at_ms)
  select 'q', place || number, '', 0 from unnest(%s::text[]) place, generate_series(1, %s) number"""

_CHILDREN = """with made as (
    insert into redisjobs.groups select 'q', 'token' || number, 'suspended' || number, 'all', 10000, 2
    from generate_series(1, %(many)s) number
  ), cancelled as (
    insert into redisjobs.cancelling select 'q', 'token' || number from generate_series(1, %(many)s) number
  )
  insert into redisjobs.children (queue, token, index, state)
  select 'q', 'token' || case when number < 10000 then 1 else number end, number, 'completed'
  from generate_series(1, %(many)s) number"""

_KEYS = """insert into redisjobs.uniques select 'q', 'key' || number, 'running' || number, 9e15
  from generate_series(1, %s) number"""


CALLS = [
    *(
        Find("dead1"),
        Cancel("delayed1"),
        Cancel("running1"),
        Hold("delayed2"),
        Unhold("delayed2"),
        Requeue("dead2"),
    ),
    *(Delete("dead3"), GetStatus(["running2", "none"]), GetStatus(["running2"], "p"), Tidy(), GetBacklog()),
    *(
        RequeueAll(),
        RequeueAll(after=NEWEST),
        DeleteAll(after=NEWEST),
        FindPauses(),
        FindWorkers(),
        FindLimits(),
        Pause("a"),
        Resume("a"),
    ),
    *(Scan(state, limit=10) for state in State if state != State.RUNNING),  # it sorts all that run
    *(
        GetSteps(["running2", "dead4", "none"]),
        Signal("suspended1", "go", b"1", "a"),
        Signal("ready1", "go", b"1", "b"),
    ),
    *(FindChildren("token1", 50, 500), FindChildren("token2", most=0), CancelChildren()),
    *(Cancel("suspended2"), Hold("suspended3"), Requeue("dead5", from_step="")),
    *(FindTaken(), FindTaken("5", limit=1), ForgetTaken(["1", "2"]), FindRetention()),
    Take(
        [Row(f"delayed{n}", State.DELAYED, Priority.NORMAL, "", 0, 0, "", 0, False, {}) for n in range(100, 150)]
    ),
]


def moved_in() -> Import:
    """Fifty jobs from a queue that none has come from yet."""
    source = secrets.token_hex(8)
    fields = [{b"id": f"{source}{n}".encode(), b"name": b"a"} for n in range(50)]
    for each in (*fields[::4], *fields[1::4]):  # those that wait
        each[b"unique"] = b"key of " + each[b"id"]
    states = [State.READY, State.DELAYED, State.DEAD, State.COMPLETED]
    jobs = [
        Taken(
            f"{n:02}",
            each[b"id"].decode(),
            states[n % 4],
            Priority.LOW,
            each,
            0,
            0,
            10**13 if n % 4 == 1 else None,
        )
        for n, each in enumerate(fields)
    ]
    return Import(source, jobs)


@pytest.mark.parametrize("limit", ["", Limit(max_concurrency=MANY).text])
@pytest.mark.parametrize("planned", ["empty", "full", "ready", "running", "completed"])
def test_a_call_reads_what_it_needs_whatever_was_there_when_it_was_planned(
    admin: psycopg.Connection[Any], planned: str, limit: str
) -> None:
    """A plan lasts until the next vacuum: a minute or more, in which a queue may fill or drain."""
    if planned != "empty":
        admin.execute(_KEYS, [MANY])
        admin.execute(_FILL, [PLACES if planned == "full" else [planned], MANY])
        admin.execute(_STEPS, [PLACES if planned == "full" else [planned], MANY])
        admin.execute(_CHILDREN, {"many": MANY})
    for table in TABLES:
        admin.execute(f"vacuum (analyze) redisjobs.{table}".encode())
    session = Session(admin)
    session.ask(SetLimit("a", limit))
    session.run(working.join("w", 1_000_000, "run"))
    for settlement in (Ack(), RetryLater(After(0)), Release()) * 2:
        session.exchange(3, settlement, now=next(session.turns) * 10)
        session.push(3)
        session.push(1, by_id=True)
        session.push(2, keys=True)
    session.add_children(3)
    session.exchange(3, Release())
    session.exchange(3, GAVE_1)
    for each in (*CALLS, moved_in()):
        session.ask(each)
    admin.execute("delete from redisjobs.jobs")
    admin.execute("delete from redisjobs.uniques")
    admin.execute(_FILL, [PLACES[1:], MANY])
    admin.execute(_KEYS, [MANY])
    admin.execute("delete from redisjobs.steps")
    admin.execute(_STEPS, [PLACES[1:], MANY])
    for table in ("groups", "children", "cancelling"):
        admin.execute(f"delete from redisjobs.{table}".encode())
    admin.execute(_CHILDREN, {"many": MANY})
    session.push(1)
    session.exchange()
    for each in (*CALLS, moved_in()):  # once past what was deleted
        session.ask(each)
    read = {
        "push": session.push(500),
        "push by id": session.push(100, by_id=True),
        "push with keys": session.push(100, keys=True),
        "claim": session.exchange(),
        "ack": session.exchange(),
        "move floors": session.exchange(now=1e6),
        "retry": session.exchange(settlement=RetryLater(After(0))),
        "release": session.exchange(settlement=Release()),
        "claim again": session.exchange(),
        "save": session.note(SaveStep("charge", 1, b"1")),
        "save again": session.note(SaveStep("mail", 2, b"1")),
        "suspend": session.exchange(settlement=Suspend(Wait(3, WaitsFor.TIME, "sleep"), After(1))),
        "wake": session.exchange(now=2e6),
        "wait for a signal": session.exchange(settlement=Suspend(Wait(4, WaitsFor.SIGNAL, "go"))),
        "add children": session.add_children(100),
        "claim children": session.exchange(settlement=Release()),
        "end children": session.exchange(settlement=GAVE_1),
    }
    read |= {str(each)[:100]: session.ask(each) for each in CALLS}
    read["import"] = session.ask(moved_in())
    assert {call: many for call, many in read.items() if many > 3000} == {}


_KINDS = """insert into redisjobs.jobs (seq, queue, id, rank, place, since_ms, kind)
  select nextval('redisjobs.line'), 'q', 'dead' || number, 1, 'dead', 0, 'kind' || number
  from generate_series(1, %s) number"""


@pytest.mark.parametrize("planned", ["empty", "full"])
def test_a_step_of_kinds_of_failure_reads_its_own_kinds_alone(
    admin: psycopg.Connection[Any], planned: str
) -> None:
    session, made = Session(admin), MANY if planned == "full" else 0
    admin.execute(_KINDS, [made])
    admin.execute("vacuum (analyze) redisjobs.jobs")
    session.ask(GroupDead())
    session.ask(GroupDead("=kind1"))
    admin.execute("delete from redisjobs.jobs")
    admin.execute(_KINDS, [MANY])

    step, read = session.run(query_call(GroupDead()))
    assert len(step.groups) == 50
    assert max(read, session.ask(GroupDead(step.after)), session.ask(GroupDead("=kind9"))) < 1_500
