"""`queue.control.why` names the cause for each state that a job can be in, with its facts and what to do."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from store import RedisStore, Store, documented_rule

from redisjobs import JobQueue, Keep, Retention
from redisjobs._version import __version__
from redisjobs.client.obstacles import OBSTACLES
from redisjobs.control import Cause, Why
from redisjobs.control.reasons import JobFacts, explain
from redisjobs.control.why import why as why_steps
from redisjobs.model.changes import Retain
from redisjobs.model.driver import Beat, Consumer
from redisjobs.model.info import JobInfo, WorkerInfo
from redisjobs.model.job import Priority, State, WhyWaiting
from redisjobs.model.progress import Progress
from redisjobs.model.queries import Find
from redisjobs.model.recording import Record
from redisjobs.model.statistics import Tally
from redisjobs.model.transitions import (
    Ack,
    After,
    DeadLetter,
    Lease,
    NewJob,
    Release,
    Result,
    RetryLater,
    Settlement,
)
from redisjobs.model.why import Ahead, Standing
from redisjobs.sync import JobQueue as SyncJobQueue
from redisjobs_proof.contract.acts import claim, take_over

pytestmark = pytest.mark.anyio

FACTS = {"concurrency": "2", "running": "0", "names": "Other Work", "started": "2026-11-01T00:00:00+00:00"}


async def push(
    store: Store, *job_ids: str, name: str = "Work", fields: tuple[str, ...] = (), **options: object
) -> None:
    jobs = [NewJob(each, ["name", name, "parameters", "{}", *fields], **options) for each in job_ids]  # type: ignore[arg-type]
    await store.driver.push(jobs, repeated=False)


@pytest.fixture
async def open_worker(store: Store) -> AsyncIterator[Callable[..., Awaitable[Consumer]]]:
    async with AsyncExitStack() as stack:

        async def opened(worker_id: str = "w1", **facts: str) -> Consumer:
            """A worker that has sent a heartbeat."""
            return await stack.enter_async_context(
                _working(store, worker_id, FACTS | {"version": __version__} | facts)
            )

        yield opened


@asynccontextmanager
async def _working(store: Store, worker_id: str, facts: dict[str, str]) -> AsyncIterator[Consumer]:
    consumer = store.consumer(worker_id)
    consumer.sync.beat(Beat(consumer, list, facts))
    yield consumer
    consumer.sync.close()
    await consumer.aclose()


@pytest.fixture
async def one(open_worker: Callable[..., Awaitable[Consumer]]) -> Consumer:
    return await open_worker()


async def settle(consumer: Consumer, lease: Lease, settlement: Settlement) -> None:
    await consumer.exchange([(lease, settlement)], None)


def caused(why: Why, cause: Cause, *said: str) -> None:
    assert why.cause is cause
    for part in said:
        assert part in f"{why.sentence} {why.advice}"
    assert not why.sentence[0].islower()
    assert why.sentence.endswith(".")
    assert not why.advice or why.advice.endswith(".")


# Each cause, made real


async def test_a_delayed_job_says_when_it_is_due(store: Store, queue: JobQueue, one: Consumer) -> None:
    await push(store, "a", due=After(60_000))
    why = await queue.control.why("a")
    caused(why, Cause.DELAYED, "It is delayed, and due in 60 s")
    assert why.job is not None
    assert why.facts["due_at"] == why.job.due_at


async def test_a_job_that_waits_for_its_next_attempt_says_what_failed(
    store: Store, queue: JobQueue, one: Consumer
) -> None:
    await push(store, "a")
    (lease,) = await claim(one)
    await settle(one, lease, RetryLater(After(60_000), {"attempt": "2", "error": "ValueError: no"}))
    why = await queue.control.why("a")
    caused(why, Cause.RETRYING, "Attempt 1 failed (ValueError: no); the next one is due in 60 s")
    assert why.facts["error"] == "ValueError: no"


async def test_a_due_job_that_no_worker_promotes_is_overdue(store: Store, queue: JobQueue, one: Consumer) -> None:
    await push(store, "a", due=After(1_000))
    store.clock.advance(61)
    one.sync.beat(Beat(one, list, FACTS))
    caused(await queue.control.why("a"), Cause.OVERDUE, "It was due 60 s ago, and no worker has made it ready")


async def test_a_job_behind_others_counts_them_and_estimates_when_it_starts(
    store: Store, queue: JobQueue, one: Consumer
) -> None:
    await push(store, "high", priority=Priority.HIGH)
    await push(store, "back", "first", "second")
    await push(store, "low", priority=Priority.LOW)
    leases = {lease.job_id: lease for lease in await claim(one, 2)}
    await settle(one, leases["back"], Release())
    one.sync.beat(Beat(one, list, FACTS | {"running": "2"}))
    one.sync.change(Record("r", 1, {"Work": {"completed": 250, "retried": 50}}, {}))

    why = await queue.control.why("second")

    caused(why, Cause.IN_LINE, "2 jobs start before it: about", "All 2 slots of the 1 worker", "Add slots")
    assert why.facts["jobs_ahead"] == 2
    rate = float(why.facts["jobs_per_second"])
    assert 300 / 300 - 0.01 <= rate <= 300 / 240 + 0.01  # the last of the five minutes has only begun
    assert why.facts["starts_in"] == pytest.approx(2 / rate, abs=0.1)
    assert [(await queue.control.why(each)).facts["jobs_ahead"] for each in ("back", "first", "low")] == [
        0,
        1,
        3,
    ]


async def test_the_count_of_jobs_ahead_one_ends_at_a_thousand(
    store: Store, queue: JobQueue, one: Consumer
) -> None:
    for start in range(0, 1200, 400):
        await push(store, *(f"{number:04}" for number in range(start, start + 400)))
    assert (await queue.control.why("1000")).facts["jobs_ahead"] == 1000
    caused(await queue.control.why("1199"), Cause.IN_LINE, "More than 1,000 jobs start before it")


async def test_the_next_job_to_start_says_so(store: Store, queue: JobQueue, one: Consumer) -> None:
    await push(store, "a")
    caused(await queue.control.why("a"), Cause.IN_LINE, "It is the next to start; 2 of 2 slots were free")


async def test_a_paused_queue_says_since_when(store: Store, queue: JobQueue, one: Consumer) -> None:
    await push(store, "a")
    await queue.control.pause()
    why = await queue.control.why("a")
    caused(why, Cause.PAUSED, f"Queue '{queue.name}' is paused, since", f"`redisjobs resume --queue {queue.name}`")
    assert why.facts["since"] == (await queue.control.pauses()).since


async def test_a_paused_name_says_since_when(store: Store, queue: JobQueue, one: Consumer) -> None:
    await push(store, "a")
    await queue.control.pause("Work")
    why = await queue.control.why("a")
    caused(why, Cause.NAME_PAUSED, "Jobs of its name are paused", "`redisjobs resume --name Work --queue ")
    assert why.facts["since"] == (await queue.control.pauses()).names["Work"]


@pytest.mark.parametrize("delay_ms", [0, 60_000])
async def test_a_held_job_says_since_when(store: Store, queue: JobQueue, one: Consumer, delay_ms: int) -> None:
    await push(store, "a", due=After(delay_ms))
    await queue.control.hold("a")
    why = await queue.control.why("a")
    caused(why, Cause.HELD, "It is held on", f"`redisjobs unhold a --queue {queue.name}`")
    assert why.facts["since"].timestamp() * 1000 == pytest.approx(store.clock(), abs=5000)


async def test_a_job_at_its_limit_names_those_that_run_under_it(
    store: Store, queue: JobQueue, one: Consumer
) -> None:
    await queue.control.set_limit("Work", max_concurrency=1)
    await push(store, "runs", "first", "second", fields=("limit_key", "joe"))
    await claim(one)

    why = await queue.control.why("second")

    caused(why, Cause.LIMIT, "1 job of it runs, and 1 job starts before it", "`redisjobs limits set Work --queue")
    assert why.facts["running_jobs"] == ["runs on w1"]
    assert (why.facts["limit"], why.facts["limit_key"]) == ("Work: max_concurrency=1", "joe")


async def test_a_job_at_its_rate_says_when_the_next_starts(store: Store, queue: JobQueue, one: Consumer) -> None:
    store.clock.advance(0)
    await queue.control.set_limit("Work", rate="1/m")
    await push(store, "now", "next")
    await claim(one)
    why = await queue.control.why("next")
    caused(why, Cause.LIMIT, "the next may start at")
    assert why.facts["next_start"].timestamp() * 1000 == pytest.approx(store.clock() + 60_000, abs=1000)


async def test_without_a_worker_a_job_says_so(store: Store, queue: JobQueue, one: Consumer) -> None:
    await push(store, "a")
    store.age(60)
    why = await queue.control.why("a")
    caused(why, Cause.NO_WORKER, "is alive: the leases of 1 worker have ended", "`redisjobs worker MODULE:QUEUE`")
    assert why.facts["workers"] == ["w1"]


async def test_a_name_without_a_handler_says_which_there_are(store: Store, queue: JobQueue, one: Consumer) -> None:
    await push(store, "a", name="Wrok")
    why = await queue.control.why("a")
    caused(why, Cause.NO_HANDLER, "has a handler for 'Wrok'; they have one for 'Work'")
    assert (why.facts["handlers"], why.facts["near_names"]) == (["Other", "Work"], ["Work"])


async def test_workers_of_another_release_without_a_handler_are_named(
    store: Store, queue: JobQueue, open_worker: Callable[..., Awaitable[Consumer]]
) -> None:
    await open_worker("old", version="0.0.1")
    await push(store, "a", name="New")
    why = await queue.control.why("a")
    caused(why, Cause.OTHER_RELEASE, f"All of them run redisjobs 0.0.1; this is {__version__}")
    assert why.facts["releases"] == ["0.0.1"]


async def test_a_job_on_its_last_delivery_waits_for_an_idle_worker(store: Store, queue: JobQueue) -> None:
    async with _working(store, "w1", FACTS) as first:
        await push(store, "killer")
        for _ in range(2):
            (lease,) = await claim(first)
            await settle(first, lease, Release(refund=False))
        await push(store, "other")
        await claim(first)
        caused(
            await queue.control.why("killer"), Cause.LAST_DELIVERY, "Its workers died, so it waits for a worker"
        )


async def test_a_running_job_says_where_since_when_and_how_long_its_name_usually_takes(
    store: Store, queue: JobQueue, one: Consumer
) -> None:
    await push(store, "a")
    await claim(one)
    one.sync.change(Record("r", 1, {"Work": {"completed": 100, "run1000": 90, "run2000": 10}}, {}))
    why = await queue.control.why("a")
    caused(
        why,
        Cause.RUNNING,
        "It has been running on w1 for",
        "jobs of its name usually take 0.78 s, and 95 % up to 1.5 s",
    )
    assert why.facts["worker"] == "w1"
    assert why.facts["usual_duration_p95"] == 1.5


async def test_a_cancelled_job_that_still_runs_says_so(store: Store, queue: JobQueue, one: Consumer) -> None:
    await push(store, "a")
    await claim(one)
    await queue.cancel("a")
    caused(await queue.control.why("a"), Cause.CANCELLING, "It was cancelled, and its handler has not stopped")


async def test_a_cancelled_job_that_came_back_from_its_worker_says_who_ends_it(
    store: Store, queue: JobQueue, one: Consumer, open_worker: Callable[..., Awaitable[Consumer]]
) -> None:
    await push(store, "a")
    await claim(one)
    await queue.cancel("a")
    store.age(60)
    await take_over(await open_worker("w2"))

    caused(await queue.control.why("a"), Cause.CANCELLING, "the worker that takes it next ends it")


async def test_a_job_of_a_silent_worker_says_so(store: Store, queue: JobQueue, one: Consumer) -> None:
    await push(store, "a")
    await claim(one)
    store.age(60)
    caused(
        await queue.control.why("a"),
        Cause.WORKER_SILENT,
        "that worker was silent until its lease ended 45 s ago",
        "Start one",
    )


async def test_a_dead_letter_says_how_many_died_of_the_same(store: Store, queue: JobQueue, one: Consumer) -> None:
    await push(store, "a", "b", "c")
    for lease in await claim(one):
        await settle(one, lease, DeadLetter("failed", "ValueError: no", "", "ValueError", "0123456789ab"))
    why = await queue.control.why("b")
    caused(
        why,
        Cause.DEAD,
        "It is a dead letter, reason 'failed' (ValueError: no), after 1 attempt. 3 dead letters are of this kind.",
        f"`redisjobs dead requeue b --queue {queue.name}`",
    )


async def test_a_kept_job_says_how_it_ended(store: Store, queue: JobQueue, one: Consumer) -> None:
    await queue.driver.change(Retain(Retention(completed=Keep(), cancelled=Keep())))
    await push(store, "done", "unwanted")
    await queue.cancel("unwanted")
    (lease,) = await claim(one)
    await settle(one, lease, Ack())
    caused(await queue.control.why("done"), Cause.DONE, "It is done at ")
    caused(await queue.control.why("unwanted"), Cause.CANCELLED, "It was cancelled at ")


async def test_a_job_whose_outcome_is_known_says_it(store: Store, queue: JobQueue, one: Consumer) -> None:
    await push(store, "done", "dead", "unwanted", fields=("keep_result", "60000"))
    await queue.cancel("unwanted")
    for lease in await claim(one):
        done = lease.job_id == "done"
        await settle(one, lease, Ack(result=Result(60_000, b"5")) if done else DeadLetter("failed", "no"))
    await queue.control.delete("dead")
    causes = [(await queue.control.why(each)).cause for each in ("done", "dead", "unwanted")]
    assert causes == [Cause.DONE, Cause.DEAD, Cause.CANCELLED]


async def test_a_job_that_left_no_trace_is_not_on_the_queue(store: Store, queue: JobQueue, one: Consumer) -> None:
    await push(store, "a-made-up-id-of-18")
    (lease,) = await claim(one)
    await settle(one, lease, Ack())
    caused(await queue.control.why("a-made-up-id-of-18"), Cause.GONE, "it ended within the last minute")
    caused(await queue.control.why("other"), Cause.GONE, "it ended and left no trace, or never was there")


async def test_an_entry_of_the_inbox_says_so(redis_store: RedisStore) -> None:
    entry = redis_store.admin.xadd(f"{redis_store.prefix}inbox", {"name": "Work", "parameters": "{}"}).decode()
    async with JobQueue(redis_store.driver, redis_store.queue_name) as queue:
        caused(await queue.control.why(entry), Cause.INBOX, "It is in the inbox")


async def test_a_unique_key_leads_to_the_job_that_holds_it(store: Store, queue: JobQueue, one: Consumer) -> None:
    await push(store, "holder", unique="joe", due=After(60_000))
    handle = await store.driver.push(
        [NewJob("again", ["name", "Work", "parameters", "{}"], unique="joe")], repeated=False
    )
    assert handle[0].holder == "holder"
    why = await queue.control.why(unique="joe")
    caused(why, Cause.DELAYED, "Job holder holds the unique key 'joe', so a push with this key adds no job")
    assert why.job is not None
    assert why.job.job_id == "holder"
    caused(await queue.control.why(unique="jim"), Cause.KEY_FREE, "the next push with it adds a job")


async def test_a_unique_key_for_a_time_outlives_its_job(store: Store, queue: JobQueue, one: Consumer) -> None:
    store.clock.advance(0)
    await push(store, "a", unique="joe", unique_for_ms=60_000)
    (lease,) = await claim(one)
    await settle(one, lease, Ack())
    caused(await queue.control.why(unique="joe"), Cause.KEY_LEFT, "`unique_for`, so the key stays for")


async def test_a_unique_key_whose_job_is_gone_is_for_the_doctor(redis_store: RedisStore) -> None:
    redis_store.admin.set(f"{redis_store.prefix}unique:joe", "gone")
    async with JobQueue(redis_store.driver, redis_store.queue_name) as queue:
        why = await queue.control.why(unique="joe")
    redis_store.admin.delete(f"{redis_store.prefix}unique:joe")
    caused(why, Cause.KEY_LEFT, "`redisjobs doctor --repair")


def test_a_unique_key_whose_job_ends_between_two_reads_is_free() -> None:
    steps = why_steps("emails", None, "joe")
    assert next(steps) == Ahead(key="joe")
    assert steps.send(Standing(1_000, "a")) == Find("a")
    assert steps.send(None) == Ahead(key="joe")
    with pytest.raises(StopIteration) as end:
        steps.send(Standing(1_000))
    caused(end.value.value, Cause.KEY_FREE, "the next push with it adds a job")


async def test_one_job_is_asked_for_and_not_two_or_none(store: Store, queue: JobQueue) -> None:
    for arguments in ({}, {"job": "a", "unique": "k"}):
        with pytest.raises(ValueError, match="give a job or unique="):
            await queue.control.why(**arguments)


# What may be read decides how much is said


async def test_a_user_who_may_only_push_gets_what_the_job_itself_says(redis_store: RedisStore) -> None:
    await push(redis_store, "a")
    await redis_store.driver.aclose()
    with producer_of(redis_store) as queue:
        why = queue.control.why("a")
    caused(why, Cause.NO_WORKER, "is alive")


def producer_of(store: RedisStore) -> SyncJobQueue:
    name = f"user-{store.queue_name}"
    store.admin.execute_command(
        "ACL", "SETUSER", name, "reset", "on", ">secret", *documented_rule("producer", store.queue_name)
    )
    parts = store.url.rpartition("@")[2]
    return SyncJobQueue(f"redis://{name}:secret@{parts}", store.queue_name)


# The words


def known(job: JobInfo | None = None, **facts: object) -> JobFacts:
    return JobFacts("emails", "a", **{"standing": Standing(1_000), "job": job, **facts})  # type: ignore[arg-type]


def waiting(**facts: object) -> JobInfo:
    return JobInfo("a", "Work", State.READY, Priority.NORMAL, "{}", **facts)  # type: ignore[arg-type]


def a_worker(**facts: object) -> WorkerInfo:
    usual = {
        "worker_id": "w1",
        "started_at": None,
        "slots": 2,
        "running": 0,
        "names": ("Work",),
        "has_more_names": False,
    }
    return WorkerInfo(**{**usual, "host": "", "pid": "", "version": "", "lease": 9.0, **facts})  # type: ignore[arg-type]


@pytest.mark.parametrize("why", WhyWaiting)
def test_every_obstacle_has_words_and_the_same_name_as_its_cause(why: WhyWaiting) -> None:
    said = explain(known(waiting(why_waiting=why)))
    assert said.cause == why.value
    assert said.advice
    assert OBSTACLES[why]


def test_a_job_that_met_no_handler_is_in_line_once_a_worker_has_one() -> None:
    job = waiting(why_waiting=WhyWaiting.NO_HANDLER)
    assert explain(known(job, workers=[a_worker()])).cause is Cause.IN_LINE
    other = a_worker(names=("Other",), started_at=1, version=__version__)
    assert explain(known(job, workers=[other])).cause is Cause.NO_HANDLER


def test_a_worker_that_has_not_said_its_handlers_may_have_one() -> None:
    for worker in (a_worker(names=()), a_worker(names=("Other",), has_more_names=True, started_at=1)):
        assert explain(known(waiting(), workers=[worker])).cause is Cause.IN_LINE


def test_a_job_whose_workers_are_all_quiet_or_stop_says_so() -> None:
    quiet, stops = a_worker(quiet=True), a_worker(worker_id="w2", stopping=True)
    other = a_worker(worker_id="w3", names=("Other",), started_at=1)

    said = explain(known(waiting(), workers=[quiet, stops, other]))

    assert (said.cause, said.facts["workers"]) == (Cause.QUIET, ["w1", "w2"])
    assert "All workers with a handler for it are quiet, or stop." in said.sentence
    assert "`redisjobs workers resume ID" in said.advice
    assert explain(known(waiting(), workers=[quiet, a_worker()])).cause is Cause.IN_LINE


def test_a_running_job_says_how_far_it_is_as_its_page_does() -> None:
    job = JobInfo("a", "Work", State.RUNNING, Priority.NORMAL, "{}", progress=Progress(0.4, 12, 30, "pages"))
    assert explain(known(job)).facts["progress"] == "12 of 30 pages"


def test_an_estimate_needs_a_rate() -> None:
    standing = Standing(1_000, ahead=50)
    assert "starts_in" not in explain(known(waiting(), standing=standing)).facts
    lately = Tally(100, {"completed": 10})
    assert explain(known(waiting(), standing=standing, lately=lately)).facts["starts_in"] == 500


def test_a_name_or_an_id_is_quoted_in_a_command() -> None:
    job = JobInfo("a b", "W'k", State.DEAD, Priority.NORMAL, "{}")
    advice = explain(JobFacts("an app", "a b", Standing(0), job)).advice
    assert advice == "`redisjobs dead requeue 'a b' --queue 'an app'` runs it again."
