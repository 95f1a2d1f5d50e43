"""Jobs that handlers push: added as their own job ends, each once, or not at all."""

import json
import re
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import anyio
import process_handlers
import pytest
from store import RedisStore, Store
from tenacity import stop_after_attempt, wait_none

from redisjobs import (
    Fail,
    JobContext,
    JobHandle,
    JobQueue,
    Middleware,
    Retry,
    Schedule,
    Snooze,
    State,
    Worker,
    sync,
)
from redisjobs.drivers.redis.commands import Command
from redisjobs.drivers.redis.consumer import RedisConsumer
from redisjobs.errors import WrongType
from redisjobs.events import JobsPushed
from redisjobs.events.middleware import OutgoingJob
from redisjobs.model.driver import Driver, Fenced
from redisjobs.model.job import JobName
from redisjobs.model.queries import Count, Find
from redisjobs.model.retry import RetryPolicy, no_retry
from redisjobs.model.transitions import Ack, After, DeadLetter, Lease, NewJob, Reply, Turn

pytestmark = pytest.mark.anyio

FIELDS = ["name", "Work", "parameters", "{}"]
AT_ONCE = RetryPolicy(wait=wait_none(), stop=stop_after_attempt(3))


@dataclass
class Next:
    job_name: ClassVar[str] = "Next"
    number: int = 0


@dataclass
class Bare:
    """Parameters whose type has no job name."""

    text: str


BARE = JobName("Bare", Bare)
Handler = Callable[[JobContext], Any]


class Bench:
    """A queue, and what ran of `Next`."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.queue = JobQueue(store.driver, store.queue_name)
        self.ran: list[int] = []
        self.queue.register(Next)(lambda job: self.ran.append(job.number))
        self.queue.register(BARE)(lambda job: None)

    def handler(self, function: Any, **options: Any) -> Any:
        return self.queue.job(name="parent", **options)(function)

    async def run(self) -> None:
        with anyio.fail_after(20):
            await Worker(self.queue, concurrency=4).run(until_idle=True)


@pytest.fixture
async def work(store: Store) -> AsyncIterator[Bench]:
    made = Bench(store)
    async with made.queue:
        yield made


@pytest.fixture
async def driver(redis_store: RedisStore) -> AsyncIterator[Driver]:
    async with aclosing(redis_store.driver) as driver:
        yield driver


@pytest.fixture
async def one(redis_store: RedisStore, driver: Driver) -> AsyncIterator[RedisConsumer]:
    async with aclosing(cast("RedisConsumer", redis_store.consumer("w1"))) as consumer:
        await consumer.open()
        yield consumer


async def test_a_job_that_a_handler_pushes_is_there_once_it_has_returned(work: Bench) -> None:
    there: list[Any] = []

    async def parent(context: JobContext) -> None:
        pushed = context.push(Next(5))
        there.append(pushed)
        there.append(await work.queue.get(pushed.id))

    handle = await work.handler(parent).push()
    await work.run()

    pushed, before = there
    assert isinstance(pushed, JobHandle)
    assert (pushed.name, pushed.added, before) == ("Next", None, None)
    assert work.ran == [5]
    assert (await work.queue.control.counts()).totals["pushed"] == 2
    assert handle.id != pushed.id


@pytest.mark.parametrize("prepared", [False, True])
async def test_a_push_under_the_id_of_the_job_itself_is_refused_at_the_call(
    work: Bench, *, prepared: bool
) -> None:
    said: list[str] = []

    async def parent(context: JobContext) -> None:
        try:
            if prepared:
                context.push(work.queue.prepare(Next(1), job_id=context.job_id))
            else:
                context.push(Next(1), job_id=context.job_id)
        except ValueError as error:
            said.append(str(error))

    handle = await work.handler(parent).push()
    await work.run()

    (error,) = said
    assert handle.id in error
    assert "Snooze" in error
    assert work.ran == []


async def test_a_job_that_another_queue_prepared_is_refused_wherever_it_is_given(store: Store) -> None:
    refused = "'resize' was prepared by queue 'images', and this is queue"
    said: list[str] = []
    async with JobQueue("memory://", "images") as images, JobQueue(store.driver, store.queue_name) as queue:

        @images.job
        async def resize(path: str) -> None: ...

        @queue.job
        async def parent(context: JobContext) -> None:
            try:
                context.push(resize.prepare("a.png"))
            except ValueError as error:
                said.append(str(error))

        own = parent.prepare()
        with pytest.raises(ValueError, match=refused):
            await queue.push_many([own, resize.prepare("a.png")])
        with pytest.raises(ValueError, match=refused):
            queue.schedule(resize.prepare("a.png"), Schedule.every(60))
        with pytest.raises(ValueError, match=refused):
            await queue.schedules.put("resize", resize.prepare("a.png"), Schedule.every(60))
        with sync.JobQueue("memory://", store.queue_name) as face, pytest.raises(ValueError, match=refused):
            face.push_many([resize.prepare("a.png")])
        for wrong in (resize, resize.prepare("a.png")):
            with pytest.raises(TypeError):
                await queue.push(wrong)  # type: ignore[call-overload]
            with pytest.raises(TypeError):
                await queue.run(wrong)  # type: ignore[call-overload]
        assert (await queue.control.counts()).totals.get("pushed", 0) == 0

        (pushed,) = await queue.push_many([own])  # what was refused beside it can be pushed by itself
        assert pushed.added
        await Worker(queue).run(until_idle=True)
        assert (await queue.control.counts()).totals["pushed"] == 1

    (error,) = said
    assert refused in error
    assert "push it there" in error


async def test_it_is_pushed_with_the_options_of_any_push_and_names_its_parent(work: Bench) -> None:
    async def parent(context: JobContext) -> None:
        context.push(
            Bare("x"),
            BARE,
            delay=3600,
            priority="low",
            job_id="mine",
            unique="key",
            headers={"a": "b"},
            expires_in=60,
        )
        context.push({"text": "y"}, "Bare", delay=3600)

    handle = await work.handler(parent).push()
    await work.run()

    info = await work.queue.get("mine")
    assert info is not None
    assert (info.state, info.priority, info.unique, info.headers) == (State.DELAYED, "low", "key", {"a": "b"})
    assert info.parent == handle.id
    assert sorted(json.loads(job.parameters)["text"] for job in await work.queue.control.jobs("delayed")) == [
        "x",
        "y",
    ]


@pytest.mark.parametrize(
    "error", [ValueError("no"), Retry(delay=0), Snooze(0), Fail("no")], ids=lambda e: type(e).__name__
)
async def test_what_a_run_pushed_that_did_not_return_is_dropped(work: Bench, error: Exception) -> None:
    runs: list[str] = []

    async def parent(context: JobContext) -> None:
        runs.append(context.push(Next(len(runs))).id)
        if len(runs) == 1:
            raise error

    await work.handler(parent, retry=AT_ONCE).push()
    await work.run()

    if isinstance(error, Fail):
        assert (len(runs), work.ran) == (1, [])
    else:
        assert (len(set(runs)), len(runs), work.ran) == (1, 2, [1])  # under the same id


async def test_jobs_that_a_run_pushes_have_ids_of_their_own_which_another_job_does_not_share(work: Bench) -> None:
    pushed: dict[str, list[str]] = {}

    async def parent(context: JobContext) -> None:
        pushed[context.job_id] = [context.push(Next(1)).id, context.push(Next(1)).id]

    job = work.handler(parent)
    await job.options(job_id="a").push()
    await job.options(job_id="b").push()
    await work.run()
    first = pushed["a"]
    await job.options(job_id="a").push()  # a new job of that id
    await work.run()

    assert len({*first, *pushed["a"], *pushed["b"]}) == 6
    assert work.ran == [1] * 6


@pytest.mark.parametrize("kind", ["thread", "threads", "async"])
async def test_a_handler_pushes_in_whatever_thread_it_runs(work: Bench, kind: str) -> None:
    def push_some(context: JobContext) -> None:
        for number in range(20):
            context.push(Next(number))

    def in_thread(context: JobContext) -> None:
        push_some(context)

    def in_threads(context: JobContext) -> None:
        threads = [threading.Thread(target=push_some, args=(context,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    async def in_loop(context: JobContext) -> None:
        push_some(context)

    await work.handler({"thread": in_thread, "threads": in_threads, "async": in_loop}[kind]).push()
    await work.run()

    assert sorted(work.ran) == sorted([*range(20)] * (4 if kind == "threads" else 1))


@pytest.mark.slow
async def test_a_handler_in_a_process_pushes_and_hears_what_is_wrong(work: Bench) -> None:
    job = work.queue.job(name="parent", run_in="process")(process_handlers.push_from_process)
    await job.push(number=6)
    await work.run()

    one, other = await work.queue.control.jobs("delayed")
    assert json.loads(one.parameters) == {"number": 7}
    assert other.job_id == f"after-{one.job_id}"
    said = (
        f"UnknownJob: queue '{work.queue.name}' has no handler for 'unknown'; registered: Bare, Next, parent. "
        "To push without the handler, give JobName('unknown', T), T being the type of its parameters"
    )
    assert json.loads(other.parameters) == {"number": len(said)}


async def test_bad_pushes_are_told_at_the_call_and_the_others_are_made(work: Bench) -> None:
    told: list[str] = []

    async def parent(context: JobContext) -> None:
        for push in (
            partial(context.push, {"number": 1}, "Unknown"),
            partial(context.push, Next("x")),  # type: ignore[arg-type]
            partial(context.push, Next(1), dealy=5),
            partial(context.push, Next(1), delay=-1),
            partial(context.push, Next(1), replicas=1),
            partial(context.push, Next),
        ):
            with pytest.raises((Exception,)) as raised:
                push()
            told.append(f"{raised.type.__name__}: {str(raised.value)[:40]}")
        context.push(Next(3))

    await work.handler(parent).push()
    await work.run()

    assert [line.split(":")[0] for line in told] == [
        "UnknownJob", "EncodeError", "TypeError", "ValueError", "ValueError", "TypeError"
    ]  # fmt: skip
    assert work.ran == [3]


async def test_a_job_that_was_prepared_is_pushed_as_any_other(work: Bench) -> None:
    @work.queue.job
    def child() -> None: ...

    ids: list[str] = []

    async def parent(context: JobContext) -> None:
        ids.append(context.push(child.options(delay=3600, priority="low").prepare()).id)
        ids.append(context.push(child.options(job_id="mine", delay=3600).prepare()).id)
        for wrong, said in (
            (partial(context.push, child), r"child is a job itself: .* as context.push\(child.prepare\(...\)\)"),
            (partial(context.push, child.prepare(), delay=1), "was prepared has its name and its push options"),
        ):
            with pytest.raises(TypeError, match=said):
                wrong()
        if context.attempt == 1:
            raise Retry

    handle = await work.handler(parent, retry=AT_ONCE).push()
    await work.run()

    assert ids[:2] == ids[2:]  # each run makes the same
    made, mine = await work.queue.get(ids[0]), await work.queue.get("mine")
    assert made is not None
    assert mine is not None
    assert (made.name, made.priority, made.parent, mine.parent) == ("child", "low", handle.id, handle.id)
    assert (await work.queue.control.counts()).delayed == 2


async def test_a_run_pushes_500_jobs_and_no_more(work: Bench) -> None:
    said: list[str] = []

    async def parent(context: JobContext) -> None:
        for number in range(500):
            context.push(Next(number))
        with pytest.raises(ValueError, match="has pushed 500 jobs") as raised:
            context.push(Next(500))
        said.append(str(raised.value))

    await work.handler(parent).push()
    await work.run()

    assert sorted(work.ran) == [*range(500)]
    assert said


async def test_a_run_pushes_4_mb_and_no_more(work: Bench) -> None:
    async def parent(context: JobContext) -> None:
        for _ in range(8):
            context.push(Bare("x" * 500_000), BARE)
        with pytest.raises(ValueError, match="one step adds 4,194,304 at most"):
            context.push(Bare("x" * 500_000), BARE)

    await work.handler(parent).push()
    await work.run()

    assert (await work.queue.control.counts()).totals["completed"] == 9


async def test_a_run_that_is_over_can_push_nothing_any_more(work: Bench) -> None:
    contexts: list[JobContext] = []

    async def parent(context: JobContext) -> None:
        contexts.append(context)

    await work.handler(parent).push()
    await work.run()

    with pytest.raises(RuntimeError, match="this run is over, so it can't push any more"):
        contexts[0].push(Next(1))


class Releasing(Middleware):
    """Lets a thread go on whose push began while the handler ran, and waits until that push has come to an end."""

    def __init__(self) -> None:
        self.began, self.held, self.ended = threading.Event(), threading.Event(), threading.Event()
        self.told: list[str] = []

    def key(self, _job: Any) -> str:
        """Is called while a push of `Held` is prepared."""
        self.began.set()
        self.held.wait(20)
        return "key"

    def push(self, context: JobContext) -> None:
        try:
            context.push({}, "Held")
        except RuntimeError as error:
            self.told.append(str(error))
        self.ended.set()

    def on_push(self, job: OutgoingJob) -> None:
        if job.name == "Next":
            self.release()

    def release(self) -> None:
        self.held.set()
        assert self.ended.wait(20)


@pytest.mark.parametrize("is_first", [True, False])
async def test_a_push_by_a_thread_that_is_late_is_told_so_and_the_others_are_made(
    work: Bench, is_first: bool
) -> None:
    late = Releasing()
    work.queue.add_middleware(late)

    @work.queue.job(name="Held", limit_key=late.key)
    async def held() -> None: ...

    async def parent(context: JobContext) -> int:
        if not is_first:
            context.push(Next(1))
        threading.Thread(target=late.push, args=(context,)).start()
        await anyio.to_thread.run_sync(late.began.wait, 20)
        return 1

    await work.handler(parent).push()
    await work.run()
    late.release()

    assert work.ran == ([] if is_first else [1])
    (told,) = late.told
    assert told.endswith("this run is over, so it can't push any more")
    assert (await work.queue.control.counts()).totals["pushed"] == 1 + len(work.ran)


@pytest.mark.slow
async def test_a_late_push_of_a_handler_in_a_process_is_no_push_of_the_next_job_there(
    work: Bench, tmp_path: Path
) -> None:
    job = work.queue.job(name="parent", run_in="process")(process_handlers.push_late_from_process)
    await job.push(folder=str(tmp_path))
    await job.push(folder=str(tmp_path))
    with anyio.fail_after(20):
        await Worker(work.queue, concurrency=1).run(until_idle=True)

    told = (tmp_path / "told").read_text()
    assert told.endswith("this run is over, so it can't push any more")
    assert not await work.queue.control.jobs("delayed")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["unpackable", "unmakeable"])
async def test_what_cannot_leave_a_process_is_no_push_from_there(work: Bench, what: str) -> None:
    job = work.queue.job(name="parent", run_in="process")(process_handlers.push_unpackable)
    handle = await job.options(keep_result=60).push(what=what)
    await work.run()

    assert (await handle.result()).startswith("what is pushed can't leave this process: ")


async def test_a_run_whose_time_is_over_can_push_nothing_as_it_is_cancelled(work: Bench) -> None:
    told: list[str] = []

    async def parent(context: JobContext) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with pytest.raises(RuntimeError) as raised:
                context.push(Next(1))
            told.append(str(raised.value))

    await work.handler(parent, timeout=0.05, retry=no_retry()).push()
    await work.run()

    assert told[0].endswith("this run is over, so it can't push any more")


async def test_a_run_that_outlives_its_time_pushes_nothing(work: Bench) -> None:
    async def parent(context: JobContext) -> None:
        context.push(Next(1))
        await anyio.sleep_forever()

    handle = await work.handler(parent, timeout=0.05, retry=no_retry()).push()
    await work.run()

    info = await handle.info()
    assert info is not None
    assert (info.state, work.ran) == (State.DEAD, [])


async def test_a_unique_key_of_its_own_is_free_for_what_a_job_pushes(work: Bench) -> None:
    runs: list[int] = []

    async def parent(number: int, context: JobContext) -> None:
        runs.append(number)
        if number < 5:
            context.push({"number": number + 1}, "parent", unique="the one")

    await work.handler(parent).options(unique="the one").push(number=1)
    await work.run()

    assert runs == [1, 2, 3, 4, 5]


class Watching(Middleware):
    def __init__(self) -> None:
        self.ends: list[tuple[str, bool, str]] = []

    async def on_push(self, job: OutgoingJob) -> None:
        await anyio.lowlevel.checkpoint()
        job.headers["seen"] = job.name
        job.when_pushed(lambda added, error: self.ends.append((job.name, added, type(error).__name__)))


async def test_middleware_and_listeners_of_the_queue_see_what_a_handler_pushes(work: Bench) -> None:
    watching, told, headers = Watching(), [], list[Any]()
    work.queue.add_middleware(watching)
    work.queue.events.subscribe(JobsPushed, lambda event: told.extend(event.jobs))

    async def parent(context: JobContext) -> None:
        headers.append(context.headers)
        context.push(Next(1), job_id="one")
        context.push(Next(1), job_id="one")  # the second is not added

    handle = await work.handler(parent).push()
    await work.run()

    assert headers == [{"seen": "parent"}]
    assert watching.ends == [("parent", True, "NoneType"), ("Next", True, "NoneType"), ("Next", False, "NoneType")]
    assert told == [(handle.id, "parent", True), ("one", "Next", True), ("one", "Next", False)]


async def test_what_a_run_pushed_whose_worker_was_given_up_is_told_to_the_middleware_as_not_added(
    redis_store: RedisStore,
) -> None:
    class Fencing(Watching):
        """As the first of these jobs is about to be pushed, its worker is taken for dead."""

        async def on_push(self, job: OutgoingJob) -> None:
            await super().on_push(job)
            if job.name == "Next" and len(runs) == 1:
                admin.delete(*admin.scan_iter(f"{redis_store.prefix}worker:*"))

    work, watching, admin = Bench(redis_store), Fencing(), redis_store.admin
    work.queue.add_middleware(watching)
    runs: list[int] = []

    async def parent(context: JobContext) -> None:
        runs.append(context.deliveries)
        context.push(Next(1))

    async with work.queue:
        await work.handler(parent).push()
        await work.run()

    assert len(runs) == 2
    assert [end for end in watching.ends if end[0] == "Next"] == [
        ("Next", False, "DriverError"),
        ("Next", True, "NoneType"),
    ]
    assert work.ran == [1]


async def test_what_a_run_pushed_that_lost_its_lease_is_told_to_the_middleware_as_not_added(
    redis_store: RedisStore,
) -> None:
    work, watching, admin, stream = Bench(redis_store), Watching(), redis_store.admin, redis_store.stream()
    work.queue.add_middleware(watching)

    async def parent(context: JobContext) -> None:
        context.push(Next(1))
        ((entry, _),) = admin.xrange(stream)
        admin.xack(stream, "workers", entry)

    async with work.queue:
        await work.handler(parent).push()
        await work.run()

    assert ("Next", False, "DriverError") in watching.ends
    assert work.ran == []
    admin.delete(stream, f"{redis_store.prefix}jobs")


async def test_a_job_whose_pushes_meet_a_spoiled_key_becomes_a_dead_letter_and_others_go_on(
    redis_store: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    work, watching, admin = Bench(redis_store), Watching(), redis_store.admin
    work.queue.add_middleware(watching)
    runs: list[str] = []

    async def parent(context: JobContext, key: str) -> None:
        runs.append(key)
        context.push(Next(1))
        context.push(Next(2), unique=key)

    key = f"{redis_store.prefix}unique:a bad%20key é"
    admin.hset(key, "by", "hand")
    async with work.queue:
        job = work.handler(parent)
        bad = await job.push(key="a bad%20key é")
        await job.push(key="good")
        await work.queue.push(Next(3))
        await work.run()

        info = await bad.info()
        assert info is not None
        assert (info.state, info.reason, info.error_type, runs) == (State.DEAD, "failed", "WrongType", [
            "a bad%20key é",
            "good",
        ])  # fmt: skip
        why = f"WRONGTYPE {key} is a hash, it must be a string"
        assert info.error is not None
        assert why in info.error
        assert why in caplog.text
        assert sorted(work.ran) == [1, 2, 3]  # of the bad one none
        assert watching.ends.count(("Next", False, "DriverError")) == 2

        admin.delete(key)
        assert await work.queue.control.requeue(bad)
        await work.run()
        assert sorted(work.ran) == [1, 1, 2, 2, 3]


async def test_a_push_that_meets_a_spoiled_key_hears_which_it_is(redis_store: RedisStore, driver: Driver) -> None:
    key = f"{redis_store.prefix}unique:bad"
    redis_store.admin.hset(key, "by", "hand")

    with pytest.raises(WrongType, match=f"{re.escape(key)} is a hash, it must be a string; nothing was written"):
        await driver.push([NewJob("a", FIELDS), NewJob("b", FIELDS, unique="bad")], repeated=False)

    assert await driver.read(Find("a")) is None
    redis_store.admin.delete(key)


async def test_a_pushed_id_that_is_said_to_be_a_dead_letter_is_taken_where_those_were_made_something_else(
    redis_store: RedisStore, driver: Driver, one: RedisConsumer
) -> None:
    admin = redis_store.admin
    await driver.push([NewJob(name, FIELDS) for name in ("parent", "dead")], repeated=False)
    leases = {lease.job_id: lease for lease in (await one.exchange([], 5)).leases}
    await one.exchange([(leases["dead"], DeadLetter("failed", "no"))], None)
    admin.delete(f"{redis_store.prefix}dead")
    admin.set(f"{redis_store.prefix}dead", "junk")
    pushes = [NewJob("dead", FIELDS, nonce="1"), NewJob("next", FIELDS)]

    answer = await one.exchange([(leases["parent"], Ack(pushes=pushes))], None, turn=Turn(1, 1))

    assert (answer.replies, answer.added) == ([Reply.OK], {0: [False, True]})
    admin.delete(*(f"{redis_store.prefix}{key}" for key in ("dead", "groups", "group:failed")))
    admin.hdel(f"{redis_store.prefix}jobs", "dead")


async def test_a_pushed_job_waits_for_its_own_time_though_what_had_its_id_was_removed_with_redis_cli(
    redis_store: RedisStore, driver: Driver, one: RedisConsumer
) -> None:
    admin = redis_store.admin
    later = NewJob("s", FIELDS, due=After(5000), nonce="1")
    await driver.push([NewJob("parent", FIELDS), later], repeated=False)
    admin.hdel(f"{redis_store.prefix}delayed", "s")
    (lease,) = (await one.exchange([], 5)).leases
    pushes = [replace(later, due=After(60_000), nonce="2")]

    answer = await one.exchange([(lease, Ack(pushes=pushes))], None, turn=Turn(1, 1))

    assert answer.added == {0: [True]}
    assert admin.zcard(f"{redis_store.prefix}due") == 1
    redis_store.clock.advance(6)
    assert (await one.exchange([], 5)).leases == []
    assert (await driver.read(Count())).delayed == 1


@pytest.mark.parametrize("asks", [None, 0, 5])
async def test_a_worker_that_is_fenced_within_an_exchange_hears_what_was_settled_before(
    redis_store: RedisStore, driver: Driver, one: RedisConsumer, monkeypatch: pytest.MonkeyPatch, asks: int | None
) -> None:
    admin = redis_store.admin
    await driver.push([NewJob(name, FIELDS) for name in ("plain", "large", "larger", "last")], repeated=False)
    leases = {lease.job_id: lease for lease in (await one.exchange([], 9)).leases}
    run = one._run

    async def run_and_fence(first: Command[Any], *others: Command[Any]) -> list[Any]:
        """The first command, and then, as if it came between, what a fence does."""
        answers = await run(first)
        admin.delete(f"{redis_store.prefix}worker:w1")
        return answers + await run(*others)

    large = "x" * 1_100_000  # so each goes in a call of its own
    pushes = {name: [NewJob(f"by-{name}", [*FIELDS, "large", large])] for name in ("large", "larger")}
    settlements: list[tuple[Lease, Ack]] = [
        (leases["plain"], Ack()),
        (leases["large"], Ack(pushes=pushes["large"])),
        (leases["larger"], Ack(pushes=pushes["larger"])),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(one, "_run", run_and_fence)
        answer = await one.exchange(settlements, asks, turn=Turn(1, 1))

    assert answer.replies == [Reply.LEASE_LOST, Reply.OK, Reply.LEASE_LOST]
    assert (answer.added, answer.leases) == ({1: [True]}, ())
    assert await driver.read(Find("by-large")) is not None
    assert await driver.read(Find("by-larger")) is None
    with pytest.raises(Fenced):
        await one.exchange([(leases["last"], Ack(pushes=[NewJob("no", FIELDS)]))], asks, turn=Turn(1, 2))


async def test_a_run_pushes_fewer_bytes_of_jobs_that_may_replace_others(work: Bench) -> None:
    async def parent(context: JobContext) -> None:
        context.push(Bare("x" * 500_000), BARE, unique="a", on_conflict="replace")
        with pytest.raises(ValueError, match=r"may replace others count 8 times.*4,194,304 at most"):
            context.push(Bare("x" * 100_000), BARE, unique="b", on_conflict="replace")

    await work.handler(parent).push()
    await work.run()

    assert (await work.queue.control.counts()).totals["completed"] == 2


def test_jobs_that_may_replace_others_go_in_smaller_calls() -> None:
    queue = JobQueue("memory://", name="q")
    queue.register(BARE)(print)
    items = [Bare("x" * 8000)] * 500

    def sizes(**options: Any) -> list[int]:
        return [len(chunk.jobs) for chunk in queue._prepare_many(items, BARE, options)]  # type: ignore[arg-type]

    assert sizes() == [500]
    assert sizes(unique="k") == [500]
    assert sizes(unique="k", on_conflict="replace") == [66] * 7 + [38]
