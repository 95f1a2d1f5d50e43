"""The exchanges under way: how many there may be, that each ends, and that one is sent again as what it was."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest
from store import lease_at

from redisjobs import JobQueue, Worker
from redisjobs.errors import DriverError, Unavailable
from redisjobs.model.driver import Consumer, Fenced, NoAnswer, Unwritable
from redisjobs.model.transitions import Ack, Exchange, Release, Reply, Result, Settlements, Turn, size_of
from redisjobs.worker.run import WorkerRun
from redisjobs.worker.source.batcher import Batch, Batcher

pytestmark = pytest.mark.anyio


class Counter:
    """A store that answers when it is let, and who asks it."""

    def __init__(self) -> None:
        self.go = anyio.Event()
        self.error: DriverError | None = None
        self.most = self.now = 0
        self.counts: list[int | None] = []
        self.turns: list[Turn | None] = []
        self.sent: list[Settlements] = []
        self.has_answered: list[Batch] = []
        self.has_failed: list[tuple[Batch, DriverError | None]] = []
        self.batcher = Batcher(cast(Consumer, self))
        self.batcher.report_to(self.answered, self.failed)

    async def exchange(
        self, settlements: Settlements, count: int | None, *, turn: Turn | None = None, **more: Any
    ) -> Exchange:
        self.counts.append(count)
        self.turns.append(turn)
        self.sent.append(settlements)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.go.wait()
        finally:
            self.now -= 1
        if self.error is not None:
            raise self.error
        return Exchange()

    def answered(self, batch: Batch, answer: Exchange) -> None:
        self.has_answered.append(batch)

    def failed(self, batch: Batch, error: DriverError | None) -> None:
        self.has_failed.append((batch, error))


def done(*names: str) -> list[Any]:
    """Jobs that are done."""
    return [SimpleNamespace(lease=lease_at(2, f"{name}-0", 1, name, {}), settlement=Ack()) for name in names]


@asynccontextmanager
async def carried() -> AsyncIterator[Counter]:
    counter = Counter()
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            counter.batcher.start(tasks)
            await anyio.wait_all_tasks_blocked()
            yield counter
            tasks.cancel_scope.cancel()


async def test_a_second_exchange_is_begun_for_a_batch_that_is_worth_it_and_never_a_third() -> None:
    async with carried() as store:
        exchanges = store.batcher
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
        exchanges = store.batcher
        for counts in ([(30, 30), (None, 30)], [(0, 0), (20, 20)], [(20, 20), (30, 50)]):
            store.go = anyio.Event()
            for count, asked in counts:
                exchanges.begin(Batch([], count))
                assert exchanges.asked() == asked
            await anyio.wait_all_tasks_blocked()
            store.go.set()
            await exchanges.quiet()

        assert (exchanges.asked(), exchanges.under_way, len(store.has_answered)) == (0, 0, 6)
        assert not exchanges._scopes  # or they would be kept for as long as the worker works
        assert store.most == 2


async def test_one_that_may_bring_a_job_to_run_alone_is_known_until_it_is_answered() -> None:
    async with carried() as store:
        exchanges = store.batcher
        exchanges.begin(Batch([], 1))
        assert not exchanges.may_bring_isolated()
        exchanges.begin(Batch([], 1, idle=True))
        assert exchanges.may_bring_isolated()
        store.go.set()
        await exchanges.quiet()
        assert not exchanges.may_bring_isolated()

        store.go = anyio.Event()
        exchanges.begin(Batch([], 1, idle=True))
        exchanges.begin(Batch([], None))
        assert exchanges.may_bring_isolated()
        store.go.set()
        await exchanges.quiet()
        assert not exchanges.may_bring_isolated()


@pytest.mark.parametrize("error", [Unavailable("away"), DriverError("refused")])
async def test_one_that_fails_is_told_with_its_reason_and_is_under_way_no_more(error: DriverError) -> None:
    store = Counter()
    store.error = error
    store.go.set()
    batch = Batch([], 5)

    with pytest.raises(type(error)):
        await store.batcher.carry(batch)

    assert store.has_failed == [(batch, error)]
    assert (store.batcher.asked(), store.batcher.under_way, store.has_answered) == (0, 0, [])


async def test_one_is_carried_after_another_failed_for_now() -> None:
    async with carried() as store:
        store.error = Unavailable("away")
        store.go.set()
        for _ in range(3):
            for _ in range(2):
                store.batcher.begin(Batch([], 1))
            await store.batcher.quiet()
        store.error = None

        for _ in range(3):
            for _ in range(2):
                store.batcher.begin(Batch([], 1))
            await store.batcher.quiet()

        assert (len(store.has_failed), len(store.has_answered)) == (6, 6)


async def test_one_is_carried_after_another_was_refused_as_the_worker_was_fenced() -> None:
    async with carried() as store:
        store.error = Fenced("w1")
        store.go.set()
        store.batcher.begin(Batch(done("a"), 1))
        store.batcher.begin(Batch([], 1))
        await store.batcher.quiet()
        assert [error for _, error in store.has_failed] == [store.error] * 2
        store.error = None

        store.batcher.forget()
        for _ in range(2):
            store.batcher.begin(Batch([], 1))
        await store.batcher.quiet()

        assert len(store.has_answered) == 2


async def test_those_that_are_broken_off_fail_as_if_the_store_were_away_and_the_next_is_carried() -> None:
    async with carried() as store:
        for count in (1, 2):
            store.batcher.begin(Batch([], count))
        await anyio.wait_all_tasks_blocked()

        store.batcher.break_off()
        await store.batcher.quiet()

        assert sorted(batch.count or 0 for batch, _ in store.has_failed) == [1, 2]
        assert all(isinstance(error, Unavailable) for _, error in store.has_failed)
        store.go.set()
        store.batcher.begin(Batch([], 1))
        await store.batcher.quiet()
        assert len(store.has_answered) == 1


@pytest.mark.parametrize("begun", [False, True])
async def test_each_that_a_cancel_found_waiting_or_under_way_is_told_and_so_is_each_that_is_begun_later(
    begun: bool,
) -> None:
    batches = [Batch([], number) for number in range(1, 4)]
    async with carried() as store:
        for batch in batches[:2]:
            store.batcher.begin(batch)
        if begun:
            await anyio.wait_all_tasks_blocked()
    store.batcher.begin(batches[2])

    assert sorted(batch.count or 0 for batch, _ in store.has_failed) == [1, 2, 3]
    assert (store.batcher.under_way, store.batcher.asked(), store.has_answered) == (0, 0, [])


# Turns


def lanes(store: Counter) -> list[tuple[int, int]]:
    assert all(store.turns)
    return [(turn.lane, turn.number) for turn in store.turns if turn is not None]


async def test_those_that_are_under_way_at_once_differ_by_lane_and_those_of_one_lane_by_a_number_that_grows() -> (
    None
):
    async with carried() as store:
        for _ in range(3):
            store.go = anyio.Event()
            for _ in range(2):
                store.batcher.begin(Batch(done("a"), 1))
            await anyio.wait_all_tasks_blocked()
            store.go.set()
            await store.batcher.quiet()
        for _ in range(3):
            await store.batcher.carry(Batch(done("a"), None))

    turns = lanes(store)
    assert len(set(turns)) == len(turns) == 9
    for together in (turns[0:2], turns[2:4], turns[4:6]):
        assert len({lane for lane, _ in together}) == 2
    for lane in {lane for lane, _ in turns}:
        numbers = [number for each, number in turns if each == lane]
        assert numbers == sorted(numbers)
        assert min(numbers) > 0  # 0 says that it is never sent again


async def test_one_without_an_answer_is_sent_again_as_what_it_was_and_claims_no_more() -> None:
    store = Counter()
    store.error = Unavailable("away")
    store.go.set()
    batch = Batch(done("a", "b"), 5, idle=True)
    with pytest.raises(Unavailable):
        await store.batcher.carry(batch)
    assert store.batcher.unanswered == [batch]
    batch.settling[0].lease = lease_at(2, "9-0", 2, "a", {})  # by now the job has another lease
    batch.settling[1].settlement = Release()
    for _ in range(2):
        with pytest.raises(Unavailable):
            await store.batcher.send_again()
        assert store.batcher.unanswered == [batch]
    store.error = None

    await store.batcher.send_again()

    assert (store.has_answered, store.batcher.unanswered) == ([batch], [])
    assert len(set(lanes(store))) == 1
    assert [[(lease.token[1], settlement) for lease, settlement in sent] for sent in store.sent] == [
        [("a-0", Ack()), ("b-0", Ack())]
    ] * 4
    assert store.counts == [5, None, None, None]
    assert (store.batcher.asked(), store.batcher.under_way, store.batcher.may_bring_isolated()) == (0, 0, False)
    await store.batcher.send_again()
    assert len(store.turns) == 4  # there is nothing more to send


async def test_no_other_takes_the_lane_of_one_without_an_answer() -> None:
    """Its number would be a later one: what is sent again would be refused, though it was never applied."""
    async with carried() as store:
        store.error = Unavailable("away")
        store.go.set()
        with pytest.raises(Unavailable):
            await store.batcher.carry(Batch(done("a"), None))
        ((lost, number),) = lanes(store)
        store.error = None

        for _ in range(3):
            await store.batcher.carry(Batch(done("b"), None))
        assert lost not in [lane for lane, _ in lanes(store)[1:]]
        await store.batcher.send_again()
        assert lanes(store)[-1] == (lost, number)

        for _ in range(2):
            store.batcher.begin(Batch(done("c"), None))
        await store.batcher.quiet()
        assert (lost, number + 1) in lanes(store)


async def test_one_that_settled_nothing_is_not_sent_again() -> None:
    store = Counter()
    store.error = Unavailable("away")
    store.go.set()
    for _ in range(5):
        with pytest.raises(Unavailable):
            await store.batcher.carry(Batch([], 3))
    assert store.batcher.unanswered == []
    await store.batcher.send_again()
    assert len(store.turns) == 5


async def test_those_that_were_broken_off_or_cancelled_are_sent_again_in_the_order_in_which_they_failed() -> None:
    async with carried() as store:
        for name in "ab":
            store.batcher.begin(Batch(done(name), 1))
        await anyio.wait_all_tasks_blocked()
        store.batcher.break_off()
        await store.batcher.quiet()
        failed = [batch for batch, _ in store.has_failed]
        assert len(failed) == 2
        assert store.batcher.unanswered == failed
        store.go.set()
        await store.batcher.send_again()
        assert store.has_answered == failed

        store.go = anyio.Event()
        store.batcher.begin(Batch(done("c"), 1))
        await anyio.wait_all_tasks_blocked()
    assert [batch.settlements[0][0].job_id for batch in store.batcher.unanswered] == ["c"]
    store.go.set()
    await store.batcher.send_again()
    assert store.turns[-1] == store.turns[-2]


async def test_those_without_an_answer_are_given_up_for_good_when_they_concern_no_one_any_more() -> None:
    store = Counter()
    store.error = Unavailable("away")
    store.go.set()
    for _ in range(2):
        with pytest.raises(Unavailable):
            await store.batcher.carry(Batch(done("a"), None))
    store.error = None

    store.batcher.forget()

    await store.batcher.send_again()
    assert len(store.turns) == 2
    for _ in range(2):
        await store.batcher.carry(Batch(done("b"), None))
    assert len(set(lanes(store))) == 4  # their numbers are not used again
    assert len(store.has_answered) == 2


@pytest.mark.parametrize(("slots", "jobs"), [(1, 1), (50, 50), (80, 50), (301, 151), (3000, 500)])
async def test_a_claim_asks_for_half_of_many_slots_so_that_two_fill_them(slots: int, jobs: int) -> None:
    worker_run = WorkerRun([Worker(JobQueue("memory://", "q"), concurrency=slots).settings])
    (source,) = worker_run.sources

    assert source.exchanger.next_batch().count == jobs


async def test_a_claim_asks_for_half_of_the_slots_and_what_may_be_claimed_ahead() -> None:
    worker_run = WorkerRun([Worker(JobQueue("memory://", "q"), concurrency=100).settings])
    (source,) = worker_run.sources
    worker_run.demand.ahead = 80

    assert source.exchanger.next_batch().count == 90


async def test_a_claim_that_is_overtaken_by_one_that_claims_ahead_may_have_its_jobs_wait_for_a_slot() -> None:
    async with carried() as store:
        first, second = Batch([], 50), Batch([], 100, ahead=100)
        store.batcher.begin(first)
        store.batcher.begin(second)

        assert (first.ahead, second.ahead) == (100, 100)


class Choosy(Counter):
    """A store that refuses whole what has a bad job in it, and is away for some exchanges."""

    def __init__(self, bad: str) -> None:
        super().__init__()
        self.bad, self.away = set(bad), 0
        self.go.set()
        self.replies: dict[str, Reply] = {}

    async def exchange(self, settlements: Settlements, count: int | None, **more: Any) -> Exchange:
        await super().exchange(settlements, count, **more)
        if self.away:
            self.away -= 1
            raise Unavailable("away")
        if self.bad & {lease.job_id for lease, _ in settlements}:
            raise Unwritable("too large")
        return Exchange([Reply.OK] * len(settlements))

    def answered(self, batch: Batch, answer: Exchange) -> None:
        for (lease, _), reply in zip(batch.settlements, answer.replies, strict=True):
            assert lease.job_id not in self.replies
            self.replies[lease.job_id] = reply


@pytest.mark.parametrize("bad", ["a", "p", "h", "cd", "aip", "abcdefghijklmnop"])
async def test_one_that_is_refused_is_halved_until_what_is_refused_stands_alone_and_the_others_are_settled(
    bad: str,
) -> None:
    store, names = Choosy(bad), "abcdefghijklmnop"
    batch = Batch(done(*names), 5)

    await store.batcher.carry(batch)

    assert store.replies == {name: Reply.OVERSIZED if name in bad else Reply.OK for name in names}
    assert store.batcher.unanswered == []
    assert store.counts == [5, *[None] * (len(store.counts) - 1)]
    assert len(store.sent) <= 1 + 2 * 4 * len(bad)  # log2(16) = 4
    assert [number for _, number in lanes(store)] == [*range(1, len(store.sent) + 1)]  # each is an exchange
    await store.batcher.carry(Batch(done("next"), None))
    assert store.replies["next"] is Reply.OK


async def test_parts_of_a_refused_one_that_have_no_answer_are_sent_again_by_their_numbers() -> None:
    store = Choosy("d")
    with pytest.raises(Unavailable):
        await _carry_then_away(store)
    lost = lanes(store)[-1]

    await store.batcher.send_again()

    assert lanes(store).count(lost) == 2
    assert store.replies == {"a": Reply.OK, "b": Reply.OK, "c": Reply.OK, "d": Reply.OVERSIZED}


async def _carry_then_away(store: Choosy) -> None:
    exchange = Counter.exchange

    async def once(self: Any, settlements: Settlements, count: int | None, **more: Any) -> Exchange:
        if len(self.sent) == 1:  # the first part
            self.away = 1
        return await exchange(self, settlements, count, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Counter, "exchange", once)
        await store.batcher.carry(Batch(done(*"abcd"), None))


async def test_a_large_one_that_never_has_an_answer_while_the_store_answers_others_counts_as_refused() -> None:
    class Small(Choosy):
        async def exchange(self, settlements: Settlements, count: int | None, **more: Any) -> Exchange:
            await Counter.exchange(self, settlements, count, **more)
            if sum(size_of(one) for _, one in settlements) > 2**20:
                raise NoAnswer("the server closed the connection")
            return Exchange([Reply.OK] * len(settlements))

    store = Small("")
    large = Ack(result=Result(60_000, b"x" * 2**20 + b"x"))
    runs = done(*"abcd")
    runs[2].settlement = large
    with pytest.raises(NoAnswer):
        await store.batcher.carry(Batch(runs, None))
    for _ in range(20):
        try:
            await store.batcher.send_again()
        except NoAnswer:
            continue
        break

    assert store.replies == {"a": Reply.OK, "b": Reply.OK, "c": Reply.OVERSIZED, "d": Reply.OK}
