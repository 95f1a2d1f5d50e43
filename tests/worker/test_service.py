"""A queue's service: inside of a program, of a web application under uvicorn, and in a process of its own."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import httpx
import pytest
from store import RedisStore, Store, eventually

import redisjobs.sync
from redisjobs import DriverError, JobContext, JobQueue, Schedule, Worker
from redisjobs.events import WorkerStarted
from redisjobs.model.driver import Driver
from redisjobs.worker.service import Lifespan, WorkerOptions
from redisjobs.worker.source.batcher import Batch
from redisjobs.worker.source.exchanger import Exchanger

pytestmark = pytest.mark.anyio

EXAMPLES = Path(__file__).parents[2] / "examples/web"


@dataclass
class Work:
    job_name: ClassVar[str] = "Work"
    n: int = 0


@pytest.fixture
async def queue(store: Store) -> JobQueue:
    return JobQueue(store.driver, store.queue_name)


class Ran(list[int]):
    """What a handler has run."""

    def of(self, queue: JobQueue, run: Callable[[Work], Any] | None = None) -> "Ran":
        @queue.register(Work)
        async def work(work: Work, context: JobContext) -> None:
            if run is not None:
                await run(work)
            self.append(work.n)

        return self


def refuse(driver: Driver, monkeypatch: pytest.MonkeyPatch, verb: str, error: Exception) -> None:
    async def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(driver, verb, fail)


# In a program


@pytest.mark.slow
async def test_inside_of_its_context_jobs_run_and_schedules_fire_and_at_its_end_both_stop(queue: JobQueue) -> None:
    ran = Ran().of(queue)
    queue.schedule(Work(9), Schedule.every(1))

    async with queue.service() as service:
        assert service.health.ready
        await queue.push(Work(1))
        await eventually(lambda: {1, 9} <= set(ran))
    assert not service.health.ready
    before = len(ran)
    await queue.push(Work(2))
    await anyio.sleep(0.05)
    assert len(ran) == before

    async with service:  # again
        await eventually(lambda: 2 in ran)
    await queue.aclose()


@pytest.mark.slow
async def test_without_schedules_none_fires_and_without_a_worker_none_runs(queue: JobQueue) -> None:
    ran = Ran().of(queue)
    queue.schedule(Work(9), Schedule.every(1))
    async with queue.service(schedules=False):
        await anyio.sleep(1.1)
    assert ran == []
    async with queue.service(worker=False, schedules=True):
        await eventually_ready(queue)
    assert ran == []
    async with queue.service(worker=False) as service:
        assert service.health.why == "not running"
    await queue.aclose()


async def eventually_ready(queue: JobQueue) -> None:
    with anyio.fail_after(5):
        while not await queue.control.jobs("ready"):  # noqa: ASYNC110  (no event tells of it)
            await anyio.sleep(0.01)


async def test_at_its_end_running_jobs_come_to_theirs(queue: JobQueue) -> None:
    started, go = anyio.Event(), anyio.Event()

    async def run(work: Work) -> None:
        started.set()
        await go.wait()

    ran = Ran().of(queue, run)
    await queue.push(Work(1))
    async with anyio.create_task_group() as tasks, queue.service():
        await started.wait()
        tasks.start_soon(release, go)
    assert ran == [1]
    assert (await queue.control.counts()).totals["completed"] == 1
    await queue.aclose()


async def release(go: anyio.Event) -> None:
    await anyio.sleep(0.05)  # the context is being left by now
    go.set()


async def test_an_error_of_the_program_gives_no_jobs_up_and_comes_through(queue: JobQueue) -> None:
    started = anyio.Event()

    async def run(work: Work) -> None:
        started.set()
        await anyio.sleep(0.05)

    ran = Ran().of(queue, run)
    await queue.push(Work(1))

    async def fail() -> None:
        async with queue.service():
            await started.wait()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert ran == [1]
    await queue.aclose()


async def test_a_program_that_is_cancelled_hands_its_jobs_back(queue: JobQueue) -> None:
    started = anyio.Event()

    async def run(work: Work) -> None:
        started.set()
        await anyio.sleep_forever()

    Ran().of(queue, run)
    await queue.push(Work(1))
    with anyio.CancelScope() as scope:
        async with queue.service():
            await started.wait()
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    (job,) = await queue.control.jobs("ready")
    assert job.deliveries == 0
    await queue.aclose()


async def test_a_service_that_dies_ends_what_is_inside_of_it_by_its_error(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refuse(queue.driver, monkeypatch, "read", DriverError("no"))  # what a scheduler asks for
    service, went_on = queue.service(worker=False, schedules=True), False

    async def wait() -> None:
        nonlocal went_on
        async with service:
            await anyio.sleep(5)
            went_on = True

    with pytest.raises(DriverError, match=r"^no$"):
        await wait()
    assert not went_on
    assert str(service.error) == "no"
    assert service.health.why == "it failed: no"
    assert f"the service of queue '{queue.name}' failed: no" in caplog.text
    await queue.aclose()


async def test_a_service_that_dies_is_logged_and_no_more_where_that_is_asked_for(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refuse(queue.driver, monkeypatch, "read", DriverError("no"))
    async with queue.service(worker=False, schedules=True, on_failure="log") as service:
        await eventually(lambda: service.error)
        await queue.push(Work(1))
    assert "failed: no" in caplog.text
    await queue.aclose()


async def test_a_service_runs_once_at_a_time(queue: JobQueue) -> None:
    async with queue.service() as service:
        with pytest.raises(RuntimeError, match="this service runs already"):
            await service.__aenter__()
    await queue.aclose()


async def test_a_service_that_only_schedules_ends_with_its_block_however_short_that_is(queue: JobQueue) -> None:
    with anyio.fail_after(5):
        async with queue.service(worker=False, schedules=True) as service:
            assert service.health.ready
    assert not service.health.ready
    await queue.aclose()


async def test_a_service_whose_worker_had_ended_runs_jobs_when_it_is_entered_again(queue: JobQueue) -> None:
    ran = Ran().of(queue)
    service = queue.service(max_jobs=1)
    for n in (1, 2):
        async with service:
            await queue.push(Work(n))
            await eventually(lambda: service.health.why == "not running")
    assert ran == [1, 2]
    await queue.aclose()


async def test_a_service_that_was_stopped_before_its_run_ends_at_once(queue: JobQueue) -> None:
    for worker in (True, False):
        service = queue.service(worker=worker, schedules=True)
        service.stop()
        with anyio.fail_after(5):
            await service.run(handle_signals=False)
    await queue.aclose()


async def test_a_service_with_nothing_to_run_says_so(queue: JobQueue) -> None:
    with pytest.raises(RuntimeError, match="there is nothing to run"):
        await queue.service(worker=False).run()


async def test_a_store_that_is_away_is_waited_for(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    away = JobQueue("redis://127.0.0.1:1/0", queue.name)
    with anyio.fail_after(10):
        async with away.service() as service:  # entered all the same
            assert "unavailable" in service.health.why
    await queue.aclose()


async def test_a_service_that_only_schedules_says_that_it_waits_for_a_store(
    caplog: pytest.LogCaptureFixture,
) -> None:
    away = JobQueue("redis://127.0.0.1:1/0", "away")
    async with away.service(worker=False, schedules=True) as service:
        await eventually(lambda: not service.health.ready)
        assert service.health.live
        assert "the schedules wait for the store: " in service.health.why
    assert caplog.text.count("the schedules of queue 'away' at redis://127.0.0.1:1/0 wait for the server") == 1


@pytest.mark.parametrize("face", [JobQueue, redisjobs.sync.JobQueue])
def test_what_can_not_be_a_service_is_an_error_where_it_is_made(face: Any) -> None:
    queue = face("memory://")
    for make in (queue.service, queue.lifespan):
        with pytest.raises(ValueError, match="on_failure='stop': give 'raise' or 'log'"):
            make(on_failure="stop")
        with pytest.raises(ValueError, match="concurrency=0"):
            make(concurrency=0)
        with pytest.raises(ValueError, match="concurrency=0"):
            make(worker=False, concurrency=0)
        with pytest.raises(TypeError, match="concurency"):
            make(concurency=3)


async def test_options_of_a_worker_change_nothing_where_none_is_to_run() -> None:
    queue, started = JobQueue("memory://"), list[WorkerStarted]()
    queue.events.subscribe(WorkerStarted, started.append)
    async with queue.lifespan(worker=False, concurrency=8, max_jobs=5)(None):
        await anyio.wait_all_tasks_blocked()
    async with queue.service(worker=False, concurrency=8):
        await anyio.wait_all_tasks_blocked()
    assert not started

    async with queue.service(worker=True, concurrency=8):
        await eventually(lambda: started)
    assert started[0].slots == 8


def test_an_application_does_not_outlive_its_worker_by_a_share_of_jobs_or_memory() -> None:
    queue = JobQueue("memory://")
    for option in ("max_jobs", "max_rss"):
        given: Any = {option: 10**9}
        with pytest.raises(ValueError, match=f"{option}: these end a worker, and the application would go on"):
            queue.lifespan(**given)
        queue.service(**given)


def test_a_service_takes_what_a_worker_takes() -> None:
    several = {"queue", "weights", "strict"}  # a worker's options about its queues
    wanted = set(signature(Worker).parameters) - several - {"supervised", "schedules"}
    assert set(get_type_hints(WorkerOptions)) == wanted


# In an application


def lifespan_of(store: Store, **options: Any) -> tuple[JobQueue, Lifespan]:
    queue = JobQueue(store.driver, store.queue_name)
    return queue, queue.lifespan(**options)


async def test_a_lifespan_opens_what_is_the_applications_own_before_jobs_run_and_closes_it_after(
    store: Store,
) -> None:
    said: list[str] = []

    @asynccontextmanager
    async def pool(app: Any) -> AsyncIterator[dict[str, str]]:
        said.append(f"opened for {app}")
        yield {"pool": "open"}
        said.append("closed")

    queue, lifespan = lifespan_of(store, then=pool)
    started = anyio.Event()

    async def run(work: Work) -> None:
        started.set()
        await anyio.sleep(0.05)
        said.append("ran")

    Ran().of(queue, run)
    await queue.push(Work(1))
    async with lifespan("app") as state:
        assert state == {"pool": "open"}
        await started.wait()
    assert said == ["opened for app", "ran", "closed"]
    await queue.aclose()


async def test_a_lifespan_without_a_worker_connects_and_pushes_and_runs_nothing(store: Store) -> None:
    queue, lifespan = lifespan_of(store, worker=False)
    ran = Ran().of(queue)
    async with lifespan(None):
        await queue.push(Work(1))
        await anyio.sleep(0.05)
    assert ran == []
    assert [job.name for job in await queue.control.jobs("ready")] == ["Work"]
    await queue.aclose()


async def test_inside_of_a_lifespan_one_pushes_from_every_event_loop_and_thread(redis_store: RedisStore) -> None:
    queue = JobQueue(redis_store.url, redis_store.queue_name)
    sync = redisjobs.sync.JobQueue(redis_store.url, redis_store.queue_name)

    def elsewhere() -> None:
        async def push() -> None:
            async with queue:
                await queue.push(Work(2))

        anyio.run(push)
        anyio.from_thread.run(queue.push, Work(3))
        sync.push(Work(4))

    async with queue.lifespan(worker=False)(None), sync.lifespan(worker=False)(None):
        await queue.push(Work(1))
        await anyio.to_thread.run_sync(elsewhere)
        assert len(await queue.control.jobs("ready")) == 4


async def test_an_application_whose_store_refuses_does_not_start(redis_store: RedisStore) -> None:
    wrong = re.sub(r"//[^@]+@", "//unknown:wrong@", redis_store.url)
    for worker in (True, False):
        with pytest.raises(DriverError, match="refused the credentials"):
            async with JobQueue(wrong, redis_store.queue_name).lifespan(worker=worker)(None):
                pytest.fail("it started")


async def test_an_application_that_is_to_go_on_starts_though_its_store_refuses(
    redis_store: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = re.sub(r"//[^@]+@", "//unknown:wrong@", redis_store.url)
    lifespan = JobQueue(wrong, redis_store.queue_name).lifespan(on_failure="log")
    async with lifespan(None):
        assert lifespan.service
        assert "refused the credentials" in lifespan.service.health.why
    assert "the store refuses" in caplog.text


async def test_an_application_whose_store_is_away_starts_and_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = JobQueue("redis://127.0.0.1:1/0", "away", deadline=0.2)
    async with queue.lifespan(worker=False)(None):
        pass
    assert "queue 'away': the store is unavailable" in caplog.text


@pytest.mark.parametrize("on_failure", ["raise", "log"])
async def test_an_application_whose_service_dies_gets_sigterm_unless_it_is_to_go_on(
    store: Store, monkeypatch: pytest.MonkeyPatch, on_failure: str
) -> None:
    queue, lifespan = lifespan_of(store, on_failure=on_failure)
    got: list[int] = []
    monkeypatch.setattr("signal.raise_signal", got.append)
    async with lifespan(None):
        service = lifespan.service
        assert service
        monkeypatch.setattr(
            Exchanger, "begin", lambda exchanger: exchanger.failed(Batch([], None), DriverError("no"))
        )
        await queue.push(Work(1))
        await eventually(lambda: service.error)
        await anyio.lowlevel.checkpoint()
        assert got == ([signal.SIGTERM] if on_failure == "raise" else [])
        assert not service.health.ready
    await queue.aclose()


# Under uvicorn


@dataclass
class Served:
    """An example's process, and what it prints."""

    process: subprocess.Popen[str]
    url: str

    def end(self) -> str:
        """Stop it in order; its output."""
        self.process.send_signal(signal.SIGTERM)
        out, _ = self.process.communicate(timeout=30)
        return out


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    processes: list[subprocess.Popen[str]] = []

    def start(app: str, **environment: str) -> Served:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "uvicorn", app, "--port", str(port), "--app-dir", str(EXAMPLES)]
        processes.append(started(command, environment))
        return Served(processes[-1], f"http://127.0.0.1:{port}")

    yield start
    for process in processes:
        process.kill()
        process.wait()


def started(command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=EXAMPLES,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


async def sign_up(served: Served, emails: list[str]) -> list[str]:
    """What each request is answered; the first waits until the application is there."""
    async with httpx.AsyncClient(base_url=served.url) as client:
        with anyio.fail_after(30):
            while True:
                assert served.process.poll() is None
                try:
                    await client.get("/readyz")
                    break
                except httpx.TransportError:
                    await anyio.sleep(0.05)
        answers = [await client.post("/signup", params={"email": email}) for email in emails]
    assert {answer.status_code for answer in answers} == {202}
    return [answer.json()["job"] for answer in answers]


@pytest.mark.slow
@pytest.mark.parametrize("where", ["memory", "redis"])
async def test_a_web_application_runs_its_jobs_in_the_same_process_and_is_drained_by_sigterm(
    serve: Callable[..., Served], redis_store: RedisStore, where: str
) -> None:
    url = "memory://" if where == "memory" else redis_store.url
    served = serve("web_app:alone", REDISJOBS_URL=url, QUEUE=redis_store.queue_name)
    emails = [f"{number}@email.com" for number in range(50)]

    ids = await sign_up(served, emails)
    said = await anyio.to_thread.run_sync(served.end)

    assert len(set(ids)) == 50
    ran = re.findall(r"^to (\S+): Welcome$", said, re.MULTILINE)
    if where == "redis":  # what was pushed as it ended may be left, and is not lost
        async with JobQueue(url, redis_store.queue_name) as queue:
            ran += [job.parameters.split('"')[3] for job in await queue.control.jobs("ready")]
    assert sorted(ran) == sorted(emails)
    assert "Traceback" not in said


@pytest.mark.slow
async def test_a_web_application_whose_service_dies_ends_and_says_why(
    serve: Callable[..., Served], redis_store: RedisStore
) -> None:
    store = redis_store
    served = serve("web_app:alone", REDISJOBS_URL=store.url, QUEUE=store.queue_name)
    await sign_up(served, ["joe@email.com"])

    store.admin.execute_command("ACL", "SETUSER", store.user, "-evalsha")
    said, _ = await anyio.to_thread.run_sync(lambda: served.process.communicate(timeout=30))

    assert f"the service of queue '{store.queue_name}' failed: the server's ACL forbids" in said
    assert "the service has failed, so this process ends: it sends itself SIGTERM" in said
    assert "Application shutdown complete" in said


@pytest.mark.slow
async def test_the_same_application_only_pushes_and_a_process_of_its_own_runs_the_jobs(
    serve: Callable[..., Served], redis_store: RedisStore
) -> None:
    where = {"REDISJOBS_URL": redis_store.url, "QUEUE": redis_store.queue_name}
    served = serve("web_app:web", **where)
    emails = [f"{number}@email.com" for number in range(20)]
    await sign_up(served, emails)
    assert "Welcome" not in await anyio.to_thread.run_sync(served.end)

    worker = started([sys.executable, "web_worker.py"], where)
    async with JobQueue(redis_store.url, redis_store.queue_name) as queue:
        with anyio.fail_after(30):
            while (await queue.control.counts()).totals["completed"] < 20:  # noqa: ASYNC110  (another process)
                await anyio.sleep(0.05)
    worker.send_signal(signal.SIGTERM)
    said, _ = await anyio.to_thread.run_sync(worker.communicate)
    assert worker.returncode == 0
    assert sorted(re.findall(r"^to (\S+): Welcome$", said, re.MULTILINE)) == sorted(emails)
