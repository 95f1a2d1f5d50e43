"""`queue.control.doctor` finds what was broken in a queue, names it, repairs what it can, and loses no job."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import pytest
from store import MemoryStore, RedisStore, Store, documented_rule
from traffic import LOOKS, looks_while_busy

from redisjobs import JobName, JobQueue, Schedule
from redisjobs.control.doctor import doctor
from redisjobs.control.findings import FAULTS, fault_findings, server_findings
from redisjobs.drivers.memory.state import Line
from redisjobs.errors import DriverError
from redisjobs.model.changes import SetLimit
from redisjobs.model.driver import Beat, Consumer
from redisjobs.model.health import Audit, Audited, Fault, Finding, Level, ServerFacts
from redisjobs.model.job import Priority, State
from redisjobs.model.moving import FindTaken, ForgetTaken, Take
from redisjobs.model.queries import FindWorkers, WorkersFound
from redisjobs.model.transitions import Ack, After, NewJob, Release
from redisjobs.sync import JobQueue as SyncJobQueue
from redisjobs_proof.contract.acts import FAILED, claim, rows_of, settle, take_over

pytestmark = pytest.mark.anyio

DATA = {*FAULTS, "data"}
OF_TESTS = {"persistence", "roles"}
"""What the doctor finds in a PostgreSQL server of the tests: it does not sync, and a superuser migrates."""
FACTS = {"concurrency": "2", "running": "0", "names": "Work", "started": "2026-11-01T00:00:00+00:00"}


async def push(store: Store, *job_ids: str, name: str = "Work", **options: Any) -> None:
    jobs = [NewJob(each, ["name", name, "parameters", "{}"], **options) for each in job_ids]
    await store.driver.push(jobs, repeated=False)


async def faults_of(queue: JobQueue, *, repair: bool = False) -> list[Finding]:
    found = [each for each in await queue.control.doctor(repair=repair) if each.check in DATA]
    return [] if [(each.check, each.level) for each in found] == [("data", Level.OK)] else found


@pytest.fixture
async def redis_queue(redis_store: RedisStore) -> Any:
    async with JobQueue(redis_store.driver, redis_store.queue_name) as queue:
        yield queue


@pytest.fixture
async def worker(redis_store: RedisStore) -> Any:
    consumer = redis_store.consumer("w1")
    yield consumer
    consumer.sync.close()
    await consumer.aclose()


async def fill(store: RedisStore, worker: Consumer) -> None:
    """Jobs in every state, in the queue of a worker that lives."""
    worker.sync.beat(Beat(worker, list, FACTS))
    await push(store, "dead", "back", "runs")
    for lease in await claim(worker, 3):
        if lease.job_id != "runs":
            await settle(worker, lease, FAILED if lease.job_id == "dead" else Release())
    await push(store, "ready", "second", unique="k")
    await push(store, "high", priority=Priority.HIGH)
    await push(store, "later", due=After(60_000), unique="of later")
    await push(store, "limited", "lined", name="Limited")
    await store.driver.change(SetLimit("Limited", "max_concurrency=1"))


# A queue in order


async def test_a_queue_with_jobs_in_every_state_is_in_order(store: Store, queue: JobQueue) -> None:
    worker = store.consumer("w1")
    await fill(store, worker)  # type: ignore[arg-type]
    before = store.contents()

    found = {each.check: each for each in await queue.control.doctor()}

    assert found["data"].level is Level.OK
    assert found["workers"].sentence == "1 worker with 2 slots is alive."
    levels = {each.level for check, each in found.items() if check not in OF_TESTS}
    assert levels <= {Level.OK, Level.INFO, Level.ERROR}
    assert {each.check for each in found.values() if each.level is Level.ERROR} == {"handlers"}
    assert found["handlers"].examples == ("Limited",)
    assert await faults_of(queue, repair=True) == []
    assert store.contents() == before
    worker.sync.close()
    await worker.aclose()


async def test_an_empty_queue_is_in_order(store: Store, queue: JobQueue) -> None:
    assert await faults_of(queue) == []


async def test_progress_grows_up_to_the_end(redis_store: RedisStore, redis_queue: JobQueue) -> None:
    for start in range(0, 1200, 400):
        await push(redis_store, *(str(number) for number in range(start, start + 400)))
    seen: list[tuple[int, int]] = []
    await redis_queue.control.doctor(progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (2400, 2400)  # entries and locators


async def test_notes_in_memory_that_stand_for_nothing_are_repaired(queue_name: str) -> None:
    store = MemoryStore(queue_name)
    async with JobQueue(store.driver, queue_name) as queue:
        await push(store, "a", unique="kept")
        store.memory.held["gone"] = 1
        store.memory.uniques["left"] = ("gone", float("inf"))
        store.memory.uniques["for a time"] = ("gone", 9e15)
        store.memory.lines["Work"] = Line("Work", running={"gone"})
        assert {each.check for each in await faults_of(queue)} == {"held", "unique", "share"}
        assert {each.repaired for each in await faults_of(queue, repair=True)} == {"removed", "freed", "corrected"}
        assert await faults_of(queue) == []
    assert store.memory.uniques.keys() == {"kept", "for a time"}


@pytest.mark.slow
async def test_a_busy_queue_has_no_faults(redis_store: RedisStore, redis_queue: JobQueue) -> None:
    """Jobs are pushed, done, retried, delayed, cancelled and limited, and wait for each other, all the while."""
    assert await looks_while_busy(redis_queue, faults_of, max_concurrency=3) == [[]] * LOOKS
    redis_store.admin.delete(*redis_store.admin.keys(f"{redis_store.prefix}*"))


# Each invariant, broken by an admin

Break = Callable[[RedisStore, Consumer], Awaitable[object]]


def entry_of(store: RedisStore, job_id: str) -> tuple[str, str]:
    place, entry = store.located()[job_id].split()[:2]
    return (store.prefix + place if place == "dead" else f"{store.prefix}ready:{place}"), entry


async def delete_a_consumer(store: RedisStore, worker: Consumer) -> None:
    store.admin.xgroup_delconsumer(store.stream(), "workers", "w1")


async def move_a_group_on(store: RedisStore, worker: Consumer) -> None:
    store.admin.xgroup_setid(store.stream(Priority.HIGH), "workers", "$")


async def forget_a_worker(store: RedisStore, worker: Consumer) -> None:
    store.admin.delete(f"{store.prefix}worker:w1")
    store.admin.zrem(f"{store.prefix}workers", "w1")


async def unlist_a_worker(store: RedisStore, worker: Consumer) -> None:
    store.admin.zrem(f"{store.prefix}workers", "w1")


async def delete_an_entry(store: RedisStore, worker: Consumer) -> None:
    stream, entry = entry_of(store, "high")
    store.admin.xdel(stream, entry)


async def lose_a_locator(store: RedisStore, worker: Consumer) -> None:
    store.admin.hdel(f"{store.prefix}jobs", "high")


async def lose_the_locator_of_a_dead_letter(store: RedisStore, worker: Consumer) -> None:
    store.admin.hdel(f"{store.prefix}jobs", "dead")


async def point_a_locator_elsewhere(store: RedisStore, worker: Consumer) -> None:
    store.admin.hset(f"{store.prefix}jobs", "high", "normal 1-1")


async def copy_an_entry(store: RedisStore, worker: Consumer) -> None:
    stream, entry = entry_of(store, "high")
    store.admin.xadd(stream, dict(store.admin.xrange(stream, entry, entry)[0][1]))


async def add_an_entry_without_an_id(store: RedisStore, worker: Consumer) -> None:
    store.admin.xadd(store.stream(), {"name": "Work", "parameters": "{}"})


async def lose_the_fields_of_a_delayed_job(store: RedisStore, worker: Consumer) -> None:
    store.admin.hdel(f"{store.prefix}delayed", "later")
    store.admin.delete(f"{store.prefix}unique:of later")


async def lose_a_due_time(store: RedisStore, worker: Consumer) -> None:
    store.admin.delete(f"{store.prefix}due")


async def lose_the_locator_of_a_delayed_job(store: RedisStore, worker: Consumer) -> None:
    store.admin.hdel(f"{store.prefix}jobs", "later")


async def lose_both_of_a_delayed_job(store: RedisStore, worker: Consumer) -> None:
    await lose_a_due_time(store, worker)
    await lose_the_locator_of_a_delayed_job(store, worker)


async def scramble_a_delayed_job(store: RedisStore, worker: Consumer) -> None:
    store.admin.hset(f"{store.prefix}delayed", "later", "{}")


async def park_a_job(store: RedisStore, worker: Consumer) -> None:
    stream, entry = entry_of(store, "runs")
    store.admin.xclaim(stream, "workers", "parked", 0, [entry], justid=True)


async def line_up_a_job(store: RedisStore, worker: Consumer) -> None:
    stream, entry = entry_of(store, "runs")
    store.admin.xclaim(stream, "workers", "line:Limited", 0, [entry], justid=True)


async def lose_a_turn(store: RedisStore, worker: Consumer) -> None:
    await line_up_a_job(store, worker)
    store.admin.zadd(f"{store.prefix}lines", {"Limited": 0})


async def count_a_share_for_nothing(store: RedisStore, worker: Consumer) -> None:
    _, entry = entry_of(store, "ready")
    store.admin.hset(f"{store.prefix}shares", f"normal {entry}", "Limited")
    store.admin.zadd(f"{store.prefix}holders:Limited", {f"normal {entry}": 1})


async def lose_half_of_a_share(store: RedisStore, worker: Consumer) -> None:
    _, entry = entry_of(store, "runs")
    store.admin.hset(f"{store.prefix}shares", f"normal {entry}", "Limited")


async def lose_the_other_half_of_a_share(store: RedisStore, worker: Consumer) -> None:
    store.admin.zadd(f"{store.prefix}holders:Limited", {"normal 1-1": 1})


async def hold_a_job_that_is_gone(store: RedisStore, worker: Consumer) -> None:
    store.admin.hset(f"{store.prefix}held", "gone", "1")


async def wait_for_a_job_that_is_gone(store: RedisStore, worker: Consumer) -> None:
    store.admin.hset(f"{store.prefix}waiters", "gone", "p")
    store.admin.expire(f"{store.prefix}waiters", 60)


async def note_a_history_of_a_job_that_is_gone(store: RedisStore, worker: Consumer) -> None:
    store.admin.hset(f"{store.prefix}history", "normal 1-1", "1 released w1 - -")


async def lose_a_group(store: RedisStore, worker: Consumer) -> None:
    store.admin.delete(*store.admin.keys(f"{store.prefix}group*"))


async def unlist_a_group(store: RedisStore, worker: Consumer) -> None:
    store.admin.delete(f"{store.prefix}groups")


async def list_a_letter_that_is_gone(store: RedisStore, worker: Consumer) -> None:
    store.admin.zadd(f"{store.prefix}group:0123456789ab", {"1-000001": 1})


async def list_a_group_that_is_empty(store: RedisStore, worker: Consumer) -> None:
    store.admin.zadd(f"{store.prefix}groups", {"nothing": 1})


async def leave_a_unique_key(store: RedisStore, worker: Consumer) -> None:
    store.admin.set(f"{store.prefix}unique:left", "gone")


async def leave_the_key_of_a_dead_letter(store: RedisStore, worker: Consumer) -> None:
    store.admin.set(f"{store.prefix}unique:left", "dead")


async def keep_a_key_for_ever(store: RedisStore, worker: Consumer) -> None:
    store.admin.set(f"{store.prefix}result:old", "1")


async def add_a_key_of_another_program(store: RedisStore, worker: Consumer) -> None:
    store.admin.set(f"{store.prefix}mine", "1")


async def leave_a_schedule(store: RedisStore, worker: Consumer) -> None:
    store.admin.hset(f"{store.prefix}schedule:old", "rule", "@daily")


REPAIRED: Sequence[tuple[Break, str, str]] = [
    (delete_a_consumer, "stranded", "runs"),
    (move_a_group_on, "stranded", "high"),
    (forget_a_worker, "no record", "runs"),
    (unlist_a_worker, "worker", "w1"),
    (delete_an_entry, "ghost", "high"),
    (lose_a_locator, "unlocated", "high"),
    (lose_the_locator_of_a_dead_letter, "unlocated", "dead"),
    (point_a_locator_elsewhere, "unlocated", "high"),
    (lose_the_fields_of_a_delayed_job, "due", "later"),
    (lose_a_due_time, "no due time", "later"),
    (lose_the_locator_of_a_delayed_job, "unlocated", "later"),
    (lose_both_of_a_delayed_job, "unlocated", "later"),
    (park_a_job, "parked", "runs"),
    (line_up_a_job, "line", "Limited"),
    (lose_a_turn, "line", "Limited"),
    (count_a_share_for_nothing, "share", "normal"),
    (lose_half_of_a_share, "share", "normal"),
    (lose_the_other_half_of_a_share, "share", "normal 1-1"),
    (hold_a_job_that_is_gone, "held", "gone"),
    (wait_for_a_job_that_is_gone, "waiters", "gone"),
    (note_a_history_of_a_job_that_is_gone, "history", "normal 1-1"),
    (lose_a_group, "group", "dead"),
    (unlist_a_group, "group", "0123456789ab"),
    (list_a_letter_that_is_gone, "group", "1-1"),
    (list_a_group_that_is_empty, "group", "nothing"),
    (leave_a_unique_key, "unique", "left"),
    (leave_the_key_of_a_dead_letter, "unique", "left"),
]
NAMED: Sequence[tuple[Break, str, str]] = [
    (copy_an_entry, "twice", "high"),
    (add_an_entry_without_an_id, "no id", "normal"),
    (scramble_a_delayed_job, "unreadable", "later"),
    (keep_a_key_for_ever, "no ttl", "result:old"),
    (add_a_key_of_another_program, "unknown key", "mine"),
    (leave_a_schedule, "schedule", "old"),
]


def jobs_in(store: RedisStore) -> set[str]:
    """The ids of all entries and delayed jobs, by what they are themselves."""
    streams = [*map(store.stream, Priority), f"{store.prefix}dead"]
    found = {fields.get(b"id", b"").decode() for key in streams for _, fields in store.admin.xrange(key)}
    return found | {job.decode() for job in store.admin.hkeys(f"{store.prefix}delayed")}


@pytest.mark.parametrize(("break_it", "check", "what"), REPAIRED, ids=[each[0].__name__ for each in REPAIRED])
async def test_what_is_broken_is_found_named_and_repaired_and_nothing_is_lost(
    redis_store: RedisStore, redis_queue: JobQueue, worker: Consumer, break_it: Break, check: str, what: str
) -> None:
    await fill(redis_store, worker)
    await break_it(redis_store, worker)
    there, keys = jobs_in(redis_store), redis_store.contents()

    found = await faults_of(redis_queue)

    assert redis_store.contents() == keys  # it only looked
    (fault,) = [each for each in found if each.check == check]
    assert any(what in example for example in fault.examples)
    assert what in fault.sentence
    assert fault.advice.startswith(f"`redisjobs doctor --repair --queue {redis_store.queue_name}` ")

    repaired = await faults_of(redis_queue, repair=True)
    assert [each.check for each in repaired if not each.repaired] == []
    assert check in {each.check for each in repaired} or break_it is lose_both_of_a_delayed_job
    assert await faults_of(redis_queue) == []
    assert jobs_in(redis_store) == there
    await run_all(redis_store, worker)


async def run_all(store: RedisStore, worker: Consumer) -> None:
    """Each job that is there runs, once its time has come."""
    wanted = jobs_in(store) - {"dead"}
    store.age(30)
    store.clock.advance(120)
    heir, done = store.consumer("heir"), set[str]()
    for _ in range(4):
        await take_over(heir)
        for lease in await claim(heir, 20):
            await settle(heir, lease, Ack(stepped=b"steps" in lease.fields))
            done.add(lease.job_id)
    assert done == wanted
    heir.sync.close()
    await heir.aclose()


@pytest.mark.parametrize(("break_it", "check", "what"), NAMED, ids=[each[0].__name__ for each in NAMED])
async def test_what_a_repair_could_lose_is_only_named(
    redis_store: RedisStore, redis_queue: JobQueue, worker: Consumer, break_it: Break, check: str, what: str
) -> None:
    await fill(redis_store, worker)
    await break_it(redis_store, worker)
    keys = redis_store.contents()

    (fault,) = await faults_of(redis_queue, repair=True)

    assert (fault.check, fault.repaired) == (check, "")
    assert any(what in example for example in fault.examples)
    assert fault.advice
    assert redis_store.contents() == keys
    redis_store.admin.delete(*redis_store.admin.keys(f"{redis_store.prefix}*"))


async def test_a_key_of_another_type_is_named_and_then_nothing_is_repaired(
    redis_store: RedisStore, redis_queue: JobQueue, worker: Consumer
) -> None:
    await fill(redis_store, worker)
    await leave_a_unique_key(redis_store, worker)
    redis_store.admin.set(f"{redis_store.prefix}history", "text")
    found = await faults_of(redis_queue, repair=True)
    assert {each.level for each in found} == {Level.ERROR}
    assert "WRONGTYPE" in found[0].sentence
    assert redis_store.admin.exists(f"{redis_store.prefix}unique:left")
    redis_store.admin.delete(*redis_store.admin.keys(f"{redis_store.prefix}*"))


def findings_of(*audited: Audited, workers: WorkersFound | None = None) -> list[Finding]:
    """What a repair finds if the steps of the audit answer so, the workers are these, and nothing else answers."""
    steps, left = doctor("emails", repair=True, progress=None), iter(audited)
    go_on: Callable[[], object] = partial(next, steps)
    while True:
        try:
            request = go_on()
        except StopIteration as end:
            return [*end.value]
        is_audit, asks_for_workers = isinstance(request, Audit), isinstance(request, FindWorkers)
        answer = next(left, None) if is_audit else workers if asks_for_workers else None
        go_on = partial(steps.throw, DriverError("no")) if answer is None else partial(steps.send, answer)


def repaired_by(*audited: Audited) -> dict[str, str]:
    return {each.check: each.repaired for each in findings_of(*audited) if each.check in DATA}


def test_only_what_is_repaired_whole_is_called_repaired() -> None:
    stranded, found, again = Fault("stranded", "s"), Fault("unlocated", "a", True), Fault("unlocated", "b")
    begins, first = Audited("high ", ""), Audited("normal ", "high", faults=[found, stranded])
    fails = Audited("low ", "normal", error="NOPERM")

    assert repaired_by(begins, first, Audited("", "tidy")) == {
        "stranded": "handed back",
        "unlocated": "located again",
    }
    assert repaired_by(begins, first, fails, Audited("", "low", faults=[again])) == {
        "stranded": "",
        "unlocated": "",
        "data": "",
    }
    assert repaired_by(begins, first, Audited("", "tidy", error="NOPERM"))["stranded"] == ""


def test_handlers_are_said_to_be_there_only_if_all_ready_jobs_were_looked_at() -> None:
    begins, refused = Audited("high ", ""), Audited("", "high", error="NOPERM")
    workers = WorkersFound([("w1", 10.0, FACTS)])

    def checked(*audited: Audited) -> list[Level]:
        return [each.level for each in findings_of(*audited, workers=workers) if each.check == "handlers"]

    assert checked(begins, Audited("", "high", waiting={"Work": 1})) == [Level.OK]
    assert checked(begins, Audited("", "high", waiting={"Other": 1})) == [Level.ERROR]
    assert checked(begins, refused) == []
    assert checked() == []


async def test_each_step_is_bounded_also_for_large_jobs(redis_store: RedisStore) -> None:
    for number in range(12):
        job = NewJob(str(number), ["name", "Work", "parameters", '"' + "x" * 300_000 + '"'])
        await redis_store.driver.push([job], repeated=False)
    looked, after = [], "normal "
    while after.startswith("normal "):
        answer = await redis_store.driver.change(Audit(after))
        looked.append(answer.looked)
        after = answer.after
    await redis_store.driver.aclose()
    assert sum(looked) == 12
    assert max(looked) <= 4


# The service


async def test_a_queue_without_a_worker_says_how_many_jobs_wait(store: Store, queue: JobQueue) -> None:
    await push(store, "a", "b")
    found = {each.check: each for each in await queue.control.doctor()}
    assert (found["workers"].level, found["workers"].sentence) == (
        Level.ERROR,
        "No worker is alive, and 2 jobs wait.",
    )


async def test_silent_workers_several_releases_and_pauses_are_named(store: Store, queue: JobQueue) -> None:
    workers = [store.consumer(name) for name in ("silent", "old", "new")]
    store.age(60)
    for worker, version in zip(workers[1:], ("1.0", "1.1"), strict=True):
        store.consumer(worker.worker_id)
        worker.sync.beat(Beat(worker, list, FACTS | {"version": version}))
        await queue.control.quiet_worker(worker.worker_id)
    await queue.control.pause()
    await queue.control.pause("Work")
    await push(store, "a")
    await queue.control.hold("a")

    found = await queue.control.doctor()

    said = {each.sentence for each in found}
    assert any(each.startswith("Workers whose leases have ended: 1 (silent)") for each in said)
    assert "Workers run several releases of redisjobs: 1.0, 1.1." in said
    assert any(each.startswith("The queue is paused since ") for each in said)
    assert "All live workers are quiet, or stop, so no job starts." in said
    assert "Paused job names: 1 (Work)." in said
    assert "1 job held until `redisjobs unhold`." in said
    for worker in workers:
        worker.sync.close()
        await worker.aclose()


async def test_a_backlog_that_no_worker_works_off_is_a_warning_unless_the_queue_is_paused(
    redis_store: RedisStore, redis_queue: JobQueue, worker: Consumer
) -> None:
    await push(redis_store, "a", "b")
    redis_store.clock.advance(120)
    levels = []
    for name in ("w2", "w3"):
        other = redis_store.consumer(name)
        other.sync.beat(Beat(other, list, FACTS))
        (backlog,) = [each for each in await redis_queue.control.doctor() if each.check == "backlog"]
        levels.append((backlog.level, backlog.count))
        other.sync.close()
        await other.aclose()
        await redis_queue.control.pause()
    assert levels == [(Level.WARNING, 2), (Level.INFO, 2)]
    assert "none ended in the last minutes" in backlog.sentence


async def test_a_schedule_that_no_one_fires_is_named(store: Store, queue: JobQueue) -> None:
    await queue.schedules.put("nightly", {}, Schedule.daily(), job=JobName("Work", dict[str, Any]))
    await queue.schedules.put("paused", {}, Schedule.daily(), job=JobName("Work", dict[str, Any]))
    await queue.schedules.pause("paused")
    said = {each.sentence: each.level for each in await queue.control.doctor() if each.check == "schedules"}
    assert said == {
        "Schedules that no live worker declares, so that they do not fire: 1 (nightly).": Level.WARNING,
        "Paused schedules: 1 (paused).": Level.INFO,
    }


async def test_jobs_that_stay_in_transit_are_a_warning(store: Store, queue: JobQueue) -> None:
    said = []
    for job_id, seconds in (("b", 0), ("a", 120)):
        await push(store, job_id)
        store.clock.set_to = store.clock() - seconds * 1000
        await store.driver.change(Take(await rows_of(store.driver, State.READY)))
        store.clock.set_to = None
        (found,) = [each for each in await queue.control.doctor() if each.check == "in transit"]
        said.append((found.level, found.sentence))
        await store.driver.change(
            ForgetTaken([each.place for each in (await store.driver.read(FindTaken())).jobs])
        )
    assert said == [
        (Level.INFO, "1 job in transit to another store, and in no queue."),
        (Level.WARNING, "1 job in transit to another store, and in no queue; the oldest for 2 min."),
    ]


# The server


def said_of(**facts: Any) -> dict[str, Level]:
    usual = {"maxmemory_policy": "noeviction", "aof_enabled": "1", "role": "master"}
    found = ServerFacts(1, {**usual, **facts.pop("facts", {})}, [0.001], **{"slow": (), "refused": {}, **facts})
    return {each.check: each.level for each in server_findings(found)}


def test_a_server_in_order_has_no_warnings() -> None:
    assert set(said_of().values()) == {Level.OK}


@pytest.mark.parametrize(
    ("facts", "check", "level"),
    [
        ({"facts": {"maxmemory_policy": "allkeys-lru"}}, "eviction", Level.ERROR),
        ({"facts": {"maxmemory": "100", "used_memory": "95"}}, "memory", Level.WARNING),
        ({"facts": {"aof_enabled": "0"}}, "persistence", Level.WARNING),
        (
            {"facts": {"aof_enabled": "0", "rdb_saves": "1", "rdb_last_save_time": "1"}},
            "persistence",
            Level.WARNING,
        ),
        ({"facts": {"aof_last_write_status": "err"}}, "persistence", Level.ERROR),
        ({"facts": {"role": "slave"}}, "replication", Level.ERROR),
        ({"offset": -5.0}, "clock", Level.WARNING),
        ({"step": 2.0}, "clock", Level.WARNING),
        ({"refused": {"XCLAIM": ["claim"]}}, "permissions", Level.INFO),
        ({"refused": None}, "permissions", Level.UNKNOWN),
        ({"slow": [0.2]}, "slow calls", Level.WARNING),
        ({"slow": None}, "slow calls", Level.UNKNOWN),
        ({"facts": {"large": "1", "largest_bytes": "20000"}}, "large jobs", Level.INFO),
    ],
)
def test_what_is_wrong_with_a_server_is_said(facts: dict[str, Any], check: str, level: Level) -> None:
    assert said_of(**facts)[check] is level


async def test_what_an_acl_hides_is_not_checked_and_the_rest_is(redis_store: RedisStore) -> None:
    await push(redis_store, "a")
    await redis_store.driver.aclose()
    rule = documented_rule("observer", redis_store.queue_name)
    redis_store.admin.execute_command("ACL", "SETUSER", redis_store.user, "reset", "on", ">secret", *rule)
    where = redis_store.url.rpartition("@")[2]
    with SyncJobQueue(f"redis://{redis_store.user}:secret@{where}", redis_store.queue_name) as queue:
        found = queue.control.doctor(repair=True)
    unknown = [each.check for each in found if each.level is Level.UNKNOWN]
    assert set(unknown) == {"data", "memory", "permissions", "slow calls"}
    assert {each.check for each in found} >= {"workers", "backlog", "latency", "clock"}


# The words


def test_a_finding_has_ten_examples_and_the_number_of_all() -> None:
    some = [Fault("unique", f"key-{number}") for number in range(10)]
    (found,) = fault_findings({"unique": some}, {"unique": 13}, {"unique": 13}, "")
    assert (found.count, found.examples) == (13, tuple(f"key-{number}" for number in range(10)))
    assert found.sentence.endswith(": 13 (" + ", ".join(found.examples) + ", …).")


def test_each_kind_of_fault_has_words_for_a_repair_or_a_command_to_type() -> None:
    for kind, said in FAULTS.items():
        assert bool(said.repaired) == said.advice.startswith("{repair} "), kind
