"""Children in Postgres: transactions that end those of one group at once, and the order of their locks."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import anyio
import pytest
from postgres_store import Other, PostgresStore
from postgres_store import one as one
from postgres_store import store as store
from store import eventually

from redisjobs.model.changes import Cancel, ChangeMany, Requeue
from redisjobs.model.driver import Consumer
from redisjobs.model.job import State
from redisjobs.model.queries import Find
from redisjobs.model.transitions import Ack, After, Lease, Release, Reply
from redisjobs_proof.contract.acts import FAILED, claim, claim_one, found, push, settle
from redisjobs_proof.contract.awaiting_children import (
    GAVE_1,
    TOKEN,
    adding,
    cancel_children,
    child,
    with_children,
)

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

OTHER_TOKEN = "f" * 24

Act = Callable[[PostgresStore, Consumer, Sequence[Lease]], Coroutine[Any, Any, None]]


async def parent(store: PostgresStore, one: Consumer, total: int) -> None:
    """A job that waits for this many children."""
    await push(store, "a")
    assert await settle(one, await claim_one(one), with_children(total)) is Reply.OK


async def test_the_last_two_children_that_end_at_once_wake_their_parent(
    store: PostgresStore, one: Consumer, other: Other
) -> None:
    await parent(store, one, 2)
    other.begin(Cancel(f"{TOKEN}-0"))

    later = other.change(Cancel(f"{TOKEN}-1"))
    await eventually(other.is_waited_for)
    assert (await found(store, "a")).state is State.SUSPENDED
    other.transaction.commit()

    assert later.result(10) is Reply.CANCELLED
    assert (await found(store, "a")).state is State.READY


async def test_a_parent_that_begins_to_wait_as_its_last_child_ends_is_woken(
    store: PostgresStore, one: Consumer, other: Other
) -> None:
    await push(store, "a")
    lease = await claim_one(one)
    await settle(one, lease, adding(1, child(0)))
    other.begin(Cancel(f"{TOKEN}-0"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(settle, one, lease, with_children(1))
        await eventually(other.is_waited_for)
        other.transaction.commit()

    assert (await found(store, "a")).state is State.READY


@pytest.mark.parametrize(("ends", "reply"), [(True, Reply.INDEPENDENT), (False, Reply.OK)])
async def test_a_dead_child_that_is_requeued_as_the_last_other_one_ends_waits_to_learn_whether_it_has(
    store: PostgresStore, one: Consumer, other: Other, ends: bool, reply: Reply
) -> None:
    await push(store, "a")
    children = child(0), child(1, due=After(9000))
    await settle(one, await claim_one(one), with_children(2, *children))
    dead = await claim_one(one)
    await settle(one, dead, FAILED)
    other.begin(Cancel(f"{TOKEN}-1"))

    later = other.change(Requeue(dead.job_id))
    await eventually(other.is_waited_for)
    if ends:
        other.transaction.commit()
    else:
        other.transaction.rollback()

    assert later.result(10) is reply
    assert (b"child_of" in (await found(store, dead.job_id)).fields) is not ends
    assert (await found(store, "a")).state is (State.READY if ends else State.SUSPENDED)


async def test_nothing_is_left_of_a_parent_that_is_cancelled_as_its_last_child_ends(
    store: PostgresStore, one: Consumer, other: Other
) -> None:
    await parent(store, one, 1)
    other.begin(Cancel("a"))

    later = other.change(Cancel(f"{TOKEN}-0"))
    await eventually(other.is_waited_for)
    other.transaction.commit()
    assert later.result(10) is Reply.CANCELLED
    await cancel_children(store)

    assert await store.driver.read(Find("a")) is None
    for table in ("groups", "children", "cancelling"):
        assert store.rows(f"select token from redisjobs.{table} where queue = %s") == []


async def settle_both(store: PostgresStore, one: Consumer, leases: Sequence[Lease]) -> None:
    await one.exchange([(lease, Ack(result=GAVE_1)) for lease in leases], None)


async def cancel_both(store: PostgresStore, one: Consumer, leases: Sequence[Lease]) -> None:
    for lease in leases:
        await settle(one, lease, Release())
    await store.driver.change(ChangeMany([Cancel(lease.job_id) for lease in leases]))


async def requeue_both(store: PostgresStore, one: Consumer, leases: Sequence[Lease]) -> None:
    await store.driver.change(ChangeMany([Requeue(lease.job_id) for lease in leases]))


@pytest.mark.parametrize("act", [settle_both, cancel_both, requeue_both])  # a requeue of all waits for no group
async def test_a_call_that_waits_for_a_group_has_locked_no_later_one(
    store: PostgresStore, one: Consumer, other: Other, act: Act
) -> None:
    await push(store, "a", "b")
    for lease, token in zip(await claim(one), (OTHER_TOKEN, TOKEN), strict=True):
        children = [child(index, token=token) for index in range(2)]
        await settle(one, lease, with_children(2, *children, token=token))
    leases = (await claim(one))[::2]
    assert [lease.job_id for lease in leases] == [f"{OTHER_TOKEN}-0", f"{TOKEN}-0"]
    if act is requeue_both:
        for lease in leases:
            await settle(one, lease, FAILED)
    assert other.ask("select from redisjobs.groups where queue = %s and token = %s for update", TOKEN)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(act, store, one, leases)
        await eventually(other.is_waited_for)
        unlocked = store.rows("select token from redisjobs.groups where queue = %s for update skip locked")
        other.transaction.rollback()

    assert unlocked == [(OTHER_TOKEN,)]
