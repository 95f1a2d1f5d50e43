"""The context of sync handlers: steps and waits without `await`, from threads and processes."""

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from each_setting import store as store
from results import drain
from step_handlers import Bench, Do
from store import MemoryStore, RedisStore, Store, eventually

from redisjobs import JobContext, JobQueue, Middleware, State, Worker, current_job, no_retry, sync
from redisjobs.errors import RegistrationError
from redisjobs.events.middleware import CallNext, RunningJob
from redisjobs.model.steps import GetSteps
from redisjobs_proof.torture.proxy import Proxy

pytestmark = pytest.mark.anyio


class Passes(Middleware):
    async def around(self, job: RunningJob, context: JobContext, call_next: CallNext) -> Any:
        return await call_next()


@pytest.mark.parametrize("middleware", [[], [Passes()]])
async def test_a_sync_handler_gets_the_sync_context_whatever_it_is_annotated(
    store: Store, middleware: list[Middleware]
) -> None:
    seen = list[object]()
    async with JobQueue(store.driver, store.queue_name, middleware=middleware) as queue:

        @queue.job
        def base(context: JobContext) -> None:
            seen.append(type(context))

        @queue.job
        def own(number: int, context: sync.JobContext | None = None) -> None:
            assert current_job() is context
            seen.append(type(context))

        @queue.register(Do)
        def registered(do: Do, context: sync.JobContext[str]) -> None:
            seen.append(type(context))

        @queue.job
        async def in_loop(context: JobContext) -> None:
            seen.append(type(context))

        for pushed in (base.push(), own.push(5), queue.push(Do([], "")), in_loop.push()):
            await pushed
            await drain(queue, concurrency=1)

    assert seen == [sync.JobContext] * 3 + [JobContext]


async def test_an_async_handler_that_asks_for_the_sync_context_is_refused_at_registration(store: Store) -> None:
    async def bare(context: sync.JobContext) -> None: ...

    async def of_state(number: int, context: sync.JobContext[str] | None = None) -> None: ...

    async def two(do: Do, context: sync.JobContext) -> None: ...

    async def unreadable(do: Do, context: "NoSuchContext") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    async with JobQueue(store.driver, store.queue_name) as queue:
        for register in (lambda: queue.job(bare), lambda: queue.job(of_state), lambda: queue.register(Do)(two)):
            with pytest.raises(RegistrationError, match=r"is async and takes a redisjobs\.sync\.JobContext"):
                register()
        assert queue.definitions == {}
        queue.register(Do)(unreadable)


async def test_a_step_of_a_sync_handler_cannot_be_an_async_function(store: Store, tmp_path: Path) -> None:
    bench = Bench(store, "thread", tmp_path)
    async with bench.queue:
        await bench.push(["try", "step", "charge", "in_loop"], ["step", "charge"])
        await drain(bench.queue)

    assert bench.calls("charge") == 1
    assert bench.told == [
        "TypeError: step 'charge': its function is async, and a sync handler can't await it: give a sync one",
        "'charge 1'",
    ]


async def test_the_verbs_in_the_thread_of_the_event_loop_are_errors(store: Store) -> None:
    said = list[str]()

    def note(call: Callable[[], object]) -> None:
        with pytest.raises(RuntimeError, match="this is the thread of the worker's event loop") as raised:
            call()
        said.append(str(raised.value))

    class Uses(Middleware):
        async def around(self, job: RunningJob, context: JobContext, call_next: CallNext) -> Any:
            note(lambda: context.sleep(1))
            return await call_next()

    async with JobQueue(store.driver, store.queue_name, middleware=[Uses()]) as queue:

        def plain(function: Any) -> Any:
            @functools.wraps(function)
            def call(*args: Any, **kwargs: Any) -> Any:
                return function(*args, **kwargs)

            return call

        @queue.job
        @plain
        async def work(context: JobContext) -> None:
            for verb in (context.step, context.wait_for):
                note(lambda verb=verb: verb("x", str) if verb == context.step else verb("x"))  # type: ignore[misc]
            note(lambda: context.checkpoint(1))

        job = await work.push()
        await drain(queue)
        assert await queue.get(job) is None
    assert len(said) == 4


async def test_threads_of_a_handler_save_steps_too_but_not_of_one_name_at_a_time(
    store: Store, tmp_path: Path
) -> None:
    said, both = list[str](), threading.Barrier(2, timeout=20)
    async with JobQueue(store.driver, store.queue_name) as queue:

        @queue.job(retry=no_retry())
        def work(context: sync.JobContext) -> None:
            def one(name: str) -> None:
                context.step(name, both.wait)

            def again() -> None:
                try:
                    both.wait()
                    context.step("a", str)
                except ValueError as error:
                    said.append(str(error))

            def slow() -> None:
                both.wait()
                other.join()

            threads = [threading.Thread(target=one, args=[name]) for name in "xy"]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            other = threading.Thread(target=again)
            other.start()
            context.step("a", slow)
            raise LookupError

        job = await work.push()
        await drain(queue)
        (steps,) = await queue.driver.read(GetSteps([job.id]))
    assert steps is not None
    assert steps.saved.keys() == {"x", "y", "a"}
    assert len(said) == 1
    assert "step 'a' has not ended" in said[0]


@pytest.mark.slow
def test_an_abandoned_thread_whose_worker_and_loop_have_ended_waits_for_nothing(queue_name: str) -> None:
    store, said = MemoryStore(queue_name), list[str]()
    begun, go = threading.Event(), threading.Event()
    queue = sync.JobQueue(store.driver, queue_name)
    threads = list[threading.Thread]()

    @queue.job
    def work(context: sync.JobContext) -> None:
        threads.append(threading.current_thread())
        begun.set()
        go.wait(20)
        for call in (lambda: context.step("late", str), lambda: context.sleep(1), lambda: context.checkpoint(1)):
            try:
                call()
            except RuntimeError as error:
                said.append(str(error))

    work.push()
    worker = Worker(queue)

    async def run() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await anyio.to_thread.run_sync(begun.wait, 20)
            worker.stop_now()

    anyio.run(run)
    go.set()
    threads[0].join(20)
    assert len(said) == 3
    assert all("this run is over" in each for each in said)
    queue.close()


def test_a_context_of_no_run_has_no_steps() -> None:
    context = sync.JobContext(
        job_id="a",
        job_name="b",
        queue_name="c",
        attempt=1,
        deliveries=1,
        queued_ms=0,
        scheduled_ms=None,
        next_scheduled_ms=None,
        read_headers=dict,
        worker_id="w",
        state=None,
    )
    with pytest.raises(RuntimeError, match="this context belongs to no run of a worker"):
        context.step("charge", str)


@pytest.mark.slow
async def test_a_process_that_a_handler_has_forked_saves_nothing(store: Store, tmp_path: Path) -> None:
    bench = Bench(store, "process", tmp_path)
    async with bench.queue:
        await bench.push(["in fork", "step", "charge"], ["step", "charge"])
        await drain(bench.queue)

    assert bench.calls("charge") == 1
    assert "a process that a handler has forked can't save steps or wait" in bench.told[0]


@pytest.mark.slow
async def test_threads_of_a_handler_in_a_process_save_steps(store: Store, tmp_path: Path) -> None:
    bench = Bench(store, "process", tmp_path)
    names = [f"step-{number}" for number in range(8)]
    async with bench.queue:
        await bench.push(["in threads", *(["step", name] for name in names)], ["fail", 1])
        await drain(bench.queue)

    assert [bench.calls(name) for name in names] == [1] * 8


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("goes_on", [True, False])
async def test_a_signal_that_breaks_off_a_wait_for_an_answer_mixes_up_no_answers(
    redis_store: RedisStore, proxy: Proxy, tmp_path: Path, *, goes_on: bool
) -> None:
    """The answer to the step that was broken off comes later, and is not taken for one to the next."""
    bench = Bench(redis_store, "process", tmp_path)
    away = Bench(redis_store, "process", tmp_path)
    away.queue._connect(redis_store.url.replace(f":{proxy.target[1]}/", f":{proxy.port}/"))
    more: list[list[Any]] = [["step", "mail"], ["checkpoint", 1]] if goes_on else []
    async with bench.queue, away.queue:
        await bench.push(["await file", "go"], ["alarm", 0.5], ["try", "step", "charge"], *more)
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                worker = Worker(away.queue, lease=30, concurrency=1)
                tasks.start_soon(worker.run)
                await eventually(lambda: bench.calls("go"), within=20)
                proxy.refuse(True)
                proxy.drop_all()
                bench.go("go")
                await eventually(lambda: not worker.health.ready, within=20)
                await anyio.sleep(0.6)  # until the alarm, by the handler's clock
                proxy.refuse(False)
                await eventually(lambda: (tmp_path / "told").exists(), within=20)
                (tmp_path / "told").unlink()
                await bench.push(["step", "next"])
                await eventually(lambda: (tmp_path / "told").exists(), within=20)
                assert bench.told == ["'next 1'"]
                worker.stop()
        totals = (await bench.queue.control.counts()).totals
        assert (totals["completed"], totals["retried"], totals["dead"]) == (2, 0, 0)
        assert bench.calls("charge") == 1


@pytest.mark.slow
async def test_an_error_in_a_process_is_that_of_the_verb(store: Store, tmp_path: Path) -> None:
    bench = Bench(store, "process", tmp_path)
    async with bench.queue:
        job_id = await bench.push(
            ["try", "in threads", ["step", "a"], ["step", "a b"]], ["try", "wait for", "x", {"timeout": -1}]
        )
        await drain(bench.queue)
        assert await bench.queue.get(job_id) is None
        waits = await bench.push(["wait for", "never"])
        await drain(bench.queue)
        info = await bench.queue.get(waits)
        assert info is not None
        assert info.state is State.SUSPENDED
    assert bench.told[0].startswith("ValueError: 'a b' can't name a step")
    assert bench.told[1].startswith("ValueError: ")
