"""Two exchanges may be under way at once, and nudges come by a way of their own: nothing orders their answers."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import anyio
import pytest
from store import RedisStore, Store, eventually

from redisjobs import JobQueue, State, Worker
from redisjobs.driver import Ack, Consumer, Exchange, Lease, Nudge, Settlement, Word
from redisjobs.drivers.redis_consumer import RedisConsumer
from redisjobs.errors import Unavailable
from redisjobs.exchanges import Batch
from redisjobs.fate import Done, LeaseGone
from redisjobs.guard import Guard, keep_up
from redisjobs.lookout import Lookout
from redisjobs.running import Means
from redisjobs.shift import Shift
from redisjobs.stepping import Contexts

pytestmark = pytest.mark.anyio


@dataclass
class Work:
    job_name: ClassVar[str] = "Work"
    number: int = 0


@dataclass
class Late:
    job_name: ClassVar[str] = "Late"


LEASE = 0.5  # seconds


@pytest.fixture
async def queue(store: Store) -> AsyncIterator[JobQueue]:
    async with JobQueue(store.driver, store.queue_name) as queue:
        queue.register(Work)(lambda _: None)
        yield queue


@pytest.fixture
def slots() -> int:
    return 1


@pytest.fixture
async def shift(queue: JobQueue, slots: int) -> AsyncIterator[Shift]:
    """One that has opened, with slots, and does nothing by itself."""
    shift = Shift(Worker(queue, concurrency=slots).settings, until_idle=False)
    guard = Guard()
    shift.means = Means(guard, Contexts(), shift.threads, None)
    await shift.consumer.open()
    yield shift
    await shift.consumer.aclose()
    guard.end()


async def test_a_job_handed_back_and_claimed_again_before_that_is_answered_is_not_forgotten(
    queue: JobQueue, shift: Shift
) -> None:
    await queue.push_many([Work(1), Work(2)])
    first = await shift.consumer.exchange([], 2)
    shift._dispatch(first.leases)  # for one there is no slot
    handing_back, claiming = shift._next_batch(), Batch([], 1)
    handed_back = await shift.consumer.exchange(handing_back.settlements, None)
    claimed = await shift.consumer.exchange([], 1)
    assert [lease.job_id for lease in claimed.leases] == [first.leases[1].job_id]

    shift._answered(claiming, claimed)
    shift._answered(handing_back, handed_back)

    (run,) = shift.outbox
    assert run.lease is claimed.leases[0]
    await shift.consumer.exchange(shift._next_batch().settlements, None)
    assert len(await queue.jobs(State.READY)) == 1


async def test_a_job_that_ran_and_was_taken_over_from_ourselves_meanwhile_is_settled_after_all(
    queue: JobQueue, shift: Shift, store: Store
) -> None:
    await queue.push(Work())
    shift._dispatch((await shift.consumer.exchange([], 1)).leases)
    (run,) = shift.leased.values()
    shift._ran(run, Done())
    settling = shift._next_batch()
    store.age(60)

    shift._dispatch(await shift.consumer.reclaim(1))
    shift._answered(settling, await shift.consumer.exchange(settling.settlements, None))
    settling = shift._next_batch()
    shift._answered(settling, await shift.consumer.exchange(settling.settlements, None))

    assert shift.leased == {}
    counts = await queue.counts()
    assert (counts.running, counts.totals["completed"], shift.refused) == (0, 1, 0)


async def test_of_jobs_taken_over_with_one_of_our_own_none_is_forgotten(
    queue: JobQueue, shift: Shift, store: Store
) -> None:
    await queue.push_many([Work(1), Work(2)])
    (ours,) = (await shift.consumer.exchange([], 1)).leases
    shift._dispatch([ours])
    other = store.consumer("other")
    await other.open()
    await other.exchange([], 1)
    await other.aclose()
    store.age(60)

    shift._dispatch(await shift.consumer.reclaim(2))

    assert len(shift.leased) == 2
    (too_many,) = shift.outbox
    await shift.consumer.exchange(shift._next_batch().settlements, None)
    assert [job.job_id for job in await queue.jobs(State.READY)] == [too_many.lease.job_id]
    assert [job.job_id for job in await queue.jobs(State.RUNNING)] == [ours.job_id]


async def test_a_job_for_which_there_was_no_slot_is_handed_back_once_by_a_worker_that_ends(
    queue: JobQueue, shift: Shift
) -> None:
    await queue.push_many([Work(1), Work(2)])
    shift._dispatch((await shift.consumer.exchange([], 2)).leases)

    await shift._farewell()

    assert shift.refused == 0
    totals = (await queue.counts()).totals
    assert (totals["released"], len(await queue.jobs(State.READY))) == (2, 2)


async def test_a_worker_tells_how_many_settlements_were_refused_but_not_of_those_it_sent_again(
    queue: JobQueue, shift: Shift, store: Store
) -> None:
    other = store.consumer("other")
    await other.open()

    async def settle_what_was_lost(*, again: bool) -> None:
        await queue.push(Work())
        shift._dispatch((await shift.consumer.exchange([], 1)).leases)
        (run,) = shift.leased.values()
        shift._ran(run, Done())
        store.age(60)
        (taken,) = await other.reclaim(1)
        batch = shift._next_batch()
        if again:
            shift._failed(batch, None)
            batch = shift._next_batch()
        shift._answered(batch, await shift.consumer.exchange(batch.settlements, batch.count))
        await other.exchange([(taken, Ack())], None)

    for again, refused in ((False, "1"), (False, "2"), (True, "2")):
        await settle_what_was_lost(again=again)
        assert shift._facts()["refused"] == refused
    await other.aclose()


async def test_what_was_sent_and_not_answered_is_sent_again_and_what_else_may_have_come_is_handed_back(
    queue: JobQueue, shift: Shift
) -> None:
    await queue.push_many([Work(1), Work(2)])
    shift._dispatch((await shift.consumer.exchange([], 1)).leases)
    (run,) = shift.leased.values()
    shift._ran(run, Done())
    batch = shift._next_batch()
    await shift.consumer.exchange(batch.settlements, 1)  # and the answer is lost

    shift._failed(batch, Unavailable("the connection broke"))

    with pytest.raises(Unavailable, match="the connection broke"):
        await shift._turn()
    assert await shift._turn()  # it recovers
    batch = shift._next_batch()
    shift._answered(batch, await shift.consumer.exchange(batch.settlements, None))
    counts = await queue.counts()
    assert (counts.totals["completed"], counts.totals["released"], counts.running) == (1, 1, 0)
    assert (shift.leased, shift.refused) == ({}, 0)


@pytest.mark.parametrize("slots", [3])
async def test_a_worker_that_ends_hands_back_what_it_runs_unspent_and_claims_nothing_meanwhile(
    queue: JobQueue, shift: Shift
) -> None:
    await queue.push_many([Work(n) for n in range(3)])
    shift._dispatch((await shift.consumer.exchange([], 1)).leases)
    (run,) = shift.leased.values()
    run._started = time.monotonic()

    for _ in range(2):  # told twice, it does so once
        await shift._farewell()

    jobs = await queue.jobs(State.READY)
    assert [(job.deliveries, job.attempt) for job in jobs] == [(0, 1)] * 3
    totals = (await queue.counts()).totals
    assert (totals["released"], shift.refused) == (1, 0)


async def test_how_far_the_servers_clock_ran_ahead_of_ours_is_told_by_what_it_was_and_when_that_was_asked(
    queue: JobQueue,
) -> None:
    lookout = Shift(Worker(queue).settings, until_idle=True).lookout
    now = time.monotonic()

    assert lookout.learn(1_000_000, None, now - 30) == 0  # the first answer: there is nothing to compare it with
    assert -5 < lookout.learn(1_030_000, None, now - 29) <= 0.1
    assert 55 < lookout.learn(1_119_000, None, now - 28) <= 60.1
    assert -95 < lookout.learn(1_059_000, None, now - 27) < -87.9  # set back
    assert lookout.learn(9_999_000, None, now - 28) == 0  # overtaken

    assert 1_059_000 <= lookout.server_ms < 1_064_000


async def test_a_clock_that_ran_ahead_by_more_than_half_a_lease_keeps_a_worker_from_taking_over(
    queue: JobQueue,
) -> None:
    shift = Shift(Worker(queue, lease=10).settings, until_idle=False)
    now = shift.heartbeat.renewed = time.monotonic()
    shift.heartbeat.steady_since = now - 3600

    shift._judge_clock(4.0)
    assert shift._may_reclaim(now)
    shift._judge_clock(6.0)
    assert not shift._may_reclaim(now)


async def test_what_dead_workers_left_behind_is_looked_for_once_in_a_while(
    shift: Shift, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []

    async def tidy() -> None:
        looks.append(time.monotonic())

    monkeypatch.setattr(shift.consumer, "tidy", tidy)
    assert await shift._turn()  # it asks what time it is
    shift.reclaim = False
    shift.tidy_at = time.monotonic()

    for _ in range(2):
        assert await shift._turn()

    assert len(looks) == 1
    assert time.monotonic() < shift.tidy_at < time.monotonic() + 120


async def test_a_due_job_is_expected_by_the_time_that_the_last_claim_told(queue: JobQueue) -> None:
    lookout = Shift(Worker(queue).settings, until_idle=True).lookout
    assert not lookout.expects(within=3600)

    lookout.learn(1_000_000, 60.0, time.monotonic())

    assert lookout.expects(within=60)
    assert not lookout.expects(within=30)
    lookout._heard(Nudge("due", str(1_000_000 + 20_000)))
    assert lookout.expects(within=30)
    assert not lookout.expects(within=10)
    lookout._heard(Nudge("due", str(1_000_000 + 40_000)))  # later than what is known
    assert lookout.expects(within=30)
    lookout.learn(1_000_000, None, time.monotonic())
    assert not lookout.expects(within=3600)


async def test_a_claim_tells_when_the_next_delayed_job_is_due(queue: JobQueue, shift: Shift) -> None:
    await queue.push(Work(), delay=3600)
    batch = shift._next_batch()

    shift._answered(batch, await shift.consumer.exchange(batch.settlements, batch.count))

    assert shift.lookout.expects(within=3600)
    assert not shift.lookout.expects(within=3000)


async def test_when_listening_begins_what_was_said_before_is_learnt_by_a_claim_and_a_renewal(
    shift: Shift, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurried: list[bool] = []
    monkeypatch.setattr(shift.heartbeat, "hurry", lambda: hurried.append(True))
    before = time.monotonic()

    shift.lookout._heard(Nudge("subscribed", ""))

    assert hurried
    shift.lookout.begin(1, before)
    assert not shift.lookout.waiting
    shift.lookout.begin(1, time.monotonic() + 1)
    assert shift.lookout.waiting


@pytest.mark.parametrize("breaks", [False, True])
async def test_after_a_blocking_read_that_broke_off_and_no_other_jobs_may_have_come_unseen(
    shift: Shift, monkeypatch: pytest.MonkeyPatch, breaks: bool
) -> None:
    async def wait(*_: Any) -> list[Lease]:
        if breaks:
            raise Unavailable("the connection broke")
        shift.lookout._ending = True
        return []

    monkeypatch.setattr(shift.consumer, "wait", wait)
    async with anyio.create_task_group() as tasks:
        for watch in shift.lookout.watches:
            tasks.start_soon(keep_up, watch)
        await anyio.wait_all_tasks_blocked()
        shift.lookout.begin(1, time.monotonic() + 1)
        await eventually(lambda: not shift.lookout.waiting)

        assert shift.lookout.unsure is breaks
        tasks.cancel_scope.cancel()


async def test_a_blocking_read_that_can_not_be_ended_in_order_is_cut_off(
    shift: Shift, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unanswered() -> bool:
        await anyio.sleep_forever()
        return True

    monkeypatch.setattr("redisjobs.lookout._IN_ORDER", 0.1)
    monkeypatch.setattr(shift.consumer, "unblock", unanswered)
    async with anyio.create_task_group() as tasks:
        for watch in shift.lookout.watches:
            tasks.start_soon(keep_up, watch)
        await anyio.wait_all_tasks_blocked()
        shift.lookout.begin(1, time.monotonic() + 1)
        await anyio.wait_all_tasks_blocked()

        with anyio.fail_after(4):  # sooner than a read ends by itself
            await shift.lookout.end()

        assert not shift.lookout.waiting
        assert shift.lookout.unsure  # something may have been delivered to it
        tasks.cancel_scope.cancel()


async def test_what_a_renewal_tells_concerns_the_lease_that_it_named_and_no_other(
    queue: JobQueue, shift: Shift, store: Store
) -> None:
    await queue.push_many([Work(1), Work(2)])
    settled_since, ours = (await shift.consumer.exchange([], 2)).leases
    shift._dispatch([ours])
    (run,) = shift.leased.values()
    store.age(60)
    (taken_again,) = (each for each in await shift.consumer.reclaim(2) if each.place == ours.place)
    shift._dispatch([taken_again])  # from ourselves

    shift._learn([ours], [Word.LEASE_LOST])

    assert not isinstance(run.given_up, LeaseGone)
    shift._learn([settled_since, taken_again], [Word.LEASE_LOST, Word.LEASE_LOST])
    assert isinstance(run.given_up, LeaseGone)


@pytest.mark.parametrize("slots", [2])
async def test_a_worker_that_ends_by_an_error_counts_the_delivery_of_what_it_began_and_of_nothing_else(
    queue: JobQueue, shift: Shift
) -> None:
    await queue.push_many([Work(1), Work(2)])
    shift._dispatch((await shift.consumer.exchange([], 2)).leases)
    began, _ = shift.leased.values()  # the other one has a slot too, which has not taken it up yet
    began._started = time.monotonic()
    shift.broken = True

    await shift._farewell()

    assert [job.deliveries for job in await queue.jobs(State.READY)] == [1, 0]


async def test_beside_a_blocking_read_outcomes_are_settled_and_due_jobs_promoted_but_no_more_is_claimed(
    queue: JobQueue,
) -> None:
    """What the read brings has the free slots for itself."""
    shift = Shift(Worker(queue, concurrency=2).settings, until_idle=False)
    assert shift._next_batch().count == 2

    shift.lookout.begin(2, time.monotonic())

    assert shift._next_batch().count is None
    shift.lookout.promote = True
    assert [shift._next_batch().count for _ in range(2)] == [0, None]


async def test_a_worker_that_stops_settles_and_asks_for_nothing(queue: JobQueue, shift: Shift) -> None:
    shift.stop(60)
    shift.lookout.promote = True

    assert shift._next_batch().count is None


async def test_an_idle_worker_with_one_slot_takes_one_job_at_a_time(queue: JobQueue) -> None:
    worker = Worker(queue, concurrency=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await eventually(lambda: worker._shift and settled(worker._shift.lookout))

        await queue.push_many([Work(n) for n in range(5)])

        with anyio.fail_after(20):
            while (await queue.counts()).totals["completed"] < 5:  # noqa: ASYNC110
                await anyio.sleep(0.005)
        worker.stop()
    assert (await queue.counts()).totals.get("released", 0) == 0


async def test_a_due_time_heard_of_before_older_answers_came_is_kept(queue: JobQueue) -> None:
    lookout = Shift(Worker(queue).settings, until_idle=True).lookout
    now_ms, sent = 1_000_000, time.monotonic()

    lookout.learn(now_ms, None, sent)
    lookout._heard(Nudge("due", str(now_ms + 50)))
    for later in (0.0, 1e-6):  # two of them: "nothing is due", said before the push that the nudge tells of
        lookout.learn(now_ms, None, sent + later)
        assert lookout._due_at is not None

    lookout.learn(now_ms, None, time.monotonic() + 1)  # said after it
    assert lookout._due_at is None


async def test_more_slots_than_one_claim_can_fill_are_filled_by_as_many_claims(queue: JobQueue) -> None:
    settings = Worker(queue, concurrency=3000).settings
    shift = Shift(settings, until_idle=False)

    assert shift._next_batch().count == 500


async def test_jobs_released_while_a_claim_is_answered_are_found_by_the_next(redis_store: RedisStore) -> None:
    ran: list[int] = []
    queue = JobQueue(redis_store.url, redis_store.queue_name)
    queue.register(Work)(lambda work: ran.append(work.number))
    await queue.push(Work(1))
    other = redis_store.consumer("other")
    await other.open()
    assert len((await other.exchange([], 1)).leases) == 1
    worker = Worker(queue, lease=60)

    async def hand_back(answer: Exchange) -> None:
        if answer.leases:
            return
        stop_holding()
        await other.release_all([])
        await eventually(lambda: worker._shift and worker._shift.lookout._claim_after > began)

    began = 0.0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await eventually(lambda: worker._shift and worker._shift.lookout.waiting)
        assert worker._shift is not None
        consumer = worker._shift.consumer
        assert isinstance(consumer, RedisConsumer)
        stop_holding = hold_answers(consumer, hand_back)
        began = time.monotonic()
        await queue.push(Work(2))  # the read ends, and a claim follows

        await eventually(lambda: sorted(ran) == [1, 2], within=5)  # by itself it would look after a lease
        worker.stop()
    await other.aclose()
    await queue.aclose()


@pytest.mark.parametrize("late", ["read", "exchange"])
async def test_a_worker_that_is_cancelled_as_it_begins_to_ask_hands_back_at_once(
    queue: JobQueue, shift: Shift, late: str
) -> None:
    """Its tasks hear of a cancel in any order: the one that asks may outlast the one that would read."""
    job_id = await queue.push(Work())
    async with anyio.create_task_group() as tasks:
        for watch in shift.lookout.watches:
            tasks.start_soon(keep_up, watch)
        shift.exchanges.start(tasks)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    shift._dispatch((await shift.consumer.exchange([], 1)).leases)

    if late == "read":
        shift.lookout.begin(1, time.monotonic())
    else:
        shift.exchanges.begin(Batch([], 1))
    with anyio.fail_after(2):
        await shift._farewell()

    info = await queue.get(job_id)
    assert info is not None
    assert (info.state, info.deliveries) == (State.READY, 0)


async def test_a_look_for_lost_leases_ends_though_nobody_carries_our_outcomes_any_more(
    queue: JobQueue, shift: Shift, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the worker is cancelled just then: it must not take over what it could not settle."""
    await queue.push(Work())
    async with anyio.create_task_group() as tasks:
        shift.exchanges.start(tasks)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    shift._dispatch((await shift.consumer.exchange([], 1)).leases)
    (run,) = shift.leased.values()
    shift._ran(run, Done())
    store.age(60)
    tries: list[Batch] = []
    begin = shift.exchanges.begin

    def at_most_ten(batch: Batch) -> None:
        tries.append(batch)
        assert len(tries) < 10
        begin(batch)

    monkeypatch.setattr(shift.exchanges, "begin", at_most_ten)

    await shift._reclaim()

    assert (shift.outbox, run.lease.deliveries) == ([run], 1)


def hold_answers(consumer: RedisConsumer, before: Callable[[Exchange], Awaitable[None]]) -> Callable[[], None]:
    """Let something happen before each answer arrives, until what this returns is called."""
    exchange = consumer.exchange

    async def held(settlements: list[Settlement], count: int | None, **more: bool) -> Exchange:
        answer = await exchange(settlements, count, **more)
        await before(answer)
        return answer

    consumer.exchange = held  # type: ignore[method-assign, assignment]
    return lambda: setattr(consumer, "exchange", exchange)


def settled(lookout: Lookout) -> bool:
    """Whether it waits, and has heard that it is subscribed: for then it ends its read, and claims once more."""
    return lookout.waiting and lookout._claim_after > 0 and not (lookout.interrupted or lookout._ending)


@pytest.mark.parametrize("verb", ["exchange", "wait"])
async def test_jobs_that_took_a_lease_to_arrive_are_handed_back_unrun(
    store: Store, queue: JobQueue, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """They may have run out on the way, and another may run them."""
    arrived_late = anyio.Event()
    kind = type(store.consumer("unused"))
    answer = getattr(kind, verb)

    async def slow(consumer: Consumer, *asked: Any, **options: Any) -> Any:
        answered = await answer(consumer, *asked, **options)
        leases = answered.leases if isinstance(answered, Exchange) else answered
        if leases and not arrived_late.is_set():
            await anyio.sleep(LEASE * 1.1)
            arrived_late.set()
        return answered

    async def nothing(*_: Any) -> list[Lease]:
        return []

    monkeypatch.setattr(kind, verb, slow)
    monkeypatch.setattr(kind, "reclaim", nothing)  # or it might take its own job over before it arrives
    runs_late: list[bool] = []
    queue.register(Late)(lambda _: runs_late.append(arrived_late.is_set()))
    worker = Worker(queue, lease=LEASE)
    if verb == "exchange":
        await queue.push(Late())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        if verb == "wait":
            await eventually(lambda: worker._shift and settled(worker._shift.lookout))
            await queue.push(Late())
        await eventually(lambda: runs_late)
        worker.stop()

    totals = (await queue.counts()).totals
    assert (totals["released"], totals["completed"], runs_late) == (1, 1, [True])


async def test_jobs_that_arrive_in_time_are_run_and_not_handed_back(queue: JobQueue) -> None:
    await queue.push_many([Work(n) for n in range(5)])

    await Worker(queue, lease=LEASE, concurrency=1).run(until_idle=True)

    totals = (await queue.counts()).totals
    assert (totals.get("released", 0), totals["completed"]) == (0, 5)


@pytest.mark.parametrize("share", [float("inf"), 130])
async def test_two_claims_at_once_bring_no_more_than_there_are_slots_for_and_a_share_allows(
    queue: JobQueue, share: float
) -> None:
    running, all_run = 0, anyio.Event()

    @queue.register(Late)
    async def work(_: Late) -> None:
        nonlocal running
        running += 1
        if running == 100:
            await anyio.wait_all_tasks_blocked()  # a claim that is one too many has been made by now
            all_run.set()
        await all_run.wait()

    await queue.push_many([Late() for _ in range(300)])
    options: dict[str, Any] = {} if share == float("inf") else {"max_jobs": share}

    await Worker(queue, concurrency=100, **options).run(until_idle=True)

    totals = (await queue.counts()).totals
    assert (totals.get("released", 0), totals["completed"]) == (0, min(share, 300))


async def test_quick_jobs_keep_two_exchanges_under_way(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs that are done as soon as they come: with one exchange alone worker and server would wait in turn."""
    exchange, at_once = RedisConsumer.exchange, [0]

    async def counting(
        self: RedisConsumer, settlements: Sequence[Settlement], count: int | None, *, idle: bool = False
    ) -> Exchange:
        at_once.append(at_once[-1] + 1)
        try:
            return await exchange(self, settlements, count, idle=idle)
        finally:
            at_once.append(at_once[-1] - 1)

    monkeypatch.setattr(RedisConsumer, "exchange", counting)
    async with JobQueue(redis_store.driver, redis_store.queue_name) as queue:

        @queue.register(Work)
        async def work(_: Work) -> None: ...

        await queue.push_many([Work() for _ in range(1000)])
        await Worker(queue, concurrency=100).run(until_idle=True)
        assert (await queue.counts()).totals["completed"] == 1000

    # All but the first, which may bring a job that has to run alone, and the last ones.
    assert at_once.count(2) > len(at_once) / 4 - 2
    assert max(at_once) == 2
