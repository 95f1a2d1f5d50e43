"""One worker with several queues: they share its slots, and what is wrong with one is nothing to the others."""

import operator
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import anyio
import pytest
import redis
from at_work import running
from hypothesis import given
from hypothesis import strategies as st
from store import RedisStore, Store, eventually, happened
from two_queues import Away, Seen, Work, another

from redisjobs import JobContext, JobQueue, Unavailable, Worker
from redisjobs.drivers.memory.claims import claim
from redisjobs.drivers.memory.driver import MemoryConsumer, MemoryDriver
from redisjobs.drivers.memory.worker import join, release
from redisjobs.drivers.redis.commands import Command
from redisjobs.drivers.redis.sync_connection import SyncConnection
from redisjobs.events import JobsClaimed, JobsReleased, LoopBlocked, SourceAvailable, SourceUnavailable
from redisjobs.model.transitions import Exchange, NewJob
from redisjobs.worker.run import WorkerRun
from redisjobs.worker.settings.health import Health
from redisjobs.worker.settings.settings import Settings
from redisjobs.worker.settings.shutdown import Shutdown
from redisjobs.worker.source.demand import Demand
from redisjobs.worker.source.policy import Allocator
from redisjobs.worker.source.pool import Pool
from redisjobs.worker.source.source import Source
from redisjobs_proof.torture.proxy import HOST, Proxy

pytestmark = pytest.mark.anyio


def run_of(
    queues: Sequence[JobQueue], *, until_idle: bool = False, allocator: Allocator | None = None, **options: Any
) -> WorkerRun:
    """One run of a worker of several queues."""
    settings = Worker(queues[0], **options).settings
    return WorkerRun([replace(settings, queue=queue, until_idle=until_idle) for queue in queues], allocator)


@asynccontextmanager
async def let_run(worker_run: WorkerRun, *, grace: float = 10) -> AsyncIterator[WorkerRun]:
    """A run of a worker; at the end it is stopped, and its jobs have this long to end."""
    async with running(worker_run, stop=lambda worker_run: worker_run.stop(grace)):
        yield worker_run


# Whose turn it is


def turns(allocator: Allocator, hungry: Sequence[Sequence[bool]]) -> list[int | None]:
    taken = []
    for wants in hungry:
        turn = allocator.next(wants)
        if turn is not None:
            allocator.claimed(turn, wants)
        taken.append(turn)
    return taken


def test_sources_take_turns_smoothly_by_their_weight() -> None:
    assert turns(Allocator([1, 1]), [[True, True]] * 4) == [0, 1, 0, 1]
    assert turns(Allocator([5, 1, 1]), [[True] * 3] * 7) == [0, 0, 1, 0, 2, 0, 0]


def test_in_strict_order_the_first_that_is_hungry_has_every_turn() -> None:
    allocator = Allocator([1, 1, 1], strict=True)

    assert turns(allocator, [[True] * 3, [False, True, True], [True] * 3, [False] * 3]) == [0, 1, 0, None]


def test_a_source_that_was_not_hungry_for_long_has_saved_no_turns() -> None:
    allocator = Allocator([1, 1])
    turns(allocator, [[True, False]] * 100)

    assert Counter(turns(allocator, [[True, True]] * 10)) == {0: 5, 1: 5}


def test_a_claim_that_brings_several_jobs_is_as_many_turns() -> None:
    allocator, both = Allocator([1, 1]), [True, True]
    allocator.claimed(0, both, 9)

    assert turns(allocator, [both] * 11) == [1] * 9 + [0, 1]


def test_a_source_that_had_no_more_jobs_has_saved_no_turns() -> None:
    allocator, both = Allocator([1, 1]), [True, True]
    allocator.claimed(0, both, 100)
    allocator.emptied(1)

    assert Counter(turns(allocator, [both] * 10)) == {0: 5, 1: 5}


def test_of_several_only_the_one_that_had_no_more_jobs_has_saved_no_turns() -> None:
    allocator, all_three = Allocator([2, 1, 1]), [True] * 3
    allocator.claimed(0, all_three, 100)
    allocator.emptied(1)

    assert turns(allocator, [all_three] * 20) == [2] * 20


def test_a_source_that_had_more_than_its_share_owes_it_though_it_has_no_more_jobs() -> None:
    allocator, both = Allocator([1, 1]), [True, True]
    allocator.claimed(0, both, 4)
    allocator.emptied(0)

    assert turns(allocator, [both] * 4) == [1] * 4


@given(
    weights=st.lists(st.floats(0.5, 4), min_size=2, max_size=3),
    had=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 20), st.booleans()), max_size=5),
)
def test_no_one_waits_for_longer_than_the_others_have_had_more_than_their_share(
    weights: list[float], had: list[tuple[int, int, bool]]
) -> None:
    allocator, all_of_them = Allocator(weights), [True] * len(weights)
    for source, jobs, is_empty in had:
        allocator.claimed(source % len(weights), all_of_them, jobs)
        if is_empty:
            allocator.emptied(source % len(weights))

    jobs = sum(jobs for _, jobs, _ in had)
    most = int((jobs + len(weights)) * sum(weights) / min(weights)) + 1
    assert set(turns(allocator, [all_of_them] * most)) == set(range(len(weights)))


@given(
    weights=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    rounds=st.lists(st.lists(st.booleans(), min_size=5, max_size=5), max_size=30),
)
def test_only_the_hungry_have_turns_and_none_of_them_waits_for_ever(
    weights: list[int], rounds: list[list[bool]]
) -> None:
    allocator, number = Allocator(weights), len(weights)
    for wants, turn in zip(rounds, turns(allocator, [each[:number] for each in rounds]), strict=True):
        assert turn is None if not any(wants[:number]) else turn is not None and wants[turn]

    assert Counter(turns(allocator, [[True] * number] * 20 * sum(weights))).keys() == set(range(number))


# How many slots a source may claim for


class Claimant:
    """A source, as the pool sees it, that says what a test lets it say."""

    def __init__(self, *, wants_jobs: bool = True, asked: int = 0, holds: int = 0) -> None:
        self.batcher: Any = SimpleNamespace(
            asked=lambda since: asked, may_bring_isolated=lambda since: False, under_way=int(asked > 0)
        )
        self.fetcher: Any = SimpleNamespace(waiting=False)
        self.quarantine: Any = SimpleNamespace(is_on=lambda now: False, one_waits=False)
        self.leases: Any = [None] * holds
        self.is_away = self.is_idle = False
        self.wants_jobs = wants_jobs
        self.skip_until = float("-inf")
        self.emptied_at: int | None = None
        self.made_room = self.woken = 0

    def make_room(self) -> None:
        self.made_room += 1

    def wake(self) -> None:
        self.woken += 1


def never(why: str = "") -> None:
    raise AssertionError(why)


def demand_of(*sources: Claimant, slots: int = 50, allocator: Allocator | None = None) -> Demand:
    settings = cast(Settings, SimpleNamespace(concurrency=slots, max_jobs=float("inf"), supervised=False))
    threads: Any = SimpleNamespace(abandoned=0, full=False)
    pool = Pool(settings, threads, Shutdown(), never, never)
    pool.share_among(sources)
    return Demand(pool, allocator or Allocator([1] * len(sources)))


def test_the_one_whose_turn_it_is_may_claim_for_all_free_slots_and_the_other_for_none() -> None:
    a, b = Claimant(), Claimant()
    demand = demand_of(a, b)

    assert (demand.to_claim(a), demand.to_claim(b)) == (50, 0)
    assert a.woken == 1  # it learns that it is its turn

    demand.claiming(a)
    assert (demand.to_claim(a), demand.to_claim(b)) == (0, 50)


def test_a_source_that_is_not_hungry_is_passed_over() -> None:
    a, b = Claimant(wants_jobs=False), Claimant()

    assert demand_of(a, b).to_claim(b) == 50


@pytest.mark.parametrize(("asked", "share"), [(26, 0), (25, 25)])
def test_beside_anothers_claim_a_second_is_made_only_for_a_batch_worth_it(asked: int, share: int) -> None:
    a, b = Claimant(wants_jobs=False, asked=asked), Claimant()

    assert demand_of(a, b).to_claim(b) == share


def test_beside_two_claims_of_others_there_is_no_third() -> None:
    a, b, c = Claimant(wants_jobs=False, asked=10), Claimant(wants_jobs=False, asked=10), Claimant()

    assert demand_of(a, b, c).to_claim(c) == 0


def test_idle_reads_of_all_sources_together_ask_for_a_third_of_the_free_slots() -> None:
    a, b = Claimant(), Claimant()

    assert [demand_of(a).to_read(a), demand_of(a, b).to_read(a)] == [16, 8]
    assert demand_of(a, b, slots=2).to_read(b) == 1


def test_with_one_source_no_one_is_asked_whose_turn_it_is() -> None:
    class Unasked(Allocator):
        def next(self, hungry: Sequence[bool]) -> int | None:
            raise AssertionError

        claimed = next  # type: ignore[assignment]

    a = Claimant(wants_jobs=False)
    demand = demand_of(a, allocator=Unasked([1]))

    assert demand.to_claim(a) == 50
    demand.claiming(a)


# What a source does next


DUTIES: list[tuple[str, Callable[[Source], None]]] = [
    ("recovery.recover", lambda source: setattr(source.member, "needs_recovery", True)),
    ("claims.end_read", lambda source: setattr(source.fetcher, "interrupted", True)),
    ("stepper._read_clock", lambda source: setattr(source.member.clock, "is_known", False)),
    ("stepper._reclaim", lambda source: setattr(source.reclaimer, "look_at", 0)),
    ("recovery.find_missed", lambda source: setattr(source.recovery, "missed_at", 0)),
    ("reclaimer.tidy", lambda source: setattr(source.reclaimer, "tidy_at", 0)),
    ("stepper._read_clock", lambda source: setattr(source.progress, "done_at", float("-inf"))),
]
"""What a source does before it settles and claims again, and what makes it do that."""


@pytest.mark.parametrize("first", range(len(DUTIES)))
async def test_a_source_does_first_what_matters_most(first: int) -> None:
    source = run_of([JobQueue("memory://", "q")]).sources[0]
    source.member.clock.is_known = True
    source.reclaimer.look_at = source.claims.skip_until = time.monotonic() + 100
    assert source.stepper._duty() is None

    for _, happens in DUTIES[first:]:
        happens(source)

    assert source.stepper._duty() == operator.attrgetter(DUTIES[first][0])(source)


# Two queues, one pool


async def test_jobs_of_both_queues_run_in_the_slots_of_one_worker(
    queues: tuple[JobQueue, JobQueue], seen: Seen
) -> None:
    for queue in queues:
        await queue.push_many([Work(number) for number in range(40)])

    with anyio.fail_after(40):
        await run_of(queues, until_idle=True, concurrency=5).run()

    assert Counter(seen.ended) == {queue.name: 40 for queue in queues}
    assert seen.most <= 5
    for queue in queues:
        assert happened(await queue.control.counts()) == {"pushed": 40, "completed": 40}


async def test_a_queue_that_found_nothing_waits_for_its_turn_to_look_once_more_and_does_not_spin(
    queues: tuple[JobQueue, JobQueue], monkeypatch: pytest.MonkeyPatch
) -> None:
    for queue in queues:
        await queue.push(Work())
    worker_run, looks = run_of(queues, until_idle=True), 0

    def counted(look: Callable[[], bool]) -> Callable[[], bool]:
        def count() -> bool:
            nonlocal looks
            looks += 1
            return look()

        return count

    for source in worker_run.sources:
        looks_at = counted(source.stepper._nothing_is_left)
        monkeypatch.setattr(source.stepper, "_nothing_is_left", looks_at)
    await worker_run.run()

    assert looks < 100


async def test_a_job_that_a_handler_pushes_to_the_other_queue_is_run_before_an_idle_worker_ends(
    queues: tuple[JobQueue, JobQueue], seen: Seen
) -> None:
    first, second = queues

    @dataclass
    class Chain:
        job_name: ClassVar[str] = "chain"
        left: int = 0

    def chain(queue: JobQueue, other: JobQueue) -> None:
        @queue.register(Chain)
        async def chain(job: Chain, _: JobContext) -> None:
            if job.left:
                await anyio.sleep(0.1)
                await other.push(Chain(job.left - 1))

    chain(first, second)
    chain(second, first)
    await first.push(Chain(6))
    with anyio.fail_after(40):
        await run_of(queues, until_idle=True).run()

    assert [happened(await queue.control.counts())["completed"] for queue in queues] == [4, 3]


async def test_a_job_of_the_other_queue_that_a_handler_waits_for_is_run_by_a_worker_that_runs_until_idle(
    queues: tuple[JobQueue, JobQueue],
) -> None:
    first, second = queues
    go_on = anyio.Event()

    @second.job(keep_result=60)
    async def inner(a: int) -> int:
        return a + 1

    @first.job(keep_result=60)
    async def outer(a: int) -> int:
        await go_on.wait()
        return 10 * await inner.run(a)

    handle = await outer.push(4)
    worker_run = run_of(queues, until_idle=True, concurrency=4)
    with anyio.fail_after(40):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker_run.run)
            await eventually(lambda: all(source.fetcher.waiting for source in worker_run.sources))
            go_on.set()
    assert await handle.result(timeout=10) == 50


@pytest.mark.slow
async def test_a_job_that_was_pushed_after_the_last_claim_was_sent_is_run_before_the_worker_ends_as_idle(
    queues: tuple[JobQueue, JobQueue], seen: Seen
) -> None:
    """Each of many jobs pushes one to the other queue, just before it ends."""
    first, second = queues

    @first.job
    async def pushes(number: int) -> None:
        await second.push(Work(number))

    for number in range(20):
        await pushes.push(number)
        with anyio.fail_after(40):
            await run_of(queues, until_idle=True, concurrency=1 + number % 3).run()
        assert not any((await second.control.counts()).ready.values())


@pytest.mark.slow
async def test_with_a_backlog_in_both_queues_jobs_begin_by_weight(
    queues: tuple[JobQueue, JobQueue], seen: Seen
) -> None:
    for queue in queues:
        await queue.push_many([Work(number, seconds=0.01) for number in range(60)])

    with anyio.fail_after(40):
        await run_of(queues, until_idle=True, concurrency=1, allocator=Allocator([3, 1])).run()

    first = Counter(seen.started[:40])[queues[0].name]
    assert 28 <= first <= 32  # three of four, but for the first claims


async def test_in_strict_order_the_second_queue_is_served_once_the_first_is_empty(
    queues: tuple[JobQueue, JobQueue], seen: Seen
) -> None:
    for queue in queues:
        await queue.push_many([Work(number) for number in range(30)])

    with anyio.fail_after(40):
        allocator = Allocator([1, 1], strict=True)
        await run_of(queues, until_idle=True, concurrency=2, allocator=allocator).run()

    assert set(seen.started[2:30]) == {queues[0].name}  # who joins first may have the first claim
    assert Counter(seen.ended) == {queue.name: 30 for queue in queues}


async def test_while_one_queue_fills_the_slots_jobs_of_the_other_are_left_to_other_workers(
    queues: tuple[JobQueue, JobQueue], stores: tuple[Store, Store], seen: Seen
) -> None:
    seen.may_end = anyio.Event()
    busy, other = queues
    async with let_run(run_of(queues, concurrency=2)):
        await busy.push_many([Work(1), Work(2), Work(3)])
        await eventually(lambda: seen.now == 2)
        await other.push(Work(4))
        await anyio.sleep(0.3)  # in which nothing is to happen to it
        elsewhere = stores[1].consumer("elsewhere")
        await elsewhere.open()
        with anyio.fail_after(10):
            leases = list((await elsewhere.exchange([], 1)).leases)
            while not leases:  # what a read of ours took goes back at once
                await anyio.sleep(0.01)
                leases = list((await elsewhere.exchange([], 1)).leases)
        assert leases[0].job_id
        await elsewhere.release(refund=True, watch=False)
        await elsewhere.aclose()
        seen.may_end.set()
        await eventually(lambda: len(seen.ended) == 4, within=10)


async def test_jobs_pushed_to_either_queue_of_an_idle_worker_begin_at_once(
    queues: tuple[JobQueue, JobQueue], seen: Seen
) -> None:
    async with let_run(run_of(queues, concurrency=4)) as worker_run:
        await eventually(lambda: all(source.fetcher.waiting for source in worker_run.sources))
        for _ in range(5):
            for queue in queues:
                begun = len(seen.started)
                await queue.push(Work())
                await eventually(lambda begun=begun: len(seen.started) > begun, within=4)  # type: ignore[misc]


async def test_a_job_that_has_to_run_alone_runs_beside_none_of_the_other_queue(
    queues: tuple[JobQueue, JobQueue], stores: tuple[Store, Store], seen: Seen
) -> None:
    """It is delivered for the last time: it may be what ended its workers."""
    suspect, busy = queues
    job_id = (await suspect.push(Work(1, seconds=0.2))).id
    for number in range(2):
        dead = stores[0].consumer(f"dead-{number}")
        await dead.open()
        assert (await dead.exchange([], 1, idle=True)).leases
        await dead.release(refund=False, watch=False)
        await dead.aclose()
    await busy.push_many([Work(number, seconds=0.02) for number in range(60)])

    with anyio.fail_after(40):
        await run_of(queues, until_idle=True, concurrency=4, lease=0.5).run()

    assert Counter(seen.ended) == {suspect.name: 1, busy.name: 60}
    assert seen.beside[job_id] == 0


@pytest.mark.slow
async def test_room_is_made_for_a_job_to_run_alone_though_the_other_queue_is_never_without_jobs(
    queues: tuple[JobQueue, JobQueue], stores: tuple[Store, Store], seen: Seen
) -> None:
    """Its queue has no other jobs, so that nothing but the wait for one goes on there."""
    suspect, busy = queues
    dead = [stores[0].consumer(f"dead-{number}") for number in range(2)]
    job_id = (await suspect.push(Work(1))).id
    for each in dead:
        await each.open()
    assert (await dead[0].exchange([], 1, idle=True)).leases
    await dead[0].release(refund=False, watch=False)
    assert (await dead[1].exchange([], 1, idle=True)).leases

    async def keep_busy() -> None:
        while suspect.name not in seen.ended:
            await busy.push(Work(seconds=0.3))
            await anyio.sleep(0.1)

    worker_run = run_of(queues, concurrency=10, lease=1)
    async with let_run(worker_run), anyio.create_task_group() as tasks:
        tasks.start_soon(keep_busy)
        await eventually(lambda: seen.now > 1 and worker_run.sources[0].fetcher.waiting)
        await dead[1].release(refund=False, watch=False)  # by now it has to run alone
        await eventually(lambda: suspect.name in seen.ended, within=25)

    assert seen.beside[job_id] == 0
    for each in dead:
        await each.aclose()


# What is wrong with one


@pytest.mark.slow
async def test_a_queue_whose_store_is_away_backs_off_alone(store: Store, seen: Seen) -> None:
    away = Away()
    here, there = (
        seen.handle(JobQueue(driver, name)) for driver, name in ((store.driver, store.queue_name), (away, "away"))
    )
    told: list[str] = []
    there.events.subscribe(SourceUnavailable, lambda event: told.append("away"))
    there.events.subscribe(SourceAvailable, lambda event: told.append("back"))
    here.events.subscribe(SourceUnavailable, lambda event: told.append("wrong"))
    async with here, let_run(run_of([here, there], concurrency=2)) as worker_run:
        await eventually(lambda: all(source.member.opened for source in worker_run.sources))
        await there.push_many([Work(), Work()])
        await eventually(lambda: len(seen.ended) == 2)
        away.is_away = True
        await eventually(lambda: "away" in told, within=10)

        assert worker_run.health.ready  # as the other queue is
        await here.push_many([Work()] * 20)
        await eventually(lambda: len(seen.ended) == 22, within=5)
        assert told[-1] == "away"

        await there.driver.push([NewJob("late", ["name", "work", "parameters", "{}"])], repeated=False)
        away.is_away = False
        await eventually(lambda: len(seen.ended) == 23, within=10)
        assert told[-1] == "back"


async def test_a_worker_one_of_whose_queues_can_not_be_reached_begins_with_the_other(
    store: Store, seen: Seen
) -> None:
    away = Away()
    away.is_away = True
    here, there = seen.handle(JobQueue(store.driver, store.queue_name)), seen.handle(JobQueue(away, "away"))
    await there.push(Work())
    async with here, let_run(run_of([there, here])) as worker_run:
        await here.push(Work())
        await eventually(lambda: seen.ended == [here.name])
        assert worker_run.health.ready
        away.is_away = False
        await eventually(lambda: sorted(seen.ended) == sorted([here.name, there.name]), within=10)


async def test_a_worker_that_can_reach_none_of_its_queues_is_not_ready(seen: Seen) -> None:
    stores = Away(), Away()
    for store in stores:
        store.is_away = True
    queues = [seen.handle(JobQueue(store, f"q{number}")) for number, store in enumerate(stores)]
    async with let_run(run_of(queues)) as worker_run:
        await eventually(lambda: worker_run.health.why == "the store is unavailable")
        assert (worker_run.health.live, worker_run.health.ready) == (True, False)
        stores[1].is_away = False
        await eventually(lambda: worker_run.health.ready, within=10)


@pytest.mark.slow
async def test_a_store_that_hangs_keeps_no_slots_from_the_other_queue_for_long(store: Store, seen: Seen) -> None:
    hanging = Away()
    here, there = seen.handle(JobQueue(store.driver, store.queue_name)), seen.handle(JobQueue(hanging, "hangs"))
    async with here, let_run(run_of([here, there], concurrency=2)) as worker_run:
        await eventually(lambda: all(source.fetcher.waiting for source in worker_run.sources))
        hanging.hang()
        calls = hanging.calls
        worker_run.sources[1].fetcher.interrupt()  # so that it claims, for all slots
        await eventually(lambda: hanging.calls > calls)

        await here.push_many([Work()] * 10)
        await eventually(lambda: len(seen.ended) == 10, within=10)

        hanging.answer()  # only now


async def lose_twice(driver: MemoryDriver) -> None:
    """Let two workers die of the job that is there: it is to run alone from then on."""
    for number in range(2):
        dead = MemoryConsumer(driver.memory, f"dead-{number}", 15, 3)
        await dead.open()
        assert (await dead.exchange([], 1, idle=True)).leases
        await dead.release(refund=False, watch=False)


@pytest.fixture
def near_and_far(seen: Seen) -> tuple[JobQueue, JobQueue, Away]:
    """Two queues; the store of the second can be away."""
    away = Away()
    return seen.handle(JobQueue(MemoryDriver(), "near")), seen.handle(JobQueue(away, "far")), away


async def test_a_job_that_ran_alone_and_can_not_be_settled_keeps_no_slots_from_another_queue(
    near_and_far: tuple[JobQueue, JobQueue, Away], seen: Seen
) -> None:
    near, far, away = near_and_far
    seen.may_end = anyio.Event()
    await far.push(Work())
    await lose_twice(away)
    async with let_run(run_of([near, far], lease=1)):
        await eventually(lambda: seen.now == 1)
        await near.push_many([Work()] * 5)
        away.is_away = True
        seen.may_end.set()
        await eventually(lambda: seen.ended == [far.name] + [near.name] * 5)

        away.is_away = False
        await eventually(lambda: not [*away.memory.running()], within=10)
        assert happened(await far.control.counts())["completed"] == 1


async def test_no_room_is_made_for_a_job_to_run_alone_while_what_is_held_can_not_be_settled(
    near_and_far: tuple[JobQueue, JobQueue, Away], seen: Seen
) -> None:
    near, far, away = near_and_far
    async with let_run(run_of([near, far])) as worker_run:
        source = worker_run.sources[0]
        await far.push(Work(seconds=0.1))
        await eventually(lambda: seen.now == 1)
        away.is_away = True
        await eventually(lambda: worker_run.sources[1].member.unavailable, within=10)
        assert worker_run.pool.holds == 1  # as long as that store is away
        source.claims.quarantine.record(60, time.monotonic(), more=True)
        assert source.claims.quarantine.is_on(time.monotonic())

        await near.push_many([Work()] * 5)
        await eventually(lambda: seen.ended.count(near.name) == 5)
        away.is_away = False


async def test_a_job_that_has_to_run_alone_does_though_what_has_run_elsewhere_can_not_be_settled(
    seen: Seen,
) -> None:
    driver, away = MemoryDriver(), Away()
    near, far = seen.handle(JobQueue(driver, "near")), seen.handle(JobQueue(away, "far"))
    async with let_run(run_of([near, far], lease=1)) as worker_run:
        await far.push(Work(seconds=0.1))
        await eventually(lambda: seen.now == 1)
        away.is_away = True
        await eventually(lambda: worker_run.sources[1].member.unavailable, within=10)
        assert worker_run.pool.holds == 1
        driver.sync.push([NewJob("a", ["name", "work", "parameters", "{}"])], repeated=False)
        for number in range(2):  # not awaited: before the worker can have it, two others died of it
            dead = f"dead-{number}"
            join(driver.memory, dead, 15, dead)
            assert claim(driver.memory, dead, 1, 3, idle=True).leases
            release(driver.memory, dead, refund=False, watch=False)
        await eventually(lambda: seen.ended == [far.name, near.name], within=10)
        await eventually(lambda: worker_run.pool.holds == 1)  # a handler ends before its job is settled
        away.is_away = False


async def test_a_worker_does_not_end_as_idle_while_a_queue_of_its_is_away(
    near_and_far: tuple[JobQueue, JobQueue, Away], seen: Seen
) -> None:
    first, second, away = near_and_far
    late = Away()
    late.is_away = True
    first = JobQueue(late, first.name)

    @first.job(name="chain")
    async def chain() -> None:
        await away.push([NewJob("chained", ["name", "work", "parameters", "{}"])], repeated=False)
        back.set()

    back = anyio.Event()
    await chain.push()
    worker_run = run_of([first, second], until_idle=True, lease=1)
    far = worker_run.sources[1]
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker_run.run)
            await eventually(lambda: far.claims.is_idle, within=10)
            away.is_away = True
            await eventually(lambda: far.member.unavailable, within=10)
            late.is_away = False
            await back.wait()
            await eventually(lambda: worker_run.sources[0].claims.is_idle, within=10)
            away.is_away = False

    assert seen.ended == [second.name]


async def test_a_claim_that_fails_keeps_the_slots_from_another_queue_no_longer(
    near_and_far: tuple[JobQueue, JobQueue, Away], seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redisjobs.worker.source.reclaimer._RECLAIM", 1000.0)  # or it would look again by itself
    near, far, away = near_and_far
    worker_run = run_of([far, near], concurrency=1, lease=1000, allocator=Allocator([1, 1], strict=True))
    async with let_run(worker_run):
        consumer, denied = worker_run.sources[0].member.consumer, anyio.Event()
        exchange = consumer.exchange

        async def fail(settlements: Any, count: int | None, **more: Any) -> Exchange:
            if not count or len(seen.ended) < 5:
                return await exchange(settlements, count, **more)
            await anyio.wait_all_tasks_blocked()  # the other one has been denied the slot
            denied.set()
            away.is_away = True
            raise Unavailable("away, as the test says")

        monkeypatch.setattr(consumer, "exchange", fail)
        await near.push_many([Work(seconds=0.02)] * 20)
        await denied.wait()
        await eventually(lambda: len(seen.ended) == 20)


@pytest.mark.slow
async def test_a_blocked_loop_is_noticed_though_the_first_queue_was_never_reached(
    near_and_far: tuple[JobQueue, JobQueue, Away],
) -> None:
    near, far, away = near_and_far
    away.is_away = True
    said: list[LoopBlocked] = []
    near.events.subscribe(LoopBlocked, said.append)

    @near.job(name="block")
    async def block() -> None:
        until = time.monotonic() + 20
        while not said and time.monotonic() < until:
            time.sleep(0.01)  # noqa: ASYNC251  (that is what it is for)

    async with let_run(run_of([far, near], lease=1.5)):
        await block.push()
        await eventually(lambda: said, within=30)


@pytest.fixture
def pair(redis_store: RedisStore) -> Iterator[tuple[Store, Store]]:
    """Two queues on the server that a user would get."""
    for second in another(redis_store):
        yield redis_store, second


@pytest.mark.slow
async def test_a_store_that_hangs_as_it_is_to_settle_has_no_turns_meanwhile(store: Store, seen: Seen) -> None:
    hanging = Away()
    here, there = seen.handle(JobQueue(store.driver, store.queue_name)), seen.handle(JobQueue(hanging, "hangs"))
    async with here, let_run(run_of([here, there], concurrency=2)) as worker_run:
        seen.may_end = anyio.Event()
        await there.push_many([Work()] * 4)
        await eventually(lambda: seen.now == 2)
        hanging.hang()
        seen.may_end.set()
        await eventually(lambda: seen.now == 0)
        assert not worker_run.sources[1].claims.quarantine.one_waits

        await here.push_many([Work()] * 10)
        await eventually(lambda: Counter(seen.ended)[here.name] == 10, within=10)

        hanging.answer()  # only now


@pytest.mark.slow
async def test_a_server_that_hangs_costs_the_leases_of_no_queue_elsewhere(
    redis_store: RedisStore, pair: tuple[RedisStore, RedisStore], seen: Seen
) -> None:
    port = int(redis_store.url.rpartition(":")[2].partition("/")[0])
    with Proxy(HOST, port) as proxy:
        far = pair[1].url.replace(f"{HOST}:{port}", f"{HOST}:{proxy.port}")
        here = seen.handle(JobQueue(redis_store.url, redis_store.queue_name))
        there = seen.handle(JobQueue(far, pair[1].queue_name))
        async with here, there, let_run(run_of([here, there], lease=0.6), grace=0) as worker_run:
            await eventually(lambda: worker_run.health.ready)
            members = [source.member for source in worker_run.sources]
            await eventually(lambda: all(member.opened for member in members))
            assert len(worker_run.heartbeats) == 2
            before = members[0].settings.worker_id
            proxy.black_hole(True)
            await eventually(lambda: members[1].unheard > 1.5, within=10)  # more than two leases
            await here.push(Work())
            await eventually(lambda: seen.ended == [here.name])

            assert members[0].settings.worker_id == before
            assert not members[0].may_be_dead
            proxy.black_hole(False)
            proxy.drop_all()
            await there.push(Work())
            await eventually(lambda: seen.ended == [here.name, there.name], within=20)


async def test_queues_on_one_server_beat_in_one_round_trip(
    redis_store: RedisStore, pair: tuple[RedisStore, RedisStore], seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    together: list[int] = []
    run_all = SyncConnection.run_all

    def spy(connection: SyncConnection, commands: Sequence[Command[Any]]) -> list[Any]:
        together.append(len(commands))
        return run_all(connection, commands)

    monkeypatch.setattr(SyncConnection, "run_all", spy)
    server = f"redis://{redis_store.url.rpartition('@')[2]}"  # as one user, who may do everything
    queues = [seen.handle(JobQueue(server, store.queue_name)) for store in pair]
    async with queues[0], queues[1], let_run(run_of(queues, lease=0.6)) as worker_run:
        await eventually(lambda: together.count(2) > 3)
        assert len(worker_run.heartbeats) == 1
        assert not any(source.member.may_be_dead for source in worker_run.sources)


@pytest.mark.slow
async def test_a_queue_whose_keys_were_spoiled_costs_the_leases_of_no_other(
    redis_store: RedisStore, pair: tuple[RedisStore, RedisStore], seen: Seen
) -> None:
    server = f"redis://{redis_store.url.rpartition('@')[2]}"  # as one user: they beat together
    spoiled, sound = (seen.handle(JobQueue(server, store.queue_name)) for store in pair)
    async with spoiled, sound, let_run(run_of([spoiled, sound], lease=0.6), grace=0) as worker_run:
        members = [source.member for source in worker_run.sources]
        await eventually(lambda: all(member.opened for member in members))
        client, key = redis.Redis.from_url(server), f"redisjobs:{{{spoiled.name}}}:workers"
        kept = client.dump(key)
        client.delete(key)
        client.set(key, "junk")
        await eventually(lambda: members[0].unheard > 1.5, within=10)  # more than two leases

        assert not members[1].may_be_dead
        await sound.push(Work())
        await eventually(lambda: seen.ended == [sound.name])
        assert kept is not None
        client.restore(key, 0, kept, replace=True)
        client.close()
        await eventually(lambda: not members[0].may_be_dead, within=10)


async def test_a_worker_that_is_fenced_in_one_queue_goes_on_in_the_other_as_who_it_was(
    queues: tuple[JobQueue, JobQueue], stores: tuple[Store, Store], seen: Seen
) -> None:
    seen.may_end = anyio.Event()
    async with let_run(run_of(queues, lease=1)) as worker_run:
        for queue in queues:
            await queue.push(Work())
        await eventually(lambda: seen.now == 2)
        before = worker_run.sources[0].member.settings.worker_id
        fenced = stores[0].driver.consumer(before, lease=1, max_deliveries=3)
        await fenced.release(refund=False, watch=True)
        await fenced.aclose()
        worker_run.heartbeats[0].hurry()

        members = [source.member for source in worker_run.sources]
        await eventually(lambda: members[0].settings.worker_id != before, within=10)
        assert members[1].settings.worker_id == before
        seen.may_end.set()
        await eventually(lambda: sorted(seen.ended) == sorted(queue.name for queue in queues), within=10)
        assert (await queues[1].control.counts()).totals["completed"] == 1


# At the end


async def test_a_worker_that_is_stopped_leaves_all_queues_at_once_and_by_one_deadline(
    queues: tuple[JobQueue, JobQueue], seen: Seen
) -> None:
    seen.may_end = anyio.Event()
    released: list[str] = []
    for queue in queues:
        queue.events.subscribe(JobsReleased, lambda event: released.append(event.queue))
    async with let_run(run_of(queues), grace=0.3):
        for queue in queues:
            await queue.push_many([Work(), Work()])
        await eventually(lambda: seen.now == 4)

    assert seen.ended == []
    for queue in queues:
        counts = await queue.control.counts()
        assert (counts.running, sum(counts.ready.values())) == (0, 2)
    assert set(released) == {queue.name for queue in queues}  # in one event each, or in several


async def test_what_is_told_of_a_job_names_its_queue(queues: tuple[JobQueue, JobQueue], seen: Seen) -> None:
    claimed: list[tuple[str, str]] = []
    for queue in queues:
        queue.events.subscribe(
            JobsClaimed,
            lambda event, name=queue.name: claimed.append((name, event.queue)),  # type: ignore[misc]
        )
        await queue.push(Work())
    with anyio.fail_after(40):
        await run_of(queues, until_idle=True).run()

    assert sorted(claimed) == sorted((queue.name, queue.name) for queue in queues)


@pytest.mark.slow
async def test_a_queue_that_was_left_is_not_taken_for_stuck_while_jobs_of_another_block_the_loop(
    pair: tuple[Store, Store], seen: Seen
) -> None:
    near, far = (seen.handle(JobQueue(store.driver, store.queue_name)) for store in pair)
    may_block, said = anyio.Event(), list[Health]()

    @near.job(name="block")
    async def block() -> None:
        await may_block.wait()
        until = time.monotonic() + 20
        while not worker_run.loop.blocked and time.monotonic() < until:
            time.sleep(0.01)  # noqa: ASYNC251  (that is what it is for)
        said.append(worker_run.health)

    async with near, far, let_run(run_of([near, far], lease=1.2)) as worker_run:
        await block.push()
        await eventually(lambda: worker_run.pool.slots.held)
        worker_run.stop(30)
        left = worker_run.sources[1]
        await eventually(lambda: left.member.left and left.progress.is_stuck, within=20)
        may_block.set()

    assert [health.live for health in said] == [True]
