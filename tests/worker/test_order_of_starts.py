"""Which job has the next slot: strictly by priority in a queue, and strictly by order between queues."""

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import anyio
import pytest
from at_work import running
from store import Store, eventually, happened
from two_queues import Away

from redisjobs import JobContext, JobQueue, Priority, Worker
from redisjobs.model.transitions import After, NewJob, Release, RetryLater
from redisjobs.worker.source.policy import Prefetch

pytestmark = pytest.mark.anyio

HIGH, NORMAL, LOW = Priority.HIGH, Priority.NORMAL, Priority.LOW


@dataclass
class Work:
    job_name: ClassVar[str] = "work"
    label: str = ""
    seconds: float | None = None


class Starts:
    """Which jobs have started, in order; each runs until it is let go."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self.running: list[str] = []
        self.deliveries = set[int]()
        self._may_end = defaultdict[str, anyio.Event](anyio.Event)
        self._is_open = False

    def handle(self, queue: JobQueue) -> JobQueue:
        @queue.register(Work)
        async def work(job: Work, context: JobContext) -> None:
            self.all.append(job.label)
            self.running.append(job.label)
            self.deliveries.add(context.deliveries)
            try:
                if job.seconds is not None:
                    await anyio.sleep(job.seconds)
                elif not self._is_open:
                    await self._may_end[job.label].wait()
            finally:
                self.running.remove(job.label)

        return queue

    def end(self, label: str) -> None:
        """Let a job end."""
        self._may_end[label].set()

    def end_all(self) -> None:
        """Let all end, also those that have not started."""
        self._is_open = True
        for each in self._may_end.values():
            each.set()

    async def reach(self, count: int) -> None:
        """Wait until this many have started."""
        await eventually(lambda: len(self.all) >= count, within=20)


@pytest.fixture
async def starts() -> Starts:
    return Starts()


@pytest.fixture
async def queues(stores: tuple[Store, Store]) -> AsyncIterator[tuple[JobQueue, JobQueue]]:
    first, second = (JobQueue(each.driver, each.queue_name) for each in stores)
    async with first, second:
        yield first, second


working = partial(running, stop=Worker.stop_now)


async def push(
    queue: JobQueue, labels: Sequence[str], priority: Priority = NORMAL, seconds: float | None = None
) -> None:
    await queue.push_many([Work(label, seconds) for label in labels], priority=priority)


# Priorities in one queue


@pytest.mark.parametrize(("below", "above"), [(NORMAL, HIGH), (LOW, HIGH), (LOW, NORMAL)])
async def test_a_job_of_higher_priority_that_was_pushed_before_a_slot_is_free_has_that_slot(
    queue: JobQueue, starts: Starts, below: Priority, above: Priority
) -> None:
    rounds = 6
    starts.handle(queue)
    await push(queue, [f"below {number}" for number in range(3 + rounds)], below)
    async with working(Worker(queue, concurrency=3)):
        await starts.reach(3)
        for number in range(rounds):
            await push(queue, [f"above {number}"], above)
            started = len(starts.all)
            starts.end(next(label for label in starts.running if label.startswith("below")))
            await starts.reach(started + 1)
            assert starts.all[started] == f"above {number}"
            starts.end(f"above {number}")
            await starts.reach(started + 2)
        starts.end_all()
        await eventually(lambda: not starts.running)

    assert [label for label in starts.all if "below" in label] == [f"below {at}" for at in range(3 + rounds)]
    assert starts.deliveries == {1}


async def test_jobs_of_higher_priority_are_the_first_in_many_slots_that_are_free_at_once(
    queue: JobQueue, starts: Starts
) -> None:
    starts.handle(queue)
    await push(queue, [f"below {number}" for number in range(60)])
    async with working(Worker(queue, concurrency=17)):
        await starts.reach(17)
        await push(queue, [f"low {number}" for number in range(3)], LOW)
        await push(queue, [f"above {number}" for number in range(20)], HIGH)
        for label in list(starts.running):
            starts.end(label)
        await starts.reach(34)
        assert starts.all[17:34] == [f"above {number}" for number in range(17)]
        starts.end_all()
        await starts.reach(83)

    rest = starts.all[34:]
    assert rest == [
        *(f"above {number}" for number in range(17, 20)),
        *(f"below {number}" for number in range(17, 60)),
        *(f"low {number}" for number in range(3)),
    ]
    assert starts.deliveries == {1}


async def test_jobs_of_higher_priority_are_the_first_whichever_worker_has_a_free_slot(
    queue: JobQueue, starts: Starts
) -> None:
    starts.handle(queue)
    await push(queue, [f"below {number}" for number in range(40)])
    async with working(*(Worker(queue, concurrency=4) for _ in range(3))):
        await starts.reach(12)
        for number in range(6):
            started = len(starts.all)
            await push(queue, [f"above {2 * number}", f"above {2 * number + 1}"], HIGH)
            for label in [label for label in starts.running if label.startswith("below")][:2]:
                starts.end(label)
            await starts.reach(started + 2)
            assert set(starts.all[started : started + 2]) == {f"above {2 * number}", f"above {2 * number + 1}"}
            starts.end(f"above {2 * number}")
            starts.end(f"above {2 * number + 1}")
            await starts.reach(started + 4)
        starts.end_all()
        await starts.reach(52)

    assert starts.deliveries == {1}


async def test_a_job_that_came_beside_one_of_higher_priority_goes_to_another_worker_if_no_slot_is_free(
    queue: JobQueue, starts: Starts
) -> None:
    starts.handle(queue)
    await push(queue, ["first", "second", "below"])
    async with working(Worker(queue, concurrency=2)):
        await starts.reach(2)
        await push(queue, ["above"], HIGH)
        starts.end("first")
        await starts.reach(3)
        async with working(Worker(queue, concurrency=1)):
            await starts.reach(4)
            starts.end_all()
            await eventually(lambda: not starts.running)

    assert starts.all[2:] == ["above", "below"]
    assert starts.deliveries == {1}
    assert happened(await queue.control.counts())["completed"] == 4


async def test_short_jobs_are_not_claimed_ahead_where_jobs_of_several_priorities_come(
    queue: JobQueue, starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Prefetch, "answered", lambda self, *_: setattr(self, "jobs", 4))  # as if all took some ms
    starts.handle(queue)
    await push(queue, [f"low {number}" for number in range(20)], LOW)
    await push(queue, ["above"], HIGH)
    async with working(Worker(queue, concurrency=1)):
        await starts.reach(1)
        starts.end("above")
        await starts.reach(2)
        for number in range(5):
            started = len(starts.all)
            await push(queue, [f"normal {number}"])
            starts.end(starts.running[0])
            await starts.reach(started + 1)
            assert starts.all[started] == f"normal {number}"
            starts.end(f"normal {number}")
            await starts.reach(started + 2)
        starts.end_all()
        await starts.reach(26)


async def test_a_job_that_was_claimed_ahead_is_passed_by_one_of_higher_priority(
    queue: JobQueue, starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redisjobs.worker.source.dispatcher.PATIENCE", 60.0)
    monkeypatch.setattr(Prefetch, "answered", lambda self, *_: setattr(self, "jobs", 4))
    starts.handle(queue)
    worker = Worker(queue, concurrency=1)
    await push(queue, [f"below {number}" for number in range(20)])
    async with working(worker):
        await eventually(lambda: worker._current and worker._current.pool.slots.held == 5)
        await push(queue, ["above"], HIGH)
        starts.end("below 0")  # the next one is in the slot at once, and there is room to claim one more
        await eventually(lambda: any(b'"above"' in run.lease.fields[b"parameters"] for run in leases(worker)))
        starts.end("below 1")
        await starts.reach(3)
        assert starts.all == ["below 0", "below 1", "above"]
        starts.end_all()
        await starts.reach(21)


def leases(worker: Worker) -> Any:
    assert worker._current
    return worker._current.sources[0].leases


@pytest.mark.parametrize("why", ["a limit", "a name is paused", "a job is held"])
async def test_priorities_are_strict_where_some_jobs_may_not_start(
    queue: JobQueue, starts: Starts, why: str
) -> None:
    @dataclass
    class Other:
        job_name: ClassVar[str] = "other"

    @queue.register(Other)
    async def other(_: Other) -> None:
        starts.all.append("other")
        await anyio.sleep_forever()

    starts.handle(queue)
    waiting = await queue.push_many([Other(), Other()], priority=HIGH)
    if why == "a limit":
        await queue.control.set_limit("other", max_concurrency=1)
    elif why == "a name is paused":
        await queue.control.pause("other")
    else:
        for each in waiting:
            await queue.control.hold(each.id)
    await push(queue, [f"below {number}" for number in range(12)])
    async with working(Worker(queue, concurrency=3)):
        await starts.reach(3)
        for number in range(4):
            started = len(starts.all)
            await push(queue, [f"above {number}"], HIGH)
            starts.end(next(label for label in starts.running if label.startswith("below")))
            await starts.reach(started + 1)
            assert starts.all[started] == f"above {number}"
            starts.end(f"above {number}")
            await starts.reach(started + 2)

    assert starts.deliveries == {1}


@pytest.mark.parametrize("how", ["handed back", "retried", "promoted"])
async def test_a_job_of_higher_priority_that_becomes_ready_again_has_the_next_slot(
    queue: JobQueue, starts: Starts, store: Store, how: str
) -> None:
    starts.handle(queue)
    await push(queue, ["above"], HIGH)
    other = store.consumer("other")
    await other.open()
    (lease,) = (await other.exchange([], 1)).leases
    await push(queue, [f"below {number}" for number in range(9)])
    async with working(Worker(queue, concurrency=2)):
        await starts.reach(2)
        starts.end(starts.running[0])  # so that the worker knows what there is
        await starts.reach(3)
        later = RetryLater(After(50 if how == "promoted" else 0))
        await other.exchange([(lease, Release() if how == "handed back" else later)], None)
        if how == "promoted":
            await anyio.sleep(0.1)
        starts.end(starts.running[0])
        await starts.reach(4)
        assert starts.all[3] == "above"
        starts.end_all()
        await starts.reach(10)
    await other.aclose()


async def test_a_run_until_idle_starts_jobs_by_priority_and_ends(queue: JobQueue, starts: Starts) -> None:
    starts.handle(queue)
    await push(queue, [f"below {number}" for number in range(30)], LOW, seconds=0.01)
    pushed = anyio.Event()

    async def push_above() -> None:
        await starts.reach(4)
        await push(queue, [f"above {number}" for number in range(8)], HIGH, seconds=0.01)
        pushed.set()
        started = len(starts.all)
        await starts.reach(started + 12)
        # Those that were in a slot, or were claimed, as they were pushed: no more than there are slots.
        assert len([label for label in starts.all[started : started + 12] if "below" in label]) <= 4

    with anyio.fail_after(40):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(push_above)
            await Worker(queue, concurrency=4).run(until_idle=True)

    assert pushed.is_set()
    assert len(starts.all) == 38


# Queues in strict order


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source has something else to do all the time."""
    monkeypatch.setattr("redisjobs.worker.source.reclaimer._RECLAIM", 0.005)
    monkeypatch.setattr("redisjobs.worker.source.reclaimer._ONLY_WORKER", 0.005)
    monkeypatch.setattr("redisjobs.worker.source.reclaimer._TIDY", 0.01)


@pytest.mark.slow
@pytest.mark.usefixtures("hasty")
async def test_in_strict_order_a_queue_that_does_something_else_keeps_its_turn(
    queues: tuple[JobQueue, JobQueue], starts: Starts
) -> None:
    critical, bulk = map(starts.handle, queues)
    await push(bulk, [f"bulk {number}" for number in range(10)])
    await push(critical, [f"critical {number}" for number in range(300)], seconds=0.01)
    async with working(Worker([critical, bulk], concurrency=5, strict=True)):
        await starts.reach(300)
        assert [label for label in starts.all[:300] if "bulk" in label] == []
        await starts.reach(305)
        starts.end_all()
        await starts.reach(310)

    assert starts.deliveries == {1}


@pytest.mark.slow
@pytest.mark.usefixtures("hasty")
async def test_by_weight_a_queue_that_does_something_else_keeps_its_share(
    queues: tuple[JobQueue, JobQueue], starts: Starts
) -> None:
    heavy, light = map(starts.handle, queues)
    await push(light, [f"light {number}" for number in range(300)], seconds=0.005)
    await push(heavy, [f"heavy {number}" for number in range(300)], seconds=0.005)
    async with working(Worker([(heavy, 9), light], concurrency=2)):
        await starts.reach(200)

    assert 15 <= len([label for label in starts.all[:200] if "light" in label]) <= 25


async def test_in_strict_order_a_job_that_was_pushed_before_a_slot_is_free_has_that_slot(
    queues: tuple[JobQueue, JobQueue], starts: Starts
) -> None:
    critical, bulk = map(starts.handle, queues)
    await push(bulk, [f"bulk {number}" for number in range(12)])
    async with working(Worker([critical, bulk], concurrency=3, strict=True)):
        await starts.reach(3)
        for number in range(6):
            started = len(starts.all)
            await push(critical, [f"critical {number}"])
            starts.end(next(label for label in starts.running if label.startswith("bulk")))
            await starts.reach(started + 1)
            assert starts.all[started] == f"critical {number}"
            starts.end(f"critical {number}")
            await starts.reach(started + 2)
        starts.end_all()
        await starts.reach(18)

    assert starts.deliveries == {1}


@pytest.mark.slow
async def test_in_strict_order_short_jobs_of_the_last_queue_go_on_while_the_others_have_none(
    queues: tuple[JobQueue, JobQueue], starts: Starts
) -> None:
    """Slots are free again faster than the first queue can be asked about each of them."""
    critical, bulk = map(starts.handle, queues)
    await push(bulk, [f"bulk {number}" for number in range(500)], seconds=0.0)
    async with working(Worker([critical, bulk], concurrency=20, strict=True)):
        await starts.reach(500)
        await push(critical, ["critical"], seconds=0.0)
        await starts.reach(501)


@pytest.mark.parametrize("strict", [True, False])
async def test_a_queue_that_is_joined_late_has_its_slots_of_a_worker_that_starts(
    store: Store, starts: Starts, strict: bool
) -> None:
    slow = Away()
    slow.hang()
    first, second = starts.handle(JobQueue(slow, "slow")), starts.handle(JobQueue(store.driver, store.queue_name))
    jobs = [(f"first {n}", ["name", "work", "parameters", f'{{"label": "first {n}"}}']) for n in range(9)]
    await slow.push([NewJob(label, fields) for label, fields in jobs], repeated=False)
    await push(second, [f"second {number}" for number in range(9)])
    worker = Worker([first, second], concurrency=3, strict=strict)
    async with second, working(worker):
        await eventually(lambda: worker._current and worker._current.sources[1].member.opened)
        await anyio.sleep(0.3)  # in which nothing is to start
        assert starts.all == []
        slow.answer()
        await starts.reach(3)
        assert "first 0" in starts.all
        assert not strict or starts.all == ["first 0", "first 1", "first 2"]


@pytest.mark.parametrize("how", ["refuses", "hangs"])
async def test_a_queue_whose_store_is_away_at_the_start_holds_the_others_up_for_a_bounded_time(
    store: Store, starts: Starts, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redisjobs.worker.source.source._JOINING", 0.5)
    away = Away()
    away.is_away = how == "refuses"
    if how == "hangs":
        away.hang()
    first, second = starts.handle(JobQueue(away, "away")), starts.handle(JobQueue(store.driver, store.queue_name))
    await push(second, [f"second {number}" for number in range(9)])
    async with second, working(Worker([first, second], concurrency=3, strict=True)):
        await starts.reach(3)
        starts.end_all()
        await starts.reach(9)
        if how == "hangs":
            away.answer()


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_under_trio_the_order_of_starts_is_the_same(starts: Starts) -> None:
    critical, bulk = (starts.handle(JobQueue("memory://", name)) for name in ("critical", "bulk"))
    async with critical, bulk:
        await push(bulk, [f"bulk {number}" for number in range(6)])
        async with working(Worker([critical, bulk], concurrency=2, strict=True)):
            await starts.reach(2)
            await push(critical, ["critical"])
            await push(bulk, ["high"], HIGH)
            starts.end("bulk 0")
            await starts.reach(3)
            starts.end("bulk 1")
            await starts.reach(4)
            starts.end_all()
            await starts.reach(8)

    assert starts.all == ["bulk 0", "bulk 1", "critical", "high", "bulk 2", "bulk 3", "bulk 4", "bulk 5"]
