"""Schedulers: what is due is fired once, by the first to come, whatever happens to the store and to time."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import pytest
from postgres_store import PostgresStore
from store import MemoryStore, RedisStore, Store, eventually

from redisjobs import (
    DriverError,
    JobContext,
    JobQueue,
    Middleware,
    Retry,
    Schedule,
    Scheduler,
    Worker,
    exponential_jitter,
)
from redisjobs.drivers.memory.driver import MemoryDriver
from redisjobs.events import JobsPushed, ScheduleFired
from redisjobs.events.middleware import OutgoingJob
from redisjobs.model.changes import Change
from redisjobs.model.definition import moment, ms_of
from redisjobs.model.driver import Notification
from redisjobs.model.stored import Fire, ListSchedules, PutSchedules
from redisjobs.model.transitions import MOST_BYTES, MOST_JOBS
from redisjobs.worker.scheduler.declaring import Declaring
from redisjobs_proof.torture.proxy import Proxy

pytestmark = pytest.mark.anyio


RARELY = Schedule.cron("0 0 29 2 *")
MINUTELY = Schedule.every(60)


@dataclass
class Report:
    job_name: ClassVar[str] = "Report"
    days: int = 1


@dataclass
class Large:
    job_name: ClassVar[str] = "Large"
    text: str


@asynccontextmanager
async def scheduling(*queues: JobQueue) -> AsyncIterator[None]:
    """A scheduler for each of these meanwhile; a queue given twice has two."""
    async with anyio.create_task_group() as tasks:
        for each in queues:
            tasks.start_soon(Scheduler(each).run)
        yield
        tasks.cancel_scope.cancel()


@contextmanager
def hearing(queue: JobQueue) -> Iterator[list[ScheduleFired]]:
    fired: list[ScheduleFired] = []
    end = queue.events.subscribe(ScheduleFired, fired.append)
    yield fired
    end()


def look_back(store: Store, name: str, seconds: float) -> datetime:
    """Let the last slot of a schedule be so long ago: the slots since were missed by everybody."""
    last_ms = store.clock() - int(seconds * 1000)
    if isinstance(store, RedisStore):
        store.admin.hset(f"{store.prefix}schedule:{name}", "last_slot", last_ms)
    elif isinstance(store, PostgresStore):
        moved = "update redisjobs.schedules set last_ms = %s where queue = %s and name = %s"
        store.admin.execute(moved, (last_ms, store.queue_name, name))
    else:
        assert isinstance(store, MemoryStore)
        store.memory.schedules[name].last_ms = last_ms
    return moment(last_ms)


def stop_between_slots(store: Store) -> None:
    """Stop the store's clock half a minute from each slot of MINUTELY."""
    store.clock.set_to = store.clock() // 60_000 * 60_000 + 30_000


def go_on_before_a_slot(store: Store) -> datetime:
    """Let the store's clock run, from a little before the next slot of MINUTELY; that slot."""
    slot_ms = (store.clock() // 60_000 + 1) * 60_000
    store.clock.set_to, store.clock.ahead = None, 0
    store.clock.step((slot_ms - store.clock()) / 1000 - 0.3)
    return moment(slot_ms)


async def let_pass(store: Store, queue: JobQueue, seconds: int) -> None:
    """Let this much time pass by the store's clock, and have schedulers look at what is due."""
    store.clock.advance(seconds)
    await queue.schedules.put(f"wake-{store.clock()}", Report(), RARELY)


async def pass_a_minute(store: Store, queue: JobQueue) -> None:
    """Let one slot of MINUTELY pass."""
    await let_pass(store, queue, 60)


async def slots(queue: JobQueue) -> list[str]:
    return [job.job_id.partition("@")[2] for job in await queue.control.jobs("ready", 500)]


def text(slot: datetime) -> str:
    return slot.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


async def test_a_declared_schedule_fires_at_its_slots(store: Store, queue: JobQueue) -> None:
    stop_between_slots(store)
    queue.schedule(Report(), MINUTELY)
    wanted: list[datetime] = []
    with hearing(queue) as fired:
        async with scheduling(queue):
            await eventually_there(queue, "Report")
            for number in (1, 2):
                wanted.append(go_on_before_a_slot(store))
                await queue.schedules.put(f"wake-{number}", Report(), RARELY)
                await eventually(lambda number=number: len(fired) == number)  # type: ignore[misc]
                assert wanted[-1] <= moment(store.clock())

    assert [each.slot for each in fired] == wanted
    assert await slots(queue) == [text(slot) for slot in wanted]
    assert [job for each in fired for job in each.jobs] == [
        (f"Report@{text(slot)}", "Report", True) for slot in wanted
    ]


async def test_however_many_schedulers_there_are_each_slot_is_fired_once(store: Store, queue: JobQueue) -> None:
    stop_between_slots(store)
    others = [JobQueue(store.driver, store.queue_name) for _ in range(4)]
    told = Counter[str]()
    for each in (queue, *others):
        each.schedule(Report(), MINUTELY)
        each.events.subscribe(ScheduleFired, lambda event: told.update([text(event.slot)]))
        each.events.subscribe(JobsPushed, lambda event: told.update(job_id for job_id, _, _ in event.jobs))

    async with scheduling(queue, *others):
        await eventually_there(queue, "Report")
        for number in (1, 2):
            await pass_a_minute(store, queue)
            await eventually(lambda number=number: len(told) >= 2 * number)  # type: ignore[misc]

    assert set(told.values()) == {1}
    assert sorted(await slots(queue)) == sorted(slot for slot in told if "@" not in slot)


@pytest.mark.parametrize("accuracy", ["latest", "all"])
async def test_after_an_outage_the_slots_that_were_missed_are_made_up_for(
    store: Store, queue: JobQueue, accuracy: Literal["latest", "all"], caplog: pytest.LogCaptureFixture
) -> None:
    store.clock.advance(0)
    rule = Schedule.every(60)
    await queue.schedules.put("reports", Report(), rule, accuracy=accuracy, at_most=5)
    since = look_back(store, "reports", 600)
    missed = list(rule.between(since, moment(store.clock())))

    with hearing(queue) as fired:
        async with scheduling(queue):
            await eventually(lambda: fired)

    wanted = missed[-1:] if accuracy == "latest" else missed[-5:]
    assert await slots(queue) == [text(slot) for slot in wanted]
    assert (fired[0].slot, fired[0].missed) == (missed[-1], len(missed) - len(wanted))
    info = await queue.schedules.get("reports")
    assert info
    assert (info.last_slot, info.missed) == (missed[-1], len(missed) - len(wanted))
    assert f"{len(missed) - len(wanted)} slots before" in caplog.text


async def test_slots_with_more_parameters_than_one_call_takes_are_made_up_for_in_several(
    store: Store, queue: JobQueue
) -> None:
    store.clock.advance(0)
    rule, large = Schedule.every(60), "x" * (MOST_BYTES // 10)
    queue.register(Large)(lambda parameters: None)
    await queue.schedules.put("large", Large(large), rule, accuracy="all", at_most=24)
    since = look_back(store, "large", 1800)
    passed = list(rule.between(since, moment(store.clock())))

    with hearing(queue) as fired:
        async with scheduling(queue):
            await eventually(lambda: sum(len(each.jobs) for each in fired) == 24)

    assert await slots(queue) == [text(slot) for slot in passed[-24:]]
    assert [len(each.jobs) for each in fired] == [9, 9, 6]
    assert [each.missed for each in fired] == [len(passed) - 24, 0, 0]


async def test_the_slots_of_years_are_counted_while_all_else_goes_on(store: Store, queue: JobQueue) -> None:
    store.clock.advance(0)
    await queue.schedules.put("reports", Report(), Schedule.cron("* * * * *"))
    look_back(store, "reports", 400 * 86_400)
    with hearing(queue) as fired:
        async with scheduling(queue):
            await eventually(lambda: fired, within=20)
    assert fired[0].missed == 400 * 24 * 60 - 1


@pytest.mark.slow
async def test_what_is_put_pauses_or_goes_at_run_time_is_heeded_at_once(queue: JobQueue) -> None:
    with hearing(queue) as fired:
        async with scheduling(queue):
            await anyio.sleep(0.05)  # it waits by now, for nothing
            await queue.schedules.put("reports", Report(), Schedule.every(1))
            await eventually(lambda: fired)
            await queue.schedules.pause("reports")
            before = len(fired)
            await queue.schedules.put("others", Report(), Schedule.every(1))
            await eventually(lambda: len([each for each in fired if each.schedule == "others"]) == 2)
            assert [each.schedule for each in fired[before:]] == ["others", "others"]
            await queue.schedules.resume("reports")
            await queue.schedules.remove("others")
            await eventually(lambda: fired[-1].schedule == "reports")


@pytest.mark.slow
async def test_what_is_put_while_the_answer_to_a_declaration_is_on_its_way_is_heeded_at_once(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, listen = queue.driver.change, queue.driver.listen
    declarations, heard = 0, anyio.Event()

    async def listen_and_tell(hear: Callable[[Notification], None]) -> None:
        def heard_by_the_scheduler(notification: Notification) -> None:
            hear(notification)
            if notification.kind == "schedules":
                heard.set()

        await listen(heard_by_the_scheduler)

    async def answer_late(wanted: Any) -> Any:
        nonlocal declarations
        answer = await change(wanted)
        if isinstance(wanted, PutSchedules) and wanted.by is not None:
            declarations += 1
            if declarations == 2:  # it is subscribed by now
                await queue.schedules.put("reports", Report(), Schedule.every(1))
                await heard.wait()
        return answer

    monkeypatch.setattr(queue.driver, "listen", listen_and_tell)
    monkeypatch.setattr(queue.driver, "change", answer_late)
    with hearing(queue) as fired:
        async with scheduling(queue):
            await eventually(lambda: fired)


async def test_a_process_that_fires_a_schedule_of_run_time_need_not_know_its_job(store: Store) -> None:
    async with JobQueue(store.driver, store.queue_name) as knows, JobQueue(store.driver, store.queue_name) as bare:
        knows.register(Report)(lambda parameters: None)
        stop_between_slots(store)
        await knows.schedules.put("reports", {"days": 4}, MINUTELY, job="Report", priority="high")
        with hearing(bare) as fired:
            async with scheduling(bare):
                await pass_a_minute(store, knows)
                await eventually(lambda: fired)
        (job,) = await knows.control.jobs("ready")
    assert (job.name, job.parameters, job.priority) == ("Report", '{"days":4}', "high")


async def test_a_scheduler_of_an_older_release_leaves_a_schedule_to_the_newer_one_and_says_so_once(
    store: Store, queue: JobQueue, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redisjobs.worker.scheduler.declaring.EVERY", 0.05)
    stop_between_slots(store)
    # 20 s in all: a scheduler that has said nothing for 30 s counts as gone, and the older one takes over.
    every = Schedule.every(10)
    newer = JobQueue(store.driver, store.queue_name)
    queue.schedule(Report(1), every)
    newer.schedule(Report(2), every)
    with hearing(queue) as old, hearing(newer) as new:
        async with scheduling(queue):
            await eventually_there(queue, "Report")
            await let_pass(store, queue, 10)
            await eventually(lambda: old)
            async with scheduling(newer):
                await eventually(lambda: "and that declaration counts" in caplog.text)
                for number in (1, 2):
                    await let_pass(store, queue, 10)
                    await eventually(lambda number=number: len(new) == number)  # type: ignore[misc]
    assert len(old) == 1
    assert caplog.text.count("and that declaration counts") == 1


# A release is rolled back


def all_slots(queue: JobQueue, rule: Schedule) -> None:
    queue.schedule(Report(), rule, name="bills", accuracy="all", at_most=MOST_JOBS)


async def eventually_by(queue: JobQueue, rule: Schedule) -> None:
    """Wait until the schedule goes by this rule."""
    with anyio.fail_after(10):
        while (info := await queue.schedules.get("bills")) is None or info.rule != rule:  # noqa: ASYNC110
            await anyio.sleep(0.01)


async def eventually_fired(queue: JobQueue, jobs: int) -> None:
    with anyio.fail_after(10):
        while len(await slots(queue)) < jobs:  # noqa: ASYNC110
            await anyio.sleep(0.01)


async def test_when_the_last_scheduler_of_a_newer_release_stops_the_older_one_takes_over_at_once(
    store: Store, queue: JobQueue
) -> None:
    stop_between_slots(store)
    old, new = Schedule.every(60), Schedule.every(60, moment(30_000))
    rolled_back = JobQueue(store.driver, store.queue_name)
    all_slots(queue, old)
    all_slots(rolled_back, new)
    async with scheduling(queue):
        await eventually_by(queue, old)
        store.clock.advance(1)
        async with scheduling(rolled_back):
            await eventually_by(queue, new)
        await eventually_by(queue, old)  # though the clock stands still
        await pass_a_minute(store, queue)
        await eventually_fired(queue, 1)
    assert all(slot.endswith(":00Z") for slot in await slots(queue))


async def test_while_another_scheduler_of_a_release_is_there_its_schedules_are_left_to_it(
    store: Store, queue: JobQueue
) -> None:
    stop_between_slots(store)
    old, new = Schedule.every(60), Schedule.every(61)
    first, second = JobQueue(store.driver, store.queue_name), JobQueue(store.driver, store.queue_name)
    all_slots(queue, old)
    for each in (first, second):
        all_slots(each, new)
    async with scheduling(queue):
        await eventually_by(queue, old)
        store.clock.advance(1)
        async with scheduling(first):
            await eventually_by(queue, new)
            withdrawn = Scheduler(second)
            await withdrawn._look()
            await withdrawn._declaring.withdraw()
            await Scheduler(queue)._look()
            info = await queue.schedules.get("bills")
    assert info
    assert info.rule == new
    assert not info.stopped


@pytest.mark.parametrize("end", ["stopped", "killed"])
async def test_of_a_release_that_is_rolled_back_each_slot_until_then_is_made_up_for(
    store: Store, queue: JobQueue, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot belongs to the rule that counted when it was due: the newer release's until that counts no more."""
    monkeypatch.setattr("redisjobs.worker.scheduler.declaring.EVERY", 0.05)
    stop_between_slots(store)
    began = moment(store.clock())
    old, new = Schedule.every(10), Schedule.every(10, moment(5_000))
    rolled_back = JobQueue(store.driver, store.queue_name)
    all_slots(queue, old)
    all_slots(rolled_back, new)
    async with scheduling(queue):
        await eventually_by(queue, old)
        await let_pass(store, queue, 13)
        async with scheduling(rolled_back):
            await eventually_by(queue, new)
            changed = moment(store.clock())
            await let_pass(store, queue, 14)
            if end == "killed":

                async def nothing(self: Declaring) -> None: ...

                monkeypatch.setattr(Declaring, "withdraw", nothing)
        if end == "killed":
            store.clock.advance(31)
        await eventually_by(queue, old)
        back = moment(store.clock())
        await let_pass(store, queue, 21)
        wanted = [
            *old.between(began, changed),
            *new.between(changed, back),
            *old.between(back, moment(store.clock())),
        ]
        await eventually_fired(queue, len(wanted))
    assert await slots(queue) == [text(slot) for slot in wanted]


async def test_a_release_that_takes_over_from_one_that_hangs_makes_up_for_its_slots(
    store: Store, queue: JobQueue
) -> None:
    stop_between_slots(store)
    began = moment(store.clock())
    old, new = Schedule.every(10), Schedule.every(60)
    deployed = JobQueue(store.driver, store.queue_name)
    all_slots(queue, old)
    all_slots(deployed, new)
    hangs = Scheduler(queue)
    await hangs._look()
    store.clock.advance(25)
    async with scheduling(deployed):
        await eventually_by(queue, new)
    assert await slots(queue) == [text(slot) for slot in old.between(began, moment(store.clock()))]
    await hangs._fire()
    assert len(await slots(queue)) == 2


async def test_a_schedule_that_is_paused_stays_so_over_a_roll_back_and_makes_nothing_up(
    store: Store, queue: JobQueue
) -> None:
    stop_between_slots(store)
    old, new = Schedule.every(10), Schedule.every(11)
    rolled_back = JobQueue(store.driver, store.queue_name)
    all_slots(queue, old)
    all_slots(rolled_back, new)
    async with scheduling(queue):
        await eventually_by(queue, old)
        store.clock.advance(1)
        async with scheduling(rolled_back):
            await eventually_by(queue, new)
            await queue.schedules.pause("bills")
            store.clock.advance(15)
        await eventually_by(queue, old)
    info = await queue.schedules.get("bills")
    assert info
    assert info.paused
    assert await slots(queue) == []


async def test_what_was_put_at_run_time_is_fired_by_whichever_release_stays(store: Store, queue: JobQueue) -> None:
    stop_between_slots(store)
    rolled_back = JobQueue(store.driver, store.queue_name)
    all_slots(rolled_back, MINUTELY)
    await queue.schedules.put("put", Report(), MINUTELY)
    with hearing(queue) as fired:
        async with scheduling(queue):
            async with scheduling(rolled_back):
                await eventually_there(queue, "bills")
            infos = {info.name: info.stopped for info in await queue.schedules.list()}
            await pass_a_minute(store, queue)
            await eventually(lambda: fired)
    assert infos == {"bills": True, "put": False}
    assert {each.schedule for each in fired} == {"put"}


async def test_the_schedules_of_a_server_that_lost_its_data_are_back_with_the_next_slot_and_miss_none(
    redis_store: RedisStore,
) -> None:
    store = redis_store
    async with JobQueue(store.driver, store.queue_name) as queue:
        all_slots(queue, Schedule.every(1))
        with hearing(queue) as fired:
            async with scheduling(queue):
                await eventually(lambda: fired)
                store.admin.delete(*(store.prefix + key for key, _ in store.keys().items()))
                before = len(fired)
                await eventually(lambda: len(fired) >= before + 2)
        found = [slot.slot for slot in fired]
        spans = {b - a for a, b in pairwise(found)}
        jobs = [each.jobs for each in fired]
    assert spans == {timedelta(seconds=1)}
    assert all(len(each) == 1 for each in jobs)


async def test_a_slot_that_passed_while_the_server_lost_its_data_is_made_up_for_though_none_was_fired_first(
    redis_store: RedisStore,
) -> None:
    store = redis_store
    stop_between_slots(store)
    began = moment(store.clock())
    async with JobQueue(store.driver, store.queue_name) as queue:
        all_slots(queue, MINUTELY)
        scheduler = Scheduler(queue)
        await scheduler._look()
        store.admin.delete(*(store.prefix + key for key, _ in store.keys().items()))
        store.clock.advance(120)
        scheduler.notified(Notification("subscribed", ""))  # the connection is back, before it has fired anything
        await scheduler._look()
        await scheduler._fire()

        assert await slots(queue) == [text(slot) for slot in MINUTELY.between(began, moment(store.clock()))]


async def test_what_code_declares_stops_with_the_last_scheduler_that_declares_it(
    store: Store, queue: JobQueue
) -> None:
    stop_between_slots(store)
    other = JobQueue(store.driver, store.queue_name)
    queue.schedule(Report(), MINUTELY, name="mine")
    other.schedule(Report(), MINUTELY, name="other")
    with hearing(queue) as fired:
        async with scheduling(other):
            await eventually_there(queue, "other")
        async with scheduling(queue):
            await eventually_there(queue, "mine")
            await pass_a_minute(store, queue)
            await eventually(lambda: fired)
        store.clock.advance(61)
        infos = {info.name: info for info in await queue.schedules.list()}
    assert {each.schedule for each in fired} == {"mine"}
    assert (infos["other"].declared, infos["other"].stopped, infos["other"].next_slot) == (True, True, None)


async def eventually_there(queue: JobQueue, name: str) -> None:
    with anyio.fail_after(5):
        while await queue.schedules.get(name) is None:  # noqa: ASYNC110  (no event tells of it)
            await anyio.sleep(0.01)


async def test_what_code_declares_in_place_of_what_was_put_at_run_time_does_not_count(
    store: Store, queue: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    stop_between_slots(store)
    await queue.schedules.put("reports", Report(1), MINUTELY)
    queue.schedule(Report(2), MINUTELY, name="reports")
    with hearing(queue) as fired:
        async with scheduling(queue):
            await pass_a_minute(store, queue)
            await eventually(lambda: fired)
    assert (await queue.control.jobs("ready"))[0].parameters == '{"days":1}'
    assert "one of that name was put at run time" in caplog.text


async def test_a_schedule_that_was_spoiled_is_reported_and_the_others_fire(
    redis_store: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    store = redis_store
    stop_between_slots(store)
    async with JobQueue(store.driver, store.queue_name) as queue:
        for name in ("rule", "slot", "gone", "kind", "fine"):
            await queue.schedules.put(name, Report(), MINUTELY)
        queue.schedule(Report(), MINUTELY, name="kind")
        store.admin.hset(f"{store.prefix}schedule:rule", "rule", "whenever")
        store.admin.hset(f"{store.prefix}schedule:slot", "last_slot", "never")
        store.admin.delete(f"{store.prefix}schedule:gone", f"{store.prefix}schedule:kind")
        store.admin.set(f"{store.prefix}schedule:kind", "x")
        store.admin.zadd(f"{store.prefix}schedules", {"": 0, "\x00": -1})
        with hearing(queue) as fired:
            async with scheduling(queue):
                for number in (1, 2):
                    await pass_a_minute(store, queue)
                    await eventually(lambda number=number: len(fired) == number)  # type: ignore[misc]

    assert {each.schedule for each in fired} == {"fine"}
    for name in ("rule", "slot"):
        assert (
            caplog.text.count(f"schedule '{name}' of queue '{store.queue_name}': what is stored of it can't be")
            == 1
        )
    assert f"schedule 'kind' of queue '{store.queue_name}': what is stored of it" in caplog.text


@pytest.mark.slow
async def test_a_schedule_whose_unique_key_was_spoiled_waits_and_the_others_fire(
    redis_store: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    store = redis_store
    async with JobQueue(store.driver, store.queue_name) as queue:
        await queue.schedules.put("spoiled", Report(), Schedule.every(1), unique="k")
        await queue.schedules.put("fine", Report(), Schedule.every(1))
        store.admin.rpush(f"{store.prefix}unique:k", "x")
        with hearing(queue) as fired:
            async with scheduling(queue):
                await eventually(lambda: len(fired) == 2)
        store.admin.delete(f"{store.prefix}unique:k")
    assert {each.schedule for each in fired} == {"fine"}
    assert caplog.text.count("schedule 'spoiled'") == 1
    assert "it could not be fired, and is tried again: WRONGTYPE" in caplog.text


BY_HAND: dict[str, dict[str, str | bytes]] = {
    "job": {"job": b"\xff"},
    "unique": {"unique": b"\xff"},
    "unique_for": {"unique": "k", "unique_for_ms": "0"},
    "fingerprint": {"fingerprint": b"\xff"},
    "no_fingerprint": {"fingerprint": ""},
    "fired_slot": {"fired_slot": "9" * 15},
    "declared_by": {"declared_by": "long ago"},
    "seen_at": {"seen_at": "today", "fingerprint": "another"},
}
"""What may be written into schedules outside redisjobs: fields by schedule."""


@pytest.mark.slow
@pytest.mark.parametrize("is_there", [True, False], ids=["while_it_runs", "before"])
async def test_nothing_that_is_written_into_a_schedule_ends_a_scheduler_or_keeps_it_busy(
    redis_store: RedisStore, is_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, calls = redis_store, list[Any]()
    async with JobQueue(store.driver, store.queue_name) as queue:
        for name in (*BY_HAND, "slot", "fine"):
            await queue.schedules.put(name, Report(), Schedule.every(1))
        queue.schedule(Report(), Schedule.every(1), name="declared")
        await Scheduler(queue)._look()
        change = queue.driver.change

        async def count(wanted: Any) -> Any:
            calls.append(wanted)
            return await change(wanted)

        def spoil() -> None:
            for name, fields in BY_HAND.items():
                store.admin.hset(f"{store.prefix}schedule:{name}", mapping=fields)
            store.admin.hdel(f"{store.prefix}schedule:no_fingerprint", "fingerprint")
            store.admin.hset(f"{store.prefix}schedule:declared", "declared_by", "long ago")
            store.admin.hset(f"{store.prefix}schedule:slot", "last_slot", "9" * 15)
            store.admin.hset(f"{store.prefix}layout", "schedules", "nan")

        monkeypatch.setattr(queue.driver, "change", count)
        if not is_there:
            spoil()
        with hearing(queue) as fired:
            async with scheduling(queue):
                if is_there:
                    await eventually(lambda: fired)
                    spoil()
                before, calls[:] = len(fired), []
                await eventually(lambda: sum(each.schedule == "fine" for each in fired[before:]) == 2)
                assert len(calls) < 50
                await queue.schedules.put("later", Report(), Schedule.every(1))
                await eventually(lambda: "later" in {each.schedule for each in fired})
        infos = {info.name: info for info in await queue.schedules.list()}
    assert {name for name, info in infos.items() if info.error} == {
        *("job", "unique", "unique_for", "fingerprint", "no_fingerprint", "slot")
    }


class Sign(Middleware):
    async def on_push(self, job: OutgoingJob) -> None:
        job.headers["signed"] = job.job_id


class Hear(Middleware):
    def __init__(self) -> None:
        self.told: list[tuple[str, BaseException | None]] = []
        self.seen: list[str] = []

    def on_push(self, job: OutgoingJob) -> None:
        self.seen.append(job.job_id)
        job.when_pushed(lambda added, error: self.told.append((job.job_id, error)))


async def test_middleware_that_takes_part_in_more_jobs_than_one_call_takes_hears_of_the_end_of_each(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear, error = Hear(), DriverError("no")
    async with JobQueue(store.driver, store.queue_name, middleware=[hear]) as queue:
        store.clock.advance(0)
        for number in range(MOST_JOBS + 1):
            queue.schedule(Report(), Schedule.every(60), name=f"report-{number:03}")
        scheduler = Scheduler(queue)
        await scheduler._look()
        store.clock.advance(60)
        await scheduler._declaring.read()

        async def refuse(wanted: Any) -> Any:
            raise error

        monkeypatch.setattr(queue.driver, "change", refuse)
        with pytest.raises(DriverError):
            await scheduler._fire()
    assert hear.told == [(job_id, error) for job_id in hear.seen]
    assert len(hear.told) == MOST_JOBS


async def test_middleware_takes_part_in_what_a_schedule_pushes(store: Store) -> None:
    stop_between_slots(store)
    async with JobQueue(store.driver, store.queue_name, middleware=[Sign()]) as queue:
        await queue.schedules.put("reports", Report(), MINUTELY, headers={"a": "b"})
        with hearing(queue) as fired:
            async with scheduling(queue):
                for number in (1, 2):
                    await pass_a_minute(store, queue)
                    await eventually(lambda number=number: len(fired) == number)  # type: ignore[misc]
        jobs = await queue.control.jobs("ready")
    assert len(jobs) == 2
    assert [job.headers for job in jobs] == [{"a": "b", "signed": job.job_id} for job in jobs]


# Time


async def test_a_clock_that_is_set_ahead_and_back_fires_no_slot_twice(store: Store, queue: JobQueue) -> None:
    await queue.schedules.put("reports", Report(), Schedule.every(60), accuracy="all", at_most=500)
    with hearing(queue) as fired:
        async with scheduling(queue):
            store.clock.step(600)
            await queue.schedules.put("wake", Report(), RARELY)
            await eventually(lambda: fired)
            first = await slots(queue)
            store.clock.step(-300)
            await queue.schedules.put("wake", Report(2), RARELY)
            store.clock.step(600)
            await queue.schedules.put("wake", Report(3), RARELY)
            await eventually(lambda: len(fired) == 2)
    then = [slot for slot in await slots(queue) if slot not in first]
    assert (len(first), len(then)) == (10, 5)
    whole = sorted([*first, *then])
    assert len({datetime.fromisoformat(b) - datetime.fromisoformat(a) for a, b in pairwise(whole)}) == 1


async def test_a_put_costs_each_scheduler_one_read_of_what_was_put(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, read = list[Any](), list[list[str]]()
    change, ask = queue.driver.change, queue.driver.read

    async def noted(wanted: Any) -> Any:
        asked.append(wanted)
        return await change(wanted)

    async def looked(query: Any) -> Any:
        page = await ask(query)
        if isinstance(query, ListSchedules):
            read.append([row.name for row in page.rows])
        return page

    for number in range(3):
        queue.schedule(Report(), RARELY, name=f"declared-{number}")
    await queue.schedules.put("other", Report(), RARELY)
    monkeypatch.setattr(queue.driver, "change", noted)
    monkeypatch.setattr(queue.driver, "read", looked)
    async with scheduling(queue):
        await eventually(lambda: read)
        asked.clear()
        for number in range(3):
            await queue.schedules.put(f"put-{number}", Report(), RARELY)
            await eventually(lambda number=number: [f"put-{number}"] in read)  # type: ignore[misc]

    assert len(read[0]) == 4
    assert [names for names in read[1:] if names] == [["put-0"], ["put-1"], ["put-2"]]
    said = [each for each in asked if isinstance(each, PutSchedules) and each.by is not None]
    assert all(not each.schedules for each in said)  # that it is there, and not what it declares
    assert not [each for each in asked if isinstance(each, Fire)]


@pytest.mark.slow
async def test_a_change_that_is_told_of_while_a_scheduler_looks_is_not_missed(
    store: Store, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, fired, looks = queue.driver.change, anyio.Event(), 0

    async def slow(wanted: Change[Any]) -> Any:
        nonlocal looks
        answer = await change(wanted)
        looks += isinstance(wanted, PutSchedules)
        if looks == 2:  # which is to find that nothing has changed
            looks += 1
            await other.schedules.put("reports", Report(), Schedule.every(1))
            await anyio.sleep(0.1)  # it has heard of that by now
        return answer

    other = JobQueue(MemoryDriver(store.memory), "other") if isinstance(store, MemoryStore) else again(store)
    monkeypatch.setattr(queue.driver, "change", slow)
    queue.events.subscribe(ScheduleFired, lambda _: fired.set())
    async with scheduling(queue):
        with anyio.fail_after(5):
            await fired.wait()
    await other.aclose()


def again(store: Store) -> JobQueue:
    """The same queue, by another driver."""
    assert isinstance(store, RedisStore | PostgresStore)
    return JobQueue(store.url, store.queue_name)


# The store


def proxied(store: RedisStore) -> Proxy:
    parts = urlsplit(store.url)
    return Proxy(str(parts.hostname), parts.port or 6379)


@pytest.mark.slow
async def test_a_reply_that_is_lost_fires_nothing_twice(redis_store: RedisStore) -> None:
    store = redis_store
    with proxied(store) as proxy:
        async with JobQueue(proxy.url, store.queue_name) as queue:
            await queue.schedules.put("reports", Report(), Schedule.every(1))
            told: list[Any] = []
            queue.events.subscribe(JobsPushed, lambda event: told.extend(event.jobs))
            with hearing(queue) as fired:
                async with scheduling(queue):
                    await eventually(lambda: fired)
                    proxy.cut_after_reply_bytes(0, b"EVALSHA")
                    await eventually(lambda: proxy.cuts == 1)  # of the answer to a slot
                    await eventually(lambda: len(fired) == 3)
            ids = [job.job_id for job in await queue.control.jobs("ready", 500)]
    assert Counter(ids).most_common(1)[0][1] == 1
    assert told == [(job_id, "Report", True) for job_id in ids[: len(told)]]


@pytest.mark.slow
async def test_slots_that_pass_while_the_store_is_away_are_made_up_for_when_it_is_back(
    redis_store: RedisStore,
) -> None:
    store = redis_store
    with proxied(store) as proxy:
        async with (
            JobQueue(proxy.url, store.queue_name) as queue,
            JobQueue(store.driver, store.queue_name) as admin,
        ):
            await queue.schedules.put("all", Report(), Schedule.every(1), accuracy="all")
            await queue.schedules.put("latest", Report(), Schedule.every(1))
            with hearing(queue) as fired:
                async with scheduling(queue):
                    await eventually(lambda: len(fired) == 2)
                    proxy.refuse(True)
                    proxy.drop_all()
                    await anyio.sleep(2.2)  # slots pass by the server's clock
                    before = len(fired)
                    proxy.refuse(False)
                    await eventually(lambda: len(fired) >= before + 2)
            ids = sorted(job.job_id for job in await admin.control.jobs("ready", 500))
    made_up = [event for event in fired[before:][:2] if event.schedule == "all"]
    assert len(made_up[0].jobs) >= 2
    every = [datetime.fromisoformat(job_id.partition("@")[2]) for job_id in ids if job_id.startswith("all@")]
    assert {b - a for a, b in pairwise(every)} == {timedelta(seconds=1)}
    latest = [event for event in fired[before:] if event.schedule == "latest"]
    assert [len(event.jobs) for event in latest] == [1] * len(latest)


# In a worker


async def test_a_worker_fires_and_runs_what_is_scheduled_until_it_stops(store: Store, queue: JobQueue) -> None:
    stop_between_slots(store)
    seen: list[tuple[datetime | None, datetime | None, int]] = []

    @queue.job(schedule=MINUTELY, retry=exponential_jitter(max_attempts=3))
    async def report(context: JobContext) -> None:
        seen.append((context.scheduled_for, context.next_scheduled_at, context.attempt))
        if context.attempt == 1:
            raise Retry(delay=0)

    worker = Worker(queue, lease=3600)  # which is not over by the clock that the test sets
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await eventually_there(queue, "report")
        for number in (1, 2):
            await pass_a_minute(store, queue)
            await eventually(lambda number=number: len(seen) == 2 * number)  # type: ignore[misc]
        worker.stop()

    assert seen[0][0]
    whens = [seen[0][0] + timedelta(minutes=number) for number in range(3)]
    assert [each[:2] for each in seen] == [(whens[0], whens[1])] * 2 + [(whens[1], whens[2])] * 2
    assert [each[2] for each in seen] == [1, 2, 1, 2]


async def test_a_worker_without_schedules_fires_none(store: Store, queue: JobQueue) -> None:
    stop_between_slots(store)
    queue.schedule(Report(), MINUTELY)
    await queue.schedules.put("reports", Report(), MINUTELY)
    ran: list[str] = []
    queue.register(Report)(lambda report, context: ran.append(context.job_id))
    worker = Worker(queue, lease=3600, schedules=False)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        for job_id in ("before", "after"):
            await queue.push(Report(), job_id=job_id)
            await eventually(lambda job_id=job_id: job_id in ran)  # type: ignore[misc]
            await pass_a_minute(store, queue)
        await queue.push(Report(), job_id="last")
        await eventually(lambda: "last" in ran)
        worker.stop()
    assert ran == ["before", "after", "last"]


async def test_a_run_until_idle_fires_no_schedules(store: Store, queue: JobQueue) -> None:
    stop_between_slots(store)
    queue.schedule(Report(), MINUTELY)
    await queue.schedules.put("put", Report(), MINUTELY)
    store.clock.advance(60)
    ran: list[str] = []
    queue.register(Report)(lambda report, context: ran.append(context.job_id))
    await queue.push(Report(), job_id="pushed")

    await Worker(queue, lease=3600).run(until_idle=True)

    assert ran == ["pushed"]
    assert [info.name for info in await queue.schedules.list()] == ["put"]


async def test_each_queue_of_a_worker_has_its_schedules_fired() -> None:
    queues, fired = [JobQueue("memory://", name) for name in ("first", "second")], set[str]()
    for each in queues:
        each.register(Report)(lambda parameters: None)
        each.events.subscribe(ScheduleFired, lambda event: fired.add(event.queue))
        each.schedule(Report(), Schedule.every(1))
    async with anyio.create_task_group() as tasks:
        worker = Worker(queues)
        tasks.start_soon(worker.run)
        await eventually(lambda: fired == {"first", "second"})
        worker.stop()
    for each in queues:
        await each.aclose()


async def test_of_many_schedulers_eight_fire_at_a_slot_and_the_others_only_where_these_are_gone(
    store: Store, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redisjobs.worker.scheduler.declaring.EVERY", 0.05)
    stop_between_slots(store)
    queue.schedule(Report(), Schedule.every(20))  # of those who are silent for 30 s none counts as there
    many, fired_by = [Scheduler(queue) for _ in range(20)], Counter[str]()
    for number, scheduler in enumerate(many):
        scheduler._known.lot = number / len(many)
    change = queue.driver.change

    async def count(changed: Change[Any]) -> Any:
        if isinstance(changed, Fire):
            fired_by[changed.scheduler] += 1
        return await change(changed)

    monkeypatch.setattr(queue.driver, "change", count)
    async with anyio.create_task_group() as tasks:
        for scheduler in many:
            tasks.start_soon(scheduler.run)
        known = [scheduler._known for scheduler in many]
        await eventually(lambda: all(each.present == 20 and each.plans for each in known), 20)
        with hearing(queue) as fired:
            await let_pass(store, queue, 10)
            await eventually(lambda: fired)
            store.clock.advance(3)
            next_ms = ms_of(fired[0].slot) + 20_000
            await eventually(lambda: {each.plans["Report"].next_ms for each in known} == {next_ms}, 20)
            assert fired_by.keys() <= {each.id for each in known[:8]}

            for scheduler in many[:8]:
                scheduler.stop()
            fired_by.clear()
            await let_pass(store, queue, 20)
            await eventually(lambda: len(fired) == 2)
            assert fired_by.keys() <= {each.id for each in known[8:]}
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_worker_listens_for_jobs_and_for_schedules_on_one_connection(
    redis_store: RedisStore, queue_name: str
) -> None:
    async with JobQueue(redis_store.url, queue_name) as queue:
        queue.register(Report)(lambda parameters: None)
        worker = Worker(queue)
        listening = f"{redis_store.prefix}control:0"
        with hearing(queue) as fired:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(worker.run)
                await eventually(lambda: redis_store.admin.pubsub_numsub(listening)[0][1])
                await queue.schedules.put("each-second", Report(), Schedule.every(1))  # it hears of that one
                await eventually(lambda: fired)
                assert redis_store.admin.pubsub_numsub(listening)[0][1] == 1
                worker.stop()


async def test_a_job_that_no_schedule_pushed_is_scheduled_for_no_time(queue: JobQueue) -> None:
    seen: list[Any] = []
    queue.register(Report)(lambda report, context: seen.append((context.scheduled_for, context.next_scheduled_at)))
    await queue.push(Report())
    await Worker(queue).run(until_idle=True)
    assert seen == [(None, None)]


async def test_a_scheduler_that_was_stopped_ends(queue: JobQueue) -> None:
    scheduler = Scheduler(queue)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(scheduler.run)
        await anyio.sleep(0.05)
        scheduler.stop()
    stopped_before = Scheduler(queue)
    stopped_before.stop()
    await stopped_before.run()


async def test_a_scheduler_runs_once_at_a_time(queue: JobQueue) -> None:
    scheduler = Scheduler(queue)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(scheduler.run)
        await anyio.lowlevel.checkpoint()
        with pytest.raises(RuntimeError, match="this scheduler runs already"):
            await scheduler.run()
        scheduler.stop()
