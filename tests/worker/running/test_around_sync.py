"""Middleware around a sync handler, in the thread that the handler runs in."""

import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import process_handlers
import pytest
from process_handlers import Do
from results import drain
from store import Store

from redisjobs import JobContext, JobFailed, JobQueue, Middleware, no_retry
from redisjobs.events.middleware import CallNext, CallNextSync, RunningJob

pytestmark = pytest.mark.anyio


class Steps(Middleware):
    """Notes its steps, and the threads that they are in."""

    def __init__(self, steps: list[str], name: str) -> None:
        self.steps = steps
        self.name = name
        self.threads = set[int]()

    def around_sync(self, job: RunningJob, context: JobContext, call_next: CallNextSync) -> Any:
        assert not job.is_async
        self.threads.add(threading.get_ident())
        self.steps.append(f"{self.name} before {job.name} {job.parameters['number']} of {context.job_id}")
        try:
            return call_next()
        finally:
            self.steps.append(f"{self.name} after")


@pytest.fixture
async def queue(store: Store) -> AsyncIterator[JobQueue]:
    async with JobQueue(store.driver, store.queue_name, retry=no_retry()) as queue:
        yield queue


async def test_it_runs_in_the_handlers_thread_the_first_one_outermost(queue: JobQueue) -> None:
    steps, in_thread = list[str](), set[int]()
    outer, inner = Steps(steps, "outer"), Steps(steps, "inner")
    queue.add_middleware(outer)
    queue.add_middleware(inner)

    @queue.job(keep_result=60)
    def work(number: int) -> str:
        in_thread.add(threading.get_ident())
        return f"did {number}"

    handle = await work.options(job_id="one").push(7)
    await drain(queue)

    assert await handle.result() == "did 7"
    assert steps == ["outer before work 7 of one", "inner before work 7 of one", "inner after", "outer after"]
    assert outer.threads == inner.threads == in_thread != {threading.get_ident()}


async def test_it_is_inside_of_what_is_around_the_handler_and_sees_its_context(queue: JobQueue) -> None:
    steps = list[str]()

    class Both(Steps):
        async def around(self, job: RunningJob, context: JobContext, call_next: CallNext) -> Any:
            self.steps.append("around")
            return await call_next()

    queue.add_middleware(Both(steps, "sync"))

    @queue.job
    def work(number: int) -> None: ...

    await work.options(job_id="one").push(7)
    await drain(queue)

    assert steps == ["around", "sync before work 7 of one", "sync after"]


@pytest.mark.slow
async def test_it_is_not_called_for_an_async_handler_or_one_in_a_process(queue: JobQueue, tmp_path: Path) -> None:
    asyncs, steps = list[tuple[str, bool]](), list[str]()

    class Both(Steps):
        async def around(self, job: RunningJob, context: JobContext, call_next: CallNext) -> Any:
            asyncs.append((job.name, job.is_async))
            return await call_next()

    queue.add_middleware(Both(steps, "sync"))

    @queue.job
    async def work(number: int) -> None: ...

    queue.register(Do, run_in="process")(process_handlers.do)
    await work.push(7)
    await queue.push(Do("return", folder=str(tmp_path)))
    await drain(queue)

    assert sorted(asyncs) == [(Do.job_name, False), ("work", True)]
    assert steps == []


async def test_an_error_of_its_own_is_the_jobs_failure_and_one_it_catches_is_none(queue: JobQueue) -> None:
    class Odd(Middleware):
        def around_sync(self, job: RunningJob, context: JobContext, call_next: CallNextSync) -> Any:
            try:
                call_next()
            except KeyError:
                return "caught"
            raise LookupError("mine")

    queue.add_middleware(Odd())

    @queue.job(keep_result=60)
    def work(fails: bool) -> str:
        if fails:
            raise KeyError("its own")
        return "done"

    caught, raised = await work.push(True), await work.push(False)
    await drain(queue)

    assert await caught.result() == "caught"
    with pytest.raises(JobFailed, match="LookupError: mine"):
        await raised.result()


async def test_a_second_call_and_a_late_one_are_errors_and_the_handler_has_run_once(queue: JobQueue) -> None:
    runs, errors, kept = list[int](), list[str](), list[CallNextSync]()

    class Twice(Middleware):
        def around_sync(self, job: RunningJob, context: JobContext, call_next: CallNextSync) -> Any:
            kept.append(call_next)
            if job.parameters["number"] == 1:
                return None  # the handler does not run, and the job is done
            call_next()
            with pytest.raises(RuntimeError) as raised:
                call_next()
            errors.append(str(raised.value))
            return None

    queue.add_middleware(Twice())

    @queue.job
    def work(number: int) -> None:
        runs.append(number)

    await work.push(1)
    await work.push(2)
    await drain(queue)

    assert runs == [2]
    assert errors == ["call_next runs a job's handler once, while around runs; for another run raise Retry"]
    for late in kept:
        with pytest.raises(RuntimeError, match="while around runs"):
            late()
    assert (await queue.control.counts()).dead == 0


def test_an_async_one_is_refused_as_it_is_added() -> None:
    class Wrong(Middleware):
        async def around_sync(self, job: RunningJob, context: JobContext, call_next: CallNextSync) -> Any: ...

    with pytest.raises(
        TypeError, match=r"Wrong.around_sync is async, but it runs in the thread of a sync handler"
    ):
        JobQueue("memory://", middleware=[Wrong()])
