"""Pushes of an outbox's rows, which a relay may repeat however late."""

from collections.abc import Sequence

import pytest

from redisjobs.model.driver import Consumer, Driver
from redisjobs.model.queries import Find
from redisjobs.model.relaying import FindRelayed, ForgetRelayed, Relay, Relayed, row_name
from redisjobs.model.transitions import Ack, NewJob, Pushed, Reply
from redisjobs_proof.contract.acts import another, claim, ids, job, push, settle
from redisjobs_proof.contract.store import DriverStore

_NEEDS = (Relay, ForgetRelayed, FindRelayed)
_MINUTE = 60_000
ADDED, KNOWN = Pushed(Reply.OK), Pushed(Reply.REPEATED)


async def read_clock(store: DriverStore) -> float:
    return (await store.driver.change(Relay("o"))).server_ms


async def relay(store: DriverStore, *jobs: NewJob, read_ms: float | None = None, outbox: str = "o") -> Relayed:
    """Relay rows that were read just now, or when the store's clock was at this time."""
    since_ms = await read_clock(store) if read_ms is None else read_ms
    return await store.driver.change(Relay(outbox, jobs, since_ms))


async def finish(consumer: Consumer) -> None:
    """Run all jobs to their end."""
    for lease in await claim(consumer):
        assert await settle(consumer, lease, Ack()) is Reply.OK


async def forget(store: DriverStore, *rows: str) -> None:
    assert await store.driver.change(ForgetRelayed("o", rows)) is Reply.OK


async def remembered(store: DriverStore, older_ms: int = 0, outbox: str = "o") -> Sequence[str]:
    return await store.driver.read(FindRelayed(outbox, older_ms))


async def test_the_clock_is_read_without_a_push(store: DriverStore, driver: Driver) -> None:
    store.clock.set_to = 1_732_438_800_000
    before = store.contents()

    assert await store.driver.change(Relay("o")) == Relayed(1_732_438_800_000, None)
    assert store.contents() == before


async def test_rows_are_pushed_in_order(store: DriverStore, one: Consumer) -> None:
    assert (await relay(store, job("a"), another("b"), job("c"))).pushed == [ADDED] * 3

    assert ids(await claim(one)) == ["a", "b", "c"]


async def test_a_row_that_was_answered_is_not_pushed_again_however_late(store: DriverStore, one: Consumer) -> None:
    rows = [job("a"), another("b")]
    store.clock.set_to = 1_732_438_800_000
    await relay(store, *rows)
    await finish(one)
    store.clock.set_to += 24 * 60 * _MINUTE

    assert (await relay(store, *rows, job("c"))).pushed == [KNOWN, KNOWN, ADDED]


async def test_a_row_that_met_another_job_is_answered_too(store: DriverStore, one: Consumer) -> None:
    row, held = another("a"), job("b", unique="key")
    await push(store, another("a"), job("holder", unique="key"))
    assert (await relay(store, row, held)).pushed == [Pushed(Reply.EXISTS), Pushed(Reply.DUPLICATE, "holder")]
    await finish(one)

    assert (await relay(store, row, held)).pushed == [KNOWN, KNOWN]
    assert await store.driver.read(Find("a")) is None


async def test_a_push_of_rows_that_were_read_long_ago_adds_nothing(store: DriverStore, driver: Driver) -> None:
    store.clock.set_to = 1_732_438_800_000
    read_ms = await read_clock(store)
    store.clock.set_to += _MINUTE
    before = store.contents()

    assert (await relay(store, job("a"), read_ms=read_ms)).pushed is None
    assert store.contents() == before


@pytest.mark.parametrize("made", [job("a"), another("a")])
async def test_after_a_row_was_deleted_a_late_push_of_it_adds_nothing(
    store: DriverStore, one: Consumer, made: NewJob
) -> None:
    """Two relays may have read one row: the first lost its lock of it, and froze."""
    store.clock.set_to = 1_732_438_800_000
    await relay(store, made)
    await finish(one)
    store.clock.set_to += 2 * _MINUTE
    read_ms = await read_clock(store)  # by the one that freezes

    await relay(store, made)
    await forget(store, row_name(made.job_id, made.nonce))
    assert await remembered(store) == []

    for seconds in (0, 5, 60, 600):
        store.clock.set_to += seconds * 1000
        pushed = (await relay(store, made, read_ms=read_ms)).pushed
        assert pushed in ([KNOWN], None)
    assert await store.driver.read(Find("a")) is None


async def test_rows_that_are_remembered_are_found_by_age_until_they_are_forgotten(
    store: DriverStore, driver: Driver
) -> None:
    store.clock.set_to = 1_732_438_800_000
    old, new = another("old"), job("new")
    await relay(store, old)
    store.clock.set_to += _MINUTE
    await relay(store, new)

    assert await remembered(store) == [row_name("old", old.nonce), "new"]
    assert await remembered(store, _MINUTE) == [row_name("old", old.nonce)]

    await forget(store, row_name("old", old.nonce), "new", "unknown")
    assert await remembered(store) == []
    assert {row.job_id for row in [await store.driver.read(Find(each)) for each in ("old", "new")] if row} == {
        "old",
        "new",
    }


async def test_each_outbox_has_a_memory_of_its_own(store: DriverStore, one: Consumer) -> None:
    first, second = another("a"), another("a")
    await relay(store, first, outbox="o")
    await relay(store, second, outbox="other")

    assert await remembered(store, outbox="o") == [row_name("a", first.nonce)]
    assert await remembered(store, outbox="other") == [row_name("a", second.nonce)]


async def test_a_push_of_another_id_or_nonce_is_another_row(store: DriverStore, one: Consumer) -> None:
    first, second = another("a"), another("a")
    await relay(store, first)
    await finish(one)

    assert (await relay(store, first, second)).pushed == [KNOWN, ADDED]
