"""Chunks that a job emits while it runs: readers get each once, in order, and learn what is not kept."""

from collections.abc import Sequence

import pytest

from redisjobs.model.changes import Cancel, Delete, GetStatus, Requeue
from redisjobs.model.chunks import Chunks, GetChunks, StoredChunk
from redisjobs.model.driver import Consumer
from redisjobs.model.emissions import LARGEST_CHUNK, MOST_CHUNKS, ChunkKind, EmitChunks, NewChunk
from redisjobs.model.transitions import (
    Ack,
    Lease,
    Release,
    Reply,
    ReportProgress,
    Result,
    SaveStep,
    Settlement,
    Turn,
)
from redisjobs_proof.contract.acts import AGAIN, FAILED, another, claim, claim_one, push, settle
from redisjobs_proof.contract.awaiting import HOUR, kept, told, until_told
from redisjobs_proof.contract.limit_acts import LIMITS, limit, limited
from redisjobs_proof.contract.needs import needs
from redisjobs_proof.contract.store import DriverStore

_NEEDS = (GetChunks,)


def byte_chunks(*texts: bytes, wait: int | None = None) -> EmitChunks:
    """Chunks of bytes."""
    return EmitChunks([NewChunk(ChunkKind.BYTES, text) for text in texts], wait)


def number_chunks(first: int, last: int, wait: int | None = None) -> EmitChunks:
    """A chunk of JSON for each of these numbers."""
    many = range(first, last + 1)
    return EmitChunks([NewChunk(ChunkKind.JSON, str(number).encode()) for number in many], wait)


async def chunk_page(store: DriverStore, after: str = "", job_id: str = "a") -> Chunks:
    """One answer to a reader."""
    return await store.driver.read(GetChunks(job_id, after))


async def stored_chunks(store: DriverStore, after: str = "", job_id: str = "a") -> list[StoredChunk]:
    """All chunks behind an id, in as many steps as it takes."""
    found: list[StoredChunk] = []
    while True:
        some = await chunk_page(store, after, job_id)
        assert not some.lost
        found += some.chunks
        if not some.more:
            return found
        after = found[-1].id


async def emitted(store: DriverStore, after: str = "", job_id: str = "a") -> list[bytes]:
    """The data of these chunks."""
    return [chunk.data for chunk in await stored_chunks(store, after, job_id)]


async def emit_chunks(consumer: Consumer, lease: Lease, *emitted: EmitChunks) -> Sequence[Reply]:
    """Emit chunks in one exchange."""
    return (await consumer.exchange([(lease, each) for each in emitted], None)).replies


async def test_chunks_come_in_order_each_with_an_id_to_go_on_from(store: DriverStore, one: Consumer) -> None:
    await push(store, "a", "b")
    a, b = await claim(one)
    tricky = [b"", b"\x00\xff\r\n", "é\u2028".encode()]

    assert await emit_chunks(one, a, byte_chunks(*tricky, wait=0), number_chunks(1, 3)) == [Reply.OK] * 2
    assert await settle(one, b, byte_chunks(b"other", wait=0)) is Reply.OK
    assert await settle(one, a, byte_chunks(b"last")) is Reply.OK

    found = await stored_chunks(store)
    assert [chunk.data for chunk in found] == [*tricky, b"1", b"2", b"3", b"last"]
    assert [chunk.kind for chunk in found] == ["bytes"] * 3 + ["json"] * 3 + ["bytes"]
    assert {chunk.run for chunk in found} == {1}
    assert len({chunk.id for chunk in found}) == 7
    for at, chunk in enumerate(found):
        assert await stored_chunks(store, chunk.id) == found[at + 1 :]
    assert await emitted(store, job_id="b") == [b"other"]
    assert not (await chunk_page(store, job_id="none")).chunks


async def test_processes_that_wait_for_the_job_are_told_of_its_chunks(store: DriverStore, one: Consumer) -> None:
    await push(store, "a")
    lease = await claim_one(one)
    async with told(store) as heard:
        await store.driver.change(GetStatus(["a"], "me"))
        await settle(one, lease, byte_chunks(b"1", wait=0))
        await until_told(heard)
        await settle(one, lease, byte_chunks(b"2"))
        await until_told(heard, 2)
        await settle(one, lease, Ack(reported=True))
        await until_told(heard, 3)

    assert heard == ["changed a"] * 3


async def test_a_worker_that_lost_the_job_emits_nothing(store: DriverStore, one: Consumer, two: Consumer) -> None:
    await push(store, "a")
    lost = await claim_one(one)
    await settle(one, lost, Release())
    await claim_one(two)

    assert await settle(one, lost, byte_chunks(b"1", wait=0)) is Reply.LEASE_LOST

    assert not (await chunk_page(store)).chunks


async def test_an_exchange_with_chunks_that_is_sent_again_doubles_none(store: DriverStore, one: Consumer) -> None:
    await push(store, "a", "b")
    a, b = await claim(one)
    batch: list[tuple[Lease, Settlement]] = [
        (b, Ack()),
        (a, byte_chunks(b"1", b"2", wait=0)),
        (a, byte_chunks(b"3")),
    ]

    first = await one.exchange(batch, None, turn=Turn(1, 1))
    again = await one.exchange(batch, None, turn=Turn(1, 1))

    assert first.replies == again.replies == [Reply.OK] * 3
    assert await emitted(store) == [b"1", b"2", b"3"]


async def test_a_run_that_starts_over_has_the_next_number_and_one_that_goes_on_after_a_wait_has_not(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, "a")
    runs = [(0, "begins"), (0, "starts over"), (3, "goes on after a wait"), (3, "starts over from that wait")]
    for wait, what in [*runs, (7, "goes on after another"), (0, "requeued without steps, say")]:
        lease = await claim_one(one)
        await emit_chunks(one, lease, byte_chunks(what.encode(), wait=wait), byte_chunks(b"more"))
        await settle(one, lease, Release(refund=True))

    assert [chunk.run for chunk in await stored_chunks(store)][::2] == [1, 2, 2, 3, 3, 4]
    assert [chunk.run for chunk in await stored_chunks(store)][1::2] == [1, 2, 2, 3, 3, 4]


async def test_a_reader_gets_many_chunks_in_several_answers(store: DriverStore, one: Consumer) -> None:
    await push(store, "a")
    lease = await claim_one(one)
    for first in range(1, 2501, 500):
        await settle(one, lease, number_chunks(first, first + 499, wait=0 if first == 1 else None))

    some = await chunk_page(store)

    assert some.more
    assert 100 <= len(some.chunks) <= 1000
    assert await emitted(store) == [str(number).encode() for number in range(1, 2501)]


async def test_a_reader_gets_large_chunks_in_answers_of_about_a_megabyte(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, "a")
    lease = await claim_one(one)
    large = [bytes([number]) * LARGEST_CHUNK for number in range(10)]
    for each in large:
        await settle(one, lease, byte_chunks(each))

    some = await chunk_page(store)

    assert some.more
    assert 1 <= len(some.chunks) <= 5
    assert await emitted(store) == large


async def test_only_the_newest_chunks_are_kept_and_a_reader_learns_how_many_it_has_lost(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, "a")
    lease = await claim_one(one)
    await settle(one, lease, number_chunks(1, 1000, wait=0))
    second = (await stored_chunks(store))[1]
    for first in range(1001, MOST_CHUNKS + 1, 1000):
        await settle(one, lease, number_chunks(first, first + 999))
    assert len(await stored_chunks(store)) == MOST_CHUNKS

    await settle(one, lease, number_chunks(MOST_CHUNKS + 1, MOST_CHUNKS + 5))

    behind, from_start = await chunk_page(store, second.id), await chunk_page(store)
    assert (behind.lost, from_start.lost) == (3, 5)
    assert not behind.chunks
    kept = await stored_chunks(store, behind.after)
    assert [chunk.data for chunk in kept] == [str(number).encode() for number in range(6, MOST_CHUNKS + 6)]
    assert await stored_chunks(store, kept[0].id) == kept[1:]


async def test_no_more_than_four_megabytes_of_chunks_are_kept(store: DriverStore, one: Consumer) -> None:
    await push(store, "a")
    lease = await claim_one(one)
    await settle(one, lease, number_chunks(1, 50, wait=0))
    for number in range(16):
        await settle(one, lease, byte_chunks(bytes([number]) * LARGEST_CHUNK))

    behind = await chunk_page(store)

    assert behind.lost == 50
    found = await stored_chunks(store, behind.after)
    assert [chunk.data[0] for chunk in found] == [*range(16)]
    await settle(one, lease, byte_chunks(b"one more"))
    assert (await chunk_page(store, found[-1].id)).chunks[0].data == b"one more"
    assert (await chunk_page(store)).lost == 51


@pytest.mark.parametrize(
    "end",
    [
        Ack(reported=True),
        Ack(cancelled=True, reported=True),
        Ack(result=Result(HOUR, b"5"), reported=True),
        FAILED,
    ],
    ids=["done", "cancelled", "done with a result", "failed"],
)
@pytest.mark.parametrize("delivery", [1, 2])
async def test_chunks_are_there_after_the_end_and_not_for_a_new_job_of_the_id(
    store: DriverStore, one: Consumer, end: Settlement, delivery: int
) -> None:
    await push(store, "a")
    lease = await claim_one(one)
    if delivery == 2:
        await settle(one, lease, Release(refund=False))
        lease = await claim_one(one)
    await settle(one, lease, byte_chunks(b"1", b"2", wait=0))
    first = (await stored_chunks(store))[0]

    assert await settle(one, lease, end) is Reply.OK
    assert await emitted(store) == [b"1", b"2"]

    if end == FAILED:
        await store.driver.change(Delete("a"))
    store.clock.advance(1)
    await push(store, another("a"))
    assert not (await chunk_page(store)).chunks
    lease = await claim_one(one)
    await settle(one, lease, byte_chunks(b"new", wait=0))
    assert await emitted(store) == await emitted(store, first.id) == [b"new"]
    assert [chunk.run for chunk in await stored_chunks(store)] == [1]


async def test_a_job_that_is_requeued_begins_its_chunks_again(store: DriverStore, one: Consumer) -> None:
    await push(store, "a")
    lease = await claim_one(one)
    await settle(one, lease, byte_chunks(b"1", wait=0))
    await settle(one, lease, FAILED)

    assert await store.driver.change(Requeue("a")) is Reply.OK

    assert not (await chunk_page(store)).chunks


async def test_chunks_stay_while_the_job_waits_for_its_next_run(store: DriverStore, one: Consumer) -> None:
    await push(store, "a")
    lease = await claim_one(one)
    await settle(one, lease, byte_chunks(b"1", wait=0))
    await settle(one, lease, AGAIN)
    assert await emitted(store) == [b"1"]
    assert await store.driver.change(Cancel("a")) is not Reply.NOT_FOUND


@needs(*LIMITS)
@pytest.mark.parametrize(
    "note",
    [byte_chunks(b"1", wait=0), SaveStep("charge", 1, b"1"), ReportProgress(b"{}")],
    ids=["emits", "saves", "reports"],
)
async def test_a_job_that_writes_something_and_runs_on_still_counts_for_the_limit_of_its_name(
    store: DriverStore, one: Consumer, note: Settlement
) -> None:
    await limit(store.driver, "max_concurrency=1")
    await push(store, limited("a"), limited("b"))
    lease = await claim_one(one)

    assert await settle(one, lease, note) is Reply.OK
    assert await claim(one) == []

    assert await settle(one, lease, Ack(stepped=True, reported=True)) is Reply.OK
    assert (await claim_one(one)).job_id == "b"


async def test_a_job_whose_result_is_kept_may_emit_too(store: DriverStore, one: Consumer) -> None:
    await push(store, kept("a"), kept("b"))
    a, b = await claim(one)
    await settle(one, a, byte_chunks(b"1", wait=0))

    answer = await one.exchange([(a, Ack(result=Result(HOUR, b"5"), reported=True)), (b, FAILED)], None)

    assert answer.replies == [Reply.OK] * 2
    assert await emitted(store) == [b"1"]
