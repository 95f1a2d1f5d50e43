"""A claim that was given up may arrive after all: what it brings is the worker's, and the worker does not know."""

import anyio
import pytest
from store import Heart, Store, eventually

from redisjobs.model.transitions import Ack, NewJob
from redisjobs.queue import JobQueue
from redisjobs.worker.worker import Worker

pytestmark = pytest.mark.anyio


async def test_what_was_delivered_a_while_ago_is_found_and_what_was_just_delivered_may_be_on_its_way(
    store: Store,
) -> None:
    worker = store.consumer("w")
    await store.driver.push([NewJob("a", ["name", "n"]), NewJob("b", ["name", "n"])], repeated=False)
    held, missed = (await worker.exchange([], 2)).leases

    assert await worker.recover([held], 5) == []
    store.age(6)
    beat = Heart(worker)
    beat.beat(list, {})
    beat.close()
    (found,) = await worker.recover([held], 5)

    assert (found.key, found.deliveries, found.job_id) == (missed.key, missed.deliveries, missed.job_id)
    assert list((await worker.exchange([(found, Ack()), (held, Ack())], None)).replies) == ["OK", "OK"]
    await worker.aclose()
    await store.driver.aclose()


async def test_a_worker_runs_what_a_late_claim_of_its_own_brought(queue: JobQueue, store: Store) -> None:
    ran: list[int] = []
    runs, go_on = anyio.Event(), anyio.Event()

    @queue.job
    async def work(number: int) -> None:
        ran.append(number)
        if number == 1:
            runs.set()
            await go_on.wait()

    worker = Worker(queue, lease=0.4, concurrency=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await work.push(1)
        await runs.wait()  # with no free slot it claims nothing
        await work.push(2)
        late = store.driver.consumer(worker.worker_id, lease=0.4, max_deliveries=3)
        assert len(await late.wait(1, 1)) == 1  # as bytes of this worker's would, that were long on their way
        await late.aclose()
        go_on.set()

        await eventually(lambda: ran == [1, 2], within=10)
        worker.stop()
    assert (await queue.control.counts()).running == 0
