"""What an operator asks of a worker, which its next heartbeat learns."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from redisjobs.model.changes import AskWorker, Cancel, Wish
from redisjobs.model.driver import Consumer, Notification
from redisjobs.model.info import STOPPING, WorkerInfo, worker_infos
from redisjobs.model.queries import FindWorkers
from redisjobs.model.transitions import Reply
from redisjobs_proof.contract.acts import Heart, beat, claim, eventually, listening, outlive, push
from redisjobs_proof.contract.store import DriverStore

_NEEDS = (AskWorker, FindWorkers)


@pytest.fixture
def heart(one: Consumer) -> Iterator[Heart]:
    """The heartbeats of worker `w1`."""
    with closing(Heart(one)) as heart:
        yield heart


async def ask(store: DriverStore, wish: Wish, worker_id: str = "w1") -> Reply:
    return await store.driver.change(AskWorker(worker_id, wish))


async def seen(store: DriverStore, worker_id: str = "w1") -> WorkerInfo:
    (info,) = (
        info for info in worker_infos([await store.driver.read(FindWorkers())]) if info.worker_id == worker_id
    )
    return info


async def test_each_beat_says_what_an_operator_asked_last_of_this_worker(
    store: DriverStore, heart: Heart, two: Consumer
) -> None:
    heart.beat(list, {})
    assert heart.wish is None

    for wish in (Wish.QUIET, Wish.QUIET, Wish.RESUME, Wish.STOP):
        assert await ask(store, wish) is Reply.OK
        for _ in range(2):
            heart.beat(list, {})
            assert heart.wish is wish
    with closing(Heart(two)) as other:
        other.beat(list, {})
        assert other.wish is None


async def test_a_wish_comes_with_the_jobs_that_are_to_be_cancelled(
    store: DriverStore, one: Consumer, heart: Heart
) -> None:
    await push(store, "a")
    leases = await claim(one)
    await store.driver.change(Cancel("a"))
    await ask(store, Wish.QUIET)

    assert [lease.job_id for lease in heart.beat(lambda: leases, {})] == ["a"]
    assert heart.wish is Wish.QUIET


async def test_a_worker_that_stops_can_only_be_asked_to_stop(
    store: DriverStore, heart: Heart, two: Consumer
) -> None:
    await ask(store, Wish.STOP)

    assert [await ask(store, wish) for wish in (Wish.QUIET, Wish.RESUME)] == [Reply.STOPPING] * 2
    assert await ask(store, Wish.STOP) is Reply.OK
    heart.beat(list, {})
    assert heart.wish is Wish.STOP

    with closing(Heart(two)) as other:  # it stops for a reason of its own
        other.beat(list, {"state": STOPPING})
        assert await ask(store, Wish.QUIET, "w2") is Reply.STOPPING
        other.beat(list, {})
        assert other.wish is None


async def test_nothing_is_asked_of_a_worker_that_is_unknown_or_fenced_and_a_new_id_begins_without_a_wish(
    store: DriverStore, one: Consumer, two: Consumer
) -> None:
    await ask(store, Wish.QUIET)
    await outlive(store, two)
    before = store.contents()

    assert await ask(store, Wish.STOP) is Reply.NOT_FOUND
    assert await ask(store, Wish.STOP, "never") is Reply.NOT_FOUND
    assert store.contents() == before

    await one.open("w1 again")
    with closing(Heart(one)) as again:
        again.beat(list, {})
        assert again.wish is None


async def test_an_operator_sees_what_a_worker_was_asked_and_what_it_does(
    store: DriverStore, one: Consumer
) -> None:
    async def looks(state: str | None = None) -> tuple[bool, bool]:
        if state is not None:
            with closing(Heart(one)) as heart:
                heart.beat(list, {"state": state})
        info = await seen(store)
        return info.quiet, info.stopping

    assert await looks() == await looks("") == (False, False)
    assert await looks("quiet") == (True, False)  # as a worker that was asked under an earlier id
    await ask(store, Wish.RESUME)
    assert await looks() == await looks("") == (False, False)
    await ask(store, Wish.QUIET)
    assert await looks() == await looks("quiet") == (True, False)
    assert await looks(STOPPING) == (False, True)  # as after a SIGTERM
    await ask(store, Wish.STOP)
    assert await looks() == await looks("quiet") == (False, True)


async def test_a_wish_is_told_to_the_workers_at_once(store: DriverStore, one: Consumer) -> None:
    beat(one)
    async with listening(one.listen) as heard:
        await ask(store, Wish.QUIET)
        await ask(store, Wish.QUIET, "never")
        await ask(store, Wish.STOP)
        await eventually(lambda: len(heard) == 3)

    assert heard[1:] == [Notification("wish", "w1")] * 2
