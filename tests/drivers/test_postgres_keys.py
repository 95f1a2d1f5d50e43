"""Unique keys in Postgres: one job gets a key, and no transaction that stays open stops a worker."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import anyio
import pytest
from postgres_store import Other, PostgresStore
from postgres_store import one as one
from postgres_store import store as store
from store import eventually
from test_postgres_ends import tidy

from redisjobs import JobQueue
from redisjobs.drivers.postgres.working import Floors, exchange
from redisjobs.errors import Unavailable
from redisjobs.model.changes import Cancel, Requeue, RequeueAll
from redisjobs.model.driver import Consumer
from redisjobs.model.job import State
from redisjobs.model.queries import Count, Find
from redisjobs.model.transitions import Ack, NewJob, Pushed, Reply, Result, Settlement
from redisjobs.model.why import Ahead
from redisjobs_proof.contract.acts import (
    FAILED,
    another,
    claim,
    claim_one,
    found,
    ids,
    job,
    newer,
    push,
    rows_of,
    settle,
    until_start,
)

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

OK, REPEATED = Pushed(Reply.OK), Pushed(Reply.REPEATED)
ROWS = "select key, id from redisjobs.uniques where queue = %s"


async def at_the_end_of(other: Other, act: Any, *, commits: bool = True) -> Any:
    """Begin an act that waits for the open transaction, end that one, and return what the act answers."""
    answers: list[Any] = []

    async def do() -> None:
        while not answers:
            try:
                answers.append(await act())
            except Unavailable:  # it does not wait for long
                continue

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(do)
        await eventually(other.is_waited_for)
        (other.transaction.commit if commits else other.transaction.rollback)()
    return answers[0]


async def with_key(store: PostgresStore, key: str = "key") -> list[str]:
    rows = store.rows(
        "select id from redisjobs.jobs where queue = %s and unique_key = %s"
        " and place not in ('dead', 'completed', 'cancelled')",
        key,
    )
    return [job_id for (job_id,) in rows]


# One job gets a key


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("first", ["a push", "a follow-up"])
async def test_of_two_jobs_with_one_key_that_are_pushed_at_once_one_is_added(
    store: PostgresStore, one: Consumer, other: Other, first: str, commits: bool
) -> None:
    await push(store, "parent", "other parent")
    parent, other_parent = await claim(one)
    if first == "a push":
        assert other.push(job("a", unique="key")) == [OK]
    else:
        ack = [(other_parent, Ack(pushes=[job("a", unique="key")]))]
        done = other.run(exchange(Floors(), "w1", None, ack, None, 3, idle=False, now=0))
        assert done.added == {0: [True]}

    pushing = [(parent, Ack(pushes=[job("b", unique="key")]))]
    assert (await one.exchange(pushing, None)).replies == [Reply.BUSY]
    (other.transaction.commit if commits else other.transaction.rollback)()
    done = await one.exchange(pushing, None)

    assert (done.replies, done.added) == ([Reply.OK], {0: [not commits]})
    assert await with_key(store) == ["a" if commits else "b"]
    expected = Pushed(Reply.DUPLICATE, "a" if commits else "b")
    assert await push(store, job("c", unique="key")) == [expected]


@pytest.mark.parametrize("commits", [True, False])
async def test_a_push_waits_for_one_with_its_key_that_is_not_committed(
    store: PostgresStore, other: Other, commits: bool
) -> None:
    other.push(job("a", unique="key"))
    pushed = await at_the_end_of(other, lambda: push(store, job("b", unique="key")), commits=commits)
    assert pushed == [Pushed(Reply.DUPLICATE, "a") if commits else OK]
    assert await with_key(store) == ["a" if commits else "b"]


@pytest.mark.parametrize("commits", [True, False])
async def test_a_requeue_waits_for_a_push_with_the_key_that_is_not_committed(
    store: PostgresStore, one: Consumer, other: Other, commits: bool
) -> None:
    await push(store, job("dead", unique="key"))
    await settle(one, await claim_one(one), FAILED)
    other.push(job("a", unique="key"))

    async def requeue() -> bool:
        return await store.driver.change(Requeue("dead")) is Reply.OK

    assert await at_the_end_of(other, requeue, commits=commits) is not commits
    assert await with_key(store) == ["a" if commits else "dead"]


async def test_a_requeue_of_all_leaves_out_a_letter_whose_key_is_in_an_open_transaction(
    store: PostgresStore, one: Consumer, other: Other
) -> None:
    await push(store, *(job(key, unique=key) for key in "abc"))
    for lease in await claim(one):
        await settle(one, lease, FAILED)
    other.push(job("new", unique="b"))

    begins = await store.driver.change(RequeueAll())
    taken = await store.driver.change(RequeueAll(after=begins.after))
    assert (sorted(taken.job_ids), taken.duplicates) == (["a", "c"], 1)
    other.transaction.rollback()
    assert await store.driver.change(Requeue("b")) is Reply.OK


async def test_keys_are_taken_in_one_order_and_jobs_added_in_that_of_the_push(
    store: PostgresStore, other: Other, one: Consumer
) -> None:
    second = Other(store)
    other.push(job("first", unique="a"))
    pushing = second.push_later(job("z", unique="z"), job("y", unique="a"))
    await eventually(other.is_waited_for)
    other.push(job("x", unique="z"))  # the push that waits has not taken it
    other.transaction.rollback()
    assert pushing.result(5) == [OK, OK]
    second.transaction.commit()
    second.close()
    assert [lease.job_id for lease in await claim(one)] == ["z", "y"]


async def test_of_jobs_that_are_pushed_together_only_those_wait_whose_key_is_taken(
    store: PostgresStore, other: Other, one: Consumer
) -> None:
    other.push(job("first", unique="b"))
    answers: list[Pushed] = []

    async def push_all() -> None:
        answers.extend(await push(store, *(job(key, unique=key) for key in "abc")))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(push_all)
        await eventually(lambda: store.rows("select id from redisjobs.jobs where queue = %s"))
        assert ids(await claim(one)) == ["a", "c"]
        assert answers == []
        other.transaction.rollback()
    assert answers == [OK] * 3
    assert ids(await claim(one)) == ["b"]


async def test_a_push_has_no_lock_for_each_key(store: PostgresStore, other: Other) -> None:
    """All sessions share a table of a few thousand locks."""
    locks = "select count(*) from pg_locks where %s <> '' and pid = pg_backend_pid()"
    other.push(job("a", unique="a"))
    before = other.ask(locks)
    other.push(*(job(f"{number}", unique=f"{number}") for number in range(500)))
    assert other.ask(locks) == before


# What was pushed with a key that is not taken leaves nothing


async def test_a_push_that_adds_nothing_holds_no_key(store: PostgresStore, one: Consumer) -> None:
    await push(store, another("a"), another("done"))
    done = await claim(one)
    await settle(one, done[1], Ack())
    repeated = replace(job("done"), nonce=done[1].nonce.decode(), unique="c")
    pushed = [another("a", unique="b"), newer("a", unique="d", nonce="n"), repeated]
    replies = [answer.reply for answer in await push(store, *pushed)]
    assert replies == [Reply.EXISTS, Reply.EXISTS, Reply.REPEATED]
    assert await store.driver.change(Requeue("a", unique="e")) is Reply.NOT_FOUND
    follow_up = Ack(pushes=[job("f", unique="f")])
    assert await settle(one, done[1], follow_up) is Reply.LEASE_LOST

    assert store.rows(ROWS) == []
    more = [job(key, unique=key) for key in "bcdef"]
    assert await push(store, *more) == [OK] * 5


async def test_a_job_of_the_same_id_that_comes_first_leaves_the_key_free(
    store: PostgresStore, other: Other
) -> None:
    other.push(another("a"))
    pushed = await at_the_end_of(other, lambda: push(store, another("a", unique="key")))
    assert pushed == [Pushed(Reply.EXISTS)]
    assert await push(store, job("b", unique="key")) == [OK]


# A transaction that stays open


ENDINGS: dict[str, Settlement] = {"plain": Ack(), "result": Ack(result=Result(60_000, b"1")), "dead": FAILED}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("commits", [True, False])
async def test_a_job_ends_beside_a_transaction_that_has_taken_its_key_since_it_started(
    store: PostgresStore, one: Consumer, other: Other, ending: str, commits: bool
) -> None:
    await push(store, until_start("a"), "unrelated")
    leases = await claim(one)
    assert other.push(until_start("b")) == [OK]

    with anyio.fail_after(4):
        done = await one.exchange([(leases[0], ENDINGS[ending]), (leases[1], Ack())], None)
    assert done.replies == [Reply.OK, Reply.OK]
    (other.transaction.commit if commits else other.transaction.rollback)()

    expected = Pushed(Reply.DUPLICATE, "b") if commits else OK
    assert await push(store, until_start("c")) == [expected]


async def test_a_cancel_goes_beside_a_transaction_that_has_the_key(store: PostgresStore, other: Other) -> None:
    await push(store, job("a", unique="key"))
    other.ask("select key from redisjobs.uniques where queue = %s for update")
    with anyio.fail_after(4):
        assert await store.driver.change(Cancel("a")) is Reply.CANCELLED
    other.transaction.rollback()
    assert await push(store, job("b", unique="key")) == [OK]


async def test_a_push_that_met_the_key_of_another_job_keeps_no_call_waiting(
    store: PostgresStore, one: Consumer, other: Other
) -> None:
    await push(store, job("a", unique="key"))
    held = Pushed(Reply.DUPLICATE, "a")
    assert other.push(job("b", unique="key"), job("c", unique="key")) == [held, held]
    lease = await claim_one(one)
    with anyio.fail_after(4):
        assert await push(store, job("d", unique="key")) == [held]
        done = await one.exchange([(lease, Ack(pushes=[job("e", unique="key")]))], None)
    assert done.added == {0: [True]}
    assert await with_key(store) == ["e"]


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("pushed", [another("f"), another("g", unique="key")], ids=["id", "key"])
async def test_a_follow_up_whose_key_or_id_an_open_transaction_has_is_added_once_when_that_has_ended(
    store: PostgresStore, one: Consumer, other: Other, pushed: NewJob, commits: bool
) -> None:
    await push(store, "parent", "unrelated")
    parent, unrelated = await claim(one)
    other.push(pushed)
    pushes: Sequence[Any] = [(parent, Ack(pushes=[job("f", unique="key")]))]

    done = await one.exchange([*pushes, (unrelated, Ack())], None)
    assert (done.replies, done.added) == ([Reply.BUSY, Reply.OK], {})
    assert [row.fields[b"id"] for row in await rows_of(store.driver, State.RUNNING)] == [b"parent"]
    (other.transaction.commit if commits else other.transaction.rollback)()

    done = await one.exchange(pushes, None)
    assert (done.replies, done.added) == ([Reply.OK], {0: [not commits]})
    assert [lease.job_id for lease in await claim(one)] == [pushed.job_id if commits else "f"]
    assert (await store.driver.read(Count())).totals["pushed"] == 3


# Keys of jobs that are gone


async def test_a_key_whose_job_is_gone_is_free_and_no_fault_and_tidying_deletes_it(
    store: PostgresStore, one: Consumer, other: Other
) -> None:
    start = replace(until_start("start"), unique="start")
    window = job("window", unique="window", unique_for_ms=60_000)
    await push(store, *(job(key, unique=key) for key in ("key", "b", "c")), window, start)
    leases = await claim(one)
    other.ask("select key from redisjobs.uniques where queue = %s for update")
    for lease in [*leases[:2], leases[3]]:
        assert await settle(one, lease, Ack()) is Reply.OK
    other.transaction.rollback()
    assert len(store.rows(ROWS)) == 5

    assert (await store.driver.read(Ahead(key="key"))).job_id == ""
    assert await push(store, job("d", unique="key")) == [OK]
    async with JobQueue(store.another(), store.queue_name) as queue:
        assert {each.check for each in await queue.control.doctor() if each.check == "unique"} == set()
    await tidy(store)
    rows = [("c", "c"), ("key", "d"), ("start", "start"), ("window", "window")]
    assert store.rows(ROWS) == rows
    await tidy(store)
    assert store.rows(ROWS) == rows


async def test_tidying_looks_at_all_keys_in_steps(store: PostgresStore) -> None:
    store.rows(
        "insert into redisjobs.uniques select %s, 'left' || lpad(number::text, 4, '0'), 'gone'"
        " from generate_series(1, 1500) number returning id"
    )
    await tidy(store)
    assert len(store.rows(ROWS)) == 500
    await push(store, job("a", unique="a"))
    await tidy(store)
    await tidy(store)
    assert store.rows(ROWS) == [("a", "a")]


async def test_tidying_leaves_a_key_that_is_taken_at_that_moment(store: PostgresStore, other: Other) -> None:
    store.rows("insert into redisjobs.uniques values (%s, 'key', 'gone') returning id")
    other.push(job("a", unique="key"))
    with anyio.fail_after(4):
        await tidy(store)
    other.transaction.commit()
    await tidy(store)
    assert store.rows(ROWS) == [("key", "a")]
    assert await push(store, job("b", unique="key")) == [Pushed(Reply.DUPLICATE, "a")]


# A push that is sent again while its first try is not committed


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize(
    "pushed",
    [job("a"), another("a"), job("a", unique="key"), another("a", unique="key")],
    ids=["plain", "with a nonce", "with a key", "with both"],
)
async def test_a_push_that_is_sent_again_beside_its_first_try_is_taken_for_it(
    store: PostgresStore, one: Consumer, other: Other, pushed: NewJob, ends: bool
) -> None:
    pushed = replace(pushed, sent_ms=store.clock())
    assert other.push(pushed) == [OK]
    assert await at_the_end_of(other, lambda: push(store, pushed, repeated=True)) == [REPEATED]
    if ends:
        await settle(one, await claim_one(one), Ack())
    assert await push(store, pushed, repeated=True) == [REPEATED]
    assert len(await claim(one)) == (0 if ends else 1)
    assert (await store.driver.read(Count())).totals["pushed"] == 1


async def test_a_replacing_push_that_is_sent_again_beside_its_first_try_replaces_once(
    store: PostgresStore, other: Other
) -> None:
    await push(store, job("a", unique="key"))
    pushed = replace(newer("b"), sent_ms=store.clock())
    assert other.push(pushed) == [Pushed(Reply.REPLACED, "a")]
    again = await at_the_end_of(other, lambda: push(store, pushed, repeated=True))
    assert again == [Pushed(Reply.REPLACED, "a")]
    assert (await store.driver.read(Count())).totals["replaced"] == 1
    assert (await found(store, "a")).fields[b"parameters"] == b'{"new":true}'
    assert await store.driver.read(Find("b")) is None
