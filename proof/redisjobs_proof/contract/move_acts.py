"""Steps that the tests of moves share: take jobs, look at those in transit, import them."""

from collections.abc import Sequence
from dataclasses import replace

from redisjobs.model.moving import FindTaken, Import, InTransit, Take, Taken
from redisjobs.model.queries import Find, Row
from redisjobs.model.transitions import Pushed, Reply
from redisjobs_proof.contract import memory_moving as memory_moving  # registers the moves of memory
from redisjobs_proof.contract.acts import found, row_of
from redisjobs_proof.contract.store import DriverStore

ADDED, KNOWN = Pushed(Reply.OK), Pushed(Reply.REPEATED)
NOW = 1_732_438_800_000


async def take(store: DriverStore, *job_ids: str) -> Sequence[Reply]:
    """Put these jobs in transit."""
    return (await store.driver.change(Take([await found(store, each) for each in job_ids]))).replies


async def in_transit(store: DriverStore, after: str = "") -> InTransit:
    return await store.driver.read(FindTaken(after))


async def bring(store: DriverStore, *jobs: Taken, source: str = "elsewhere") -> Sequence[Pushed]:
    """Import jobs, or all that are in transit in this store: a round trip."""
    return await store.driver.change(Import(source, jobs or (await in_transit(store)).jobs))


async def round_trip(store: DriverStore, job_id: str) -> tuple[Row, Row]:
    """Return the row of a job before it was moved out of the queue, and after it came back."""
    before = await row_of(store.driver, job_id)
    assert await take(store, job_id) == [Reply.OK]
    assert await store.driver.read(Find(job_id)) is None
    (*_, job) = (await in_transit(store)).jobs
    assert await bring(store, job) == [ADDED]
    return before, await row_of(store.driver, job_id)


def lasting(row: Row) -> Row:
    """Return a row without what is counted again, and without fields that a move may add."""
    fields = {name: value for name, value in row.fields.items() if name not in (b"queued_at", b"steps")}
    return replace(row, key="", queued_ms=0, deliveries=0, fields=fields)
