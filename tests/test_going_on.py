"""A worker that was fenced, or whose answers were lost as it began, goes on: with none of its old jobs."""

from collections.abc import AsyncIterator

import anyio
import pytest
from store import RedisStore, Store, eventually

from redisjobs.driver import Fenced, IdTaken, NewJob, Word
from redisjobs.errors import Unavailable
from redisjobs.guard import Guard
from redisjobs.job import Priority
from redisjobs.queue import JobQueue
from redisjobs.running import Means
from redisjobs.shift import Shift
from redisjobs.stepping import Contexts
from redisjobs.worker import Worker

pytestmark = pytest.mark.anyio

JOB = ["name", "work", "parameters", '{"number": 1}']


@pytest.fixture
async def queue(store: Store) -> AsyncIterator[JobQueue]:
    async with JobQueue(store.driver, store.queue_name) as queue:

        @queue.job(name="work")
        async def work(number: int) -> None:
            pass

        yield queue


@pytest.fixture
async def shift(queue: JobQueue) -> AsyncIterator[Shift]:
    """One that has opened, and does nothing by itself."""
    shift = Shift(Worker(queue, concurrency=2).settings, until_idle=False)
    guard = Guard()
    shift.means = Means(guard, Contexts(), shift.threads, None)
    await shift.consumer.open()
    yield shift
    await shift.consumer.aclose()
    guard.end()


async def test_what_a_read_of_the_old_id_brings_while_a_worker_goes_on_is_not_run(
    queue: JobQueue, shift: Shift, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = shift.consumer.worker_id
    await queue.driver.push([NewJob("a", JOB)], repeated=False)
    late = await shift.consumer.wait(1, 1)
    end = shift.lookout.end

    async def end_with_a_reply() -> None:
        shift._dispatch(late)
        await end()

    monkeypatch.setattr(shift.lookout, "end", end_with_a_reply)
    await shift._begin_anew(Fenced(old))

    assert shift.consumer.worker_id != old
    assert (shift.leased, shift.slots.busy) == ({}, 0)
    (lease,) = (await shift.consumer.exchange([], 1)).leases  # it was handed back, for anybody
    assert lease.deliveries == 2
    shift._dispatch([lease])
    assert list(shift.leased) == [lease.place]


async def test_a_worker_that_is_cut_off_as_soon_as_it_has_joined_runs_jobs_under_its_new_id(
    queue: JobQueue, shift: Shift, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, join = shift.consumer.worker_id, shift.consumer.open

    async def join_and_hang(worker_id: str = "") -> list[str]:
        await join(worker_id)
        await anyio.sleep_forever()
        return []

    monkeypatch.setattr(shift.consumer, "open", join_and_hang)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(shift._begin_anew, Fenced(old))
            await eventually(lambda: shift.consumer.worker_id != old)
            scope.cancel()

    assert shift.settings.worker_id == shift.consumer.worker_id
    await queue.driver.push([NewJob("a", JOB)], repeated=False)
    shift._dispatch((await shift.consumer.exchange([], 1)).leases)
    assert len(shift.leased) == 1


async def test_a_worker_whose_first_id_was_fenced_before_it_heard_that_it_had_joined_takes_another(
    queue: JobQueue, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(queue)
    first, tries = worker.worker_id, list[str]()
    shift = Shift(worker.settings, until_idle=True)
    join = shift.consumer.open

    async def join_unheard(worker_id: str = "") -> list[str]:
        tries.append(worker_id)
        said = await join(worker_id)
        if len(tries) == 1:
            await shift.consumer.release(refund=False, watch=True)
            raise Unavailable("the reply was lost, as the test says")
        return said

    monkeypatch.setattr(shift.consumer, "open", join_unheard)
    await shift._open()

    assert tries[:2] == [first, first]
    assert tries[2] != first
    assert shift.settings.worker_id == shift.consumer.worker_id == tries[2]
    await shift.consumer.aclose()


async def test_an_id_that_another_worker_has_is_refused_at_the_first_try(queue: JobQueue, store: Store) -> None:
    mine = store.consumer("mine")
    await mine.aclose()

    with pytest.raises(IdTaken, match="'mine' is another worker's"):
        await Worker(queue, worker_id="mine").run(until_idle=True)


async def test_what_has_ended_is_noted_only_while_missed_jobs_are_looked_for(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[object] = []
    let_go = Shift._let_go

    def spy(shift: Shift, run: object) -> None:
        let_go(shift, run)  # type: ignore[arg-type]
        noted.append(shift.let_go)

    monkeypatch.setattr(Shift, "_let_go", spy)
    await queue.driver.push([NewJob(f"job-{n}", JOB) for n in range(20)], repeated=False)
    await Worker(queue).run(until_idle=True)

    assert noted == [None] * 20


async def test_a_stream_that_lost_count_says_whether_there_is_more_and_no_more_than_that(
    redis_store: RedisStore,
) -> None:
    """The server loses count of entries that were cancelled before they were delivered, or removed as they ran."""
    store, worker = redis_store, redis_store.consumer("w")
    await store.driver.push([NewJob(job_id, JOB) for job_id in "abcdef"], repeated=False)
    held = (await worker.exchange([], 3)).leases
    store.admin.xdel(store.stream(Priority.NORMAL), *(lease.entry for lease in held))
    assert await store.driver.cancel("e") is Word.CANCELLED

    assert (await worker.exchange([], 0)).more
    taken = [lease.job_id for lease in (await worker.exchange([], 9)).leases]
    last = await worker.exchange([], 9)

    assert taken == ["d", "f"]
    assert (list(last.leases), last.more) == ([], False)
    await worker.aclose()
    await store.driver.aclose()
    store.admin.hdel(f"{store.prefix}jobs", "a", "b", "c")


async def test_a_dead_worker_of_a_short_lease_is_found_after_the_clock_was_set_back(
    redis_store: RedisStore,
) -> None:
    """Its beat lies in the future, but not later than a beat of the one who looks may lie."""
    store = redis_store
    store.consumer("dead", lease=2)
    heir = store.consumer("heir", lease=60)
    store.clock.step(-50)

    await heir.reclaim(thorough=True)

    store.clock.step(3)
    assert [silent.worker_id for silent in (await heir.reclaim()).silent] == ["dead"]
    await heir.aclose()
