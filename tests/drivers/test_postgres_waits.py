"""Calls in Postgres that meet what another transaction has locked, or is just committing."""

from collections.abc import Callable, Coroutine
from contextlib import closing
from typing import Any

import anyio
import pytest
from postgres_store import Other, PostgresStore
from postgres_store import one as one
from postgres_store import store as store
from postgres_store import two as two
from store import eventually

from redisjobs.drivers.postgres import pushes, working
from redisjobs.errors import Unavailable
from redisjobs.model.changes import Cancel, ChangeMany, Hold, Pause, Resume, Unpark
from redisjobs.model.driver import Beat, Consumer, Fenced
from redisjobs.model.job import OnConflict, Priority
from redisjobs.model.queries import Count
from redisjobs.model.transitions import Ack, Lease, Release, Reply, Result, Settlement, Turn
from redisjobs_proof.contract.acts import FAILED, claim, claim_one, ids, job, newer, push
from redisjobs_proof.contract.acts import settle as settle_one
from redisjobs_proof.contract.limit_acts import claim as claim_limited
from redisjobs_proof.contract.limit_acts import limit, limited, tidy
from redisjobs_proof.contract.limit_acts import push as push_limited

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

Act = Callable[[PostgresStore, Consumer, Consumer, Lease], Coroutine[Any, Any, None]]


# Nothing that has the lock of a queue waits for a transaction that stays open


async def settle(store: PostgresStore, one: Consumer, two: Consumer, lease: Lease) -> None:
    await one.exchange([(lease, Ack())], None)


async def hold(store: PostgresStore, one: Consumer, two: Consumer, lease: Lease) -> None:
    await store.driver.change(Hold(lease.job_id))


async def release(store: PostgresStore, one: Consumer, two: Consumer, lease: Lease) -> None:
    await one.release(refund=True, watch=False)


@pytest.mark.parametrize("act", [settle, hold, release], ids=lambda act: act.__name__)
async def test_a_call_that_meets_a_locked_job_gives_up_soon_and_is_tried_again(
    store: PostgresStore, one: Consumer, two: Consumer, other: Other, act: Act
) -> None:
    await push(store, "a")
    lease = await claim_one(one)
    other.lock("a")

    with anyio.fail_after(2), pytest.raises(Unavailable):
        await act(store, one, two, lease)

    other.transaction.rollback()
    await act(store, one, two, lease)


async def test_changes_of_several_jobs_answer_busy_for_a_locked_one_and_make_the_others(
    store: PostgresStore, other: Other
) -> None:
    await push(store, "a", "b", "c")
    other.lock("b")
    holds = ChangeMany([Hold("a"), Hold("b"), Hold("gone"), Hold("c")])

    with anyio.fail_after(4):
        replies = await store.driver.change(holds)

    assert replies == [Reply.HELD, Reply.BUSY, Reply.NOT_FOUND, Reply.HELD]
    other.transaction.rollback()
    assert await store.driver.change(ChangeMany([Hold("b")])) == [Reply.HELD]


async def test_jobs_that_may_start_again_are_handed_back_though_another_one_is_being_replaced(
    store: PostgresStore, one: Consumer, other: Other
) -> None:
    await push(store, job("a"), job("b", unique="key"), job("c"))
    await store.driver.change(Pause("Work"))
    assert await claim(one) == []
    await store.driver.change(Resume("Work"))
    other.run(pushes.push([newer("b2")], repeated=False, sent_ms=store.clock()))

    assert await store.driver.change(Unpark()) == ""

    assert store.places() == [("a", "returned"), ("b", "parked"), ("c", "returned")]
    other.transaction.rollback()
    await store.driver.change(Unpark())
    assert ids(await claim(one)) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("limit_text", "commits", "order"),
    [
        ("max_concurrency=1", True, "acdb"),
        ("max_concurrency=1", False, "acbd"),
        ("rate=1/s burst=1", True, "acdb"),
        ("rate=1/s burst=1", False, "acbd"),
        ("", True, "acdb"),
        ("", False, "acdb"),
    ],
)
async def test_a_line_goes_on_though_its_first_job_is_being_replaced_which_keeps_its_turn(
    store: PostgresStore, one: Consumer, other: Other, limit_text: str, commits: bool, order: str
) -> None:
    store.clock.set_to = 1_900_000_000_000
    await limit(store.driver, "max_concurrency=1")
    await push_limited(store.driver, "a", limited("b", unique="key"), "c", "d")
    held = await claim_limited(one)
    await limit(store.driver, limit_text)
    replacing = limited("b2", unique="key", on_conflict=OnConflict.REPLACE)
    other.run(pushes.push([replacing], repeated=False, sent_ms=store.clock()))
    started = ids(held)

    for step in range(6):
        store.clock.advance(1)
        held = await claim_limited(one, *((lease, Ack()) for lease in held))
        started += ids(held)
        if step == 0:
            (other.transaction.commit if commits else other.transaction.rollback)()

    assert "".join(started) == order


async def test_a_line_whose_jobs_are_all_being_changed_keeps_its_turn(
    store: PostgresStore, one: Consumer, other: Other
) -> None:
    store.clock.set_to = 1_900_000_000_000
    await limit(store.driver, "max_concurrency=2")
    jobs = [limited(f"{rank}", priority=priority) for rank, priority in enumerate([*Priority] * 2)]
    await push_limited(store.driver, *jobs)
    held = await claim_limited(one)
    assert ids(held) == ["0", "3"]
    for each in "1245":
        other.lock(each)

    assert await claim_limited(one, *((lease, Ack()) for lease in held)) == []

    other.transaction.rollback()
    store.clock.advance(1)
    held = await claim_limited(one)
    assert ids(held) == ["1", "4"]
    assert ids(await claim_limited(one, *((lease, Ack()) for lease in held))) == ["2", "5"]


async def test_a_job_ends_though_the_transaction_that_came_too_late_to_replace_it_stays_open(
    store: PostgresStore, one: Consumer, other: Other
) -> None:
    await push(store, job("a", unique="key"))
    claiming = working.exchange(working.Floors(), "w1", None, [], 1, 3, idle=False, now=0)
    (lease,) = other.run(claiming).leases
    with closing(Other(store)) as user:
        late = user.push_later(newer("b"))
        await eventually(other.is_waited_for)
        other.transaction.commit()
        await anyio.to_thread.run_sync(late.result)

        assert await settle_one(one, lease, Ack()) is Reply.OK
    await tidy(store.driver)  # the key, which the transaction had locked


# A call that is sent again while its first try still commits


@pytest.mark.parametrize("commits", [True, False])
async def test_an_exchange_that_is_sent_again_while_its_first_try_commits_gets_the_same_answer(
    store: PostgresStore, one: Consumer, other: Other, commits: bool
) -> None:
    await push(store, "a", "b")
    leases = await claim(one)
    result = Result(60_000, b"1")
    done: list[tuple[Lease, Settlement]] = [(leases[0], Ack()), (leases[1], Ack(result=result))]
    floors = working.Floors()
    other.run(working.exchange(floors, "w1", Turn(0, 1), done, None, 3, idle=False, now=0))

    replies = list[Reply]()

    async def again() -> None:
        replies.extend((await one.exchange(done, None, turn=Turn(0, 1))).replies)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(again)
        await eventually(other.is_waited_for)
        (other.transaction.commit if commits else other.transaction.rollback)()

    assert replies == [Reply.OK, Reply.OK]
    assert store.places() == []


async def test_the_lanes_of_a_worker_do_not_wait_for_each_other(
    store: PostgresStore, one: Consumer, other: Other
) -> None:
    await push(store, "a", "b")
    first, second = await claim(one)
    floors = working.Floors()
    other.run(working.exchange(floors, "w1", Turn(0, 1), [(first, Ack())], None, 3, idle=False, now=0))

    with anyio.fail_after(2):
        answer = await one.exchange([(second, Ack())], None, turn=Turn(1, 1))

    assert list(answer.replies) == [Reply.OK]
    other.transaction.commit()


async def test_a_beat_that_waits_while_its_worker_is_fenced_does_not_renew_the_lease(
    store: PostgresStore, one: Consumer, two: Consumer, other: Other
) -> None:
    store.age(60)
    (silent,) = [each for each in (await two.reclaim()).silent if each.worker_id == "w1"]
    assert other.run(working.reclaim("w2", [silent], others=False)).fenced == ["w1"]

    answers = list[object]()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, lambda: answers.extend(one.sync.beat(Beat(one, list, {}))))
        await eventually(other.is_waited_for)
        other.transaction.commit()

    (answer,) = answers
    assert isinstance(answer, Fenced)


# What a transaction costs


Before = Callable[[PostgresStore, Consumer], Coroutine[Any, Any, None]]


async def lose(store: PostgresStore, one: Consumer) -> None:
    """Let a job be one that lost workers had three times: the next claim makes it a dead letter."""
    await push(store, "a")
    store.rows(
        "update redisjobs.jobs set place = 'returned', deliveries = 3, was_alone = true"
        " where queue = %s returning id"
    )


async def cancel(store: PostgresStore, one: Consumer) -> None:
    await push(store, "a")
    await claim_one(one)
    await store.driver.change(Cancel("a"))
    store.rows("update redisjobs.jobs set place = 'returned', worker = null where queue = %s returning id")


async def push_one(store: PostgresStore, one: Consumer) -> None:
    await push(store, "a")


@pytest.mark.parametrize(("before", "durable"), [(lose, "on"), (cancel, "on"), (push_one, "off")])
async def test_a_claim_waits_for_the_disk_only_if_it_ended_a_job(
    store: PostgresStore, one: Consumer, other: Other, before: Before, durable: str
) -> None:
    await before(store, one)

    call = working.exchange(working.Floors(), "w1", None, [], 10, 3, idle=True, now=0)
    answer = other.run(call)

    assert (len(answer.ended), len(answer.leases)) == ((1, 0) if durable == "on" else (0, 1))
    assert other.transaction.execute("show synchronous_commit").fetchall() == [(durable,)]
    other.transaction.rollback()


async def test_settlements_of_one_call_take_one_transaction_number(store: PostgresStore, one: Consumer) -> None:
    await push(store, *"abcde")
    leases = await claim(one)

    await one.exchange([(lease, Ack(result=Result(60_000, b"1"))) for lease in leases], None)

    assert len(store.rows("select distinct xmin::text from redisjobs.results where queue = %s")) == 1
    assert len(store.rows("select id from redisjobs.results where queue = %s")) == 5


async def test_a_settlement_that_cannot_be_written_keeps_none_of_the_others_back(
    store: PostgresStore, one: Consumer
) -> None:
    await push(store, *"abcde")
    leases = await claim(one)
    long = job("".join(chr(0x4E00 + number * 37 % 20_000) for number in range(3000)))
    done: list[tuple[Lease, Settlement]] = [
        (leases[0], Ack(result=Result(60_000, b"1"))),
        (leases[1], Ack(pushes=[job("follow-up"), long])),
        (leases[2], FAILED),
        (leases[3], Release()),
        (leases[4], Ack()),
    ]

    answer = await one.exchange(done, None)

    assert list(answer.replies) == [Reply.OK, Reply.OVERSIZED, Reply.OK, Reply.OK, Reply.OK]
    assert store.places() == [("b", "running"), ("c", "dead"), ("d", "returned")]
    counts = (await store.driver.read(Count())).totals
    assert {name: counts[name] for name in ("completed", "dead", "released", "pushed")} == {
        "completed": 2,
        "dead": 1,
        "released": 1,
        "pushed": 5,
    }


# Which server answers


async def test_a_look_for_lost_workers_says_which_server_has_answered(one: Consumer) -> None:
    """So that workers notice when another one answers, which may lack the last beats."""
    server = (await one.reclaim()).server

    assert int(server) > 0
    assert (await one.reclaim()).server == server
