"""A worker leaves, joins again, or asks which jobs it holds."""

import pytest

from redisjobs.model.changes import Cancel
from redisjobs.model.driver import Consumer, Fenced, IdTaken
from redisjobs.model.job import Priority, State
from redisjobs.model.transitions import Ack, Lease, NewJob, Reply, Turn
from redisjobs_proof.contract.acts import (
    FAILED,
    Heart,
    Open,
    beat,
    claim,
    claim_one,
    claim_with_ended,
    found,
    ids,
    job,
    push,
    rows_of,
    settle,
)
from redisjobs_proof.contract.store import DriverStore


async def test_the_turns_of_a_worker_are_its_own_and_begin_again_with_its_id(
    store: DriverStore, one: Consumer, two: Consumer
) -> None:
    await push(store, "a", "b", "c")
    a, b = await claim(one, 2)
    c = await claim_one(two)
    await one.exchange([(a, Ack())], None, turn=Turn(1, 5))

    assert (await two.exchange([(c, FAILED)], None, turn=Turn(1, 5))).replies == [Reply.OK]
    assert (await found(store, "c")).state is State.DEAD
    await one.release(refund=True, watch=False)
    await one.open("w3")
    b = await claim_one(one)
    assert (await one.exchange([(b, FAILED)], None, turn=Turn(1, 5))).replies == [Reply.OK]
    assert (await found(store, "b")).state is State.DEAD


async def test_an_id_that_is_in_use_is_refused_to_another_worker_but_not_to_its_own(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, "a")
    lease = await claim_one(one)
    before = store.contents()
    other = store.driver.consumer("w1", lease=15, max_deliveries=3)

    for _ in range(2):
        with pytest.raises(IdTaken, match="'w1' is another worker's") as refused:
            await other.open()
        assert not isinstance(refused.value, Fenced)
    assert store.contents() == before
    await one.open()  # a repetition, as after a lost reply

    assert await settle(one, lease, Ack()) is Reply.OK
    await one.release(refund=True, watch=False)
    await other.open()  # it has left
    await other.aclose()


def known(leases: list[Lease]) -> list[tuple[str, str, int, dict[bytes, bytes]]]:
    return [(lease.job_id, lease.key, lease.deliveries, dict(lease.fields)) for lease in leases]


async def test_what_a_lost_reply_brought_is_recovered_as_it_was_and_nothing_that_is_held(
    store: DriverStore, one: Consumer, two: Consumer, worker: Open
) -> None:
    await push(store, "a", "b", job("c", priority=Priority.HIGH), job("d", priority=Priority.LOW), "e", "f")
    await claim(two, 2)
    await two.release(refund=False, watch=False)
    leases = await claim(one, 5)
    others = await claim(await worker("w3"))
    before = store.contents()

    assert await one.recover(leases) == []
    found_again = await one.recover(leases[1:3])

    assert known(found_again) == known([leases[0], *leases[3:]])
    assert [lease.deliveries for lease in found_again] == [2, 1, 1]
    assert known(await one.recover([])) == known(leases)
    assert known(await one.recover(others)) == known(leases)
    assert store.contents() == before
    assert (await one.exchange([(lease, Ack()) for lease in found_again], None)).replies == [Reply.OK] * 3
    assert known(await one.recover([])) == known(leases[1:3])


async def test_however_much_a_lost_reply_brought_is_recovered(store: DriverStore, one: Consumer) -> None:
    for start in range(0, 1200, 300):
        await push(store, *(str(number) for number in range(start, start + 300)))
    leases = await claim(one, 1200)
    assert ids(await one.recover(leases[:120])) == [str(number) for number in range(120, 1200)]
    assert ids(await one.recover(leases[:1199])) == ["1199"]
    assert ids(await one.recover(leases[1:])) == ["0"]


async def test_however_large_what_a_lost_reply_brought_is_recovered(store: DriverStore, one: Consumer) -> None:
    for number in range(12):
        await store.driver.push(
            [NewJob(f"{number}", ["name", "Work", "parameters", "x" * 300_000])], repeated=False
        )
    assert len(await claim(one, 12)) == 12
    assert ids(await one.recover([])) == [str(number) for number in range(12)]


async def test_the_jobs_of_a_worker_that_is_known_to_be_dead_are_released_by_its_heartbeat_at_once(
    store: DriverStore, one: Consumer, two: Consumer
) -> None:
    await push(store, "a", "b")
    await claim(one)
    heart = Heart(one)

    assert heart.release() == 2

    assert [(lease.job_id, lease.deliveries) for lease in await claim(two)] == [("a", 2), ("b", 2)]
    with pytest.raises(Fenced):
        heart.beat(list, {})
    heart.close()


@pytest.mark.parametrize("refund", [True, False])
async def test_more_than_a_page_of_jobs_is_released(
    store: DriverStore, one: Consumer, two: Consumer, refund: bool
) -> None:
    for start in range(0, 1200, 300):
        await push(store, *(str(number) for number in range(start, start + 300)))
    await claim(one, 1130)
    assert await one.release(refund=refund, watch=False) == 1130
    leases = await claim(two, 1200)
    assert ids(leases) == [str(number) for number in range(1200)]
    assert [lease.deliveries for lease in leases] == [1 if refund else 2] * 1130 + [1] * 70


async def test_no_one_is_told_of_a_cancel_that_came_before_the_job_was_handed_on(
    store: DriverStore, one: Consumer, two: Consumer
) -> None:
    await push(store, "a", "b")
    a, _ = await claim(one)
    await store.driver.change(Cancel("a"))
    await one.release(refund=True, watch=False)
    rows = [await found(store, "a"), *await rows_of(store.driver, State.READY, 1)]
    assert [(row.state, row.cancelling) for row in rows] == [(State.READY, True)] * 2

    leases, ended = await claim_with_ended(two, 5)
    assert (ids(leases), ended) == (["b"], [("a", Reply.CANCELLED)])
    assert beat(two, a, *leases) == []
