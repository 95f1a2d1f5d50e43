"""Children: the step that suspends their parent adds them, each once, and the end of the last one wakes it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from redisjobs.model.changes import Cancel, Delete, Ending, GetStatus, Requeue, RequeueAll
from redisjobs.model.children import CancelChildren, ChildOutcome, ChildrenFound, ChildState, FindChildren
from redisjobs.model.driver import Consumer
from redisjobs.model.history import past_events
from redisjobs.model.job import Priority, State
from redisjobs.model.queries import Find
from redisjobs.model.steps import How, Saved, Steps
from redisjobs.model.transitions import (
    MOST_JOBS,
    Ack,
    AddChildren,
    After,
    DeadLetter,
    Group,
    Lease,
    NewJob,
    Release,
    Reply,
    Result,
    SaveStep,
    Settlement,
    Suspend,
    Turn,
    Wait,
    WaitsFor,
)
from redisjobs_proof.contract.acts import (
    FAILED,
    another,
    claim,
    claim_one,
    found,
    ids,
    inherit,
    job,
    push,
    saved,
    settle,
    texts,
)
from redisjobs_proof.contract.store import DriverStore

_NEEDS = (FindChildren, CancelChildren)

TOKEN = "0123456789abcdef01234567"
GAVE_1 = Result(0, b"1")


def child(index: int, job_id: str = "", token: str = TOKEN, **options: Any) -> NewJob:
    fields: Sequence[str] = ["name", "Work", "parameters", "{}", "parent", "a", "child_of", f"{token} {index}"]
    return NewJob(job_id or f"{token}-{index}", fields, **options)


def with_children(
    total: int, *children: NewJob, key: str = "render", number: int = 1, token: str = TOKEN
) -> Suspend:
    wait = Wait(number, WaitsFor.CHILDREN, key)
    return Suspend(wait, group=Group(token, key, total), pushes=children or [*map(child, range(total))], version=2)


def adding(total: int, *children: NewJob, key: str = "render", token: str = TOKEN) -> AddChildren:
    return AddChildren(Group(token, key, total), children, 2)


async def parent(store: DriverStore, consumer: Consumer, settlement: Suspend | None = None) -> Lease:
    """Push a job and claim it; with a settlement, suspend it."""
    store.clock.advance(0)
    await push(store, "a")
    lease = await claim_one(consumer)
    if settlement is not None:
        assert await settle(consumer, lease, settlement) is Reply.OK
    return lease


async def outcomes(store: DriverStore, token: str = TOKEN) -> ChildrenFound:
    return await store.driver.read(FindChildren(token))


async def cancel_children(store: DriverStore) -> None:
    while await store.driver.change(CancelChildren()):
        pass


async def test_the_step_that_suspends_a_parent_adds_its_children(store: DriverStore, one: Consumer) -> None:
    lease = await parent(store, one)
    children = [child(0), child(1, priority=Priority.HIGH), child(2, due=After(1000)), child(3, "named")]

    answer = await one.exchange([(lease, with_children(4, *children))], None)

    assert (answer.replies, [*answer.added[0]]) == ([Reply.OK], [True] * 4)
    row = await found(store, "a")
    assert (row.state, row.due_ms) == (State.SUSPENDED, None)
    assert texts(row.fields)["waits"] == "1 children render"
    pending = ChildOutcome(ChildState.PENDING)
    assert await outcomes(store) == ChildrenFound("a", 4, 4, [pending] * 4, "render")
    assert [each.job_id for each in (await outcomes(store)).outcomes] == ["", "", "", "named"]
    assert await store.driver.read(FindChildren(TOKEN, 3, 1)) == ChildrenFound("a", 4, 4, [pending], "render")
    assert await store.driver.read(FindChildren(TOKEN, most=0)) == ChildrenFound("a", 4, 4, [], "render")
    assert await saved(store) == Steps(version=2, groups={"render": TOKEN})
    assert ids(await claim(one)) == [f"{TOKEN}-1", f"{TOKEN}-0", "named"]
    assert (await found(store, f"{TOKEN}-2")).state is State.DELAYED
    assert texts((await found(store, "named")).fields)["child_of"] == f"{TOKEN} 3"


async def test_the_end_of_the_last_child_wakes_the_parent_with_the_outcomes_of_all(
    store: DriverStore, one: Consumer
) -> None:
    await parent(store, one, with_children(6))
    leases = await claim(one)
    gone = leases.pop()
    await settle(one, gone, Release())
    assert await store.driver.change(Cancel(gone.job_id)) is Reply.CANCELLED
    settlements: list[Settlement] = [
        Ack(result=Result(0, b'{"n": 12345678901234567890}')),
        Ack(result=Result(60_000, b'"kept"')),
        Ack(result=Result(0, refused="too large")),
        FAILED,
        Ack(cancelled=True),
    ]

    for lease, settlement in list(zip(leases, settlements, strict=True))[:-1]:
        assert await settle(one, lease, settlement) is Reply.OK
    assert (await found(store, "a")).state is State.SUSPENDED
    assert (await outcomes(store)).left == 1
    assert await settle(one, leases[-1], settlements[-1]) is Reply.OK

    assert (await found(store, "a")).state is State.READY
    assert await outcomes(store) == ChildrenFound(
        "a",
        6,
        0,
        [
            ChildOutcome(ChildState.COMPLETED, b'{"n": 12345678901234567890}'),
            ChildOutcome(ChildState.COMPLETED, b'"kept"'),
            ChildOutcome(ChildState.REFUSED, error="too large"),
            ChildOutcome(ChildState.DEAD, error="ValueError: no", error_type="ValueError", reason="failed"),
            ChildOutcome(ChildState.CANCELLED),
            ChildOutcome(ChildState.CANCELLED),
        ],
        "render",
    )
    lease = await claim_one(one)
    assert (lease.job_id, lease.fields[b"steps"], lease.deliveries) == ("a", b"1", 1)
    assert (await saved(store)).saved == {
        "render": Saved(1, store.clock(), How.CHILDREN, TOKEN.encode()),
    }


@pytest.mark.parametrize(
    ("end", "state"), [(Ack(cancelled=True), ChildState.CANCELLED), (Ack(), ChildState.COMPLETED)]
)
@pytest.mark.parametrize("reported", [False, True])
async def test_a_child_that_ends_without_a_result_has_ended(
    store: DriverStore, one: Consumer, end: Ack, state: ChildState, reported: bool
) -> None:
    await parent(store, one, with_children(1))

    assert await settle(one, await claim_one(one), replace(end, reported=reported)) is Reply.OK

    assert (await outcomes(store)).outcomes == [ChildOutcome(state)]
    assert (await found(store, "a")).state is State.READY


async def test_a_step_that_has_added_all_its_children_before_adds_none(store: DriverStore, one: Consumer) -> None:
    lease = await parent(store, one)
    await settle(one, lease, adding(1, child(0)))

    wait = Wait(1, WaitsFor.CHILDREN, "render")
    assert await settle(one, lease, Suspend(wait, group=Group(TOKEN, "render", 1))) is Reply.OK

    assert ids(await claim(one)) == [f"{TOKEN}-0"]


async def test_all_children_of_a_batch_end_in_one_exchange(store: DriverStore, one: Consumer) -> None:
    await parent(store, one, with_children(20))

    replies = (await one.exchange([(lease, Ack(result=GAVE_1)) for lease in await claim(one, 30)], None)).replies

    assert replies == [Reply.OK] * 20
    assert ids(await claim(one)) == ["a"]


@pytest.mark.parametrize("reason", ["failed", "expired", "undecodable", "unknown name"])
async def test_a_child_that_is_dead_for_any_reason_has_ended(
    store: DriverStore, one: Consumer, reason: str
) -> None:
    await parent(store, one, with_children(1))

    assert await settle(one, await claim_one(one), DeadLetter(reason, "why")) is Reply.OK

    assert (await outcomes(store)).outcomes == [ChildOutcome(ChildState.DEAD, error="why", reason=reason)]
    assert (await found(store, "a")).state is State.READY


async def test_so_has_one_whose_workers_die(store: DriverStore, one: Consumer, two: Consumer) -> None:
    await parent(store, one, with_children(1))
    await claim_one(one)
    await inherit(store, two)
    await settle(two, (await two.recover([]))[0], Release(refund=False))
    lease = (await claim(two, idle=True))[0]
    await settle(two, lease, Release(refund=False))

    while (await found(store, "a")).state is State.SUSPENDED:
        await two.exchange([], 5, idle=True)

    (outcome,) = (await outcomes(store)).outcomes
    assert outcome.state is ChildState.DEAD
    assert "may kill its workers" in outcome.error


async def test_children_are_added_once_however_often_the_step_is_begun(
    store: DriverStore, one: Consumer, two: Consumer
) -> None:
    lease = await parent(store, one)
    assert await settle(one, lease, adding(4, child(0), child(1, "named"))) is Reply.OK
    assert (await found(store, "a")).state is State.RUNNING
    for each in await claim(one):
        await settle(one, each, Ack(result=GAVE_1))
    (lease,) = await inherit(store, two)
    assert (await saved(store)).groups == {"render": TOKEN}

    again = [child(0), child(1, "named"), child(2), child(3, "other")]
    answer = await two.exchange([(lease, with_children(4, *again))], None)

    assert [*answer.added[0]] == [False, False, True, True]
    assert (await outcomes(store)).left == 2
    for each in await claim(two):
        await settle(two, each, Ack(result=GAVE_1))
    assert ids(await claim(two)) == ["a"]


async def test_an_exchange_that_adds_children_and_is_sent_again_is_answered_as_before(
    store: DriverStore, one: Consumer
) -> None:
    batch = [(await parent(store, one), with_children(3))]
    first = await one.exchange(batch, None, turn=Turn(1, 1))
    before = store.contents()

    again = await one.exchange(batch, None, turn=Turn(1, 1))

    assert (again.replies, dict(again.added)) == (first.replies, dict(first.added))
    assert store.contents() == before


async def test_a_worker_that_lost_the_parent_adds_no_children(
    store: DriverStore, one: Consumer, two: Consumer
) -> None:
    lost = await parent(store, one)
    await settle(one, lost, Release())
    await claim_one(two)
    before = store.contents()

    assert await settle(one, lost, adding(1, child(0))) is Reply.LEASE_LOST
    assert await settle(one, lost, with_children(1)) is Reply.LEASE_LOST

    assert store.contents() == before


async def test_a_parent_whose_children_have_ended_by_then_goes_on_at_once(
    store: DriverStore, one: Consumer
) -> None:
    lease = await parent(store, one)
    await settle(one, lease, adding(2, child(0), child(1)))
    for each in await claim(one):
        await settle(one, each, Ack(result=GAVE_1))

    assert await settle(one, lease, with_children(2)) is Reply.OK

    assert (await found(store, "a")).state is State.READY
    assert (await saved(store)).saved["render"].how is How.CHILDREN


async def test_a_child_whose_id_or_key_another_job_has_is_not_added_which_is_its_outcome(
    store: DriverStore, one: Consumer
) -> None:
    lease = await parent(store, one)
    await push(store, another("taken"), job("holder", unique="key"))

    children = [child(0, "taken"), child(1, unique="key"), child(2, unique="free"), child(3, unique="free")]
    answer = await one.exchange([(lease, with_children(4, *children))], None)

    assert [*answer.added[0]] == [False, False, True, False]
    assert (await outcomes(store)).outcomes == [
        ChildOutcome(ChildState.EXISTS, error="taken"),
        ChildOutcome(ChildState.DUPLICATE, error="holder"),
        ChildOutcome(ChildState.PENDING),
        ChildOutcome(ChildState.DUPLICATE, error=f"{TOKEN}-2"),
    ]
    assert (await found(store, "a")).state is State.SUSPENDED
    assert b"child_of" not in (await found(store, "taken")).fields


async def test_of_two_children_with_one_id_the_second_is_not_added(store: DriverStore, one: Consumer) -> None:
    lease = await parent(store, one)

    answer = await one.exchange([(lease, with_children(2, child(0, "twin"), child(1, "twin")))], None)

    assert [*answer.added[0]] == [True, False]
    twin = await claim_one(one)
    assert texts(twin.fields)["child_of"] == f"{TOKEN} 0"
    await settle(one, twin, Ack(result=GAVE_1))
    assert (await outcomes(store)).outcomes == [
        ChildOutcome(ChildState.COMPLETED, b"1"),
        ChildOutcome(ChildState.EXISTS, error="twin"),
    ]
    assert ids(await claim(one)) == ["a"]


async def test_a_child_under_an_id_of_its_own_leaves_nothing_of_an_earlier_job_of_that_id(
    store: DriverStore, one: Consumer
) -> None:
    lease = await parent(store, one)
    await push(store, another("named"))
    await settle(one, await claim_one(one), Ack(result=Result(60_000, b'"old"')))

    assert await settle(one, lease, with_children(1, child(0, "named"))) is Reply.OK
    await settle(one, await claim_one(one), Ack(result=GAVE_1))

    (status,) = await store.driver.change(GetStatus(["named"]))
    assert status.ending is Ending.NOT_FOUND


async def test_a_parent_all_of_whose_children_are_refused_goes_on_at_once(
    store: DriverStore, one: Consumer
) -> None:
    lease = await parent(store, one)
    await push(store, another("taken"))

    assert await settle(one, lease, with_children(1, child(0, "taken"))) is Reply.OK

    assert (await found(store, "a")).state is State.READY


async def test_the_outcomes_of_many_children_are_read_in_bounded_steps(store: DriverStore, one: Consumer) -> None:
    lease = await parent(store, one)
    await settle(one, lease, adding(MOST_JOBS + 5, *map(child, range(MOST_JOBS))))
    assert (
        await settle(one, lease, with_children(MOST_JOBS + 5, *map(child, range(MOST_JOBS, MOST_JOBS + 5))))
        is Reply.OK
    )
    large = {3: b'"%b"' % (b"x" * 600_000), 4: b'"%b"' % (b"y" * 600_000)}
    done = 0
    while leases := await claim(one, 100):
        results = [large.get(int(each.job_id.rpartition("-")[2]), b"%d" % done) for each in leases]
        await one.exchange(
            [(each, Ack(result=Result(0, value))) for each, value in zip(leases, results, strict=True)], None
        )
        done += len(leases)
        if done == MOST_JOBS + 5:
            break

    read = list[ChildOutcome]()
    while len(read) < MOST_JOBS + 5:
        page = await store.driver.read(FindChildren(TOKEN, len(read), 300))
        assert 0 < len(page.outcomes) <= 300
        read += page.outcomes

    assert {each.state for each in read} == {ChildState.COMPLETED}
    assert (read[3].value, read[4].value) == (large[3], large[4])
    assert ids(await claim(one)) == ["a"]


async def test_a_group_goes_when_its_parent_ends(store: DriverStore, one: Consumer) -> None:
    await parent(store, one, with_children(1))
    await settle(one, await claim_one(one), Ack(result=GAVE_1))

    assert await settle(one, await claim_one(one), Ack(stepped=True)) is Reply.OK

    assert await outcomes(store) == ChildrenFound("")
    assert await saved(store) == Steps()


async def test_a_dead_letter_keeps_the_outcomes_of_its_children(store: DriverStore, one: Consumer) -> None:
    await parent(store, one, with_children(1))
    await settle(one, await claim_one(one), Ack(result=GAVE_1))
    await settle(one, await claim_one(one), FAILED)
    assert (await outcomes(store)).parent == "a"

    assert await store.driver.change(Requeue("a")) is Reply.OK
    assert (await outcomes(store)).outcomes == [ChildOutcome(ChildState.COMPLETED, b"1")]

    await settle(one, await claim_one(one), FAILED)
    assert await store.driver.change(Delete("a")) is Reply.OK
    assert await outcomes(store) == ChildrenFound("")


async def test_a_parent_that_is_requeued_from_before_its_children_runs_others(
    store: DriverStore, one: Consumer
) -> None:
    lease = await parent(store, one)
    await settle(one, lease, SaveStep("charge", 1, b"1"))
    await settle(one, lease, with_children(2, child(0), child(1), number=2))
    first, second = await claim(one)
    await settle(one, first, FAILED)
    await settle(one, second, FAILED)
    await settle(one, await claim_one(one), FAILED)

    assert await store.driver.change(Requeue("a", from_step="render")) is Reply.OK

    steps = await saved(store)
    assert (list(steps.saved), dict(steps.groups)) == (["charge"], {})
    assert await outcomes(store) == ChildrenFound("")
    other = "f" * 24
    fresh = with_children(1, child(0, token=other), token=other, number=2)
    assert await settle(one, await claim_one(one), fresh) is Reply.OK
    assert ids(await claim(one)) == [f"{other}-0"]


async def test_a_dead_child_that_is_requeued_while_its_parent_waits_is_its_child_still(
    store: DriverStore, one: Consumer
) -> None:
    await parent(store, one, with_children(2))
    first, second = await claim(one)
    await settle(one, first, FAILED)

    assert await store.driver.change(Requeue(first.job_id)) is Reply.OK
    assert "independent" not in (await found(store, first.job_id)).history
    assert (await outcomes(store)).left == 2
    await settle(one, second, Ack(result=GAVE_1))
    assert (await found(store, "a")).state is State.SUSPENDED
    await settle(one, await claim_one(one), Ack(result=Result(0, b"2")))

    assert (await outcomes(store)).outcomes == [
        ChildOutcome(ChildState.COMPLETED, b"2"),
        ChildOutcome(ChildState.COMPLETED, b"1"),
    ]
    assert ids(await claim(one)) == ["a"]


@pytest.mark.parametrize("is_named", [True, False])
@pytest.mark.parametrize("ends", [False, True])
async def test_one_that_is_requeued_after_its_parent_went_on_is_a_job_by_itself_and_says_so(
    store: DriverStore, one: Consumer, ends: bool, is_named: bool
) -> None:
    await parent(store, one, with_children(1))
    dead = await claim_one(one)
    await settle(one, dead, FAILED)
    lease = await claim_one(one)
    if ends:
        await settle(one, lease, Ack(stepped=True))

    if is_named:
        assert await store.driver.change(Requeue(dead.job_id)) is Reply.INDEPENDENT
    else:
        after = (await store.driver.change(RequeueAll())).after
        assert (await store.driver.change(RequeueAll(after=after))).job_ids == [dead.job_id]

    events = past_events((await found(store, dead.job_id)).history)
    assert [event.what for event in events] == ["died", "requeued", "independent"]
    again = await claim_one(one)
    assert b"child_of" not in again.fields
    assert again.fields[b"parent"] == b"a"
    before = await outcomes(store)
    assert await settle(one, again, Ack(result=GAVE_1)) is Reply.OK
    assert await outcomes(store) == before


async def test_the_cancel_of_a_parent_goes_down_to_its_children_that_have_not_ended(
    store: DriverStore, one: Consumer
) -> None:
    await parent(store, one, with_children(4, child(0), child(1), child(2, due=After(9000)), child(3, "named")))
    done, running = await claim(one, 2)
    await settle(one, done, Ack(result=GAVE_1))

    assert await store.driver.change(Cancel("a")) is Reply.CANCELLED
    await cancel_children(store)

    assert await store.driver.read(Find("a")) is None
    assert (await found(store, running.job_id)).cancelling
    for gone in (f"{TOKEN}-2", "named"):
        assert await store.driver.read(Find(gone)) is None
    assert await settle(one, running, Release()) is Reply.CANCELLED
    assert await outcomes(store) == ChildrenFound("")


async def test_it_goes_down_to_their_children_in_turn(store: DriverStore, one: Consumer) -> None:
    other = "e" * 24
    await parent(store, one, with_children(1))
    lease = await claim_one(one)
    await settle(one, lease, with_children(2, child(0, token=other), child(1, token=other), token=other))

    assert await store.driver.change(Cancel("a")) is Reply.CANCELLED
    await cancel_children(store)

    for gone in ("a", f"{TOKEN}-0", f"{other}-0", f"{other}-1"):
        assert await store.driver.read(Find(gone)) is None
    assert await outcomes(store) == await outcomes(store, other) == ChildrenFound("")
    assert not await store.driver.change(CancelChildren())


async def test_a_running_parent_that_was_cancelled_adds_no_more_children_as_it_waits(
    store: DriverStore, one: Consumer
) -> None:
    lease = await parent(store, one)
    await settle(one, lease, adding(2, child(0)))
    assert await store.driver.change(Cancel("a")) is Reply.CANCELLING

    assert await settle(one, lease, with_children(2, child(1))) is Reply.CANCELLED
    await cancel_children(store)

    assert await claim(one) == []
    assert await outcomes(store) == ChildrenFound("")


@pytest.mark.parametrize("cancels", [False, True])
async def test_a_dead_letter_leaves_its_children_running_or_cancels_them(
    store: DriverStore, one: Consumer, cancels: bool
) -> None:
    lease = await parent(store, one)
    await settle(one, lease, adding(2, child(0), child(1)))

    assert await settle(one, lease, DeadLetter("failed", "no", cancels=cancels)) is Reply.OK
    await cancel_children(store)

    assert len(await claim(one)) == (0 if cancels else 2)
    if cancels:
        assert (await outcomes(store)).outcomes == [ChildOutcome(ChildState.CANCELLED)] * 2


async def test_a_parent_that_was_requeued_and_is_cancelled_takes_all_its_children_along(
    store: DriverStore, one: Consumer
) -> None:
    lease = await parent(store, one)
    await settle(one, lease, adding(150, *map(child, range(150))))
    dead, running = await claim(one, 2)
    await settle(one, dead, FAILED)
    await settle(one, lease, DeadLetter("failed", "no", cancels=True))
    await cancel_children(store)
    assert (await outcomes(store)).left == 1

    assert await store.driver.change(Requeue(dead.job_id)) is Reply.OK
    assert await store.driver.change(Requeue("a")) is Reply.OK
    assert await store.driver.change(Cancel("a")) is Reply.CANCELLED
    await cancel_children(store)

    assert await claim(one) == []
    assert await settle(one, running, Release()) is Reply.CANCELLED
    assert await outcomes(store) == ChildrenFound("")


async def test_a_child_can_have_children_and_each_wakes_its_own_parent(store: DriverStore, one: Consumer) -> None:
    other = "e" * 24
    await parent(store, one, with_children(1))
    await settle(one, await claim_one(one), with_children(1, child(0, token=other), token=other))
    assert await settle(one, await claim_one(one), Ack(result=Result(0, b'"deep"'))) is Reply.OK

    middle = await claim_one(one)
    assert middle.job_id == f"{TOKEN}-0"
    assert (await outcomes(store, other)).outcomes == [ChildOutcome(ChildState.COMPLETED, b'"deep"')]
    assert await settle(one, middle, Ack(result=Result(0, b'"middle"'), stepped=True)) is Reply.OK

    assert (await claim_one(one)).job_id == "a"
    assert (await outcomes(store)).outcomes == [ChildOutcome(ChildState.COMPLETED, b'"middle"')]
