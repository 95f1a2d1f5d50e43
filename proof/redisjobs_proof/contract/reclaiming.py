"""Workers fall silent: others name and fence them, the store refuses their calls, and others run their jobs."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from redisjobs.model.changes import Cancel
from redisjobs.model.driver import Consumer, Fenced, IdTaken
from redisjobs.model.job import Priority, State
from redisjobs.model.queries import Count, Find
from redisjobs.model.transitions import (
    MOST_JOBS,
    Ack,
    After,
    Lease,
    Pushed,
    Reclaimed,
    Release,
    Reply,
    Silent,
    Turn,
)
from redisjobs_proof.contract.acts import (
    AGAIN,
    FAILED,
    LATER,
    PRIORITIES,
    Heart,
    Open,
    beat,
    claim,
    claim_one,
    found,
    happened,
    ids,
    inherit,
    job,
    outlive,
    push,
    settle,
    take_over,
)
from redisjobs_proof.contract.store import DriverStore


async def test_a_job_whose_worker_died_goes_to_another(store: DriverStore, one: Consumer, two: Consumer) -> None:
    await push(store, "a")
    first = await claim_one(one)
    look = await take_over(two)
    assert replace(look, server_ms=0, server="") == Reclaimed([], [])
    assert abs(look.server_ms - store.clock()) < 60_000

    look = await outlive(store, two)
    row = await found(store, "a")
    second = await claim_one(two)

    assert (look.fenced, look.jobs, look.released) == (["w1"], 1, True)
    assert (row.state, row.worker, row.deliveries) == (State.READY, "", 1)
    assert (second.job_id, second.key, second.deliveries) == ("a", first.key, 2)
    row = await found(store, "a")
    assert (row.worker, row.deliveries) == ("w2", 2)
    assert await settle(two, second, Ack()) is Reply.OK


async def test_silent_lost_and_fenced_workers_are_no_part_of_the_fleet_but_others_are_looked_for(
    store: DriverStore, one: Consumer, worker: Open
) -> None:
    def seen(look: Reclaimed) -> tuple[int, bool]:
        return look.workers, look.alone

    assert seen(await one.reclaim()) == (1, True)
    await worker("w2")
    assert seen(await one.reclaim()) == (2, False)
    store.age(8)  # of a lease of 15 s, in which a worker beats three times
    beat(one)
    assert seen(await one.reclaim()) == (1, False)  # the other is silent
    store.age(60)
    beat(one)
    assert seen(await one.reclaim()) == (1, False)  # the other is lost
    assert seen(await take_over(one)) == (1, False)  # and fenced: a late read may still get jobs


async def test_a_worker_that_beats_keeps_its_jobs(store: DriverStore, one: Consumer, two: Consumer) -> None:
    await push(store, "a")
    lease = await claim_one(one)
    store.age(60)

    beat(one, lease)
    beat(two)

    look = await take_over(two)
    assert (look.silent, look.fenced, look.jobs) == ([], [], 0)
    assert await settle(one, lease, Ack()) is Reply.OK  # the delivery count has not changed


async def test_a_worker_that_beats_between_being_named_and_being_fenced_is_spared(
    store: DriverStore, worker: Open
) -> None:
    one, two, three = await worker("w1"), await worker("w2"), await worker("w3")
    await push(store, "a", "b")
    (a,) = await claim(one, 1)
    await claim(two, 1)
    store.age(60)
    beat(three)
    named = (await three.reclaim()).silent
    assert sorted(each.worker_id for each in named) == ["w1", "w2"]
    beat(one)

    look = await three.reclaim(named)

    assert (look.fenced, look.jobs, look.silent) == (["w2"], 1, [])
    assert await settle(one, a, Ack()) is Reply.OK
    assert ids(await claim(three)) == ["b"]


async def test_to_name_who_may_be_lost_does_nothing_to_them(
    store: DriverStore, one: Consumer, two: Consumer
) -> None:
    """The clock may have been set, so only the caller can know which workers are surely lost."""
    store.clock.advance(0)
    await push(store, "a")
    lease = await claim_one(one)
    store.age(60)
    beat(two)
    await two.reclaim()  # now it is the promoter
    before = store.contents()

    for _ in range(3):
        (named,) = (await two.reclaim()).silent
        assert (named.worker_id, named.lease) == ("w1", 15)

    assert store.contents() == before
    assert await settle(one, lease, Ack()) is Reply.OK


@pytest.mark.parametrize(("theirs", "ours"), [(60, 2), (2, 60)])
async def test_a_lease_is_as_long_as_its_own_worker_said_whatever_that_of_the_others_is(
    store: DriverStore, worker: Open, theirs: float, ours: float
) -> None:
    one, two = await worker("w1", lease=theirs), await worker("w2", lease=ours)
    await push(store, "a")
    await claim_one(one)
    beat(one)

    store.age(theirs - 1)
    beat(two)
    assert (await take_over(two)).silent == []
    beat(two)
    store.age(2)
    beat(two)
    (named,) = (await two.reclaim()).silent

    assert (named.worker_id, named.lease) == ("w1", theirs)
    assert (await two.reclaim([named])).fenced == ["w1"]


async def test_the_many_jobs_of_a_dead_worker_are_handed_back_in_bounded_steps(
    store: DriverStore, one: Consumer, two: Consumer
) -> None:
    for start in range(0, 1200, 400):
        await push(store, *(job(str(n), priority=PRIORITIES[n % 3]) for n in range(start, start + 400)))
    assert len(await claim(one, 1200)) == 1200
    store.age(60)
    beat(two)

    looks = [await two.reclaim((await two.reclaim()).silent)]
    while looks[-1].more:
        looks.append(await two.reclaim())

    assert sum(look.jobs for look in looks) == 1200
    assert max(look.jobs for look in looks) <= MOST_JOBS
    assert [look.fenced for look in looks if look.fenced] == [["w1"]]
    leases = await claim(two, 2000)
    ordered = [str(n) for first in range(3) for n in range(first, 1200, 3)]
    assert ids(leases) == ordered
    assert {lease.deliveries for lease in leases} == {2}
    assert (await store.driver.read(Count())).totals["reclaimed"] == 1200


async def test_one_look_finds_an_orphan_behind_hundreds_of_healthy_leases(
    store: DriverStore, worker: Open
) -> None:
    busy, dead, heir = await worker("busy"), await worker("dead"), await worker("heir")
    await push(store, *(f"j{number}" for number in range(301)))
    await claim(busy, 300)
    await claim(dead)

    look = await outlive(store, heir, busy)

    assert (look.fenced, look.jobs, look.more) == (["dead"], 1, look.more)
    assert ids(await claim(heir)) == ["j300"]


async def test_an_orphan_among_many_healthy_workers_is_found_at_once(store: DriverStore, worker: Open) -> None:
    dead, heir = await worker("dead"), await worker("heir")
    await push(store, "orphan")
    await claim(dead)
    store.age(14)
    for number in range(25):
        await worker(f"healthy {number}")
    beat(heir)
    store.age(2)

    look = await take_over(heir)

    assert (look.fenced, look.jobs) == (["dead"], 1)
    assert ids(await claim(heir)) == ["orphan"]


async def test_however_many_workers_died_at_once_all_are_fenced_in_the_end(
    store: DriverStore, worker: Open
) -> None:
    names = [f"dead {number}" for number in range(105)]
    await push(store, *names)
    for name in names:
        assert len(await claim(await worker(name), 1)) == 1
    heir = await worker("heir")
    store.age(60)
    beat(heir)

    looks = [await take_over(heir)]
    while looks[-1].fenced or looks[-1].more:
        looks.append(await take_over(heir))
    assert sorted(worker_id for look in looks for worker_id in look.fenced) == sorted(names)
    assert sum(look.jobs for look in looks) == 105
    assert sorted(ids(await claim(heir, 105))) == sorted(names)


@pytest.mark.parametrize("dead", [1, 25])
async def test_a_beat_from_before_the_clock_was_set_back_does_not_spare_the_dead(
    store: DriverStore, worker: Open, dead: int
) -> None:
    store.clock.advance(0)
    names = [f"dead {number}" for number in range(dead)]
    await push(store, *names)
    for name in names:
        await claim(await worker(name), 1)
    store.clock.advance(-86_400)
    heir = await worker("heir")

    for _ in range(3):  # ten at a time: each call corrects their leases to end when others would
        assert (await heir.reclaim()).silent == []
    jobs = 0
    for _ in range(5):
        store.age(16)
        beat(heir)
        jobs += (await take_over(heir)).jobs

    assert jobs == dead
    assert sorted(ids(await claim(heir, 25))) == sorted(names)


async def test_a_clock_that_was_set_back_spares_who_beats_and_holds_nothing_against_them(
    store: DriverStore, worker: Open
) -> None:
    store.clock.advance(0)
    one, heir = await worker("w1"), await worker("heir")
    await push(store, "a")
    lease = await claim_one(one)
    for seconds in (-86_400, 86_400, 86_400):
        store.clock.advance(seconds)
        beat(one, lease)
        beat(heir)
        look = await take_over(heir)
        assert (look.silent, look.fenced) == ([], [])
    assert await settle(one, lease, Ack()) is Reply.OK


VERBS: dict[str, Callable[[Consumer, Lease], Awaitable[object]]] = {
    "done": lambda worker, lease: worker.exchange([(lease, Ack())], None),
    "done, in a turn": lambda worker, lease: worker.exchange([(lease, Ack())], None, turn=Turn(1, 1)),
    "done, in a turn of before": lambda worker, lease: worker.exchange([(lease, Ack())], None, turn=Turn(2, 3)),
    "cancelled": lambda worker, lease: worker.exchange([(lease, Ack(cancelled=True))], None),
    "retry": lambda worker, lease: worker.exchange([(lease, AGAIN)], None),
    "retry later": lambda worker, lease: worker.exchange([(lease, LATER)], None),
    "fail": lambda worker, lease: worker.exchange([(lease, FAILED)], None),
    "release": lambda worker, lease: worker.exchange([(lease, Release())], None),
    "done, and claim": lambda worker, lease: worker.exchange([(lease, Ack())], 5, turn=Turn(1, 1)),
    "claim": lambda worker, lease: worker.exchange([], 5),
    "promote": lambda worker, lease: worker.exchange([], 0),
    "recover": lambda worker, lease: worker.recover([lease]),
    "name": lambda worker, lease: worker.reclaim(),
    "fence": lambda worker, lease: worker.reclaim([Silent("w3", "1", 15)], others=True),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_a_fenced_worker_is_refused_whole_and_writes_nothing(
    store: DriverStore, worker: Open, verb: str
) -> None:
    one, two, silent = await worker("w1"), await worker("w2"), await worker("w3")
    await push(store, job("a", unique="key"), "b")
    lease, other = await claim(one)
    await one.exchange([(other, Ack())], None, turn=Turn(2, 3))
    await outlive(store, two, silent)
    store.age(60)
    beat(two)
    await push(store, job("due", due=After(1000)))
    store.clock.advance(2)
    before = store.contents()

    for _ in range(2):
        with pytest.raises(Fenced) as refused:
            await VERBS[verb](one, lease)
        assert refused.value.worker_id == "w1"

    assert store.contents() == before
    assert ids(await claim(two)) == ["a", "due"]


async def test_a_fenced_worker_does_not_come_to_life_by_a_beat(
    store: DriverStore, one: Consumer, two: Consumer
) -> None:
    await push(store, "a")
    lease = await claim_one(one)
    await store.driver.change(Cancel("a"))
    await outlive(store, two)
    before = store.contents()

    with pytest.raises(Fenced) as refused:
        beat(one, lease)

    assert refused.value.worker_id == "w1"
    assert store.contents() == before


async def test_a_worker_that_never_joined_is_refused(store: DriverStore, worker: Open) -> None:
    await worker("w1")
    await push(store, "a")
    before = store.contents()
    unknown = store.driver.consumer("unknown", lease=15, max_deliveries=3)

    with pytest.raises(Fenced):
        await unknown.exchange([], 5)
    with pytest.raises(Fenced):
        beat(unknown)

    await unknown.aclose()
    assert store.contents() == before


async def test_a_fenced_worker_goes_on_under_a_new_id_and_holds_nothing(
    store: DriverStore, one: Consumer, two: Consumer
) -> None:
    await push(store, "a", "b")
    a, _ = await claim(one)
    heart = Heart(one)
    await outlive(store, two)
    with pytest.raises(IdTaken):
        await one.open()  # under the same id it would find jobs that others hold by now

    await one.open("w1 again")

    assert one.worker_id == "w1 again"
    assert await one.recover([]) == []
    assert await settle(one, a, Release()) is Reply.LEASE_LOST
    store.age(60)
    beat(two)
    assert list(heart.beat(list, {})) == []  # under its new id
    assert (await take_over(two)).fenced == []
    assert ids(await claim(one)) == ["a", "b"]
    heart.close()


@pytest.mark.parametrize("nonce", ["", "0123456789abcdef"])
async def test_a_cancelled_job_is_not_handed_out_again_after_its_worker_died(
    store: DriverStore, one: Consumer, two: Consumer, nonce: str
) -> None:
    await push(store, job("a", unique="key", nonce=nonce))
    await claim_one(one)
    await store.driver.change(Cancel("a"))

    assert await inherit(store, two) == []

    assert await store.driver.read(Find("a")) is None
    assert await push(store, job("a", nonce=nonce), repeated=True) == [Pushed(Reply.REPEATED)]
    assert await push(store, job("b", unique="key")) == [Pushed(Reply.OK)]
    counts = await store.driver.read(Count())
    assert (counts.ready[Priority.NORMAL], counts.running) == (1, 0)
    assert happened(counts) == {"pushed": 2, "reclaimed": 1, "cancelled": 1}


async def test_a_worker_that_released_all_is_one_no_longer(
    store: DriverStore, one: Consumer, two: Consumer
) -> None:
    await push(store, "a")
    lease = await claim_one(one)
    await one.release(refund=True, watch=False)

    with pytest.raises(Fenced):
        await settle(one, lease, Ack())
    with pytest.raises(Fenced):
        beat(one)
    assert (await outlive(store, two)).fenced == []


async def test_a_delivery_handed_back_does_not_hide_an_earlier_crash(
    store: DriverStore, one: Consumer, two: Consumer, worker: Open
) -> None:
    await push(store, "a")
    await claim_one(one)
    assert [lease.deliveries for lease in await inherit(store, two)] == [2]

    await two.release(refund=True, watch=False)

    assert (await claim_one(await worker("w3"))).deliveries == 2
