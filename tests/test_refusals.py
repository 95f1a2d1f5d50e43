"""A refusal has written nothing: each script that writes, with each of its keys made something else by hand."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass, field

import anyio
import pytest
from store import RedisStore, eventually

from redisjobs import shift
from redisjobs.driver import Ack, Consumer, DeadLetter, Fate, Lease, NewJob, Pushed, Release, RetryLater, Word
from redisjobs.drivers import lua
from redisjobs.errors import DriverError
from redisjobs.job import Priority, State
from redisjobs.queue import JobQueue
from redisjobs.retry import no_retry
from redisjobs.worker import Worker

pytestmark = pytest.mark.anyio

FAILED = DeadLetter("failed", "ValueError: no")


def job(job_id: str, **options: object) -> NewJob:
    return NewJob(job_id, ["name", "Work", "parameters", "{}"], **options)  # type: ignore[arg-type]


@dataclass
class Scene:
    """A queue with jobs in every state, and who works on it."""

    store: RedisStore
    worker: Consumer
    heir: Consumer
    leases: dict[str, Lease] = field(default_factory=dict)

    async def settle(self, fate: Fate) -> None:
        pair = [(self.leases["a"], fate), (self.leases["held"], fate)]
        await self.worker.exchange(pair, None)

    async def push(self) -> None:
        jobs = [job("n1"), job("n2", due="+9000", unique="new"), job("n3", priority=Priority.LOW, unique="held")]
        await self.store.driver.push(jobs, repeated=False)

    async def claim(self) -> None:
        await self.heir.exchange([], 9, idle=True)

    async def reclaim(self) -> None:
        await self.heir.reclaim(9)

    async def renew(self) -> None:
        with closing(self.worker.heartbeat()) as heart:
            heart.renew(list(self.leases.values()), {"host": "h"})


ACTS: dict[str, Callable[[Scene], Awaitable[object]]] = {
    "push": Scene.push,
    "claim": Scene.claim,
    "reclaim": Scene.reclaim,
    "renew": Scene.renew,
    "ack": lambda scene: scene.settle(Ack()),
    "retry": lambda scene: scene.settle(RetryLater("+5000", {"attempt": "2"})),
    "release": lambda scene: scene.settle(Release()),
    "fail": lambda scene: scene.settle(FAILED),
    "release_all": lambda scene: scene.worker.release_all([]),
    "leave": lambda scene: scene.worker.leave(),
    "tidy": lambda scene: scene.worker.tidy(),
    "join": lambda scene: scene.heir.open(),
    "cancel": lambda scene: scene.store.driver.cancel("ready"),
    "requeue": lambda scene: scene.store.driver.requeue("dead"),
    "delete": lambda scene: scene.store.driver.delete("dead"),
    "adopt": lambda scene: scene.worker.adopt([scene.leases["by hand"]]),
}
READERS = {"find", "jobs", "counts"}

SPARED = {
    ("push", "dead"),  # only looked at for a repeated push of a given id
    *[(script, "unique:") for script in ("ack", "fail", "retry", "claim", "reclaim", "cancel")],  # not held then
    *[("cancel", key) for key in ("due", "delayed", "dead", "ready:high", "ready:low")],  # where the job is not
    *[("adopt", key) for key in ("ready:high", "ready:low")],
    *[("ack", "ready:high"), ("leave", "worker:"), ("tidy", "worker:"), ("tidy", "jobs"), ("tidy", "dead")],
}
"""What a script can do without, for these jobs."""


def pairs() -> list[tuple[str, str]]:
    return [(name, key) for name in ACTS for key in lua.script(name).keys if key != "control"]


def test_every_script_that_writes_is_walked() -> None:
    there = {entry.name.removesuffix(".lua") for entry in lua.folder().iterdir() if entry.name.endswith(".lua")}
    assert there == {*ACTS, *READERS}


@pytest.fixture
async def scene(redis_store: RedisStore) -> AsyncIterator[Scene]:
    store = redis_store
    scene = Scene(store, store.consumer("w1", max_deliveries=2), store.consumer("w2", max_deliveries=2))
    await scene.worker.open()
    await scene.heir.open()
    yield scene
    await scene.worker.aclose()
    await scene.heir.aclose()
    await store.driver.aclose()


async def fill(scene: Scene) -> None:
    """Put a job into each state; on all three priorities."""
    store = scene.store
    store.clock.advance(0)
    await store.driver.push([job("dead"), job("back"), job("twice"), job("a")], repeated=False)
    await store.driver.push([job("held", priority=Priority.LOW, unique="held")], repeated=False)
    store.put({"name": "Work", "parameters": "{}"})
    taken = (await scene.worker.exchange([], 9)).leases
    names = ("dead", "back", "twice", "a", "by hand", "held")
    scene.leases = dict(zip(names, taken, strict=True))
    dead, back, twice = (scene.leases.pop(name) for name in names[:3])
    await scene.worker.exchange([(dead, FAILED), (back, Release()), (twice, RetryLater("+1000"))], None)
    await store.driver.push([job("ready"), job("high", priority=Priority.HIGH)], repeated=False)


def spoil(store: RedisStore, key: str) -> None:
    """Let this key be of another type than it should."""
    names = {"unique:": "unique:held", "finished:": f"finished:{store.clock() // 5000}", "worker:": "worker:w1"}
    name = store.prefix + names.get(key, key)
    store.admin.delete(name)
    if key == "unique:":
        store.admin.rpush(name, "by hand")
    else:
        store.admin.set(name, "by hand")


def dump(store: RedisStore) -> dict[str, bytes]:
    return {key: store.admin.dump(store.prefix + key) for key, _ in store.keys().items()}


@pytest.mark.parametrize(("script", "key"), pairs())
async def test_a_script_that_is_refused_by_one_key_has_written_none(scene: Scene, script: str, key: str) -> None:
    store = scene.store
    await fill(scene)
    if script == "claim":
        store.clock.advance(60)  # what is set aside for that time is to be there
    spoil(store, key)
    if script == "reclaim":
        store.age(60)
    before = dump(store)

    if (script, key) in SPARED:
        await ACTS[script](scene)
    else:
        with pytest.raises(DriverError, match="WRONGTYPE"):
            await ACTS[script](scene)
        after = dump(store)
        assert {name for name in before | after if before.get(name) != after.get(name)} == set()
    for name in list(store.keys()):
        store.admin.delete(store.prefix + name)


# Streams without ids


def exhaust(store: RedisStore, *priorities: Priority) -> None:
    """Write the largest entry id there is, by hand."""
    largest = 2**64 - 1
    for priority in priorities:
        store.admin.xadd(store.stream(priority), {"name": "Last", "parameters": "{}"}, id=f"{largest}-{largest}")


async def test_where_a_priority_has_no_entry_ids_left_its_jobs_go_to_another(scene: Scene) -> None:
    store = scene.store
    store.clock.advance(0)
    await store.driver.push([job("later", due="+1000"), job("again"), job("dead")], repeated=False)
    again, dead = (await scene.worker.exchange([], 9)).leases
    await scene.worker.exchange([(dead, FAILED)], None)
    exhaust(store, Priority.NORMAL)

    pushed = await store.driver.push([job("new"), job("low", priority=Priority.LOW)], repeated=False)
    assert pushed == [Pushed(Word.OK)] * 2
    assert (await scene.worker.exchange([(again, RetryLater("+0"))], None)).words == [Word.OK]
    assert await store.driver.requeue("dead") is Word.OK
    store.clock.advance(2)

    taken = [lease.job_id for lease in (await scene.worker.exchange([], 9)).leases]
    assert taken[1:] == ["new", "low", "again", "dead", "later"]
    assert taken[0].endswith(f"-{2**64 - 1}")


async def test_with_no_entry_ids_left_at_all_whatever_is_there_stays_and_is_claimed(scene: Scene) -> None:
    store = scene.store
    store.clock.advance(0)
    await store.driver.push([job("later", due="+1000"), job("again"), job("dead"), job("waits")], repeated=False)
    again, dead = (await scene.worker.exchange([], 2)).leases
    await scene.worker.exchange([(dead, FAILED)], None)
    exhaust(store, *Priority)

    pushed = await store.driver.push([job("new", unique="key"), job("delayed", due="+9000")], repeated=False)
    assert [each.word for each in pushed] == [Word.NO_IDS, Word.OK]
    assert (await scene.worker.exchange([(again, RetryLater("+0"))], None)).words == [Word.NO_IDS]
    assert await store.driver.requeue("dead") is Word.NO_IDS
    store.clock.advance(2)

    assert len((await scene.worker.exchange([], 9)).leases) == 4  # one of them the job that waited
    row = await store.driver.find("later")
    assert row is not None
    assert row.state is State.DELAYED
    assert not store.admin.exists(f"{store.prefix}unique:key")
    assert (await store.driver.find("new")) is None


async def test_what_cannot_be_promoted_is_in_nobodys_way(scene: Scene) -> None:
    store = scene.store
    store.clock.advance(0)
    await store.driver.push([job("bad", due="+1000"), job("good", due="+2000")], repeated=False)
    store.admin.hset(f"{store.prefix}delayed", "bad", "no JSON")
    store.clock.advance(3)

    assert [lease.job_id for lease in (await scene.worker.exchange([], 9)).leases] == ["good"]

    store.admin.hset(f"{store.prefix}delayed", "bad", '["normal","id","bad","name","Work","parameters","{}"]')
    store.clock.advance(61)
    assert [lease.job_id for lease in (await scene.worker.exchange([], 9)).leases] == ["bad"]


# A worker meanwhile


async def fail_at_once(store: RedisStore, starts: list[int]) -> JobQueue:
    """A queue with one job, whose handler fails for good; its dead letters can't be written."""
    queue = JobQueue(store.url, store.queue_name)

    @queue.job(name="Work", retry=no_retry())
    async def work() -> None:
        starts.append(1)
        raise ValueError("as it should")

    await work.options(job_id="a").push()
    store.admin.set(f"{store.prefix}dead", "by hand")
    return queue


async def test_a_failure_that_can_not_be_written_is_kept_until_it_can(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shift, "_REFUSED", 0.05)
    starts: list[int] = []
    async with await fail_at_once(redis_store, starts) as queue, anyio.create_task_group() as tasks:
        worker = Worker(queue, lease=2)
        tasks.start_soon(worker.run)
        await eventually(lambda: caplog.text.count("dead is a string, it must be a stream") > 2)
        await eventually(lambda: "dead is a string, it must be a stream" in worker.health.why)
        assert worker.health.why.startswith("the store refuses: WRONGTYPE ")
        assert (worker.health.live, worker.health.ready) == (True, False)

        redis_store.admin.delete(f"{redis_store.prefix}dead")

        await eventually(lambda: redis_store.admin.xlen(f"{redis_store.prefix}dead") == 1)
        worker.stop()
        info = await queue.get("a")
    assert info is not None
    assert (info.reason, len(starts)) == ("failed", 1)


async def test_a_worker_that_starts_while_a_key_is_spoiled_says_which_and_works_once_it_is_mended(
    redis_store: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    key = redis_store.stream()
    redis_store.admin.set(key, "by hand")
    async with JobQueue(redis_store.url, redis_store.queue_name) as queue, anyio.create_task_group() as tasks:
        worker = Worker(queue, lease=2)
        tasks.start_soon(worker.run)
        await eventually(lambda: "refuses" in worker.health.why)

        assert (worker.health.live, worker.health.ready) == (True, False)
        assert worker.health.why.startswith("the store refuses: WRONGTYPE ")
        assert "the store is away" not in caplog.text
        redis_store.admin.delete(key)
        await eventually(lambda: worker.health.ready)
        worker.stop()


async def test_a_failure_that_can_not_be_written_until_the_workers_end_costs_no_delivery(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shift, "_FAREWELL", 0.2)
    starts: list[int] = []
    async with await fail_at_once(redis_store, starts) as queue, anyio.create_task_group() as tasks:
        worker = Worker(queue, lease=60, grace=0)
        tasks.start_soon(worker.run)
        await eventually(lambda: "it must be a stream" in caplog.text)
        worker.stop()
    assert [(worker, deliveries) for _, worker, deliveries in redis_store.pending()] == [("released", 0)]
    redis_store.admin.delete(f"{redis_store.prefix}dead")
