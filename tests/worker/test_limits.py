"""Limits of job names, by whole workers and step by step, on memory and on every server there is."""

import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any, ClassVar, TypedDict

import anyio
import pytest
from at_work import running
from store import MemoryStore, RedisStore, Store, eventually, restore

from redisjobs import (
    EncodeError,
    JobContext,
    JobName,
    JobQueue,
    Middleware,
    Reply,
    Schedule,
    Worker,
    no_retry,
    sync,
)
from redisjobs.control import LimitInfo
from redisjobs.drivers.memory.driver import MemoryDriver
from redisjobs.errors import RegistrationError
from redisjobs.model.changes import Cancel, SetLimit, Tidy
from redisjobs.model.driver import Consumer, Driver
from redisjobs.model.info import limit_infos
from redisjobs.model.job import Priority, State
from redisjobs.model.limits import Limit
from redisjobs.model.queries import Count, FindLimits
from redisjobs.model.transitions import Ack, NewJob, Release
from redisjobs.worker.run import WorkerRun
from redisjobs.worker.source.timer import Promoter
from redisjobs_proof.contract.acts import rows_of
from redisjobs_proof.contract.limit_acts import all_limits, claim, job_ids, limit, limited, push

pytestmark = pytest.mark.anyio


@dataclass
class Export:
    job_name: ClassVar[str] = "Export"
    tenant: str = "joe"
    page: int = 0


def queue_of(store: Store) -> JobQueue:
    """A queue by the store's driver, with the server's own clock."""
    store.clock.set_to = None
    return JobQueue(store.driver, store.queue_name)


# By workers


async def test_workers_run_no_more_at_once_than_a_limit_allows_and_all_in_the_end(store: Store) -> None:
    now, most, done = Counter[str](), Counter[str](), 0
    async with queue_of(store) as queue:

        @queue.register(Export, max_concurrency=2, limit_key=lambda export: export.tenant)
        async def export(parameters: Export) -> None:
            nonlocal done
            now[parameters.tenant] += 1
            most[parameters.tenant] = max(most[parameters.tenant], now[parameters.tenant])
            await anyio.sleep(0.001)
            now[parameters.tenant] -= 1
            done += 1

        await queue.push_many(Export(tenant, page) for page in range(30) for tenant in ("ann", "joe"))
        async with running(*(Worker(queue, concurrency=20) for _ in range(2))):
            await eventually(lambda: done == 60)
        (info,) = await queue.control.limits()

    assert most == {"ann": 2, "joe": 2}
    assert (info.name, info.max_concurrency, info.rate, info.burst) == ("Export", 2, None, None)
    assert (info.running, info.waiting) == (0, 0)


async def test_jobs_of_other_names_have_the_slots_that_limited_ones_do_not_take(store: Store) -> None:
    go_on, others = anyio.Event(), 0
    async with queue_of(store) as queue:

        @queue.job(max_concurrency=1)
        async def alone() -> None:
            await go_on.wait()

        @queue.job
        async def other() -> None:
            nonlocal others
            others += 1

        for _ in range(20):
            await alone.push()
        for _ in range(5):
            await other.push()
        async with running(Worker(queue, concurrency=2)):
            await eventually(lambda: others == 5)
            while (await queue.control.counts()).running != 1:  # noqa: ASYNC110  (the last of the others is settled soon)
                await anyio.sleep(0.005)
            go_on.set()
            while (await queue.control.counts()).totals["completed"] < 25:  # noqa: ASYNC110
                await anyio.sleep(0.005)


async def test_no_more_jobs_start_than_the_rate_allows_by_several_workers(store: Store) -> None:
    started = 0
    async with queue_of(store) as queue:

        @queue.job(rate="1/h", burst=3)
        async def call() -> None:
            nonlocal started
            started += 1

        @queue.job
        async def other() -> None: ...

        for _ in range(15):
            await call.push()
        for _ in range(15):
            await other.push()
        async with running(*(Worker(queue, concurrency=5) for _ in range(3))):
            while (await queue.control.counts()).totals["completed"] < 18:  # noqa: ASYNC110
                await anyio.sleep(0.005)
            while (waiting := (await queue.control.limits())[0].waiting) < 12:  # noqa: ASYNC110
                await anyio.sleep(0.005)

    assert (started, waiting) == (3, 12)


async def test_a_worker_that_runs_until_idle_goes_through_a_line_and_waits_for_no_rate(store: Store) -> None:
    ran = Counter[str]()
    async with queue_of(store) as queue:

        @queue.job(max_concurrency=1)
        async def alone() -> None:
            ran["alone"] += 1

        @queue.job(rate="1/h")
        async def seldom() -> None:
            ran["seldom"] += 1

        for _ in range(12):
            await alone.push()
            await seldom.push()
        await Worker(queue, concurrency=5).run(until_idle=True)
        waiting = {info.name: info.waiting for info in await queue.control.limits()}

    assert ran == {"alone": 12, "seldom": 1}
    assert waiting == {"alone": 0, "seldom": 11}


class Around(Middleware):
    async def around(self, parameters: Any, context: JobContext, call_next: Any) -> Any:
        return await call_next()


@pytest.fixture
def let_go() -> Iterator[threading.Event]:
    """What the thread of a handler waits for."""
    event = threading.Event()
    yield event
    event.set()


def blocking_job(queue: JobQueue, let_go: threading.Event, **options: Any) -> tuple[Any, list[str]]:
    """A job with a sync handler under a limit of 1; what its handler does: "stuck" waits in its thread."""
    did: list[str] = []

    @queue.job(max_concurrency=1, retry=no_retry(), **options)
    def export(page: str) -> None:
        did.append(f"{page} begins")
        if page == "stuck":
            let_go.wait(20)
        did.append(f"{page} ends")

    return export, did


@pytest.mark.parametrize("middleware", [False, True], ids=["plain", "with middleware"])
@pytest.mark.parametrize("how", ["timeout", "cancel"])
async def test_a_sync_job_that_was_given_up_counts_for_its_limit_until_its_thread_has_ended(
    store: Store, let_go: threading.Event, caplog: pytest.LogCaptureFixture, how: str, *, middleware: bool
) -> None:
    async with queue_of(store) as queue:
        if middleware:
            queue.add_middleware(Around())
        export, did = blocking_job(queue, let_go, timeout=0.1 if how == "timeout" else None)
        stuck, _ = await export.push("stuck"), await export.push("next")
        async with running(Worker(queue, concurrency=4), Worker(queue, concurrency=4)):
            await eventually(lambda: bool(did))
            if how == "cancel":
                await stuck.cancel()
            await eventually(lambda: "the thread still runs" in caplog.text)
            (limit,) = await queue.control.limits()
            assert (limit.running, limit.waiting) == (1, 1)
            info = await stuck.info()
            assert info is not None
            assert info.state is State.RUNNING
            let_go.set()
            await until_totals(queue, completed=1, **{"dead" if how == "timeout" else "cancelled": 1})

    assert did == ["stuck begins", "stuck ends", "next begins", "next ends"]
    assert caplog.text.count("the thread still runs") == 1


async def test_a_job_whose_thread_runs_on_takes_no_slot_from_jobs_of_other_names(
    store: Store, let_go: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    async with queue_of(store) as queue:
        export, _ = blocking_job(queue, let_go, timeout=0.1)

        @queue.job
        async def other() -> None: ...

        await export.push("stuck")
        async with running(Worker(queue, concurrency=1)):
            await eventually(lambda: "the thread still runs" in caplog.text)
            for _ in range(3):
                await other.push()
            await until_totals(queue, completed=3)


async def test_a_worker_that_stops_settles_a_job_whose_thread_runs_on(
    store: Store, let_go: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    async with queue_of(store) as queue:
        export, _ = blocking_job(queue, let_go, timeout=0.1)
        stuck = await export.push("stuck")
        async with running(Worker(queue, concurrency=4)):
            await eventually(lambda: "the thread still runs" in caplog.text)
        info = await stuck.info()
        (limit,) = await queue.control.limits()

    assert info is not None
    assert (info.state, info.error.partition(":")[0]) == (State.DEAD, "JobTimeout")
    assert limit.running == 0
    assert not let_go.is_set()


async def test_a_worker_that_runs_until_idle_waits_a_lease_for_a_thread_that_runs_on_and_then_settles_its_job(
    store: Store, let_go: threading.Event
) -> None:
    async with queue_of(store) as queue:
        export, did = blocking_job(queue, let_go, timeout=0.1)
        await export.push("stuck")
        with anyio.fail_after(15):
            await Worker(queue, concurrency=2, lease=0.5).run(until_idle=True)
        (letter,) = await queue.control.jobs(State.DEAD)

    assert letter.error.startswith("JobTimeout")
    assert did == ["stuck begins"]


async def test_a_worker_that_runs_until_idle_runs_the_next_in_line_once_such_a_thread_has_ended(
    store: Store, let_go: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    async with queue_of(store) as queue:
        export, did = blocking_job(queue, let_go, timeout=0.1)
        await export.push("stuck")
        await export.push("next")
        with anyio.fail_after(15):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(Worker(queue, concurrency=2).run, until_idle=True))
                await eventually(lambda: "the thread still runs" in caplog.text)
                let_go.set()

    assert did == ["stuck begins", "stuck ends", "next begins", "next ends"]


async def until_totals(queue: JobQueue, **totals: int) -> None:
    with anyio.fail_after(20):
        while not totals.items() <= (await queue.control.counts()).totals.items():  # noqa: ASYNC110  (a settlement sends no notification)
            await anyio.sleep(0.005)


async def test_a_worker_that_stops_leaves_the_next_in_line_to_another_at_once(store: Store) -> None:
    began, go_on, ran = anyio.Event(), anyio.Event(), list[str]()
    async with queue_of(store) as queue:

        @queue.job(max_concurrency=1)
        async def alone(who: str) -> None:
            began.set()
            await go_on.wait()
            ran.append(who)

        first, second = Worker(queue, lease=600), Worker(queue, lease=600)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first.run)
            await alone.push("a")
            await began.wait()
            tasks.start_soon(second.run)
            await alone.push("b")
            while not [info for info in await queue.control.limits() if info.waiting]:  # noqa: ASYNC110
                await anyio.sleep(0.005)
            first.stop()
            go_on.set()
            await eventually(lambda: ran == ["a", "b"])
            second.stop()


async def test_a_line_goes_on_at_once_beside_many_that_wait_for_their_rate(store: Store) -> None:
    seldom_ran, ran = 0, list[int]()
    async with queue_of(store) as queue:

        @queue.register(Export, rate="1/h", limit_key=lambda export: export.tenant)
        async def export(parameters: Export) -> None:
            nonlocal seldom_ran
            seldom_ran += 1

        @queue.job(max_concurrency=1)
        async def alone(number: int) -> None:
            ran.append(number)
            if number == 5:
                await restore(queue.driver)

        await queue.push_many(Export(f"k{key:02}", page) for page in range(2) for key in range(60))
        async with running(Worker(queue, lease=600)):
            await eventually(lambda: seldom_ran == 60)
            while sum(info.waiting for info in await queue.control.limits()) < 60:  # noqa: ASYNC110
                await anyio.sleep(0.005)
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(alone.push, number)
            await eventually(lambda: len(ran) == 20)

    assert seldom_ran == 60


async def test_a_rate_goes_on_though_the_worker_that_was_to_look_was_killed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear, ran = Promoter.note_others, anyio.Event()

    def hear_of_none_late(self: Promoter, workers: int, *, promotes: bool, late: bool) -> None:
        assert not promotes
        hear(self, workers, promotes=promotes, late=False)  # else a worker looks every 2 s for what is that late

    monkeypatch.setattr(Promoter, "note_others", hear_of_none_late)
    async with queue_of(store) as queue, aclosing(store.consumer("killed", lease=600)) as killed:

        @queue.job(rate="2/s", burst=1)
        async def call() -> None:
            ran.set()

        await queue.control.set_limit("call", rate="2/s", burst=1)
        await killed.open()
        assert (await killed.reclaim()).promotes
        await call.push()
        await call.push()
        first = await killed.exchange([], 9)  # it has looked at the line last, and is the one to look
        assert (len(first.leases), first.lines) == (1, True)
        async with running(Worker(queue)):
            with anyio.fail_after(20):
                await ran.wait()


async def test_a_worker_runs_until_idle_only_once_it_has_claimed_after_the_others_held_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []
    async with queue_of(store) as queue, aclosing(store.consumer("stopping", lease=600)) as stopping:

        @queue.job(max_concurrency=1)
        async def alone(who: str) -> None:
            ran.append(who)

        await queue.control.set_limit("alone", max_concurrency=1)
        await stopping.open()
        await alone.push("a")
        await alone.push("b")
        (held,) = (await stopping.exchange([], 9)).leases
        worker_run = WorkerRun([replace(Worker(queue).settings, until_idle=True)])
        (source,) = worker_run.sources
        consumer, settled = source.member.consumer, list[Reply]()
        look = consumer.reclaim

        async def look_as_it_leaves(*arguments: Any, others: bool = False, **options: Any) -> Any:
            if source.claims.found_nothing and not settled:
                settled.extend((await stopping.exchange([(held, Ack())], None)).replies)
            return await look(*arguments, others=others, **options)

        monkeypatch.setattr(consumer, "reclaim", look_as_it_leaves)
        monkeypatch.setattr(source, "listen", anyio.sleep_forever)  # it may hear too late
        with anyio.fail_after(20):
            await worker_run.run()

    assert ran == ["b"]


async def test_a_limit_that_is_raised_lets_idle_workers_go_on_at_once(store: Store) -> None:
    began, go_on = list[int](), anyio.Event()
    async with queue_of(store) as queue:

        @queue.job(max_concurrency=1)
        async def alone(number: int) -> None:
            began.append(number)
            await go_on.wait()

        for number in range(4):
            await alone.push(number)
        async with running(Worker(queue, concurrency=9, lease=600)):
            await eventually(lambda: began == [0])
            await queue.control.set_limit("alone", max_concurrency=3)
            await eventually(lambda: began == [0, 1, 2])
            await queue.control.set_limit("alone")
            await eventually(lambda: began == [0, 1, 2, 3])
            go_on.set()


async def test_the_last_declaration_counts_and_none_leaves_what_is_stored(store: Store) -> None:
    async def rules() -> dict[str, str]:
        return dict((await store.driver.read(FindLimits())).limits)

    for options, stored in (
        ({"max_concurrency": 3, "rate": "90/m"}, "max_concurrency=3 rate=90/m"),
        ({"rate": "50/s", "burst": 7}, "rate=50/s burst=7"),
        ({}, "rate=50/s burst=7"),
    ):
        queue = queue_of(store)
        queue.register(Export, **options)(print)  # type: ignore[arg-type]
        await Worker(queue).run(until_idle=True)
        assert await rules() == {"Export": stored}
    await queue.aclose()


async def test_a_schedule_pushes_jobs_by_their_key(store: Store) -> None:
    async with queue_of(store) as queue:

        @queue.job(max_concurrency=1, limit_key=lambda parameters: parameters.tenant, schedule=Schedule.every(1))
        async def export(tenant: str = "joe") -> None: ...

        await queue.schedules.put("own", Export("ann"), Schedule.daily(), limit_key="mine")
        await queue.schedules.run_now("own")
        (info,) = await queue.control.jobs(State.READY)
        (row,) = await rows_of(store.driver, State.READY, 9)

    declared = queue.declared["export"].job.fields
    assert dict(zip(declared[::2], declared[1::2], strict=True))["limit_key"] == "joe"
    assert (info.name, row.fields[b"limit_key"]) == ("Export", b"mine")


# By those who push


async def keys_of(queue: JobQueue, store: Store) -> list[bytes | None]:
    return [row.fields.get(b"limit_key") for row in await rows_of(store.driver, State.READY, 99)]


async def test_a_key_is_what_the_handler_says_or_the_push_or_none(store: Store) -> None:
    class Page(TypedDict):
        number: int

    async with queue_of(store) as queue:
        queue.register(Export, limit_key=lambda export: export.tenant)(print)
        by_number = JobName("Page", Page)
        queue.register(by_number, limit_key=lambda page: page["number"])(print)
        resize = queue.job(name="resize", limit_key=lambda given: f"{given.path} {given.width}")(resized)

        await queue.push(Export("ann"))
        await queue.push(Export("ann"), limit_key="other")
        await queue.push({"number": 5}, by_number)
        await queue.push({"tenant": "by name"}, "Export")
        await resize.push("a.png")
        await resize.options(limit_key=7).push("a.png")
        await queue.push(Export("ann"), JobName("Elsewhere", Export), limit_key=7)
        await queue.push(Export("ann"), JobName("Elsewhere", Export))

        keys = [b"ann", b"other", b"5", b"by name", b"a.png 100", b"7", b"7", None]
        assert await keys_of(queue, store) == keys


async def resized(path: str, width: int = 100) -> None: ...


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("", "limit_key='': give a whole number, or text of 1 to 200 printable characters"),
        (1.5, "limit_key=1.5: give a whole number"),
        ("x" * 201, "limit_key='xxx"),
        ("a\nb", r"limit_key='a\\nb'"),
    ],
)
async def test_a_key_that_can_be_none_is_refused_and_nothing_is_pushed(key: Any, said: str) -> None:
    queue = JobQueue("memory://")
    queue.register(Export, limit_key=lambda export: key)(print)

    with pytest.raises(EncodeError, match=f"Export: limit_key= gave no key for these parameters .*{said}"):
        await queue.push(Export())
    with pytest.raises(ValueError, match=said):
        await queue.push(Export(), limit_key=key)
    assert (await queue.control.counts()).totals["pushed"] == 0


async def test_a_registration_that_fails_leaves_nothing() -> None:
    queue = JobQueue("memory://")
    with pytest.raises(RegistrationError, match="schedule= pushes the job without arguments"):
        queue.register(Export, limit_key=lambda _: "", schedule=Schedule.every(1))(print)
    assert (queue.definitions, queue.declared) == ({}, {})
    queue.register(Export)(print)
    assert await queue.push(Export())


async def test_a_key_that_raises_is_told_by_the_push() -> None:
    queue = JobQueue("memory://")
    queue.register(Export, limit_key=lambda export: export.absent)(print)  # type: ignore[attr-defined]
    with pytest.raises(EncodeError, match=r"limit_key= gave no key .*'Export' object has no attribute 'absent'"):
        await queue.push(Export())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_concurrency": 0}, "max_concurrency=0: give a whole number from 1 up"),
        ({"max_concurrency": True}, "max_concurrency=True: give a whole number from 1 up"),
        ({"max_concurrency": 10**7}, "max_concurrency=10000000: give at most 1,000,000"),
        ({"rate": "fast"}, "rate='fast': give how many in a second, a minute or an hour, as 100/s"),
        ({"rate": "0/s"}, "rate='0/s': give how many"),
        ({"rate": "0.0001/h"}, "rate='0.0001/h': it is too slow; give at least one in a year"),
        ({"rate": "1/h", "burst": 10**6}, "burst=1000000: these jobs take more than a hundred years"),
        ({"rate": "5/s", "burst": 0}, "burst=0: give a whole number from 1 up"),
        ({"burst": 5}, "burst=5: it says how many jobs of a rate= may start together; give that too"),
    ],
)
async def test_a_limit_that_makes_no_sense_is_refused_with_what_was_wrong(
    options: dict[str, Any], said: str
) -> None:
    queue = JobQueue("memory://")
    for call in (
        lambda: queue.register(Export, **options),
        lambda: queue.job(name="export", **options)(resized),
    ):
        with pytest.raises(ValueError, match=said):
            call()
    with pytest.raises(ValueError, match=said):
        await queue.control.set_limit("Export", **options)
    assert (queue.definitions, await queue.control.limits()) == ({}, [])


async def test_a_limit_key_that_is_no_function_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"limit_key='tenant': give a plain function of the parameters, as lambda p:"
    ):
        JobQueue("memory://").register(Export, limit_key="tenant")(print)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("max_concurrency=3 rate=50/s burst=10", Limit(3, "50/s", 10)),
        ("rate=1.5/m", Limit(None, "1.5/m", None)),
        ("max_concurrency=three rate=often", Limit()),
        ("burst=5", Limit()),
        ("", Limit()),
    ],
)
def test_a_limit_is_read_as_far_as_it_can_be(text: str, limit: Limit) -> None:
    assert Limit.read(text) == limit


BY_HAND = {
    "max_concurrency=0": [],
    "max_concurrency=02": ["a", "b"],
    "max_concurrency=99999999999": ["a", "b", "c", "d", "e"],
    "rate=5/s burst=0": ["a"],
    "rate=5./s burst=2": ["a", "b"],
    "rate=0.00000000001/h": ["a"],
    "rate=0.0/s": ["a", "b", "c", "d", "e"],
    "max_concurrency=2 burst=99999999 rate=1/h": ["a", "b"],
    "max_concurrency=2 rate=x": ["a", "b"],
    f"rate={'9' * 400}/s": ["a", "b", "c", "d", "e"],
    f"max_concurrency={'9' * 5000}": ["a", "b", "c", "d", "e"],
}
"""Limits as redis-cli may have written them, and which of five jobs start."""


@pytest.mark.parametrize("text", BY_HAND, ids=lambda text: text[:40])
async def test_a_limit_that_was_written_with_redis_cli_is_read_as_python_reads_it(
    engine_store: RedisStore, text: str
) -> None:
    store = engine_store
    async with aclosing(store.driver) as driver, aclosing(store.consumer("w1")) as worker:
        await worker.open()
        store.admin.hset(f"{store.prefix}limits", mapping={"Limited": text, "with space": "max_concurrency=1"})
        await push(driver, *"abcde", *(limited(f"s{number}", name="with space") for number in range(2)))

        assert job_ids(await claim(worker)) == [*BY_HAND[text], "s0", "s1"]

        await limit(driver, "")
        assert len(await claim(worker)) == 5 - len(BY_HAND[text])


async def test_the_first_job_of_a_rate_starts_also_as_the_clock_goes_on_within_the_claim() -> None:
    ticks = count(1_700_000_000_000)
    driver = MemoryDriver(now_ms=lambda: next(ticks))
    async with aclosing(driver), aclosing(driver.consumer("w1", lease=30.0, max_deliveries=3)) as worker:
        await worker.open()
        await limit(driver, "rate=1/h")
        await push(driver, "a", "b")

        assert job_ids(await claim(worker)) == ["a"]


async def test_the_sync_face_does_the_same(store: Store) -> None:
    queue = sync.JobQueue(store.driver if not isinstance(store, RedisStore) else store.url, store.queue_name)
    with queue:
        queue.control.set_limit(Export.job_name, max_concurrency=2, rate="5/m")
        assert queue.control.limits() == [LimitInfo("Export", 2, "5/m", 1, {})]
        queue.control.set_limit(JobName("Export", Export))
        assert queue.control.limits() == []


# With redis-cli


Stage = tuple[RedisStore, Driver, Consumer]


@pytest.fixture
async def stage(engine_store: RedisStore) -> AsyncIterator[Stage]:
    """A store, its driver, and a worker; jobs of the name `Limited` run one at a time."""
    engine_store.clock.advance(0)
    async with aclosing(engine_store.driver) as driver, aclosing(engine_store.consumer("w1")) as worker:
        await worker.open()
        await limit(driver, "max_concurrency=1")
        yield engine_store, driver, worker


async def test_an_entry_of_a_line_that_is_removed_with_redis_cli_blocks_no_other(stage: Stage) -> None:
    store, driver, worker = stage
    await push(driver, *"abc")
    (a,) = await claim(worker)
    b, _ = await rows_of(driver, State.READY, 9)
    store.admin.xdel(store.stream(), b.key)

    held = await claim(worker, (a, Ack()))
    if not held:  # it was that one's turn
        store.clock.advance(6)
        held = await claim(worker)
    assert job_ids(held) == ["c"]
    store.admin.hdel(f"{store.prefix}jobs", "b")


@pytest.mark.parametrize("how", ["recover", "release"])
async def test_a_running_entry_that_is_removed_with_redis_cli_gives_its_share_back(stage: Stage, how: str) -> None:
    store, driver, worker = stage
    await push(driver, *"ab")
    (a,) = await claim(worker)
    store.admin.xdel(store.stream(), a.token[1])

    if how == "recover":
        assert await worker.recover([]) == []
    else:
        assert (await worker.exchange([(a, Release())], None)).replies == [Reply.LEASE_LOST]
    assert job_ids(await claim(worker)) == ["b"]
    store.admin.hdel(f"{store.prefix}jobs", "a")


@pytest.mark.parametrize("how", ["acknowledged", "a false place", "its worker's consumer removed"])
async def test_a_share_of_what_does_not_run_is_given_up_within_a_minute(stage: Stage, how: str) -> None:
    store, driver, worker = stage
    await push(driver, *"ab")
    (a,) = await claim(worker)
    match how:
        case "acknowledged":
            store.admin.xack(store.stream(), "workers", a.token[1])
        case "a false place":
            assert job_ids(await claim(worker, (a, Ack()))) == ["b"]
            store.admin.hset(f"{store.prefix}shares", "nonsense", "Limited")
            store.admin.zadd(f"{store.prefix}holders:Limited", {"nonsense": 1})
            await push(driver, "c")
            (b,) = await worker.recover([])
            assert await claim(worker, (b, Ack())) == []
        case _:
            store.admin.xgroup_delconsumer(store.stream(), "workers", "w1")

    await restore(driver)

    await worker.reclaim()  # it hears of what was handed back, as by a notification
    assert job_ids(await claim(worker)) in (["a"], ["b"], ["c"])
    assert len((await all_limits(driver)).running) == 1


@pytest.mark.parametrize("lost", ["turns", "lines", "both", "shares", "holders:Limited"])
async def test_a_line_goes_on_though_a_key_of_it_was_taken_away(stage: Stage, lost: str) -> None:
    store, driver, worker = stage
    await push(driver, *"abc")
    (a,) = await claim(worker)
    if lost in ("turns", "lines", "both"):
        await worker.exchange([(a, Ack())], None)  # its turn is noted, and no worker has looked
    names = ["turns", "lines"] if lost == "both" else [lost]
    store.admin.delete(*(store.prefix + name for name in names))
    if lost in ("shares", "holders:Limited"):
        await worker.exchange([(a, Ack())], None)

    await restore(driver)
    held = await claim(worker)
    assert job_ids(held) == ["b"]
    assert job_ids(await claim(worker, (held[0], Ack()))) == ["c"]


async def test_a_line_whose_consumer_was_removed_is_handed_back_and_stands_in_line_again(
    stage: Stage,
) -> None:
    store, driver, worker = stage
    await push(driver, *"abc")
    (a,) = await claim(worker)
    store.admin.xgroup_delconsumer(store.stream(), "workers", "line:Limited")

    assert await restore(driver) == 2
    await worker.reclaim()
    assert await claim(worker) == []
    (b,) = await claim(worker, (a, Ack()))
    assert b.job_id == "b"
    assert job_ids(await claim(worker, (b, Ack()))) == ["c"]


async def test_a_limit_that_was_set_with_redis_cli_is_obeyed_and_what_cannot_be_read_limits_nothing(
    stage: Stage,
) -> None:
    store, driver, worker = stage
    store.admin.hset(f"{store.prefix}limits", mapping={"Limited": "max_concurrency=2", "Odd": "max_concurrency=x"})
    await push(driver, *"abc", limited("odd 1", name="Odd"), limited("odd 2", name="Odd"))

    assert job_ids(await claim(worker)) == ["a", "b", "odd 1", "odd 2"]
    assert {info.name: info.max_concurrency for info in limit_infos([await all_limits(driver)])} == {
        "Limited": 2,
        "Odd": None,
    }
    store.admin.hset(f"{store.prefix}limits", "Limited", "max_concurrency=3")
    await restore(driver)
    assert job_ids(await claim(worker)) == ["c"]


@pytest.mark.parametrize("rate", ["0.000000001/h", "999999999/s"])
async def test_a_rate_of_any_size_that_was_set_with_redis_cli_is_obeyed(stage: Stage, rate: str) -> None:
    store, driver, worker = stage
    store.admin.hset(f"{store.prefix}limits", "Limited", f"rate={rate} burst=999999999")
    await push(driver, *"abc")
    assert job_ids(await claim(worker)) == ["a", "b", "c"]


async def test_of_a_line_that_is_at_its_end_nothing_is_left(stage: Stage) -> None:
    store, driver, worker = stage
    await push(driver, *(limited(f"{key}{number}", key) for number in range(3) for key in "ab"))
    held = await claim(worker)
    while held:
        held = await claim(worker, *((lease, Ack()) for lease in held))
    store.clock.advance(6)
    await claim(worker)

    left = {"shares", "turns", "lines", "holders:Limited a", "holders:Limited b"} & store.keys().keys()
    assert left == set()
    consumers = {row["name"].decode() for row in store.admin.xinfo_consumers(store.stream(), "workers")}
    assert consumers == {"w1", "released"}


async def test_a_long_line_is_listed_and_counted_with_what_else_is_ready(stage: Stage) -> None:
    _, driver, worker = stage
    await push(driver, *(f"{number:04}" for number in range(700)), limited("other", name="Other"))
    held = await claim(worker)
    while more := await claim(worker):
        held += more
    await push(driver, limited("new", name="Other"))

    assert sorted(job_ids(held)) == ["0000", "other"]
    rows = await rows_of(driver, State.READY, 500)
    assert [row.job_id for row in rows] == [f"{number:04}" for number in range(1, 501)]
    assert (await driver.read(Count())).running == 2
    assert sum((await driver.read(Count())).ready.values()) == 700


async def test_where_many_lines_have_their_turn_at_once_a_call_sees_to_fifty(stage: Stage) -> None:
    store, driver, worker = stage
    jobs = [limited(f"{way}{number}", f"k{number:03}") for way in "ab" for number in range(120)]
    await push(driver, *jobs)
    held = await claim(worker)
    while more := await claim(worker):
        held += more
    assert len(held) == 120
    await worker.exchange([(lease, Ack()) for lease in held], None)
    assert store.admin.zcard(f"{store.prefix}turns") == 120

    first = await worker.exchange([], 500)
    assert (len(first.leases), first.due_in) == (50, 0)
    assert len(await claim(worker)) == 70


async def test_a_line_with_room_for_more_than_one_look_gives_is_looked_at_again_later(stage: Stage) -> None:
    store, driver, worker = stage
    await push(driver, *(f"{number:04}" for number in range(800)))
    held = await claim(worker)
    while (answer := await worker.exchange([], 500)).more:
        held += answer.leases
    assert len(held) == 1
    await driver.change(SetLimit("Limited", "max_concurrency=700"))

    held += await claim(worker)
    while more := await claim(worker):
        held += more
    assert len(held) == 501
    store.clock.advance(4.9)
    assert await claim(worker) == []
    store.clock.advance(0.1)
    while more := await claim(worker):
        held += more
    assert len(held) == 700


@pytest.mark.parametrize("worker_id", ["line:Limited", "line:"])
async def test_no_worker_has_the_id_of_a_line(worker_id: str) -> None:
    with pytest.raises(ValueError, match="and nothing that begins with 'line:'"):
        Worker(JobQueue("memory://"), worker_id=worker_id)


async def test_a_full_line_that_is_cancelled_leaves_nothing_behind(stage: Stage) -> None:
    store, driver, worker = stage
    await push(driver, *"abc")
    (a,) = await claim(worker)
    for job_id in "bc":
        assert await driver.change(Cancel(job_id)) is Reply.CANCELLED
    assert await claim(worker, (a, Ack())) == []
    assert {"shares", "turns", "lines"} & store.keys().keys() == set()


async def test_to_set_the_same_limit_again_writes_nothing_and_tells_no_one(stage: Stage) -> None:
    store, driver, worker = stage
    await push(driver, *"ab")
    await claim(worker)
    before = store.contents()
    with store.admin.pubsub(ignore_subscribe_messages=True) as ear:
        ear.subscribe(f"{store.prefix}control:0")
        ear.get_message(timeout=5)
        await driver.change(SetLimit("Limited", "max_concurrency=1"))
        assert ear.get_message(timeout=0.1) is None
    assert store.contents() == before


async def test_a_job_that_ends_in_the_exchange_that_claims_tells_no_one_of_the_next(stage: Stage) -> None:
    store, driver, worker = stage
    await push(driver, *"abc")
    (a,) = await claim(worker)
    with store.admin.pubsub(ignore_subscribe_messages=True) as ear:
        ear.subscribe(f"{store.prefix}control:0")
        ear.get_message(timeout=5)
        assert job_ids(await claim(worker, (a, Ack()))) == ["b"]
        assert ear.get_message(timeout=0.1) is None


async def test_what_one_worker_sees_to_another_looks_at_a_second_later(stage: Stage) -> None:
    store, driver, worker = stage
    await limit(driver, "rate=6/m burst=1")
    async with aclosing(store.consumer("w2")) as other:
        await other.open()
        await push(driver, *"ab")
        first = await worker.exchange([], 9)
        assert (job_ids(list(first.leases)), first.due_in) == (["a"], 10)
        assert (await worker.exchange([], 9)).due_in == 10
        assert (await other.exchange([], 9)).due_in == 11


async def test_a_workers_own_look_that_is_far_off_hides_no_earlier_one(stage: Stage) -> None:
    store, driver, worker = stage
    await limit(driver, "rate=1/h burst=1")
    await limit(driver, "rate=6/m burst=1", name="Other")
    async with aclosing(store.consumer("w2")) as other:
        await other.open()
        await push(driver, *"ab")
        await claim(worker)
        assert (await worker.exchange([], 9)).due_in == 3600
        await push(driver, limited("x", name="Other"), limited("y", name="Other"))
        assert job_ids(await claim(other)) == ["x"]
        assert (await other.exchange([], 9)).due_in == 10
        assert (await worker.exchange([], 9)).due_in == 11
        store.clock.advance(-86_400)
        assert (await worker.exchange([], 9)).due_in == 86_411


async def test_a_job_that_is_found_again_keeps_its_share_where_others_find_none(store: Store) -> None:
    async with aclosing(store.driver) as driver, aclosing(store.consumer("w1")) as worker:
        await worker.open()
        await limit(driver, "max_concurrency=1")
        await push(driver, "a", limited("x", name="Other"))
        assert job_ids(await claim(worker)) == ["a", "x"]
        await limit(driver, "")
        await push(driver, limited("high", priority=Priority.HIGH))
        assert job_ids(await worker.wait(1, 5)) == ["high"]
        if isinstance(store, RedisStore):
            store.admin.hset(f"{store.prefix}limits", "Limited", "max_concurrency=1")
        else:
            assert isinstance(store, MemoryStore)
            store.memory.limits["Limited"] = Limit(1)

        found = await worker.recover([])
        assert job_ids(found) == ["a", "x"]
        assert job_ids(await claim(worker)) == []
        assert job_ids(await claim(worker, (found[0], Ack()))) == ["high"]


async def test_lines_that_were_taken_away_are_found_however_many_there_are(stage: Stage) -> None:
    store, driver, worker = stage
    await push(driver, *(limited(f"{way}{number}", f"k{number}") for way in "ab" for number in range(700)))
    held = await claim(worker)
    while more := await claim(worker):
        held += more
    assert len(held) == store.admin.zcard(f"{store.prefix}lines") == 700
    store.admin.delete(f"{store.prefix}lines")

    await restore(driver)

    assert store.admin.zcard(f"{store.prefix}lines") == 700
    assert store.admin.zcard(f"{store.prefix}turns") == 0


async def test_turns_that_were_taken_away_are_given_again_however_many_there_are(stage: Stage) -> None:
    store, driver, worker = stage
    await limit(driver, "rate=1/h burst=1")
    await push(driver, *(limited(f"{way}{number}", f"k{number}") for way in "ab" for number in range(700)))
    held = await claim(worker)
    while more := await claim(worker):
        held += more
    before = store.admin.zrange(f"{store.prefix}turns", 0, -1, withscores=True)
    assert len(held) == len(before) == 700
    store.admin.delete(f"{store.prefix}turns")

    await restore(driver)

    assert store.admin.zrange(f"{store.prefix}turns", 0, -1, withscores=True) == before


async def test_jobs_that_run_are_listed_though_very_many_wait_before_them(stage: Stage) -> None:
    _, driver, worker = stage
    await push(driver, *(f"{number:05}" for number in range(10_100)))
    held = await claim(worker)
    while (answer := await worker.exchange([], 500)).more:
        assert not answer.leases
    await push(driver, limited("last", name="Other"))
    held += await claim(worker)

    rows = await rows_of(driver, State.RUNNING, 9)
    assert [row.job_id for row in rows] == job_ids(held) == ["00000", "last"]


async def test_many_changes_wait_for_no_one(store: Store) -> None:
    """Limits of names without jobs are set and removed, and leave nothing."""
    async with aclosing(store.driver) as driver:
        for number in range(5):
            await driver.change(SetLimit(f"n{number}", "rate=1/s burst=1"))
            await driver.change(SetLimit(f"n{number}", ""))
        await driver.change(Tidy())
        assert (await driver.read(FindLimits())).limits == {}


async def test_a_prepared_job_has_its_key(store: Store) -> None:
    async with queue_of(store) as queue:
        queue.register(Export, limit_key=lambda export: export.tenant)(print)
        job = queue.prepare(Export("ann"))
        assert isinstance(job, NewJob)
        await queue.push_many([job, Export("joe")])
        assert await keys_of(queue, store) == [b"ann", b"joe"]
