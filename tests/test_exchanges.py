"""The exchanges under way: how many there may be, what all of them asked for, and that each comes to an end."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

import anyio
import pytest

from redisjobs import JobQueue, Worker
from redisjobs.driver import Consumer, Exchange, Settlement
from redisjobs.errors import DriverError, Unavailable
from redisjobs.exchanges import Batch, Exchanges
from redisjobs.shift import Shift

pytestmark = pytest.mark.anyio


class Counter:
    """A store that answers when it is let, and who asks it."""

    def __init__(self) -> None:
        self.go = anyio.Event()
        self.error: DriverError | None = None
        self.most = self.now = 0
        self.counts: list[int | None] = []
        self.answered: list[Batch] = []
        self.failed: list[tuple[Batch, DriverError | None]] = []
        self.exchanges = Exchanges(
            cast(Consumer, self), 100, lambda batch, _: self.answered.append(batch), lambda *told: self.fail(*told)
        )

    async def exchange(
        self, settlements: Sequence[Settlement], count: int | None, *, idle: bool = False
    ) -> Exchange:
        self.counts.append(count)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.go.wait()
        finally:
            self.now -= 1
        if self.error is not None:
            raise self.error
        return Exchange()

    def fail(self, batch: Batch, error: DriverError | None) -> None:
        self.failed.append((batch, error))


@asynccontextmanager
async def carried() -> AsyncIterator[Counter]:
    counter = Counter()
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            counter.exchanges.start(tasks)
            await anyio.wait_all_tasks_blocked()
            yield counter
            tasks.cancel_scope.cancel()


async def test_a_second_exchange_is_begun_for_a_batch_that_is_worth_it_and_never_a_third() -> None:
    async with carried() as store:
        exchanges = store.exchanges
        assert exchanges.has_room(0, 1)

        exchanges.begin(Batch([], 30))
        assert not exchanges.has_room(24, 24)
        assert exchanges.has_room(25, 0)
        assert exchanges.has_room(0, 25)

        exchanges.begin(Batch([], 20))
        assert not exchanges.has_room(500, 500)
        await anyio.wait_all_tasks_blocked()
        assert store.counts == [30, 20]

        store.go.set()
        await exchanges.quiet()
        assert exchanges.has_room(0, 1)


async def test_what_was_asked_for_is_known_until_it_comes_whatever_else_is_under_way() -> None:
    async with carried() as store:
        exchanges = store.exchanges
        for count, asked in ((30, 30), (None, 30), (0, 30), (20, 50)):
            exchanges.begin(Batch([], count))
            assert exchanges.asked == asked
        store.go.set()

        await exchanges.quiet()

        assert (exchanges.asked, exchanges.under_way, len(store.answered)) == (0, 0, 4)
        assert not exchanges._scopes  # or they would be kept for as long as the worker works
        assert store.most == 2


async def test_one_that_may_bring_a_job_to_run_alone_is_known_until_it_is_answered() -> None:
    async with carried() as store:
        exchanges = store.exchanges
        exchanges.begin(Batch([], 1))
        assert not exchanges.brings_one_alone
        exchanges.begin(Batch([], 1, idle=True))
        exchanges.begin(Batch([], None))
        assert exchanges.brings_one_alone
        store.go.set()

        await exchanges.quiet()

        assert not exchanges.brings_one_alone


@pytest.mark.parametrize("error", [Unavailable("away"), DriverError("refused")])
async def test_one_that_fails_is_told_with_its_reason_and_is_under_way_no_more(error: DriverError) -> None:
    store = Counter()
    store.error = error
    store.go.set()
    batch = Batch([], 5)

    with pytest.raises(type(error)):
        await store.exchanges.carry(batch)

    assert store.failed == [(batch, error)]
    assert (store.exchanges.asked, store.exchanges.under_way, store.answered) == (0, 0, [])


async def test_one_is_carried_after_another_failed_for_now() -> None:
    async with carried() as store:
        store.error = Unavailable("away")
        store.go.set()
        for _ in range(3):
            store.exchanges.begin(Batch([], 1))
        await store.exchanges.quiet()
        store.error = None

        for _ in range(3):
            store.exchanges.begin(Batch([], 1))
        await store.exchanges.quiet()

        assert (len(store.failed), len(store.answered)) == (3, 3)


async def test_those_that_are_broken_off_fail_as_if_the_store_were_away_and_the_next_is_carried() -> None:
    async with carried() as store:
        for count in (1, 2):
            store.exchanges.begin(Batch([], count))
        await anyio.wait_all_tasks_blocked()

        store.exchanges.break_off()
        await store.exchanges.quiet()

        assert sorted(batch.count or 0 for batch, _ in store.failed) == [1, 2]
        assert all(isinstance(error, Unavailable) for _, error in store.failed)
        store.go.set()
        store.exchanges.begin(Batch([], 1))
        await store.exchanges.quiet()
        assert len(store.answered) == 1


async def test_each_that_a_cancel_found_waiting_or_under_way_is_told_and_so_is_each_that_is_begun_later() -> None:
    batches = [Batch([], number) for number in range(1, 6)]
    async with carried() as store:
        for batch in batches[:4]:  # of which two are carried at once
            store.exchanges.begin(batch)
        await anyio.wait_all_tasks_blocked()
    store.exchanges.begin(batches[4])

    assert sorted(batch.count or 0 for batch, _ in store.failed) == [1, 2, 3, 4, 5]
    assert (store.exchanges.under_way, store.exchanges.asked, store.answered) == (0, 0, [])


@pytest.mark.parametrize(("slots", "jobs"), [(1, 1), (50, 50), (80, 50), (301, 151), (3000, 500)])
async def test_a_claim_asks_for_half_of_many_slots_so_that_two_fill_them(slots: int, jobs: int) -> None:
    shift = Shift(Worker(JobQueue("memory://", "q"), concurrency=slots).settings, until_idle=False)

    assert shift._next_batch().count == jobs
