"""Two exchanges may be under way at once, and notifications come on their own: nothing orders their answers."""

import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import anyio
import pytest
from store import Heart, MemoryStore, RedisStore, Store, dispatch, eventually, settling, take_over

from redisjobs import JobQueue, State, Worker
from redisjobs.drivers.memory.driver import MemoryConsumer, SyncMemoryConsumer
from redisjobs.drivers.redis.consumer import RedisConsumer
from redisjobs.drivers.redis.driver import RedisDriver
from redisjobs.drivers.redis.heartbeat import SyncRedisConsumer
from redisjobs.errors import DriverError, Unavailable
from redisjobs.model.changes import Tidied, Tidy
from redisjobs.model.context import JobContext
from redisjobs.model.driver import Beaten, Consumer, Fenced, Notification, Until
from redisjobs.model.job import Priority
from redisjobs.model.outcome import CancelAsked, Done, LeaseGone, Outcome, Raised
from redisjobs.model.transitions import Exchange, Lease, Settlement, Settlements, Turn
from redisjobs.worker.run import WorkerRun
from redisjobs.worker.source.batcher import Batch
from redisjobs.worker.source.clock import LeaseClock
from redisjobs.worker.source.fetcher import Fetcher
from redisjobs.worker.source.source import Source
from redisjobs_proof.torture.proxy import HOST, Proxy

pytestmark = pytest.mark.anyio


@dataclass
class Work:
    job_name: ClassVar[str] = "Work"
    number: int = 0


@dataclass
class Late:
    job_name: ClassVar[str] = "Late"


LEASE = 0.5  # seconds
_DONE = Done()


@pytest.fixture
async def queue(store: Store) -> AsyncIterator[JobQueue]:
    async with JobQueue(store.driver, store.queue_name) as queue:
        queue.register(Work)(lambda _: None)
        yield queue


async def claim(consumer: Consumer, count: int) -> Exchange:
    """Claim what is there: where something was handed back, one exchange tells of it and the next one takes it."""
    answer = await consumer.exchange([], count)
    return answer if answer.leases or not answer.more else await consumer.exchange([], count)


def give_to(store: Store, lease: Lease, to: str) -> None:
    """Let an operator give a job to another consumer, as redis-cli's XCLAIM does."""
    if isinstance(store, MemoryStore):
        worker = store.memory.workers.get(to)
        store.memory.move(store.memory.jobs[lease.job_id], worker.jobs if worker else store.memory.returned)
    elif isinstance(store, RedisStore):
        options: dict[str, Any] = {"retrycount": lease.deliveries, "justid": True}
        store.admin.xclaim(store.stream(list(Priority)[lease.rank]), "workers", to, 0, [lease.token[1]], **options)


def in_touch(source: Source, store: Store, seconds: float) -> None:
    """As if the store had answered for this many seconds, and its clock had run evenly."""
    now, now_ms = time.monotonic(), store.clock()
    for i in range(1001):
        ago = seconds * (1 - i / 1000)
        source.member.clock.record(now_ms - ago * 1000, now - ago, now - ago)


@asynccontextmanager
async def other(store: Store, lease: float = 15) -> AsyncIterator[Consumer]:
    """Another worker that has joined."""
    consumer = store.consumer(f"other-{lease:g}", lease=lease)
    yield consumer
    await consumer.aclose()


def beat(source: Source) -> None:
    """Beat once, as its heartbeat would."""
    heart = Heart(source.member.consumer)
    heart.beat(lambda: (), {})
    heart.close()


async def test_a_job_handed_back_and_claimed_again_before_that_is_answered_is_not_forgotten(
    queue: JobQueue, source: Source
) -> None:
    await queue.push_many([Work(1), Work(2)])
    first = await source.member.consumer.exchange([], 2)
    dispatch(source, first.leases)  # for one there is no slot
    handing_back, claiming = source.exchanger.next_batch(), Batch([], 1)
    handed_back = await source.member.consumer.exchange(handing_back.settlements, None)
    claimed = await claim(source.member.consumer, 1)
    assert [lease.job_id for lease in claimed.leases] == [first.leases[1].job_id]

    source.exchanger.answered(claiming, claimed)
    source.exchanger.answered(handing_back, handed_back)
    source.dispatcher.hand_back_unclaimed()  # as once it has waited for too long

    (run,) = source.leases.unsettled
    assert run.lease is claimed.leases[0]
    await source.member.consumer.exchange(source.exchanger.next_batch().settlements, None)
    assert len(await queue.control.jobs(State.READY)) == 1


async def test_a_job_that_ran_and_was_handed_back_with_redis_cli_meanwhile_is_settled_after_all(
    queue: JobQueue, source: Source, store: Store
) -> None:
    held = await run_one(queue, source, Raised(ValueError("once more")))
    settling = source.exchanger.next_batch()
    give_to(store, held, "released")
    answer = await source.member.consumer.exchange(settling.settlements, None)
    await source.member.consumer.reclaim()  # which finds that something was handed back
    again = (await claim(source.member.consumer, 1)).leases
    assert len(again) == 1

    dispatch(source, again)
    source.exchanger.answered(settling, answer)
    settling = source.exchanger.next_batch()
    source.exchanger.answered(settling, await source.member.consumer.exchange(settling.settlements, None))

    assert source.leases.all == []
    counts = await queue.control.counts()
    assert (counts.running, counts.totals["retried"], source.settler.refused) == (0, 1, 0)


async def test_of_jobs_of_a_dead_worker_that_come_with_one_of_our_own_none_is_forgotten(
    queue: JobQueue, source: Source, store: Store
) -> None:
    await queue.push_many([Work(1), Work(2)])
    (ours,) = (await source.member.consumer.exchange([], 1)).leases
    dispatch(source, [ours])
    async with other(store) as dead:
        assert len((await claim(dead, 1)).leases) == 1
    store.age(60)
    beat(source)
    give_to(store, ours, "released")
    assert (await take_over(source.member.consumer)).jobs == 1

    dispatch(source, (await claim(source.member.consumer, 2)).leases)

    assert len(source.leases) == 2
    (too_many,) = source.leases.unsettled
    await source.member.consumer.exchange(source.exchanger.next_batch().settlements, None)
    assert [job.job_id for job in await queue.control.jobs(State.READY)] == [too_many.lease.job_id]
    assert [job.job_id for job in await queue.control.jobs(State.RUNNING)] == [ours.job_id]


async def test_a_job_for_which_there_was_no_slot_is_handed_back_once_by_a_worker_that_ends(
    queue: JobQueue, source: Source
) -> None:
    await queue.push_many([Work(1), Work(2)])
    dispatch(source, (await source.member.consumer.exchange([], 2)).leases)

    await source.drain()

    assert source.settler.refused == 0
    totals = (await queue.control.counts()).totals
    assert (totals["released"], len(await queue.control.jobs(State.READY))) == (2, 2)


async def run_one(queue: JobQueue, source: Source, outcome: Outcome = _DONE) -> Lease:
    """Let a job come to something that is yet to be settled."""
    await queue.push(Work())
    dispatch(source, (await claim(source.member.consumer, 1)).leases)
    (run,) = (run for run in source.leases if not run.over)
    source.settler._pool.slots.held -= 1
    source.settler.ran(run, outcome)
    return run.lease


class Wire:
    """What goes wrong on the way of an exchange, of the consumer of a worker."""

    def __init__(self, consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loses: list[str] = []  # of the exchanges to come: "question", "answer" or ""
        self.sent: list[tuple[Turn | None, list[tuple[Lease, Settlement]], int | None]] = []
        self.answers: list[Exchange] = []
        self._exchange = consumer.exchange
        monkeypatch.setattr(consumer, "exchange", self.exchange)

    async def exchange(
        self, settlements: Settlements, count: int | None, *, turn: Turn | None = None, **more: Any
    ) -> Exchange:
        self.sent.append((turn, list(settlements), count))
        what = self.loses.pop(0) if self.loses else ""
        if what != "question":
            self.answers.append(await self._exchange(settlements, count, turn=turn, **more))
        if what:
            raise Unavailable(f"the {what} was lost")
        return self.answers[-1]


async def test_a_worker_tells_how_many_settlements_were_refused_and_counts_what_it_sent_again_once(
    queue: JobQueue, source: Source, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = Wire(source.member.consumer, monkeypatch)

    async def settle(lost: str, *, ours: bool) -> None:
        held = await run_one(queue, source, Raised(ValueError("once more")))
        if not ours:
            give_to(store, held, "other")
        wire.loses = [lost] if lost else []
        if lost:
            with pytest.raises(Unavailable):
                await source.batcher.carry(settling(source))
            await source.batcher.send_again()
        else:
            await source.batcher.carry(settling(source))

    for lost, ours, refused in (
        ("", False, "1"),
        ("question", False, "2"),
        ("answer", False, "3"),
        ("answer", True, "3"),
        ("question", True, "3"),
    ):
        await settle(lost, ours=ours)
        assert source.beats.facts()["refused"] == refused


async def test_outcomes_of_a_worker_that_is_fenced_count_as_refused_and_are_told(
    queue: JobQueue, source: Source, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    held = await run_one(queue, source)
    store.age(60)
    async with other(store) as heir:
        assert (await take_over(heir)).jobs == 1

    with pytest.raises(Fenced) as fenced:
        await source.batcher.carry(settling(source))
    await source.recovery.rejoin(fenced.value)

    assert (source.settler.refused, source.leases.all, source.batcher.unanswered) == (
        1,
        [],
        [],
    )
    assert f"job {held.job_id} (?" in caplog.text
    assert "the lease was lost before it was settled; nothing was written" in caplog.text
    assert [job.deliveries for job in await queue.control.jobs(State.READY)] == [1]


@pytest.mark.parametrize("lost", ["question", "answer"])
async def test_what_had_no_answer_is_sent_again_with_its_turn_and_reported_by_the_first_answer(
    queue: JobQueue,
    source: Source,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    lost: str,
) -> None:
    caplog.set_level(logging.INFO)
    wire = Wire(source.member.consumer, monkeypatch)
    await run_one(queue, source)
    wire.sent.clear()
    wire.loses = [lost, "question", "answer"]

    with pytest.raises(Unavailable, match=f"the {lost} was lost"):
        await source.batcher.carry(source.exchanger.next_batch())
    for _ in range(2):
        with pytest.raises(Unavailable):
            await source.batcher.send_again()
    await source.batcher.send_again()

    assert len({turn for turn, _, _ in wire.sent}) == 1
    assert all(settlements == wire.sent[0][1] for _, settlements, _ in wire.sent)
    assert [count for _, _, count in wire.sent[1:]] == [None] * 3  # the claim is not made again
    totals = (await queue.control.counts()).totals
    assert (totals["completed"], source.leases.all, source.settler.refused) == (1, [], 0)
    replies = [record.__dict__["reply"] for record in caplog.records if "reply" in record.__dict__]
    assert replies == ["OK"]


async def test_an_exchange_after_one_that_had_no_answer_has_a_turn_of_its_own(
    queue: JobQueue, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = Wire(source.member.consumer, monkeypatch)
    await run_one(queue, source)
    wire.sent.clear()
    wire.loses = ["answer"]
    with pytest.raises(Unavailable):
        await source.batcher.carry(settling(source))
    await source.batcher.send_again()

    for _ in range(3):
        await run_one(queue, source)
        await source.batcher.carry(settling(source))

    turns = [turn for turn, settlements, _ in wire.sent if settlements]
    assert turns[0] == turns[1]
    assert len(set(turns)) == 4
    totals = (await queue.control.counts()).totals
    assert (totals["completed"], source.settler.refused) == (4, 0)


@pytest.mark.parametrize("slots", [2])
async def test_what_was_sent_and_not_answered_is_sent_again_and_what_else_has_come_is_run(
    queue: JobQueue, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    await queue.push_many([Work(1), Work(2)])
    dispatch(source, (await source.member.consumer.exchange([], 1)).leases)
    (run,) = source.leases
    source.settler.ran(run, Done())
    wire = Wire(source.member.consumer, monkeypatch)
    wire.loses = ["answer", ""]

    async with anyio.create_task_group() as tasks:
        source.batcher.start(tasks)
        source.batcher.begin(source.exchanger.next_batch())
        await eventually(lambda: source.member.failure)
        with pytest.raises(Unavailable, match="the answer was lost"):
            await source.stepper._step()
        assert await source.stepper._step()  # it recovers
        tasks.cancel_scope.cancel()

    counts = await queue.control.counts()
    assert (counts.totals["completed"], counts.totals["released"], counts.running) == (1, 0, 1)
    (found,) = source.leases
    assert (found.lease.deliveries, found.over, source.settler.refused) == (1, False, 0)
    assert not source.recovery.is_required


async def test_of_the_jobs_of_a_lost_reply_those_for_which_there_is_no_slot_go_back_unspent(
    queue: JobQueue, source: Source
) -> None:
    await queue.push_many([Work(1), Work(2)])
    await source.member.consumer.exchange([], 2)  # and the answer is lost

    await source.recovery.recover()
    await source.batcher.carry(settling(source))

    assert [job.deliveries for job in await queue.control.jobs(State.RUNNING)] == [1]
    assert [job.deliveries for job in await queue.control.jobs(State.READY)] == [0]


@pytest.mark.parametrize("slots", [3])
async def test_a_worker_that_ends_hands_back_what_it_runs_unspent_and_claims_nothing_meanwhile(
    queue: JobQueue, source: Source
) -> None:
    await queue.push_many([Work(n) for n in range(3)])
    dispatch(source, (await source.member.consumer.exchange([], 1)).leases)
    (run,) = source.leases
    run.started = time.monotonic()

    for _ in range(2):  # told twice, it does so once
        await source.drain()

    jobs = await queue.control.jobs(State.READY)
    assert [(job.deliveries, job.attempt) for job in jobs] == [(0, 1)] * 3
    totals = (await queue.control.counts()).totals
    assert (totals["released"], source.settler.refused) == (1, 0)


@pytest.mark.parametrize("step", [0.0, 4.0, 60.0, -60.0])
async def test_a_step_of_the_servers_clock_keeps_a_worker_from_fencing_another_and_is_told(
    queue: JobQueue, source: Source, store: Store, caplog: pytest.LogCaptureFixture, step: float
) -> None:
    await queue.push(Work())
    async with other(store, lease=10) as dead:
        assert len((await claim(dead, 1)).leases) == 1
    store.age(20)
    beat(source)
    in_touch(source, store, 60)
    sent = time.monotonic()

    source.reclaimer.note_time(store.clock() + step * 1000, sent)
    for _ in range(2):
        await source.stepper._reclaim()

    assert [each.worker_id for each in source.reclaimer.silent] == (["other-10"] if step else [])
    assert len(await queue.control.jobs(State.RUNNING)) == (1 if step else 0)
    assert ("the server's clock was set" in caplog.text) is (abs(step) > source.member.settings.lease / 2)


async def test_a_worker_fences_no_worker_within_a_lease_of_its_own_start(
    queue: JobQueue, source: Source, store: Store
) -> None:
    """A store that was away for all: those who lived through it may come back a moment later than it."""
    async with other(store, lease=10):
        store.age(20)
        beat(source)

    in_touch(source, store, 9)
    for _ in range(3):
        await source.stepper._reclaim()
    assert [each.worker_id for each in source.reclaimer.silent] == ["other-10"]

    source.member.clock = LeaseClock()
    in_touch(source, store, 11)
    await source.stepper._reclaim()
    assert source.reclaimer.silent == []


async def test_a_worker_fences_no_worker_who_has_beaten_since_it_was_named(
    queue: JobQueue, source: Source, store: Store
) -> None:
    async with other(store, lease=10) as slow:
        heart = Heart(slow)
        store.age(20)
        beat(source)
        in_touch(source, store, 60)
        await source.stepper._reclaim()
        assert [each.worker_id for each in source.reclaimer.silent] == ["other-10"]

        heart.beat(lambda: (), {})
        await source.stepper._reclaim()

        heart.beat(lambda: (), {})  # it is still one
        assert source.reclaimer.silent == []
        heart.close()


async def test_a_worker_whose_own_lease_seems_to_be_over_does_not_fence_itself(
    queue: JobQueue, source: Source, store: Store
) -> None:
    in_touch(source, store, 60)
    store.age(60)

    for _ in range(3):
        await source.stepper._reclaim()

    assert source.reclaimer.silent == []
    beat(source)  # it is still one


@pytest.mark.parametrize("more", [False, True])
async def test_what_was_left_behind_is_looked_for_once_in_a_while_and_again_soon_where_there_is_more_to_look_at(
    source: Source, monkeypatch: pytest.MonkeyPatch, more: bool
) -> None:
    looks: list[float] = []

    async def tidy(change: Tidy) -> Tidied:
        looks.append(time.monotonic())
        return Tidied(0, "more" if more else "")

    monkeypatch.setattr(source.member.consumer, "change", tidy)
    assert await source.stepper._step()  # it asks what time it is
    source.reclaimer.look_at = float("inf")
    source.reclaimer.tidy_at = time.monotonic()

    for _ in range(2):  # what else there is to do comes in between
        assert await source.stepper._step()

    assert len(looks) == 1
    assert source.reclaimer.tidy_at - looks[0] < 5 if more else 30 < source.reclaimer.tidy_at - looks[0] < 120


def source_of(queue: JobQueue) -> Source:
    """One whose store has just said that it is 1,000,000 ms there."""
    worker_run = WorkerRun([replace(Worker(queue).settings, until_idle=True)])
    (source,) = worker_run.sources
    now = time.monotonic()
    source.member.clock.record(1_000_000, now, now)
    return source


async def test_a_due_job_is_expected_by_the_time_that_the_last_claim_told(queue: JobQueue) -> None:
    source = source_of(queue)
    promoter = source.promoter
    assert not promoter.expects(within=3600)

    promoter.learn(Exchange(due_in=60.0), time.monotonic())

    assert promoter.expects(within=60)
    assert not promoter.expects(within=30)
    source.notified(Notification("due", str(1_000_000 + 20_000)))
    assert promoter.expects(within=30)
    assert not promoter.expects(within=10)
    source.notified(Notification("due", str(1_000_000 + 40_000)))  # later than what is known
    assert promoter.expects(within=30)
    promoter.learn(Exchange(), time.monotonic())
    assert not promoter.expects(within=3600)


async def test_a_claim_tells_when_the_next_delayed_job_is_due(queue: JobQueue, source: Source) -> None:
    await queue.push(Work(), delay=3600)
    batch = source.exchanger.next_batch()

    source.exchanger.answered(batch, await source.member.consumer.exchange(batch.settlements, batch.count))

    assert source.promoter.expects(within=3600)
    assert not source.promoter.expects(within=3000)


async def test_when_listening_begins_what_was_said_before_is_learnt_by_a_claim_and_a_beat(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurried: list[bool] = []
    monkeypatch.setattr(source.beats.heartbeat, "hurry", lambda: hurried.append(True))
    before = time.monotonic()

    source.notified(Notification("subscribed", ""))

    assert hurried
    source.fetcher.begin(1, before)
    assert not source.fetcher.waiting
    source.fetcher.begin(1, time.monotonic() + 1)
    assert source.fetcher.waiting


@pytest.mark.parametrize("breaks", [False, True])
async def test_after_a_blocking_read_that_broke_off_and_no_other_jobs_may_have_come_unseen(
    source: Source, monkeypatch: pytest.MonkeyPatch, breaks: bool
) -> None:
    async def wait(*_: Any) -> list[Lease]:
        if breaks:
            raise Unavailable("the connection broke")
        assert source.fetcher._until is not None
        source.fetcher._until.set()
        return []

    monkeypatch.setattr(source.member.consumer, "wait", wait)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(source.fetcher.run, source.dispatcher.take)
        for duty in (source.listen, source.member.timer.run):
            tasks.start_soon(duty)
        await anyio.wait_all_tasks_blocked()
        source.fetcher.begin(1, time.monotonic() + 1)
        await eventually(lambda: not source.fetcher.waiting)

        assert source.member.needs_recovery is breaks
        tasks.cancel_scope.cancel()


async def test_a_blocking_read_that_can_not_be_ended_in_order_is_cut_off(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unanswered() -> bool:
        await anyio.sleep_forever()
        return True

    if isinstance(source.member.consumer, RedisConsumer):
        monkeypatch.setattr("redisjobs.drivers.redis.reader._IN_ORDER", 0.1)
        monkeypatch.setattr(source.member.consumer._reader, "_unblock", unanswered)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(source.fetcher.run, source.dispatcher.take)
        for duty in (source.listen, source.member.timer.run):
            tasks.start_soon(duty)
        await anyio.wait_all_tasks_blocked()
        source.fetcher.begin(1, time.monotonic() + 1)
        consumer = source.member.consumer
        if isinstance(consumer, RedisConsumer):
            await eventually(lambda: consumer._reader._id is not None)  # else it has not asked for jobs yet
        await anyio.wait_all_tasks_blocked()

        with anyio.fail_after(4):  # sooner than a read ends by itself
            await source.fetcher.end()

        assert not source.fetcher.waiting
        # Something may have been delivered to it.
        assert source.member.needs_recovery is isinstance(source.member.consumer, RedisConsumer)
        tasks.cancel_scope.cancel()


async def test_a_blocking_read_whose_connection_hangs_as_it_opens_is_cut_off_too(redis_store: RedisStore) -> None:
    """It is ended before a worker settles its last jobs, for which there are 5 s."""
    port = int(redis_store.url.rpartition(":")[2].partition("/")[0])
    with Proxy(HOST, port) as proxy:
        proxy.black_hole(True)
        far = redis_store.url.replace(f"{HOST}:{port}", f"{HOST}:{proxy.port}")
        consumer = RedisDriver(far, redis_store.queue_name).consumer("w", lease=15, max_deliveries=3)
        until = Until()

        async def end() -> None:
            await anyio.wait_all_tasks_blocked()
            until.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(end)
            with (
                anyio.fail_after(4),
                pytest.raises(Unavailable, match="its connection was closed"),
            ):  # sooner than it ends by itself
                await consumer.wait(1, 5, until)
        await consumer.aclose()


async def test_a_reader_that_was_refused_once_still_ends_its_reads_in_order(redis_store: RedisStore) -> None:
    """Only a server that lets it in and forbids CLIENT ID leaves nothing but to cut them off."""
    user = redis_store.url.split("//")[1].partition(":")[0]
    target = redis_store.url.replace(f"//{user}:", f"//{user}:not-")
    consumer = RedisDriver(target, redis_store.queue_name).consumer("w", lease=15, max_deliveries=3)
    assert isinstance(consumer, RedisConsumer)

    with pytest.raises(DriverError, match="credentials"):
        await consumer.wait(1, 5)

    assert consumer._reader._may_unblock
    await consumer.aclose()


async def test_what_a_beat_tells_of_a_cancel_concerns_the_lease_that_it_named_and_no_other(
    queue: JobQueue, source: Source, store: Store
) -> None:
    await queue.push_many([Work(1), Work(2)])
    settled_since, ours = (await source.member.consumer.exchange([], 2)).leases
    dispatch(source, [ours])
    (run,) = source.leases
    give_to(store, ours, "released")
    await source.member.consumer.reclaim()
    (again,) = (await claim(source.member.consumer, 1)).leases
    dispatch(source, [again])  # from ourselves

    source.settler.cancel([settled_since, ours])

    assert not isinstance(run.why, CancelAsked)
    source.settler.cancel([settled_since, again])
    assert isinstance(run.why, CancelAsked)


async def test_a_fence_that_is_heard_of_late_is_not_taken_for_one_of_whom_the_worker_is_now(
    queue: JobQueue, source: Source, store: Store
) -> None:
    """The task that runs the steps and the heartbeat hear of it each by itself, in any order."""
    await run_one(queue, source)
    before = source.member.consumer.worker_id
    store.age(60)
    async with other(store) as heir:
        await take_over(heir)
    await source.recovery.rejoin(Fenced(before))
    now = source.member.consumer.worker_id
    assert now != before
    dispatch(source, (await claim(source.member.consumer, 1)).leases)
    (run,) = source.leases

    await source.recovery.rejoin(Fenced(before))
    source.beats.note_fenced(Fenced(before))

    assert (source.member.consumer.worker_id, source.member.failure) == (now, None)
    assert not isinstance(run.why, LeaseGone)
    assert list(source.leases) == [run]


@pytest.mark.parametrize("slots", [2])
async def test_a_worker_that_ends_by_an_error_counts_the_delivery_of_what_it_began_and_of_nothing_else(
    queue: JobQueue, worker_run: WorkerRun, source: Source
) -> None:
    await queue.push_many([Work(1), Work(2)])
    dispatch(source, (await source.member.consumer.exchange([], 2)).leases)
    began, _ = source.leases  # the other one has a slot too, which has not taken it up yet
    began.started = time.monotonic()
    worker_run.shutdown.broken = True

    await source.drain()

    assert [job.deliveries for job in await queue.control.jobs(State.READY)] == [1, 0]


async def test_beside_a_blocking_read_outcomes_are_settled_and_due_jobs_promoted_but_no_more_is_claimed(
    queue: JobQueue,
) -> None:
    """What the read brings has the free slots for itself."""
    worker_run = WorkerRun([Worker(queue, concurrency=2).settings])
    (source,) = worker_run.sources
    assert source.exchanger.next_batch().count == 2

    source.fetcher.begin(2, time.monotonic())

    assert source.exchanger.next_batch().count is None
    source.promoter.due_at = 0.0
    assert [source.exchanger.next_batch().count for _ in range(2)] == [0, None]


async def test_a_worker_that_stops_settles_and_claims_nothing_but_lets_others_have_what_is_due(
    queue: JobQueue, worker_run: WorkerRun, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redisjobs.worker.source.timer._BUSY", 0)  # now and then it does
    assert source.exchanger.next_batch().count
    worker_run.stop(60)
    source.promoter.due_at = 0.0

    assert [source.exchanger.next_batch().count for _ in range(2)] == [0, None]


async def test_an_idle_worker_with_one_slot_takes_one_job_at_a_time(queue: JobQueue) -> None:
    worker = Worker(queue, concurrency=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await eventually(lambda: worker._current and settled(worker._current.sources[0].fetcher))

        await queue.push_many([Work(n) for n in range(5)])

        with anyio.fail_after(20):
            while (await queue.control.counts()).totals["completed"] < 5:  # noqa: ASYNC110
                await anyio.sleep(0.005)
        worker.stop()
    assert (await queue.control.counts()).totals.get("released", 0) == 0


async def test_a_due_time_heard_of_before_older_answers_came_is_kept(queue: JobQueue) -> None:
    source, sent = source_of(queue), time.monotonic()
    promoter = source.promoter

    promoter.learn(Exchange(), sent)
    source.notified(Notification("due", str(1_000_000 + 50)))
    for later in (0.0, 1e-6):  # two of them: "nothing is due", said before the push that the notification tells of
        promoter.learn(Exchange(), sent + later)
        assert promoter.due_at < math.inf

    promoter.learn(Exchange(), time.monotonic() + 1)  # said after it
    assert promoter.due_at == math.inf


async def test_who_is_not_to_look_leaves_delayed_jobs_to_others_until_one_is_late(queue: JobQueue) -> None:
    worker_run = WorkerRun([Worker(queue).settings])
    promoter = worker_run.sources[0].promoter
    promoter.learn(Exchange(due_in=60), time.monotonic())
    promoter.note_others(2, promotes=False, late=False)
    assert promoter.expects(within=60)  # what it has heard of before costs a look at most

    promoter.learn(Exchange(due_in=60), time.monotonic())
    assert not promoter.expects(within=60)
    promoter.note_due(1)
    assert not promoter.expects(within=60)
    promoter.learn(Exchange(due_in=60, turn_in=30), time.monotonic())
    assert promoter.expects(within=30)
    assert not promoter.expects(within=20)  # that is its own to look after
    promoter.note_others(2, promotes=False, late=True)
    assert promoter.expects(within=0)


async def test_a_few_workers_look_after_a_line_a_second_later_than_the_one_that_is_to_look(
    queue: JobQueue,
) -> None:
    promoters = [WorkerRun([Worker(queue).settings]).sources[0].promoter for _ in range(200)]

    def stand_ins(workers: int) -> int:
        for promoter in promoters:
            promoter.note_others(workers, promotes=False, late=False)
            promoter.learn(Exchange(due_in=20, late_in=31), time.monotonic())
        assert not any(promoter.expects(within=30) for promoter in promoters)
        return sum(promoter.expects(within=31) for promoter in promoters)

    assert stand_ins(2) == stand_ins(8) == 200
    assert stand_ins(200) < 40


async def test_once_the_worker_that_looks_for_delayed_jobs_has_left_another_asks_at_once_who_is_next(
    queue: JobQueue,
) -> None:
    worker_run = WorkerRun([Worker(queue).settings])
    (source,) = worker_run.sources
    source.reclaimer.look_at = time.monotonic() + 60

    source.notified(Notification("left", ""))

    assert source.reclaimer.look_at <= time.monotonic()


async def test_who_is_to_look_from_now_on_looks_at_once_as_it_did_not_listen(queue: JobQueue) -> None:
    worker_run = WorkerRun([Worker(queue).settings])
    promoter = worker_run.sources[0].promoter
    promoter.note_others(2, promotes=True, late=False)
    assert not promoter.expects(within=60)

    promoter.note_others(2, promotes=False, late=False)
    promoter.note_others(2, promotes=True, late=False)

    assert promoter.expects(within=0)


async def test_a_worker_that_ends_when_it_is_idle_looks_for_delayed_jobs_though_others_do(
    queue: JobQueue,
) -> None:
    source = source_of(queue)

    source.promoter.note_others(2, promotes=False, late=False)

    source.promoter.learn(Exchange(due_in=60), time.monotonic())
    assert source.promoter.expects(within=60)


async def test_more_slots_than_one_claim_can_fill_are_filled_by_as_many_claims(queue: JobQueue) -> None:
    settings = Worker(queue, concurrency=3000).settings
    worker_run = WorkerRun([settings])
    (source,) = worker_run.sources

    assert source.exchanger.next_batch().count == 500


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
        await other.release(refund=True, watch=False)
        await eventually(lambda: worker._current and worker._current.sources[0].fetcher._claim_after > began)

    began = 0.0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await eventually(lambda: worker._current and worker._current.sources[0].fetcher.waiting)
        assert worker._current is not None
        consumer = worker._current.sources[0].member.consumer
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
    queue: JobQueue, source: Source, late: str
) -> None:
    """Its tasks hear of a cancel in any order: the one that asks may outlast the one that would read."""
    job_id = await queue.push(Work())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(source.fetcher.run, source.dispatcher.take)
        for duty in (source.listen, source.member.timer.run):
            tasks.start_soon(duty)
        source.batcher.start(tasks)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    dispatch(source, (await source.member.consumer.exchange([], 1)).leases)

    if late == "read":
        source.fetcher.begin(1, time.monotonic())
    else:
        source.batcher.begin(Batch([], 1))
    with anyio.fail_after(4):  # sooner than a read or an exchange that no task ends
        await source.drain()

    info = await queue.get(job_id)
    assert info is not None
    assert (info.state, info.deliveries) == (State.READY, 0)


async def test_a_look_for_lost_leases_ends_though_no_one_carries_our_outcomes_any_more(
    queue: JobQueue, source: Source, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the worker is cancelled just then: it must not take over what it could not settle."""
    await queue.push(Work())
    async with anyio.create_task_group() as tasks:
        source.batcher.start(tasks)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    dispatch(source, (await source.member.consumer.exchange([], 1)).leases)
    (run,) = source.leases
    source.settler.ran(run, Done())
    store.age(60)
    tries: list[Batch] = []
    begin = source.batcher.begin

    def at_most_ten(batch: Batch) -> None:
        tries.append(batch)
        assert len(tries) < 10
        begin(batch)

    monkeypatch.setattr(source.batcher, "begin", at_most_ten)

    await source.stepper._reclaim()

    assert (source.leases.unsettled, run.lease.deliveries) == ([run], 1)


def hold_answers(consumer: RedisConsumer, before: Callable[[Exchange], Awaitable[None]]) -> Callable[[], None]:
    """Let something happen before each answer arrives, until what this returns is called."""
    exchange = consumer.exchange

    async def held(settlements: list[tuple[Lease, Settlement]], count: int | None, **more: Any) -> Exchange:
        answer = await exchange(settlements, count, **more)
        await before(answer)
        return answer

    consumer.exchange = held  # type: ignore[method-assign, assignment]
    return lambda: setattr(consumer, "exchange", exchange)


def settled(fetcher: Fetcher) -> bool:
    """Whether it waits, and has heard that it is subscribed: for then it ends its read, and claims once more."""
    is_ending = fetcher.interrupted or fetcher._until is None or fetcher._until.is_set
    return fetcher.waiting and fetcher._claim_after > 0 and not is_ending


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["exchange", "wait"])
@pytest.mark.parametrize("deaf", [False, True])
async def test_jobs_that_took_a_lease_to_arrive_are_run_but_not_before_a_beat_got_through(
    store: Store, queue: JobQueue, monkeypatch: pytest.MonkeyPatch, verb: str, deaf: bool
) -> None:
    """Where none did, the lease may be over and another may run them; where they did, they are our own."""
    kind = MemoryConsumer if isinstance(store, MemoryStore) else RedisConsumer
    heart = SyncMemoryConsumer if isinstance(store, MemoryStore) else SyncRedisConsumer
    answer, beat_once = getattr(kind, verb), heart.beat
    hearing, begun, arrived = threading.Event(), anyio.Event(), anyio.Event()
    heard_again_at: list[float] = []
    hearing.set()

    async def slow(consumer: Consumer, *asked: Any, **options: Any) -> Any:
        answered = await answer(consumer, *asked, **options)
        leases = answered.leases if isinstance(answered, Exchange) else answered
        if leases and not begun.is_set():
            begun.set()
            if deaf:
                hearing.clear()
            await anyio.sleep(LEASE * 1.2)
            arrived.set()
        return answered

    def beat_if_heard(heart: Any, *told: Any) -> Sequence[Beaten]:
        if not hearing.is_set():
            raise Unavailable("nothing gets through, as the test says")
        return beat_once(heart, *told)

    monkeypatch.setattr(kind, verb, slow)
    monkeypatch.setattr(heart, "beat", beat_if_heard)
    runs: list[tuple[float, int]] = []

    @queue.register(Late)
    async def late(_: Late, context: JobContext) -> None:
        runs.append((time.monotonic(), context.deliveries))

    def was_taken() -> bool:
        return begun.is_set() or len(runs) == pushed

    worker = Worker(queue, lease=LEASE)
    pushed = 0
    if verb == "exchange":
        await queue.push(Late())
        pushed = 1
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        if verb == "wait":
            await eventually(lambda: worker._current and settled(worker._current.sources[0].fetcher))
            while not begun.is_set():  # an exchange may take one before the read that waits does
                await queue.push(Late())
                pushed += 1
                await eventually(was_taken)
        with anyio.fail_after(10):
            await arrived.wait()
        if deaf:
            await anyio.sleep(LEASE / 2)
            assert len(runs) == pushed - 1
            heard_again_at.append(time.monotonic())
            hearing.set()
        await eventually(lambda: len(runs) == pushed, within=10)
        worker.stop()

    totals = (await queue.control.counts()).totals
    assert (totals["released"], totals["completed"]) == (0, pushed)
    assert {deliveries for _, deliveries in runs} == {1}
    assert not deaf or heard_again_at[0] <= runs[-1][0]


async def test_jobs_that_arrive_in_time_are_run_and_not_handed_back(queue: JobQueue) -> None:
    await queue.push_many([Work(n) for n in range(5)])

    await Worker(queue, lease=LEASE, concurrency=1).run(until_idle=True)

    totals = (await queue.control.counts()).totals
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

    totals = (await queue.control.counts()).totals
    assert (totals.get("released", 0), totals["completed"]) == (0, min(share, 300))


async def test_quick_jobs_keep_two_exchanges_under_way(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs that are done as soon as they come: with one exchange alone worker and server would wait in turn."""
    exchange, at_once = RedisConsumer.exchange, [0]

    async def counting(
        self: RedisConsumer,
        settlements: Settlements,
        count: int | None,
        *,
        turn: Turn | None = None,
        **more: Any,
    ) -> Exchange:
        at_once.append(at_once[-1] + 1)
        try:
            return await exchange(self, settlements, count, turn=turn, **more)
        finally:
            at_once.append(at_once[-1] - 1)

    monkeypatch.setattr(RedisConsumer, "exchange", counting)
    async with JobQueue(redis_store.driver, redis_store.queue_name) as queue:

        @queue.register(Work)
        async def work(_: Work) -> None: ...

        await queue.push_many([Work() for _ in range(1000)])
        await Worker(queue, concurrency=100).run(until_idle=True)
        assert (await queue.control.counts()).totals["completed"] == 1000

    # All but the first, which may bring a job that has to run alone, and the last ones.
    assert at_once.count(2) > len(at_once) / 4 - 2
    assert max(at_once) == 2
