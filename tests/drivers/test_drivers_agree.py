"""Memory and a server do the same verbs, at random: they have to agree on every reply and state, and with a model.

The model is plain: which jobs are on the queue and which are over, who holds which lease, who was fenced, and how
often each thing was done. Workers stall, come back, are fenced between any two calls, and send again what had no
answer.
"""

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar, cast

import anyio.from_thread
import pytest
import redis
from anyio.from_thread import BlockingPortal
from databases import Postgres
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from postgres_store import PostgresStore
from store import Heart, MemoryStore, RedisStore, Store

from conftest import ENGINES, Servers
from redisjobs.drivers.memory.ends import trim
from redisjobs.drivers.redis import scripts
from redisjobs.errors import DriverError
from redisjobs.model.changes import (
    AskWorker,
    BulkResult,
    Cancel,
    Change,
    Declare,
    Delete,
    DeleteAll,
    Ending,
    GetStatus,
    Hold,
    Pause,
    Requeue,
    RequeueAll,
    Resume,
    Retain,
    SetLimit,
    Tidy,
    Unhold,
    Unpark,
    Wish,
)
from redisjobs.model.children import CancelChildren, FindChildren
from redisjobs.model.driver import Consumer, Driver, Fenced
from redisjobs.model.job import WAITING, OnConflict, Priority, State
from redisjobs.model.queries import Count, Filter, Find, FindLimits, FindPauses, GetBacklog, GroupDead, Row, Scan
from redisjobs.model.recording import FindIntervals, Record
from redisjobs.model.retention import DEFAULT, Keep, Retention
from redisjobs.model.steps import GetSteps, Signal, key_of
from redisjobs.model.transitions import (
    Ack,
    AddChildren,
    After,
    DeadLetter,
    Ended,
    Group,
    Lease,
    NewJob,
    Reclaimed,
    Release,
    Reply,
    ReportProgress,
    Result,
    RetryLater,
    SaveStep,
    Settlement,
    Silent,
    Suspend,
    Turn,
    Wait,
    WaitsFor,
)
from redisjobs.model.why import Ahead
from redisjobs_proof.contract.acts import rows_of

T = TypeVar("T")

Held = tuple[str, tuple[Lease, Lease]]  # whose it is, and what memory and the server gave

WORKERS = ("w1", "w2", "w3")
LEASE = 1000.0  # seconds: no example is so long, so that leases run out only when they are made to
LONGEST = 50  # seconds an example lasts by the set clock: a job that ended is remembered for a minute
SCRIPTS = scripts.names()
PAUSED = ("", "Work", "Other")  # the queue, and names
HOUR = 3_600_000  # ms for which results are kept: by its own clock, so none ends in an example
RULES = ("", "max_concurrency=1", "max_concurrency=2", "rate=2/m burst=2", "max_concurrency=2 rate=2/m burst=3")
"""Limits; a rate is slow, as a server lets what it knows of one expire by its own clock."""

AGAIN = {"attempt": "2", "error": "é"}
KIND = "0123456789ab"
LATER = After(9000)  # `later` makes a time of its own of it
CHANGES: dict[str, Callable[[str, After], Change[Reply]]] = {
    "cancel": lambda job_id, due: Cancel(job_id),
    "requeue": lambda job_id, due: Requeue(job_id),
    "requeue later": lambda job_id, due: Requeue(job_id, due, ended=True),
    "edit": lambda job_id, due: Requeue(job_id, parameters=b'{"edited":true}'),
    "delete": lambda job_id, due: Delete(job_id),
    "requeue from a step": lambda job_id, due: Requeue(job_id, from_step="one"),
    "requeue from the start": lambda job_id, due: Requeue(job_id, ended=True, from_step=""),
}

COUNTERS = {
    "cancel": "cancelled",
    "requeue": "requeued",
    "requeue later": "requeued",
    "edit": "requeued",
    "delete": "deleted",
    "requeue from a step": "requeued",
    "requeue from the start": "requeued",
}

WANTED = [Filter(fingerprint=KIND), Filter(fingerprint="failed"), Filter(fingerprint="worker lost")]

LIVE = (State.READY, State.RUNNING, State.DELAYED, State.SUSPENDED, State.DEAD)
RETENTIONS = [
    Retention(),
    Retention(completed=Keep(), cancelled=Keep()),
    Retention(completed=Keep(), dead=Keep(count=2)),
]
"""By number alone: of age each store has a clock of its own. Jobs that end at once have no order."""

workers = st.sampled_from(WORKERS)
picks = st.lists(st.integers(-3, 9), min_size=1, max_size=6)  # below 0: a lease of earlier
new_jobs = st.fixed_dictionaries(
    {
        "job_id": st.sampled_from("abcdefghijklmnop"),
        "name": st.sampled_from(["Work", "Work", "Other"]),
        "key": st.sampled_from(["", "", "x y"]),
        "priority": st.sampled_from(Priority),
        "delay": st.sampled_from([None, None, None, 0, 5, 20]),
        "unique": st.sampled_from(["", "", "k", "l m"]),
        "unique_for_ms": st.sampled_from([None, None, 3_600_000]),
        "unique_until": st.sampled_from([[], [], ["unique_until", "start"]]),
        "on_conflict": st.sampled_from(
            [OnConflict.SKIP, OnConflict.REPLACE, OnConflict.REPLACE, OnConflict.RAISE]
        ),
        "expires_in_ms": st.sampled_from([None, 9000]),
        "keep_result": st.sampled_from([None, None, 0, HOUR]),
    }
)
new_batch = st.lists(new_jobs, min_size=3, max_size=8, unique_by=lambda options: options["job_id"])
settlements = st.sampled_from(
    [
        *[Ack(), Ack(), Ack(cancelled=True), Release(), DeadLetter("failed", "ValueError: no", "a trace")],
        DeadLetter("failed", "KeyError: 1", "a trace", "KeyError", KIND),
        Release(refund=False),
        RetryLater(After(0), AGAIN),
        RetryLater(LATER, {"attempt": "", "headers": "{}"}),
        RetryLater(LATER, {"keep_result": str(HOUR)}),
        Ack(result=Result(HOUR, b"5")),
        Ack(result=Result(HOUR, refused="too large")),
        Ack(cancelled=True, result=Result(HOUR)),
        Ack(reported=True),
        DeadLetter("failed", "ValueError: no", reported=True),
        ReportProgress(b'{"fraction":0.5}'),
        *(
            SaveStep("one", 1, b"1"),
            SaveStep("one", 2, b"2"),
            SaveStep("two", 3, b'"x"', 2),
            SaveStep("", 0, b"5"),
        ),
        Suspend(Wait(4, WaitsFor.TIME, "sleep"), LATER, {"started_at": "5", "error": ""}),
        Suspend(Wait(5, WaitsFor.TIME, "nap"), After(0), version=3),
        Suspend(Wait(6, WaitsFor.SIGNAL, "go"), None),
        Suspend(Wait(7, WaitsFor.SIGNAL, "go#2"), LATER),
    ]
)

sums = st.dictionaries(st.sampled_from(["completed", "dead", "run5", "waitmore"]), st.integers(1, 99), min_size=1)
lanes = st.integers(1, 2)
several_settlements = st.lists(settlements, min_size=6, max_size=6)


@dataclass
class Sent:
    """A batch that was settled, and might be sent again.

    Attributes:
        turn: By what the store knows it.
        settlements: For memory, and for the server.
        replies: What it was answered.
    """

    turn: Turn
    settlements: tuple[list[tuple[Lease, Settlement]], list[tuple[Lease, Settlement]]]
    replies: list[Reply]


@dataclass
class Claimed:
    """What an exchange settled, and claims brought until there was no more to have, or enough."""

    replies: list[Reply]
    leases: list[Lease]
    ended: list[Ended]
    waits: bool
    added: dict[int, list[bool]] = field(default_factory=dict)


def token(worker: str, lease: Lease) -> tuple[str, str, int, str]:
    """What proves that a worker holds a job."""
    return worker, lease.key, lease.deliveries, lease.job_id


class Side:
    """One of the two: its store, and its workers."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.consumers: dict[str, Consumer] = {}

    async def open(self) -> None:
        for worker in WORKERS:
            self.consumers[worker] = self.store.consumer(worker, lease=LEASE, max_deliveries=2)
            await self.consumers[worker].open()

    async def aclose(self) -> None:
        for worker in WORKERS:
            await self.consumers[worker].aclose()
        await self.store.driver.aclose()

    def beat(self, worker: str, held: Sequence[Lease]) -> tuple[list[str], Wish | None] | None:
        """The ids of these jobs that are to be cancelled, and what is asked of it; None: the worker is fenced."""
        heart = Heart(self.consumers[worker])
        try:
            return sorted(lease.job_id for lease in heart.beat(lambda: held, {})), heart.wish
        except Fenced:
            return None
        finally:
            heart.close()

    async def claim(
        self,
        worker: str,
        count: int,
        *,
        idle: bool,
        settlements: Sequence[tuple[Lease, Settlement]] = (),
        turn: Turn | None = None,
    ) -> Claimed:
        """All that memory brings in one exchange, a server may bring in several."""
        claimed, consumer = Claimed([], [], [], False), self.consumers[worker]
        while True:
            asks, left = idle and not claimed.leases, count - len(claimed.leases)
            answer = await consumer.exchange(settlements, left, turn=turn, idle=asks)
            claimed.replies += answer.replies
            settlements = []
            claimed.leases += answer.leases
            claimed.ended += answer.ended
            claimed.waits = claimed.waits or answer.waits is not None
            runs_alone = asks and any(lease.deliveries > 1 for lease in answer.leases)
            if runs_alone or len(claimed.leases) >= count or not answer.more:
                return claimed

    def look_again(self, *, forget: Sequence[str] = ()) -> None:
        """Let it be time to look at those who were fenced, and for some of them to be forgotten by that look."""
        if isinstance(self.store, MemoryStore):
            for worker_id in forget:
                if worker_id in self.store.memory.fenced:
                    self.store.memory.fenced[worker_id].until = 0.0
            return
        if isinstance(self.store, PostgresStore):
            self.store.rows(
                "update redisjobs.fenced set until_ms = 0 where queue = %s and id = any (%s) returning id",
                [*forget],
            )
            return
        assert isinstance(self.store, RedisStore)
        admin, prefix = self.store.admin, self.store.prefix
        for worker_id, _ in admin.zrange(f"{prefix}fenced", 0, -1, withscores=True):
            admin.zadd(f"{prefix}fenced", {worker_id: self.store.clock()})
            if worker_id.decode() in forget:
                admin.hset(f"{prefix}worker:{worker_id.decode()}", "watched_until", 0)

    def waiters(self) -> dict[str, list[str]]:
        """Who waits for which job, in any order."""
        if isinstance(self.store, MemoryStore):
            jobs = self.store.memory.jobs.values()
            return {job.id: sorted(job.processes) for job in jobs if job.processes}
        if isinstance(self.store, PostgresStore):
            noted_rows = self.store.rows("select id, process from redisjobs.waiters where queue = %s")
            return {job_id: [each for of, each in noted_rows if of == job_id] for job_id, _ in noted_rows}
        assert isinstance(self.store, RedisStore)
        noted = self.store.admin.hgetall(f"{self.store.prefix}waiters")
        return {job_id.decode(): sorted(processes.decode().split()) for job_id, processes in noted.items()}

    def _fields(self, row: Lease | Row) -> dict[bytes, bytes]:
        # A time of push that is read from an entry id, and how long a run took, are the store's own.
        known = {**row.fields, b"queued_at": b"known" if b"queued_at" in row.fields else b""}
        if b"ran_ms" in known:
            known[b"ran_ms"] = b"known"
        known.pop(b"history", None)  # a store may keep it apart, and the row has it anyhow
        # Rows are sorted by their text. An empty field is as good as none.
        return {name: value for name, value in sorted(known.items()) if value}

    def lease(self, lease: Lease, *, but: bytes = b"") -> object:
        """What a worker learns of a job, but for one field."""
        fields = {name: value for name, value in lease.fields.items() if name != but}
        return lease.job_id, lease.rank, lease.deliveries, self._fields(replace(lease, fields=fields))

    def row(self, row: Row) -> Any:
        # Redis does not change an entry: the next lease has it.
        row = replace(row, fields={name: value for name, value in row.fields.items() if name != b"steps"})
        history = re.sub(r"(?m)^\d+ ", "", row.history)
        if row.state not in LIVE:  # its id may be another job's by now
            return row.fields[b"id"].decode(), (row.state, row.priority, history), self._fields(row)
        where = row.state, row.priority, row.due_ms, row.worker, row.deliveries, row.cancelling, row.held
        return row.job_id, (*where, row.why_waiting, row.progress, history), self._fields(row)

    async def groups(self) -> list[Any]:
        step = await self.store.driver.read(GroupDead())
        return [(group.fingerprint, group.count, group.names, group.job_id, group.error) for group in step.groups]


async def scan(driver: Driver, state: State) -> list[Row]:
    """All jobs of a state, in steps of two."""
    step = await driver.read(Scan(state, limit=2))
    rows = list(step.rows)
    while step.after:
        step = await driver.read(Scan(state, after=step.after, limit=2))
        rows += step.rows
    return rows


class TwoDrivers(RuleBasedStateMachine):
    """Does everything to both, and remembers what must be true of either."""

    portal: BlockingPortal
    make: Callable[[], RedisStore | PostgresStore]

    def __init__(self) -> None:
        super().__init__()
        self.other = self.make()
        self.sides = (Side(MemoryStore(self.other.queue_name)), Side(self.other))
        now_ms = self.other.clock()
        for side in self.sides:
            side.store.clock.set_to = now_ms
            self.portal.call(side.open)
        if isinstance(self.other, RedisStore):
            for name in SCRIPTS:  # one that is missing would run after others of its round trip
                self.other.admin.script_load(scripts.script(name).source)
            self.other.admin.script_load(scripts.script("settle").careful.source)
        self.ids = {worker: worker for worker in WORKERS}  # under which each goes on
        self.starts = len(WORKERS)
        self.fenced: set[str] = set()  # ids
        self.wishes: dict[str, Wish] = {}  # by id: what was asked last of the worker
        self.silent: set[str] = set()  # ids of those whose lease is over, and who are not fenced yet
        self.sent: dict[tuple[str, int], list[Sent]] = {}  # by worker and lane, the last one last
        self.turns = 0
        self.jobs = [0, 0]  # that memory, and the server, have handed back of those who were fenced
        self.held: dict[str, Held] = {}  # by place: the last lease of each job that was given out, by whose id
        self.stale: list[Held] = []  # those before them, and those that were settled
        self.gone: set[str] = set()  # places that no job has any more
        self.names = list("abcdefghijklmnop")
        self.there: dict[str, State] = {}  # as of the last look
        self.looks = 0
        self.passed = 0
        self.dues = self.pushes = 0
        self.replaced: set[tuple[str, str]] = set()  # pushes that have replaced a job
        self.pushed: set[str] = set()  # ids that are on the queue, but for those asked to be cancelled
        self.restricted = self.to_unpark = False  # some jobs may not start; some may again, and are parked
        self.limited = False  # a limit was set
        self.running: Counter[str] = Counter()  # jobs under a limit, as of the last look
        self.over: set[str] = set()  # jobs that ended, and were not pushed again
        self.done: Counter[str] = Counter()  # what was done how often, as the replies said
        self.stepped: set[str] = set()  # ids of jobs that may have saved steps
        self.families: dict[str, tuple[Group, list[NewJob]]] = {}  # groups of children, by token
        self.was_held = False  # whether any job was held, or let go on
        self.signals = 0
        self.cancelled_suspended = 0
        self.retention = DEFAULT
        self.kept: Counter[str] = Counter()  # jobs that have ended and are kept, by state
        self.revived = self.deleted_dead = self.requeued_dead = self.trimmed_dead = 0

    def teardown(self) -> None:
        faults = self.other.faults()
        for side in self.sides:
            self.portal.call(side.aclose)
        self.other.end()
        assert faults == []

    # How both are asked

    def ask(self, what: Callable[[Side], Awaitable[T]]) -> tuple[T, T]:
        async def both() -> tuple[T, T]:
            return await what(self.sides[0]), await what(self.sides[1])

        return self.portal.call(both)

    def agree(self, what: Callable[[Side], Awaitable[T]]) -> T:
        memory, other = self.ask(what)
        assert memory == other
        return memory

    def take(self, worker: str, given: tuple[Sequence[Lease], Sequence[Lease]]) -> None:
        """Both gave the same jobs to this worker."""
        memory, other = (
            [side.lease(lease) for lease in leases] for side, leases in zip(self.sides, given, strict=True)
        )
        assert memory == other
        for pair in zip(*given, strict=True):
            self.retire(pair[0].key)
            self.held[pair[0].key] = self.ids[worker], pair

    def ended(self, ends: tuple[Sequence[Ended], Sequence[Ended]]) -> None:
        """Both ended the same jobs instead of delivering them."""
        assert ends[0] == ends[1]
        for name, reply in ends[0]:
            if reply is Reply.CANCELLED:
                self.finished("cancelled", name)
            else:
                self.done["dead"] += 1

    def lose_all(self, worker_id: str) -> None:
        """Nothing is this worker's any more."""
        for place, (owner, _) in list(self.held.items()):
            if owner == worker_id:
                self.retire(place)

    def living(self) -> list[str]:
        return [worker for worker in WORKERS if self.ids[worker] not in self.fenced]

    def unless_fenced(self, worker: str, what: Callable[[Side], Awaitable[T]]) -> tuple[T, T] | None:
        """What both answer; None: both refuse, and so they must, as the worker was fenced."""

        async def do(side: Side) -> T | None:
            try:
                return await what(side)
            except Fenced as error:
                if error.worker_id != self.ids[worker]:
                    raise
                return None

        memory, other = self.ask(do)
        is_fenced = self.ids[worker] in self.fenced
        assert (memory is None, other is None) == (is_fenced, is_fenced)
        return None if memory is None or other is None else (memory, other)

    def retire(self, place: str) -> None:
        if place in self.held:
            self.stale.append(self.held.pop(place))

    def finished(self, state: str, name: str) -> None:
        """This job was done or cancelled, and may be kept."""
        self.done[state] += 1
        self.kept[state] += self.retention.of(state) is not None
        self.end(name)

    def end(self, name: str) -> None:
        """This job must never be seen again, unless it is pushed again."""
        self.pushed.discard(name)
        self.over.add(name)

    @property
    def parks_at_once(self) -> bool:
        """Whether a job was held, which Postgres parks at once, and the others when it comes to a claim."""
        return self.was_held and isinstance(self.other, PostgresStore)

    def current(self) -> set[tuple[str, str, int, str]]:
        """The tokens that may settle; all others are stale."""
        return {token(owner, lease) for owner, (lease, _) in self.held.values() if owner not in self.fenced}

    def later(self, seconds: int) -> After:
        """A delay that makes no two due times the same: which goes first then depends on their ids."""
        self.dues += 1
        return After(seconds * 1000 + self.dues)

    def picked(self, worker: str, numbers: list[int]) -> list[tuple[Lease, Lease]]:
        """Some of a worker's leases, each once: mostly current ones; among the others, what it held before."""
        now = [pair for owner, pair in self.held.values() if owner == self.ids[worker]]
        before = [pair for owner, pair in self.stale if owner.partition(" ")[0] == worker]
        chosen = [(now if n >= 0 else before, n) for n in numbers]
        found = [leases[n % len(leases)] for leases, n in chosen if leases]
        return list({pair[0].key: pair for pair in found}.values())

    # What is done

    @initialize(jobs=new_batch)
    def begin(self, jobs: list[dict[str, Any]]) -> None:
        self.push(jobs, False)

    @rule(jobs=new_batch, again=st.booleans(), nonce=st.sampled_from(["", "first", "second"]))
    def push(self, jobs: list[dict[str, Any]], again: bool, nonce: str = "") -> None:
        """A push of some ids, a new one or one that may have been made before."""
        made = self.made(jobs, nonce if again else None)

        async def do(side: Side) -> list[Any]:
            return await side.store.driver.push(made, repeated=again)

        for job, answer in zip(made, self.agree(do), strict=True):
            if answer.reply is Reply.OK:
                self.added(job)
            elif answer.reply is Reply.REPLACED:
                self.replaced.add((job.job_id, job.nonce))
        self.done["replaced"] = len(self.replaced)  # a repeated push gets that answer again, for a minute

    def added(self, job: NewJob) -> None:
        self.done["pushed"] += 1
        self.over.discard(job.job_id)
        self.pushed.add(job.job_id)

    def made(self, jobs: list[dict[str, Any]], nonce: str | None = None) -> list[NewJob]:
        """Jobs to be pushed; by a push of their own where no nonce is given."""
        self.pushes += 1
        made = []
        for options in jobs:
            delay = options["delay"]
            due = None if delay is None else self.later(delay)
            name = options["name"]
            keep = options["keep_result"]
            left_out = ("delay", "name", "key", "keep_result", "unique_until")
            rest = {key: value for key, value in options.items() if key not in left_out}
            rest["nonce"] = f"push-{self.pushes}" if nonce is None else nonce
            fields = ["name", name, "parameters", f"[{self.pushes}]", "headers", "", *options["unique_until"]]
            fields += [] if keep is None else ["keep_result", str(keep)]
            fields += ["limit_key", options["key"]] if options["key"] else []
            made.append(NewJob(fields=fields, due=due, **rest))
        return made

    @rule(worker=workers, count=st.integers(0, 6), idle=st.booleans())
    def claim(self, worker: str, count: int, idle: bool) -> None:
        """Promote what is due and hear what there is; then claim."""

        async def promote(side: Side) -> Any:
            answer = await side.consumers[worker].exchange([], 0)
            due_in = None if self.limited else answer.due_in  # a fleet looks a little later than one process does
            return due_in, answer.server_ms, answer.paused

        heard = self.unless_fenced(worker, promote)
        assert heard is None or heard[0] == heard[1]
        if not count:
            return
        claimed = self.unless_fenced(worker, lambda side: side.claim(worker, count, idle=idle))
        if claimed is not None:
            memory, other = claimed
            assert memory.waits == other.waits or self.parks_at_once
            self.ended((memory.ended, other.ended))
            self.take(worker, (memory.leases, other.leases))

    @rule(worker=workers, count=st.integers(1, 6), idle=st.booleans(), chosen=several_settlements, lane=lanes)
    def work(self, worker: str, count: int, idle: bool, chosen: list[Settlement], lane: int) -> None:
        """Claim some, and settle what was claimed."""
        before = set(self.held)
        self.claim(worker, count, idle)
        claimed = [pair for place, (_, pair) in self.held.items() if place not in before]
        self._settle(worker, claimed, chosen[: len(claimed)], lane)

    @rule(worker=workers, other=workers, jobs=new_batch, chosen=several_settlements, late=st.booleans())
    def work_and_be_fenced_meanwhile(
        self, worker: str, other: str, jobs: list[dict[str, Any]], chosen: list[Settlement], late: bool
    ) -> None:
        """As the worker stalls others run its jobs; it settles them, to no avail, and goes on under a new id."""
        if worker == other:
            other = WORKERS[WORKERS.index(worker) - 1]
        for each in (worker, other):
            self.come_back(each, True)
        before = set(self.held)
        self.claim(worker, 3, False)
        claimed = [pair for place, (_, pair) in self.held.items() if place not in before]
        self.fall_silent([worker])
        self.look_for_the_lost(other, False)
        assert self.ids[worker] in self.fenced
        self._settle(worker, claimed, chosen[: len(claimed)], 1)
        self.beat(worker, [])
        self.claim(other, 2, False)
        self._settle(worker, claimed, chosen[: len(claimed)], 0)
        if late:
            self.push(jobs, False)
            self.wait(worker, 2)
        self.come_back(worker, True)

    @rule(
        worker=workers,
        numbers=picks,
        chosen=several_settlements,
        lane=st.integers(0, 2),
        count=st.sampled_from([None, None, 3]),
    )
    def settle(
        self, worker: str, numbers: list[int], chosen: list[Settlement], lane: int, count: int | None
    ) -> None:
        """Settle some of what a worker holds, or held: with a turn, or, in lane 0, without; it may claim too."""
        owners = [each for each in WORKERS if any(owner == self.ids[each] for owner, _ in self.held.values())]
        worker = worker if worker in owners else (owners or [worker])[0]
        held = self.picked(worker, numbers)
        self._settle(worker, held, chosen[: len(held)], lane, count)

    @rule(worker=workers, count=st.integers(1, 4), jobs=new_batch, chosen=several_settlements, lane=lanes)
    def work_and_push(
        self, worker: str, count: int, jobs: list[dict[str, Any]], chosen: list[Settlement], lane: int
    ) -> None:
        """Claim some, and settle what was claimed; every other job pushes some as it ends."""
        before = set(self.held)
        self.claim(worker, count, False)
        claimed = [pair for place, (_, pair) in self.held.items() if place not in before]
        made = self.made([options | {"on_conflict": OnConflict.SKIP} for options in jobs])
        pushing = [Ack(pushes=made[at::count], result=Result(HOUR, b"1")) for at in range(count)]
        settlements: list[Settlement] = [pushing[at] if at % 2 == 0 else chosen[at] for at in range(len(claimed))]
        self._settle(worker, claimed, settlements, lane)

    @rule(worker=workers, count=st.integers(1, 3), jobs=new_batch, first=st.integers(0, 4), lane=lanes)
    def work_and_run_children(
        self, worker: str, count: int, jobs: list[dict[str, Any]], first: int, lane: int
    ) -> None:
        """Claim some; the first one adds some of its children, and the last one waits for all of them."""
        before = set(self.held)
        self.claim(worker, count, False)
        claimed = [pair for place, (_, pair) in self.held.items() if place not in before]
        if not claimed:
            return
        group, children = self.family(claimed[0][0].job_id, jobs)
        self._settle(worker, claimed[:1], [AddChildren(group, children[:first], 2)], lane)
        wait = Wait(10, WaitsFor.CHILDREN, group.key)
        self._settle(worker, claimed[:1], [Suspend(wait, group=group, pushes=children[first:], version=2)], lane)

    def family(self, parent: str, jobs: list[dict[str, Any]]) -> tuple[Group, list[NewJob]]:
        """The children of a job that it has begun to add, else others."""
        (steps,) = self.agree(lambda side: side.store.driver.read(GetSteps([parent])))
        assert steps is not None
        for key, token in steps.groups.items():
            if key not in steps.saved:
                return self.families[token]
        made = self.made([options | {"on_conflict": OnConflict.SKIP} for options in jobs], "")
        group = Group(f"{self.pushes:024x}", key_of("all", len(steps.groups) + 1), len(made))
        children = [
            replace(job, fields=[*job.fields, "child_of", f"{group.token} {index}"])
            for index, job in enumerate(made)
        ]
        self.families[group.token] = group, children
        return group, children

    @rule()
    def cancel_children(self) -> None:
        """The children of parents that were cancelled are cancelled."""

        async def states(side: Side) -> dict[str, State]:
            rows = [await side.store.driver.read(Find(name)) for name in self.names]
            return {row.job_id: row.state for row in rows if row and row.state in LIVE}

        before = self.agree(states)
        while self.agree(lambda side: side.store.driver.change(CancelChildren())):
            pass
        for name in before.keys() - self.agree(states).keys():
            self.cancelled_suspended += before[name] is State.SUSPENDED
            self.finished("cancelled", name)
        self.pushed -= before.keys()  # some that run are to be cancelled

    @rule(worker=workers, owner=workers, chosen=several_settlements)
    def settle_what_another_holds(self, worker: str, owner: str, chosen: list[Settlement]) -> None:
        if worker != owner:
            theirs = [pair for holder, pair in self.held.values() if holder == self.ids[owner]][: len(chosen)]
            replies = self._settle(worker, theirs, chosen[: len(theirs)], 0)
            assert replies is None or replies == [Reply.LEASE_LOST] * len(theirs)

    @rule(worker=workers, lane=lanes)
    def send_again(self, worker: str, lane: int) -> None:
        """The last of a lane is answered as it was before; and nothing is done twice.

        An older one is refused. Only Redis may answer it as it was: settlements that push jobs go by a call of
        their own, and so an exchange without such has none that is later.
        """
        for age, batch in enumerate(self.sent.get((worker, lane), [])[:-3:-1]):
            answers = self.unless_fenced(worker, partial(self._repeat, worker, batch))
            if answers is not None:
                memory, other = answers
                assert memory == ([Reply.STALE] if age else batch.replies)
                assert other in (memory, batch.replies)

    async def _repeat(self, worker: str, batch: Sent, side: Side) -> list[Reply]:
        settlements = batch.settlements[self.sides.index(side)]
        try:
            return list((await side.consumers[worker].exchange(settlements, None, turn=batch.turn)).replies)
        except DriverError as error:
            if isinstance(error, Fenced):
                raise
            return [Reply.STALE]

    def made_for(self, lease: Lease, settlement: Settlement) -> Settlement:
        """The settlement as a worker makes it: with a time of its own, and what it knows of the job's steps."""
        match settlement:
            case RetryLater(due) | Suspend(due=due) if due is LATER:
                settlement = replace(settlement, due=self.later(9))
            case Ack() if lease.job_id in self.stepped:
                settlement = replace(settlement, stepped=True)
        if isinstance(settlement, RetryLater) and lease.job_id in self.stepped:
            settlement = replace(settlement, changes={**settlement.changes, "steps": "1"})
        if isinstance(settlement, SaveStep | Suspend | AddChildren):
            self.stepped.add(lease.job_id)
        return settlement

    def _settle(
        self,
        worker: str,
        held: list[tuple[Lease, Lease]],
        chosen: list[Settlement],
        lane: int,
        count: int | None = None,
    ) -> list[Reply] | None:
        # There a parent is woken after all else that an exchange does.
        wakes_late = isinstance(self.other, PostgresStore) and any(
            b"child_of" in lease.fields for lease, _ in held
        )
        if wakes_late and len(held) > 1:
            each = [self._settle(worker, [pair], [one], lane) for pair, one in zip(held, chosen, strict=True)]
            return None if None in each else [reply for some in each for reply in some or ()]
        dated = [self.made_for(pair[0], each) for pair, each in zip(held, chosen, strict=True)]
        turn = None
        if lane:
            self.turns += 1
            turn = Turn(lane, self.turns)
        settlements = (
            [(pair[0], settlement) for pair, settlement in zip(held, dated, strict=True)],
            [(pair[1], settlement) for pair, settlement in zip(held, dated, strict=True)],
        )

        if wakes_late or any(
            isinstance(settlement, Release | Suspend)
            or (isinstance(settlement, RetryLater) and settlement.due == After(0))
            for settlement in dated
        ):
            count = None  # what becomes ready by an exchange may come before, or after, what it claims
        if count is not None:
            self.claim(worker, 0, False)  # for both to know what there is

        async def do(side: Side) -> Claimed:
            mine = settlements[self.sides.index(side)]
            if count is not None:
                return await side.claim(worker, count, idle=False, settlements=mine, turn=turn)
            answer = await side.consumers[worker].exchange(mine, None, turn=turn)
            added = {at: [*each] for at, each in answer.added.items() if each}
            return Claimed(list(answer.replies), [], [], False, added)

        current = self.current()
        answers = self.unless_fenced(worker, do)
        if answers is None:
            return None
        memory, other = answers
        replies = memory.replies
        assert replies == other.replies
        assert memory.waits == other.waits or self.parks_at_once
        assert memory.added == other.added
        if turn is not None and held:
            self.sent.setdefault((worker, lane), []).append(Sent(turn, settlements, replies))
        for (lease, _), settlement, reply in zip(held, dated, replies, strict=True):
            assert (reply is not Reply.LEASE_LOST) == (token(self.ids[worker], lease) in current)
            self.settled(lease, settlement, reply)
        for at, flags in memory.added.items():  # after the ends: it may be an id that ends beside it
            for job, is_added in zip(cast("Ack", dated[at]).pushes, flags, strict=True):
                if is_added:
                    self.added(job)
        self.ended((memory.ended, other.ended))
        self.take(worker, (memory.leases, other.leases))
        return replies

    def settled(self, lease: Lease, settlement: Settlement, reply: Reply) -> None:
        if reply is Reply.LEASE_LOST:
            return
        if isinstance(settlement, ReportProgress | SaveStep | AddChildren):
            return
        self.retire(lease.key)
        if not isinstance(settlement, Release):
            self.gone.add(lease.key)
        match reply, settlement:
            case (Reply.CANCELLED, _) | (Reply.OK, Ack(cancelled=True)):
                self.finished("cancelled", lease.job_id)
            case Reply.OK, Ack():
                self.finished("completed", lease.job_id)
            case Reply.OK, Suspend():
                self.done["suspended"] += 1
            case Reply.OK, RetryLater():
                self.done["retried"] += 1
            case Reply.OK, DeadLetter():
                self.done["dead"] += 1
            case Reply.OK, Release():
                self.done["released"] += 1

    @rule(worker=workers, count=st.integers(1, 3))
    def wait(self, worker: str, count: int) -> None:
        if (self.restricted or self.limited) and self.ids[worker] in self.fenced:
            return  # no worker has what it read, until one looks for it
        if self.parks_at_once:
            return  # a job that was held is none of the new ones then
        memory = self.sides[0].store
        assert isinstance(memory, MemoryStore)
        # Where nothing new is there it would block, for as long as the server's timer is coarse.
        if any(memory.memory.new.values()):
            self.take(worker, self.ask(lambda side: side.consumers[worker].wait(count, 0.001)))

    @rule(stalled=st.lists(workers, min_size=1, max_size=2, unique=True))
    def fall_silent(self, stalled: list[str]) -> None:
        """The leases of some end, as all the others beat; they are not lost before a worker looks."""
        for side in self.sides:
            side.store.age(2 * LEASE)
        self.silent = {self.ids[worker] for worker in self.living()}
        for worker in self.living():
            if worker not in stalled:
                self.beat(worker, [])

    @rule(worker=workers, numbers=picks)
    def beat(self, worker: str, numbers: list[int]) -> None:
        """A worker lives, and hears what of some jobs it holds is to be cancelled; none that was fenced does."""
        pairs = [pair for pair in self.picked(worker, numbers) if pair[0].key in self.held] if numbers else []
        memory, other = (side.beat(worker, [pair[n] for pair in pairs]) for n, side in enumerate(self.sides))
        assert memory == other
        assert (memory is None) == (self.ids[worker] in self.fenced)
        if memory is not None:
            self.silent.discard(self.ids[worker])
            assert memory[1] == self.wishes.get(self.ids[worker])

    @rule(worker=workers, wish=st.sampled_from(Wish))
    def ask_worker(self, worker: str, wish: Wish) -> None:
        """Ask a worker to be quiet, to go on, or to stop; none that was fenced hears it."""
        worker_id = self.ids[worker]
        reply = self.agree(lambda side: side.store.driver.change(AskWorker(worker_id, wish)))
        stops = self.wishes.get(worker_id) is Wish.STOP and wish is not Wish.STOP
        expected = Reply.STOPPING if stops else Reply.OK
        assert reply is (Reply.NOT_FOUND if worker_id in self.fenced else expected)
        if reply is Reply.OK:
            self.wishes[worker_id] = wish

    @rule(worker=workers, returns=st.booleans())
    def look_for_the_lost(self, worker: str, returns: bool) -> None:
        """Fence who is silent, but for one that beats just in time, and hand back what fenced ones hold."""
        named = self._reclaim(worker, ([], []))
        if named is None:
            return
        others = tuple([each for each in look.silent if each.worker_id != self.ids[worker]] for look in named)
        if returns and others[0]:
            (spared,) = [each for each in WORKERS if self.ids[each] == others[0][0].worker_id]
            self.beat(spared, [])
        self._reclaim(worker, others)
        for _ in range(2 + len(self.fenced) // 10):  # ten at a time
            self._reclaim(worker, ([], []))

    def _reclaim(self, worker: str, silent: tuple[Sequence[Silent], ...]) -> tuple[Reclaimed, Reclaimed] | None:
        for side in self.sides:
            side.look_again()
        looks = self.unless_fenced(
            worker, lambda side: side.consumers[worker].reclaim(silent[self.sides.index(side)], others=True)
        )
        if looks is None:
            return None
        memory, other = looks
        lost = {each.worker_id for each in silent[0]} & self.silent
        assert sorted(memory.fenced) == sorted(other.fenced) == sorted(lost)
        self.fenced |= lost
        self.silent -= lost
        assert {each.worker_id for each in memory.silent} == self.silent
        assert {each.worker_id for each in other.silent} == self.silent
        assert {each.lease for look in looks for each in look.silent} <= {LEASE}
        if len(self.fenced) <= 10:
            assert (memory.jobs, memory.released, memory.others) == (other.jobs, other.released, other.others)
        for worker_id in self.fenced:
            self.lose_all(worker_id)
        self.jobs[0] += memory.jobs
        self.jobs[1] += other.jobs
        return looks

    @rule(worker=workers, releases=st.booleans())
    def come_back(self, worker: str, releases: bool) -> None:
        """One that was fenced goes on under a new id."""
        if self.ids[worker] in self.fenced:
            if releases:
                self._release(worker, refund=True, watch=True)
            self._begin(worker)

    @rule(worker=workers, refund=st.booleans(), watch=st.booleans())
    def leave(self, worker: str, refund: bool, watch: bool) -> None:
        """A worker hands back all that it holds, and another begins in its place."""
        self._release(worker, refund=refund, watch=watch)
        self._begin(worker)

    def _release(self, worker: str, *, refund: bool, watch: bool) -> None:
        self.done["released"] += self.agree(
            lambda side: side.consumers[worker].release(refund=refund, watch=watch)
        )
        self.lose_all(self.ids[worker])
        self.fenced.add(self.ids[worker])
        self.silent.discard(self.ids[worker])
        assert self.unless_fenced(worker, lambda side: side.consumers[worker].exchange([], None)) is None

    def _begin(self, worker: str) -> None:
        self.starts += 1
        self.ids[worker] = f"{worker} {self.starts}"
        for lane in (1, 2):
            self.sent.pop((worker, lane), None)
        self.ask(lambda side: side.consumers[worker].open(self.ids[worker]))

    @rule()
    def forget_the_fenced(self) -> None:
        """Time passes for those who were fenced and have come back; the next look forgets them."""
        forgotten = self.fenced - set(self.ids.values())
        for side in self.sides:
            side.look_again(forget=sorted(forgotten))

    @rule(worker=workers, numbers=picks)
    def recover(self, worker: str, numbers: list[int]) -> None:
        """What a lost reply brought is found, as it was; and nothing else is."""
        known = self.picked(worker, numbers)
        places = {pair[0].key for pair in known}

        async def do(side: Side) -> Any:
            mine = [pair[self.sides.index(side)] for pair in known]
            recovered = await side.consumers[worker].recover(mine)
            return sorted(repr(side.lease(lease, but=b"steps")) for lease in recovered)

        if self.restricted or self.limited:
            return  # some of them are for others then
        found = self.unless_fenced(worker, do)
        if found is not None:
            missing = [pair for owner, pair in self.held.values() if owner == self.ids[worker]]
            expected = [
                self.sides[0].lease(pair[0], but=b"steps") for pair in missing if pair[0].key not in places
            ]
            assert found == (sorted(map(repr, expected)),) * 2

    @rule(verb=st.sampled_from(list(CHANGES)), number=st.integers(0, 9), any_state=st.booleans())
    def act(self, verb: str, number: int, any_state: bool) -> None:
        dead = [name for name, state in self.there.items() if (state is State.DEAD) == (verb != "cancel")]
        names = self.names if any_state else dead
        name = names[number % len(names)] if names else "a"

        due = self.later(9)

        async def do(side: Side) -> Reply:
            return await side.store.driver.change(CHANGES[verb](name, due))

        async def look(side: Side) -> State | None:
            row = await side.store.driver.read(Find(name))
            return row.state if row else None

        state = self.agree(look)
        reply = self.agree(do)
        if reply is Reply.CANCELLED:
            self.cancelled_suspended += state is State.SUSPENDED
            self.finished("cancelled", name)
        elif reply is Reply.CANCELLING:
            self.pushed.discard(name)
        elif reply is Reply.OK:
            self.done[COUNTERS[verb]] += 1
            self.acted(verb, name, state)

    def acted(self, verb: str, name: str, state: State | None) -> None:
        """A dead letter, or a job that was kept, was requeued or deleted."""
        if state is State.DEAD:
            self.deleted_dead += verb == "delete"
            self.requeued_dead += verb != "delete"
        else:
            self.kept[str(state)] -= 1
            self.revived += verb != "delete"
        if verb == "delete":
            self.end(name)
        else:
            self.over.discard(name)

    @rule(number=st.integers(0, 9), again=st.booleans(), name=st.sampled_from(["go", "go", "stop"]))
    def signal(self, number: int, again: bool, name: str) -> None:
        """Send a signal to a job, maybe once more."""
        waiting = [job_id for job_id, state in self.there.items() if state is State.SUSPENDED]
        names = (waiting if number % 2 else None) or self.names
        self.signals += 1
        change = Signal(names[number % len(names)], name, b"%d" % self.signals, f"{self.signals:x}")
        for _ in range(1 + again):
            self.agree(lambda side: side.store.driver.change(change))

    @rule(
        verb=st.sampled_from(["requeue", "requeue later", "delete"]),
        wanted=st.sampled_from([Filter(), Filter(), Filter(reason="failed"), *WANTED]),
        again=st.booleans(),
    )
    def act_on_all(self, verb: str, wanted: Filter, again: bool) -> None:
        """Dead letters that a filter lets through; `again` as one whose answer was lost."""

        async def do(side: Side) -> list[str]:
            driver = side.store.driver

            def step(after: str) -> RequeueAll | DeleteAll:
                if verb == "delete":
                    return DeleteAll(wanted, after)
                return RequeueAll(wanted, after, 9000 if verb == "requeue later" else 0, 1000)

            begin = await driver.change(step(""))
            taken = await driver.change(step(begin.after))
            assert (list(begin.job_ids), taken.after) == ([], "")
            if again and begin.after:
                repeated = await driver.change(step(begin.after))
                assert replace(repeated, duplicates=0) == BulkResult([])  # those stay, and are counted again
            return list(taken.job_ids)

        for name in self.agree(do):
            self.done[COUNTERS[verb]] += 1
            self.acted(verb, name, State.DEAD)

    @rule(retention=st.sampled_from(RETENTIONS))
    def retain(self, retention: Retention) -> None:
        """An operator says what is kept; what is kept no longer is there until it is trimmed."""
        assert self.agree(lambda side: side.store.driver.change(Retain(retention))) is Reply.OK
        self.retention = retention

    @rule(declaration=st.sampled_from([f"{number:x}" for number in range(25)]), done=st.booleans())
    def declare(self, declaration: str, done: bool) -> None:
        """A worker notes what its code declares, or asks whether that is noted."""
        self.agree(lambda side: side.store.driver.change(Declare(declaration, done)))

    @rule()
    def trim(self) -> None:
        """What is kept no longer goes: of what tidies, the part that both do alike."""

        async def do(side: Side) -> int:
            if isinstance(side.store, MemoryStore):
                return trim(side.store.memory)
            begin = "trim " if isinstance(side.store, RedisStore) else "trim"
            return (await side.store.driver.change(Tidy(begin))).trimmed

        async def dead(side: Side) -> list[Any]:
            return [side.row(row)[0] for row in await rows_of(side.store.driver, State.DEAD, 500)]

        before = self.agree(dead)
        most = self.retention.dead.count or 500
        over = {state: kept for state, kept in self.kept.items() if self.retention.of(state) is None}
        self.trimmed_dead += max(0, len(before) - most)
        assert self.agree(do) == sum(over.values()) + max(0, len(before) - most)
        self.done["trimmed"] += sum(over.values()) + max(0, len(before) - most)
        self.kept -= Counter(over)
        for name in before[most:]:
            self.end(name)

    @rule(
        name=st.sampled_from(["", "Work", "Other"]), worker=workers, count=st.integers(0, 4), reads=st.booleans()
    )
    def pause(self, name: str, worker: str, count: int, reads: bool) -> None:
        """Pause the queue or a name; then a worker asks for jobs."""
        self.agree(lambda side: side.store.driver.change(Pause(name)))
        self.both_know_the_same()
        self.claim(worker, count, False)
        if reads:
            self.wait(worker, 2)

    @rule(unparks=st.booleans())
    def resume_all(self, unparks: bool) -> None:
        """What was parked is passed on at once, or later."""
        for name in PAUSED:
            self.agree(lambda side, name=name: side.store.driver.change(Resume(name)))  # type: ignore[misc]
        self.to_unpark = True
        if unparks:
            self.unpark()

    @rule()
    def unpark(self) -> None:
        self.agree(lambda side: side.store.driver.change(Unpark()))
        self.to_unpark = False

    @precondition(lambda self: self.restricted)
    @rule()
    def go_on(self) -> None:
        """More often than not nothing is paused."""
        self.resume_all(True)

    @rule(name=st.sampled_from(PAUSED[1:]), limit=st.sampled_from(RULES), worker=workers, count=st.integers(0, 4))
    def limit(self, name: str, limit: str, worker: str, count: int) -> None:
        """Set a limit, or remove it; then a worker asks for jobs."""
        self.limited = True
        assert self.agree(lambda side: side.store.driver.change(SetLimit(name, limit))) == ""
        self.running |= Counter(dict.fromkeys((name, f"{name} x y"), 1_000))  # what ran before is counted
        self.both_know_the_same()
        self.claim(worker, count, False)

    @rule(number=st.integers(0, 9), holds=st.booleans())
    def hold(self, number: int, holds: bool) -> None:
        waiting = [name for name, state in self.there.items() if state in WAITING]
        names = waiting or self.names
        name = names[number % len(names)]
        verb = Hold if holds else Unhold
        self.was_held = True
        self.agree(lambda side: side.store.driver.change(verb(name)))

    @rule(numbers=picks, process=st.sampled_from(["", "p1", "p2"]))
    def ask_for(self, numbers: list[int], process: str) -> None:
        """A process waits for some jobs, or only asks how they stand."""
        names = [self.names[number % len(self.names)] for number in numbers]
        self.agree(lambda side: side.store.driver.change(GetStatus(names, process)))

    @rule(
        recorder=st.sampled_from(["r1", "r2"]),
        number=st.integers(1, 5),
        names=st.dictionaries(st.sampled_from(["Work", "Other"]), sums, max_size=2),
        causes=st.dictionaries(st.sampled_from(["worker lost", "0123456789ab"]), st.integers(1, 9)),
    )
    def record(self, recorder: str, number: int, names: dict[str, dict[str, int]], causes: dict[str, int]) -> None:
        """A worker reports what it has counted, maybe once more."""
        change = Record(recorder, number, names, causes)
        self.agree(lambda side: side.store.driver.change(change))

    @rule(seconds=st.integers(1, 10))
    def advance(self, seconds: int) -> None:
        if self.passed + seconds <= LONGEST:
            self.passed += seconds
            for side in self.sides:
                side.store.clock.advance(seconds)

    # What is true after each step

    @invariant()
    def both_know_the_same(self) -> None:
        async def look(side: Side) -> Any:
            driver = side.store.driver
            found = [await driver.read(Find(name)) for name in names]
            pauses = await driver.read(FindPauses())
            counts_held = not (
                pauses.held and isinstance(self.other, PostgresStore)
            )  # there they count for nothing
            return (
                pauses,
                await self.limits(side),
                await side.groups(),
                await self.statistics(driver),
                await driver.read(Count()),
                sorted((await driver.read(GetBacklog())).oldest) if counts_held else [],
                {state: await self.rows(side, state) for state in LIVE},
                {
                    state: sorted(await self.rows(side, state), key=str)
                    for state in (State.COMPLETED, State.CANCELLED)
                },
                [row and side.row(row) for row in found],
                await driver.change(GetStatus(names)),
                (await driver.read(GetSteps(names)), [await driver.read(FindChildren(each)) for each in tokens]),
                [await self.ahead(side, name, counts=counts_held) for name in names],
                side.waiters(),
                sorted([side.row(row) for row in await scan(driver, scanned)], key=str),
            )

        assert self.jobs[0] == self.jobs[1]
        self.done["reclaimed"] = self.jobs[0]
        self.looks += 1
        names = [self.names[(self.looks + n) % len(self.names)] for n in range(3)]  # all of them, in turn
        tokens = list(self.families)[-3:]
        scanned = list(State)[self.looks % len(State)]
        look_at = self.agree(look)
        (
            pauses,
            (limits, _, shares),
            groups,
            _,
            counts,
            waiting,
            listed,
            kept,
            found,
            standings,
            _,
            _,
            waiters,
            stepped,
        ) = look_at
        assert sum(number for _, number, *_ in groups) == counts.dead
        assert stepped == sorted((listed | kept)[scanned], key=str)

        self.restricted = bool(pauses.names or pauses.held or pauses.queue is not None)
        self.keeps_limits(limits, shares)
        if not (self.restricted or self.to_unpark or self.limited):
            assert {where[1] for _, where, _ in listed[State.READY]} <= set(waiting)
        # The counters add up, and nothing is lost or there twice.
        assert {state: len(rows) for state, rows in listed.items()} == {
            State.READY: sum(counts.ready.values()),
            State.RUNNING: counts.running,
            State.DELAYED: counts.delayed,
            State.SUSPENDED: counts.suspended,
            State.DEAD: counts.dead,
        }
        self.done["woken"] = self.done["suspended"] - counts.suspended - self.cancelled_suspended
        total = {counter: counts.totals.get(counter, 0) for counter in (*counts.totals, *self.done)}
        assert total == {counter: self.done[counter] for counter in total}
        gone = self.deleted_dead + self.trimmed_dead
        ended = self.done["completed"] + self.done["cancelled"] + gone
        assert self.done["pushed"] + self.revived == ended + sum(map(len, listed.values()))
        assert counts.dead == self.done["dead"] - self.requeued_dead - gone
        assert {state: len(rows) for state, rows in kept.items()} == {
            State.COMPLETED: self.kept["completed"],
            State.CANCELLED: self.kept["cancelled"],
        }
        assert (counts.completed, counts.cancelled) == (self.kept["completed"], self.kept["cancelled"])
        there = [(name, state) for state, rows in listed.items() for name, *_ in rows]
        self.there = dict(there)
        assert len(there) == len(self.there)
        assert self.pushed <= self.there.keys()
        assert not self.over & self.there.keys()
        # Whatever runs is held by one worker, the last it was given to.
        holds = {(lease.job_id, o, lease.deliveries) for o, (lease, _) in self.held.values()}
        runs = [(name, where[3], where[4]) for name, where, _ in listed[State.RUNNING]]
        assert set(runs) <= holds
        assert len(runs) == len({name for name, *_ in runs})
        # Who has ended is waited for no more, and says so.
        assert waiters.keys() <= self.there.keys()
        for name, standing in zip(names, standings, strict=True):
            is_pending = name in self.there and self.there[name] is not State.DEAD
            assert (standing.ending is Ending.PENDING) == is_pending
        # A key that is held to the end has one job at most: what was requeued has none.
        alone = Counter(
            fields[b"unique"]
            for state in (State.READY, State.RUNNING, State.DELAYED)
            for name, _, fields in listed[state]
            if b"unique" in fields and b"unique_until" not in fields and b"nonce" in fields
        )
        assert max(alone.values(), default=1) == 1
        # An id is that of the last job that had it.
        rows = [row for rows in (listed | kept).values() for row in rows]
        for name, row in zip(names, found, strict=True):
            assert (row in rows) if row else name not in self.there

    async def rows(self, side: Side, state: State) -> list[Any]:
        """All jobs of a state, in order; those that no time wakes have none."""
        rows = [side.row(row) for row in await rows_of(side.store.driver, state, 500)]
        return sorted(rows, key=lambda row: (row[1][2] or 0, row[0])) if state is State.SUSPENDED else rows

    async def statistics(self, driver: Driver) -> Any:
        """What was counted, but for the age of the oldest job: of that each store has a clock of its own."""
        found = [await driver.read(FindIntervals(minutes, 3, is_whole=True)) for minutes in (1, 10)]
        return [replace(each, sample={**each.sample, "oldest_ms": 0}) for step in found for each in step.intervals]

    async def ahead(self, side: Side, name: str, *, counts: bool) -> Any:
        """Where a job stands, but for times and workers, which differ."""
        found = await side.store.driver.read(Ahead(name))
        jobs = sorted(("", job_id) for _, job_id in found.holders)
        held_ms = None if found.held_ms is None else 1
        found = found if counts else replace(found, ahead=0)
        return replace(found, now_ms=0, held_ms=held_ms, turn_ms=None, promoter="", holders=jobs)

    async def limits(self, side: Side) -> Any:
        """The limits, how many wait in each line, and what runs under each."""
        step = await side.store.driver.read(FindLimits())
        lines, running, limits = [*step.lines], [*step.running], dict(step.limits)
        while step.after:
            step = await side.store.driver.read(FindLimits(step.after))
            lines += step.lines
            running += step.running
        held = sorted((bucket, worker, job_id) for bucket, worker, job_id in running)
        return limits, [(bucket, count) for bucket, count, _ in lines], held

    def keeps_limits(self, limits: dict[str, str], shares: list[tuple[str, str, str]]) -> None:
        """No more run under a limit than it allows, unless it was lower when they began."""
        running = Counter(bucket for bucket, _, _ in shares)
        for bucket, count in running.items():
            found = re.search(r"max_concurrency=(\d+)", limits.get(bucket.partition(" ")[0], ""))
            most = int(found[1]) if found else 1_000
            assert count <= max(most, self.running[bucket])
        self.running = running


class WithPostgres(TwoDrivers):
    """What is done to Postgres: no worker is lost, and no name is paused or limited."""

    pause = limit = fall_silent = look_for_the_lost = work_and_be_fenced_meanwhile = None  # type: ignore[assignment]


@contextmanager
def machine_of(
    kind: type[TwoDrivers], make: Callable[[str], RedisStore | PostgresStore]
) -> Iterator[type[TwoDrivers]]:
    """The machine, with an event loop of its own and a new queue for each example."""
    numbers = iter(range(1_000_000))
    with anyio.from_thread.start_blocking_portal() as portal:

        class Machine(kind):  # type: ignore[valid-type, misc]
            pass

        Machine.portal = portal
        Machine.make = staticmethod(lambda: make(f"agree-{id(portal)}-{next(numbers)}"))
        yield Machine


@pytest.fixture(params=ENGINES)
def redis_machine(request: pytest.FixtureRequest, servers: Servers) -> Iterator[type[TwoDrivers]]:
    url = servers.url(request.param)
    with machine_of(TwoDrivers, lambda name: RedisStore(redis.Redis.from_url(url), url, name)) as made:
        yield made


@pytest.fixture
def postgres_machine(postgres: Postgres) -> Iterator[type[TwoDrivers]]:
    with machine_of(WithPostgres, lambda name: PostgresStore(postgres.shared(), name)) as made:
        yield made


@pytest.mark.slow
@pytest.mark.timeout(300)  # where they don't, the shortest way there is worth a wait
def test_memory_and_redis_agree_whatever_is_done_to_them(redis_machine: type[TwoDrivers]) -> None:
    run(redis_machine)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_memory_and_postgres_agree_whatever_is_done_to_them(postgres_machine: type[TwoDrivers]) -> None:
    run(postgres_machine)


def run(machine: type[TwoDrivers]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
