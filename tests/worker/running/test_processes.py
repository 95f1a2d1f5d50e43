"""Sync handlers in processes: they can be killed, and what kills them is their own job's failure."""

import ast
import functools
import importlib
import json
import logging
import multiprocessing.process
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import process_handlers as handlers
import pytest
from each_setting import store as store
from fleet import has_ended
from process_handlers import Do
from results import drain
from store import RedisStore, Store, eventually

from redisjobs import JobFailed, JobName, JobQueue, Middleware, State, Worker, no_retry
from redisjobs.errors import RegistrationError, ResultNotKept, ResultRefused
from redisjobs.worker.running import handler_pool, handler_process

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
async def queue(store: Store) -> AsyncIterator[JobQueue]:
    async with handlers.queue_of(store.driver, store.queue_name) as queue:
        yield queue


async def pid_in(path: Path) -> int:
    await eventually(lambda: path.exists() and path.read_text(), within=20)
    return int(path.read_text())  # noqa: ASYNC240  (a file of a few bytes)


async def test_a_handler_in_a_process_gets_its_parameters_and_a_context(
    queue: JobQueue, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    await queue.push(Do("context", str(tmp_path)), job_id="a", headers={"trace": "1"})
    await drain(queue, worker_id="host:1:me")

    told = ast.literal_eval((tmp_path / "context").read_text())
    assert told[:5] == ["a", "Do", queue.name, 1, 1]
    assert (told[5][:-9], told[6]) == ("host:1:me", {"trace": "1"})
    assert told[8] != os.getpid()
    assert "at work on a" in capfd.readouterr().err
    assert await queue.get("a") is None


async def test_headers_however_deep_do_not_keep_a_job_out_of_its_process(
    queue: JobQueue, store: Store, tmp_path: Path
) -> None:
    deep = '{"trace":"1","deep":' + "[" * 1000 + "]" * 1000 + "}"
    parameters = json.dumps({"what": "context", "folder": str(tmp_path)})
    store.put({"name": "Do", "parameters": parameters, "headers": deep})
    await drain(queue)

    assert ast.literal_eval((tmp_path / "context").read_text())[6] == {"trace": "1"}


async def test_a_function_can_be_a_job_in_a_process(store: Store, tmp_path: Path) -> None:
    async with JobQueue(store.driver, store.queue_name) as queue:
        job = queue.job(run_in="process")(handlers.double)
        queue.register(JobName("wrapped", Do), run_in="process")(handlers.wrapped)
        await job.push(21, folder=str(tmp_path))
        await queue.push(Do("", str(tmp_path)), JobName("wrapped", Do))
        await drain(queue, concurrency=1)

    number, attempt, pid = (tmp_path / "doubled").read_text().split()
    assert (number, attempt) == ("42", "1")
    assert int(pid) == int((tmp_path / "wrapped").read_text()) != os.getpid()


async def test_what_a_handler_raises_in_a_process_is_its_failure_with_type_and_traceback(queue: JobQueue) -> None:
    words = ("value", "odd", "unpackable", "leave", "fail", "frozen", "there only", "text", "exits", "causes")
    ids = await queue.push_many([Do(what) for what in words])
    await drain(queue, concurrency=1)

    infos = [await queue.get(job_id) for job_id in ids]
    assert [(info.state, info.reason, info.error) for info in infos if info] == [
        (State.DEAD, "failed", "ValueError: no luck"),
        (State.DEAD, "failed", "Odd: 1 and 2"),
        (State.DEAD, "failed", "Unpackable: not to be packed"),
        (State.DEAD, "failed", "SystemExit: 3"),
        (State.DEAD, "failed", "never"),
        (State.DEAD, "failed", "Frozen"),
        (State.DEAD, "failed", "Local: no such class elsewhere"),
        (State.DEAD, "failed", "Text: to be packed"),
        (State.DEAD, "failed", "Exits: at home"),
        (State.DEAD, "failed", "Causes: itself"),
    ]
    with_frames = infos[:-1]  # the last one's own code keeps its traceback from being had
    assert all(
        info and "process_handlers.py" in info.traceback and "raise " in info.traceback for info in with_frames
    )
    types = [info.error_type.rpartition(".")[2] for info in infos if info]
    assert types == [
        "ValueError",
        "Odd",
        "Unpackable",
        "SystemExit",
        "Fail",
        "Frozen",
        "Local",
        "Text",
        "Exits",
        "Causes",
    ]
    assert len({info.fingerprint for info in infos if info} - {""}) == len(words)


async def test_an_error_whose_class_has_no_name_ends_no_worker(queue: JobQueue) -> None:
    job = await queue.push(Do("nameless"))
    await drain(queue)
    info = await job.info()
    assert info is not None
    assert info.error == "5: not to be packed"


async def test_a_handler_in_a_process_steers_by_raising(queue: JobQueue) -> None:
    retry, snooze, group = await queue.push_many([Do("retry"), Do("snooze"), Do("group")])
    queue.definitions.clear()
    queue.register(Do, run_in="process")(handlers.do)
    await drain(queue)

    retried, snoozed, failed = [await queue.get(job) for job in (retry, snooze, group)]
    assert failed is not None
    assert (failed.state, failed.error, failed.error_type) == (State.DEAD, "never", "redisjobs.errors.Fail")
    assert "Unpackable: not to be packed" in failed.traceback
    assert retried is not None
    assert snoozed is not None
    assert (retried.state, retried.attempt, retried.error) == (State.DELAYED, 2, "Retry: busy")
    assert (snoozed.state, snoozed.attempt, snoozed.error) == (State.DELAYED, 1, "")
    assert retried.due_at is not None
    assert 40 < retried.due_at.timestamp() - time.time() <= 50


@pytest.mark.parametrize(
    ("what", "how"),
    [
        ("exit", "ended with code 7"),
        ("kill", "was killed by SIGKILL"),
        ("crash", "was killed by SIGSEGV"),
        ("grandchild", "ended with code 7"),
    ],
)
async def test_a_process_that_dies_is_its_jobs_failure_and_no_one_elses(
    queue: JobQueue, tmp_path: Path, what: str, how: str
) -> None:
    ids = await queue.push_many([Do(what, str(tmp_path)) for _ in range(3)])
    others = await queue.push_many([Do("", str(tmp_path)) for _ in range(6)])
    await drain(queue, concurrency=3)

    infos = [await queue.get(job_id) for job_id in ids]
    assert [(info.state, info.reason, info.attempt) for info in infos if info] == [(State.DEAD, "failed", 1)] * 3
    assert {info.error for info in infos if info} == {f"ProcessDied: the process of the handler {how}"}
    assert sorted(line.split()[0] for line in (tmp_path / "ran").read_text().splitlines()) == sorted(
        job.id for job in others
    )
    if what == "grandchild":
        for pid in (tmp_path / "grandchildren").read_text().split():
            os.kill(int(pid), signal.SIGKILL)


def test_how_a_process_ended_is_known_also_where_another_thread_was_told_of_it() -> None:
    """Starting a process also reaps all others; the system reports each end once, to the first to ask."""

    class PushOutcome:
        codes: ClassVar[list[int | None]] = [7, None, None]

        @property
        def exitcode(self) -> int | None:
            return self.codes.pop()

    ended = object.__new__(handler_pool.Process)
    ended._process = PushOutcome()  # type: ignore[assignment]
    assert ended._exit_code() == 7


async def test_a_process_that_died_while_it_was_idle_fails_no_job(queue: JobQueue, tmp_path: Path) -> None:
    worker = Worker(queue, concurrency=1)
    with anyio.fail_after(40):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            for number in (1, 2, 3):
                job = await queue.push(Do("", str(tmp_path)))
                while await job.info() is not None:
                    await anyio.lowlevel.checkpoint()
                ran = (tmp_path / "ran").read_text().splitlines()
                assert len(ran) == number
                pid = int(ran[-1].split()[1])
                os.kill(pid, signal.SIGKILL)
                await eventually(functools.partial(has_ended, pid))
            worker.stop()

    assert (await queue.control.counts()).totals["dead"] == 0


async def test_a_process_that_dies_before_it_begins_a_job_fails_no_job(queue: JobQueue, tmp_path: Path) -> None:
    """It is stopped when it is given the job, as if it had died at that very moment."""
    worker = Worker(queue, concurrency=1)
    with anyio.fail_after(40):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            first = await queue.push(Do("", str(tmp_path)))
            while await first.info() is not None:
                await anyio.lowlevel.checkpoint()
            pid = int((tmp_path / "ran").read_text().split()[1])
            os.kill(pid, signal.SIGSTOP)
            second = await queue.push(Do("", str(tmp_path)))
            await eventually(
                lambda: worker._current and worker._current.processes and worker._current.processes._busy
            )
            os.kill(pid, signal.SIGKILL)
            while await second.info() is not None:
                await anyio.lowlevel.checkpoint()
            worker.stop()

    ran = (tmp_path / "ran").read_text().splitlines()
    assert [line.split()[0] for line in ran] == [first.id, second.id]
    assert int(ran[1].split()[1]) != pid


async def test_without_a_process_to_be_had_jobs_wait_and_the_worker_is_not_ready(
    queue: JobQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    worker = Worker(queue, concurrency=2)
    with anyio.fail_after(40):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await eventually(lambda: worker.health.ready, within=20)
            assert worker._current
            assert worker._current.processes
            pid = worker._current.processes._idle[0]._process.pid
            assert pid
            monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
            os.kill(pid, signal.SIGKILL)
            await eventually(lambda: has_ended(pid))
            await queue.push_many([Do("", str(tmp_path)) for _ in range(4)])
            await eventually(lambda: "no handler in a process is started" in worker.health.why)
            assert (worker.health.live, worker.health.ready) == (True, False)
            assert "Resource temporarily unavailable" in worker.health.why
            while (await queue.control.counts()).totals["retried"] < 5:
                await anyio.lowlevel.checkpoint()
            monkeypatch.undo()
            while (await queue.control.counts()).totals["completed"] < 4:
                await anyio.lowlevel.checkpoint()
            assert worker.health.ready
            worker.stop()

    said = [record.message for record in caplog.records if "Resource" in record.message]
    assert len(said) == 1


async def test_what_a_handler_in_a_process_forked_ends_as_its_code_says(queue: JobQueue, tmp_path: Path) -> None:
    job = await queue.push(Do("fork", str(tmp_path)))
    with anyio.fail_after(40):
        await Worker(queue, concurrency=1).run(until_idle=True)
    assert await job.info() is None
    assert (tmp_path / "status").read_text() == "3"
    assert has_ended(int((tmp_path / "child").read_text()))


async def test_what_a_handler_in_a_process_forked_answers_for_no_job(queue: JobQueue, tmp_path: Path) -> None:
    """The child comes to the end of the handler while the process runs the next job, which fails."""
    first = await queue.push(Do("fork and go", str(tmp_path)))
    second = await queue.push(Do("wait for the child", str(tmp_path)))
    await drain(queue, concurrency=1)

    info = await second.info()
    assert await first.info() is None
    assert info is not None
    assert info.error == "ValueError: no luck"


@pytest.mark.parametrize("what", ["sleep", "stubborn"])
async def test_a_timeout_ends_the_process_at_once(store: Store, tmp_path: Path, what: str) -> None:
    async with handlers.queue_of(store.driver, store.queue_name, timeout=1) as queue:
        job_id = await queue.push(Do(what, str(tmp_path)))
        await drain(queue)
        info = await queue.get(job_id)

    assert info is not None
    assert (info.state, info.error.partition(":")[0]) == (State.DEAD, "JobTimeout")
    assert has_ended(await pid_in(tmp_path / f"pid-{job_id}"))


async def test_the_time_of_a_job_runs_once_its_process_is_there(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(handlers.START_TAKES, "1.5")
    async with handlers.queue_of(store.driver, store.queue_name, timeout=1) as queue:
        await queue.push_many([Do("", str(tmp_path)) for _ in range(4)])
        await drain(queue, concurrency=4)

    assert len((tmp_path / "ran").read_text().splitlines()) == 4


async def test_a_cancel_ends_the_process_and_others_run_on(queue: JobQueue, tmp_path: Path) -> None:
    job_id = await queue.push(Do("stubborn", str(tmp_path)))
    worker = Worker(queue, concurrency=2)
    with anyio.fail_after(40):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            pid = await pid_in(tmp_path / f"pid-{job_id}")
            await queue.cancel(job_id)
            await eventually(lambda: has_ended(pid))
            await queue.push_many([Do("", str(tmp_path)) for _ in range(2)])
            await eventually(lambda: (tmp_path / "ran").exists(), within=20)
            while await queue.control.jobs(State.READY) or await queue.control.jobs(State.RUNNING):
                await anyio.lowlevel.checkpoint()
            worker.stop()

    assert await queue.get(job_id) is None
    assert (await queue.control.counts()).totals["completed"] == 2


async def test_a_stop_ends_the_processes_and_hands_their_jobs_back(queue: JobQueue, tmp_path: Path) -> None:
    job_id = await queue.push(Do("stubborn", str(tmp_path)))
    worker = Worker(queue, concurrency=2, grace=0)
    with anyio.fail_after(40):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            pid = await pid_in(tmp_path / f"pid-{job_id}")
            worker.stop()

    info = await queue.get(job_id)
    await eventually(lambda: has_ended(pid))
    assert info is not None
    assert (info.state, info.attempt, info.deliveries) == (State.READY, 1, 0)


async def test_processes_end_though_the_application_has_taken_all_threads_of_the_default_limiter(
    queue: JobQueue, tmp_path: Path
) -> None:
    limiter, let_go = anyio.to_thread.current_default_thread_limiter(), threading.Event()
    await queue.push(Do("", str(tmp_path)))
    async with anyio.create_task_group() as tasks:
        for _ in range(int(limiter.total_tokens)):
            tasks.start_soon(anyio.to_thread.run_sync, let_go.wait, 20)
        try:
            await eventually(lambda: not limiter.available_tokens)
            await drain(queue)
            assert not limiter.available_tokens
        finally:
            let_go.set()

    assert has_ended(int((tmp_path / "ran").read_text().split()[1]))


async def test_processes_are_kept_and_each_job_has_a_fresh_context_there(queue: JobQueue, tmp_path: Path) -> None:
    await queue.push_many([Do("leak", str(tmp_path)) for _ in range(3)])
    await drain(queue, concurrency=1)

    seen = (tmp_path / "leaks").read_text().splitlines()
    assert len(seen) == 3
    assert len(set(seen)) == 1
    assert seen[0].startswith("0 28 ")
    await eventually(lambda: has_ended(int(seen[0].split()[2])))  # it goes with the worker


async def test_idle_processes_that_do_not_end_by_themselves_are_waited_for_together(
    queue: JobQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler_pool, "_END", 2.0)
    await queue.push_many([Do("linger", str(tmp_path)) for _ in range(3)])
    worker = Worker(queue, concurrency=3)
    with anyio.fail_after(40):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            while (await queue.control.counts()).totals["completed"] < 3:
                await anyio.lowlevel.checkpoint()
            began = time.monotonic()
            worker.stop()

    assert time.monotonic() - began < 5  # one after another they would take 6 s
    assert all(has_ended(int(name.split("-")[1])) for name in os.listdir(tmp_path))


async def test_what_a_handler_in_a_process_prints_is_seen(
    queue: JobQueue, capfd: pytest.CaptureFixture[str]
) -> None:
    await queue.push(Do("print"))
    await drain(queue)
    out = capfd.readouterr().out
    assert "printed by a handler" in out
    assert "printed by a program" in out


async def test_a_plain_function_that_returns_a_coroutine_fails_in_a_process(store: Store) -> None:
    async with JobQueue(store.driver, store.queue_name) as queue:
        queue.register(Do, run_in="process", retry=no_retry())(handlers.later)
        await queue.push(Do(""))
        await drain(queue)
        (dead,) = await queue.control.jobs(State.DEAD)
    assert dead.error.startswith("TypeError: a handler in a process can't be async")


@pytest.mark.parametrize("setting", ["memory asyncio"])
async def test_a_handler_that_a_process_would_not_find_is_refused(queue: JobQueue) -> None:
    def inner(_: Do) -> None: ...

    for handler in (lambda _: None, inner, handlers.is_async):
        with pytest.raises(RegistrationError, match='run_in="process"'):
            queue.register(JobName("Other", Do), run_in="process")(handler)
    with pytest.raises(RegistrationError, match='"thread" or "process"'):
        queue.register(JobName("Other", Do), run_in="fibre")(handlers.double)  # type: ignore[arg-type]

    queue.register(JobName("Other", Do), run_in="process")(handlers.original)
    with pytest.raises(RegistrationError, match=r"would not find its handler as process_handlers\.replaced"):
        await Worker(queue).run(until_idle=True)


def start(folder: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    """Run the folder's program.py, which finds what tests import."""
    path = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parents[3])])
    command = [sys.executable, "program.py", *arguments]
    return subprocess.Popen(command, cwd=folder, env=dict(os.environ, PYTHONPATH=path))


PROGRAM = """
import asyncio, os, sys, time
from pathlib import Path
import process_handlers
from redisjobs import Worker

def fork(folder: str) -> None:
    if os.fork() == 0:
        (Path(folder) / "forked").write_text(str(os.getpid()))
        time.sleep(600)

if __name__ == "__main__":
    queue = process_handlers.queue_of(*sys.argv[1:3])
    queue.job(fork)
    asyncio.run(Worker(queue, concurrency=3).run())
"""


@pytest.mark.parametrize("setting", ["redis asyncio"])
async def test_processes_end_with_a_worker_that_is_killed(store: Store, setting: str, tmp_path: Path) -> None:
    assert isinstance(store, RedisStore)
    (tmp_path / "program.py").write_text(PROGRAM)
    worker = start(tmp_path, store.url, store.queue_name)
    try:
        async with JobQueue(store.driver, store.queue_name) as queue:
            asleep = await queue.push(Do("stubborn", str(tmp_path)))
            await queue.push(Do("", str(tmp_path)))
            busy = await pid_in(tmp_path / f"pid-{asleep}")
            ran = tmp_path / "ran"
            await eventually(lambda: ran.exists() and ran.read_text().endswith("\n"), within=20)
            idle = int(ran.read_text().split()[1])
            assert not has_ended(busy)
            assert not has_ended(idle)
            worker.kill()
            worker.wait()
            await eventually(lambda: has_ended(busy) and has_ended(idle), within=10)
    finally:
        worker.kill()
        worker.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no signal can be sent by a pipe that closes")
@pytest.mark.parametrize("setting", ["redis asyncio"])
@pytest.mark.parametrize("what", ["hold the lock", "stop"])
async def test_a_process_whose_threads_all_stand_still_ends_with_a_worker_that_is_killed(
    store: Store, setting: str, tmp_path: Path, what: str
) -> None:
    assert isinstance(store, RedisStore)
    (tmp_path / "program.py").write_text(PROGRAM)
    worker = start(tmp_path, store.url, store.queue_name)
    pid = None
    try:
        async with JobQueue(store.driver, store.queue_name) as queue:
            job_id = await queue.push(Do(what, str(tmp_path)))
            pid = await pid_in(tmp_path / f"pid-{job_id}")
            await eventually(lambda: stands_still(pid), within=10)
            worker.kill()
            worker.wait()
            await eventually(lambda: has_ended(pid), within=10)
    finally:
        worker.kill()
        worker.wait()
        if pid is not None and not has_ended(pid):
            os.kill(pid, signal.SIGKILL)


def stands_still(pid: int) -> bool:
    """Whether the main thread of a process is stopped, or sleeps in C."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "TS"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no signal can be sent by a pipe that closes")
@pytest.mark.parametrize("setting", ["redis asyncio"])
async def test_a_process_ends_with_its_worker_though_a_fork_of_that_lives_on(
    store: Store, setting: str, tmp_path: Path
) -> None:
    assert isinstance(store, RedisStore)
    (tmp_path / "program.py").write_text(PROGRAM)
    worker = start(tmp_path, store.url, store.queue_name)
    pid = forked = None
    try:
        async with JobQueue(store.driver, store.queue_name) as queue:
            job_id = await queue.push(Do("stubborn", str(tmp_path)))
            pid = await pid_in(tmp_path / f"pid-{job_id}")
            await queue.push({"folder": str(tmp_path)}, JobName("fork", dict[str, str]))
            forked = await pid_in(tmp_path / "forked")
            worker.kill()
            worker.wait()
            await eventually(lambda: has_ended(pid), within=10)
            assert not has_ended(forked)
    finally:
        worker.kill()
        worker.wait()
        for each in (pid, forked):
            if each is not None and not has_ended(each):
                os.kill(each, signal.SIGKILL)


class _Vanishes(logging.Formatter):
    """A formatter that can be pickled, but not where its module can't be imported."""

    def __reduce__(self) -> tuple[Any, ...]:
        return importlib.import_module, ("a_module_that_is_not_there",)


def test_a_formatter_that_a_process_can_not_have_costs_it_only_that(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level
    root.handlers[:] = []
    try:
        handler_process._set_up_logging((logging.INFO, pickle.dumps(_Vanishes())))
        logging.getLogger("any").info("heard")
    finally:
        root.handlers[:], root.level = kept, level
    assert "heard" in capfd.readouterr().err


def test_the_log_of_a_process_looks_as_the_workers(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("[%(message)s]"))
    kept, level = root.handlers[:], root.level
    root.handlers[:], root.level = [handler], logging.INFO
    try:
        settings = handler_process.log_settings()
        root.handlers[:], root.level = [], logging.WARNING
        handler_process._set_up_logging(settings)
        assert root.level == logging.INFO
        assert root.handlers[0].formatter is not None
        assert root.handlers[0].formatter._fmt == "[%(message)s]"
    finally:
        root.handlers[:], root.level = kept, level


@pytest.mark.parametrize("around", [False, True])
async def test_what_a_handler_returns_in_a_process_is_its_result(store: Store, *, around: bool) -> None:
    class Around(Middleware):
        async def around(self, _job: Any, _context: Any, call_next: Any) -> Any:
            return await call_next()

    middleware = [Around()] if around else []
    async with JobQueue(store.driver, store.queue_name, middleware=middleware) as queue:
        job = queue.job(run_in="process", keep_result=60)(handlers.returns)
        strict = queue.job(run_in="process", keep_result=60, strict_result=True)(handlers.strictly)
        total, call, local = [await job.push(what) for what in ("total", "call", "local")]
        plain, failed = await job.options(keep_result=0).push("call"), await strict.push()
        await drain(queue, concurrency=1)

        assert await total.result(timeout=5) == {"total": 5}
        for handle in (call, local):
            why = r"returns: the result can't leave its process: .*(pickle|local object)"  # as Python says
            with pytest.raises(ResultRefused, match=why):
                await handle.result(timeout=5)
        with pytest.raises(JobFailed, match="valid integer"):
            await failed.result(timeout=5)
        with pytest.raises(ResultNotKept):
            await plain.result(timeout=5)
        assert (await queue.control.counts()).totals["completed"] == 4
