"""Schedulers: what is due is fired once, by whoever comes first, whatever happens to the store and to time."""

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
from redisjobs.driver import Notification
from redisjobs.drivers.memory.driver import MemoryDriver
from redisjobs.events import JobsPushed, ScheduleFired
from redisjobs.middleware import OutgoingJob
from redisjobs.queries import Change
from redisjobs.schedules.stored import Fire, PutSchedules, moment
from redisjobs.torture.proxy import Proxy
from redisjobs.transitions import MOST_BYTES, MOST_JOBS

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


@pytest.fixture
async def queue(store: Store) -> AsyncIterator[JobQueue]:
    async with JobQueue(store.driver, store.queue_name) as opened:
        yield opened


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
        store.admin.hset(f"{store.prefix}schedules", name, last_ms)
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
    """Let so much time pass by the store's clock, and schedulers be told to look at what is due."""
    store.clock.advance(seconds)
    await queue.schedules.put(f"wake-{store.clock()}", Report(), RARELY)


async def pass_a_minute(store: Store, queue: JobQueue) -> None:
    """Let one slot of MINUTELY pass."""
    await let_pass(store, queue, 60)


async def slots(queue: JobQueue) -> list[str]:
    return [job.job_id.partition("@")[2] for job in await queue.jobs("ready", 500)]


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
        if isinstance(wanted, PutSchedules) and wanted.declared_by is not None:
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


async def test_whoever_fires_a_schedule_of_run_time_need_not_know_its_job(store: Store) -> None:
    async with JobQueue(store.driver, store.queue_name) as knows, JobQueue(store.driver, store.queue_name) as bare:
        knows.register(Report)(lambda parameters: None)
        stop_between_slots(store)
        await knows.schedules.put("reports", {"days": 4}, MINUTELY, job="Report", priority="high")
        with hearing(bare) as fired:
            async with scheduling(bare):
                await pass_a_minute(store, knows)
                await eventually(lambda: fired)
        (job,) = await knows.jobs("ready")
    assert (job.name, job.parameters, job.priority) == ("Report", '{"days":4}', "high")


async def test_a_scheduler_of_an_older_release_leaves_a_schedule_to_the_newer_one_and_says_so_once(
    store: Store, queue: JobQueue, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redisjobs.schedules.scheduler._EVERY", 0.05)
    stop_between_slots(store)
    # Not by minutes: a schedule that nobody declares for so long has stopped, and the older one takes it up.
    every = Schedule.every(20)
    newer = JobQueue(store.driver, store.queue_name)
    queue.schedule(Report(1), every)
    newer.schedule(Report(2), every)
    with hearing(queue) as old, hearing(newer) as new:
        async with scheduling(queue):
            await eventually_there(queue, "Report")
            await let_pass(store, queue, 20)
            await eventually(lambda: old)
            async with scheduling(newer):
                await eventually(lambda: "it is left to that one" in caplog.text)
                for number in (1, 2):
                    await let_pass(store, queue, 20)
                    await eventually(lambda number=number: len(new) == number)  # type: ignore[misc]
    assert len(old) == 1
    assert caplog.text.count("it is left to that one") == 1


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
    assert (await queue.jobs("ready"))[0].parameters == '{"days":1}'
    assert "one of that name was put at run time" in caplog.text


async def test_a_schedule_that_somebody_spoiled_is_reported_and_the_others_fire(
    redis_store: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    store = redis_store
    stop_between_slots(store)
    async with JobQueue(store.driver, store.queue_name) as queue:
        for name in ("rule", "slot", "gone", "kind", "fine"):
            await queue.schedules.put(name, Report(), MINUTELY)
        queue.schedule(Report(), MINUTELY, name="kind")
        store.admin.hset(f"{store.prefix}schedule:rule", "rule", "whenever")
        store.admin.hset(f"{store.prefix}schedules", "slot", "never")
        store.admin.delete(f"{store.prefix}schedule:gone", f"{store.prefix}schedule:kind")
        store.admin.set(f"{store.prefix}schedule:kind", "x")
        store.admin.hset(f"{store.prefix}schedules", mapping={"": "x", "\x00": "9" * 400})
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
async def test_a_schedule_whose_unique_key_somebody_spoiled_waits_and_the_others_fire(
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
"""What somebody writes into schedules: fields by schedule."""


@pytest.mark.slow
@pytest.mark.parametrize("is_there", [True, False], ids=["while_it_runs", "before"])
async def test_nothing_that_somebody_writes_into_a_schedule_ends_a_scheduler_or_keeps_it_busy(
    redis_store: RedisStore, is_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, calls = redis_store, list[Any]()
    async with JobQueue(store.driver, store.queue_name) as queue:
        for name in (*BY_HAND, "slot", "fine"):
            await queue.schedules.put(name, Report(), Schedule.every(1))
        queue.schedule(Report(), Schedule.every(1), name="declared")
        await Scheduler(queue)._declare()
        change = queue.driver.change

        async def count(wanted: Any) -> Any:
            calls.append(wanted)
            return await change(wanted)

        def spoil() -> None:
            for name, fields in BY_HAND.items():
                store.admin.hset(f"{store.prefix}schedule:{name}", mapping=fields)
            store.admin.hdel(f"{store.prefix}schedule:no_fingerprint", "fingerprint")
            store.admin.hset(f"{store.prefix}schedule:declared", "declared_by", "long ago")
            store.admin.hset(f"{store.prefix}schedules", "slot", "9" * 15)
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


async def test_whoever_takes_part_in_more_jobs_than_one_call_takes_hears_of_the_end_of_each(
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
        await scheduler._read()

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
        jobs = await queue.jobs("ready")
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


async def test_while_nothing_is_due_a_scheduler_asks_for_nothing_but_what_is_declared(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Change[Any]] = []
    change = queue.driver.change

    async def noted(wanted: Change[Any]) -> Any:
        asked.append(wanted)
        return await change(wanted)

    monkeypatch.setattr(queue.driver, "change", noted)
    queue.schedule(Report(), RARELY)
    async with scheduling(queue):
        for number in range(3):  # each time it looks at all
            before = len(declarations(asked))
            await queue.schedules.put(f"other-{number}", Report(), RARELY)
            await eventually(lambda before=before: len(declarations(asked)) > before)  # type: ignore[misc]

    assert not [each for each in asked if isinstance(each, Fire)]
    assert all(each.schedules for each in declarations(asked))


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
    assert isinstance(store, RedisStore)
    return JobQueue(store.url, store.queue_name)


def declarations(asked: list[Change[Any]]) -> list[PutSchedules]:
    return [each for each in asked if isinstance(each, PutSchedules) and each.declared_by is not None]


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
            ids = [job.job_id for job in await queue.jobs("ready", 500)]
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
            ids = sorted(job.job_id for job in await admin.jobs("ready", 500))
    made_up = [event for event in fired[before:][:2] if event.schedule == "all"]
    assert len(made_up[0].jobs) >= 2
    every = [datetime.fromisoformat(job_id.partition("@")[2]) for job_id in ids if job_id.startswith("all@")]
    assert {b - a for a, b in pairwise(every)} == {timedelta(seconds=1)}
    latest = [event for event in fired[before:] if event.schedule == "latest"]
    assert [len(event.jobs) for event in latest] == [1] * len(latest)


# In a worker


async def test_a_worker_that_is_told_so_fires_and_runs_what_is_scheduled_until_it_stops(
    store: Store, queue: JobQueue
) -> None:
    stop_between_slots(store)
    seen: list[tuple[datetime | None, datetime | None, int]] = []

    @queue.job(schedule=MINUTELY, retry=exponential_jitter(max_attempts=3))
    async def report(context: JobContext) -> None:
        seen.append((context.scheduled_for, context.next_scheduled_at, context.attempt))
        if context.attempt == 1:
            raise Retry(delay=0)

    worker = Worker(queue, schedules=True, lease=3600)  # which is not over by the clock that the test sets
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


async def test_a_worker_fires_no_schedules_unless_told_so(store: Store, queue: JobQueue) -> None:
    stop_between_slots(store)
    queue.schedule(Report(), MINUTELY)
    await queue.schedules.put("reports", Report(), MINUTELY)
    ran: list[str] = []
    queue.register(Report)(lambda report, context: ran.append(context.job_id))
    worker = Worker(queue, lease=3600)
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
