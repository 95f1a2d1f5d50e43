"""A refusal has written nothing: each script that writes, with each of its keys of another type."""

import json
import math
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import anyio
import pytest
from store import Heart, RedisStore, eventually, inherit

from redisjobs.drivers.redis import scripts
from redisjobs.drivers.redis.consumer import RedisConsumer
from redisjobs.errors import DriverError, WrongType
from redisjobs.model.changes import (
    AskWorker,
    BulkResult,
    Cancel,
    Change,
    Declare,
    Delete,
    DeleteAll,
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
from redisjobs.model.children import CancelChildren
from redisjobs.model.codec import when
from redisjobs.model.definition import Definition
from redisjobs.model.driver import Consumer, Fenced
from redisjobs.model.emissions import ChunkKind, EmitChunks, NewChunk
from redisjobs.model.health import Audit
from redisjobs.model.job import OnConflict, Priority, State, WhyWaiting
from redisjobs.model.moving import Import, Take, Taken
from redisjobs.model.queries import COUNTERS, Count, Find, Row, Scan
from redisjobs.model.recording import Record
from redisjobs.model.relaying import ForgetRelayed, Relay
from redisjobs.model.retention import Keep, Retention
from redisjobs.model.retry import no_retry
from redisjobs.model.steps import Signal
from redisjobs.model.stored import (
    Declarer,
    Fire,
    Firing,
    PauseSchedule,
    Put,
    PutSchedules,
    RemoveSchedule,
    WithdrawSchedules,
)
from redisjobs.model.transitions import (
    Ack,
    AddChildren,
    After,
    DeadLetter,
    Group,
    Lease,
    NewJob,
    Pushed,
    Release,
    Reply,
    RetryLater,
    SaveStep,
    Settlement,
    Silent,
    Suspend,
    Turn,
    Wait,
    WaitsFor,
)
from redisjobs.queue import JobQueue
from redisjobs.schedules.schedule import Schedule
from redisjobs.worker.source import recovery, source
from redisjobs.worker.worker import Worker
from redisjobs_proof.contract.acts import rows_of

pytestmark = pytest.mark.anyio

FAILED = DeadLetter("failed", "ValueError: no")
CHILD = NewJob("g-0", ["name", "Work", "parameters", "{}", "child_of", "g 0"])
WAITS = Suspend(Wait(1, WaitsFor.SIGNAL, "go"), After(9000))


def job(job_id: str, **options: object) -> NewJob:
    return NewJob(job_id, ["name", "Work", "parameters", "{}"], **options)  # type: ignore[arg-type]


LEAVING = Declarer("s", "leaving")


@dataclass
class Scene:
    """A queue with jobs in every state, who works on it, and whom the store has lost sight of."""

    store: RedisStore
    worker: Consumer
    heir: Consumer
    lost: Consumer
    gone: Consumer
    leases: dict[str, Lease] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    async def settle(self, *settlements: Settlement) -> None:
        """The jobs `a` and `held`: the latter has a unique key."""
        pairs = list(zip((self.leases["a"], self.leases["held"]), settlements * 2, strict=False))
        await self.worker.exchange(pairs, None, turn=Turn(1, 1))

    async def push(self) -> None:
        await self.store.driver.push(self.pushed(), repeated=True)

    async def relay(self) -> None:
        now_ms = (await self.store.driver.change(Relay("o"))).server_ms
        await self.store.driver.change(Relay("o", self.pushed(), now_ms))

    def pushed(self) -> list[NewJob]:
        jobs = [
            job("n1"),
            job("n2", due=After(9000), unique="new"),
            job("n3", priority=Priority.LOW, unique="held"),
            job("n4", unique="held", on_conflict=OnConflict.RAISE),
            job("n5", due=After(9000), unique="ready", on_conflict=OnConflict.REPLACE),
        ]
        return jobs + [job(there, nonce="another") for there in ("dead", "twice", "a", "high")]

    async def claim(self) -> None:
        await self.heir.exchange([], 9, idle=True)

    async def reclaim(self) -> None:
        await self.heir.reclaim([Silent("lost", str(self.store.clock() - 1), 15)])

    async def reject(self) -> None:
        """As a read does with what it brings, and is no job."""
        consumer = cast("RedisConsumer", self.worker)
        await consumer._run(consumer._commands.reject([self.leases["put"], self.leases["low put"]]))

    async def beat(self) -> None:
        with closing(Heart(self.worker)) as heart:
            heart.beat(lambda: list(self.leases.values()), {"host": "h"})

    async def recover(self) -> None:
        """One that was removed with redis-cli is forgotten, the others are found."""
        await self.worker.recover([self.leases["a"]])

    async def join(self) -> None:
        await self.heir.open("w3")

    async def fire(self) -> None:
        """One job at once, one later, one that is there; one whose key is held, one that replaces who holds it."""
        jobs = [
            job("f1"),
            job("f2", due=After(9000), unique="new"),
            job("dead"),
            job("f3", priority=Priority.LOW, unique="held"),
            job("f4", unique="ready", on_conflict=OnConflict.REPLACE),
        ]
        now_ms = self.store.clock()
        await self.store.driver.change(
            Fire("s", [Firing("nightly", NIGHTLY.fingerprint, now_ms - 5000, now_ms, 2, jobs)])
        )

    async def put(self, by: Declarer | None = None) -> None:
        other = replace(NIGHTLY, rule=Schedule.every(7))
        named = [Put.whole(replace(other, name=name)) for name in ("nightly", "new")]
        await self.store.driver.change(PutSchedules(named, by))

    async def screen(self) -> None:
        """As a read does with what it brings while something may not start."""
        consumer = cast("RedisConsumer", self.worker)
        await consumer._screen([self.leases["a"], self.leases["held"]])

    async def change(self, change: Change[Any]) -> None:
        await self.store.driver.change(change)

    async def bring_in(self) -> None:
        """Jobs from elsewhere: ready, delayed with a key that is free, dead, with an id that is there."""
        fields = {b"name": b"Work", b"parameters": b"{}", b"queued_at": b"1732438800000"}
        ready = Taken("1", "i1", State.READY, Priority.HIGH, fields, 1, 1, held=True)
        jobs = [
            ready,
            replace(ready, place="2", job_id="i2", state=State.DELAYED, due_ms=self.store.clock() + 9000),
            replace(ready, place="3", job_id="i3", fields={**fields, b"unique": b"held"}),
            replace(ready, place="4", job_id="i4", state=State.DEAD, fields={**fields, b"reason": b"failed"}),
            *(replace(ready, place=f"5{there}", job_id=there) for there in ("dead", "twice", "a", "high")),
        ]
        await self.store.driver.change(Import("o", jobs))

    async def take(self, step: Callable[..., Change[BulkResult]]) -> None:
        begin = await self.store.driver.change(step(after=""))
        await self.store.driver.change(step(after=begin.after))

    async def restore(self) -> None:
        await self.store.driver.change(Tidy("restore 1 -"))

    async def audit(self) -> None:
        """A part that is refused does not end an audit, so its error is in the answer."""
        answer = await self.store.driver.change(Audit("normal ", repair=True))
        if answer.error:
            raise WrongType(answer.error)


ACTS: dict[str, Callable[[Scene], Awaitable[object]]] = {
    "push": Scene.push,
    "push: of an outbox": Scene.relay,
    "forget_relayed": lambda scene: scene.change(ForgetRelayed("o", ["r", "n s"])),
    "take": lambda scene: scene.change(Take(scene.rows)),
    "import": Scene.bring_in,
    "push_plain": lambda scene: scene.store.driver.push([job("p1"), job("p2")], repeated=False),
    "push_one": lambda scene: scene.store.driver.push([job("p1")], repeated=False),
    "join": Scene.join,
    "claim": Scene.claim,
    "beat": Scene.beat,
    "recover": Scene.recover,
    "settle: done": lambda scene: scene.settle(Ack()),
    "settle: one by one": lambda scene: scene.settle(Ack(), Ack(cancelled=True)),
    "settle: cancelled": lambda scene: scene.settle(Ack(cancelled=True)),
    "settle: retry": lambda scene: scene.settle(RetryLater(After(5000), {"attempt": "2"})),
    "settle: release": lambda scene: scene.settle(Release()),
    "settle: fail": lambda scene: scene.settle(FAILED),
    "settle: save": lambda scene: scene.settle(SaveStep("charge", 1, b"1")),
    "settle: emit": lambda scene: scene.settle(EmitChunks([NewChunk(ChunkKind.JSON, b"1")])),
    "settle: children": lambda scene: scene.settle(AddChildren(Group("g", "render", 1), [CHILD])),
    "cancel_children": lambda scene: scene.change(CancelChildren()),
    "settle: suspend": lambda scene: scene.settle(WAITS),
    "signal": lambda scene: scene.change(Signal("waits", "go", b"1", "n")),
    "signal: kept": lambda scene: scene.change(Signal("waits", "other", b"1", "n")),
    "settle: all": lambda scene: scene.settle(RetryLater(After(0)), FAILED),
    "settle: none": lambda scene: scene.worker.exchange([], 0),
    "reclaim": Scene.reclaim,
    "release": lambda scene: scene.worker.release(refund=True, watch=False),
    "release: of one that died": lambda scene: scene.worker.release(refund=False, watch=True),
    "release: of one that was fenced": lambda scene: scene.gone.release(refund=True, watch=True),
    "tidy": lambda scene: scene.store.driver.change(Tidy()),
    "trim": lambda scene: scene.store.driver.change(Tidy("trim ")),
    "limit": lambda scene: scene.change(SetLimit("Work", "max_concurrency=1")),
    "limit: removed": lambda scene: scene.change(SetLimit("Work", "")),
    "limit: of jobs that run": lambda scene: scene.change(SetLimit("Other", "max_concurrency=1")),
    "shares": lambda scene: scene.change(Tidy("shares ")),
    "record": lambda scene: scene.change(Record("r", 1, {"Work": {"completed": 1}}, {"worker lost": 1})),
    "retain": lambda scene: scene.store.driver.change(Retain(Retention(Keep(5), Keep(count=5)))),
    "declare": lambda scene: scene.store.driver.change(Declare("c0ffee", done=True)),
    "restore": Scene.restore,
    "audit": Scene.audit,
    "screen": Scene.screen,
    "pause": lambda scene: scene.change(Pause()),
    "pause: of a name": lambda scene: scene.change(Pause("Other")),
    "resume": lambda scene: scene.change(Resume()),
    "resume: of a name": lambda scene: scene.change(Resume("Paused")),
    "unpark": lambda scene: scene.change(Unpark()),
    "ask_worker": lambda scene: scene.change(AskWorker("w1", Wish.QUIET)),
    "hold": lambda scene: scene.change(Hold("ready")),
    "unhold": lambda scene: scene.change(Unhold("ready")),
    "ask": lambda scene: scene.change(GetStatus(["ready", "dead", "a"], "me")),
    "cancel": lambda scene: scene.store.driver.change(Cancel("ready")),
    "cancel: of one that runs": lambda scene: scene.store.driver.change(Cancel("a")),
    "requeue": lambda scene: scene.store.driver.change(Requeue("dead")),
    "requeue: later": lambda scene: scene.store.driver.change(Requeue("dead", After(5000))),
    "delete": lambda scene: scene.store.driver.change(Delete("dead")),
    "requeue_all": lambda scene: scene.take(RequeueAll),
    "requeue_all: later": lambda scene: scene.take(lambda after: RequeueAll(after=after, wait_ms=5000)),
    "delete_all": lambda scene: scene.take(DeleteAll),
    "reject": Scene.reject,
    "fire": Scene.fire,
    "put_schedule": Scene.put,
    "put_schedule: declared": lambda scene: scene.put(LEAVING),
    "withdraw_schedules": lambda scene: scene.store.driver.change(WithdrawSchedules(LEAVING)),
    "pause_schedule": lambda scene: scene.store.driver.change(PauseSchedule("nightly", pause=True)),
    "remove_schedule": lambda scene: scene.store.driver.change(RemoveSchedule("nightly")),
}
"""What is done, by its script and which of its ways."""

CHANNELS = ("control", "waiter:")
READERS = {
    *("find", "scan", "groups", "counts", "schedules", "backlog", "pauses", "limits", "workers", "statistics"),
    *("ahead", "relayed", "taken", "steps", "find_children", "chunks"),
}

NIGHTLY = Definition("nightly", Schedule.every(5), job(""))

MAY_NOT_START = ("paused:names", "held")  # what is looked at only where jobs are claimed
KEPT = ("retention", "completed", "cancelled")  # where a job is that has ended

LATER = ("due", "delayed", "dead")  # where a job is that does not just end

EMITTING = ("settle: save", "settle: emit")
STEPPING = ("settle: save", "settle: suspend", "settle: children", "signal", "signal: kept")
MOVING = ("take", "import")
WAKING = (*STEPPING, *[act for act in ACTS if act.startswith(("settle", "claim", "audit"))])

SPARED = {
    *[(act, "unique:") for act in ACTS if act not in ("push", "push: of an outbox", "fire")],  # not held then
    ("push", "relayed:"),  # its jobs are no rows of an outbox
    *[(act, key) for act in ACTS for key in ("holders:", "rate:")],  # nor is one share, or one rate
    *[("resume", key) for key in ("turns", "lines")],
    *[("push_plain", key) for key in ("ready:high", "ready:low")],  # where they do not go
    ("put_schedule", "schedulers:"),  # which no scheduler declares
    *[(act, "schedule:") for act in ACTS],  # one schedule that is none is in no other's way
    *[
        (act, key)
        for act in ("cancel", "cancel_children")
        for key in ("due", "delayed", "dead", "ready:high", "ready:low", "worker:")
    ],  # where it is not
    *[("cancel: of one that runs", key) for key in ("due", "delayed", "dead", "ready:high", "ready:low")],
    *[(act, "paused") for act in ACTS],  # that it is there is all that counts
    *[(act, "inbox") for act in ACTS if act not in ("claim", "join")],  # only these take it in, or make its group
    *[(act, key) for act in ACTS if act.startswith("settle") and "none" not in act for key in MAY_NOT_START],
    *[("pause", "paused:names"), ("resume", "paused:names"), ("pause: of a name", "paused")],
    *[("hold", key) for key in ("dead", "ready:high", "ready:low")],  # where it is not
    *[(act, "dead") for act in ("unhold", "shares", "fire", "screen")],
    ("screen", "delayed"),  # a parent that it would wake
    *[(act, key) for act in ACTS for key in ("result:", "outcome:", "progress:")],  # whatever was there is over
    *[(act, "waiters") for act in ACTS if act not in ("ask", "audit")],  # a notification is not worth a job
    *[("ask", key) for key in ("delayed", "ready:high", "ready:low")],  # where they are not
    *[("record", key) for key in (*LATER, "ready:high", "ready:normal", "ready:low")],  # only the sample is lost
    *[(act, "stats") for act in ACTS],  # to be counted is not worth a job
    *[
        (act, key) for act in ACTS if act != "audit" for key in ("large", "groups", "group:", "history")
    ],  # what can't be noted costs no job
    *[("audit", key) for key in ("group:", "worker:")],  # which it looks at by itself
    ("audit", "large"),
    *[(act, "promoter") for act in ACTS],  # what can't be read names no worker
    *[(act, "layout") for act in ("beat", "reclaim")],  # a lease is worth more than a look at all consumers
    *[(act, key) for act in ("settle: done", "settle: one by one", "settle: cancelled") for key in LATER],
    *[("settle: release", key) for key in (*LATER, "finished:")],
    *[("settle: fail", key) for key in ("due", "delayed", "finished:")],
    ("settle: retry", "dead"),
    *[("requeue", key) for key in ("due", "delayed")],
    *[("requeue: later", key) for key in ("ready:high", "ready:normal", "ready:low")],
    ("settle: none", "dead"),
    ("settle: none", "finished:"),
    *[(act, "worker:") for act in ACTS if act.startswith("release")],  # it goes, whatever it is
    ("tidy", "worker:"),
    ("join", "schedules"),  # which is looked at only where a queue of an older version is taken over
    *[
        (act, key)
        for act in (
            "settle: release",
            "settle: fail",
            "settle: none",
            "settle: save",
            "settle: emit",
            "settle: children",
        )
        for key in KEPT
    ],
    *[(act, "steps:") for act in ACTS if act not in STEPPING],  # whatever it is, it goes
    *[(act, "chunks:") for act in ACTS if act != "settle: emit"],
    *[(act, "children:") for act in ACTS if act not in ("settle: children", "cancel_children")],
    *[(act, "cancelling") for act in ACTS if act != "cancel_children"],
    *[
        (act, "signals")
        for act in ACTS
        if act not in ("settle: suspend", "signal", "signal: kept", "audit", *MOVING)
    ],
    *[(act, "suspended") for act in ACTS if act not in (*WAKING, *MOVING)],
    *[(act, key) for act in EMITTING for key in (*LATER, "finished:")],
    *[("settle: children", key) for key in ("dead", "finished:")],
    ("settle: suspend", "dead"),
    *[(act, "dead") for act in ("signal", "signal: kept")],
    *[("cancel: of one that runs", key) for key in KEPT],
    *[(act, key) for act in ("requeue", "requeue: later", "delete") for key in ("completed", "cancelled")],
}
"""What a script can do without, for these jobs."""


def script_of(act: str) -> str:
    return act.partition(":")[0]


def keys_of(act: str) -> list[str]:
    return [key for key in scripts.script(script_of(act)).keys if key not in CHANNELS]


def test_every_script_that_writes_is_walked() -> None:
    assert set(scripts.names()) == {*map(script_of, ACTS), *READERS}


async def claim(consumer: Consumer) -> list[Lease]:
    """All that there is: each exchange brings of one priority, and tells what is next."""
    answer = await consumer.exchange([], 9)
    leases = list(answer.leases)
    while answer.more:
        answer = await consumer.exchange([], 9)
        leases += answer.leases
    return leases


@pytest.fixture
async def scene(redis_store: RedisStore) -> AsyncIterator[Scene]:
    store = redis_store
    workers = [store.consumer(name, max_deliveries=2) for name in ("w1", "w2", "lost", "gone")]
    worker, heir, lost, gone = workers
    scene = Scene(store, worker, heir, lost, gone)
    for consumer in workers:
        await consumer.open()
    yield scene
    for consumer in workers:
        await consumer.aclose()
    await store.driver.aclose()


async def fill(scene: Scene) -> None:
    """Put a job into each state; on all three priorities. `lost` holds one, and `gone`, by a late read."""
    store = scene.store
    store.clock.advance(0)
    await fence(scene, "gone")
    for consumer in (scene.lost, scene.gone):
        await store.driver.push([job(f"of {consumer.worker_id}")], repeated=False)
        assert len(await consumer.wait(1, 0.01)) == 1
    store.admin.zadd(f"{store.prefix}fenced", {"gone": store.clock() - 1})
    await store.driver.change(SetLimit("Work", "max_concurrency=100 rate=100/h burst=1000"))
    await store.driver.push([job("dead"), job("back"), job("twice"), job("a")], repeated=False)
    await store.driver.push([job("waits")], repeated=False)
    await store.driver.push([job("held", priority=Priority.LOW, unique="held")], repeated=False)
    store.put({"name": "Work", "parameters": "{}"})
    store.put({"name": "Work", "parameters": "{}"}, Priority.LOW)
    taken = (await scene.worker.exchange([], 9)).leases
    names = ("dead", "back", "twice", "a", "waits", "put", "held", "low put")
    scene.leases = dict(zip(names, taken, strict=True))
    dead, back, twice, waits = (scene.leases.pop(name) for name in (*names[:3], "waits"))
    ended: list[Settlement] = [FAILED, Release(), RetryLater(After(1000)), WAITS]
    await scene.worker.exchange([*zip((dead, back, twice, waits), ended, strict=True)], None)
    ready = [job("ready", unique="ready"), job("high", priority=Priority.HIGH)]
    await store.driver.push(ready, repeated=False)
    await store.driver.change(PutSchedules([Put.whole(NIGHTLY)]))
    await store.driver.change(PutSchedules([], LEAVING))
    store.admin.hset(f"{store.prefix}schedule:nightly", "last_slot", store.clock() - 5000)
    await store.driver.change(Retain(Retention(completed=Keep(), cancelled=Keep())))
    store.admin.zadd(f"{store.prefix}lines", {"Work": 0})
    found = [await store.driver.read(Find(each)) for each in ("ready", "high", "dead", "twice")]
    scene.rows = [row for row in found if row]


async def fence(scene: Scene, worker_id: str) -> None:
    end = scene.store.clock() - 1
    scene.store.admin.zadd(f"{scene.store.prefix}workers", {worker_id: end})
    reclaimed = await scene.heir.reclaim([Silent(worker_id, str(end), 15)])
    assert reclaimed.fenced == [worker_id]


def prepare(store: RedisStore, script: str) -> None:
    """Let there be something to write for it, which is not there else."""
    match script:
        case "claim":
            store.clock.advance(60)  # what is set aside for that time is to be there
        case "reclaim":  # one lease is over, and one ends later than it can
            ends = {"lost": store.clock() - 1, "w1": store.clock() + 3_600_000}
            store.admin.zadd(f"{store.prefix}workers", ends)
        case "tidy":
            store.admin.zrem(f"{store.prefix}workers", "w1", "lost")
            store.admin.delete(f"{store.prefix}worker:lost")
            store.admin.xgroup_createconsumer(store.stream(Priority.HIGH), "workers", "idler")
        case "cancel_children":
            group = {"parent": "gone", "key": "render", "total": 2, "left": 2, "id 0": "ready"}
            store.admin.hset(f"{store.prefix}children:g", mapping=group)
            store.admin.zadd(f"{store.prefix}cancelling", {"g": 1})
        case "shares":
            store.admin.hset(f"{store.prefix}shares", "normal 1-1", "Work")
        case "trim":
            store.admin.hset(f"{store.prefix}retention", "dead", "0 -")
        case "audit":
            store.admin.hdel(f"{store.prefix}jobs", "ready")
        case "restore":
            store.admin.xgroup_delconsumer(store.stream(), "workers", "w1")
        case "recover":
            (entry, _, _), *_ = [row for row in store.pending() if row[1] == "w1"][1:]
            store.admin.xdel(store.stream(), entry)
        case "screen":
            store.admin.hset(f"{store.prefix}held", "a", "1")
        case "resume":
            store.admin.set(f"{store.prefix}paused", "1")
            store.admin.hset(f"{store.prefix}paused:names", "Paused", "1")
        case "unpark" | "unhold":
            store.admin.xreadgroup("workers", "parked", {store.stream(): ">"})
            store.admin.hset(
                f"{store.prefix}held", mapping={"ready": "1"} if script == "unhold" else {"other": "1"}
            )
        case "adopt":
            store.admin.delete(f"{store.prefix}jobs")
        case "join":
            store.admin.xgroup_destroy(store.stream(Priority.HIGH), "workers")


OF = {"signal": "waits", "signal: kept": "waits", "requeue": "dead", "requeue: later": "dead", "delete": "dead"}
OWN = {"claim": "w2", "reclaim": "w2", "join": "w3", "release: of one that was fenced": "gone"}


def name_of(store: RedisStore, key: str, worker_id: str = "w1", act: str = "") -> str:
    """What a key of the scene is called, of those that begin so."""
    names = {
        "ready:": "ready:normal",
        "unique:": "unique:held",
        "finished:": f"finished:{store.clock() // 5000}",
        "conflict:": "conflict:n5",
    }
    names |= {"schedulers:": f"schedulers:{LEAVING.release}"}
    names |= {"worker:": f"worker:{worker_id}", "holders:": "holders:Work", "rate:": "rate:Work"}
    names |= {"recorded:": "recorded:r", "minute:": f"minute:{store.clock() // 60_000}"}
    names |= {"ten:": f"ten:{store.clock() // 600_000}", "relayed:": "relayed:o"}
    names |= {"children:": "children:g", "imported:": "imported:o", "steps:": f"steps:{OF.get(act, 'a')}"}
    names |= {"chunks:": "chunks:a"}
    return f"{store.prefix}{names.get(key, key)}"


def spoil(store: RedisStore, key: str, worker_id: str = "w1", act: str = "") -> None:
    """Let this key be of another type than it should."""
    name = name_of(store, key, worker_id, act)
    store.admin.delete(name)
    if key in ("unique:", "conflict:", "recorded:"):
        store.admin.rpush(name, "junk")
    else:
        store.admin.set(name, "junk")


@contextmanager
def spoiled(store: RedisStore, key: str, worker_id: str = "w1", act: str = "") -> Iterator[None]:
    """Let this key be of another type meanwhile, if nothing is written."""
    name, aside = name_of(store, key, worker_id, act), f"{store.prefix}aside"
    if was_there := store.admin.exists(name):
        store.admin.rename(name, aside)
    spoil(store, key, worker_id, act)
    yield
    store.admin.delete(name)
    if was_there:
        store.admin.rename(aside, name)


def clear(store: RedisStore) -> None:
    """Remove all keys of the queue: some are spoiled."""
    for name in list(store.keys()):
        store.admin.delete(store.prefix + name)


def dump(store: RedisStore) -> dict[str, bytes]:
    return {key: store.admin.dump(store.prefix + key) for key, _ in store.keys().items()}


@pytest.mark.slow
@pytest.mark.parametrize("act", ACTS)
async def test_a_script_that_is_refused_by_any_one_key_has_written_none(scene: Scene, act: str) -> None:
    store = scene.store
    await fill(scene)
    prepare(store, script_of(act))
    whole = dump(store)

    for key in keys_of(act):
        if (act, key) in SPARED:
            continue
        with spoiled(store, key, OWN.get(act, "w1"), act):
            before = dump(store)
            with pytest.raises(WrongType, match="WRONGTYPE"):
                await ACTS[act](scene)
            assert changed(before, dump(store)) == set(), key
        assert changed(whole, dump(store)) == set(), key
    clear(store)


@pytest.mark.parametrize(
    ("act", "key"), [(act, key) for act in ACTS for key in keys_of(act) if (act, key) in SPARED]
)
async def test_a_script_goes_on_without_a_key_that_it_can_do_without(scene: Scene, act: str, key: str) -> None:
    """One at a time: without one of them it may not come to another one."""
    store = scene.store
    await fill(scene)
    prepare(store, script_of(act))
    spoil(store, key, OWN.get(act, "w1"), act)

    await ACTS[act](scene)

    clear(store)


@pytest.mark.parametrize("act", ACTS)
async def test_what_is_refused_there_is_done_where_no_key_is_spoiled(scene: Scene, act: str) -> None:
    store = scene.store
    await fill(scene)
    prepare(store, script_of(act))
    before = dump(store)

    await ACTS[act](scene)

    if act != "settle: none":
        assert changed(before, dump(store)) != set()
    clear(store)


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    return {name for name in before | after if before.get(name) != after.get(name)}


@pytest.mark.parametrize("key", ["worker:lost", "worker:gone"])
@pytest.mark.parametrize("way", ["spoiled", "removed"])
async def test_another_workers_record_blocks_no_other_whatever_became_of_it(
    scene: Scene, key: str, way: str
) -> None:
    store = scene.store
    await fill(scene)
    prepare(store, "reclaim")
    store.admin.delete(store.prefix + key)
    if way == "spoiled":
        store.admin.set(store.prefix + key, "junk")

    await ACTS["reclaim"](scene)

    holders = [
        row.worker for row in [await store.driver.read(Find(f"of {name}")) for name in ("lost", "gone")] if row
    ]
    assert holders == ["", ""]  # they are ready
    assert {store.admin.type(f"{store.prefix}worker:{name}") for name in ("lost", "gone")} == {b"hash"}


async def test_a_worker_whose_record_was_spoiled_is_told_so_and_then_that_it_was_fenced(scene: Scene) -> None:
    store = scene.store
    await fill(scene)
    spoil(store, "worker:", "lost")
    with closing(Heart(scene.lost)) as heart, pytest.raises(WrongType, match="worker:lost is a string"):
        heart.beat(list, {})
    prepare(store, "reclaim")
    await ACTS["reclaim"](scene)

    with closing(Heart(scene.lost)) as heart, pytest.raises(Fenced):
        heart.beat(list, {})
    await scene.lost.release(refund=False, watch=True)
    await scene.lost.open("lost-again")


@pytest.mark.parametrize("key", ["due", "delayed", "dead", "ready:low"])
async def test_a_key_that_was_spoiled_with_redis_cli_costs_no_push_and_no_claim_that_do_without(
    scene: Scene, key: str
) -> None:
    store = scene.store
    await store.driver.push([job("before")], repeated=False)
    spoil(store, key)

    assert await store.driver.push([job("after", unique="key")], repeated=False) == [Pushed(Reply.OK)]
    if key in ("delayed", "dead"):  # what is due, and what is ready, is asked each time
        assert [lease.job_id for lease in (await scene.worker.exchange([], 9)).leases] == ["before", "after"]
    store.admin.delete(store.prefix + key)


@pytest.mark.parametrize(
    ("jobs", "key"),
    [([job("a"), job("b", priority=Priority.LOW)], "ready:low"), ([job("a", due=After(1000))], "delayed")],
)
async def test_a_push_that_meets_a_spoiled_key_after_its_first_write_has_written_nothing(
    scene: Scene, jobs: list[NewJob], key: str
) -> None:
    store = scene.store
    spoil(store, key)
    before = dump(store)
    with pytest.raises(DriverError, match="WRONGTYPE"):
        await store.driver.push(jobs, repeated=False)
    assert dump(store) == before
    store.admin.delete(store.prefix + key)


@pytest.mark.parametrize("key", ["jobs", "dead", "finished:"])
async def test_a_claim_of_what_was_handed_back_has_leased_nothing_where_it_is_refused(
    scene: Scene, key: str
) -> None:
    """Nothing is due, and a new job of a higher priority would have been leased first."""
    store = scene.store
    await fill(scene)
    spoil(store, key)
    before = dump(store)
    with pytest.raises(DriverError, match="WRONGTYPE"):
        await scene.heir.exchange([], 9)
    assert dump(store) == before
    assert store.pending(Priority.HIGH) == []
    clear(store)


async def test_a_job_that_was_done_long_after_its_push_needs_nothing_of_what_remembers_pushes(
    scene: Scene,
) -> None:
    store = scene.store
    store.clock.advance(0)
    await store.driver.push([job("old"), job("young")], repeated=False)
    old, young = (await scene.worker.exchange([], 2)).leases
    spoil(store, "finished:")
    before = dump(store)
    with pytest.raises(DriverError, match="WRONGTYPE"):
        await scene.worker.exchange([(young, Ack())], None)
    assert dump(store) == before

    store.clock.advance(66)
    await scene.worker.exchange([], 0)  # so that it hears what time it is
    spoil(store, "finished:")
    assert (await scene.worker.exchange([(old, Ack())], None)).replies == [Reply.OK]
    clear(store)


async def test_a_claim_of_none_promotes_nothing_where_one_stream_was_spoiled(scene: Scene) -> None:
    store = scene.store
    store.clock.advance(0)
    delayed = [job("a", due=After(1)), job("b", due=After(1), priority=Priority.LOW)]
    await store.driver.push(delayed, repeated=False)
    store.clock.advance(1)
    spoil(store, "ready:low")
    before = dump(store)
    with pytest.raises(DriverError, match="WRONGTYPE"):
        await scene.worker.exchange([], 0)
    assert dump(store) == before
    store.admin.delete(store.stream(Priority.LOW))


@pytest.mark.parametrize("key", ["due", "delayed"])
async def test_a_retry_of_two_of_which_only_the_second_meets_a_spoiled_key_has_written_neither(
    scene: Scene, key: str
) -> None:
    store = scene.store
    await fill(scene)
    spoil(store, key)
    before = dump(store)
    both: list[tuple[Lease, Settlement]] = [
        (scene.leases["a"], RetryLater(After(0))),
        (scene.leases["held"], RetryLater(After(5000))),
    ]
    with pytest.raises(DriverError, match="WRONGTYPE"):
        await scene.worker.exchange(both, None)
    assert dump(store) == before
    clear(store)


@pytest.mark.parametrize("act", ["settle: release", "settle: fail", "settle: done", "claim", "reject"])
async def test_the_key_that_was_spoiled_with_redis_cli_is_named_with_what_it_is_and_has_to_be(
    scene: Scene, act: str
) -> None:
    store = scene.store
    await fill(scene)
    spoil(store, "jobs")
    said = (
        f"WRONGTYPE {store.prefix}jobs is a string, it must be a hash; nothing was written: rename it or delete it"
    )
    with pytest.raises(DriverError, match=re.escape(said)):
        await ACTS[act](scene)
    clear(store)


PUSHED_INTO = {"jobs": "hash", "ready:normal": "stream", "finished": "set"}
COUNTED = {"ready:low": "stream", "due": "zset", "dead": "stream", "cancelled": "stream", "stats": "hash"}
PUSHES = {
    "one": [NewJob("P7SeCo0BTZMleAxBUF", ["name", "Work", "parameters", "{}"])],
    "plain": [NewJob(f"P7SeCo0BTZMleAxBU{n}", ["name", "Work", "parameters", "{}"]) for n in range(2)],
    "given": [NewJob("a", ["name", "Work"], nonce="n", unique="key")],
}


@pytest.mark.parametrize(
    ("act", "key", "kind"),
    [
        *((act, key, kind) for act in ("one", "plain", "given") for key, kind in PUSHED_INTO.items()),
        *(("counts", key, kind) for key, kind in COUNTED.items()),
    ],
)
async def test_a_push_and_a_count_name_the_key_that_has_a_wrong_type(
    redis_store: RedisStore, act: str, key: str, kind: str
) -> None:
    store = redis_store
    store.clock.advance(0)
    slot = store.clock() // 5000
    spoiled = [f"finished:{number}" for number in range(slot - 1, slot + 2)] if key == "finished" else [key]
    for each in spoiled:
        spoil(store, each)

    jobs = [replace(job) for job in PUSHES.get(act, ())]

    with pytest.raises(WrongType) as caught:
        await (store.driver.push(jobs, repeated=False) if jobs else store.driver.read(Count()))

    assert str(caught.value).startswith(f"WRONGTYPE {store.prefix}{key}")
    assert str(caught.value).endswith(
        f" is a string, it must be a {kind}; nothing was written: rename it or delete it"
    )
    assert {*store.keys()} == {*spoiled}
    for each in spoiled:
        store.admin.delete(store.prefix + each)
    await store.driver.aclose()


@pytest.mark.parametrize("act", ["one", "plain", "given"])
async def test_a_push_that_lacks_a_permission_says_so(redis_store: RedisStore, act: str) -> None:
    store = redis_store
    store.admin.execute_command("ACL", "SETUSER", store.user, "-xadd")

    with pytest.raises(DriverError, match=r"the server's ACL forbids what this role needs: .*'xadd'"):
        await store.driver.push([replace(job) for job in PUSHES[act]], repeated=False)

    await store.driver.aclose()


SPOILED = ["", "no JSON", "5", "null", '"x"', "[]", '["normal","id"]', '["normal","nonce",{}]', "[" * 2000]
"""What a delayed job's fields can't be."""


@pytest.mark.parametrize("spoiled", SPOILED)
async def test_a_delayed_job_that_was_spoiled_with_redis_cli_costs_no_other_push(
    redis_store: RedisStore, spoiled: str
) -> None:
    store, ran = redis_store, Counter[int]()
    async with JobQueue(store.url, store.queue_name) as queue:

        @queue.job(name="Work", retry=no_retry())
        async def work(n: int) -> None:
            ran[n] += 1

        await work.options(job_id="x", delay=3600).push(0)
        store.admin.hset(f"{store.prefix}delayed", "x", spoiled)
        added: dict[int, bool | None] = {}

        async def push(n: int) -> None:
            options = {"job_id": "x"} if n == 20 else {"unique": f"key {n}"}
            added[n] = (await work.options(**options).push(n)).added  # type: ignore[arg-type]

        async with anyio.create_task_group() as tasks:
            for n in range(40):
                tasks.start_soon(push, n)
        await Worker(queue).run(until_idle=True)

    assert {n for n, is_added in added.items() if not is_added} == {20}
    assert ran == Counter(set(range(40)) - {20})
    for name in ("due", "delayed", "jobs"):
        store.admin.delete(store.prefix + name)


@pytest.mark.parametrize("number", ["x", str(2**63 - 1)])
async def test_a_counter_that_cannot_count_costs_no_push(redis_store: RedisStore, number: str) -> None:
    store = redis_store
    store.admin.hset(f"{store.prefix}stats", "pushed", number)
    pushed = await store.driver.push([job("a", unique="key"), job("b", due=After(1000))], repeated=False)
    assert pushed == [Pushed(Reply.OK)] * 2
    assert await store.driver.push([job("a"), job("b")], repeated=True) == [Pushed(Reply.REPEATED)] * 2
    await store.driver.aclose()


@pytest.mark.parametrize("command", ["hincrby", "publish"])
async def test_a_producer_that_may_not_count_or_tell_pushes_all_the_same(
    redis_store: RedisStore, command: str
) -> None:
    store = redis_store
    store.admin.execute_command("ACL", "SETUSER", store.user, f"-{command}")
    assert await store.driver.push([job("a", due=After(1000)), job("b")], repeated=False) == [Pushed(Reply.OK)] * 2
    await store.driver.aclose()


async def test_who_may_neither_count_nor_tell_cancels_a_job_that_runs_all_the_same(scene: Scene) -> None:
    store = scene.store
    await store.driver.push([job("a"), job("b")], repeated=False)
    leases = (await scene.worker.exchange([], 2)).leases
    store.admin.execute_command("ACL", "SETUSER", store.user, "-hincrby", "-publish")

    assert await store.driver.change(Cancel("b")) is Reply.CANCELLING

    with closing(Heart(scene.worker)) as heart:  # which looks each time
        assert [lease.job_id for lease in heart.beat(lambda: leases, {})] == ["b"]


async def test_where_a_producer_lacks_a_permission_half_way_what_it_added_is_found_when_it_is_repeated(
    redis_store: RedisStore,
) -> None:
    store = redis_store
    store.admin.execute_command("ACL", "SETUSER", store.user, "-set")
    jobs = [job("a"), job("b", unique="key"), job("c")]
    with pytest.raises(DriverError, match="ACL"):
        await store.driver.push(jobs, repeated=False)
    store.admin.execute_command("ACL", "SETUSER", store.user, "+set")

    again = await store.driver.push(jobs, repeated=True)

    assert [answer.reply for answer in again] == [Reply.REPEATED, Reply.REPEATED, Reply.OK]
    assert store.admin.xlen(store.stream()) == 3
    await store.driver.aclose()


# Streams without ids


async def test_a_priority_whose_stream_has_the_largest_entry_id_refuses_pushes_and_the_others_go_on(
    scene: Scene,
) -> None:
    store, largest = scene.store, 2**64 - 1
    store.clock.advance(0)
    await store.driver.push([job("later", due=After(1000))], repeated=False)
    store.put({"name": "Last", "parameters": "{}"}, entry=f"{largest}-{largest}")

    for jobs in (["one"], ["a", "b"]):
        with pytest.raises(DriverError, match="exhausted"):
            await store.driver.push([job(name) for name in jobs], repeated=False)
    pushed = await store.driver.push([job("low", priority=Priority.LOW)], repeated=False)

    assert pushed == [Pushed(Reply.OK)]
    store.clock.advance(2)  # what is due there waits, and keeps no other from being claimed
    assert sorted(lease.job_id[:3] for lease in await claim(scene.worker)) == ["low", "put"]
    row = await store.driver.read(Find("later"))
    assert row is not None
    assert row.state is State.DELAYED


UNREADABLE = [
    *["no JSON", "", "null", "5", '"x"', "[]", "{}", '{"1":"normal","2":"a","3":"b"}', "[" * 2000],
    *['["normal"]', '["normal","id"]', '["urgent","a","b"]', '[["normal"],"a","b"]', '["normal",null,"b"]'],
    *[f'["normal","a",{value}]' for value in ("{}", "[]", "null", "true", "1.5")],
    json.dumps(["normal", *["field"] * 9000]),
]


@pytest.mark.parametrize("text", UNREADABLE, ids=lambda text: text[:30])
async def test_what_cannot_be_promoted_blocks_no_other(scene: Scene, text: str) -> None:
    store = scene.store
    store.clock.advance(0)
    await store.driver.push([job("bad", due=After(1000)), job("good", due=After(2000))], repeated=False)
    store.admin.hset(f"{store.prefix}delayed", "bad", text)
    store.clock.advance(3)

    exchange = await scene.worker.exchange([], 9)
    assert [lease.job_id for lease in exchange.leases] == ["good"]
    assert exchange.due_in == 60  # no worker asks for it again before

    store.admin.hset(f"{store.prefix}delayed", "bad", '["normal","id","bad","name","Work","parameters","{}"]')
    store.clock.advance(61)
    assert [lease.job_id for lease in await claim(scene.worker)] == ["bad"]


@pytest.mark.parametrize("text", UNREADABLE, ids=lambda text: text[:30])
async def test_a_delayed_job_that_cannot_be_read_is_listed_with_the_others_and_can_be_cancelled(
    scene: Scene, text: str
) -> None:
    store = scene.store
    await store.driver.push([job("bad", due=After(1000)), job("good", due=After(2000))], repeated=False)
    store.admin.hset(f"{store.prefix}delayed", "bad", text)
    async with JobQueue(store.url, store.queue_name) as queue:
        listed = await queue.control.jobs("delayed")
        looked_up = await queue.get("bad")

        assert [each.job_id for each in listed] == ["bad", "good"]
        assert looked_up == listed[0]
        assert "changed outside redisjobs" in listed[0].error
        assert await queue.cancel("bad") is Reply.CANCELLED
        assert [each.job_id for each in await queue.control.jobs("delayed")] == ["good"]


@pytest.mark.parametrize("score", [math.inf, -math.inf, 1e300])
async def test_a_due_time_may_be_any_number(scene: Scene, score: float) -> None:
    store = scene.store
    await store.driver.push([job("odd", due=After(1000))], repeated=False)
    store.admin.zadd(f"{store.prefix}due", {store.admin.zrange(f"{store.prefix}due", 0, 0)[0]: score})
    async with JobQueue(store.url, store.queue_name) as queue:
        (listed,) = await queue.control.jobs("delayed")

    answer = await scene.worker.exchange([], 9)

    assert listed.due_at == when(10**15 if score > 0 else 0)
    assert [lease.job_id for lease in answer.leases] == ([] if score > 0 else ["odd"])
    assert answer.due_in is None if score < 0 else (answer.due_in or 0) > 1e8


# Members of `due` that were added with redis-cli


@pytest.mark.parametrize("job_id", ["old", "order 7", "7", "1-1", " "])
async def test_a_member_of_due_without_a_place_in_line_is_a_job_by_that_id(scene: Scene, job_id: str) -> None:
    store = scene.store
    store.clock.advance(0)
    await store.driver.push([job("7" if job_id != "7" else "8")], repeated=False)
    bystander = store.located()
    fields = json.dumps(["normal", "id", job_id, "name", "Work", "parameters", "{}"])
    store.admin.zadd(f"{store.prefix}due", {job_id: store.clock() + 1000})
    store.admin.hset(f"{store.prefix}delayed", job_id, fields)
    store.admin.hset(f"{store.prefix}jobs", job_id, "delayed")
    row = await store.driver.read(Find(job_id))
    assert row is not None
    assert (row.state, row.due_ms) == (State.DELAYED, store.clock() + 1000)
    assert [row.job_id for row in await rows_of(store.driver, State.DELAYED, 9)] == [job_id]
    store.clock.advance(2)

    await scene.worker.exchange([], 0)

    located = store.located()
    assert located.pop(job_id).startswith("normal ")
    assert located == bystander


async def test_a_member_of_due_without_a_place_in_line_is_cancelled_whole(scene: Scene) -> None:
    store = scene.store
    store.admin.zadd(f"{store.prefix}due", {"order 7": store.clock() + 1000})
    store.admin.hset(f"{store.prefix}delayed", "order 7", '["normal","id","order 7"]')
    store.admin.hset(f"{store.prefix}jobs", "order 7", "delayed")

    assert await store.driver.change(Cancel("order 7")) is Reply.CANCELLED

    assert store.admin.zcard(f"{store.prefix}due") == 0


async def test_a_member_of_due_that_is_unknown_goes_and_no_other_job_loses_its_place(
    scene: Scene,
) -> None:
    store = scene.store
    store.clock.advance(0)
    await store.driver.push([job("7"), job("later", due=After(60000))], repeated=False)
    located, now = store.located(), store.clock()
    store.admin.zadd(f"{store.prefix}due", {"order 7": now, "7": now, "1-1 7": now, "": now, "1-1 gone": now})
    store.admin.hset(f"{store.prefix}jobs", "gone", "delayed 1-1")

    await scene.worker.exchange([], 0)

    assert store.located() == located
    assert store.admin.zcard(f"{store.prefix}due") == 1


# Counters


@pytest.mark.parametrize("counter", ["x", "", str(2**63 - 1), "1.5"])
async def test_what_cannot_be_counted_is_done_all_the_same(scene: Scene, counter: str) -> None:
    store, driver, worker = scene.store, scene.store.driver, scene.worker
    await driver.push([job(job_id) for job_id in ("a", "b", "c", "d", "e", "f", "g", "h")], repeated=False)
    for name in COUNTERS:
        store.admin.hset(f"{store.prefix}stats", name, counter)
    leases = (await worker.exchange([], 7)).leases

    settlements: list[Settlement] = [
        Ack(),
        FAILED,
        FAILED,
        RetryLater(After(60000)),
        RetryLater(After(0)),
        Release(),
    ]
    assert (await worker.exchange(list(zip(leases, settlements, strict=False)), None)).replies == [Reply.OK] * 6
    assert await driver.change(Requeue("b")) is Reply.OK
    assert await driver.change(Delete("c")) is Reply.OK
    assert await driver.change(Cancel("d")) is Reply.CANCELLED
    assert await worker.release(refund=True, watch=False) == 1
    await worker.open("w1-again")
    assert [lease.job_id for lease in await claim(worker)] == ["f", "g", "h", "e", "b"]
    store.age(60)
    heir = store.consumer("w3", max_deliveries=9)
    assert len(await inherit(heir)) == 5
    await heir.aclose()

    known = int(counter) if counter.isdigit() else 0
    assert (await driver.read(Count())).totals == dict.fromkeys(COUNTERS, known)


async def test_what_is_no_number_among_the_counters_is_left_out(scene: Scene) -> None:
    store = scene.store
    stats = {b"mine": 3, b"\xff": 4, b"text": b"\xff", b"huge": "9" * 5000, "completed": "no", "retried": 2}
    store.admin.hset(f"{store.prefix}stats", mapping=stats)

    totals = (await store.driver.read(Count())).totals

    assert totals == dict.fromkeys(COUNTERS, 0) | {"mine": 3, "\ufffd": 4, "retried": 2}


# A worker meanwhile


def fail_at_once(store: RedisStore, starts: list[int]) -> JobQueue:
    """A queue with a handler that fails for good."""
    queue = JobQueue(store.url, store.queue_name)

    @queue.job(name="Work", retry=no_retry())
    async def work() -> None:
        starts.append(1)
        raise ValueError("as it should")

    return queue


async def fail_without_a_stream(store: RedisStore, starts: list[int]) -> JobQueue:
    """A queue with one job, whose handler fails for good; its dead letters can't be written."""
    queue = fail_at_once(store, starts)
    await queue.push({}, "Work", job_id="a")
    store.admin.set(f"{store.prefix}dead", "junk")
    return queue


async def test_a_failure_that_can_not_be_written_is_kept_until_it_can(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recovery, "_REFUSED", 0.05)
    starts: list[int] = []
    async with await fail_without_a_stream(redis_store, starts) as queue, anyio.create_task_group() as tasks:
        worker = Worker(queue, lease=2)
        tasks.start_soon(worker.run)
        await eventually(lambda: "dead is a string, it must be a stream" in caplog.text)
        await eventually(lambda: "dead is a string, it must be a stream" in worker.health.why)
        assert worker.health.why.startswith("the store refuses: WRONGTYPE ")
        assert (worker.health.live, worker.health.ready) == (True, False)

        redis_store.admin.delete(f"{redis_store.prefix}dead")

        await eventually(lambda: redis_store.admin.xlen(f"{redis_store.prefix}dead") == 1)
        worker.stop()
        info = await queue.get("a")
    assert info is not None
    assert (info.reason, len(starts)) == ("failed", 1)


async def test_a_worker_that_starts_while_a_key_is_spoiled_says_which_and_works_once_it_is_fixed(
    redis_store: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    key = redis_store.stream()
    redis_store.admin.set(key, "junk")
    async with JobQueue(redis_store.url, redis_store.queue_name) as queue, anyio.create_task_group() as tasks:
        worker = Worker(queue, lease=2)
        tasks.start_soon(worker.run)
        await eventually(lambda: "refuses" in worker.health.why)

        assert (worker.health.live, worker.health.ready) == (True, False)
        assert worker.health.why.startswith("the store refuses: WRONGTYPE ")
        assert "the store is unavailable" not in caplog.text
        redis_store.admin.delete(key)
        await eventually(lambda: worker.health.ready)
        worker.stop()


async def test_a_failure_that_can_not_be_written_until_the_workers_end_costs_no_delivery(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(source, "_DRAIN", 0.2)
    starts: list[int] = []
    async with await fail_without_a_stream(redis_store, starts) as queue, anyio.create_task_group() as tasks:
        worker = Worker(queue, lease=60, grace=0)
        tasks.start_soon(worker.run)
        await eventually(lambda: "it must be a stream" in caplog.text)
        worker.stop()
    assert [(worker, deliveries) for _, worker, deliveries in redis_store.pending()] == [("released", 0)]
    redis_store.admin.delete(f"{redis_store.prefix}dead")


@pytest.mark.parametrize("key", ["paused:names", "held", "workers", "progress:ready"])
async def test_a_job_is_shown_though_what_says_why_it_waits_was_spoiled_with_redis_cli(
    redis_store: RedisStore, key: str
) -> None:
    store = redis_store
    async with aclosing(store.driver) as driver:
        await driver.push([job("ready")], repeated=False)
        spoil(store, key)
        found = await driver.read(Find("ready"))
        listed = (await driver.read(Scan(State.READY))).rows

    assert found is not None
    assert [row.job_id for row in (found, *listed)] == ["ready", "ready"]
    assert {row.why_waiting for row in (found, *listed)} == {None if key == "workers" else WhyWaiting.NO_WORKER}
    store.admin.delete(store.prefix + key)
