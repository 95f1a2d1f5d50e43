"""Metrics: what is counted of a process and asked of a queue, as a Prometheus parser reads it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import anyio
import pytest
import yaml
from each_setting import store as store
from fleet import Fleet
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from results import drain
from store import MemoryStore, RedisStore, Store, eventually, free_port, lease_at

import redisjobs.sync
from redisjobs import Fail, JobQueue, Priority, Retry, Schedule, Scheduler, Snooze, Worker
from redisjobs.cli import exposition
from redisjobs.cli.errors import Mistake
from redisjobs.contrib.metrics import Metrics, QueueMetrics
from redisjobs.drivers.memory.driver import MemoryDriver
from redisjobs.errors import QueueFull
from redisjobs.events import (
    LeasesLost,
    LoopBlocked,
    LoopResumed,
    OutboxMeasured,
    ProcessEnded,
    ScheduleFired,
    SettledJob,
    StepsSaved,
    WorkerStarted,
)
from redisjobs.model.queries import COUNTERS
from redisjobs.model.transitions import Reply
from redisjobs.worker.run import WorkerRun
from redisjobs.worker.running.execution import Execution
from redisjobs.worker.running.handler_run import DONE
from redisjobs_proof.torture.fleet.hosts import children

pytestmark = pytest.mark.anyio


@dataclass
class Work:
    job_name: ClassVar[str] = "Work"
    what: str = ""


async def work(work: Work) -> None:
    match work.what:
        case "fail":
            raise Fail("no use")
        case "error":
            raise ValueError("not now")
        case "retry":
            raise Retry(3600)
        case "snooze":
            raise Snooze(3600)
        case "wait":
            await anyio.sleep_forever()


@pytest.fixture
async def queue(store: Store) -> AsyncIterator[JobQueue]:
    async with JobQueue(store.driver, store.queue_name) as queue:
        queue.register(Work)(work)
        yield queue


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Samples:
    """Each sample, by its name and labels."""
    families = text_string_to_metric_families(text)
    samples = [sample for family in families for sample in family.samples]
    found = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}
    assert len(found) == len(samples)
    return found


def value(samples: Samples, name: str, /, **labels: str) -> float | None:
    """One sample's; None where there is none."""
    return samples.get((name, frozenset(labels.items())))


def shown(registry: CollectorRegistry) -> Samples:
    return parsed(generate_latest(registry).decode())


def scraped(port: int) -> Samples:
    """What is shown there; nothing yet without an answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
            assert reply.headers["Content-Type"].startswith("text/plain; version=")
            return parsed(reply.read().decode())
    except OSError:
        return {}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


# What is counted of a process


async def test_jobs_are_counted_by_what_became_of_them(queue: JobQueue, registry: CollectorRegistry) -> None:
    Metrics(registry).listen(queue)
    whats = ("done", "done", "fail", "error", "retry", "snooze")
    await queue.push_many([Work(what) for what in whats])

    await drain(queue)

    def count(outcome: str) -> float | None:
        return value(shown(registry), "redisjobs_jobs_total", queue=queue.name, name="Work", outcome=outcome)

    outcomes = ("completed", "dead", "retried", "snoozed", "released", "cancelled")
    jobs = {outcome: count(outcome) for outcome in outcomes}
    assert jobs == {
        "completed": 2,
        "dead": 1,
        "retried": 2,
        "snoozed": 1,
        "released": None,
        "cancelled": None,
    }
    assert value(shown(registry), "redisjobs_dead_total", queue=queue.name, reason="failed") == 1


async def test_jobs_that_are_cancelled_or_handed_back_as_they_run_are_counted_as_that(
    queue: JobQueue, registry: CollectorRegistry
) -> None:
    Metrics(registry).listen(queue)
    worker = Worker(queue, grace=0, lease=1)
    cancelled, _ = await queue.push_many([Work("wait"), Work("wait")])

    def count(outcome: str) -> float | None:
        return value(shown(registry), "redisjobs_jobs_total", queue=queue.name, name="Work", outcome=outcome)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await eventually(lambda: worker.health.why.startswith("2 of"))
            await cancelled.cancel()
            await eventually(lambda: count("cancelled"))
            worker.stop()

    assert (count("cancelled"), count("released"), count("completed")) == (1, 1, None)


async def test_every_run_is_timed_also_one_that_failed(queue: JobQueue, registry: CollectorRegistry) -> None:
    Metrics(registry).listen(queue)
    await queue.push_many([Work("done"), Work("fail"), Work("retry")])

    await drain(queue)

    for outcome in ("completed", "dead", "retried"):
        labels = {"queue": queue.name, "name": "Work", "outcome": outcome}
        assert value(shown(registry), "redisjobs_job_duration_seconds_count", **labels) == 1
        taken = value(shown(registry), "redisjobs_job_duration_seconds_sum", **labels)
        assert taken is not None
        assert 0 < taken < 60
    assert value(shown(registry), "redisjobs_job_wait_seconds_count", queue=queue.name, name="Work") == 3


async def test_a_deliberate_delay_is_no_wait(registry: CollectorRegistry) -> None:
    store = MemoryStore("q")
    queue = JobQueue(store.driver, "q")
    queue.register(Work)(work)
    Metrics(registry).listen(queue)
    await queue.push(Work(), delay=3600)
    store.clock.step(3600)

    await drain(queue)

    waited = value(shown(registry), "redisjobs_job_wait_seconds_sum", queue="q", name="Work")
    assert waited is not None
    assert 0 <= waited < 60


async def test_the_time_until_a_settlement_is_no_part_of_a_runs_duration(registry: CollectorRegistry) -> None:
    queue = JobQueue("memory://", "q")
    queue.register(Work)(work)
    Metrics(registry).listen(queue)
    worker_run = WorkerRun([Worker(queue).settings])
    settler = worker_run.sources[0].settler

    run = Execution(lease_at(2, "1-1", 1, "a"), Worker(queue).settings, cast(Any, None), settler)
    settler.ran(run, DONE)

    assert 0 < run.ended_at <= time.monotonic()


async def test_jobs_whose_name_has_no_handler_here_go_by_one_name(
    queue: JobQueue, store: Store, registry: CollectorRegistry
) -> None:
    Metrics(registry).listen(queue)
    for number in range(3):
        store.put({"name": f"made-up-{number}", "parameters": "{}"})
    store.put({"odd": "entry"})

    await drain(queue)

    samples = shown(registry)
    names = {label for _, labels in samples for key, label in labels if key == "name"}
    assert names == {"unknown"}
    assert value(samples, "redisjobs_jobs_total", queue=queue.name, name="unknown", outcome="released") == 3
    assert value(samples, "redisjobs_jobs_total", queue=queue.name, name="unknown", outcome="dead") == 1
    assert value(samples, "redisjobs_dead_total", queue=queue.name, reason="undecodable") == 1


async def test_a_job_that_kills_its_workers_is_counted_though_no_one_ran_it(
    queue: JobQueue, store: Store, registry: CollectorRegistry
) -> None:
    Metrics(registry).listen(queue)
    await queue.push(Work())
    for worker_id in ("first", "second"):
        holder = store.consumer(worker_id, max_deliveries=2)
        await holder.exchange([], 1, idle=True)
        store.age(60)
        await holder.aclose()
        heir = store.consumer(f"after-{worker_id}", max_deliveries=2)
        await heir.reclaim((await heir.reclaim()).silent)
        await heir.aclose()

    with anyio.fail_after(30):
        await Worker(queue, max_deliveries=2).run(until_idle=True)

    assert value(shown(registry), "redisjobs_dead_total", queue=queue.name, reason="worker lost") == 1


class Refuses:
    """A driver that takes no push."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    async def push(self, jobs: Any, *, repeated: bool) -> Any:
        raise QueueFull("no room")


async def test_pushes_are_counted_by_what_came_of_them(queue: JobQueue, registry: CollectorRegistry) -> None:
    Metrics(registry).listen(queue)
    await queue.push_many([Work(), Work()])
    await queue.push(Work(), job_id="a")
    await queue.push(Work(), job_id="a")
    queue.driver, driver = Refuses(queue.driver), queue.driver
    with pytest.raises(QueueFull):
        await queue.push_many([Work()] * 4)
    queue.driver = driver

    results = {
        result: value(shown(registry), "redisjobs_pushes_total", queue=queue.name, result=result)
        for result in ("added", "duplicate", "failed")
    }
    assert results == {"added": 3, "duplicate": 1, "failed": 4}


def test_pushes_by_sync_code_are_counted_alike(registry: CollectorRegistry) -> None:
    with redisjobs.sync.JobQueue("memory://", "q") as queue:
        queue.register(Work)(work)
        Metrics(registry).listen(queue)
        queue.push(Work(), job_id="a")
        queue.push(Work(), job_id="a")

    assert value(shown(registry), "redisjobs_pushes_total", queue="q", result="added") == 1
    assert value(shown(registry), "redisjobs_pushes_total", queue="q", result="duplicate") == 1


async def test_slots_are_busy_while_they_run_a_job_and_gone_with_their_worker(
    queue: JobQueue, registry: CollectorRegistry
) -> None:
    Metrics(registry).listen(queue)

    def slots() -> tuple[float | None, float | None]:
        samples = shown(registry)
        return tuple(value(samples, "redisjobs_worker_slots", state=state) for state in ("busy", "free"))  # type: ignore[return-value]

    await queue.push(Work("wait"))
    one, two = Worker(queue, concurrency=3, grace=0), Worker(queue, concurrency=4, grace=0)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.run)
            tasks.start_soon(two.run)
            await eventually(lambda: slots() == (1, 6))
            one.stop()
            two.stop()

    assert slots() == (0, 0)


def test_the_slots_of_a_worker_of_several_queues_are_counted_once(registry: CollectorRegistry) -> None:
    class Slots:
        def count_busy(self) -> int:
            return 2

    shared, metrics = Slots(), Metrics(registry)
    for name in ("one", "two"):
        queue = JobQueue("memory://", name)
        metrics.listen(queue)
        queue.events.publish(WorkerStarted(name, "w", slots=5, names=[], busy=shared.count_busy))

    assert value(shown(registry), "redisjobs_worker_slots", state="busy") == 2
    assert value(shown(registry), "redisjobs_worker_slots", state="free") == 3


def test_a_blocked_loop_is_counted_while_it_lasts_and_to_its_end_once_a_worker(
    registry: CollectorRegistry,
) -> None:
    metrics, queues = Metrics(registry), [JobQueue("memory://", name) for name in ("one", "two")]
    for queue in queues:
        metrics.listen(queue)

    def tell(event: Callable[[str], LoopBlocked | LoopResumed]) -> float | None:
        for queue in queues:
            queue.events.publish(event(queue.name))
        return value(shown(registry), "redisjobs_loop_blocked_seconds_total")

    assert tell(lambda name: LoopBlocked(name, "w", seconds=1.5, where="there")) == 1.5
    assert tell(lambda name: LoopResumed(name, "w", seconds=4.0)) == 4.0
    assert tell(lambda name: LoopBlocked(name, "w", seconds=1.0, where="there")) == 5.0


def test_lost_leases_are_counted_and_no_outcome_with_them(registry: CollectorRegistry) -> None:
    queue = JobQueue("memory://", "q")
    Metrics(registry).listen(queue)

    queue.events.publish(LeasesLost("q", "w", jobs=[SettledJob("a", Reply.LEASE_LOST, name="Work", ran=1.0)] * 2))

    assert value(shown(registry), "redisjobs_lease_lost_total", queue="q") == 2
    assert not [name for name, _ in shown(registry) if name.startswith("redisjobs_jobs")]


async def test_no_label_tells_one_job_or_one_worker_from_another(
    queue: JobQueue, registry: CollectorRegistry
) -> None:
    Metrics(registry).listen(queue)
    registry.register(QueueMetrics(queue))
    for what in ("done", "fail", "snooze"):
        await queue.push(Work(what), job_id=f"the-{what}")

    await drain(queue)

    keys = {key for _, labels in shown(registry) for key, _ in labels}
    assert keys == {"queue", "name", "outcome", "le", "result", "reason", "state", "event", "priority"}


async def test_what_several_listen_to_counts_once_a_registry(queue: JobQueue, registry: CollectorRegistry) -> None:
    other = CollectorRegistry()
    for metrics in (Metrics(registry), Metrics(registry), Metrics(other)):
        metrics.listen(queue)
        metrics.listen(queue)
    await queue.push(Work())

    await drain(queue)

    for each in (registry, other):
        labels = {"queue": queue.name, "name": "Work", "outcome": "completed"}
        assert value(shown(each), "redisjobs_jobs_total", **labels) == 1
        assert value(shown(each), "redisjobs_pushes_total", queue=queue.name, result="added") == 1


async def test_with_metrics_a_slot_calls_the_function_that_was_registered(
    queue: JobQueue, registry: CollectorRegistry
) -> None:
    Metrics(registry).listen(queue)

    worker_run = WorkerRun([Worker(queue).settings])
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker_run.run)
            await eventually(lambda: worker_run.health.ready)
            found = worker_run.sources[0].settler.find("Work")
            worker_run.stop(0)

    assert found is queue.definitions["Work"]
    assert (queue._on_push, queue.middleware) == ((), ())


@pytest.mark.slow
def test_who_does_not_measure_loads_none_of_it() -> None:
    code = "import sys, redisjobs.sync; print({'prometheus_client', 'opentelemetry'} & {*sys.modules})"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50)

    assert said.stdout == "set()\n"


@pytest.mark.parametrize(
    ("module", "library", "extra"),
    [
        ("redisjobs.contrib.metrics", "prometheus_client", "metrics"),
        ("redisjobs.contrib.tracing", "opentelemetry", "tracing"),
    ],
)
def test_without_its_extra_a_module_says_what_to_install(module: str, library: str, extra: str) -> None:
    code = f"import sys; sys.modules[{library!r}] = None; import {module}"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=50)

    assert f"in a checkout of redisjobs: pip install '.[{extra}]'" in said.stderr.splitlines()[-1]


# What is asked of a queue


async def test_a_queue_tells_of_its_jobs_its_backlog_its_workers_and_its_counters(
    queue: JobQueue, store: Store, registry: CollectorRegistry
) -> None:
    registry.register(QueueMetrics(queue))
    store.clock.advance(0)
    await queue.push_many([Work("fail")])
    await Worker(queue).run(until_idle=True)
    await queue.push_many([Work(), Work()])
    await queue.push(Work(), priority="high")
    await queue.push(Work(), delay=3600)
    await queue.control.pause(name="Other")
    holder = store.consumer("holder", lease=60)
    await holder.exchange([], 1)
    store.clock.advance(20)

    samples = await anyio.to_thread.run_sync(shown, registry)
    await holder.aclose()

    def jobs(state: str, priority: str = "") -> float | None:
        return value(samples, "redisjobs_queue_jobs", queue=queue.name, state=state, priority=priority)

    ready = {priority: jobs("ready", priority) for priority in Priority}
    assert ready == {Priority.HIGH: 0, Priority.NORMAL: 2, Priority.LOW: 0}
    assert [jobs(state) for state in ("running", "delayed", "dead")] == [1, 1, 1]
    waits = {
        each: value(samples, "redisjobs_queue_latency_seconds", queue=queue.name, priority=each)
        for each in Priority
    }
    assert waits[Priority.HIGH] == waits[Priority.LOW] == 0
    assert 0 < (waits[Priority.NORMAL] or 0) <= 20
    assert value(samples, "redisjobs_queue_workers", queue=queue.name) == 1
    assert value(samples, "redisjobs_queue_paused", queue=queue.name, name="") == 0
    assert value(samples, "redisjobs_queue_paused", queue=queue.name, name="Other") == 1
    counted = {
        event: value(samples, "redisjobs_queue_events_total", queue=queue.name, event=event) for event in COUNTERS
    }
    assert counted == dict.fromkeys(COUNTERS, 0) | {"pushed": 5, "dead": 1}
    assert value(samples, "redisjobs_queue_up", queue=queue.name) == 1


async def test_of_each_schedule_it_is_shown_what_it_fired_last_and_what_it_is_to_fire_next(
    store: Store, queue: JobQueue, registry: CollectorRegistry
) -> None:
    registry.register(QueueMetrics(queue))
    store.clock.advance(0)
    for name in ("nightly", "paused"):
        await queue.schedules.put(name, Work(), Schedule.every(10))
    await queue.schedules.pause("paused")
    began, fired = store.clock(), anyio.Event()
    end = queue.events.subscribe(ScheduleFired, lambda _: fired.set())
    store.clock.advance(35)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Scheduler(queue).run)
        await fired.wait()
        tasks.cancel_scope.cancel()
    end()

    samples = await anyio.to_thread.run_sync(shown, registry)

    def of(metric: str, schedule: str) -> float | None:
        return value(samples, f"redisjobs_schedule_{metric}", queue=queue.name, schedule=schedule)

    last = (began + 35_000) // 10_000 * 10
    assert of("last_fired_timestamp_seconds", "nightly") == last
    assert of("next_timestamp_seconds", "nightly") == last + 10
    assert of("missed_total", "nightly") in (2, 3)
    assert of("last_fired_timestamp_seconds", "paused") is None
    assert of("next_timestamp_seconds", "paused") is None


def test_a_sync_queue_and_several_are_asked_alike(redis_store: RedisStore, registry: CollectorRegistry) -> None:
    there = redisjobs.sync.JobQueue(redis_store.url, redis_store.queue_name)
    with redisjobs.sync.JobQueue("memory://", "one") as one, there as two:
        one.register(Work)(work)
        one.push(Work())
        registry.register(QueueMetrics(one, two))

        samples = shown(registry)

    assert value(samples, "redisjobs_queue_events_total", queue="one", event="pushed") == 1
    assert value(samples, "redisjobs_queue_events_total", queue=two.name, event="pushed") == 0


def test_a_queue_whose_store_is_away_is_down_and_the_others_are_shown(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("redisjobs.contrib.metrics._PATIENCE", 0.2)
    there, away = JobQueue("memory://", "there"), JobQueue(f"redis://127.0.0.1:{free_port()}/0", "away")
    registry.register(QueueMetrics(away, there))

    samples = shown(registry)

    assert value(samples, "redisjobs_queue_up", queue="away") == 0
    assert value(samples, "redisjobs_queue_up", queue="there") == 1
    assert value(samples, "redisjobs_queue_workers", queue="there") == 0
    assert value(samples, "redisjobs_queue_workers", queue="away") is None
    assert "no metrics of queue 'away'" in caplog.text


def test_to_register_a_queue_asks_its_store_nothing(registry: CollectorRegistry) -> None:
    class Asked(Exception): ...

    class Driver(Refuses):
        @property
        def sync(self) -> Any:
            return self

        def read(self, query: Any, *, until: float) -> Any:
            raise Asked

    queue = JobQueue("memory://", "q")
    driver: Any = Driver(queue.driver)
    queue.driver = driver

    registry.register(QueueMetrics(queue))

    with pytest.raises(Asked):
        shown(registry)


def test_a_driver_for_async_code_alone_is_refused() -> None:
    class Driver:
        consumer = push = None

    with pytest.raises(ValueError, match="for async code alone"):
        QueueMetrics(JobQueue(Driver(), "q"))


# Shown over HTTP


def test_what_a_collector_raises_is_an_error_of_the_scrape_and_the_next_one_is_answered(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    class Breaks:
        broken = True

        def describe(self) -> Iterable[Any]:
            return ()

        def collect(self) -> Iterable[Any]:
            if self.broken:
                raise ValueError("the user's")
            return ()

    breaks, port = Breaks(), free_port()
    registry.register(breaks)
    Counter("others", "Of another library.", registry=registry).inc(3)
    exposition.serve("--metrics", f"127.0.0.1:{port}", registry)

    assert scraped(port) == {}
    breaks.broken = False
    assert value(scraped(port), "others_total") == 3
    assert "the metrics could not be collected" in caplog.text


def test_a_port_that_is_taken_is_an_error_at_once(registry: CollectorRegistry) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Mistake, match=f"can't listen at --metrics {where}: "):
            exposition.serve("--metrics", where, registry)


COUNTS = """
import os, sys
from prometheus_client import Counter, Histogram
things, times = Counter("things", "Of a kind.", ["kind"]), Histogram("times", "Taken.", buckets=[1, 2])
for number in map(float, sys.argv[1:]):
    things.labels("a").inc(number)
    times.observe(number)
print(os.getpid())
"""


@pytest.mark.slow
def test_what_a_process_has_counted_is_kept_when_it_ends_and_its_files_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    queue = JobQueue("memory://", "q")

    def run(*numbers: str) -> int:
        command = [sys.executable, "-c", COUNTS, *numbers]
        return int(subprocess.run(command, capture_output=True, check=True, timeout=50).stdout)

    with exposition.of_processes(queue) as together:
        directory = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
        pids = [run("1", "1.5"), run("3")]
        before = shown(together)
        (directory / "counter_1.db").touch()  # of one that was killed as it made the file
        for pid in (*pids, 1):
            queue.events.publish(
                ProcessEnded("q", "w", ended=pid, in_order=False, expected=False, how="was killed by SIGKILL")
            )
        files = {path.name for path in directory.iterdir()}

        assert shown(together) == before
        run("10")
        assert value(shown(together), "things_total", kind="a") == 15.5

    assert value(before, "things_total", kind="a") == 5.5
    assert [value(before, "times_bucket", le=le) for le in ("1.0", "2.0", "+Inf")] == [1, 2, 3]
    assert files == {"counter_ended.db", "histogram_ended.db"}
    assert not directory.exists()


# On the command line


@pytest.mark.slow
async def test_a_worker_shows_what_it_counts_also_what_the_users_code_counts(fleet: Fleet) -> None:
    port = free_port()
    app = fleet.folder / "app.py"
    app.write_text(
        app.read_text() + "\nfrom prometheus_client import Counter\nCounter('mails', 'Sent.').inc(7)\n"
        "from redisjobs.contrib.metrics import Metrics\nMetrics().listen(queue)\n"
    )
    fleet.command("--metrics", f"127.0.0.1:{port}", "--concurrency", "3")
    fleet.push("one", "two")

    def done() -> float | None:
        labels = {"queue": fleet.queue.name, "name": "Work", "outcome": "completed"}
        return value(scraped(port), "redisjobs_jobs_total", **labels)

    await eventually(lambda: done() == 2, within=30)
    samples = scraped(port)
    assert value(samples, "redisjobs_worker_slots", state="free") == 3
    assert value(samples, "mails_total") == 7


@pytest.mark.slow
async def test_worker_processes_count_together_also_with_one_that_was_killed(fleet: Fleet, tmp_path: Path) -> None:
    port, own = free_port(), tmp_path / "own"
    own.mkdir()
    fleet.env["TMPDIR"] = str(own)
    arguments = ("--processes", "2", "--metrics", f"127.0.0.1:{port}", "--concurrency", "3", "--lease", "60")
    supervisor = fleet.command(*arguments)

    def done() -> float | None:
        labels = {"queue": fleet.queue.name, "name": "Work", "outcome": "completed"}
        return value(scraped(port), "redisjobs_jobs_total", **labels)

    def slots() -> list[float | None]:
        samples = scraped(port)
        return [value(samples, "redisjobs_worker_slots", state=state) for state in ("busy", "free")]

    await eventually(lambda: slots() == [0, 6], within=30)
    fleet.push(*(f"job-{n}" for n in range(20)))
    await eventually(lambda: done() == 20, within=30)
    victim, *_ = children(supervisor.pid)

    os.kill(victim, signal.SIGKILL)

    await eventually(lambda: victim not in children(supervisor.pid), within=30)
    await eventually(lambda: slots() == [0, 6], within=30)
    assert done() == 20
    fleet.push("one-more")
    await eventually(lambda: done() == 21, within=30)
    assert [path.name.startswith("redisjobs-metrics-") for path in own.iterdir()] == [True]
    supervisor.terminate()
    assert supervisor.wait(20) == 0
    assert list(own.iterdir()) == []


@pytest.mark.slow
async def test_a_command_shows_a_whole_queue_once_or_for_as_long_as_it_runs(fleet: Fleet) -> None:
    fleet.push("one")
    command = [sys.executable, "-m", "redisjobs", "metrics", "app:queue"]

    printed = await anyio.run_process([*command, "--once"], cwd=fleet.folder, env=fleet.env)

    labels = {"queue": fleet.queue.name, "state": "ready", "priority": "normal"}
    assert value(parsed(printed.stdout.decode()), "redisjobs_queue_jobs", **labels) == 1

    port = free_port()
    listening = fleet.start([*command, "--listen", f"127.0.0.1:{port}"])
    await eventually(lambda: value(scraped(port), "redisjobs_queue_jobs", **labels) == 1, within=30)
    listening.terminate()
    assert listening.wait(20) == 0
    said = (fleet.folder / "log").read_text()
    assert f"metrics of queue '{fleet.queue.name}' at redis://" in said
    assert f" at http://127.0.0.1:{port}/metrics; Ctrl-C ends this" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["metrics", "app:queue"], "say where to answer, by --listen HOST:PORT, or --once"),
        (["metrics", "app:queue", "app:queue", "--once"], "two of these queues have one name"),
        (["metrics", "app:queue", "--once", "--url", "memory://"], "a queue inside one process"),
        (["metrics", "app:queue", "--listen", "here"], "--listen 'here' is not HOST:PORT"),
        (["worker", "app:queue", "--metrics", "here"], "--metrics 'here' is not HOST:PORT"),
        (["worker", "app:queue", "--metrics", "256.0.0.1:1", "--processes", "2"], "can't listen at --metrics"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(fleet: Fleet, arguments: list[str], said: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "redisjobs", *arguments],
        cwd=fleet.folder,
        env=fleet.env,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )

    assert ended.returncode == 2
    assert said in ended.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [["metrics", "app:queue", "--once"], ["worker", "app:queue", "--metrics", "127.0.0.1:0"]]
)
def test_without_the_extra_a_command_says_what_to_install(fleet: Fleet, arguments: list[str]) -> None:
    code = "import sys; sys.modules['prometheus_client'] = None; from redisjobs.__main__ import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=fleet.folder,
        env=fleet.env,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )

    assert ended.returncode == 2
    assert "needs prometheus_client; in a checkout of redisjobs: pip install '.[metrics]'" in ended.stderr


# What is written of them


async def fire(queue: JobQueue) -> None:
    """Let a schedule fire that is due."""
    fired = anyio.Event()
    end = queue.events.subscribe(ScheduleFired, lambda _: fired.set())
    await queue.schedules.put("nightly", Work(), Schedule.every(10))
    cast("MemoryDriver", queue.driver).memory.schedules["nightly"].last_ms -= 20_000
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Scheduler(queue).run)
        await fired.wait()
        tasks.cancel_scope.cancel()
    end()


async def every_metric(registry: CollectorRegistry) -> dict[str, tuple[str, frozenset[str]]]:
    """Each metric that there is, with its type and its labels."""
    queue = JobQueue("memory://", "q")
    queue.register(Work)(work)
    Metrics(registry).listen(queue)
    registry.register(QueueMetrics(queue))
    await queue.push_many([Work(), Work("fail")])
    queue.events.publish(LeasesLost("q", "w", jobs=[SettledJob("a", Reply.LEASE_LOST)]))
    queue.events.publish(StepsSaved("q", "w", steps=[("a", "Work", "charge")]))
    queue.events.publish(OutboxMeasured("q", waiting=2, oldest=1.5, refused=0, most=9))
    await drain(queue)
    await fire(queue)
    families = text_string_to_metric_families(generate_latest(registry).decode())
    found = {}
    for family in families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {key for sample in family.samples for key, text in sample.labels.items()}
        found[name] = family.type, frozenset(labels - {"le"})
    # prometheus_client says of each child when it was made.
    return {name: told for name, told in found.items() if not name.endswith("_created")}


async def test_the_page_of_the_metrics_has_each_with_its_type_and_its_labels_and_no_other(
    registry: CollectorRegistry, project: Path
) -> None:
    page = (project / "docs/reference/metrics.md").read_text("utf-8")
    rows = re.findall(r"^\| `(redisjobs_\w+)` \| (\w+) \| (.+?) \|", page, re.MULTILINE)

    there = {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert there == await every_metric(registry)


MONITORING = (
    "examples/monitoring/grafana.json",
    "examples/monitoring/alerts.yaml",
    "examples/deploy/keda.yaml",
    "docs/how-to/export-metrics.md",
)


@pytest.mark.parametrize("path", MONITORING)
async def test_boards_alerts_and_pages_name_only_metrics_and_labels_that_there_are(
    registry: CollectorRegistry, project: Path, path: str
) -> None:
    metrics = await every_metric(registry)
    shown = {name: labels for name, (_, labels) in metrics.items()}
    for name, (kind, labels) in metrics.items():
        if kind == "histogram":
            shown |= {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}
    text = (project / path).read_text("utf-8").replace('\\"', '"')

    uses = re.findall(r"\b(redisjobs_[a-z_]+)(?:\{([^}]*)\})?", text)

    assert len(uses) >= (2 if "keda" in path else 6)
    for name, matchers in uses:
        assert name in shown, name
        assert set(re.findall(r"(\w+)(?:=~|!=|=)\"", matchers)) <= shown[name], (name, matchers)


def test_the_board_has_a_variable_for_the_source_and_one_for_the_queue_and_panels_apart(project: Path) -> None:
    board = json.loads((project / MONITORING[0]).read_text("utf-8"))

    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "queue"]
    places = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(places)) == len(places)
    assert len(set(ids)) == len(ids)
    for panel in board["panels"]:
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            of_queues = "worker_slots" not in target["expr"] and "loop_blocked" not in target["expr"]
            assert ('queue=~"$queue"' in target["expr"]) == of_queues


def test_each_alert_says_when_and_what_it_means(project: Path) -> None:
    (group,) = yaml.safe_load((project / MONITORING[1]).read_text("utf-8"))["groups"]

    assert len(group["rules"]) > 5
    for rule in group["rules"]:
        assert rule["alert"].startswith("Redisjobs")
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"].endswith(".")
