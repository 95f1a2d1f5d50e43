"""What workers have counted, as an operator reads it: on memory and on every server at hand, async and sync."""

import logging
import time
from datetime import UTC, datetime

import anyio
import pytest
from store import RedisStore, Store

from redisjobs import Fail, JobName, JobQueue, Retry, Snooze, Worker, no_retry, sync
from redisjobs.drivers.memory.driver import SyncMemoryConsumer
from redisjobs.drivers.redis.heartbeat import SyncRedisConsumer
from redisjobs.errors import Unavailable
from redisjobs.model.changes import Change
from redisjobs.model.recording import Record
from redisjobs.model.statistics import Tally, total
from redisjobs_proof.contract.recording import BEGIN, counted

pytestmark = pytest.mark.anyio

MADE_UP = JobName("MadeUp", dict[str, int])


async def drain(queue: JobQueue) -> None:
    await Worker(queue, schedules=False).run(until_idle=True)


async def of(queue: JobQueue, name: str | None = None) -> Tally:
    """All that was counted in the last hour."""
    return total(await queue.control.statistics(name=name))


@pytest.fixture
def jobs(queue: JobQueue) -> JobQueue:
    """A queue whose jobs end in each way."""

    @queue.job(name="Slow")
    async def slow(seconds: float) -> None:
        await anyio.sleep(seconds)

    @queue.job(name="Thread")
    def thread(seconds: float) -> None:
        time.sleep(seconds)

    @queue.job(name="Again", retry=no_retry())
    async def again(how: str) -> None:
        match how:
            case "snooze":
                raise Snooze(for_=3600)
            case "fail":
                raise Fail("no")
        raise ValueError(how)

    @queue.job(name="Later")
    async def later() -> None:
        raise Retry(delay=3600)

    return queue


async def test_each_way_in_which_a_job_is_settled_counts_under_its_name(jobs: JobQueue) -> None:
    for _ in range(3):
        await jobs.push({"seconds": 0.03}, "Slow")
    await jobs.push({"seconds": 0.03}, "Thread")
    for how in ("snooze", "fail", "defect", "defect"):
        await jobs.push({"how": how}, "Again")
    await jobs.push({}, "Later")
    await jobs.push({"a": 1}, MADE_UP)

    began = time.monotonic()
    await drain(jobs)
    took = time.monotonic() - began

    slow, again = await of(jobs, "Slow"), await of(jobs, "Again")
    assert (slow.completed, slow.dead) == (3, 0)
    assert (again.completed, again.retried, again.snoozed, again.dead) == (0, 0, 1, 3)
    assert slow.run is not None
    assert slow.wait is not None
    assert 0.02 <= slow.run.p50 <= 2.5 * took  # no bucket ends beyond 2.5 times a value in it
    everything = await of(jobs)
    assert (everything.completed, everything.retried, everything.dead, everything.released) == (4, 1, 3, 1)
    overview = await jobs.control.overview()
    assert {each.name: sum(each.series) for each in overview.names} == {
        "Slow": 3, "Thread": 1, "Again": 0, "Later": 0, "unknown": 0
    }  # fmt: skip
    assert [each.count for each in overview.causes] == [2, 1]


async def test_a_batch_of_several_names_counts_each_by_its_own_times(jobs: JobQueue) -> None:
    for _ in range(20):
        await jobs.push({"seconds": 0}, "Slow")
        await jobs.push({"seconds": 0}, "Thread")

    await drain(jobs)

    for name in ("Slow", "Thread"):
        found = (await of(jobs, name)).sums
        assert found["completed"] == 20
        assert sum(many for bucket, many in found.items() if bucket.startswith("run")) == 20
        assert sum(many for bucket, many in found.items() if bucket.startswith("wait")) == 20


async def test_both_faces_and_a_later_process_read_the_same(jobs: JobQueue, store: Store) -> None:
    await jobs.push({"seconds": 0}, "Slow")
    await drain(jobs)

    with sync.JobQueue(store.another(), store.queue_name) as other:
        assert (total(other.control.statistics(60, "Slow")).completed, other.control.overview().names[0].name) == (
            1,
            "Slow",
        )
        assert total(other.control.statistics(3 * 24 * 3600)).completed == 1
        assert other.control.statistics(name="Nothing")[-1].sums == {}


async def test_an_idle_worker_takes_a_sample(jobs: JobQueue) -> None:
    await jobs.push({"seconds": 0}, "Slow", delay=3600)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Worker(jobs).run)
        with anyio.fail_after(5):
            while (sample := (await jobs.control.statistics(60))[-1].sample) is None:  # noqa: ASYNC110  (there is no event)
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()

    assert sample is not None
    assert (sample.delayed, sample.workers, sample.pushed) == (1, 1, 1)


async def test_a_flush_whose_reply_was_lost_counts_once(jobs: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = list[Record]()

    def lossy(change: Change[object], answer: object) -> object:
        assert isinstance(change, Record)
        sent.append(change)
        if change.names and len([each for each in sent if each.names]) == 1:
            raise Unavailable("the reply was lost")
        return answer

    for kind in (SyncMemoryConsumer, SyncRedisConsumer):
        change_of = kind.change
        monkeypatch.setattr(kind, "change", lambda self, change, of=change_of: lossy(change, of(self, change)))
    await jobs.push({"seconds": 0}, "Slow")
    worker = Worker(jobs, lease=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        with anyio.fail_after(10):
            while len([each for each in sent if each.names]) < 2:  # noqa: ASYNC110  (a thread sends them)
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()

    assert (await of(jobs)).completed == 1


async def test_only_intervals_since_a_time_are_read_and_an_overview_goes_on(queue: JobQueue, store: Store) -> None:
    store.clock.set_to = BEGIN
    for number in range(1, 11):
        await store.driver.change(counted(number, Send={"completed": number}))
        store.clock.advance(60)
    before = await queue.control.overview()
    await store.driver.change(counted(11, Send={"completed": 11}))
    closed = await queue.control.statistics(600)

    since = await queue.control.statistics(600, since=datetime.fromtimestamp(BEGIN / 1000 + 9 * 60 + 30, UTC))

    assert [each.completed for each in closed] == [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    assert since == closed[-2:]
    assert [each.is_closed for each in since] == [True, False]
    later = await queue.control.overview(before)
    assert later.names == (await queue.control.overview()).names
    assert [*later.names[0].series] == [*[0] * 49, *range(1, 12)]
    store.clock.advance(3600)
    assert [*(await queue.control.overview(later)).names] == []
    store.clock.advance(-3600)
    again = await queue.control.overview(await queue.control.overview(later))
    assert again.names == later.names


@pytest.mark.parametrize(("last", "name", "since"), [(0, None, None), (60, "two words", None), (60, None, "now")])
async def test_a_wrong_question_is_refused_before_it_is_sent(
    queue: JobQueue, last: float, name: str | None, since: datetime | None
) -> None:
    with pytest.raises(ValueError, match="give"):
        await queue.control.statistics(last, name, since=since)


async def test_keys_of_another_type_stop_no_worker_and_are_logged_once(
    redis_store: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    minute = int(time.time()) // 60
    for number in (minute, minute + 1):
        redis_store.admin.set(f"{redis_store.prefix}minute:{number}", "no hash", ex=600)
    async with JobQueue(redis_store.driver, redis_store.queue_name) as queue:
        ran = list[int]()

        @queue.job(name="Run")
        async def run(number: int) -> None:
            ran.append(number)

        for number in range(3):
            await run.push(number)
        await drain(queue)

        assert len(ran) == 3
        assert await queue.control.statistics(60) != []
        assert caplog.text.count("statistics are not recorded") == 1
        assert "WRONGTYPE" in caplog.text


async def test_a_server_that_loses_its_data_takes_statistics_again(redis_store: RedisStore) -> None:
    record = counted(5, Send={"completed": 1})
    await redis_store.driver.change(record)
    redis_store.admin.delete(*(redis_store.prefix + key for key in [*redis_store.keys()]))
    await redis_store.driver.change(record)
    async with JobQueue(redis_store.driver, redis_store.queue_name) as queue:
        assert (await of(queue)).completed == 1
