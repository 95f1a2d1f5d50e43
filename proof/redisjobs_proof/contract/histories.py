"""The history of a job: what happened to it that is not usual."""

from dataclasses import replace

from redisjobs.model.changes import Cancel, Requeue, Retain
from redisjobs.model.driver import Consumer, Driver
from redisjobs.model.history import PastEvent, past_events
from redisjobs.model.retention import Keep, Retention
from redisjobs.model.transitions import Ack, After, Release, Reply, RetryLater
from redisjobs_proof.contract.acts import (
    FAILED,
    Heart,
    Open,
    another,
    claim,
    claim_one,
    found,
    job,
    push,
    settle,
    take_over,
)
from redisjobs_proof.contract.needs import needs
from redisjobs_proof.contract.store import DriverStore


async def past(store: DriverStore, job_id: str) -> list[PastEvent]:
    """Return a job's history without its times, which are checked to be in order."""
    events = past_events((await found(store, job_id)).history)
    times = [event.at for event in events if event.at is not None]
    assert len(times) == len(events)
    assert times == sorted(times)
    return [replace(event, at=None) for event in events]


def again(attempt: int, error: str = "ValueError: no") -> RetryLater:
    return RetryLater(After(0), {"attempt": str(attempt), "error": error})


async def test_each_failed_attempt_is_noted_with_its_error_and_worker(store: DriverStore, one: Consumer) -> None:
    await push(store, "a")
    assert await past(store, "a") == []
    await settle(one, await claim_one(one), again(2, "ValueError:\n no"))
    await settle(one, await claim_one(one), again(3, "KeyError: 'é\u2028\x1c\xa0'"))

    failed = [
        PastEvent(None, "failed", "w1", 1, "ValueError: no"),
        PastEvent(None, "failed", "w1", 2, "KeyError: 'é\u2028\x1c\xa0'"),
    ]
    assert await past(store, "a") == failed
    await settle(one, await claim_one(one), FAILED)
    assert await past(store, "a") == failed  # the dead letter itself says how it died


async def test_a_retry_without_an_error_and_a_refunded_release_are_usual(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, "a")
    await settle(one, await claim_one(one), RetryLater(After(0), {"unknown_since": "1", "error": "no handler"}))
    await settle(one, await claim_one(one), RetryLater(After(0)))
    await settle(one, await claim_one(one), Release())

    assert await past(store, "a") == []


async def test_a_requeued_job_keeps_how_it_died_and_its_parameters_before_an_edit(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, job("a", parameters='{"to": "joe"}'))
    await settle(one, await claim_one(one), FAILED)
    assert await store.driver.change(Requeue("a")) is Reply.OK
    await settle(one, await claim_one(one), FAILED)
    assert await store.driver.change(Requeue("a", parameters=b'{"to": "ann"}')) is Reply.OK

    died = PastEvent(None, "died", "w1", None, "failed: ValueError: no")
    edited = PastEvent(None, "edited", note='{"to": "joe"}')
    assert await past(store, "a") == [died, PastEvent(None, "requeued"), died, edited]


async def test_a_job_whose_worker_was_lost_stopped_or_interrupted_says_so_until_it_has_ended(
    store: DriverStore, one: Consumer, worker: Open
) -> None:
    await push(store, "a")
    await claim_one(one)
    store.age(60)
    two = await worker("w2", max_deliveries=9)
    await take_over(two)
    lost = PastEvent(None, "worker-lost", "w1")
    assert await past(store, "a") == [lost]
    assert await settle(two, await claim_one(two), Release(refund=False)) is Reply.OK
    interrupted = PastEvent(None, "interrupted", "w2")
    assert await past(store, "a") == [lost, interrupted]
    await claim_one(two)
    await two.release(refund=True, watch=False)
    assert await past(store, "a") == [lost, interrupted, PastEvent(None, "released", "w2")]
    await two.open("w3")
    await settle(two, await claim_one(two), again(2))
    assert [event.what for event in await past(store, "a")] == ["worker-lost", "interrupted", "released", "failed"]
    assert await settle(two, await claim_one(two), Ack()) is Reply.OK

    await push(store, another("a"))
    assert await past(store, "a") == []


async def test_a_worker_that_its_supervisor_reports_as_dead_is_lost(store: DriverStore, one: Consumer) -> None:
    await push(store, "a")
    await claim_one(one)
    heart = Heart(one)
    heart.release()
    heart.close()

    assert await past(store, "a") == [PastEvent(None, "worker-lost", "w1")]


async def test_a_cancel_of_a_running_job_is_noted(store: DriverStore, one: Consumer) -> None:
    await push(store, "a")
    await claim_one(one)
    assert await store.driver.change(Cancel("a")) is Reply.CANCELLING

    assert await past(store, "a") == [PastEvent(None, "cancel-asked", "w1")]


async def test_of_a_long_history_the_first_event_and_the_newest_stay(store: DriverStore, one: Consumer) -> None:
    await push(store, "a", "b")
    lease, other = await claim(one)
    for attempt in range(1, 31):
        await settle(one, lease, again(attempt + 1, f"E{attempt}"))
        lease = await claim_one(one)
    for attempt in range(1, 31):
        await settle(one, other, again(attempt + 1, f"E{attempt} " + "x" * 5000))
        other = await claim_one(one)

    attempts = [event.attempt for event in await past(store, "a")]
    assert attempts == [1, *range(12, 31)]
    large = await past(store, "b")
    assert [large[0].attempt, large[-1].attempt] == [1, 30]
    assert 2 < len(large) < 10
    assert len((await found(store, "b")).history) <= 4096


@needs(Retain)
async def test_a_kept_job_keeps_its_history(store: DriverStore, driver: Driver, one: Consumer) -> None:
    await driver.change(Retain(Retention(completed=Keep())))
    await push(store, "a")
    await settle(one, await claim_one(one), again(2))
    lease = await claim_one(one)
    await driver.change(Cancel("a"))
    await settle(one, lease, Ack())

    assert [event.what for event in await past(store, "a")] == ["failed", "cancel-asked"]
    assert await driver.change(Requeue("a", ended=True)) is Reply.OK
    assert [event.what for event in await past(store, "a")] == ["failed", "cancel-asked", "ended", "requeued"]
