"""The users of docs/how-to/restrict-access.md: each can do its role and no more, and no word is idle."""

import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import pytest
import redis
from store import Heart, RedisStore, documented_rule, eventually, restore, take_over

from conftest import ENGINES, Servers
from redisjobs import DriverError, Fail, JobContext, JobFailed, JobQueue, Retry, Worker
from redisjobs.drivers import sync_side
from redisjobs.drivers.redis.driver import RedisDriver
from redisjobs.errors import Forbidden, ResultNotKept
from redisjobs.local import server
from redisjobs.model.changes import Cancel, Declare, GetStatus, Requeue, Retain, SetLimit, Tidy
from redisjobs.model.children import CancelChildren, FindChildren
from redisjobs.model.definition import Definition
from redisjobs.model.driver import Consumer, Driver, Notification
from redisjobs.model.emissions import ChunkKind, EmitChunks, NewChunk
from redisjobs.model.health import Level
from redisjobs.model.job import OnConflict, Priority, State
from redisjobs.model.queries import Count, GetBacklog
from redisjobs.model.recording import Record
from redisjobs.model.retention import Keep, Retention
from redisjobs.model.steps import GetSteps
from redisjobs.model.stored import (
    Declarer,
    Fire,
    Firing,
    ListSchedules,
    Put,
    PutSchedules,
    SchedulePage,
    WithdrawSchedules,
)
from redisjobs.model.transitions import (
    Ack,
    AddChildren,
    After,
    DeadLetter,
    Due,
    Exchange,
    Group,
    Lease,
    NewJob,
    Release,
    Reply,
    Result,
    RetryLater,
    SaveStep,
    Settlement,
    Suspend,
    Wait,
    WaitsFor,
)
from redisjobs.schedules.schedule import Schedule
from redisjobs.sync import JobQueue as SyncJobQueue
from redisjobs_proof.torture.topology import Cluster, _Sentinel, ask

pytestmark = pytest.mark.anyio

Role = Callable[[str, RedisStore], Awaitable[None]]

FORBIDDEN = "ACL"  # of the command itself, or of one in a script
SPARE = ("+client|id", "+client|unblock")  # without them a worker cuts off what it would have ended in order


@dataclass
class Add:
    job_name: ClassVar[str] = "Add"
    a: int


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer is gone at once, and the connection that listens shows life all the time."""
    monkeypatch.setattr("redisjobs.drivers.redis.long_calls._GONE_MS", -1)
    monkeypatch.setattr("redisjobs.drivers.redis.reader._PING", 0.002)


@contextmanager
def user(store: RedisStore, words: list[str]) -> Iterator[str]:
    """A user by these words alone; its URL."""
    name, password = f"role-{secrets.token_hex(6)}", secrets.token_hex(8)
    parts = urlsplit(store.url)
    store.admin.execute_command("ACL", "SETUSER", name, "reset", "on", f">{password}", *words)
    store.admin.script_flush()  # the role has to load what it runs
    try:
        yield f"{parts.scheme}://{name}:{password}@{parts.hostname}:{parts.port}{parts.path}"
    finally:
        store.admin.execute_command("ACL", "DELUSER", name)


@asynccontextmanager
async def consuming(driver: Driver, worker_id: str, lease: float = 15) -> AsyncIterator[Consumer]:
    consumer = driver.consumer(worker_id, lease=lease, max_deliveries=2)
    try:
        yield consumer
    finally:
        await consumer.aclose()


async def push(store: RedisStore, *job_ids: str, due: Due | None = None, unique: str = "") -> None:
    fields = ["name", "Add", "parameters", '{"a": 1}']
    jobs = [NewJob(job_id, fields, due=due, unique=unique) for job_id in job_ids]
    assert {pushed.reply for pushed in await store.driver.push(jobs, repeated=False)} == {Reply.OK}


@contextmanager
def long_ago(store: RedisStore) -> Iterator[None]:
    """What is pushed meanwhile, by the store's own clock, is due by now."""
    store.clock.set_to = 1_000
    yield
    store.clock.set_to = None


# What each role does, all of it


async def produce(url: str, store: RedisStore) -> None:
    await put_flow(store)
    with SyncJobQueue(url, store.queue_name) as queue:
        steer(queue, store)
    async with consuming(store.driver, "w") as worker:
        await worker.open()
        await push(store, "released", "running")
        released, _ = (await worker.exchange([], 2)).leases
        await worker.exchange([(released, Release())], None)
    by_hand = store.put({"name": "Add", "parameters": '{"a": 1}'})

    with telling(store, "due", "cancel"), SyncJobQueue(url, store.queue_name) as queue:
        assert [queue.push(Add(1), job_id="mine").added for _ in range(2)] == [True, False]
        assert str(queue.push(Add(1), job_id="held", unique="k")) == str(queue.push(Add(1), unique="k")) == "held"
        late = queue.push(Add(1), delay=60).id
        assert store.admin.hget(f"{store.prefix}stats", "pushed") == b"9"
        replacing = [
            queue.push(Add(2), unique="k", on_conflict="replace", delay=each) for each in (None, 60, None)
        ]
        assert [(each.id, each.replaced) for each in replacing] == [("held", True)] * 3
        ids = ["mine", *map(str, queue.push_many([Add(1), Add(2)])), late, by_hand, "running"]
        infos = [queue.get(job_id) for job_id in ids]
        assert [info and info.state for info in infos] == ["ready"] * 3 + ["delayed", "ready", "running"]
        gone = [late, "held", "mine", "released", by_hand]
        with forgetting(store):
            assert {queue.cancel(job_id) for job_id in gone} == {Reply.CANCELLED}
        assert queue.push(Add(1), unique="k").added
        assert queue.cancel("running") is Reply.CANCELLING
        assert [*queue.stream("mine")] == []
        with telling(store, "schedules"):
            queue.schedules.put("nightly", Add(1), Schedule.daily())
        await wait_for_a_result(queue, store, url)
        with telling_waiters(store):
            await end_by_a_cancel(queue, store)
    assert counted(store, "cancelled") == len(gone) + 4


async def put_flow(store: RedisStore) -> None:
    """Jobs p (it waits for its child c), w (it waits for a signal), and s (dead, with a step)."""
    await push(store, "p", "w", "s")
    group = Group("0123456789abcdef01234567", "all", 1)
    child = NewJob("c", ["name", "Add", "parameters", '{"a": 1}', "child_of", f"{group.token} 0"])
    async with consuming(store.driver, "flow") as worker:
        await worker.open()
        leases = {lease.job_id: lease for lease in (await claim(worker)).leases}
        settlements: list[tuple[Lease, Settlement]] = [
            (leases["p"], Suspend(Wait(1, WaitsFor.CHILDREN, "all"), group=group, pushes=[child])),
            (leases["w"], Suspend(Wait(1, WaitsFor.SIGNAL, "go"))),
            (leases["s"], SaveStep("one", 1, b"1")),
            (leases["s"], DeadLetter("failed", "no")),
        ]
        assert {*(await worker.exchange(settlements, None)).replies} == {Reply.OK}


def steer(queue: SyncJobQueue, store: RedisStore) -> None:
    """Wake a job of a flow, and cancel another one with its child."""
    assert [queue.signal("w", "go", 1), queue.signal("w", "on", 1)] == [Reply.OK, Reply.KEPT]
    assert queue.cancel("p") is Reply.CANCELLED
    assert queue.get("c") is None
    assert queue.cancel("w") is Reply.CANCELLED
    assert not [key for key, _ in store.keys().items() if key.startswith(("children:", "steps:w", "cancelling"))]


async def wait_for_a_result(queue: SyncJobQueue, store: RedisStore, url: str) -> None:
    """It is waited for until the connection that listens has shown life, and then it is there."""
    job, got, name = queue.push(Add(1), job_id="kept", priority="high", keep_result=60), list[Any](), user_of(url)

    def is_waited_for() -> bool:
        return store.admin.hexists(f"{store.prefix}waiters", job.id) and has_pinged(store, name)

    async def wait() -> None:
        got.append(await anyio.to_thread.run_sync(partial(queue.result, job, timeout=5)))

    async with anyio.create_task_group() as tasks, consuming(store.driver, "w5") as worker:
        tasks.start_soon(wait)
        await worker.open()
        await eventually(lambda: is_waited_for() or got)
        assert 0 < store.admin.ttl(f"{store.prefix}waiters") <= 86400
        (lease,) = (await worker.exchange([], 1)).leases
        await worker.exchange([(lease, Ack(result=Result(60_000, b"5")))], None)
    assert got == [5]
    assert queue.push(Add(1), job_id="kept", delay=60).added
    assert not store.admin.exists(f"{store.prefix}result:kept", f"{store.prefix}outcome:kept")


async def end_by_a_cancel(queue: SyncJobQueue, store: RedisStore) -> None:
    """A job is cancelled that is waited for and whose end is recorded."""
    fields = ["name", "Add", "parameters", '{"a": 1}', "keep_result", "60000"]
    assert await store.driver.push([NewJob("waited", fields)], repeated=False)
    await store.driver.change(GetStatus(["waited"], "a-process"))
    assert queue.cancel("waited") is Reply.CANCELLED
    assert store.admin.get(f"{store.prefix}outcome:waited") == b"cancelled"
    assert not store.admin.exists(f"{store.prefix}waiters")


@contextmanager
def telling_waiters(store: RedisStore) -> Iterator[None]:
    """Meanwhile a process waits for a job and learns of its end."""
    with store.admin.pubsub(ignore_subscribe_messages=True) as ear:
        ear.psubscribe(f"{store.prefix}waiter:0:*".replace("[", r"\["))
        ear.get_message(timeout=5)  # that it is subscribed
        yield
        message = ear.get_message(timeout=1)
        assert message
        assert message["data"].startswith(b"changed ")


@contextmanager
def forgetting(store: RedisStore) -> Iterator[None]:
    """Meanwhile what is remembered of ended jobs expires."""
    seconds, _ = store.admin.time()
    old = [f"{store.prefix}finished:{seconds // 5 - 13 + ahead}" for ahead in range(3)]  # it may take that long
    for key in old:
        store.admin.sadd(key, "an id")
    yield
    assert store.admin.exists(*old) < len(old)
    store.admin.delete(*old)


def counted(store: RedisStore, counter: str) -> int:
    """What no user learns who may not do it."""
    return int(store.admin.hget(f"{store.prefix}stats", counter) or 0)


async def work(url: str, store: RedisStore) -> None:
    driver = RedisDriver(url, store.queue_name)
    async with (
        aclosing(driver),
        consuming(driver, "w1") as worker,
        consuming(driver, "w2") as heir,
        consuming(driver, "w3") as last,
    ):
        assert await worker.open() == []
        assert await driver.change(Retain(Retention(completed=Keep(), dead=Keep(count=1)))) is Reply.OK
        assert not await driver.change(Declare("c0ffee", done=True))
        await push(store, "done", "later", "again", "dead", "back", "unseen", "killer")
        await push(store, "unique", unique="k")
        with long_ago(store):
            await push(store, "due", due=After(1))

        answer = await worker.exchange([], 10)
        leases = {lease.job_id: lease for lease in answer.leases}
        assert len(leases) == 9
        with closing(Heart(worker)) as heart:
            assert heart.beat(lambda: list(leases.values()), {"host": "h"}) == ()
            assert worker.sync.change(Record("r", 1, {"Add": {"completed": 1}}, {"expired": 1})).workers == 1
        chunks = EmitChunks([NewChunk(ChunkKind.JSON, b"1")] * 2, 0)
        assert (await worker.exchange([(leases["done"], chunks)] * 2, None)).replies == [Reply.OK] * 2
        await store.driver.change(GetStatus(["done"], "a-process"))
        with telling(store, "due", "released"), telling_waiters(store), forgetting(store):
            await settle_all(worker, leases, store.put({"name": "Add", "parameters": "{}"}))
        assert [lease.job_id for lease in await worker.recover([leases["killer"]])] == ["unseen"]
        with telling(store, "released"):
            await heir.open()
            await reclaim(store, heir, leases["killer"].token[1])
        await last.open()
        await end_killer(store, driver, last)
        await push(store, "left")
        await claim(last)
        with closing(Heart(last)) as heart:
            assert heart.release() == 1
        await work_under_a_limit(driver, last, store)
        await run_flow(driver, last, store)
        await declare(driver, store)
        await listen(worker, store, url)
    assert store.admin.get(f"{store.prefix}result:done") == b"5"
    assert store.admin.get(f"{store.prefix}outcome:done") == b"completed"
    assert not store.admin.exists(f"{store.prefix}waiters")
    counters = ("completed", "retried", "dead", "released", "reclaimed", "trimmed")
    assert [counted(store, counter) for counter in counters] == [12, 2, 2, 2, 4, 1]
    assert [store.admin.xlen(f"{store.prefix}{state}") for state in ("completed", "dead")] == [12, 1]


async def work_under_a_limit(driver: Driver, last: Consumer, store: RedisStore) -> None:
    """One of two jobs waits until the other has ended; lines and shares are looked at meanwhile."""
    await last.open("w4")
    assert await driver.change(SetLimit("Add", "max_concurrency=1 rate=1000/s")) == ""
    left = (await claim(last)).leases
    await push(store, "limited")
    assert (await last.exchange([], 3)).leases == []
    after = "consumers+shares 1 0"
    while after:
        after = (await driver.change(Tidy(after))).after
    second = await last.exchange([(lease, Ack()) for lease in left], 3)
    assert [lease.job_id for lease in (*left, *second.leases)] == ["left", "limited"]
    assert (await last.exchange([(lease, Ack()) for lease in second.leases], None)).replies == [Reply.OK]
    assert await driver.change(SetLimit("Add", "")) == ""


async def run_flow(driver: Driver, worker: Consumer, store: RedisStore) -> None:
    """A job saves a step, sleeps, runs two children, and is cancelled, and so is the child that has not ended."""
    group = Group("0123456789abcdef01234567", "all", 2)
    await push(store, "parent")
    (lease,) = (await claim(worker)).leases
    sleep = Suspend(Wait(2, WaitsFor.TIME, "sleep"), After(1))
    assert (await worker.exchange([(lease, SaveStep("one", 1, b"1")), (lease, sleep)], None)).replies == [
        Reply.OK,
        Reply.OK,
    ]
    await anyio.sleep(0.002)
    (lease,) = (await claim(worker)).leases
    (steps,) = await driver.read(GetSteps(["parent"]))
    assert steps
    assert [*steps.saved] == ["one", "sleep"]
    fields = ["name", "Add", "parameters", '{"a": 1}', "child_of"]
    first, second = [NewJob(group.child_id(n), [*fields, f"{group.token} {n}"]) for n in range(2)]
    adds: list[Settlement] = [
        AddChildren(group, [first]),
        Suspend(Wait(3, WaitsFor.CHILDREN, "all"), group=group, pushes=[second]),
    ]
    for settlement in adds:
        assert (await worker.exchange([(lease, settlement)], None)).replies == [Reply.OK]
    one, other = (await claim(worker)).leases
    assert (await worker.exchange([(one, Ack(result=Result(0, b"1")))], None)).replies == [Reply.OK]
    assert (await driver.read(FindChildren(group.token))).left == 1
    assert await store.driver.change(Cancel("parent")) is Reply.CANCELLED
    while await worker.change(CancelChildren()):
        pass
    assert (await worker.exchange([(other, Release())], None)).replies == [Reply.CANCELLED]
    await push(store, "last")
    (lease,) = (await claim(worker)).leases
    assert (await worker.exchange([(lease, Ack())], None)).replies == [Reply.OK]


async def claim(worker: Consumer) -> Exchange:
    """What brings jobs; one that brings none tells where they are."""
    answer = await worker.exchange([], 3, idle=True)
    while not answer.leases and answer.more:
        answer = await worker.exchange([], 3, idle=True)
    return answer


async def settle_all(worker: Consumer, leases: dict[str, Lease], unlocated: str) -> None:
    settlements: dict[str, Settlement] = {
        "done": Ack(result=Result(60_000, b"5")),
        **dict.fromkeys(("unique", "due"), Ack()),
        "later": RetryLater(After(60000), {"attempt": "2"}),
        "again": RetryLater(After(0)),
        "dead": DeadLetter("failed", "ValueError: no", "a trace"),
        "back": Release(),
    }
    answer = await worker.exchange([(leases[job_id], settlement) for job_id, settlement in settlements.items()], 0)
    assert set(answer.replies) == {Reply.OK}
    assert answer.more
    answer = await claim(worker)
    assert [lease.job_id for lease in answer.leases] == ["back", unlocated, "again"]
    answer = await worker.exchange([(lease, Ack()) for lease in answer.leases], 0)
    assert answer.replies == [Reply.OK] * 3
    assert answer.due_in
    assert not answer.more  # of the entries that are there, all are delivered


def lose(store: RedisStore, worker_id: str) -> None:
    """Its lease is over."""
    store.admin.zadd(f"{store.prefix}workers", {worker_id: 1_000}, xx=True)


async def reclaim(store: RedisStore, heir: Consumer, killer: str) -> None:
    """A worker is lost: its jobs run again; one that may have killed it last, and alone."""
    store.admin.xclaim(store.stream(), "workers", "w1", 0, [killer], retrycount=2, justid=True)
    lose(store, "w1")
    reclaimed = await take_over(heir)
    assert (list(reclaimed.fenced), reclaimed.jobs) == (["w1"], 2)
    answer = await claim(heir)
    assert [lease.job_id for lease in answer.leases] == ["unseen"]
    assert (await heir.exchange([(lease, Ack()) for lease in answer.leases], None)).replies == [Reply.OK]
    await heir.reclaim()
    assert [lease.job_id for lease in (await claim(heir)).leases] == ["killer"]


async def end_killer(store: RedisStore, driver: RedisDriver, last: Consumer) -> None:
    """It has killed that worker as well; and what such workers leave behind is removed."""
    lose(store, "w2")
    await take_over(last)
    assert (await claim(last)).ended == [("killer", Reply.DEAD)]
    store.admin.xgroup_createconsumer(store.stream(), "workers", "idler")
    store.put({"id": "dropped", "name": "Work"})
    store.admin.xreadgroup("workers", "doomed", {store.stream(): ">"})
    store.admin.xgroup_delconsumer(store.stream(), "workers", "doomed")
    assert await restore(driver) == 1
    there = {consumer["name"] for consumer in store.admin.xinfo_consumers(store.stream(), "workers")}
    assert there == {b"w1", b"w2", b"w3", b"released"}
    (lease,) = (await claim(last)).leases
    assert (await last.exchange([(lease, Ack())], None)).replies == [Reply.OK]


NIGHTLY = Definition("nightly", Schedule.every(5), NewJob("", ["name", "Add", "parameters", '{"a": 1}']))


async def declare(driver: RedisDriver, store: RedisStore) -> SchedulePage:
    """Declare a schedule, look at it, and withdraw it."""
    by = Declarer("s", "r")
    store.admin.zadd(f"{store.prefix}schedules", {"gone": 1})
    with telling(store, "schedules"):
        assert (await driver.change(PutSchedules([Put.whole(NIGHTLY)], by))).replies == [Reply.OK]
    assert (await driver.change(PutSchedules([], by))).present == 1
    page = await driver.read(ListSchedules())
    assert [row.name for row in page.rows] == ["nightly"]
    assert store.admin.zrange(f"{store.prefix}schedules", 0, -1) == [b"nightly"]
    with telling(store, "withdrawn"):
        assert await driver.change(WithdrawSchedules(by)) is Reply.OK
    return page


async def schedule(url: str, store: RedisStore) -> None:
    """Declare, look, fire: a job at once, one later, one that is there, one that replaces another.

    And one whose locator stands for nothing.
    """
    driver = RedisDriver(url, store.queue_name)
    nightly = NIGHTLY
    await push(store, "there")
    await push(store, "waits", unique="held")
    await push(store, "later", unique="later", due=After(60000))
    await push(store, "stale", due=After(60000))
    store.admin.hdel(f"{store.prefix}delayed", "stale")
    async with aclosing(driver):
        page = await declare(driver, store)
        jobs = [
            replace(nightly.job, job_id="f1", unique="k"),
            replace(nightly.job, job_id="f2", due=After(9000)),
            *(replace(nightly.job, job_id=job_id) for job_id in ("there", "stale")),
            replace(nightly.job, job_id="f3", unique="held", on_conflict=OnConflict.REPLACE),
            replace(nightly.job, job_id="f4", unique="later", on_conflict=OnConflict.REPLACE),
        ]
        now_ms = page.rows[0].last_ms
        await anyio.sleep(0.002)
        with telling(store, "due"):
            answer = await driver.change(
                Fire("s", [Firing("nightly", nightly.fingerprint, now_ms, now_ms + 1, 1, jobs)])
            )
        replies = [each.reply for each in answer.fired[0].pushed]
        assert replies == [Reply.OK, Reply.OK, Reply.EXISTS, Reply.OK, Reply.REPLACED, Reply.REPLACED]
        assert store.admin.zcard(f"{store.prefix}due") == 1
        assert counted(store, "pushed") == 7
        await listen(driver, store, url)


def user_of(url: str) -> str:
    return urlsplit(url).username or ""


def has_pinged(store: RedisStore, name: str) -> bool:
    """Whether a connection of this user has just shown life."""
    mine = [client for client in store.admin.client_list() if client["user"] == name]
    return any(client["cmd"] == "ping" for client in mine)


async def listen(listener: Consumer | Driver, store: RedisStore, url: str) -> None:
    subscribed, name = anyio.Event(), user_of(url)

    def heard(notification: Notification) -> None:
        subscribed.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.listen, heard)
        await subscribed.wait()
        await eventually(lambda: has_pinged(store, name))
        await anyio.sleep(0.01)  # a refusal is on its way by now
        tasks.cancel_scope.cancel()


@contextmanager
def telling(store: RedisStore, *wanted: str) -> Iterator[None]:
    """Meanwhile a listener hears of these kinds of things."""
    with store.admin.pubsub(ignore_subscribe_messages=True) as ear:
        ear.subscribe(f"{store.prefix}control:0")
        ear.get_message(timeout=5)  # that it is subscribed
        yield
        told = set()
        while message := ear.get_message(timeout=0.1):
            told.add(message["data"].split()[0].decode())
    assert told >= set(wanted)


@asynccontextmanager
async def as_user(store: RedisStore, rule: list[str]) -> AsyncIterator[str]:
    """A user by this rule, and no connection of ours left open."""
    try:
        with user(store, rule) as url:
            yield url
    finally:
        await store.driver.aclose()


async def put_in_each_state(store: RedisStore) -> None:
    """Jobs r (ready), b (handed back), x (running), d (delayed), z and y (dead)."""
    async with consuming(store.driver, "w") as worker:
        await worker.open()
        await push(store, "z", "y", "b", "x")
        with closing(Heart(worker)) as heart:
            heart.beat(list, {"host": "h"})
        z, y, b, _ = (await worker.exchange([], 4)).leases
        dead = DeadLetter("failed", "no")
        await worker.exchange([(z, dead), (y, dead), (b, Release())], None)
    await push(store, "r")
    await push(store, "d", due=After(60000), unique="of d")
    seconds, _ = store.admin.time()
    store.admin.sadd(f"{store.prefix}finished:{seconds // 5}", "ended")
    store.admin.expire(f"{store.prefix}finished:{seconds // 5}", 65)
    nightly = Definition("nightly", Schedule.every(5), NewJob("", ["name", "Add", "parameters", '{"a": 1}']))
    await store.driver.change(PutSchedules([Put.whole(nightly)]))


async def observe(url: str, store: RedisStore) -> None:
    await put_in_each_state(store)
    with SyncJobQueue(url, store.queue_name) as queue:
        look(queue)


def look(queue: SyncJobQueue) -> None:
    assert [info.name for info in queue.schedules.list()] == ["nightly"]
    assert queue.control.pauses().is_paused("") is False
    assert queue.control.limits() == []
    assert [worker.host for worker in queue.control.workers()] == ["h"]
    assert queue.control.statistics(60)
    assert queue.control.overview().names == []
    counts = queue.control.counts()
    assert (sum(counts.ready.values()), counts.running, counts.delayed, counts.dead) == (2, 1, 1, 2)
    assert counts.totals["pushed"] == 6
    with closing(sync_side(queue.driver)) as driver:
        assert driver.read(GetBacklog()).oldest.keys() == {Priority.NORMAL}
    assert [(group.count, group.job_id) for group in queue.control.dead_groups()] == [(2, "y")]
    assert [queue.control.why(job_id).facts.get("jobs_ahead") for job_id in "br"] == [0, 1]
    assert queue.control.why("y").facts["alike"] == 2
    assert queue.control.why(unique="of d").facts["job"] == "d"
    assert "within the last minute" in queue.control.why("ended").sentence
    with pytest.raises(JobFailed):
        queue.result("z", timeout=0)
    with pytest.raises(ResultNotKept):
        queue.result("never", timeout=0)
    for state, found in {State.READY: ["b", "r"], State.DELAYED: ["d"], State.DEAD: ["y", "z"]}.items():
        assert [info.job_id for info in queue.control.scan(state, name="Add", text="a", older_than=0)] == found
    expected = {State.READY: ["b", "r"], State.RUNNING: ["x"], State.DELAYED: ["d"], State.DEAD: ["y", "z"]}
    for state, ids in expected.items():
        assert [info.job_id for info in queue.control.jobs(state)] == ids
        assert [(info and info.state) for info in map(queue.get, ids)] == [state] * len(ids)


async def die(store: RedisStore, job_id: str) -> None:
    """One more dead letter, where nothing else is ready."""
    await push(store, job_id)
    async with consuming(store.driver, "w2") as worker:
        await worker.open()
        (lease,) = (await claim(worker)).leases
        await worker.exchange([(lease, DeadLetter("failed", "no"))], None)


async def operate(url: str, store: RedisStore) -> None:
    await put_in_each_state(store)
    await push(store, "u", unique="k")
    with SyncJobQueue(url, store.queue_name) as queue:
        with forgetting(store):
            assert queue.cancel("u") is Reply.CANCELLED
        store.admin.hincrby(f"{store.prefix}stats", "pushed", -1)
        look(queue)
        with telling(store, "cancel"):
            assert [queue.cancel(job_id) for job_id in "brdx"] == [Reply.CANCELLED] * 3 + [Reply.CANCELLING]
        await die(store, "q")
        assert queue.control.requeue("q")
        with telling(store, "due"), closing(sync_side(queue.driver)) as driver:
            assert driver.change(Requeue("z", After(60000))) is Reply.OK
        assert store.admin.zcard(f"{store.prefix}due") == 1
        with telling(store, "wish"):
            assert queue.control.quiet_worker(queue.control.workers()[0]) is Reply.OK
        assert queue.control.delete_all(name="Add") == 1
        assert queue.control.cancel_all("delayed") == 1
        await pause_and_hold(queue, store)
        await put_flow(store)
        steer(queue, store)
        assert [step.key for step in queue.control.steps("s")] == ["one"]
        assert queue.control.requeue("s", from_step="one")
        with telling_waiters(store):
            await end_by_a_cancel(queue, store)
        queue.control.set_limit("Add", rate="5/s")
        assert [info.rate for info in queue.control.limits()] == ["5/s"]
        with telling(store, "schedules"):
            assert queue.schedules.pause("nightly")
        with telling(store, "schedules"):
            assert queue.schedules.resume("nightly")
        with telling(store, "schedules"):
            assert queue.schedules.remove("nightly")
    assert [counted(store, counter) for counter in ("cancelled", "requeued", "deleted")] == [9, 3, 1]


async def pause_and_hold(queue: SyncJobQueue, store: RedisStore) -> None:
    await push(store, "parked", "held")
    with telling(store, "paused"):
        queue.control.pause()
    queue.control.pause("Add")
    assert queue.control.hold("held") is Reply.HELD
    with telling(store, "resumed"):
        queue.control.resume()
    async with consuming(store.driver, "w3") as worker:
        await worker.open()
        assert not (await worker.exchange([], 9)).leases
        with telling(store, "released"):
            queue.control.resume("Add")
        leases = [*(await worker.exchange([], 9)).leases]
        with telling(store, "released"):
            assert queue.control.unhold("held")
        leases += (await claim(worker)).leases
        await worker.exchange([(lease, Ack()) for lease in leases], None)
    assert [lease.job_id for lease in leases] == ["q", "parked", "held"]


async def diagnose(url: str, store: RedisStore) -> None:
    """Break much of the data, and have it repaired."""
    await put_in_each_state(store)
    worker_id, prefix = "w", store.prefix
    places = store.located()
    store.admin.xgroup_delconsumer(store.stream(), "workers", worker_id)
    store.admin.xgroup_createconsumer(store.stream(), "workers", "idler")
    store.admin.zrem(f"{prefix}workers", worker_id)
    store.admin.hdel(f"{prefix}jobs", "b")
    store.admin.hset(f"{prefix}jobs", "gone", "normal 1-1")
    store.admin.delete(f"{prefix}due", f"{prefix}groups")
    store.admin.zadd(f"{prefix}due", {"1-1 gone": 1})
    store.admin.hset(f"{prefix}held", "gone", "1")
    store.admin.hset(f"{prefix}shares", places["r"], "Add")
    store.admin.zadd(f"{prefix}holders:Add", {places["r"]: 1})
    store.admin.zadd(f"{prefix}lines", {"Other": 0})
    store.put({"id": "lined", "name": "Other"})
    store.admin.xreadgroup("workers", "line:Other", {store.stream(): ">"})
    store.admin.set(f"{prefix}unique:left", "gone")
    store.admin.xadd(f"{prefix}dead", {"id": "added", "reason": "x"})
    with telling(store, "released"), SyncJobQueue(url, store.queue_name) as queue:
        found = queue.control.doctor(repair=True)
    assert [each for each in found if each.level is Level.UNKNOWN] == []
    lost = {"stranded", "unlocated", "no due time", "line", "unique", "worker"}
    wanted = lost | {"ghost", "due", "group", "held", "share"}
    assert {each.check for each in found if each.repaired} == wanted
    assert next(each for each in found if each.check == "backlog").count == 4
    assert counted(store, "reclaimed") == 1
    there = {consumer["name"] for consumer in store.admin.xinfo_consumers(store.stream(), "workers")}
    assert b"idler" not in there


ROLES: dict[str, Role] = {
    "doctor": diagnose,
    "producer": produce,
    "worker": work,
    "scheduler": schedule,
    "observer": observe,
    "operator": operate,
}


@pytest.fixture(params=ENGINES)
def engine_store(request: pytest.FixtureRequest, servers: Servers, queue_name: str) -> Iterator[RedisStore]:
    """As elsewhere, but nothing is looked for at its end: a role that lacks a word may stop half-way."""
    url = servers.url(request.param)
    store = RedisStore(redis.Redis.from_url(url), url, queue_name)
    yield store
    store.end()


@pytest.mark.slow
@pytest.mark.parametrize("role", ROLES)
async def test_each_user_can_do_all_of_its_role(engine_store: RedisStore, role: str) -> None:
    async with as_user(engine_store, documented_rule(role, engine_store.queue_name)) as url:
        await ROLES[role](url, engine_store)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("role", "word"),
    [
        (role, word)
        for role in ROLES
        for word in documented_rule(role, "q")
        if word not in SPARE and not word.startswith("%R~")
    ],
)
async def test_without_any_one_word_of_its_rule_a_user_can_not(
    redis_store: RedisStore, role: str, word: str
) -> None:
    rule = documented_rule(role, redis_store.queue_name)
    rule.remove(word.replace("{q}", f"{{{redis_store.queue_name}}}"))

    async with as_user(redis_store, rule) as url:
        with pytest.raises((DriverError, AssertionError, BaseExceptionGroup)):
            await ROLES[role](url, redis_store)

    for key, _ in redis_store.keys().items():  # what was left half-way is no fault
        redis_store.admin.delete(redis_store.prefix + key)


ON_A_CLUSTER = "+cluster|slots"
"""What restrict-access.md adds to the rule of each role."""


@pytest.fixture
def cluster_store(cluster: Cluster, queue_name: str) -> Iterator[RedisStore]:
    url = cluster.owner(queue_name).url
    admin = redis.Redis.from_url(url)
    store = RedisStore(admin, url.replace("redis:", "redis+cluster:"), queue_name, ON_A_CLUSTER)
    yield store
    store.end()


@pytest.mark.slow
@pytest.mark.parametrize("role", ROLES)
async def test_on_a_cluster_each_user_needs_one_word_more(cluster_store: RedisStore, role: str) -> None:
    rule = documented_rule(role, cluster_store.queue_name)
    async with as_user(cluster_store, rule) as url:
        with SyncJobQueue(url, cluster_store.queue_name) as queue, pytest.raises(Forbidden, match="cluster"):
            queue.control.counts()
    async with as_user(cluster_store, [*rule, ON_A_CLUSTER]) as url:
        await ROLES[role](url, cluster_store)


ASKS_SENTINELS = ("+sentinel|master", "+sentinel|get-master-addr-by-name")


@pytest.mark.parametrize("lacks", ["", *ASKS_SENTINELS, "+subscribe", "&+switch-master"])
async def test_a_user_of_sentinels_can_find_the_master_and_hear_of_failovers(
    redis_store: RedisStore, queue_name: str, lacks: str
) -> None:
    host, _, path = redis_store.url.partition("://")[2].rpartition("@")[2].partition("/")
    credentials = redis_store.url.partition("://")[2].rpartition("@")[0]
    rule = [word for word in documented_rule("finder", queue_name) if word != lacks]
    with _Sentinel(server.find(), None, server.free_port(), []) as sentinel:
        port = host.rpartition(":")[2]
        ask(sentinel, "SENTINEL", "MONITOR", "jobs", server.HOST, port, "1")
        ask(sentinel, "ACL", "SETUSER", "finder", "reset", "on", ">fp", *rule)
        at = f"{server.HOST}:{sentinel.port}/jobs/{path}?sentinel_username=finder&sentinel_password=fp"
        with SyncJobQueue(f"redis+sentinel://{credentials}@{at}", queue_name) as queue:
            if lacks in ASKS_SENTINELS:
                with pytest.raises(Forbidden, match=f"{server.HOST}:{sentinel.port}"):
                    queue.control.counts()
                return
            queue.control.counts()

            def hears() -> bool:
                return b"user=finder" in ask(sentinel, "CLIENT", "LIST", "TYPE", "PUBSUB")

            if lacks:
                denied = lacks[1:].encode()
                await eventually(lambda: any(denied in entry for entry in ask(sentinel, "ACL", "LOG")))
                assert not hears()
            else:
                await eventually(hears)


@pytest.mark.parametrize("word", SPARE)
async def test_a_worker_that_may_not_unblock_its_read_does_without(redis_store: RedisStore, word: str) -> None:
    rule = documented_rule("worker", redis_store.queue_name)
    rule.remove(word)
    ran = anyio.Event()
    async with as_user(redis_store, rule) as url:
        queue = JobQueue(url, redis_store.queue_name)
        worker = Worker(queue, lease=60)
        queue.register(Add)(lambda add: anyio.from_thread.run_sync(ran.set))
        redis_store.put({"name": "Add", "parameters": '{"a": 1}'})
        holder = redis_store.consumer("holder")
        await holder.open()
        await holder.exchange([], 1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await eventually(lambda: any("b" in client["flags"] for client in redis_store.admin.client_list()))

            await holder.release(refund=True, watch=False)

            with anyio.fail_after(5):
                await ran.wait()
            worker.stop()
        await holder.aclose()
        await queue.aclose()
    assert redis_store.pending() == []


async def test_a_worker_by_its_rule_runs_retries_buries_and_stops(engine_store: RedisStore) -> None:
    store = engine_store
    with user(store, documented_rule("worker", store.queue_name)) as url:
        queue, held = JobQueue(url, store.queue_name), anyio.Event()
        worker = Worker(queue, lease=0.3, grace=0)

        @queue.register(Add)
        async def add(add: Add, context: JobContext) -> None:
            match add.a, context.attempt:
                case 2, 1:
                    raise Retry(delay=0.05)
                case 3, _:
                    raise Fail("no")
                case 4, _:
                    held.set()
                    await anyio.sleep_forever()

        async with JobQueue(store.url, store.queue_name) as producer:
            await producer.push_many([Add(1), Add(2), Add(3)])
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(worker.run)
                await eventually(lambda: store.located() and len(store.located()) == 1)
                held_id = (await producer.push(Add(4))).id
                await held.wait()
                worker.stop()
            counts = await producer.control.counts()
            assert (await producer.control.jobs("ready"))[0].job_id == held_id
        await queue.aclose()

    totals = {name: counts.totals.get(name) for name in ("completed", "retried", "dead", "released")}
    assert totals == {"completed": 2, "retried": 1, "dead": 1, "released": 1}


async def test_a_permission_to_count_or_to_tell_is_not_worth_a_job(redis_store: RedisStore) -> None:
    store = redis_store
    rule = documented_rule("worker", store.queue_name)
    rule = [word for word in rule if word not in ("+hincrby", "+publish", "+unlink")]
    async with as_user(store, rule) as url:
        async with consuming(RedisDriver(url, store.queue_name), "w") as worker:
            await worker.open()
            await push(store, *"abcde")
            leases = (await worker.exchange([], 4)).leases
            settlements: list[Settlement] = [
                Ack(),
                RetryLater(After(60000)),
                Release(),
                DeadLetter("failed", "no"),
            ]
            words = (await worker.exchange(list(zip(leases, settlements, strict=True)), None)).replies
            assert words == [Reply.OK] * 4
            assert {lease.job_id for _ in "ce" for lease in (await claim(worker)).leases} == {"c", "e"}
            assert await worker.release(refund=True, watch=False) == 2
        counts = await store.driver.read(Count())
    assert (counts.ready[Priority.NORMAL], counts.running, counts.delayed, counts.dead) == (2, 0, 1, 1)
    assert counts.totals["released"] == 0


# Nothing beyond


def contents(store: RedisStore) -> dict[str, bytes]:
    """All that the queue's keys hold."""
    return {key: store.admin.dump(store.prefix + key) for key, _ in store.keys().items()}


@pytest.mark.parametrize("verb", ["push", "cancel", "requeue", "delete"])
async def test_an_observer_that_would_change_something_is_refused_and_writes_nothing(
    engine_store: RedisStore, verb: str
) -> None:
    store = engine_store
    await put_in_each_state(store)
    before = contents(store)

    async with as_user(store, documented_rule("observer", store.queue_name)) as url:
        with SyncJobQueue(url, store.queue_name) as queue:
            acts: dict[str, Callable[[], object]] = {
                "push": lambda: queue.push(Add(1)),
                "cancel": lambda: queue.cancel("r"),
                "requeue": lambda: queue.control.requeue("z"),
                "delete": lambda: queue.control.delete("z"),
            }
            with pytest.raises(DriverError, match=FORBIDDEN):
                acts[verb]()
        with redis.Redis.from_url(url) as raw, pytest.raises(redis.exceptions.NoPermissionError):
            raw.xadd(store.stream(), {"name": "Add"})

    assert contents(store) == before


@pytest.mark.parametrize("role", ["producer", "observer", "operator"])
async def test_only_a_worker_can_claim(engine_store: RedisStore, role: str) -> None:
    store = engine_store
    await push(store, "a")
    await store.consumer("w").aclose()  # one who may, in whose name it tries
    before = contents(store)

    async with (
        as_user(store, documented_rule(role, store.queue_name)) as url,
        consuming(RedisDriver(url, store.queue_name), "w") as consumer,
    ):
        calls = (consumer.exchange([], 1), consumer.wait(1, 0.01), consumer.reclaim())
        for call in (consumer.open(), *calls, consumer.open("another")):
            with pytest.raises(DriverError, match=FORBIDDEN):
                await call

    assert store.pending() == []
    assert contents(store) == before


async def test_a_worker_can_not_push(engine_store: RedisStore) -> None:
    rule = documented_rule("worker", engine_store.queue_name)
    with (
        user(engine_store, rule) as url,
        SyncJobQueue(url, engine_store.queue_name) as queue,
        pytest.raises(DriverError, match=FORBIDDEN),
    ):
        queue.push(Add(1))

    assert engine_store.keys() == {}


CALLS: dict[str, Callable[[SyncJobQueue], Any]] = {
    "push": lambda queue: queue.push(Add(1)),
    "get": lambda queue: queue.get("a"),
    "counts": lambda queue: queue.control.counts(),
    "cancel": lambda queue: queue.cancel("a"),
}


@pytest.mark.parametrize("role", ROLES)
def test_no_one_reaches_another_queue_or_the_server(engine_store: RedisStore, role: str) -> None:
    store, other = engine_store, "another-queue"
    with user(store, documented_rule(role, store.queue_name)) as url:
        with SyncJobQueue(url, other) as queue:
            for call in CALLS.values():
                with pytest.raises(DriverError, match="ACL forbids"):
                    call(queue)
        name = urlsplit(url).username
        for command in (
            *(["SCAN 0"] if role != "doctor" else []),
            *("FLUSHALL", "FLUSHDB", "KEYS *", "CONFIG GET *", "CONFIG SET maxmemory 1", "SHUTDOWN"),
            *("ACL LIST", "DEBUG JMAP", "CLIENT LIST", "CLIENT KILL ID 1", "MONITOR", "SCRIPT FLUSH", "EVAL x 0"),
            *("REPLICAOF a 1", "FUNCTION FLUSH", "SWAPDB 0 1", "BGSAVE", "PUBLISH a b", "SUBSCRIBE a"),
            f"HGET redisjobs:{{{other}}}:jobs a",
            f"DEL redisjobs:{{{other}}}:jobs",
            f"XRANGE redisjobs:{{{store.queue_name}x}}:ready:normal - +",
            f"XADD redisjobs:{{{other}}}:ready:normal * name Add",
        ):
            said = store.admin.execute_command("ACL", "DRYRUN", name, *command.split())
            assert b"no permission" in said.lower(), command

    assert not list(store.admin.scan_iter(f"redisjobs:{{{other}}}:*"))


async def test_a_rule_is_for_one_user_of_many_queues_by_its_patterns(
    redis_store: RedisStore, redis_url: str
) -> None:
    second = RedisStore(redis.Redis.from_url(redis_url), redis_url, f"{redis_store.queue_name}-2")
    patterns = [word for word in documented_rule("producer", second.queue_name) if word[0] in "~&"]

    with user(redis_store, documented_rule("producer", redis_store.queue_name) + patterns) as url:
        for name in (redis_store.queue_name, second.queue_name):
            with SyncJobQueue(url, name) as queue:
                assert queue.push(Add(1), job_id="a", delay=60).added

    assert redis_store.located()["a"].startswith("delayed ")
    assert second.located()["a"].startswith("delayed ")
    second.end()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_worker_that_may_not_fire_schedules_says_so_once_and_runs_jobs(
    redis_store: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    rule = documented_rule("worker", redis_store.queue_name)
    rule.remove("+zrandmember")
    async with as_user(redis_store, rule) as url, JobQueue(url, redis_store.queue_name) as queue:
        ran: list[int] = []
        job: Any = queue.job(name="job")(lambda number: ran.append(number))
        async with JobQueue(redis_store.url, redis_store.queue_name) as producer:
            worker = Worker(queue)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(worker.run)
                await eventually(lambda: "fires no schedules" in caplog.text)
                await producer.push_many([job.prepare(number=number) for number in range(3)])
                await eventually(lambda: len(ran) == 3)
                assert worker.health.ready
                worker.stop()
    (line,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert "zrandmember" in line.getMessage()
    assert "`--no-schedules`" in line.getMessage()
