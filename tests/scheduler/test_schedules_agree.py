"""Memory and a server do the same with schedules, at random: they have to agree, and no slot is fired twice."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import anyio.from_thread
import pytest
import redis
from anyio.from_thread import BlockingPortal
from databases import Postgres
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from postgres_store import PostgresStore
from store import MemoryStore, RedisStore, Store

from conftest import ENGINES, Servers
from redisjobs import Schedule
from redisjobs.control import Accuracy
from redisjobs.model.definition import Definition, slot_job
from redisjobs.model.job import OnConflict
from redisjobs.model.stored import (
    Declarer,
    Fire,
    Fired,
    Firing,
    ListSchedules,
    PauseSchedule,
    Put,
    PutSchedules,
    RemoveSchedule,
    ScheduleRow,
    WithdrawSchedules,
)
from redisjobs.model.transitions import NewJob, Reply

T = TypeVar("T")

SLOT = 10_000  # ms
BARE = NewJob("", ["name", "Report", "parameters", "{}"])
DEFINITIONS = [
    Definition("any", Schedule.every(10), BARE),
    Definition("any", Schedule.every(10), replace(BARE, unique="k"), Accuracy.ALL),
    Definition("any", Schedule.every(20), BARE),
    Definition("any", Schedule.every(10), replace(BARE, unique="k", on_conflict=OnConflict.REPLACE), Accuracy.ALL),
]

names = st.sampled_from("abc")
definitions = st.sampled_from(range(len(DEFINITIONS)))
schedulers = st.sampled_from(["s1", "s2"])
began = st.sampled_from([None, None, 1, 2, 3])  # by whom it is declared: when that began, counted from the start


def made(name: str, number: int) -> Definition:
    return replace(DEFINITIONS[number], name=name)


class Machine(RuleBasedStateMachine):
    """The caller gives the stores."""

    portal: BlockingPortal
    sides: tuple[MemoryStore, RedisStore | PostgresStore]

    @initialize()
    def begin(self) -> None:
        self.started = self.now = 1_795_665_600_000
        self.fired: set[tuple[str, int]] = set()  # slots, each of a definition that it was made by
        self.set_clocks()

    def set_clocks(self) -> None:
        for side in self.sides:
            side.clock.set_to = self.now

    def both(self, change: Any) -> Any:
        """What both answer, which is the same."""
        first, second = (self.portal.call(side.driver.change, change) for side in self.sides)
        assert first == second
        return first

    def rows(self) -> dict[str, ScheduleRow]:
        first, second = (self.portal.call(side.driver.read, ListSchedules()) for side in self.sides)
        assert first.change == second.change
        without = ("fired_by",)  # memory does not say
        pages = [
            {
                row.name: replace(
                    row, fields={key: value for key, value in row.fields.items() if key.decode() not in without}
                )
                for row in page.rows
            }
            for page in (first, second)
        ]
        assert pages[0] == pages[1]
        return pages[0]

    @rule(seconds=st.sampled_from([0.001, 5, 10, 35, 70, -25, -90]))
    def go_on(self, seconds: float) -> None:
        self.now += int(seconds * 1000)
        self.set_clocks()

    @rule(
        name=names,
        number=definitions,
        began=began,
        is_whole=st.booleans(),
        knows=st.booleans(),
        since=st.sampled_from([None, 0, 7_000, -7_000]),
    )
    def put(
        self, name: str, number: int, began: int | None, is_whole: bool, knows: bool, since: int | None
    ) -> None:
        definition = made(name, number)
        by = None if began is None else self.declarer(began)
        whole = definition if is_whole or by is None else None
        before = self.rows().get(name)
        last_ms = before.last_ms if before and knows else None
        each = Put(name, definition.fingerprint, whole, last_ms, None if since is None else self.now - since)
        (reply,) = self.both(PutSchedules([each], by)).replies
        after = self.rows().get(name)
        if reply is Reply.OK:
            assert after
            assert after.fingerprint == definition.fingerprint
            assert after.is_declared == (by is not None)
            same_rule = before is not None and before.fields[b"rule"] == after.fields[b"rule"]
            last = before.last_ms if before else 0
            assert after.last_ms == (last if same_rule else max(self.now - max(0, since or 0), last))
        elif before and after:  # it says all the same that it is there
            assert replace(after, is_there=before.is_there) == before
        else:
            assert after == before

    def declarer(self, began: int) -> Declarer:
        """The first two of three schedulers are of one release."""
        return Declarer(f"s{began}", "new" if began == 3 else "old", self.started + began)

    @rule(began=st.sampled_from([1, 2, 3]))
    def withdraw(self, began: int) -> None:
        self.both(WithdrawSchedules(self.declarer(began)))
        if began == 3:
            assert not [row for row in self.rows().values() if row.is_there and row.fields[b"release"] == b"new"]

    @rule(name=names, pause=st.booleans())
    def pause(self, name: str, pause: bool) -> None:
        reply = self.both(PauseSchedule(name, pause))
        row = self.rows().get(name)
        assert (reply is Reply.OK) == (row is not None)
        assert row is None or row.is_paused == pause

    @rule(name=names)
    def remove(self, name: str) -> None:
        before = self.rows().get(name)
        reply = self.both(RemoveSchedule(name))
        wanted = Reply.NOT_FOUND if before is None else Reply.OK
        if before and before.is_there:
            wanted = Reply.DECLARED
        assert reply is wanted
        assert (name in self.rows()) == (reply is Reply.DECLARED)
        if reply is Reply.OK:  # what it fired is forgotten with it
            self.fired = {(other, slot) for other, slot in self.fired if other != name}

    @rule(
        name=names,
        number=definitions,
        by=schedulers,
        behind=st.sampled_from([0, 0, 0, 1]),
        slots=st.integers(1, 3),
        missed=st.integers(0, 2),
    )
    def fire(self, name: str, number: int, by: str, behind: int, slots: int, missed: int) -> None:
        """As a scheduler does that knows the last slot, or one that is behind, by whatever definition."""
        row = self.rows().get(name)
        last = (row.last_ms if row else self.now) - behind * SLOT
        definition = made(name, number)
        first = (last // SLOT + 1) * SLOT
        due = [first + each * SLOT for each in range(slots)]
        jobs = [slot_job(definition, slot) for slot in due]
        firing = Firing(name, definition.fingerprint, last, due[-1], missed, jobs)
        (fired,) = self.both(Fire(by, [firing])).fired
        self.check(row, firing, fired, due)

    def check(self, row: ScheduleRow | None, firing: Firing, fired: Fired, due: list[int]) -> None:
        after = self.rows().get(firing.name)
        if fired.reply is not Reply.OK:
            assert after == row
            return
        assert row
        assert after
        assert row.fingerprint == firing.fingerprint
        assert not row.is_paused
        assert row.last_ms == firing.last_ms < firing.slot_ms == after.last_ms <= self.now
        assert after.ms(b"missed") == row.ms(b"missed") + firing.missed
        slots = {(firing.name, slot) for slot in due}
        assert not slots & self.fired
        self.fired |= slots

    def teardown(self) -> None:
        for side in self.sides:
            self.portal.call(side.driver.aclose)
            if not isinstance(side, MemoryStore):
                side.end()

    @invariant()
    def the_jobs_are_the_same(self) -> None:
        assert self.sides[1].faults() == []
        first, second = (sorted(jobs(side)) for side in self.sides)
        assert first == second


def jobs(side: Store) -> Iterator[str]:
    """The ids of all jobs there are."""
    if isinstance(side, MemoryStore):
        yield from side.memory.jobs
    elif isinstance(side, PostgresStore):
        yield from (job_id for (job_id,) in side.rows("select id from redisjobs.jobs where queue = %s"))
    else:
        assert isinstance(side, RedisStore)
        yield from side.located()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_memory_and_redis_agree_on_schedules(engine: str, servers: Servers, queue_name: str) -> None:
    url = servers.url(engine)
    let_agree(lambda name: RedisStore(redis.Redis.from_url(url), url, name), queue_name)


def test_memory_and_postgres_agree_on_schedules(postgres: Postgres, queue_name: str) -> None:
    url = postgres.shared()
    let_agree(lambda name: PostgresStore(url, name), queue_name)


def let_agree(other: Callable[[str], RedisStore | PostgresStore], queue_name: str) -> None:
    """Do the same on memory and on another store, given a maker of stores with a queue name."""
    number = 0

    with anyio.from_thread.start_blocking_portal() as portal:

        class Here(Machine):
            def __init__(self) -> None:
                nonlocal number
                number += 1
                name = f"{queue_name}-{number}"
                self.portal = portal
                self.sides = (MemoryStore(name), other(name))
                super().__init__()

        run_state_machine_as_test(
            Here,
            settings=settings(
                max_examples=25,
                stateful_step_count=30,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.explicit, Phase.generate, Phase.shrink],
            ),
        )
