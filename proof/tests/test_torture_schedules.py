"""What the torture finds of schedules: each slot was fired once, or it says which was not; faults of firing."""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from faulty_system import system as system
from store import eventually

from redisjobs import JobQueue, Schedule, Scheduler
from redisjobs.events import Events, ScheduleFired
from redisjobs.events.recording import Recording
from redisjobs.model.definition import Accuracy, ms_of, slot_id
from redisjobs.model.stored import ScheduleInfo
from redisjobs_proof.torture.checks import lines
from redisjobs_proof.torture.checks.checker import check
from redisjobs_proof.torture.checks.verdict import Verdict
from redisjobs_proof.torture.fleet import schedules
from redisjobs_proof.torture.fleet.final import FinalState, final_state
from redisjobs_proof.torture.fleet.fleet import Fleet
from redisjobs_proof.torture.fleet.hosts import HOSTS, Host, Kind
from redisjobs_proof.torture.fleet.jobs import Tick
from redisjobs_proof.torture.fleet.jobs import queue as jobs_queue
from redisjobs_proof.torture.fleet.redis_store import RedisStore
from redisjobs_proof.torture.fleet.rules import OTHER_RULE
from redisjobs_proof.torture.fleet.store import Letter, through
from redisjobs_proof.torture.nemesis.fault import Fault, System
from redisjobs_proof.torture.nemesis.network import CutFire, LateFire
from redisjobs_proof.torture.nemesis.processes import FreezeInTurn, RollBack

# A run as it might be written down: five slots of a schedule, a second apart, each fired by one of two processes.

FIRST = datetime(2026, 11, 26, 8, tzinfo=UTC)


def slot(number: float) -> datetime:
    return FIRST + timedelta(seconds=number)


def job_of(number: float, name: str = "all") -> str:
    return slot_id(name, ms_of(slot(number)))


def fired(
    number: float, pid: int = 1, name: str = "all", *, added: bool = True, missed: int = 0
) -> dict[str, Any]:
    line = {"what": "fired", "job": job_of(number, name), "name": "Tick", "db": 0, "pid": pid}
    return line | {"at": slot(number).timestamp() + 0.02, "added": added, "missed": missed}


def ran(number: float, pid: int = 1, name: str = "all", *, after: float = 0.01) -> list[dict[str, Any]]:
    at = slot(number).timestamp() + after
    line = {"job": job_of(number, name), "db": 0, "pid": pid, "worker": f"w{pid}", "attempt": 1, "deliveries": 1}
    told = {"reply": "OK", "settlement": "Ack", "cancelled": False, "sent_at": at + 0.002, "resent": False}
    return [
        line | {"what": "start", "name": "Tick", "at": at},
        line | {"what": "end", "result": "done", "at": at + 0.001},
        line | {"what": "settled", "at": at + 0.003, **told},
    ]


def killed(pid: int, number: int) -> dict[str, Any]:
    at = slot(number).timestamp()
    line = {
        "what": "fault",
        "name": "child killed",
        "at": at,
        "began": at,
        "ended": at + 1,
        "releases_at_once": True,
    }
    about = {"pids": [pid], "jobs": [], "workers": [1, 2], "lingers": 0, "reaches": 0, "hits": "pids", "db": None}
    return line | about | {"recovery": "jobs", "detail": ""}


class Book:
    """A run's recordings, and the store at its end: in order until a test spoils it."""

    def __init__(self, name: str, slots: Sequence[int]) -> None:
        self.name = name
        self.lines = [
            line for number in slots for line in (fired(number, 1 + number % 2, name), *ran(number, 1, name))
        ]
        self.final = FinalState(totals={"pushed": len(slots), "completed": len(slots)})
        self.final.schedules = [self.info()]

    def info(self, **facts: Any) -> ScheduleInfo:
        known: dict[str, Any] = {"accuracy": Accuracy(self.name), "last_slot": slot(4), "paused": True}
        return ScheduleInfo(self.name, Schedule.every(1), **known | facts)

    def without(self, number: int, *kinds: str) -> None:
        """As if nothing of that kind had been written of a slot; nothing at all by default."""
        job = job_of(number, self.name)
        self.lines = [
            line for line in self.lines if line.get("job") != job or (kinds and line["what"] not in kinds)
        ]

    def verdict(self) -> Verdict:
        return check(self.lines, [self.final])


@pytest.fixture
def every() -> Book:
    """Of a schedule that fires each slot, however late."""
    return Book("all", range(5))


@pytest.fixture
def latest() -> Book:
    """Of one that fires the last slot after an outage: two were left out."""
    book = Book("latest", [0, 1, 4])
    book.final.schedules = [book.info(missed=2)]
    return book


def test_a_run_in_which_each_slot_was_fired_once_passes(every: Book, latest: Book) -> None:
    assert every.verdict().passed, every.verdict()
    assert (every.verdict().slots, every.verdict().left_out, every.verdict().done) == (5, 0, 5)
    assert latest.verdict().passed, latest.verdict()
    assert (latest.verdict().slots, latest.verdict().left_out) == (3, 2)


def of_either_rule(halves: Sequence[int]) -> Book:
    """Slots by how many half seconds after the first they are: odd ones are of a release that is rolled back."""
    book = Book("all", [])
    book.lines = [line for half in halves for line in (fired(half / 2), *ran(half / 2))]
    book.final.totals = {"pushed": len(halves), "completed": len(halves)}
    book.final.schedules = [book.info(last_slot=slot(halves[-1] / 2))]
    return book


def test_a_run_in_which_a_release_with_another_rule_was_rolled_back_passes() -> None:
    run = of_either_rule([0, 2, 3, 5, 7, 10, 12])

    assert run.verdict().passed, run.verdict()
    assert run.verdict().slots == 7


@pytest.mark.parametrize(
    ("halves", "says"),
    [
        ([0, 2, 5, 9, 10], "between all@2026-11-26T08:00:02.500Z and all@2026-11-26T08:00:04.500Z"),
        ([0, 2, 7, 8], "between all@2026-11-26T08:00:01Z and all@2026-11-26T08:00:03.500Z"),
    ],
)
def test_a_slot_that_was_never_fired_as_a_release_was_rolled_back_is_found(
    halves: Sequence[int], says: str
) -> None:
    assert of_either_rule(halves).verdict().wrong == [f"{says} slots were never fired"]


def test_a_slot_that_was_never_fired_is_found(every: Book) -> None:
    every.without(2)
    every.final.totals = {"pushed": 4, "completed": 4}

    assert every.verdict().wrong == ["all@2026-11-26T08:00:02Z was never fired"]


def test_a_slot_that_was_fired_last_and_has_no_job_is_found(every: Book) -> None:
    every.final.schedules = [every.info(last_slot=slot(5))]

    assert every.verdict().wrong == ["all@2026-11-26T08:00:05Z was never fired"]


@pytest.mark.parametrize("name", ["all", "latest"])
def test_a_slot_that_two_schedulers_fired_is_found_though_its_job_ran_once(name: str) -> None:
    book = Book(name, range(5))
    book.lines.append(fired(2, 7, name))

    assert book.verdict().wrong == [f"{job_of(2, name)} was fired 2 times, by processes 1 and 7"]


def test_a_slot_that_was_fired_when_its_job_was_there_is_found_though_no_one_is_known_who_fired_it_before(
    every: Book,
) -> None:
    every.without(2, "fired")
    every.lines.append(fired(2, 7, added=False))

    assert every.verdict().wrong == [
        "all@2026-11-26T08:00:02Z was fired by process 7 when its job was there already"
    ]


@pytest.mark.parametrize("name", ["all", "latest"])
def test_a_slot_whose_job_was_made_twice_is_found_though_no_one_told_of_the_second_time(name: str) -> None:
    book = Book(name, range(5))
    book.lines += ran(2, 2, name, after=0.05)
    book.final.totals = {"pushed": 6, "completed": 6}

    verdict = book.verdict()

    assert verdict.twice == [f"{job_of(2, name)}: settlements of w1 and of w2 were accepted"]
    assert any("was started again, and no fault had hit it" in wrong for wrong in verdict.wrong)
    assert "Redis counts 6 pushes; 5 jobs were seen" in verdict.wrong


def test_a_slot_of_which_its_scheduler_told_nothing_was_fired_where_its_job_ran(every: Book) -> None:
    every.without(2, "fired")

    assert every.verdict().passed
    assert every.verdict().slots == 5


def test_a_slot_whose_job_is_a_dead_letter_that_no_one_told_of_was_fired(every: Book) -> None:
    every.without(2)
    every.lines.append(killed(1, 2))
    every.final.letters = [Letter(job_of(2), "worker lost", failed_at=slot(3).timestamp(), deliveries=3)]
    every.final.totals = {"pushed": 5, "completed": 4, "dead": 1}

    assert every.verdict().wrong == []


def test_a_slot_whose_job_was_never_started_is_lost(every: Book) -> None:
    every.without(2, "start", "end", "settled")
    every.final.totals["completed"] = 4

    assert every.verdict().lost == ["all@2026-11-26T08:00:02Z"]


@pytest.mark.parametrize("hit", [True, False])
def test_a_job_of_a_slot_may_run_again_for_a_fault_and_for_nothing_else(every: Book, hit: bool) -> None:
    every.without(2, "end", "settled")
    every.lines += [line | {"deliveries": 2} for line in ran(2, 2, after=0.5)]
    every.lines += [killed(1, 2) | {"began": slot(2).timestamp() + 0.1}] if hit else []

    assert every.verdict().passed is hit
    assert every.verdict().again == {"child killed" if hit else "none": 1}


def test_a_slot_after_the_one_that_the_store_fired_last_is_found(every: Book) -> None:
    every.final.schedules = [every.info(last_slot=slot(3))]

    assert every.verdict().wrong == ["all@2026-11-26T08:00:04Z was fired, and the last slot of 'all' is 08:00:03"]


def test_a_schedule_that_is_to_make_up_for_all_and_missed_some_is_found(every: Book) -> None:
    every.final.schedules = [every.info(missed=1)]

    assert every.verdict().wrong == ["schedule 'all' has missed 1 slots, and is to make up for all"]


@pytest.mark.parametrize("missed", [1, 3])
def test_slots_that_have_no_job_and_are_not_counted_as_missed_once_each_are_found(
    latest: Book, missed: int
) -> None:
    latest.final.schedules = [latest.info(missed=missed)]

    wrong = f"schedule 'latest' has 2 slots without a job, and counts {missed} as missed"
    assert latest.verdict().wrong == [wrong]


@pytest.mark.parametrize("told", [True, False])
def test_slots_that_are_missed_before_the_first_that_was_fired_may_be_counted(latest: Book, told: bool) -> None:
    latest.without(0, "fired")
    latest.lines += [fired(0, 1, "latest", missed=5)] if told else []
    latest.final.schedules = [latest.info(missed=7)]

    assert latest.verdict().passed
    latest.final.schedules = [latest.info(missed=1)]
    assert not latest.verdict().passed


@pytest.mark.parametrize(
    ("facts", "said"), [({"last_slot": None}, ""), ({"error": "it has no rule"}, "it has no rule")]
)
def test_a_schedule_that_never_fired_or_is_spoiled_is_found(facts: dict[str, Any], said: str) -> None:
    book = Book("all", [])
    book.final.schedules = [book.info(**facts)]

    (wrong,) = book.verdict().wrong
    assert wrong.startswith("schedule 'all' has 0 jobs, and its last slot is ")
    assert wrong.endswith(said)


def test_slots_of_two_databases_are_two_though_their_ids_are_one(every: Book) -> None:
    both = [*every.lines, *(line | {"db": 1} for line in every.lines)]
    there = FinalState(totals=every.final.totals, schedules=every.final.schedules)

    assert check(both, [every.final, there]).passed
    spoiled = [line for line in both if (line["db"], line["job"]) != (1, job_of(2))]
    assert "database 1: all@2026-11-26T08:00:02Z was never fired" in check(spoiled, [every.final, there]).wrong


def test_a_job_that_runs_under_the_id_of_a_slot_of_no_schedule_was_pushed_by_no_one(every: Book) -> None:
    every.lines += ran(2, 1, "other")
    every.final.totals = {"pushed": 6, "completed": 6}

    assert every.verdict().wrong == ["other@2026-11-26T08:00:02Z ran, and was never pushed"]


def test_what_a_scheduler_tells_is_a_line_for_each_slot(tmp_path: Path) -> None:
    events = Events()
    Recording(tmp_path).listen(events, db=1)
    told = [(job_of(number), "Tick", number > 0) for number in range(2)]

    events.publish(ScheduleFired("q", schedule="all", slot=slot(1), missed=3, jobs=told))

    read = list(lines.read(tmp_path))
    told_of = [tuple(line[key] for key in ("what", "job", "name", "added", "db", "missed")) for line in read]
    assert told_of == [("fired", job_of(0), "Tick", False, 1, 3), ("fired", job_of(1), "Tick", True, 1, 3)]


# Its schedules on a real server, and the faults that are about firing them


def scheduling(system: System) -> JobQueue:
    """A queue whose schedulers fire what the torture has, by way of the proxy."""
    assert system.workers is not None
    queue = JobQueue(through(system.store.url, system.workers.port), system.store.queue.name)
    queue.register(Tick)(lambda _: None)
    queue.declared.update(jobs_queue.declared)
    return queue


def test_in_each_database_several_workers_fire() -> None:
    firing = [kind for kind in HOSTS if "--no-schedules" not in kind.options]

    assert {db: sum(kind.processes for kind in firing if kind.db == db) for db in (0, 1)} == {0: 3, 1: 2}


@pytest.mark.slow
def test_schedules_are_behind_until_they_are_fired_and_fire_nothing_once_they_are_paused(system: System) -> None:
    schedules.put(system.store)
    assert len(schedules.behind(system.store)) == 2
    assert not schedules.pause(system.store)  # no process declares the other one yet

    async def run() -> None:
        async with scheduling(system) as queue, anyio.create_task_group() as tasks:
            tasks.start_soon(Scheduler(queue).run)
            await eventually(lambda: not schedules.behind(system.store))
            assert schedules.pause(system.store)
            fired = system.store.counts().totals["pushed"]
            await eventually(lambda: system.store.time() > began + timedelta(seconds=3))
            assert system.store.counts().totals["pushed"] == fired
            tasks.cancel_scope.cancel()

    began = system.store.time()
    anyio.run(run)
    final = final_state(system.store)
    assert {info.name: (info.accuracy, info.declared) for info in final.schedules} == {
        schedules.ALL: (Accuracy.ALL, True),
        schedules.LATEST: (Accuracy.LATEST, False),
    }
    assert not [left for left in final.left if "schedule" in left]


@pytest.mark.slow
def test_a_store_that_is_away_tells_of_no_schedule_that_it_is_up_to_date() -> None:
    store = RedisStore("redis://127.0.0.1:1/0", "q")

    assert len(schedules.behind(store)) == 1
    assert not schedules.pause(store)
    store.close()


@pytest.fixture
def two_workers(system: System, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Processes that only sleep."""
    processes = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) for _ in range(2)]
    hosts = {process.pid: Host(Kind(), process) for process in processes}
    system.fleet.hosts = list(hosts.values())
    monkeypatch.setattr(Fleet, "pids", lambda self: list(hosts))
    monkeypatch.setattr(Fleet, "host_of", lambda self, pid: hosts[pid])
    yield list(hosts)
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_of_two_workers_the_first_goes_on_as_the_other_has_stopped(system: System, two_workers: list[int]) -> None:
    fault, seen = FreezeInTurn(), [(False, False)]  # which of them is stopped

    fault.begin(system)
    first, other = fault.pids
    while seen[-1] != (False, True):
        fault.keep(system)
        now = is_stopped(first), is_stopped(other)
        seen += [now] if seen[-1] != now else []
    fault.end(system)

    assert seen[1:] == [(True, False), (True, True), (False, True)]
    assert sorted(two_workers) == sorted(fault.pids)
    assert not any(host.frozen for host in map(system.fleet.host_of, two_workers))
    while is_stopped(other):
        pass


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_workers_are_frozen_in_turn_only_where_there_are_two(system: System) -> None:
    fault = FreezeInTurn()

    fault.begin(system)
    fault.keep(system)

    assert not fault.happened
    assert not FreezeInTurn.possible(system)  # the last database is the first, which has more


@pytest.mark.slow
@pytest.mark.parametrize("kind", [CutFire, LateFire])
def test_a_firing_of_which_the_reply_is_cut_or_the_request_late_fires_no_slot_twice(
    system: System, kind: type[Fault]
) -> None:
    """Two schedulers, so that the one who hears nothing and the other both try."""
    schedules.put(system.store)
    fault, told = kind(), list[ScheduleFired]()

    async def run() -> None:
        async with scheduling(system) as queue, anyio.create_task_group() as tasks:
            queue.events.subscribe(ScheduleFired, told.append)
            tasks.start_soon(Scheduler(queue).run)
            tasks.start_soon(Scheduler(queue).run)
            await eventually(lambda: not schedules.behind(system.store))
            fault.begin(system)
            await eventually(lambda: fault.happened, within=15)
            fault.end(system)
            system.over = True
            system.tend()
            seen = time.time()
            await eventually(lambda: told and told[-1].slot.timestamp() > seen)
            tasks.cancel_scope.cancel()

    anyio.run(run)
    jobs = [job for event in told for job in event.jobs]
    ready = [job.job_id for job in system.store.queue.control.jobs("ready", 500)]
    assert len({job for job, _, _ in jobs} & set(ready)) == len(jobs)
    assert all(added for _, _, added in jobs)
    assert len(ready) == system.store.counts().totals["pushed"]
    slots = sorted(datetime.fromisoformat(job.partition("@")[2]) for job in ready if job.startswith("all@"))
    assert slots[-1] - slots[0] == timedelta(seconds=len(slots) - 1)


@pytest.mark.slow
@pytest.mark.parametrize("is_killed", [False, True])
def test_a_release_that_is_rolled_back_has_its_own_rule_until_it_ends(system: System, is_killed: bool) -> None:
    def state() -> tuple[Schedule | None, bool]:
        info = system.store.queue.schedules.get(schedules.ALL)
        return (info.rule, info.stopped) if info else (None, True)

    async def run() -> None:
        with system.fleet:
            fault = RollBack()
            fault.begin(system)
            fault.is_killed = is_killed
            (roll_back,) = system.late
            assert not roll_back()  # it has not fired anything yet
            await eventually(roll_back, within=60)
            assert state()[0] == OTHER_RULE
            fault.scheduler.wait()
            assert state() == (OTHER_RULE, not is_killed)  # a scheduler that is stopped withdraws what it declares
            assert roll_back()
            assert system.fleet.unasked  # had it ended before, that would be recorded

    anyio.run(run)
