"""Memory and Redis do the same verbs, at random: they have to agree on every word and state, and with a model.

The model is plain: which jobs are on the queue and which are over, who holds which lease, and how often each thing
was done.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

import anyio.from_thread
import pytest
import redis
from anyio.from_thread import BlockingPortal
from conftest import ENGINES, Servers
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from store import MemoryStore, RedisStore, Store

from redisjobs.driver import (
    Ack,
    Consumer,
    DeadLetter,
    Fate,
    Heartbeat,
    Lease,
    NewJob,
    Release,
    RetryLater,
    Row,
    Word,
)
from redisjobs.drivers import lua
from redisjobs.job import Priority, State

T = TypeVar("T")

Held = tuple[str, tuple[Lease, Lease]]  # whose it is, and what memory and Redis gave

WORKERS = ("w1", "w2", "w3")
LONGEST = 50  # seconds an example lasts by the set clock: a job that ended is remembered for a minute
SCRIPTS = sorted(path.name.removesuffix(".lua") for path in lua.folder().iterdir() if path.name.endswith(".lua"))

workers = st.sampled_from(WORKERS)
picks = st.lists(st.integers(-3, 9), min_size=1, max_size=6)  # below 0: a lease of earlier
new_jobs = st.fixed_dictionaries(
    {
        "job_id": st.sampled_from("abcdefghijklmnop"),
        "priority": st.sampled_from(Priority),
        "delay": st.sampled_from([None, None, None, 0, 5, 20]),
        "unique": st.sampled_from(["", "", "k", "l m"]),
        "unique_for_ms": st.sampled_from([None, None, 3_600_000]),
        "expires_in_ms": st.sampled_from([None, 9000]),
    }
)
new_batch = st.lists(new_jobs, min_size=3, max_size=8, unique_by=lambda options: options["job_id"])
fates = st.sampled_from(
    [
        *[Ack(), Ack(), Ack(cancelled=True), Release(), DeadLetter("failed", "ValueError: no", "a trace")],
        RetryLater("+0", {"attempt": "2", "error": "é"}),
        RetryLater("later", {"attempt": "", "headers": "{}"}),
    ]
)

several_fates = st.lists(fates, min_size=6, max_size=6)


def token(worker: str, lease: Lease) -> tuple[str, str, int, str]:
    """What proves that a worker holds a job."""
    return worker, lease.place, lease.deliveries, lease.job_id


class Side:
    """One of the two: its store, its workers, and what it calls each job that was put in by hand."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.names: dict[str, str] = {}  # entry id -> our name for it
        self.ids: dict[str, str] = {}  # and back
        self.consumers: dict[str, Consumer] = {}
        self.hearts: dict[str, Heartbeat] = {}

    async def open(self) -> None:
        for worker in WORKERS:
            self.consumers[worker] = self.store.consumer(worker, max_deliveries=2)
            self.hearts[worker] = self.consumers[worker].heartbeat()
            await self.consumers[worker].open()

    async def aclose(self) -> None:
        for worker in WORKERS:
            self.hearts[worker].close()
            await self.consumers[worker].aclose()
        await self.store.driver.aclose()

    def name(self, job_id: str) -> str:
        entry, at, place = job_id.partition("@")
        return self.names.get(entry, entry) + at + place

    def id_of(self, name: str) -> str:
        entry, at, place = name.partition("@")
        return self.ids.get(entry, entry) + at + place

    def _fields(self, row: Lease | Row) -> dict[bytes, bytes]:
        # Entry ids are the store's own, and so is a time of push that is read from them.
        job_id = row.fields.get(b"id", row.entry.encode()).decode()
        return {
            **row.fields,
            b"id": self.name(job_id).encode(),
            b"queued_at": b"known" if b"queued_at" in row.fields else b"",
        }

    def lease(self, lease: Lease) -> object:
        return self.name(lease.job_id), lease.stream, lease.deliveries, self._fields(lease)

    def row(self, row: Row) -> Any:
        where = row.state, row.priority, row.due_ms, row.worker, row.deliveries, row.cancelling
        return self.name(row.job_id), where, self._fields(row)


class TwoDrivers(RuleBasedStateMachine):
    """Does everything to both, and remembers what must be true of either."""

    portal: BlockingPortal
    make: Callable[[], RedisStore]

    def __init__(self) -> None:
        super().__init__()
        self.redis = self.make()
        self.sides = (Side(MemoryStore(self.redis.queue_name)), Side(self.redis))
        now_ms = self.redis.clock()
        for side in self.sides:
            side.store.clock.set_to = now_ms
            self.portal.call(side.open)
        for name in SCRIPTS:  # one that is missing would run after others of its round trip
            self.redis.admin.script_load(lua.script(name).source)
        self.held: dict[str, Held] = {}  # by place: the last lease of each job that was given out
        self.stale: list[Held] = []  # those before them, and those that were settled
        self.names = list("abcdefghijklmnop")
        self.there: dict[str, State] = {}  # as of the last look
        self.looks = 0
        self.passed = 0
        self.dues = self.pushes = 0
        self.put_in = 0
        self.pushed: set[str] = set()  # ids that are on the queue, but for those asked to be cancelled
        self.shared: set[str] = set()  # ids that were put in by hand beside a pushed job
        self.over: set[str] = set()  # jobs that ended, and were not pushed again
        self.done: Counter[str] = Counter()  # what was done how often, as the words said

    def teardown(self) -> None:
        faults = [] if self.shared else self.redis.faults()
        for side in self.sides:
            self.portal.call(side.aclose)
        self.redis.end()
        assert faults == []

    # How both are asked

    def ask(self, what: Callable[[Side], Awaitable[T]]) -> tuple[T, T]:
        async def both() -> tuple[T, T]:
            return await what(self.sides[0]), await what(self.sides[1])

        return self.portal.call(both)

    def agree(self, what: Callable[[Side], Awaitable[T]]) -> T:
        memory, redis = self.ask(what)
        assert memory == redis
        return memory

    def take(self, worker: str, given: tuple[Sequence[Lease], Sequence[Lease]]) -> None:
        """Both gave the same jobs to this worker, and ended the same ones instead."""
        ends = [
            [(side.name(job_id), word) for job_id, word in side.consumers[worker].ended] for side in self.sides
        ]
        assert ends[0] == ends[1]
        for side in self.sides:
            side.consumers[worker].ended.clear()
        for name, word in ends[0]:
            self.done["cancelled" if word is Word.CANCELLED else "dead"] += 1
            if word is Word.CANCELLED:
                self.end(name)
        memory, redis = (
            [side.lease(lease) for lease in leases] for side, leases in zip(self.sides, given, strict=True)
        )
        assert memory == redis
        for pair in zip(*given, strict=True):
            self.retire(pair[0].place)
            self.held[pair[0].place] = worker, pair

    def retire(self, place: str) -> None:
        if place in self.held:
            self.stale.append(self.held.pop(place))

    def end(self, name: str) -> None:
        """This job must never be seen again, unless it is pushed again."""
        self.pushed.discard(name)
        self.over.add(name)

    def current(self) -> set[tuple[str, str, int, str]]:
        """The tokens that may settle; all others are stale."""
        return {token(owner, lease) for owner, (lease, _) in self.held.values()}

    def later(self, seconds: int) -> str:
        """A delay that makes no two due times the same: which goes first then depends on their ids."""
        self.dues += 1
        return f"+{seconds * 1000 + self.dues}"

    def picked(self, worker: str, numbers: list[int]) -> list[tuple[Lease, Lease]]:
        """Some of a worker's leases, each once: mostly current ones."""
        now, before = (
            [pair for owner, pair in leases if owner == worker] for leases in (self.held.values(), self.stale)
        )
        chosen = [(now if n >= 0 else before, n) for n in numbers]
        found = [leases[n % len(leases)] for leases, n in chosen if leases]
        return list({pair[0].place: pair for pair in found}.values())

    # What is done

    @initialize(jobs=new_batch)
    def begin(self, jobs: list[dict[str, Any]]) -> None:
        self.push(jobs, False)

    @rule(jobs=new_batch, again=st.booleans(), nonce=st.sampled_from(["", "first", "second"]))
    def push(self, jobs: list[dict[str, Any]], again: bool, nonce: str = "") -> None:
        """A push of some ids, a new one or one that may have been made before."""
        self.pushes += 1
        made = []
        for options in jobs:
            delay = options["delay"]
            due = "" if delay is None else self.later(delay)
            rest = {key: value for key, value in options.items() if key != "delay"}
            rest["nonce"] = nonce if again else f"push {self.pushes}"
            made.append(NewJob(fields=["name", "Work", "parameters", "[]", "headers", ""], due=due, **rest))

        async def do(side: Side) -> list[Any]:
            return await side.store.driver.push(made, repeated=again)

        for job, answer in zip(made, self.agree(do), strict=True):
            if answer.word is Word.OK:
                self.done["pushed"] += 1
                self.over.discard(job.job_id)
                self.pushed |= {job.job_id} - self.shared

    @rule(job_id=st.sampled_from([None, None, "a", "mine"]), unique=st.sampled_from([{}, {"unique": "k"}]))
    def put_by_hand(self, job_id: str | None, unique: dict[str, str]) -> None:
        fields = {"name": "Work", "parameters": "{}", **({"id": job_id} if job_id else {}), **unique}
        self.put_in += 1
        name = f"put {self.put_in}"
        for side in self.sides:
            entry = side.store.put(fields, Priority.LOW)
            side.names[entry], side.ids[name] = name, entry
        self.names += [name, "mine"] if job_id == "mine" else [name]
        if job_id:
            self.shared.add(job_id)
            self.pushed.discard(job_id)
            self.over.discard(job_id)

    @rule(worker=workers, count=st.integers(0, 6), idle=st.booleans())
    def claim(self, worker: str, count: int, idle: bool) -> None:
        self._exchange(worker, [], [], count, idle)

    @rule(worker=workers, count=st.integers(1, 6), idle=st.booleans(), chosen=several_fates)
    def work(self, worker: str, count: int, idle: bool, chosen: list[Fate]) -> None:
        """Claim some, and settle what was claimed."""
        before = set(self.held)
        self._exchange(worker, [], [], count, idle)
        claimed = [pair for place, (_, pair) in self.held.items() if place not in before]
        self._exchange(worker, claimed, [self.dated(fate) for fate in chosen[: len(claimed)]], None)

    @rule(
        worker=workers,
        numbers=picks,
        chosen=several_fates,
        count=st.sampled_from([None, 0, 3]),
    )
    def settle(self, worker: str, numbers: list[int], chosen: list[Fate], count: int | None) -> None:
        owners = [owner for owner, _ in self.held.values()]
        worker = worker if worker in owners else (owners or [worker])[0]
        held = self.picked(worker, numbers)
        self._exchange(worker, held, [self.dated(fate) for fate in chosen[: len(held)]], count)

    @rule(worker=workers, owner=workers, chosen=several_fates)
    def settle_what_another_holds(self, worker: str, owner: str, chosen: list[Fate]) -> None:
        if worker != owner:
            theirs = [pair for holder, pair in self.held.values() if holder == owner][: len(chosen)]
            dated = [self.dated(fate) for fate in chosen[: len(theirs)]]

            async def do(side: Side) -> Any:
                number = self.sides.index(side)
                settlements = [(pair[number], fate) for pair, fate in zip(theirs, dated, strict=True)]
                return (await side.consumers[worker].exchange(settlements, None)).words

            assert list(self.agree(do)) == [Word.LEASE_LOST] * len(theirs)

    def dated(self, fate: Fate) -> Fate:
        if isinstance(fate, RetryLater) and fate.due == "later":
            return RetryLater(self.later(9), fate.changes)
        return fate

    def _exchange(
        self,
        worker: str,
        held: list[tuple[Lease, Lease]],
        chosen: list[Fate],
        count: int | None,
        idle: bool = False,
    ) -> None:
        async def do(side: Side) -> Any:
            number = self.sides.index(side)
            settlements = [(pair[number], fate) for pair, fate in zip(held, chosen, strict=True)]
            return await side.consumers[worker].exchange(settlements, count, idle=idle)

        current = self.current()
        memory, redis = self.ask(do)
        assert (memory.words, memory.due_in, memory.server_ms) == (redis.words, redis.due_in, redis.server_ms)
        assert (memory.waits is None) == (redis.waits is None)
        for (lease, _), fate, word in zip(held, chosen, memory.words, strict=True):
            assert word is Word.LEASE_LOST or token(worker, lease) in current
            self.settled(lease, fate, word)
        self.take(worker, (memory.leases, redis.leases))

    def settled(self, lease: Lease, fate: Fate, word: Word) -> None:
        if word is Word.LEASE_LOST:
            return
        self.retire(lease.place)
        match word, fate:
            case (Word.CANCELLED, _) | (Word.OK, Ack(cancelled=True)):
                self.done["cancelled"] += 1
                self.end(self.sides[0].name(lease.job_id))
            case Word.OK, Ack():
                self.done["completed"] += 1
                self.end(self.sides[0].name(lease.job_id))
            case Word.OK, RetryLater():
                self.done["retried"] += 1
            case Word.OK, DeadLetter():
                self.done["dead"] += 1
            case Word.OK, Release():
                self.done["released"] += 1

    @rule(worker=workers, count=st.integers(1, 3))
    def wait(self, worker: str, count: int) -> None:
        async def do(side: Side) -> list[Lease]:
            rows = await side.store.driver.jobs(State.READY, 500)
            # Where nothing new is there it would block, for as long as the server's timer is coarse.
            return (
                await side.consumers[worker].wait(count, 0.001) if any(not row.deliveries for row in rows) else []
            )

        self.take(worker, self.ask(do))

    @rule(owner=workers, numbers=picks, other=workers)
    def lose_leases(self, owner: str, numbers: list[int], other: str) -> None:
        """Every lease runs out but those renewed in time, and somebody takes the rest over."""
        for side in self.sides:
            side.store.age(60)
        self.renew(owner, numbers)
        reclaimed = self.ask(lambda side: side.consumers[other].reclaim(100))
        self.done["reclaimed"] += len(reclaimed[0])
        self.take(other, reclaimed)

    def renew(self, worker: str, numbers: list[int]) -> None:
        pairs = self.picked(worker, numbers)
        memory, redis = (
            side.hearts[worker].renew([pair[number] for pair in pairs], {})
            for number, side in enumerate(self.sides)
        )
        assert memory == redis
        for (lease, _), word in zip(pairs, memory, strict=True):
            assert word is Word.LEASE_LOST or token(worker, lease) in self.current()

    @rule(worker=workers, numbers=picks)
    def release_all(self, worker: str, numbers: list[int]) -> None:
        pairs = self.picked(worker, numbers)

        async def do(side: Side) -> int:
            return await side.consumers[worker].release_all([pair[self.sides.index(side)] for pair in pairs])

        self.done["released"] += self.agree(do)

    @rule(verb=st.sampled_from(["cancel", "requeue", "delete"]), number=st.integers(0, 9), any_state=st.booleans())
    def act(self, verb: str, number: int, any_state: bool) -> None:
        dead = [name for name, state in self.there.items() if (state is State.DEAD) == (verb != "cancel")]
        names = self.names if any_state else dead
        name = names[number % len(names)] if names else "a"

        async def do(side: Side) -> Word:
            word: Word = await getattr(side.store.driver, verb)(side.id_of(name))
            return word

        word = self.agree(do)
        if word is Word.CANCELLING:
            self.pushed.discard(name)
        elif word is Word.CANCELLED or (verb, word) == ("delete", Word.OK):
            self.end(name)
        if word in (Word.CANCELLED, Word.OK):
            self.done[{"cancel": "cancelled", "requeue": "requeued", "delete": "deleted"}[verb]] += 1

    @rule(seconds=st.integers(1, 10))
    def advance(self, seconds: int) -> None:
        if self.passed + seconds <= LONGEST:
            self.passed += seconds
            for side in self.sides:
                side.store.clock.advance(seconds)

    # What is true after each step

    @invariant()
    def both_know_the_same(self) -> None:
        async def look(side: Side) -> Any:
            driver = side.store.driver
            found = [await driver.find(side.id_of(name)) for name in names]
            return (
                await driver.counts(),
                {state: [side.row(row) for row in await driver.jobs(state, 500)] for state in State},
                [row and side.row(row) for row in found],
            )

        self.looks += 1
        names = [self.names[(self.looks + n) % len(self.names)] for n in range(3)]  # all of them, in turn
        counts, listed, found = self.agree(look)

        # The counters add up, and nothing is lost or there twice.
        assert {state: len(rows) for state, rows in listed.items()} == {
            State.READY: sum(counts.ready.values()),
            State.RUNNING: counts.running,
            State.DELAYED: counts.delayed,
            State.DEAD: counts.dead,
        }
        total = {counter: counts.totals.get(counter, 0) for counter in (*counts.totals, *self.done)}
        assert total == {counter: self.done[counter] for counter in total}
        ended = self.done["completed"] + self.done["cancelled"] + self.done["deleted"]
        assert self.done["pushed"] + self.put_in == ended + sum(map(len, listed.values()))
        assert counts.dead == self.done["dead"] - self.done["requeued"] - self.done["deleted"]
        there = [(name, state) for state, rows in listed.items() for name, *_ in rows if name not in self.shared]
        self.there = dict(there)
        assert len(there) == len(self.there)
        assert self.pushed <= self.there.keys()
        assert not self.over & self.there.keys() - self.shared
        # Whatever runs is held by one worker, the last it was given to.
        holds = {(self.sides[0].name(lease.job_id), o, lease.deliveries) for o, (lease, _) in self.held.values()}
        # One put in by hand under an id of its own runs under that id, and is looked up by its place.
        runs = [(name, where[3], where[4]) for name, where, _ in listed[State.RUNNING] if "@" not in name]
        assert set(runs) <= holds
        assert len([run for run in runs if run[0] not in self.shared]) == len(
            {name for name, *_ in runs} - self.shared
        )
        rows = {row[0]: row for rows in listed.values() for row in rows}
        for name, row in zip(names, found, strict=True):
            assert row == rows.get(name) or name in self.shared


@pytest.fixture(params=ENGINES)
def machine(request: pytest.FixtureRequest, servers: Servers) -> Iterator[type[TwoDrivers]]:
    """The machine, with an event loop of its own and a fresh queue for each example, on each server at hand."""
    url = servers.url(request.param)
    admin = redis.Redis.from_url(url)
    numbers = iter(range(1_000_000))
    with anyio.from_thread.start_blocking_portal() as portal:

        class Machine(TwoDrivers):
            pass

        Machine.portal = portal
        Machine.make = staticmethod(
            lambda: RedisStore(redis.Redis.from_url(url), url, f"agree-{id(portal)}-{next(numbers)}")
        )
        yield Machine
    admin.close()


@pytest.mark.timeout(300)  # where they don't, the shortest way there is worth a wait
def test_memory_and_redis_agree_whatever_is_done_to_them(machine: type[TwoDrivers]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
