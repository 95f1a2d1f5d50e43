"""Follow-ups: a job ends and pushes others, all in one step, or not at all."""

from collections.abc import Sequence
from typing import Any

from redisjobs.model.changes import Cancel
from redisjobs.model.driver import Consumer
from redisjobs.model.job import OnConflict, Priority, State
from redisjobs.model.queries import Count, Find
from redisjobs.model.transitions import (
    MOST_JOBS,
    Ack,
    After,
    Exchange,
    Lease,
    NewJob,
    Release,
    Reply,
    Settlement,
    Turn,
)
from redisjobs_proof.contract.acts import (
    FAILED,
    another,
    claim,
    claim_one,
    found,
    happened,
    ids,
    job,
    push,
    settle,
)
from redisjobs_proof.contract.store import DriverStore


async def finish_with(consumer: Consumer, lease: Lease, *jobs: NewJob, turn: Turn | None = None) -> Exchange:
    """Settle a job as done, and push these jobs with it."""
    return await consumer.exchange([(lease, Ack(pushes=jobs))], None, turn=turn)


def said(answer: Exchange) -> tuple[Sequence[Reply], dict[int, list[bool]]]:
    return [*answer.replies], {at: [*added] for at, added in answer.added.items()}


async def test_jobs_are_pushed_as_the_one_that_pushes_them_ends(store: DriverStore, one: Consumer) -> None:
    store.clock.advance(0)
    await push(store, "parent")
    lease = await claim_one(one)
    options: dict[str, Any] = {"unique": "key", "expires_in_ms": 5000}

    answer = await finish_with(
        one, lease, job("now", priority=Priority.HIGH, **options), job("later", due=After(4000)), job("last")
    )

    assert said(answer) == ([Reply.OK], {0: [True, True, True]})
    assert await store.driver.read(Find("parent")) is None
    assert (await found(store, "later")).due_ms == store.clock() + 4000
    assert (await found(store, "now")).fields[b"expires_at"] == b"%d" % (store.clock() + 5000)
    assert await store.driver.push([job("other", unique="key")], repeated=False) != []
    assert await store.driver.read(Find("other")) is None  # the key is held
    assert ids(await claim(one)) == ["now", "last"]
    counted = happened(await store.driver.read(Count()))
    assert {name: counted[name] for name in ("pushed", "completed")} == {"pushed": 4, "completed": 1}


async def test_two_jobs_push_as_many_as_one_call_takes_each_with_every_option(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, "parent", "other")
    leases = await claim(one, 2)
    options = ["headers", "{}", "keep_result", "1", "limit_key", "key", "unique_until", "start"]
    fields = [*job("").fields, *options]
    pushes = [[NewJob(f"{parent}{n}", fields, unique=f"{parent}{n}") for n in range(MOST_JOBS)] for parent in "ab"]

    pairs = [(lease, Ack(pushes=jobs)) for lease, jobs in zip(leases, pushes, strict=True)]
    answer = await one.exchange(pairs, None)

    assert said(answer) == ([Reply.OK] * 2, {at: [True] * MOST_JOBS for at in range(2)})
    counted = happened(await store.driver.read(Count()))
    assert {name: counted[name] for name in ("pushed", "completed")} == {
        "pushed": 2 + 2 * MOST_JOBS,
        "completed": 2,
    }


async def test_a_worker_that_lost_its_lease_pushes_nothing(
    store: DriverStore, one: Consumer, two: Consumer
) -> None:
    await push(store, "parent")
    lease = await claim_one(one)
    await settle(one, lease, Release(refund=False))
    mine = await claim_one(two)

    assert said(await finish_with(one, lease, job("next"))) == ([Reply.LEASE_LOST], {})
    assert await store.driver.read(Find("next")) is None
    assert said(await finish_with(two, mine, job("next"))) == ([Reply.OK], {0: [True]})
    assert (await found(store, "next")).state is State.READY


async def test_a_settlement_that_is_sent_again_pushes_once_and_is_answered_as_before(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, "parent", "taken")
    leases = {lease.job_id: lease for lease in await claim(one)}
    pushes = [job("next"), another("taken")]
    first = await finish_with(one, leases["parent"], *pushes, turn=Turn(1, 1))
    assert said(first) == ([Reply.OK], {0: [True, False]})
    await store.driver.change(Cancel("next"))

    again = await finish_with(one, leases["parent"], *pushes, turn=Turn(1, 1))

    assert said(again) == said(first)
    assert await store.driver.read(Find("next")) is None


async def test_a_job_whose_id_is_taken_is_not_added_and_the_others_are(store: DriverStore, one: Consumer) -> None:
    await push(store, "parent", "runs", "dead", "ended")
    leases = {lease.job_id: lease for lease in await claim(one)}
    await settle(one, leases["dead"], FAILED)
    await settle(one, leases["ended"], Ack())
    await push(store, "ready", job("delayed", due=After(60_000)))
    pushes = [another(name) for name in ("runs", "dead", "ready", "delayed", "parent", "ended", "new")]

    answer = await finish_with(one, leases["parent"], *pushes)

    assert said(answer) == ([Reply.OK], {0: [False] * 5 + [True] * 2})
    assert sorted(ids(await claim(one))) == ["ended", "new", "ready"]


async def test_a_unique_key_of_another_is_held_and_that_of_the_job_itself_is_free(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, job("parent", unique="mine"), job("other", unique="theirs", due=After(60_000)))
    lease = await claim_one(one)

    answer = await finish_with(one, lease, job("a", unique="theirs"), job("b", unique="mine"), job("c"))

    assert said(answer) == ([Reply.OK], {0: [False, True, True]})
    (held,) = await push(store, job("d", unique="mine"))
    assert (held.reply, held.holder) == (Reply.DUPLICATE, "b")
    for lease in await claim(one):
        await settle(one, lease, Ack())
    assert [answer.reply for answer in await push(store, job("e", unique="mine"))] == [Reply.OK]


async def test_jobs_that_push_and_jobs_that_do_not_are_settled_together(store: DriverStore, one: Consumer) -> None:
    await push(store, *"abcde")
    leases = {lease.job_id: lease for lease in await claim(one)}
    await settle(one, leases["c"], Release())
    leases["c"] = await claim_one(one)  # its second delivery
    settlements: list[tuple[Lease, Settlement]] = [
        (leases["a"], Ack()),
        (leases["b"], Ack(pushes=[job("b1"), job("b2")])),
        (leases["c"], Ack(pushes=[job("c1"), job("b2")])),
        (leases["d"], FAILED),
        (leases["e"], Ack(pushes=[job("e1")])),
    ]

    answer = await one.exchange(settlements, None, turn=Turn(1, 1))

    assert said(answer) == ([Reply.OK] * 5, {1: [True, True], 2: [True, False], 4: [True]})
    assert sorted(ids(await claim(one))) == ["b1", "b2", "c1", "e1"]
    assert (await store.driver.read(Count())).dead == 1


async def test_what_a_job_pushes_can_be_claimed_by_the_same_exchange(store: DriverStore, one: Consumer) -> None:
    await push(store, "parent")
    lease = await claim_one(one)
    await one.exchange([], 0)

    answer = await one.exchange([(lease, Ack(pushes=[job("next")]))], 5, turn=Turn(1, 1))

    assert said(answer) == ([Reply.OK], {0: [True]})
    assert ids([*answer.leases]) == ["next"] or answer.more


async def test_a_chain_of_jobs_each_of_which_pushes_the_next_goes_on_to_its_end(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, "0")
    for step in range(1, 21):
        lease = await claim_one(one)
        assert lease.job_id == str(step - 1)
        await finish_with(one, lease, job(str(step)))

    assert ids(await claim(one)) == ["20"]


async def test_a_key_that_a_job_holds_for_a_time_is_held_from_what_it_pushes(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, job("parent", unique="hourly", unique_for_ms=3_600_000))
    lease = await claim_one(one)

    answer = await finish_with(one, lease, job("a", unique="hourly"), job("b", unique="other"))

    assert said(answer) == ([Reply.OK], {0: [False, True]})
    (held,) = await push(store, job("c", unique="hourly"))
    assert (held.reply, held.holder) == (Reply.DUPLICATE, "parent")


async def test_a_job_does_not_push_another_of_its_own_id(store: DriverStore, one: Consumer) -> None:
    await push(store, "parent")

    answer = await finish_with(one, await claim_one(one), another("parent"), job("next"))

    assert said(answer) == ([Reply.OK], {0: [False, True]})
    assert await store.driver.read(Find("parent")) is None
    assert ids(await claim(one)) == ["next"]


async def test_of_jobs_that_one_pushes_the_later_ones_meet_the_earlier(store: DriverStore, one: Consumer) -> None:
    await push(store, "parent", job("waits", unique="x", due=After(60_000)))
    lease = await claim_one(one)
    replaces = {"on_conflict": OnConflict.REPLACE}
    pushes = [
        job("a", unique="k"),
        another("a"),
        job("b", unique="k"),
        job("c", unique="k", due=After(60_000), **replaces),  # the push of `a` replaces it
        job("d", unique="k", priority=Priority.HIGH, **replaces),
        job("e", unique="x", **replaces),
        job("f", unique="x"),
    ]

    answer = await finish_with(one, lease, *pushes)

    assert said(answer) == ([Reply.OK], {0: [True] + [False] * 6})
    assert ids(await claim(one)) == ["a", "waits"]
    counted = happened(await store.driver.read(Count()))
    assert {name: counted[name] for name in ("pushed", "replaced")} == {"pushed": 3, "replaced": 3}
