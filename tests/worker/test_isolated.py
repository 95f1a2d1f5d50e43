"""A job on its last delivery runs alone, so that no other dies, or is judged, in its place."""

import random
import threading
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import anyio
import pytest
from store import Begun, Heart, Store, eventually

from redisjobs.model.context import JobContext
from redisjobs.model.job import JobName, Priority
from redisjobs.queue import JobQueue
from redisjobs.worker.source.policy import Quarantine
from redisjobs.worker.source.source import Source
from redisjobs.worker.worker import Worker

pytestmark = pytest.mark.anyio


@dataclass
class Work:
    job_name: ClassVar[str] = "Work"
    seconds: float = 0.0


class Watched:
    """A queue whose handlers note what runs beside them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.queue = JobQueue(store.driver, store.queue_name)
        self.queue.register(Work)(self.work)
        self.running: set[str] = set()
        self.beside: dict[str, set[str]] = {}
        self.gates: dict[str, anyio.Event] = {}

    async def work(self, work: Work, context: JobContext) -> None:
        self.running.add(context.job_id)
        for job_id in self.running:
            self.beside.setdefault(job_id, set()).update(self.running)
        if context.job_id in self.gates:
            await self.gates[context.job_id].wait()
        await anyio.sleep(work.seconds)
        self.running.discard(context.job_id)

    async def lose(self, *job_ids: str, seconds: float = 0.0) -> None:
        """A worker is lost with these jobs, each delivered for the last time but one."""
        await self.queue.push_many([self.queue.prepare(Work(seconds), job_id=job_id) for job_id in job_ids])
        dead = self.store.consumer("dead", max_deliveries=2)
        await dead.open()
        assert len((await dead.exchange([], len(job_ids))).leases) == len(job_ids)
        with closing(Heart(dead)) as heart:
            assert heart.release() == len(job_ids)
        await dead.aclose()


async def test_jobs_that_may_kill_run_one_by_one_and_nothing_beside_them(store: Store) -> None:
    watched = Watched(store)
    async with watched.queue:
        await watched.lose("a", "b", "c", seconds=0.05)
        await watched.queue.push_many([watched.queue.prepare(Work(0.01), job_id=f"new {n}") for n in range(20)])

        await Worker(watched.queue, max_deliveries=2, concurrency=8).run(until_idle=True)

        assert [watched.beside[job_id] for job_id in "abc"] == [{"a"}, {"b"}, {"c"}]
        assert len(watched.beside) == 23
        counts = await watched.queue.control.counts()
        assert (counts.dead, counts.totals["completed"]) == (0, 23)


async def test_one_that_is_found_while_others_run_waits_for_their_end(store: Store) -> None:
    watched = Watched(store)
    watched.gates = {name: anyio.Event() for name in ("long", "short")}
    worker = Worker(watched.queue, max_deliveries=2, concurrency=2)
    async with watched.queue, anyio.create_task_group() as tasks:
        for name in watched.gates:
            await watched.queue.push(Work(), job_id=name)
        tasks.start_soon(worker.run)
        await eventually(lambda: len(watched.running) == 2)
        await watched.lose("a")
        await watched.queue.push(Work(), job_id="new")
        watched.gates["short"].set()
        await eventually(lambda: "new" in watched.beside)
        assert "a" not in watched.beside
        watched.gates["long"].set()
        await eventually(lambda: "a" in watched.beside)
        worker.stop()
    assert watched.beside["a"] == {"a"}


async def test_a_worker_that_is_always_busy_makes_room_for_one_in_the_end(store: Store) -> None:
    watched = Watched(store)
    watched.gates = {name: anyio.Event() for name in ("1", "2", "3")}
    worker = Worker(watched.queue, max_deliveries=2, concurrency=3, lease=0.4)

    async with watched.queue, anyio.create_task_group() as tasks:
        for name in watched.gates:
            await watched.queue.push(Work(), job_id=name)
        tasks.start_soon(worker.run)
        await eventually(lambda: len(watched.running) == 3)
        await watched.lose("a")
        await watched.queue.push_many([Work(0.01 * (n % 3)) for n in range(2000)])  # more than it runs in the test
        for gate in watched.gates.values():
            gate.set()
        await eventually(lambda: "a" in watched.beside, within=20)
        assert (await watched.queue.control.counts()).ready[Priority.NORMAL]
        worker.stop()
    assert watched.beside["a"] == {"a"}


@pytest.mark.slow
async def test_between_two_that_run_alone_others_have_their_turn_for_longer(store: Store) -> None:
    watched = Watched(store)
    worker = Worker(watched.queue, max_deliveries=2, concurrency=3, lease=1)
    async with watched.queue, anyio.create_task_group() as tasks:
        await watched.lose(*"abc", seconds=0.05)
        await watched.queue.push_many([Work(0.01) for _ in range(3000)])  # more than it runs in the test
        tasks.start_soon(worker.run)
        await eventually(lambda: set("abc") <= watched.beside.keys(), within=20)
        worker.stop()

    begun = list(watched.beside)
    assert begun.index("b") - begun.index("a") > 10  # some 120
    assert begun.index("c") - begun.index("b") > 10
    assert all(watched.beside[job_id] == {job_id} for job_id in "abc")


async def test_those_that_run_alone_follow_one_another_where_nothing_else_is_ready(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redisjobs.worker.source.reclaimer._RECLAIM", 600)
    monkeypatch.setattr("redisjobs.worker.source.policy._OTHERS", 1_000_000)
    watched = Watched(store)
    worker = Worker(watched.queue, max_deliveries=2, concurrency=3, lease=600)
    async with watched.queue, anyio.create_task_group() as tasks:
        await watched.lose(*"abcde", seconds=0.01)
        tasks.start_soon(worker.run)
        await eventually(lambda: set("abcde") <= watched.beside.keys(), within=20)
        worker.stop()


async def test_one_of_which_a_worker_was_not_told_is_found_when_it_looks_for_the_dead(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Source, "notified", lambda source, notification: None)
    watched = Watched(store)
    worker = Worker(watched.queue, max_deliveries=2, lease=0.4)
    async with watched.queue, anyio.create_task_group() as tasks:
        await watched.queue.push(Work(), job_id="a")
        dead = store.consumer("dead", lease=0.4, max_deliveries=2)
        assert len((await dead.exchange([], 1)).leases) == 1
        await dead.aclose()
        tasks.start_soon(worker.run)
        await eventually(lambda: "a" in watched.beside)
        worker.stop()
    assert watched.beside["a"] == {"a"}


@pytest.mark.slow
@pytest.mark.parametrize("patience", [0.6, 1.4])
async def test_room_is_made_for_one_however_patient_the_worker(
    store: Store, patience: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", lambda least, most: patience)
    watched = Watched(store)
    watched.gates = {name: anyio.Event() for name in ("1", "2", "3")}
    worker = Worker(watched.queue, max_deliveries=2, concurrency=3, lease=0.4)
    async with watched.queue, anyio.create_task_group() as tasks:
        for name in watched.gates:
            await watched.queue.push(Work(), job_id=name)
        tasks.start_soon(worker.run)
        await eventually(lambda: len(watched.running) == 3)
        await watched.lose("a")
        await watched.queue.push_many([Work(0.2 + 0.1 * (n % 5)) for n in range(500)])
        for gate in watched.gates.values():
            gate.set()
        await eventually(lambda: "a" in watched.beside, within=10)
        worker.stop()
        tasks.cancel_scope.cancel()
    assert watched.beside["a"] == {"a"}


class Stuck:
    """A sync handler that outlives its timeout until it is let go, and a job that waits, for a watched."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        self.go = threading.Event()
        self.name = JobName("stuck", Work)
        self.begun = Begun()
        watched.queue.register(self.name, timeout=0.05, retry=self.begun.retry)(self._run)
        watched.gates["hold"] = anyio.Event()

    def _run(self, _: Work) -> None:
        self.begun.note()
        self.go.wait(20)

    async def lose(self, job_id: str) -> None:
        """A worker of one slot has abandoned its thread; then another one is lost with a job."""
        await self.watched.queue.push(Work(), job_id="hold")
        await eventually(lambda: "hold" in self.watched.running)
        await self.watched.lose(job_id)
        self.watched.gates["hold"].set()


async def test_one_waits_for_the_thread_of_a_handler_that_was_given_up(store: Store) -> None:
    watched = Watched(store)
    stuck = Stuck(watched)
    worker = Worker(watched.queue, max_deliveries=2, concurrency=1)
    async with watched.queue, anyio.create_task_group() as tasks:
        await watched.queue.push(Work(), stuck.name)
        tasks.start_soon(worker.run)
        await stuck.lose("a")
        await watched.queue.push(Work(), job_id="new")
        await eventually(lambda: "new" in watched.beside and not watched.running)
        assert "a" not in watched.beside
        stuck.go.set()
        await eventually(lambda: "a" in watched.beside)
        worker.stop()


@pytest.mark.parametrize("until_idle", [False, True])
async def test_one_does_not_wait_for_ever_for_a_thread_that_never_ends(store: Store, until_idle: bool) -> None:
    watched = Watched(store)
    stuck = Stuck(watched)
    worker = Worker(watched.queue, max_deliveries=2, concurrency=1, lease=0.4)
    async with watched.queue, anyio.create_task_group() as tasks:
        await watched.queue.push(Work(), stuck.name)
        tasks.start_soon(partial(worker.run, until_idle=until_idle))
        await stuck.lose("a")
        await eventually(lambda: "a" in watched.beside, within=20)
        worker.stop()
        stuck.go.set()


async def test_a_supervised_worker_with_a_thread_that_never_ends_makes_room_for_another(store: Store) -> None:
    watched = Watched(store)
    stuck = Stuck(watched)
    worker = Worker(watched.queue, max_deliveries=2, concurrency=1, lease=0.4, abandoned=5, supervised=True)
    async with watched.queue, anyio.create_task_group() as tasks:
        await watched.queue.push(Work(), stuck.name)
        tasks.start_soon(worker.run)
        await stuck.lose("a")
        await eventually(lambda: worker.recycled, within=20)
        assert "a" not in watched.beside
        stuck.go.set()


def test_room_is_made_after_about_a_lease_for_two_and_then_for_longer() -> None:
    quarantine = Quarantine(lease=10)
    quarantine.record(4, now=0, more=True)
    assert not quarantine.is_on(0)
    quarantine.record(16, now=100, more=True)
    assert quarantine.is_on(100)
    assert quarantine.is_on(119)
    assert not quarantine.is_on(120)
    quarantine.record(36, now=121, more=True)  # it works on for a lease
    assert not quarantine.is_on(121)
    quarantine.record(46, now=131, more=True)
    assert quarantine.is_on(170)
    assert not quarantine.is_on(171)
    quarantine.record(None, now=200, more=True)
    assert not quarantine.is_on(200)
    quarantine.record(16, now=201, more=True)
    assert quarantine.is_on(220)
    assert not quarantine.is_on(221)


def test_after_one_that_ran_others_have_their_turn_for_nine_times_as_long_as_it_took() -> None:
    quarantine = Quarantine(lease=10)
    quarantine.record(100, now=0, more=True)
    assert quarantine.is_on(0)
    quarantine.started(now=4)
    quarantine.record(104, now=4, more=True)
    quarantine.finished(now=5)
    quarantine.record(105, now=5, more=True)
    assert not quarantine.is_on(5)  # it took 5 s and ran for one of them
    assert not quarantine.wants(49)
    quarantine.record(149, now=49, more=True)
    assert not quarantine.is_on(49)
    assert quarantine.wants(50)
    quarantine.record(150, now=50, more=True)
    assert quarantine.is_on(50)

    quarantine.started(now=51)
    quarantine.finished(now=52)
    quarantine.record(152, now=52, more=False)
    assert quarantine.wants(52)  # there are no others that wait
    assert not quarantine.is_on(52)  # but some may run, and more may come
    quarantine.record(169, now=69, more=False)
    assert not quarantine.is_on(69)
    quarantine.record(170, now=70, more=False)  # 9 times 2, with the second in which no others were taken
    assert quarantine.is_on(70)
    quarantine.record(None, now=71, more=False)
    assert not quarantine.wants(71)


def test_while_others_wait_it_is_not_near_until_room_is_made() -> None:
    quarantine = Quarantine(lease=10)
    assert quarantine.is_near(0)
    quarantine.record(1, now=0, more=True)
    assert quarantine.wants(0)
    assert not quarantine.is_near(0)
    quarantine.record(16, now=15, more=True)
    assert quarantine.is_near(15)


def test_one_that_was_found_by_chance_counts_for_as_long_as_it_ran() -> None:
    quarantine = Quarantine(lease=10)
    quarantine.started(now=100)
    quarantine.finished(now=101)
    quarantine.record(5, now=101, more=True)
    assert not quarantine.wants(109)
    assert quarantine.wants(110)


def test_room_is_made_by_one_worker_sooner_than_by_another_but_by_all_after_one_and_a_half_leases() -> None:
    def making_room(waits: float) -> int:
        fleet = [Quarantine(lease=10) for _ in range(300)]
        for quarantine in fleet:
            quarantine.record(waits, now=0, more=True)
        return sum(quarantine.is_on(0) for quarantine in fleet)

    assert making_room(4.9) == 0
    assert 0 < making_room(7) < making_room(13) < 300
    assert making_room(15.1) == 300
