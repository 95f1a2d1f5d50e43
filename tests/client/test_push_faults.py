"""Pushing over a network that breaks: one job of each id in the end, and no call that hangs."""

import asyncio
import inspect
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import anyio
import anyio.to_thread
import pytest
import redis
import uvloop
from store import RedisStore, a_deadline_of, eventually, happened

import redisjobs.sync
from redisjobs import DriverError, JobContext, JobQueue, State, Unavailable, UniqueConflict, Worker
from redisjobs.drivers.redis.driver import SyncRedisDriver, push_over
from redisjobs.errors import QueueFull, WrongType
from redisjobs.local import server
from redisjobs.model.queries import Count
from redisjobs.model.transitions import Ack, NewJob, Reply
from redisjobs_proof.torture.proxy import HOST, Proxy

pytestmark = pytest.mark.anyio

_EACH = 4  # a run cuts a connection at each fourth byte, from one of the first four on
SLACK = 5.0  # seconds by which a busy machine may be late


@dataclass
class Add:
    job_name: ClassVar[str] = "Add"
    a: int


class Bench:
    """A queue behind a faulty network, of either face, and what really is on the server."""

    def __init__(self, face: str, there: server.Server, proxy: Proxy, name: str) -> None:
        self.proxy, self.server, self.name = proxy, there, name
        self.admin = redis.Redis.from_url(there.url)
        self.face: Any = redisjobs.sync.JobQueue if face == "sync" else JobQueue

    def queue(self, **options: Any) -> Any:
        """A queue with no connection yet."""
        return self.face(self.proxy.url, self.name, **options)

    def direct(self) -> JobQueue:
        """The same queue over a network that works."""
        return JobQueue(self.server.url, self.name)

    def ids(self) -> Counter[str]:
        """The ids of all jobs there are."""
        entries: Any = self.admin.xrange(f"redisjobs:{{{self.name}}}:ready:normal")
        return Counter(fields[b"id"].decode() for _, fields in entries)

    def cuts(self) -> int:
        """How many connections were cut, the proxy having had the time to count them."""
        self.proxy.drop_all()
        return self.proxy.cuts

    def pushed(self) -> int:
        """How many jobs were ever added."""
        return int(self.admin.hget(f"redisjobs:{{{self.name}}}:stats", "pushed") or 0)


@pytest.fixture(params=["async", "sync"])
def bench(request: pytest.FixtureRequest, module_server: server.Server, queue_name: str) -> Iterator[Bench]:
    with Proxy(HOST, module_server.port) as proxy:
        bench = Bench(request.param, module_server, proxy, queue_name)
        yield bench
        bench.admin.close()


async def call(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a queue of either face; a sync one in a thread, as the test goes on meanwhile."""
    if inspect.iscoroutinefunction(method):
        return await method(*args, **kwargs)
    return await anyio.to_thread.run_sync(partial(method, *args, **kwargs))


async def close(queue: Any) -> None:
    await call(queue.aclose if isinstance(queue, JobQueue) else queue.close)


@contextmanager
def takes(at_least: float, at_most: float) -> Iterator[None]:
    started = time.monotonic()
    try:
        yield
    finally:  # also where an error was expected
        assert at_least <= time.monotonic() - started <= at_most + SLACK


# Lost replies


@pytest.mark.slow
async def test_a_connection_cut_at_any_byte_from_its_opening_on_makes_one_job(bench: Bench) -> None:
    async def push(job_id: str) -> None:
        bench.admin.script_flush()  # so the reply is NOSCRIPT, and the script is sent too
        queue = bench.queue(deadline=5)
        with takes(0, 5):
            pushed = await call(queue.push, Add(1), job_id=job_id)
        assert (pushed.id, pushed.added) == (job_id, True)  # also where it took two tries
        await close(queue)

    await push("uncut")
    reply = bench.proxy.reply_bytes
    assert 150 < reply < 3_000  # most of it says of what memory the server has
    cuts = range(random.randrange(_EACH), reply + 1, _EACH)
    for n in cuts:
        bench.proxy.cut_after_reply_bytes(n)
        await push(f"cut-{n}")

    assert len(cuts) - 8 <= bench.cuts() <= len(cuts)  # what the server says of its memory is not always as long
    assert bench.ids() == Counter(["uncut", *(f"cut-{n}" for n in cuts)])


async def test_a_connection_in_use_cut_at_any_byte_of_a_pushs_reply_makes_one_job(bench: Bench) -> None:
    queue = bench.queue(deadline=5)
    await call(queue.push, Add(1), job_id="first")
    before = bench.proxy.reply_bytes
    await call(queue.push, Add(1), job_id="second")
    reply = bench.proxy.reply_bytes - before

    for n in range(reply + 1):
        bench.proxy.cut_after_reply_bytes(n, f"cut-{n}".encode())
        with takes(0, 5):
            pushed = await call(queue.push, Add(1), job_id=f"cut-{n}")
        assert (pushed.id, pushed.added) == (f"cut-{n}", True)

    assert bench.cuts() == reply + 1 == 32
    assert bench.ids() == Counter(["first", "second", *(f"cut-{n}" for n in range(reply + 1))])
    await close(queue)


@pytest.mark.parametrize("options", [{}, {"job_id": "mine"}, {"unique": "joe"}])
async def test_a_job_done_before_its_push_is_repeated_is_not_done_again(bench: Bench, options: Any) -> None:
    queue, driver = bench.queue(), bench.direct().driver
    consumer = driver.consumer("w1", lease=15, max_deliveries=3)
    await consumer.open()
    # A connection is there, and knows the server's clock; the server has both scripts.
    for warm_up in ({"job_id": "first"}, {}):
        await call(queue.push, Add(0), **warm_up)
        await consumer.exchange([(lease, Ack()) for lease in await consumer.wait(1, 5)], None)
    answers: list[Any] = []

    async def push() -> None:
        answers.append(await call(queue.push, Add(1), **options))

    bench.proxy.refuse(True)  # the push can't be repeated until we say so
    bench.proxy.cut_after_reply_bytes(0, b"EVALSHA")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(push)
        leases = await consumer.wait(1, 5)
        await consumer.exchange([(lease, Ack()) for lease in leases], None)
        bench.proxy.refuse(False)

    assert [(answer.id, answer.added) for answer in answers] == [(lease.job_id, True) for lease in leases]
    assert (bench.ids(), bench.pushed(), bench.cuts()) == (Counter(), 3, 1)
    await consumer.aclose()
    await close(queue)


async def test_a_worker_at_work_meanwhile_runs_each_job_once(bench: Bench) -> None:
    queue, direct, ran = bench.queue(), bench.direct(), Counter[str]()

    @direct.register(Add)
    async def add(parameters: Add, context: JobContext) -> None:
        ran[context.job_id] += 1

    worker = Worker(direct)
    async with direct, anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await call(queue.push, Add(0), job_id="first")
        for n in range(13):
            bench.proxy.cut_after_reply_bytes(n, f"cut-{n}".encode())
            await call(queue.push, Add(n), job_id=f"cut-{n}")
        worker.stop()
    await Worker(direct).run(until_idle=True)

    assert bench.cuts() == 13
    assert ran == Counter(["first", *(f"cut-{n}" for n in range(13))])
    assert bench.pushed() == 14
    await direct.aclose()
    await close(queue)


# push_many


@pytest.mark.parametrize(
    ("n", "options"),
    [(n, {}) for n in (0, 1, 7, 30)]  # one word for all of them
    + [(n, {"headers": {"a": "b"}}) for n in (0, 1, 7, 2_000, 4_005)],  # one for each
)
@pytest.mark.parametrize("item", [3, 700, 1_099])
async def test_a_lost_reply_among_those_of_many_jobs_makes_each_once(
    bench: Bench, n: int, options: Any, item: int
) -> None:
    queue = bench.queue()
    await call(queue.push, Add(0), **options)
    bench.proxy.cut_after_reply_bytes(min(n, 806 if item == 1_099 else n), b'{"a":%d}' % item)

    pushed = await call(queue.push_many, [Add(number) for number in range(1, 1_101)], **options)

    assert bench.cuts() == 1
    assert len(pushed) == 1_100
    assert all(each.added for each in pushed)
    there = bench.ids()
    assert set(there.values()) == {1}
    assert list(there)[1:] == [each.id for each in pushed]
    await close(queue)


async def test_many_jobs_pushed_again_after_a_failure_are_there_once(bench: Bench) -> None:
    queue = bench.queue()
    jobs = [queue.prepare(Add(number)) for number in range(1_100)]
    await call(queue.push, Add(0), job_id="first")
    bench.proxy.refuse(True)
    bench.proxy.cut_after_reply_bytes(10, b'{"a":700}')

    said = rf"may or may not be on the queue \({jobs[500].job_id} and 499"
    with a_deadline_of(0.2, queue), pytest.raises(Unavailable, match=said) as caught:
        await call(queue.push_many, jobs)
    bench.proxy.refuse(False)
    assert len(bench.ids()) == 1 + 1_000
    encoded = jobs[500:] if isinstance(queue, JobQueue) else jobs[500:1000]  # the next ones while these were sent
    assert list(caught.value.jobs) == encoded
    await call(queue.push_many, caught.value.jobs)
    await call(queue.push_many, jobs)

    assert bench.ids() == Counter(["first", *(job.job_id for job in jobs)])
    await close(queue)


# Away


def refused(bench: Bench) -> None:
    bench.proxy.refuse(True)


def silent(bench: Bench) -> None:
    bench.proxy.black_hole(True)


@pytest.mark.parametrize("fault", [refused, silent])
@pytest.mark.parametrize("connected", [False, True])
async def test_a_store_away_until_the_deadline_is_an_error_that_says_what_is_true(
    bench: Bench, fault: Callable[[Bench], None], connected: bool
) -> None:
    queue = bench.queue()
    if connected:
        await call(queue.control.counts)
        bench.proxy.cut_after_reply_bytes(0)
    fault(bench)

    gives_up = pytest.raises(Unavailable, match=r"gave up after 0\.3 s: ")
    with a_deadline_of(0.3, queue), gives_up as caught, takes(0.2, 0.3):
        await call(queue.push, Add(1))

    (job_id,) = caught.value.job_ids
    assert isinstance(caught.value, DriverError)
    assert ": ." not in str(caught.value)  # it says why
    assert re.search(
        rf"\. The push is not on the queue \({job_id}\): nothing was written; push_many\(error\.jobs\) pushes it "
        "later$",
        str(caught.value),
    )
    bench.proxy.refuse(False)
    bench.proxy.black_hole(False)
    bench.proxy.drop_all()
    assert [each.id for each in await call(queue.push_many, caught.value.jobs)] == [job_id]
    assert bench.ids() == Counter([job_id])
    await close(queue)


@contextmanager
def lost_reply(bench: Bench) -> Iterator[Callable[[], None]]:
    """The next push is stored and its reply lost; no other comes through until what this gives is called."""
    bench.proxy.cut_after_reply_bytes(0, b"EVALSHA")
    bench.proxy.refuse(True)
    yield partial(bench.proxy.refuse, False)
    bench.proxy.refuse(False)


async def push_without_answer(bench: Bench, queue: Any, jobs: list[Any]) -> tuple[Any, ...]:
    """Push; they are stored, and the caller is not told. What the error has."""
    await call(queue.push, Add(0), job_id="known")  # a connection is there, and knows the server's clock
    gives_up = pytest.raises(Unavailable, match="may or may not be on the queue")
    with lost_reply(bench), a_deadline_of(0.2, queue), gives_up as caught:
        await call(queue.push_many, jobs)
    return caught.value.jobs


async def test_a_producer_that_repeats_a_push_learns_once_that_it_added_the_job(bench: Bench) -> None:
    queue = bench.queue()
    lost = await push_without_answer(bench, queue, [Add(1), queue.prepare(Add(2), job_id="mine")])
    assert len(bench.ids()) == 3

    assert [each.added for each in await call(queue.push_many, lost)] == [True, True]
    assert [each.added for each in await call(queue.push_many, lost)] == [False, False]
    assert len(bench.ids()) == 3
    await close(queue)


async def test_a_push_that_was_refused_is_never_said_to_be_added_however_many_replies_are_lost(
    bench: Bench,
) -> None:
    queue, direct = bench.queue(), bench.direct()
    async with direct:
        await direct.push(Add(0), job_id="mine", unique="key")
        lost: Any = [queue.prepare(Add(1), unique="key"), queue.prepare(Add(2), job_id="mine")]
        for _ in range(2):
            lost = await push_without_answer(bench, queue, lost)
        await direct.cancel("mine")

        assert [each.added for each in await call(queue.push_many, lost)] == [False, False]
        assert bench.ids() == Counter(["known"])
        assert [each.added for each in await direct.push_many([Add(3)], unique="key")] == [True]
    await close(queue)


async def test_a_push_that_replaced_a_job_says_so_after_a_lost_reply_and_undoes_no_later_one(bench: Bench) -> None:
    queue = bench.queue(deadline=5)
    async with bench.direct() as direct:
        first = await direct.push(Add(0), unique="key", delay=60)
        lost = await push_without_answer(
            bench, queue, [queue.prepare(Add(1), unique="key", on_conflict="replace")]
        )
        await direct.push(Add(2), unique="key", on_conflict="replace", delay=60)

        for _ in range(2):
            (told,) = await call(queue.push_many, lost)
            assert (told.id, told.added, told.replaced) == (first.id, False, True)

        info = await direct.get(first)
        assert info is not None
        assert (info.state, json.loads(info.parameters)["a"]) == (State.DELAYED, 2)
        bench.proxy.cut_after_reply_bytes(0, b"EVALSHA")
        again = await call(queue.push, Add(3), unique="key", on_conflict="replace")
        assert (again.id, again.replaced, bench.ids()[first.id]) == (first.id, True, 1)
    await close(queue)


async def test_a_push_that_raised_for_a_held_key_raises_again_however_often_its_reply_is_lost(
    bench: Bench,
) -> None:
    queue = bench.queue()
    async with bench.direct() as direct:
        first = await direct.push(Add(0), unique="key")
        lost: Any = [queue.prepare(Add(1), unique="key", on_conflict="raise")]
        for _ in range(2):
            lost = await push_without_answer(bench, queue, lost)
        await first.cancel()

        with pytest.raises(UniqueConflict) as raised:
            await call(queue.push_many, lost)

        assert raised.value.job_id == first.id
        assert (await direct.push(Add(2), unique="key", on_conflict="raise")).added
    await close(queue)


async def test_a_job_given_twice_to_one_push_is_added_once_also_after_a_lost_reply(bench: Bench) -> None:
    queue = bench.queue(deadline=5)
    await call(queue.push, Add(0))
    job = queue.prepare(Add(1), job_id="mine")
    bench.proxy.cut_after_reply_bytes(0, b"EVALSHA")

    assert [each.added for each in await call(queue.push_many, [job, job])] == [True, False]

    assert (bench.cuts(), bench.ids()["mine"]) == (1, 1)
    assert [each.added for each in await call(queue.push_many, [job, job])] == [False, False]
    await close(queue)


@pytest.mark.parametrize("repeats", ["the queue", "its user"])
async def test_a_refusal_after_a_try_without_an_answer_does_not_say_that_nothing_was_written(
    bench: Bench, repeats: str
) -> None:
    queue = bench.queue(deadline=5 if repeats == "the queue" else 1)
    unique = f"redisjobs:{{{bench.name}}}:unique:key"
    await call(queue.push, Add(0), job_id="known")
    errors: list[Unavailable] = []

    async def push(*jobs: Any) -> None:
        with pytest.raises(Unavailable, match="may or may not be on the queue") as caught:
            await call(queue.push_many, jobs)
        errors.append(caught.value)

    job = queue.prepare(Add(1), unique="key")
    if repeats == "its user":
        await push_without_answer(bench, queue, [job])
        spoil(bench, unique)
        await push(job)
    else:
        with lost_reply(bench) as go:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(push, job)
                await eventually(lambda: len(bench.ids()) == 2)
                spoil(bench, unique)
                go()

    assert re.search("no answer from the store at first, then: WRONGTYPE", str(errors[0]))
    assert errors[0].jobs == (job,)
    bench.admin.delete(unique)
    assert [each.added for each in await call(queue.push_many, errors[0].jobs)] == [True]
    assert len(bench.ids()) == 2
    await close(queue)


def spoil(bench: Bench, key: str) -> None:
    bench.admin.delete(key)
    bench.admin.rpush(key, "junk")


async def test_every_error_of_a_push_has_its_jobs_which_can_be_pushed_once_it_is_fixed(bench: Bench) -> None:
    queue, prefix = bench.queue(), f"redisjobs:{{{bench.name}}}:"
    spoil(bench, f"{prefix}ready:normal")
    with pytest.raises(WrongType, match="nothing was written") as caught:
        await call(queue.push_many, [Add(1), queue.prepare(Add(2))])
    bench.admin.delete(f"{prefix}ready:normal")
    assert [each.added for each in await call(queue.push_many, caught.value.jobs)] == [True, True]

    admin: Any = bench.admin
    admin.execute_command("ACL", "SETUSER", "default", "-smismember")
    try:
        with pytest.raises(DriverError, match="ACL forbids") as refused:
            await call(queue.push, Add(3))
    finally:
        admin.execute_command("ACL", "SETUSER", "default", "+@all")
    assert [each.added for each in await call(queue.push_many, refused.value.jobs)] == [True]
    assert len(bench.ids()) == 3
    await close(queue)


async def test_a_push_is_not_repeated_once_it_can_not_be_told_whether_it_was_stored(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redisjobs.client.push.REPEATABLE", 0.3)
    queue = bench.queue()
    await call(queue.push, Add(0))
    with (
        a_deadline_of(0.3, queue),
        takes(0.2, 0.3),
        lost_reply(bench),
        pytest.raises(Unavailable, match="it can't be repeated safely any more: look with get") as caught,
    ):
        await call(queue.push, Add(1))
    await close(queue)
    assert caught.value.job_ids[0] in bench.ids()


async def test_no_try_takes_longer_than_is_said_however_often_the_clock_was_set(bench: Bench) -> None:
    """Sync code has the queue's deadline; async code ends by itself."""
    driver = bench.queue().driver if bench.face is JobQueue else bench.queue()._store
    if not isinstance(driver, SyncRedisDriver):
        await driver.read(Count())
        link = driver._loops.here().connections.take()
        with pytest.raises(Unavailable, match="the deadline is over"):
            await push_over(link, driver.commands, [NewJob("a", [])], False, time.monotonic() - 1)
        await driver.aclose()
    else:
        with pytest.raises(Unavailable, match="the deadline is over"):
            driver.push([NewJob("a", [])], repeated=False, until=time.monotonic() - 1)
        driver.close()
    assert bench.ids() == Counter()


CALLS: list[Callable[[Any], Any]] = [
    lambda queue: queue.push_many([Add(1), Add(2)]),
    lambda queue: queue.get("a"),
    lambda queue: queue.control.jobs("ready"),
    lambda queue: queue.control.counts(),
    lambda queue: queue.cancel("a"),
    lambda queue: queue.control.requeue("a"),
    lambda queue: queue.control.delete("a"),
]


async def answer(ask: Callable[[Any], Any], queue: Any) -> Any:
    return await ask(queue) if isinstance(queue, JobQueue) else await anyio.to_thread.run_sync(ask, queue)


@pytest.mark.slow
@pytest.mark.parametrize("connected", [False, True])
async def test_no_call_hangs_beyond_its_deadline(bench: Bench, connected: bool) -> None:
    queue = bench.queue()
    if connected:
        await call(queue.control.counts)
    bench.proxy.black_hole(True)
    gives_up = r"gave up after 0\.15 s"
    for ask in CALLS:
        with a_deadline_of(0.15, queue), pytest.raises(Unavailable, match=gives_up), takes(0.1, 0.15):
            await answer(ask, queue)
    bench.proxy.black_hole(False)
    assert happened(await call(queue.control.counts)) == {}
    await close(queue)


@pytest.mark.parametrize("bench", ["async"], indirect=True)
@pytest.mark.parametrize(("what", "connected"), [("get", True), ("get", False), ("push", True), ("push", False)])
async def test_no_call_of_a_crowd_waits_for_the_others_beyond_its_deadline(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, what: str, connected: bool
) -> None:
    # As with the usual deadline, of 10 s, and a push that takes at most that.
    monkeypatch.setattr("redisjobs.client.calls.LONGEST_TRY", 0.3)
    monkeypatch.setattr("redisjobs.drivers.redis.driver.LONGEST_TRY", 0.3)
    monkeypatch.setattr("redisjobs.drivers.remote.coalescer.LONGEST_TRY", 0.3)
    queue = bench.queue()
    if connected:
        await queue.control.counts()
    bench.proxy.black_hole(True)

    async def ask() -> None:
        with pytest.raises(Unavailable):
            await (queue.get("a") if what == "get" else queue.push(Add(1)))

    with a_deadline_of(0.3, queue), takes(0.2, 0.3):
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(ask)
    await close(queue)


async def test_no_call_hangs_on_a_server_that_is_stopped_while_it_answers(bench: Bench) -> None:
    queue = bench.queue()
    await call(queue.push_many, [Add(n) for n in range(500)])
    bench.proxy.delay(0.1)  # the first part of the reply is on its way when all goes dark
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, darken_in(0.25, bench))
        with a_deadline_of(0.3, queue), takes(0, 0.3), suppress(Unavailable):
            await call(queue.control.jobs, "ready", 500)
    bench.proxy.delay(0)
    bench.proxy.black_hole(False)
    await close(queue)


def darken_in(seconds: float, bench: Bench) -> Callable[[], None]:
    def darken() -> None:
        time.sleep(seconds)
        bench.proxy.black_hole(True)

    return darken


@pytest.mark.parametrize("bench", ["sync"], indirect=True)
def test_a_call_that_waits_for_a_free_connection_does_not_hang_either(bench: Bench) -> None:
    driver = SyncRedisDriver(bench.proxy.url, bench.name)

    def hold() -> None:
        with pytest.raises(Unavailable):
            driver.read(Count(), until=time.monotonic() + 10)

    driver.read(Count())
    bench.proxy.black_hole(True)
    threads = [threading.Thread(target=hold) for _ in range(16)]
    for thread in threads:
        thread.start()
    while bench.proxy.connections < 16:
        time.sleep(0.001)
    with pytest.raises(Unavailable, match="all 16 connections of this process are busy"), takes(0.1, 0.1):
        driver.read(Count(), until=time.monotonic() + 0.1)

    bench.proxy.drop_all()
    for thread in threads:
        thread.join()
    driver.close()


async def test_a_store_that_comes_back_before_the_deadline_gets_one_job(bench: Bench) -> None:
    with server.start() as other, Proxy(HOST, other.port) as proxy:
        queue = bench.face(proxy.url, bench.name)
        await call(queue.push, Add(1), job_id="before")
        other.kill()
        seen = proxy.connections
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(call, queue.push, Add(2), job_id="mine"))
            while proxy.connections < seen + 2:  # noqa: ASYNC110  (it has tried, and tries again)
                await anyio.sleep(0.001)
            await anyio.to_thread.run_sync(other.restart)
        assert (await call(queue.get, "mine")).name == "Add"
        assert sum((await call(queue.control.counts)).ready.values()) == 2
        await close(queue)


async def test_with_no_server_at_all_the_error_says_so() -> None:
    for queue in (
        JobQueue(f"redis://{HOST}:1/0", deadline=0.2),
        redisjobs.sync.JobQueue(f"redis://{HOST}:1/0", deadline=0.2),
    ):
        with pytest.raises(Unavailable, match=r"gave up after 0\.2 s: .*[Cc]onnect") as caught:
            await call(queue.push, Add(1))
        assert "is not on the queue" in str(caught.value)


async def test_a_push_that_was_cancelled_leaves_no_reply_behind_for_the_next_call(
    module_server: server.Server,
) -> None:
    with Proxy(HOST, module_server.port) as proxy:
        async with JobQueue(proxy.url, "cancelled") as queue:
            await queue.push(Add(1), job_id="a")
            proxy.delay(0.1)
            with anyio.move_on_after(0.05) as scope:
                await queue.push(Add(1), job_id="b")
            proxy.delay(0)
            assert scope.cancelled_caught
            info = await queue.get("a")
            assert info is not None
            assert info.job_id == "a"


@pytest.mark.parametrize("bench", ["async"], indirect=True)  # sync code is not cancelled
async def test_a_prepared_push_that_was_cancelled_is_repeated_and_told_once(bench: Bench) -> None:
    async with bench.queue() as queue:
        await queue.push(Add(0), job_id="known")
        job = queue.prepare(Add(1), job_id="mine")
        with lost_reply(bench):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(queue.push_many, [job])
                await eventually(lambda: len(bench.ids()) == 2)
                tasks.cancel_scope.cancel()
        assert await queue.cancel("mine") is Reply.CANCELLED

        assert [each.added for each in await queue.push_many([job])] == [True]  # it was, and has ended
        assert [each.added for each in await queue.push_many([job])] == [False]
        assert bench.ids() == Counter(["known"])


async def test_where_one_push_of_a_crowd_meets_a_fault_the_others_are_whole_and_no_one_connects_again(
    module_server: server.Server, queue_name: str
) -> None:
    admin = redis.Redis.from_url(module_server.url)
    admin.rpush(f"redisjobs:{{{queue_name}}}:unique:broken", "junk")
    async with JobQueue(module_server.url, queue_name) as queue:
        await queue.push(Add(0))
        before = admin.info("stats")["total_connections_received"]
        answers: list[str | Exception] = []

        async def push(number: int) -> None:
            try:
                unique = "broken" if number == 70 else None
                answers.append((await queue.push(Add(number), delay=60 if number % 2 else None, unique=unique)).id)
            except DriverError as error:
                answers.append(error)

        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(push, number)

        (error,) = [answer for answer in answers if isinstance(answer, Exception)]
        assert "WRONGTYPE" in str(error)
        counts = await queue.control.counts()
        assert (sum(counts.ready.values()), counts.delayed, happened(counts)) == (50, 50, {"pushed": 100})
        assert admin.info("stats")["total_connections_received"] - before <= 2


# Full


async def test_a_full_server_is_an_error_at_once_and_nothing_is_written(bench: Bench) -> None:
    queue = bench.queue()
    await call(queue.push, Add(1), job_id="first")
    bench.admin.config_set("maxmemory", 1)
    refused: list[NewJob] = []
    try:
        for method, what in ((queue.push, Add(2)), (queue.push_many, [Add(3), Add(4)])):
            with pytest.raises(QueueFull, match="out of memory, nothing was written") as caught, takes(0, 1):
                await call(method, what)
            refused += caught.value.jobs
        assert (await call(queue.get, "first")).name == "Add"
        assert bench.ids() == Counter(["first"])
    finally:
        bench.admin.config_set("maxmemory", 0)
    await call(queue.push, Add(5), job_id="second")
    assert bench.ids() == Counter(["first", "second"])
    assert len(refused) == 3
    assert [each.added for each in await call(queue.push_many, refused)] == [True] * 3
    assert len(bench.ids()) == 5
    await close(queue)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_chunk_is_with_the_server_before_the_next_one_is_encoded(
    redis_store: RedisStore, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Else each takes its time after the other, and nothing but that would tell."""
    seen = list[int]()

    def items() -> Iterator[Add]:
        for number in range(1_500):
            if number in (500, 1_000):
                until, there = time.monotonic() + SLACK, 0
                while there <= number and time.monotonic() < until:  # no other task runs in this thread
                    there = redis_store.admin.xlen(redis_store.stream())
                seen.append(there)
            yield Add(number)

    async def main() -> None:
        async with JobQueue(redis_store.url, redis_store.queue_name) as queue:
            await queue.push(Add(0))  # which connects
            await queue.push_many(items())

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())

    assert seen == [501, 1_001]
