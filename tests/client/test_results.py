"""Results of jobs, and waiting for them, by the async face: on memory and on every server at hand."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, ClassVar, TypedDict

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from each_setting import store as store
from pydantic import BaseModel
from results import drain, listening, result, waited_for
from store import RedisStore, Store, eventually

from conftest import ENGINES
from redisjobs import (
    DriverError,
    Fail,
    JobCancelled,
    JobContext,
    JobFailed,
    JobHandle,
    JobName,
    JobQueue,
    Middleware,
    Progress,
    Reply,
    Retry,
    Snooze,
    State,
    Worker,
    no_retry,
)
from redisjobs.drivers.memory.driver import MemoryDriver
from redisjobs.errors import (
    DecodeError,
    RegistrationError,
    ResultExpired,
    ResultNotKept,
    ResultRefused,
)
from redisjobs.model.changes import Ending, GetStatus
from redisjobs_proof.contract.awaiting import ends_by_itself

pytestmark = pytest.mark.anyio


@dataclass
class Add:
    job_name: ClassVar[str] = "Add"
    a: int
    b: int = 1


@dataclass
class Total:
    total: int


class Report(BaseModel):
    pages: int
    title: str = ""


class Wait(TypedDict):
    seconds: float


@pytest.fixture(params=["memory trio", *(f"{engine} asyncio" for engine in ENGINES)])
def setting(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def another(store: Store) -> JobQueue:
    """The queue as another process has it, which has none of the handlers."""
    return JobQueue(store.another(), store.queue_name)


@asynccontextmanager
async def at_work(queue: JobQueue, **options: Any) -> AsyncIterator[None]:
    """A worker runs while the block does."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Worker(queue, **options).run)
        yield
        tasks.cancel_scope.cancel()


def test_a_queue_keeps_nothing_of_event_loops_that_have_ended() -> None:
    queue = JobQueue("memory://")

    async def waits() -> None:
        with pytest.raises(TimeoutError):
            await queue.result((await queue.push({}, work.name)).id, timeout=0.01)
        await queue.aclose()

    @queue.job
    async def work() -> None: ...

    for backend in ["trio"] * 3 + ["asyncio"] * 3:
        anyio.run(waits, backend=backend)
    assert len(queue._waitings._by_loop) == 1  # that of the last, until another begins


# What is returned


async def test_what_a_handler_returned_is_given_to_those_who_wait(queue: JobQueue) -> None:
    @queue.job(keep_result=60)
    async def add(a: int, b: int) -> int:
        return a + b

    async with at_work(queue):
        handle = await add.push(2, b=3)
        assert await result(handle.result()) == 5
        assert await result(handle.result()) == 5
        assert await result(queue.result(handle.id)) == 5
        assert await result(queue.result(handle.id, returns=float)) == 5.0


async def test_a_result_comes_back_as_the_type_that_its_handler_says(queue: JobQueue, store: Store) -> None:
    @queue.job(keep_result=timedelta(minutes=1))
    async def text() -> str:
        return "größe"

    @queue.job(keep_result=60)
    async def numbers() -> list[int]:
        return [1, 2**60]

    @queue.job(keep_result=60)
    async def made() -> Total:
        return Total(5)

    @queue.job(keep_result=60)
    async def report() -> Report:
        return Report(pages=3)

    @queue.job(keep_result=60)
    async def nothing() -> None:
        pass

    @queue.job(keep_result=60)
    async def several() -> dict[str, Total | None]:
        return {"a": Total(1), "b": None}

    @queue.job(keep_result=60)
    async def unsaid():  # type: ignore[no-untyped-def]
        return {"total": 5}

    handles: list[Any] = [await each.push() for each in (text, numbers, made, report, nothing, several, unsaid)]
    await drain(queue)

    results = [await result(handle.result()) for handle in handles]
    assert results == [
        *("größe", [1, 2**60], Total(5), Report(pages=3), None),
        *({"a": Total(1), "b": None}, {"total": 5}),
    ]
    async with another(store) as producer:
        assert await result(producer.result(handles[2].id)) == {"total": 5}
        assert await result(producer.result(handles[2].id, returns=Total)) == Total(5)
        with pytest.raises(DecodeError, match="str: should be a valid string"):
            await producer.result(handles[2].id, returns=str)


async def test_a_function_that_returns_what_is_to_be_awaited_and_one_in_a_thread_have_results(
    queue: JobQueue,
) -> None:
    async def later() -> int:
        await anyio.lowlevel.checkpoint()
        return 7

    @queue.job(keep_result=60)
    def threaded() -> int:
        return threading.get_ident()

    @queue.job(keep_result=60)
    def wrapped() -> Awaitable[int]:
        return later()

    first, second = await threaded.push(), await wrapped.push()
    await drain(queue)
    assert await result(first.result()) != threading.get_ident()
    assert await result(queue.result(second, returns=int)) == 7
    assert await result(second.result()) == 7


async def test_a_job_that_is_tried_again_has_the_result_of_its_last_run(queue: JobQueue) -> None:
    @queue.job(keep_result=60)
    async def thrice(context: JobContext) -> int:
        if context.attempt == 1:
            raise Retry(delay=0)
        if context.attempt == 2 and context.deliveries == 1:
            raise Retry(delay=0)
        return context.attempt

    handle = await thrice.push()
    async with at_work(queue):
        assert await result(handle.result()) == 3


async def test_what_middleware_around_a_handler_returns_is_the_result(store: Store) -> None:
    class Doubled(Middleware):
        async def around(self, parameters: Any, context: JobContext, call_next: Any) -> Any:
            return 2 * await call_next()

    async with JobQueue(store.driver, store.queue_name, middleware=[Doubled()]) as queue:

        @queue.job(keep_result=60)
        async def add(a: int) -> int:
            return a + 1

        @queue.job(keep_result=60)
        def threaded(a: int) -> int:
            return a + 1

        handles = [await add.push(1), await threaded.push(2)]
        await drain(queue)
        assert [await result(handle.result()) for handle in handles] == [4, 6]


async def test_a_handler_can_wait_for_the_result_of_another_job(queue: JobQueue) -> None:
    @queue.job(keep_result=60)
    async def inner(a: int) -> int:
        return a + 1

    @queue.job(keep_result=60)
    async def outer(a: int) -> int:
        return 10 * await inner.run(a)

    async with at_work(queue, concurrency=2):
        assert await result(outer.run(4)) == 50


async def test_a_worker_that_runs_until_idle_runs_a_job_that_a_handler_waits_for(queue: JobQueue) -> None:
    found_nothing = anyio.Event()

    @queue.job(keep_result=60)
    async def inner(a: int) -> int:
        return a + 1

    @queue.job(keep_result=60)
    async def outer(a: int) -> int:
        await found_nothing.wait()
        return 10 * await inner.run(await inner.run(a))

    handle = await outer.push(4)
    worker = Worker(queue, concurrency=4)

    def waits() -> bool:
        return worker._current is not None and worker._current.sources[0].fetcher.waiting

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(worker.run, until_idle=True))
            await eventually(waits)  # for jobs, with a claim that found nothing behind it
            found_nothing.set()
    assert await result(handle.result(timeout=0)) == 60


async def test_run_pushes_and_waits(queue: JobQueue, store: Store) -> None:
    @queue.register(Add)
    async def add(parameters: Add) -> int:
        return parameters.a + parameters.b

    @queue.job(name="keep_result")  # a name like that of a field
    async def odd(a: int) -> int:
        return a

    async with at_work(queue), another(store) as producer:
        assert await result(queue.run(Add(1))) == 2
        assert await result(producer.run(Add(1, 2), timeout=timedelta(seconds=30))) == 3
        assert await result(queue.run({"a": 5}, "Add", job_id="five", priority="high")) == 6
        assert await result(odd.run(8)) == 8
        with pytest.raises(ValueError, match="keep_result=0: nothing would be kept that could be waited for"):
            await queue.run(Add(1), keep_result=0)
        assert (await queue.control.counts()).totals["pushed"] == 4
        assert await result(producer.result("five")) == 6


# What is kept, and for how long


async def until_delayed(queue: JobQueue, job: JobHandle[Any]) -> None:
    with anyio.fail_after(10):
        while (info := await queue.get(job)) is None or info.state is not State.DELAYED:  # noqa: ASYNC110
            await anyio.sleep(0.005)


async def test_what_a_push_says_goes_before_what_the_registration_says(queue: JobQueue) -> None:
    @queue.job(keep_result=60)
    async def kept() -> int:
        return 1

    @queue.job
    async def plain() -> int:
        return 2

    handles = [
        await kept.push(),
        await kept.options(keep_result=0).push(),
        await plain.push(),
        await plain.options(keep_result=60).push(),
    ]
    await drain(queue)
    results = [await result(handle.result()) for handle in handles]
    assert [each if isinstance(each, int) else type(each) for each in results] == [
        *(1, ResultNotKept, ResultNotKept, 2)
    ]


@pytest.mark.parametrize("end", ["done", "after a retry", "cancelled", "cancelled after a retry", "dead"])
async def test_a_result_is_kept_as_the_worker_says_though_the_producer_knows_only_the_class(
    queue: JobQueue, store: Store, end: str
) -> None:
    begun, retry = anyio.Event(), "retry" in end

    @queue.register(Add, keep_result=60, retry=no_retry())
    async def add(parameters: Add, context: JobContext) -> int:
        if retry and context.deliveries == 1 and not begun.is_set():
            begun.set()
            raise Snooze(60 if "cancelled" in end else 0)
        if end == "dead":
            raise Fail("no")
        begun.set()
        if "cancelled" in end:
            await anyio.sleep_forever()
        return parameters.a + parameters.b

    async with another(store) as producer, at_work(queue):
        handle = await producer.push(Add(1, 2))
        got: list[Any] = []
        async with anyio.create_task_group() as tasks:

            async def wait() -> None:
                got.append(await result(handle.result()))

            tasks.start_soon(wait)
            if "cancelled" in end:
                await begun.wait()
                if retry:
                    await until_delayed(producer, handle)
                assert await producer.cancel(handle) in (Reply.CANCELLING, Reply.CANCELLED)
        kinds = {"done": int, "after a retry": int, "dead": JobFailed}
        assert type(got[0]) is kinds.get(end, JobCancelled)
        if kinds.get(end) is int:
            assert got == [3]


async def test_a_result_that_was_kept_until_a_while_ago_is_expired(queue: JobQueue, store: Store) -> None:
    @queue.job(keep_result=0.4)
    async def quick() -> int:
        return 1

    await quick.options(job_id="a").push()
    await drain(queue)
    await ends_by_itself(store, Ending.EXPIRED)
    error = await result(queue.result("a"))
    if not isinstance(error, ResultNotKept):  # the machine is slow
        assert isinstance(error, ResultExpired)
        assert str(error) == "job a is done, and its result is no longer kept; push it again"
    await ends_by_itself(store, Ending.NOT_FOUND)
    assert isinstance(await result(queue.result("a")), ResultNotKept)


async def test_a_job_of_which_no_result_is_kept_is_an_error_as_soon_as_that_is_known(queue: JobQueue) -> None:
    @queue.job
    async def plain() -> int:
        return 2

    at_once = await plain.options(keep_result=0, job_id="a").push()
    error = await result(at_once.result())
    assert isinstance(error, ResultNotKept)
    assert str(error) == "job a was pushed with keep_result=0, so no result of it will be kept; it goes on"
    assert error.job_id == "a"
    assert isinstance(await result(at_once.result(timeout=0)), ResultNotKept)

    error = await result(queue.result("never"))
    assert str(error) == (
        "no job never is on the queue, and nothing is known of one that has ended: there never was one, or no "
        "result of it was kept, or it ended long ago"
    )
    at_its_end = await plain.options(job_id="b").push()
    async with at_work(queue):
        error = await result(at_its_end.result())
    assert isinstance(error, ResultNotKept)
    assert "give keep_result= where it is pushed or registered" in str(error) or "no job b" in str(error)


async def test_a_new_push_of_an_id_has_a_result_of_its_own(queue: JobQueue) -> None:
    @queue.job(keep_result=60)
    async def say(what: str) -> str:
        return what

    again = say.options(job_id="a")
    await again.push("one")
    await drain(queue)
    assert await result(queue.result("a")) == "one"
    handle = await again.push("two")
    with pytest.raises(TimeoutError):
        await handle.result(timeout=0)
    await drain(queue)
    assert await result(handle.result()) == "two"


# Results that can't be kept


class Refused:
    """Not for JSON."""


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("5", "odd: the result does not fit: int: should be a valid integer (got str)"),
        (Refused(), "the result"),
        (None, "odd: the result does not fit: int: should be a valid integer (got NoneType)"),
    ],
)
async def test_a_result_of_another_type_is_refused_and_the_job_is_done(
    queue: JobQueue, returned: Any, said: str
) -> None:
    runs = []

    @queue.job(keep_result=60, name="odd")
    async def odd() -> int:
        runs.append(1)
        return returned  # type: ignore[no-any-return]

    handle = await odd.options(job_id="a").push()
    await drain(queue)
    error = await result(handle.result())
    assert isinstance(error, ResultRefused)
    assert str(error).startswith("job a is done, but its result could not be kept: odd: ")
    assert said in str(error)
    assert (runs, (await queue.control.counts()).totals["completed"]) == ([1], 1)


async def test_a_result_that_is_too_large_or_no_json_is_refused_by_name(store: Store) -> None:
    async with JobQueue(store.driver, store.queue_name, max_parameters=100) as queue:

        @queue.job(keep_result=60)
        async def large():  # type: ignore[no-untyped-def]
            return "x" * 99

        @queue.job(keep_result=60)
        async def unwritable():  # type: ignore[no-untyped-def]
            return {"a": Refused()}

        @queue.job(keep_result=60)
        async def odd():  # type: ignore[no-untyped-def]
            return object()

        first, second, third = await large.push(), await unwritable.push(), await odd.push()
        await drain(queue)
        error = await result(first.result())
        assert str(error) == (
            f"job {first.id} is done, but its result could not be kept: large: the result takes 101 bytes of "
            "JSON, the limit is 100; keep large data elsewhere and return where it is, or raise max_parameters= "
            "of the queue"
        )
        error = await result(second.result())
        assert isinstance(error, ResultRefused)
        assert "unwritable: the result can't be written" in str(error)
        error = await result(third.result())
        assert str(error).endswith(": JSON has no form for a value of type object")


async def test_a_strict_result_that_cant_be_kept_fails_the_job_and_it_is_not_run_again(queue: JobQueue) -> None:
    runs = []

    @queue.job(keep_result=60, strict_result=True)
    async def odd() -> int:
        runs.append(1)
        return "5"  # type: ignore[return-value]

    handle = await odd.push()
    await drain(queue)
    error = await result(handle.result())
    assert isinstance(error, JobFailed)
    assert (error.type, error.reason) == ("redisjobs.errors.UnwritableResult", "failed")
    assert "the handler has returned, and is not run again: odd: the result does not fit" in str(error)
    info = await queue.get(handle)
    assert (len(runs), info and info.state) == (1, State.DEAD)


async def test_a_result_type_that_cant_be_read_is_an_error_where_it_is_registered(queue: JobQueue) -> None:
    async def odd() -> Refused:
        return Refused()

    with pytest.raises(RegistrationError, match="Refused"):
        queue.job(keep_result=60)(odd)
    assert queue.definitions == {}
    plain = queue.job(odd)  # where nothing is kept it may return what it likes
    await plain.push()
    await drain(queue)
    assert (await queue.control.counts()).totals["completed"] == 1

    handle = await plain.options(keep_result=60).push()
    await drain(queue)
    assert isinstance(await result(another_result(queue, handle.id)), ResultRefused)


async def test_an_annotation_that_names_what_is_not_there_is_an_error_where_a_result_is_kept(
    queue: JobQueue,
) -> None:
    async def early(add: Add) -> "list[NotThere]":  # type: ignore[name-defined]  # noqa: F821
        return []

    with pytest.raises(RegistrationError, match=r"early: can't read what it returns: name 'NotThere' is not"):
        queue.register(Add, keep_result=60)(early)
    assert queue.definitions == {}
    queue.register(Add)(early)  # where nothing is kept it may say what it likes
    handle = await queue.push(Add(1), keep_result=60)
    await drain(queue)
    assert isinstance(error := await result(another_result(queue, handle.id)), ResultRefused)
    assert "early: can't read what it returns" in str(error)


async def test_run_pushes_nothing_where_what_the_handler_returns_can_not_be_read(queue: JobQueue) -> None:
    async def early(add: Add) -> "list[NotThere]":  # type: ignore[name-defined]  # noqa: F821
        return []

    queue.register(Add)(early)
    with pytest.raises(RegistrationError, match="early: can't read what it returns"):
        await queue.run(Add(1))
    assert (await queue.control.counts()).totals.get("pushed", 0) == 0


async def test_what_a_handler_takes_may_be_unreadable_where_what_it_returns_is_kept(queue: JobQueue) -> None:
    async def late(add: "NotThere") -> "list[int]":  # type: ignore[name-defined]  # noqa: F821
        return [1]

    queue.register(Add, keep_result=60)(late)
    handle = await queue.push(Add(1))
    await drain(queue)
    assert await queue.result(handle.id) == [1]


async def another_result(queue: JobQueue, job_id: str) -> Any:
    return await queue.result(job_id)


async def test_large_results_go_in_settlements_of_some_megabytes_each(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    async with JobQueue(store.driver, store.queue_name) as queue:

        @queue.job(keep_result=60)
        async def large() -> str:
            return "x" * 500_000

        handles = await queue.push_many([large.prepare() for _ in range(20)])
        consumer = type(store.driver.consumer("w1", lease=15, max_deliveries=3))
        exchange = consumer.exchange

        async def noted(self: Any, settlements: Any, *args: Any, **options: Any) -> Any:
            values = [settlement.result.value for _, settlement in settlements if settlement.result]
            sizes.append(sum(map(len, values)))
            return await exchange(self, settlements, *args, **options)

        monkeypatch.setattr(consumer, "exchange", noted)
        async with at_work(queue, concurrency=20):
            results = [await result(handle.result()) for handle in handles]
    assert {len(each) for each in results} == {500_000}
    assert max(sizes) < 2_700_000


# Jobs that have no result


async def test_a_job_that_failed_raises_what_its_handler_raised_as_far_as_it_is_known(queue: JobQueue) -> None:
    @queue.job(keep_result=60, retry=no_retry())
    async def bad() -> int:
        raise LookupError("no such customer")

    handle = await bad.options(job_id="a").push()
    async with at_work(queue):
        error = await result(handle.result())
    assert isinstance(error, JobFailed)
    assert (error.job_id, error.type, error.message, error.reason) == (
        *("a", "LookupError", "LookupError: no such customer", "failed"),
    )
    assert 'raise LookupError("no such customer")' in error.traceback
    first, second, *_ = error.traceback.splitlines()
    assert (first, "in bad" in second) == ("Traceback (most recent call last):", True)  # and none of our frames
    assert str(error) == "job a failed: LookupError: no such customer"
    await queue.control.delete("a")
    error = await result(handle.result())
    assert isinstance(error, JobFailed)
    assert (error.type, error.message, error.traceback) == ("LookupError", "LookupError: no such customer", "")


async def test_a_job_that_failed_and_is_requeued_has_a_result_after_all(queue: JobQueue) -> None:
    broken = [True]

    @queue.job(keep_result=60, retry=no_retry())
    async def flaky() -> int:
        if broken:
            raise LookupError("broken")
        return 5

    handle = await flaky.push()
    async with at_work(queue):
        assert isinstance(await result(handle.result()), JobFailed)
        broken.clear()
        assert await queue.control.requeue(handle)
        assert await result(handle.result()) == 5


@pytest.mark.parametrize("where", ["delayed", "ready", "running"])
async def test_a_wait_for_a_job_that_is_cancelled_ends(queue: JobQueue, store: Store, where: str) -> None:
    begun = anyio.Event()

    @queue.job(keep_result=60)
    async def stuck() -> int:
        begun.set()
        await anyio.sleep_forever()
        return 1

    handle = await stuck.options(job_id="a", delay=60 if where == "delayed" else None).push()
    got: list[Any] = []

    async def wait() -> None:
        got.append(await result(handle.result()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await waited_for(store, "a")
        if where == "running":
            tasks.start_soon(Worker(queue).run)
            await begun.wait()
        await handle.cancel()
        await eventually(lambda: got)
        tasks.cancel_scope.cancel()
    assert isinstance(got[0], JobCancelled)
    assert str(got[0]) == "job a was cancelled"
    assert isinstance(await result(handle.result()), JobCancelled)


async def test_a_wait_that_takes_too_long_says_so_and_the_job_goes_on(queue: JobQueue) -> None:
    @queue.job(keep_result=60)
    async def add(a: int) -> int:
        return a + 1

    handle = await add.options(job_id="a").push(1)
    for timeout in (0, 0.05, timedelta(milliseconds=50)):
        with pytest.raises(TimeoutError) as raised:
            await handle.result(timeout=timeout)
        said = "0" if timeout == 0 else "0.05"
        assert str(raised.value) == f"job a has not ended in {said} s; it goes on"
    with pytest.raises(TimeoutError):
        await queue.run(Add(1), JobName("unknown", Add), timeout=0.01)
    assert await queue.cancel((await queue.control.jobs(State.READY))[1].job_id) is Reply.CANCELLED
    await drain(queue)
    assert await result(handle.result(timeout=0)) == 2
    with pytest.raises(ValueError, match="timeout"):
        await handle.result(timeout=-1)
    with pytest.raises(TypeError, match="is no job"):
        await queue.result(5)  # type: ignore[call-overload]


@pytest.mark.slow
async def test_who_has_waited_long_enough_is_told_that_no_one_here_keeps_the_result(
    queue: JobQueue, store: Store
) -> None:
    @queue.job
    async def plain() -> int:
        return 1

    handle, kept = await plain.options(job_id="a").push(), await plain.options(keep_result=60, job_id="b").push()
    bare = "job a has not ended in {} s; it goes on"
    hint = (
        ". As far as is known here no result of it will be kept: neither its push nor the handler of 'plain' says "
        "keep_result="
    )
    for timeout in (0, 0.5):
        with pytest.raises(TimeoutError) as raised:
            await handle.result(timeout=timeout)
        assert str(raised.value) == bare.format(timeout) + hint
        with pytest.raises(TimeoutError) as raised:
            await kept.result(timeout=timeout)
        assert str(raised.value) == bare.format(timeout).replace("job a", "job b")
        async with another(store) as producer:  # where the handler is not known
            with pytest.raises(TimeoutError) as raised:
                await producer.result(handle, timeout=timeout)
            assert str(raised.value) == bare.format(timeout)


async def test_the_result_of_a_job_of_another_name_that_holds_the_unique_key_is_what_its_json_says(
    queue: JobQueue,
) -> None:
    @queue.job(keep_result=60)
    async def total() -> Total:
        return Total(7)

    @queue.job(keep_result=60)
    async def number() -> int:
        return 7

    @queue.job(keep_result=60)
    async def moment() -> datetime:  # which 7 could be read as
        return datetime.now(UTC)

    @queue.job(keep_result=60)
    async def text() -> str:
        return "x"

    first = [await job.options(unique=name).push() for job, name in ((total, "a"), (number, "b"))]
    same, other = await total.options(unique="a").push(), await text.options(unique="a").push()
    odd, stricter = await moment.options(unique="b").push(), await text.options(unique="b").push()
    assert [each.id for each in (same, other, odd, stricter)] == [first[0].id] * 2 + [first[1].id] * 2
    assert [each.is_other for each in (*first, same, other, odd, stricter)] == [False] * 2 + [True] * 4
    await drain(queue)

    assert await result(same.result()) == Total(7)
    assert await result(other.result()) == {"total": 7}
    assert await result(odd.result()) == await result(stricter.result()) == 7
    with pytest.raises(DecodeError):
        await queue.result(odd, returns=list[int])


async def test_what_replaced_a_waiting_job_has_a_result_of_its_own_type(queue: JobQueue) -> None:
    @queue.job(keep_result=60)
    async def number() -> int:
        return 7

    @queue.job(keep_result=60)
    async def total() -> Total:
        return Total(7)

    held = await number.options(unique="a").push()
    handle = await total.options(unique="a", on_conflict="replace").push()
    assert (handle.id, handle.replaced, handle.is_other) == (held.id, True, False)
    await drain(queue)
    assert await result(handle.result()) == Total(7)


async def test_the_type_of_a_result_is_said_whatever_the_id_of_its_job(queue: JobQueue) -> None:
    @queue.job(keep_result=60)
    async def one() -> int:
        return 1

    for job_id in ("my job 1", "x" * 500, "tab\t"):
        await one.options(job_id=job_id).push()
        await drain(queue)
        assert await result(queue.result(job_id, returns=float)) == 1.0
        with pytest.raises(DecodeError, match="result: list: "):
            await queue.result(job_id, returns=list[int])


def test_a_watch_can_be_made_where_no_event_loop_runs() -> None:
    queue = JobQueue("memory://")
    watching = queue.watch("never")
    with pytest.raises(TypeError, match="is no job"):
        queue.watch(5)  # type: ignore[arg-type]

    async def seen() -> list[Progress]:
        return [progress async for progress in watching]

    assert anyio.run(seen) == []


async def test_a_wait_by_a_driver_that_cant_listen_is_an_error() -> None:
    class Old(MemoryDriver):
        async def listen(self, on_notification: Any) -> None:  # type: ignore[override]
            await anyio.sleep_forever()

    async with JobQueue(Old(), "old") as queue:
        with pytest.raises(DriverError, match=r"this process can.t wait for jobs: .*listen"), anyio.fail_after(10):
            await queue.result("a")


# Many who wait


async def test_any_number_of_waiters_use_one_connection_and_few_questions(
    queue: JobQueue, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    @queue.job(keep_result=60)
    async def echo(a: int) -> int:
        return a

    asked: list[int] = []
    change = type(store.driver).change

    async def noted(self: Any, wanted: Any) -> Any:
        if isinstance(wanted, GetStatus):
            asked.append(len(wanted.job_ids))
        return await change(self, wanted)

    monkeypatch.setattr(type(store.driver), "change", noted)
    handles = await queue.push_many([echo.prepare(a) for a in range(500)])
    got: dict[int, Any] = {}

    async def wait(a: int) -> None:
        got[a] = await result(handles[a].result())

    async with anyio.create_task_group() as tasks:
        for a in range(500):
            tasks.start_soon(wait, a)
        await waited_for(store, *(handle.id for handle in handles))
        assert sum(asked) <= 1000  # all of them once, or again as the listening began meanwhile
        assert len(asked) <= 3
        if isinstance(store, RedisStore):
            assert len(listening(store)) == 1
        await drain(queue)
    assert got == {a: a for a in range(500)}
    assert sum(asked) <= 2000


async def test_one_who_leaves_disturbs_no_one_else(queue: JobQueue) -> None:
    @queue.job(keep_result=60)
    async def add(a: int) -> int:
        return a + 1

    handle = await add.push(1)
    got: list[Any] = []

    async def wait() -> None:
        got.append(await result(handle.result()))

    async def leave() -> None:
        with pytest.raises(TimeoutError):
            await handle.result(timeout=0.05)

    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as first:
            tasks.start_soon(wait)
            tasks.start_soon(leave)
            with anyio.move_on_after(0.02):
                await handle.result()
            first.cancel()
            await handle.result()
        for _ in range(20):
            tasks.start_soon(wait)
        await leave()
        await drain(queue)
    assert got == [2] * 21


async def test_when_the_queue_is_closed_those_who_wait_open_it_again(queue: JobQueue, store: Store) -> None:
    @queue.job(keep_result=60)
    async def add(a: int) -> int:
        return a + 1

    handle = await add.push(1)
    got: list[Any] = []

    async def wait() -> None:
        got.append(await result(handle.result()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await waited_for(store, handle.id)
        await queue.aclose()
        await drain(queue)
    assert got == [2]


async def test_several_event_loops_wait_by_one_queue(queue: JobQueue, store: Store) -> None:
    @queue.job(keep_result=60)
    async def add(a: int) -> int:
        return a + 1

    handles = [await add.push(a) for a in range(4)]
    got: list[Any] = []

    async def wait_there(a: int) -> None:
        got.append(await result(handles[a].result()))
        await queue.aclose()

    async def wait_here() -> None:
        got.append(await result(handles[0].result()))

    async def in_another_loop(a: int) -> None:
        await anyio.to_thread.run_sync(lambda: asyncio.run(wait_there(a)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait_here)
        for a in range(1, 4):
            tasks.start_soon(in_another_loop, a)
        await waited_for(store, *(handle.id for handle in handles))
        await drain(queue)
    assert sorted(got) == [1, 2, 3, 4]
