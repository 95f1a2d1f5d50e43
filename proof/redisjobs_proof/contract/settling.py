"""Settlements: a job is done, retried, released or a dead letter. Only its holder can settle it, and only once."""

from typing import Any

import pytest

from redisjobs.errors import DriverError
from redisjobs.model.changes import Cancel
from redisjobs.model.driver import Consumer, Fenced
from redisjobs.model.job import Priority, State
from redisjobs.model.queries import Count, Find
from redisjobs.model.transitions import (
    Ack,
    After,
    At,
    Due,
    Lease,
    NewJob,
    Release,
    Reply,
    RetryLater,
    Settlement,
    Turn,
)
from redisjobs_proof.contract.acts import (
    AGAIN,
    FAILED,
    LATER,
    Open,
    Slots,
    claim,
    claim_one,
    found,
    ids,
    job,
    push,
    rows_of,
    settle,
    texts,
)
from redisjobs_proof.contract.store import DriverStore


async def test_a_job_due_now_or_in_the_past_is_ready_at_once(store: DriverStore, one: Consumer) -> None:
    store.clock.advance(0)
    now = At(store.clock())
    await push(store, job("a", due=At(1)), job("b", due=After(0)), job("c", due=now))
    assert [row.job_id for row in await rows_of(store.driver, State.READY, 9)] == ["a", "b", "c"]
    leases = await claim(one)
    dues: list[Due] = [At(1), After(0), now]
    again = [(lease, RetryLater(due)) for lease, due in zip(leases, dues, strict=True)]
    assert (await one.exchange(again, None)).replies == [Reply.OK] * 3
    assert [row.job_id for row in await rows_of(store.driver, State.READY, 9)] == ["a", "b", "c"]


async def test_jobs_with_one_due_time_keep_the_order_in_which_they_came(store: DriverStore, one: Consumer) -> None:
    store.clock.advance(0)
    due = At(store.clock() + 5000)
    names = [f"{n * 7919 % 1000:03} {n}" for n in range(60)]  # neither order of names is the order of pushes
    for start in range(0, 40, 20):
        await push(store, *[job(name, due=due) for name in names[start : start + 20]])
        store.clock.advance(0.001)
    await push(store, *[job(name, priority=Priority.NORMAL) for name in names[40:]])
    late = await claim(one, 50)
    later = [(lease, RetryLater(due)) for lease in late]
    assert set((await one.exchange(later, None)).replies) == {Reply.OK}
    store.clock.advance(6)

    assert [row.job_id for row in await rows_of(store.driver, State.DELAYED, 100)] == names
    assert ids(await claim(one, 100)) == names


async def test_a_retried_job_waits_in_line_again_with_its_fields_changed(
    store: DriverStore, one: Consumer
) -> None:
    fields = ["name", "Work", "parameters", "", "headers", "{}", "error", "old"]
    await push(store, NewJob("a", fields), "b")
    first, other = await claim(one)

    changes = {"attempt": "2", "error": "ValueError: no", "headers": "", "more": "é"}
    assert await settle(one, first, RetryLater(After(0), changes)) is Reply.OK
    second = await claim_one(one)

    assert (second.job_id, second.deliveries) == ("a", 1)
    assert second.token != first.token
    queued_at = str(first.queued_ms)
    kept = {"id": "a", "name": "Work", "parameters": "", "queued_at": queued_at}
    found = texts(second.fields)
    assert found.pop("history").split(" ", 1)[1] == "failed w1 1 ValueError: no"
    assert found == kept | {"attempt": "2", "error": "ValueError: no", "more": "é"}
    assert await settle(one, other, Ack()) is Reply.OK


async def test_a_retried_job_keeps_its_id_priority_and_time_of_push(store: DriverStore, one: Consumer) -> None:
    store.clock.advance(1)  # not before the server's own clock, which makes entry ids
    await push(store, job("a", priority=Priority.LOW))
    first = await claim_one(one)
    for settlement in (LATER, RetryLater(At(store.clock() + 9000)), AGAIN):
        lease = first if settlement is LATER else await claim_one(one)
        assert await settle(one, lease, settlement) is Reply.OK
        store.clock.advance(5)

    last = await claim_one(one)
    assert (last.job_id, (await found(store, "a")).priority) == ("a", Priority.LOW)
    assert last.fields[b"queued_at"].decode() == str(first.queued_ms)


@pytest.mark.parametrize("absolute", [False, True])
async def test_a_retry_with_a_delay_waits_until_it_is_due(
    store: DriverStore, one: Consumer, absolute: bool
) -> None:
    await push(store, "a")
    store.clock.advance(0)
    due_ms = store.clock() + 5000
    lease = await claim_one(one)

    assert await settle(one, lease, RetryLater(At(due_ms) if absolute else After(5000))) is Reply.OK

    row = await found(store, "a")
    assert (row.state, row.due_ms, row.deliveries, row.key) == (State.DELAYED, due_ms, 0, "")
    assert (await one.exchange([], 10)).due_in == 5.0
    store.clock.advance(5)
    assert ids(await claim(one)) == ["a"]


async def test_a_released_job_keeps_its_place_and_its_delivery_is_refunded(
    store: DriverStore, one: Consumer, two: Consumer
) -> None:
    await push(store, "a", "b", "c", job("urgent", priority=Priority.HIGH))
    urgent, _, b = await claim(one, 3)

    assert await settle(one, b, Release()) is Reply.OK
    await settle(one, urgent, Release())

    assert (await found(store, "b")).state is State.READY
    assert [(lease.job_id, lease.deliveries) for lease in await claim(two)] == [("urgent", 1), ("b", 1), ("c", 1)]


async def test_no_more_released_jobs_are_claimed_than_asked_for_whatever_their_priority(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, *[job(f"{priority} {n}", priority=priority) for n in range(3) for priority in Priority])
    for lease in await claim(one, 9):
        await settle(one, lease, Release())
    await push(store, "new")

    assert ids(await claim(one, 4)) == ["high 0", "high 1", "high 2", "normal 0"]
    assert ids(await claim(one, 9)) == ["normal 1", "normal 2", "new", "low 0", "low 1", "low 2"]


async def test_a_failed_job_is_a_dead_letter_with_its_fields_and_the_notes(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, NewJob("a", ["name", "Work", "parameters", '{"n":1}', "attempt", "4"], Priority.HIGH))
    store.clock.advance(1)
    lease = await claim_one(one)

    assert await settle(one, lease, FAILED) is Reply.OK

    row = await found(store, "a")
    kept = {"id": "a", "name": "Work", "parameters": '{"n":1}', "attempt": "4", "priority": "high"}
    notes = {"reason": "failed", "error": "ValueError: no", "traceback": "the traceback", "worker": "w1"}
    notes |= {"error_type": "ValueError", "fingerprint": "0123456789ab"}
    times = {"queued_at": str(lease.queued_ms), "failed_at": str(store.clock()), "deliveries": "1"}
    known = texts(row.fields)
    assert int(known.pop("ran_ms")) >= 0
    assert known == kept | notes | times
    assert (row.state, row.priority) == (State.DEAD, Priority.HIGH)
    assert await claim(one) == []


async def claimed_again(store: DriverStore, one: Consumer, two: Consumer, lease: Lease) -> Lease:
    """The same worker holds the job by a later delivery, so the handler of the earlier one does not count."""
    assert await settle(one, lease, Release(refund=False)) is Reply.OK
    assert (await claim_one(one)).deliveries == lease.deliveries + 1
    return lease


async def released(store: DriverStore, one: Consumer, two: Consumer, lease: Lease) -> Lease:
    assert await settle(one, lease, Release()) is Reply.OK
    return lease


async def handed_on(store: DriverStore, one: Consumer, two: Consumer, lease: Lease) -> Lease:
    """The delivery count is the same; only the worker differs."""
    await settle(one, lease, Release())
    assert (await claim_one(two)).deliveries == lease.deliveries
    return lease


async def settled(store: DriverStore, one: Consumer, two: Consumer, lease: Lease) -> Lease:
    assert await settle(one, lease, Ack()) is Reply.OK
    return lease


async def retried(store: DriverStore, one: Consumer, two: Consumer, lease: Lease) -> Lease:
    assert await settle(one, lease, AGAIN) is Reply.OK
    return lease


async def retried_and_claimed(store: DriverStore, one: Consumer, two: Consumer, lease: Lease) -> Lease:
    """The worker and the delivery count are the same; only the attempt differs."""
    assert await settle(one, lease, AGAIN) is Reply.OK
    assert (await claim_one(one)).deliveries == lease.deliveries
    return lease


@pytest.mark.parametrize(
    ("lose", "settlement"),
    [
        (lose, settlement)
        for lose in (claimed_again, released, handed_on, settled, retried, retried_and_claimed)
        for settlement in (Ack(), Ack(cancelled=True), AGAIN, LATER, FAILED, Release(), Release(refund=False))
    ],
)
async def test_a_worker_that_lost_its_lease_writes_nothing(
    store: DriverStore, one: Consumer, two: Consumer, lose: Any, settlement: Settlement
) -> None:
    await push(store, job("a", unique="key"))
    lease = await lose(store, one, two, await claim_one(one))
    before = store.contents()

    assert await settle(one, lease, settlement) is Reply.LEASE_LOST

    assert store.contents() == before


async def test_each_job_of_a_batch_gets_its_own_word(store: DriverStore, one: Consumer) -> None:
    settlements: list[Settlement] = [Ack(), FAILED, LATER, AGAIN, Release()]
    await push(store, *(job(f"{kind} {number}") for number in range(5) for kind in ("lost", "held")))
    leases = await claim(one)
    lost, held = leases[::2], leases[1::2]
    await one.exchange([(lease, AGAIN) for lease in lost], None)

    mixed = [(lease, settlements[number // 2]) for number, lease in enumerate(leases)]
    replies = (await one.exchange(mixed, None)).replies

    assert replies == [Reply.LEASE_LOST, Reply.OK] * 5
    states = [(await store.driver.read(Find(lease.job_id))) for lease in (*held, *lost)]
    expected = [None, State.DEAD, State.DELAYED, State.READY, State.READY, *[State.READY] * 5]
    assert [row and row.state for row in states] == expected


@pytest.mark.parametrize("off", ["cancelling", "lost"])
@pytest.mark.parametrize("settlement", [Ack(), AGAIN, LATER, FAILED, Release(), Ack(cancelled=True)])
async def test_a_batch_with_one_job_that_is_not_as_it_should_be_settles_the_others(
    store: DriverStore, one: Consumer, off: str, settlement: Settlement
) -> None:
    await push(store, *[job(f"{priority} {n}", priority=priority) for n in range(3) for priority in Priority])
    leases = await claim(one, 20)
    odd = leases[4]
    if off == "cancelling":
        assert await store.driver.change(Cancel(odd.job_id)) is Reply.CANCELLING
        reply = Reply.CANCELLED if isinstance(settlement, RetryLater | Release) else Reply.OK
    else:
        assert await settle(one, odd, AGAIN) is Reply.OK
        reply = Reply.LEASE_LOST

    answer = await one.exchange([(lease, settlement if lease is odd else Ack()) for lease in leases], None)

    assert answer.replies == [reply if lease is odd else Reply.OK for lease in leases]
    for lease in leases:
        if lease is not odd:
            assert await store.driver.read(Find(lease.job_id)) is None
    done = [lease for lease in leases if lease is not odd or (settlement == Ack() and reply is Reply.OK)]
    assert (await store.driver.read(Count())).totals["completed"] == len(done)


@pytest.mark.parametrize(
    "settlement", [Ack(), Ack(cancelled=True), AGAIN, LATER, FAILED, Release(), Release(refund=False)]
)
@pytest.mark.parametrize("others", [0, 2])
async def test_an_exchange_that_is_sent_again_is_answered_as_before_and_not_applied_twice(
    store: DriverStore, one: Consumer, settlement: Settlement, others: int
) -> None:
    store.clock.advance(0)
    await push(store, "lost", job("a", unique="key"), *(f"other {number}" for number in range(others)))
    lost, lease, *rest = await claim(one)
    assert await settle(one, lost, Ack()) is Reply.OK
    batch = [(lease, settlement), *((each, Ack()) for each in rest), *([(lost, settlement)] if others else [])]

    first = await one.exchange(batch, None, turn=Turn(1, 7))
    before = store.contents()
    second = await one.exchange(batch, None, turn=Turn(1, 7))

    assert first.replies == [Reply.OK] * (1 + others) + ([Reply.LEASE_LOST] if others else [])
    assert second.replies == first.replies
    assert store.contents() == before


@pytest.mark.parametrize("refund", [True, False])
async def test_a_release_that_is_sent_again_leaves_its_job_to_the_worker_that_claimed_it_since(
    store: DriverStore, one: Consumer, refund: bool
) -> None:
    """Even if it is the same worker, whose later lease may look like the earlier one."""
    await push(store, "a")
    batch = [(await claim_one(one), Release(refund=refund))]
    assert (await one.exchange(batch, None, turn=Turn(1, 1))).replies == [Reply.OK]
    later = await claim_one(one)
    assert later.deliveries == (1 if refund else 2)
    before = store.contents()

    assert (await one.exchange(batch, None, turn=Turn(1, 1))).replies == [Reply.OK]

    assert store.contents() == before
    assert await settle(one, later, Ack()) is Reply.OK


async def test_what_an_exchange_claims_is_claimed_once_more_when_it_is_sent_again(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, "a", "b", "c")
    batch = [((await one.exchange([], 1)).leases[0], Ack())]

    first = await one.exchange(batch, 1, turn=Turn(1, 1))
    second = await one.exchange(batch, 1, turn=Turn(1, 1))

    assert (first.replies, second.replies) == ([Reply.OK], [Reply.OK])
    assert (ids(list(first.leases)), ids(list(second.leases))) == (["b"], ["c"])


async def test_an_exchange_that_comes_after_a_later_one_is_refused(store: DriverStore, one: Consumer) -> None:
    await push(store, "a", "b", "c", "d")
    a, b, c, d = await claim(one)
    await one.exchange([(a, Ack())], None, turn=Turn(1, 8))
    before = store.contents()

    with pytest.raises(DriverError, match="nothing was written") as refused:
        await one.exchange([(b, Ack())], None, turn=Turn(1, 7))

    assert not isinstance(refused.value, Fenced)
    assert store.contents() == before
    assert (await one.exchange([(b, Ack())], None, turn=Turn(2, 1))).replies == [Reply.OK]  # another lane
    assert (await one.exchange([(c, Ack())], None, turn=Turn(1, 9))).replies == [Reply.OK]
    assert (await one.exchange([(d, Ack())], None)).replies == [Reply.OK]  # no turn: it is never sent again


async def test_what_settles_nothing_has_no_turn_to_keep(store: DriverStore, one: Consumer) -> None:
    await push(store, "a", "b")
    claimed = [(await one.exchange([], 1, turn=Turn(1, number))).leases[0] for number in (3, 2)]

    assert ids(claimed) == ["a", "b"]
    assert (await one.exchange([(claimed[0], Ack())], None, turn=Turn(1, 1))).replies == [Reply.OK]


async def test_what_was_handed_back_is_passed_by_one_exchange_at_most(
    store: DriverStore, one: Consumer, two: Consumer
) -> None:
    await push(store, "a", "b", "c", "d")
    a = await claim(two, 1)
    assert ids(list((await one.exchange([], 1)).leases)) == ["b"]
    await settle(two, a[0], Release())

    next_two = [ids(list((await one.exchange([], 1)).leases)) for _ in range(2)]

    assert sorted(next_two) == [["a"], ["c"]]


async def test_no_job_starts_before_one_of_higher_priority_that_was_handed_back(
    store: DriverStore, worker: Open
) -> None:
    slots, other = Slots(await worker()), await worker()
    await push(store, *(job(f"normal {number}") for number in range(4)))
    assert await slots.claim(1) == ["normal 0"]
    await push(store, job("high", priority=Priority.HIGH))
    (lease,) = await claim(other, 1)
    assert lease.job_id == "high"
    await other.exchange([(lease, Release())], None)
    while len(slots.started) < 3:
        await slots.claim(1)

    assert slots.started == ["normal 0", "high", "normal 1"]
