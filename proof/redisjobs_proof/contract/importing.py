"""A queue moves to another store: jobs in transit come to a queue, in the state and with all that they had."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from redisjobs.model.changes import Cancel, Ending, GetStatus, Hold, JobStatus, Pause, Requeue, Retain, SetLimit
from redisjobs.model.driver import Consumer
from redisjobs.model.job import State
from redisjobs.model.moving import FindTaken, Import
from redisjobs.model.queries import FindPauses, GroupDead
from redisjobs.model.retention import Keep, Retention
from redisjobs.model.transitions import Ack, At, NewJob, Pushed, Release, Reply, Result
from redisjobs_proof.contract.acts import (
    FAILED,
    LATER,
    PRIORITIES,
    another,
    claim,
    claim_one,
    found,
    ids,
    job,
    listening,
    push,
    rows_of,
    settle,
    until_start,
)
from redisjobs_proof.contract.move_acts import (
    ADDED,
    KNOWN,
    NOW,
    bring,
    in_transit,
    lasting,
    round_trip,
    take,
)
from redisjobs_proof.contract.store import DriverStore

_NEEDS = (Import,)


async def _ready(store: DriverStore, one: Consumer) -> None:
    fields = [*job("a").fields, "headers", '{"trace": "1"}', b"\xff foreign", b"\xff text / \x7f \\ \n"]
    await push(store, NewJob("a", fields, PRIORITIES[0]))


async def _delayed(store: DriverStore, one: Consumer) -> None:
    await push(store, job("a", due=At(NOW + 60_000), priority=PRIORITIES[2], expires_in_ms=90_000))


async def _retried(store: DriverStore, one: Consumer) -> None:
    await push(store, another("a"))
    assert await settle(one, await claim_one(one), LATER) is Reply.OK


async def _released(store: DriverStore, one: Consumer) -> None:
    await push(store, "a")
    assert await settle(one, await claim_one(one), Release()) is Reply.OK


async def _held(store: DriverStore, one: Consumer) -> None:
    await push(store, "a")
    assert await store.driver.change(Hold("a")) is Reply.HELD


async def _held_and_delayed(store: DriverStore, one: Consumer) -> None:
    await push(store, job("a", due=At(NOW + 60_000)))
    assert await store.driver.change(Hold("a")) is Reply.HELD


async def _parked(store: DriverStore, one: Consumer) -> None:
    await store.driver.change(Pause("Work"))
    await push(store, "a")
    assert await claim(one) == []


async def _of_a_limit(store: DriverStore, one: Consumer) -> None:
    await store.driver.change(SetLimit("Work", "max_concurrency=1"))
    await push(store, "running")
    await claim_one(one)
    await push(store, NewJob("a", [*job("a").fields, "limit_key", "joe"]))


async def _with_a_key(store: DriverStore, one: Consumer) -> None:
    await push(store, until_start("a"))


async def _dead(store: DriverStore, one: Consumer) -> None:
    await push(store, job("a", unique="key"))
    assert await settle(one, await claim_one(one), FAILED) is Reply.OK


async def _completed(store: DriverStore, one: Consumer) -> None:
    await store.driver.change(Retain(Retention(completed=Keep(), cancelled=Keep())))
    await push(store, "a")
    assert await settle(one, await claim_one(one), Ack()) is Reply.OK


async def _cancelled(store: DriverStore, one: Consumer) -> None:
    await store.driver.change(Retain(Retention(completed=Keep(), cancelled=Keep())))
    await push(store, "a")
    assert await store.driver.change(Cancel("a")) is Reply.CANCELLED


_STATES = [
    *(_ready, _delayed, _retried, _released, _held, _held_and_delayed, _parked, _of_a_limit, _with_a_key),
    *(_dead, _completed, _cancelled),
]


@pytest.mark.parametrize("bring_about", _STATES)
async def test_a_job_comes_in_the_state_and_with_the_fields_that_it_had(
    bring_about: Callable[[DriverStore, Consumer], Awaitable[None]], store: DriverStore, one: Consumer
) -> None:
    store.clock.set_to = NOW
    await bring_about(store, one)

    before, after = await round_trip(store, "a")

    assert lasting(after) == lasting(before)
    assert after.fields[b"queued_at"] == before.fields.get(b"queued_at", b"%d" % NOW)


async def test_a_job_from_elsewhere_runs_as_one_that_was_pushed(store: DriverStore, one: Consumer) -> None:
    await push(store, job("a", priority=PRIORITIES[2]), job("b", priority=PRIORITIES[0]), "c")
    await take(store, *"abc")
    await push(store, "d")

    assert await bring(store) == [ADDED] * 3

    leases = await claim(one)
    assert ids(leases) == ["b", "d", "c", "a"]
    assert [lease.deliveries for lease in leases] == [1] * 4
    for lease in leases:
        assert await settle(one, lease, Ack()) is Reply.OK


async def test_workers_learn_when_a_delayed_job_from_elsewhere_is_due(store: DriverStore, one: Consumer) -> None:
    store.clock.set_to = NOW
    await push(store, job("a", due=At(NOW + 60_000)))
    await take(store, "a")

    async with listening(store.driver.listen) as heard:
        await bring(store)
        while not [each for each in heard if each.kind == "due"]:
            await store.driver.read(FindTaken())
    assert {each.value for each in heard if each.kind == "due"} == {str(NOW + 60_000)}
    store.clock.set_to = NOW + 60_000
    assert ids(await claim(one)) == ["a"]


async def test_a_held_job_from_elsewhere_does_not_start(store: DriverStore, one: Consumer) -> None:
    await _held(store, one)
    await round_trip(store, "a")

    assert await claim(one) == []
    assert (await store.driver.read(FindPauses())).held == 1


async def test_a_job_comes_once_however_often_and_late_it_is_sent(store: DriverStore, one: Consumer) -> None:
    store.clock.set_to = NOW
    await push(store, *"abc")
    await take(store, *"abc")
    jobs = (await in_transit(store)).jobs
    assert await bring(store, *jobs[:2]) == [ADDED, ADDED]
    for lease in await claim(one):
        assert await settle(one, lease, Ack()) is Reply.OK
    store.clock.set_to += 24 * 3_600_000

    assert await bring(store, *jobs[:2]) == [KNOWN, KNOWN]
    assert await bring(store, *jobs) == [KNOWN, KNOWN, ADDED]
    assert await bring(store, *jobs[:1]) == [KNOWN]
    assert ids(await claim(one)) == ["c"]


async def test_each_source_has_a_line_of_its_own(store: DriverStore, one: Consumer) -> None:
    await push(store, "a")
    await take(store, "a")
    (taken,) = (await in_transit(store)).jobs

    assert await bring(store, replace(taken, place="2"), source="one") == [ADDED]
    assert await bring(store, replace(taken, place="1", job_id="b"), source="two") == [ADDED]
    assert await bring(store, replace(taken, place="1", job_id="c"), source="one") == [KNOWN]


async def test_a_job_whose_id_is_taken_is_refused_until_the_other_has_ended(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, another("a"), "b")
    await take(store, "a", "b")
    jobs = (await in_transit(store)).jobs
    await push(store, another("a", parameters='{"other": 1}'))

    assert await bring(store, *jobs) == [Pushed(Reply.EXISTS), ADDED]
    assert await bring(store, *jobs) == [Pushed(Reply.EXISTS), KNOWN]
    assert (await found(store, "a")).fields[b"parameters"] == b'{"other": 1}'
    await store.driver.change(Cancel("a"))
    assert await bring(store, *jobs) == [ADDED, KNOWN]
    assert await bring(store, *jobs) == [KNOWN, KNOWN]
    assert (await found(store, "a")).fields[b"parameters"] == b"{}"


async def test_a_job_whose_unique_key_is_held_is_refused_until_it_is_free(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, job("a", unique="key"))
    await take(store, "a")
    await push(store, job("holder", unique="key"))

    assert await bring(store) == [Pushed(Reply.DUPLICATE, "holder")]
    await store.driver.change(Cancel("holder"))
    assert await bring(store) == [ADDED]
    assert await push(store, job("next", unique="key")) == [Pushed(Reply.DUPLICATE, "a")]


async def test_a_unique_key_for_a_time_is_held_for_the_rest_of_it(store: DriverStore, one: Consumer) -> None:
    store.clock.set_to = None
    await push(store, job("a", unique="key", unique_for_ms=60_000))
    await take(store, "a")
    (taken,) = (await in_transit(store)).jobs
    assert taken.window_ms is not None
    now_ms = taken.taken_ms
    assert now_ms < taken.window_ms <= now_ms + 60_000

    over = replace(taken, place=taken.place[:-1] + "~", job_id="over", window_ms=now_ms - 1)
    other = replace(taken, job_id="b", fields={**taken.fields, b"id": b"b", b"window": b"other"})
    assert await bring(store, other) == [ADDED]
    assert await push(store, job("c", unique="other")) == [Pushed(Reply.DUPLICATE, "b")]
    gone = {**taken.fields, b"id": b"over", b"window": b"third"}
    assert await bring(store, replace(over, fields=gone)) == [ADDED]
    assert await push(store, job("d", unique="third")) == [ADDED]


async def test_a_dead_letter_from_elsewhere_holds_no_key_has_its_kind_and_can_be_requeued(
    store: DriverStore, one: Consumer
) -> None:
    store.clock.set_to = NOW
    await _dead(store, one)
    await take(store, "a")
    await push(store, job("holder", unique="key"))
    store.clock.set_to = NOW + 60_000
    assert await bring(store) == [ADDED]

    (group,) = (await store.driver.read(GroupDead())).groups
    assert (group.fingerprint, group.count, group.last_ms) == (FAILED.fingerprint, 1, NOW)
    assert await store.driver.change(Requeue("a")) is Reply.DUPLICATE
    assert await store.driver.change(Cancel("holder")) is Reply.CANCELLED
    assert await store.driver.change(Requeue("a")) is Reply.OK
    assert ids(await claim(one)) == ["a"]


async def test_a_kept_job_from_elsewhere_brings_its_result(store: DriverStore, one: Consumer) -> None:
    await store.driver.change(Retain(Retention(completed=Keep())))
    await push(store, "a")
    assert await settle(one, await claim_one(one), Ack(result=Result(60_000, b'{"n": 1}'))) is Reply.OK
    await take(store, "a")
    (taken,) = (await in_transit(store)).jobs
    assert taken.outcome is not None
    other = replace(taken, job_id="b", fields={**taken.fields, b"id": b"b"})

    assert await bring(store, other) == [ADDED]

    (status,) = await store.driver.change(GetStatus(["b"]))
    assert (status.ending, status.value) == (Ending.COMPLETED, b'{"n": 1}')


async def test_an_old_job_from_elsewhere_does_not_replace_the_result_of_a_later_run(
    store: DriverStore, one: Consumer
) -> None:
    await store.driver.change(Retain(Retention(completed=Keep())))
    await push(store, "a")
    assert await settle(one, await claim_one(one), Ack(result=Result(60_000, b"1"))) is Reply.OK
    await take(store, "a")
    (old,) = (await in_transit(store)).jobs
    assert old.outcome is not None
    await push(store, another("a"))
    assert await settle(one, await claim_one(one), Ack(result=Result(90_000, b"2"))) is Reply.OK

    assert await bring(store, old) == [ADDED]
    assert [status.value for status in await store.driver.change(GetStatus(["a"]))] == [b"2"]

    later = replace(old.outcome, until_ms=old.outcome.until_ms + 99_000, status=JobStatus(Ending.CANCELLED))
    assert await bring(store, replace(old, place="~" + old.place[1:], outcome=later)) == [ADDED]
    assert [status.ending for status in await store.driver.change(GetStatus(["a"]))] == [Ending.CANCELLED]


async def test_a_kept_job_leaves_its_id_to_a_job_that_has_not_ended(store: DriverStore, one: Consumer) -> None:
    await _completed(store, one)
    await take(store, "a")
    await push(store, another("a"))

    assert await bring(store) == [ADDED]

    assert (await found(store, "a")).state is State.READY
    assert [row.job_id for row in await rows_of(store.driver, State.COMPLETED)] == ["a"]
    assert ids(await claim(one)) == ["a"]
