"""Bytes of a push that come late, after the one that repeated it, and after its job has run: they add nothing."""

import time
from typing import Any

import pytest
from store import RedisStore

from redisjobs.driver import Ack, NewJob, Pushed, Word
from redisjobs.drivers.commands import Commands, PushAnswer
from redisjobs.drivers.link import SyncLink, Target
from redisjobs.job import JobName
from redisjobs.queue import JobQueue
from redisjobs.sync import JobQueue as SyncJobQueue

pytestmark = pytest.mark.anyio

FIELDS = ["name", "Work", "parameters", "{}"]
JOB = JobName("Work", dict[str, int])


def send(store: RedisStore, job: NewJob, sent_ms: float) -> PushAnswer:
    """A first try, as it was sent then."""
    link = SyncLink(Commands(store.queue_name, store.clock), Target(store.url))
    try:
        (answer,) = link.run(link._commands.push([job], repeated=False, sent_ms=sent_ms))
        return answer  # type: ignore[no-any-return]
    finally:
        link.close()


async def run_it(store: RedisStore) -> int:
    """Claim and settle what there is; how many jobs that were."""
    consumer = store.consumer("w")
    await consumer.open()
    leases = (await consumer.exchange([], 10)).leases
    await consumer.exchange([(lease, Ack()) for lease in leases], None)
    await consumer.aclose()
    return len(leases)


@pytest.mark.parametrize("nonce", ["", "0123456789abcdef"])
@pytest.mark.parametrize("ran_after", [0, 4.9, 20])
@pytest.mark.parametrize("late", [0, 0.4, 1.9, 4.9, 29, 31, 3600])
async def test_a_first_try_that_comes_after_its_repetition_has_run_adds_nothing(
    redis_store: RedisStore, late: float, ran_after: float, nonce: str
) -> None:
    store, job = redis_store, NewJob("a", FIELDS, nonce=nonce)
    store.clock.advance(0)
    sent_ms = store.clock()
    store.clock.advance(ran_after)
    assert await store.driver.push([job], repeated=True) == [Pushed(Word.OK)]
    assert await run_it(store) == 1
    store.clock.advance(late)

    answer = send(store, job, sent_ms)

    assert answer.pushed in (None, [Pushed(Word.REPEATED)])
    assert (answer.pushed is None) == (ran_after + late > 30)  # sent too long ago to be judged
    assert await run_it(store) == 0
    await store.driver.aclose()


async def test_no_clock_of_a_producer_has_a_say(redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    made = time.time_ns()
    for ahead in (-3600, 3600):
        with monkeypatch.context() as patch:
            patch.setattr(time, "time_ns", lambda ahead=ahead: made + ahead * 10**9)
            patch.setattr(time, "time", lambda ahead=ahead: (made / 1e9) + ahead)
            with SyncJobQueue(redis_store.url, redis_store.queue_name) as queue:
                job = queue.prepare({}, JOB)
                first = queue.push_many([job])[0]
        assert first.added
        assert await run_it(redis_store) == 1
        assert send(redis_store, job, redis_store.clock() - 10).pushed == [Pushed(Word.REPEATED)]


@pytest.mark.parametrize("seconds", [-3600, -5, 29, 3600])
@pytest.mark.parametrize("face", [JobQueue, SyncJobQueue])
async def test_a_connection_learns_the_servers_clock_anew_once_it_was_set(
    redis_store: RedisStore, face: Any, seconds: float
) -> None:
    store = redis_store
    store.clock.advance(0)
    queue = face(store.url, store.queue_name)
    drivers = [queue.driver] if face is JobQueue else [queue._store(10)]
    drivers[0].commands._now_ms = store.clock

    async def push(job_id: str) -> None:
        pushed = queue.push({}, JOB, job_id=job_id)
        assert (await pushed if face is JobQueue else pushed).added

    await push("a")
    store.clock.advance(seconds)
    await push("b")

    assert await run_it(store) == 2
    await queue.aclose() if face is JobQueue else queue.close()
    await store.driver.aclose()
