"""A queue whose keys are of another version: each side refuses it and writes nothing, until it is empty."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import anyio.to_thread
import pytest
from store import RedisStore, eventually

from redisjobs import JobQueue, Schedule, State, Worker, sync
from redisjobs.drivers.redis.commands import LAYOUT, READS
from redisjobs.errors import DriverError
from redisjobs.events import ScheduleFired
from redisjobs.model.changes import Declare
from redisjobs.model.definition import moment
from redisjobs.model.driver import OtherVersion
from redisjobs.model.job import JobName
from redisjobs.model.transitions import DeadLetter
from redisjobs.worker.scheduler.scheduler import Scheduler

pytestmark = pytest.mark.anyio

ASKS: dict[str, Callable[[JobQueue], Awaitable[object]]] = {
    "push": lambda queue: queue.push({}, "Work"),
    "push_many": lambda queue: queue.push_many([{}] * 100, "Work"),
    "get": lambda queue: queue.get("a"),
    "cancel": lambda queue: queue.cancel("a"),
    "pause": lambda queue: queue.control.pause(),
    "counts": lambda queue: queue.control.counts(),
    "declare": lambda queue: queue.driver.change(Declare("c0ffee", done=True)),
    "worker": lambda queue: Worker(queue).run(until_idle=True),
}


@pytest.fixture
def old(engine_store: RedisStore) -> RedisStore:
    """A queue as a release with version 2 of the keys left it: one job is ready, one is a dead letter."""
    admin, prefix = engine_store.admin, engine_store.prefix
    ready = admin.xadd(f"{prefix}ready:normal", {"id": "a", "name": "Work", "parameters": "{}"}).decode()
    dead = admin.xadd(
        f"{prefix}dead", {"id": "b", "name": "Work", "parameters": "{}", "reason": "failed"}
    ).decode()
    admin.xgroup_create(f"{prefix}ready:normal", "workers", "0")
    admin.hset(f"{prefix}jobs", mapping={"a": f"ready:normal {ready}", "b": f"dead {dead}"})
    admin.hset(f"{prefix}layout", mapping={"version": "2", "tidied_at": "1700000000000"})
    admin.hset(f"{prefix}stats", "pushed", "2")
    admin.zadd(f"{prefix}workers", {"gone:1:abcd": 1})
    return engine_store


@pytest.fixture
async def queue(engine_store: RedisStore) -> AsyncIterator[JobQueue]:
    async with aclosing(JobQueue(engine_store.url, engine_store.queue_name)) as queue:
        queue.job(name="Work")(lambda: None)
        yield queue


SLOT_MS = 1_700_000_000_000


@pytest.fixture
def scheduled(engine_store: RedisStore) -> RedisStore:
    """An empty queue with schedules, as a release with version 3 of the keys left it.

    `nightly` was put at run time, and `paused` too; `Work` was declared by its code.
    """
    admin, prefix = engine_store.admin, engine_store.prefix
    job = {"accuracy": "all", "at_most": "100", "job": "Work", "parameters": "{}", "priority": "normal"}
    rules = {
        "nightly": {"rule": "0 4 * * * Europe/Berlin", "fingerprint": "9b9b762a762665aa"},
        "paused": {"rule": "every 3600 s", "fingerprint": "59cba1fa436ea0ee", "paused": "1"},
        "Work": {"rule": "every 60 s", "fingerprint": "73670d4712c8976a"}
        | {"declared_by": f"{SLOT_MS}", "seen_at": f"{SLOT_MS}"},
    }
    for name, rule in rules.items():
        admin.hset(f"{prefix}schedule:{name}", mapping=job | rule | {"last_slot": SLOT_MS})
        admin.zadd(f"{prefix}schedules", {name: SLOT_MS})
    admin.hset(f"{prefix}layout", mapping={"version": "3", "schedules": "4"})
    admin.hset(f"{prefix}limits", "Work", "max_concurrency=2")
    admin.hset(f"{prefix}retention", mapping={"completed": "- 7", "cancelled": "", "dead": "2592000000 100000"})
    admin.hset(f"{prefix}paused:names", "Other", SLOT_MS)
    admin.set(f"{prefix}paused", SLOT_MS)
    return engine_store


def emptied(store: RedisStore) -> None:
    """As the older release leaves the queue once its last job has ended."""
    store.admin.xtrim(store.stream(), 0, approximate=False)
    store.admin.xtrim(f"{store.prefix}dead", 0, approximate=False)
    store.admin.delete(f"{store.prefix}jobs")


def make_orderly(store: RedisStore) -> None:
    emptied(store)
    store.admin.delete(f"{store.prefix}workers")


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("version", ["2", "9"])
async def test_a_release_refuses_a_queue_of_another_version_and_writes_nothing(
    old: RedisStore, queue: JobQueue, version: str, ask: str
) -> None:
    old.admin.hset(f"{old.prefix}layout", "version", version)
    before = old.contents()
    way = "run the queue empty" if version == "2" else "too old"

    with pytest.raises(
        DriverError, match=rf"of version {version}, .* version {LAYOUT}: .*{way}.*nothing was written"
    ):
        await ASKS[ask](queue)

    assert old.contents() == before
    make_orderly(old)


@pytest.fixture
async def before(engine_store: RedisStore, queue: JobQueue) -> RedisStore:
    """A queue as a release with version 4 of the keys left it: jobs are ready, delayed, dead and running."""
    for delay in (None, None, 0.001, None):
        await queue.push({}, "Work", delay=delay)
    worker = engine_store.consumer("gone:1:abcd", lease=60)
    (lease,) = (await worker.exchange([], 1)).leases
    await worker.exchange([(lease, DeadLetter("failed", "ValueError: no"))], 1)
    await worker.aclose()
    engine_store.admin.hset(f"{engine_store.prefix}layout", "version", str(READS))
    return engine_store


async def test_a_worker_takes_over_the_jobs_of_the_version_before_once_no_worker_of_that_lives(
    before: RedisStore, queue: JobQueue
) -> None:
    held = before.contents()
    with pytest.raises(DriverError, match=f"of version {READS}, .* stop the workers of the older release"):
        await Worker(queue).run(until_idle=True)
    assert before.contents() == held

    before.admin.zadd(f"{before.prefix}workers", {"gone:1:abcd": 1})  # its lease is over
    await Worker(queue).run(until_idle=True)

    assert before.admin.hget(f"{before.prefix}layout", "version") == str(LAYOUT).encode()
    (dead,) = [job async for job in queue.control.scan(State.DEAD)]
    await queue.control.requeue(dead.job_id)
    await Worker(queue).run(until_idle=True)
    assert (await queue.control.counts()).totals["completed"] == 4


async def test_the_sync_face_refuses_it_as_well(old: RedisStore) -> None:
    before = old.contents()
    with sync.JobQueue(old.url, old.queue_name) as queue:
        queue.job(name="Work")(lambda: None)
        for ask in (lambda: queue.push({}, "Work"), queue.control.counts):
            with pytest.raises(DriverError, match="of version 2"):
                await anyio.to_thread.run_sync(ask)

    assert old.contents() == before
    make_orderly(old)


@pytest.mark.parametrize("face", [JobQueue, sync.JobQueue])
async def test_a_producer_that_has_pushed_before_asks_for_the_version_again_on_each_new_connection(
    engine_store: RedisStore, face: Any
) -> None:
    store = engine_store
    queue = face(store.url, store.queue_name)

    async def push() -> bool:
        pushed = queue.push({}, JobName("Work", dict[str, int]))
        return bool((await pushed if face is JobQueue else pushed).added)

    assert await push()
    store.admin.hset(f"{store.prefix}layout", "version", "9")
    store.admin.execute_command("CLIENT", "KILL", "USER", store.user)
    before = store.contents()
    with pytest.raises(DriverError, match="too old for this queue"):  # it has lost its connection first
        await push()
    for _ in range(2):
        with pytest.raises(OtherVersion, match=r"too old for this queue.*; nothing was written") as refused:
            await push()
        assert [job.tries for job in refused.value.jobs] == [None]  # so it can be pushed at any later time

    assert store.contents() == before
    store.admin.hset(f"{store.prefix}layout", "version", LAYOUT)
    assert await push()
    await queue.aclose() if face is JobQueue else queue.close()
    make_orderly(store)


async def test_a_worker_takes_a_queue_of_an_older_version_over_once_it_holds_no_jobs(
    old: RedisStore, queue: JobQueue
) -> None:
    emptied(old)
    with pytest.raises(DriverError, match="start a worker of this release"):
        await queue.push({}, "Work")

    await Worker(queue).run(until_idle=True)

    assert old.admin.hget(f"{old.prefix}layout", "version") == str(LAYOUT).encode()
    assert (await queue.push({}, "Work")).added
    await Worker(queue).run(until_idle=True)
    assert (await queue.control.counts()).totals["completed"] == 1
    make_orderly(old)


@pytest.mark.parametrize("version", ["3", None])  # none, where only a producer of the older release was there
async def test_a_queue_that_is_taken_over_keeps_its_schedules_limits_retention_and_pauses(
    scheduled: RedisStore, queue: JobQueue, version: str | None
) -> None:
    if version is None:
        scheduled.admin.hdel(f"{scheduled.prefix}layout", "version")

    await Worker(queue).run(until_idle=True)

    found = {each.name: each for each in await queue.schedules.list()}
    assert {name: str(each.rule) for name, each in found.items()} == {
        "nightly": str(Schedule.daily(hour=4, tz="Europe/Berlin")),
        "paused": str(Schedule.every(3600)),
        "Work": str(Schedule.every(60)),
    }
    assert [name for name, each in found.items() if each.paused] == ["paused"]
    assert [name for name, each in found.items() if each.declared] == ["Work"]
    assert not any(each.error for each in found.values())
    assert await queue.schedules.remove("Work")
    await queue.schedules.put("new", {}, Schedule.every(60), job="Work")
    assert [limit.name for limit in await queue.control.limits()] == ["Work"]
    assert scheduled.admin.hget(f"{scheduled.prefix}retention", "completed") == b"- 7"
    pauses = await queue.control.pauses()
    assert (pauses.since is not None, list(pauses.names)) == (True, ["Other"])


async def test_a_schedule_of_a_queue_that_is_taken_over_goes_on_after_the_last_slot_that_was_fired(
    scheduled: RedisStore, queue: JobQueue
) -> None:
    last_ms = scheduled.clock() // 60_000 * 60_000 - 120_000
    for name in ("nightly", "Work"):
        scheduled.admin.hset(f"{scheduled.prefix}schedule:{name}", "last_slot", last_ms)
    queue.schedule({}, Schedule.every(60), job="Work", name="Work", accuracy="all")
    fired = list[ScheduleFired]()
    queue.events.subscribe(ScheduleFired, fired.append)

    def fired_of_work() -> list[str]:  # `nightly` fires too, if it is four o'clock in Berlin
        return [job for event in fired for job, *_ in event.jobs if job.startswith("Work@")]

    await Worker(queue).run(until_idle=True)
    async with anyio.create_task_group() as tasks:
        scheduler = Scheduler(queue)
        tasks.start_soon(scheduler.run)
        await eventually(lambda: fired_of_work()[1:])
        scheduler.stop()

    slots = (moment(last_ms + late) for late in (60_000, 120_000))
    assert fired_of_work()[:2] == [f"Work@{slot:%Y-%m-%dT%H:%M:%SZ}" for slot in slots]


@pytest.mark.parametrize("left", ["a locator", "an entry without one", "a worker"])
async def test_what_only_the_older_release_can_read_keeps_the_queue_from_being_taken_over(
    old: RedisStore, queue: JobQueue, left: str
) -> None:
    emptied(old)
    match left:
        case "a locator":
            old.admin.hset(f"{old.prefix}jobs", "c", "delayed 1700000000000-0")
        case "an entry without one":
            old.put({"name": "Work", "parameters": "{}"})
        case _:
            old.admin.zadd(f"{old.prefix}workers", {"lives:2:abcd": 32503680000000})
    before = old.contents()

    with pytest.raises(DriverError, match="of version 2"):
        await Worker(queue).run(until_idle=True)

    assert old.contents() == before
    make_orderly(old)
