"""Bytes of a push that come late, after the one that repeated it, and after its job has run: they add nothing."""

import time
from dataclasses import fields, replace
from functools import partial
from typing import Any

import pytest
from store import RedisStore

from redisjobs.client.push import PushCall
from redisjobs.drivers.redis.pushes import PushAnswer, PushCommands, are_plain
from redisjobs.drivers.redis.sync_connection import SyncConnection
from redisjobs.drivers.redis.target import Target
from redisjobs.drivers.remote import clock
from redisjobs.errors import DriverError, QueueFull, WrongType
from redisjobs.model.driver import PushedInPart
from redisjobs.model.job import JobName, OnConflict
from redisjobs.model.queries import Find
from redisjobs.model.times import REPEATABLE
from redisjobs.model.transitions import Ack, After, NewJob, Pushed, Reply
from redisjobs.queue import JobQueue
from redisjobs.sync import JobQueue as SyncJobQueue

pytestmark = pytest.mark.anyio

FIELDS = ["name", "Work", "parameters", "{}"]
JOB = JobName("Work", dict[str, int])
MADE = "P7SeCo0BTZMleAxBUF"  # as ids are that are made
ANOTHER = NewJob("P7SeCo0BTZMleAxBUG", FIELDS)

OPTIONS: dict[str, Any] = {
    "due": After(5000),
    "unique": "key",
    "expires_in_ms": 5000,
    "nonce": "nonce",
    "fields": [*FIELDS, "headers", "{}"],
}
"""What only `push.lua` writes, each with a value; the plain scripts would drop it."""


def test_a_job_with_anything_that_only_the_full_script_writes_is_not_plain() -> None:
    # An id and a priority the plain scripts write; these count only beside a key, and these are about the call.
    others = {"job_id", "priority", "unique_for_ms", "on_conflict", "tries", "queue", "sent_ms", "replicas"}
    assert {field.name for field in fields(NewJob)} == OPTIONS.keys() | others
    for name, value in OPTIONS.items():
        assert not are_plain([ANOTHER, replace(ANOTHER, **{name: value})]), name
    assert are_plain([ANOTHER])


def send(store: RedisStore, job: NewJob, sent_ms: float, *, repeated: bool = False) -> PushAnswer:
    """A first try, or a repetition, as it was sent then; the plain ways first if it is plain: these add none."""
    commands = PushCommands(store.queue_name, store.clock)
    connection = SyncConnection(commands, Target(store.url))
    try:
        if not repeated and are_plain([job]):
            for jobs in ([job], [job, ANOTHER], [ANOTHER, job]):
                plain = connection.run(commands.push_plain(jobs, sent_ms=sent_ms))
                assert not plain.pushed
        return connection.run(commands.push([job], repeated=repeated, sent_ms=sent_ms))
    finally:
        connection.close()


async def run_it(store: RedisStore) -> int:
    """Claim and settle what there is; how many jobs that were."""
    consumer = store.consumer("w")
    await consumer.open()
    leases = (await consumer.exchange([], 10)).leases
    await consumer.exchange([(lease, Ack()) for lease in leases], None)
    await consumer.aclose()
    return len(leases)


@pytest.mark.parametrize(
    ("parameters", "script"),
    [("x" * 4095, "push_one"), ("x" * 4096, "push_plain"), ("\N{PILE OF POO}" * 4095, "push_one")],
)
def test_only_a_job_that_is_surely_small_goes_by_the_script_that_notes_no_large_ones(
    parameters: str, script: str
) -> None:
    job = NewJob(MADE, ["name", "Work", "parameters", parameters])

    command = PushCommands("q").push_plain([job], sent_ms=1)

    assert command.script is not None
    assert (command.script.name, len(parameters.encode()) < 16_384) == (script, True)


@pytest.mark.parametrize(("job_id", "nonce"), [("a", ""), ("a", "0123456789abcdef"), (MADE, "")])
@pytest.mark.parametrize("ran_after", [0, 4.9, 20])
@pytest.mark.parametrize("late", [0, 0.4, 1.9, 4.9, 29, 31, 3600])
async def test_a_first_try_that_comes_after_its_repetition_has_run_adds_nothing(
    redis_store: RedisStore, late: float, ran_after: float, job_id: str, nonce: str
) -> None:
    store, job = redis_store, NewJob(job_id, FIELDS, nonce=nonce)
    store.clock.advance(0)
    sent_ms = store.clock()
    store.clock.advance(ran_after)
    assert await store.driver.push([job], repeated=True) == [Pushed(Reply.OK)]
    assert await run_it(store) == 1
    store.clock.advance(late)

    answer = send(store, job, sent_ms)

    assert answer.pushed in (None, [Pushed(Reply.REPEATED)])
    assert (answer.pushed is None) == (ran_after + late > 30)  # sent too long ago to be judged
    assert answer.server_ms == store.clock()
    assert await run_it(store) == 0
    await store.driver.aclose()


async def test_of_pushes_that_ended_two_are_taken_for_one_only_if_they_are(redis_store: RedisStore) -> None:
    """Of a made id its random characters are remembered; with a nonce, an id of one character is as long."""
    store, made = redis_store, MADE
    store.clock.advance(0)
    sent_ms = store.clock()
    ended = [NewJob(made, FIELDS), NewJob("a", FIELDS, nonce="0123456789abcdef")]
    others = [NewJob(made[:-1] + "-", FIELDS), NewJob("a", FIELDS, nonce="f123456789abcdef")]
    await store.driver.push(ended, repeated=True)
    assert await run_it(store) == 2

    assert [send(store, job, sent_ms).pushed for job in ended] == [[Pushed(Reply.REPEATED)]] * 2
    assert await store.driver.push(others, repeated=False) == [Pushed(Reply.OK)] * 2

    assert await run_it(store) == 2
    await store.driver.aclose()


@pytest.mark.parametrize("kind", ["id", "unique"])
async def test_a_first_try_that_comes_after_its_repetition_was_refused_adds_nothing(
    redis_store: RedisStore, kind: str
) -> None:
    store = redis_store
    store.clock.advance(0)
    await store.driver.push([NewJob("a", FIELDS, unique="key")], repeated=False)
    job = NewJob("a", FIELDS, nonce="another") if kind == "id" else NewJob("b", FIELDS, unique="key")
    sent_ms = store.clock()
    (refused,) = await store.driver.push([job], repeated=True)
    assert refused.reply is (Reply.EXISTS if kind == "id" else Reply.DUPLICATE)
    store.clock.advance(1)
    assert await run_it(store) == 1

    assert send(store, job, sent_ms).pushed == [Pushed(Reply.REPEATED)]

    assert await run_it(store) == 0
    await store.driver.aclose()


@pytest.mark.parametrize("late", [0, 4.9, 29, 31])
async def test_a_first_try_that_comes_after_its_repetition_has_replaced_undoes_no_later_replacement(
    redis_store: RedisStore, late: float
) -> None:
    store = redis_store
    store.clock.advance(0)
    jobs = [
        NewJob(job_id, ["name", "Work", "parameters", job_id], unique="key", on_conflict=OnConflict.REPLACE)
        for job_id in ("1", "2", "3")
    ]
    sent_ms = store.clock()
    await store.driver.push(jobs, repeated=True)
    store.clock.advance(late)

    assert send(store, jobs[1], sent_ms).pushed in (None, [Pushed(Reply.REPLACED, "1")])

    row = await store.driver.read(Find("1"))
    assert row is not None
    assert row.fields[b"parameters"] == b"3"
    assert await run_it(store) == 1
    await store.driver.aclose()


async def test_a_clock_set_back_a_little_hides_nothing_that_ended_before(redis_store: RedisStore) -> None:
    store, job = redis_store, NewJob("a", FIELDS)
    store.clock.set_to = 1_795_640_004_990  # what ends from 5,000 on is remembered apart
    sent_ms = store.clock()
    await store.driver.push([job], repeated=True)
    store.clock.set_to += 20
    assert await run_it(store) == 1
    store.clock.set_to -= 15

    assert send(store, job, sent_ms).pushed == [Pushed(Reply.REPEATED)]
    await store.driver.aclose()


async def test_what_ended_just_as_a_push_was_sent_is_found_also_when_the_next_five_seconds_have_begun(
    redis_store: RedisStore,
) -> None:
    store, job = redis_store, NewJob("a", FIELDS)
    store.clock.set_to = 1_795_640_004_990  # what ends from 5,000 on is remembered apart
    sent_ms = store.clock()
    await store.driver.push([job], repeated=True)
    assert await run_it(store) == 1
    store.clock.set_to += 20

    assert send(store, job, sent_ms).pushed == [Pushed(Reply.REPEATED)]
    await store.driver.aclose()


@pytest.mark.parametrize(("sent_ago", "answer"), [(7_900, [Pushed(Reply.REPEATED)]), (8_100, None)])
async def test_a_repetition_that_comes_later_than_what_ended_is_remembered_adds_nothing(
    redis_store: RedisStore, sent_ago: int, answer: Any
) -> None:
    store, job = redis_store, NewJob("a", FIELDS)
    store.clock.advance(0)
    await store.driver.push([job], repeated=False)
    assert await run_it(store) == 1
    store.clock.advance(REPEATABLE + sent_ago / 1000)  # the last that may be sent

    assert send(store, job, store.clock() - sent_ago, repeated=True).pushed == answer
    await store.driver.aclose()


class Sent:
    """When pushes said that they were sent, by a driver that is watched."""

    def __init__(self, driver: Any) -> None:
        self.said: list[float | None] = []
        for name in ("push", "push_plain"):
            setattr(driver.commands, name, partial(self._note, getattr(driver.commands, name)))

    def _note(self, push: Any, jobs: Any, *, sent_ms: float | None, **options: Any) -> Any:
        self.said.append(sent_ms)
        return push(jobs, sent_ms=sent_ms, **options)


@pytest.mark.parametrize("ahead", [-3600, 3600])
@pytest.mark.parametrize("face", [JobQueue, SyncJobQueue])
async def test_no_clock_of_a_producer_has_a_say(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch, face: Any, ahead: int
) -> None:
    queue = face(redis_store.url, redis_store.queue_name)
    sent = Sent(queue.driver if face is JobQueue else queue._store)
    for name, unit in (("time", 1), ("time_ns", 10**9), ("monotonic", 1)):
        real = getattr(time, name)
        monkeypatch.setattr(time, name, lambda real=real, unit=unit: real() + ahead * unit)

    handles = [queue.push({}, JOB), queue.push({}, JOB, job_id="mine"), queue.push({}, JOB, delay=60)]
    added = [(await handle if face is JobQueue else handle).added for handle in handles]

    monkeypatch.undo()
    now_ms = redis_store.clock()
    assert added == [True] * 3
    assert sent.said[0] is None  # it asks the server first
    assert all(now_ms - 10_000 < said < now_ms + 1 for said in sent.said[1:] if said is not None)
    (due_ms,) = [due for _, due in redis_store.admin.zrange(f"{redis_store.prefix}due", 0, -1, withscores=True)]
    assert now_ms + 50_000 < due_ms <= now_ms + 60_001
    await queue.aclose() if face is JobQueue else queue.close()


@pytest.mark.parametrize("face", [JobQueue, SyncJobQueue])
async def test_a_connection_that_has_not_heard_the_servers_clock_lately_asks_again(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch, face: Any
) -> None:
    queue = face(redis_store.url, redis_store.queue_name)
    sent = Sent(queue.driver if face is JobQueue else queue._store)

    async def push() -> list[bool]:
        sent.said.clear()
        pushed = queue.push({}, JOB)
        assert (await pushed if face is JobQueue else pushed).added
        return [said is not None for said in sent.said]

    assert await push() == [False, True]
    assert await push() == [True]
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + clock.CLOCK_KEPT + 1)
    assert await push() == [False, True]
    assert await push() == [True]
    monkeypatch.undo()
    await queue.aclose() if face is JobQueue else queue.close()


@pytest.mark.parametrize("seconds", [-3600, -5, 29, 3600])
@pytest.mark.parametrize("face", [JobQueue, SyncJobQueue])
async def test_a_connection_learns_the_servers_clock_again_once_it_was_set(
    redis_store: RedisStore, face: Any, seconds: float
) -> None:
    store = redis_store
    store.clock.advance(0)
    queue = face(store.url, store.queue_name)
    drivers = [queue.driver] if face is JobQueue else [queue._store]
    drivers[0].commands._now_ms = store.clock

    async def push(job_id: str) -> None:
        pushed = queue.push({}, JOB, job_id=job_id)
        assert (await pushed if face is JobQueue else pushed).added

    await push("a")
    store.clock.advance(seconds)
    await push("b")

    assert await run_it(store) == 2
    await queue.aclose() if face is JobQueue else queue.close()
    await store.driver.aclose()


def test_an_error_of_some_jobs_names_all_that_are_not_there_and_says_how_many_others_are_not() -> None:
    replies = [Reply.OK, Reply.UNKNOWN, Reply.EXISTS, Reply.DUPLICATE, Reply.REPEATED]
    jobs = [NewJob(str(reply), FIELDS, nonce="n", on_conflict=OnConflict.RAISE) for reply in replies]

    with pytest.raises(
        DriverError,
        match=r"1 of 5 jobs may .*\. The others are there, but for 2 that met ",
    ) as refused:
        PushCall(jobs, 10, prepared=True).handles([*map(Pushed, replies)], JobQueue("memory://")._handle)

    assert list(refused.value.jobs) == jobs[1:2]


@pytest.mark.parametrize("why", ["full", "spoiled"])
@pytest.mark.parametrize("face", [JobQueue, SyncJobQueue])
async def test_a_push_that_is_refused_after_some_of_its_jobs_were_answered_names_the_others_and_repeats_none(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch, face: Any, why: str
) -> None:
    """It takes two calls, as it meets a job of 1 MB."""
    store, key = redis_store, f"{redis_store.prefix}unique:key"
    store.clock.advance(0)
    await store.driver.push([NewJob("large", ["name", "Work", "parameters", "x" * 1_200_000])], repeated=False)
    queue = face(store.url, store.queue_name)
    driver = queue.driver if face is JobQueue else queue._store
    driver.commands._now_ms = store.clock
    jobs = [queue.prepare({}, JOB), queue.prepare({}, JOB, job_id="large"), queue.prepare({}, JOB, unique="key")]

    def when_half_is_done(self: PushCommands, left: Any, of: Any = PushCommands.push, **options: Any) -> Any:
        if len(left) == 1:
            refuse(store, why, key)
        return of(self, left, **options)

    async def push_many() -> list[bool]:
        pushed = queue.push_many(jobs)
        return [each.added for each in (await pushed if face is JobQueue else pushed)]

    said = r"2 of 3 jobs had been answered before this failed. Of the other 1, .*nothing was written"
    with monkeypatch.context() as patched:
        patched.setattr(PushCommands, "push", when_half_is_done)
        try:
            with pytest.raises(QueueFull if why == "full" else WrongType, match=said) as refused:
                await push_many()
        finally:
            store.admin.config_set("maxmemory", 0)
            store.admin.delete(key)

    assert list(refused.value.jobs) == jobs[2:]
    assert [await run_it(store), await run_it(store)] == [1, 1]  # the large one, then that which was added
    store.clock.advance(11)
    assert await push_many() == [True, True, True]  # of the first this is known only now
    assert await run_it(store) == 2
    assert store.admin.hget(f"{store.prefix}stats", "pushed") == b"4"
    await queue.aclose() if face is JobQueue else queue.close()
    await store.driver.aclose()


def refuse(store: RedisStore, why: str, key: str) -> None:
    """Let the server refuse what is pushed next."""
    if why == "full":
        store.admin.config_set("maxmemory", 1)
    else:
        store.admin.rpush(key, "junk")


async def test_a_repetition_of_pushes_of_several_times_that_is_refused_says_which_were_answered(
    redis_store: RedisStore,
) -> None:
    store = redis_store
    jobs = [NewJob(job_id, FIELDS, unique=key) for job_id, key in (("a", ""), ("b", "key"), ("c", ""), ("d", ""))]
    store.clock.advance(0)
    await store.driver.push([jobs[2], jobs[0]], repeated=True)
    store.clock.advance(1)
    await store.driver.push([jobs[1]], repeated=True)
    store.clock.advance(1)
    await store.driver.push([jobs[3]], repeated=True)
    store.admin.delete(f"{store.prefix}unique:key")
    refuse(store, "spoiled", f"{store.prefix}unique:key")

    with pytest.raises(PushedInPart, match="WRONGTYPE") as refused:
        await store.driver.push(jobs, repeated=True)
    with pytest.raises(WrongType):
        await store.driver.push(jobs[1:], repeated=True)

    store.admin.delete(f"{store.prefix}unique:key")
    repeated = Pushed(Reply.REPEATED)
    assert refused.value.answers == [repeated, None, repeated, None]
    assert isinstance(refused.value.cause, WrongType)
    await store.driver.aclose()


@pytest.mark.parametrize("seconds", [-(10**8), -3600, 70, 3600])
@pytest.mark.parametrize("face", [JobQueue, SyncJobQueue])
async def test_a_push_repeated_after_the_servers_clock_was_set_makes_no_second_job(
    redis_store: RedisStore, face: Any, seconds: float
) -> None:
    """What has ended is forgotten after a minute, by that clock: where it may be, the error says so."""
    store = redis_store
    queue = face(store.url, store.queue_name)
    drivers = [queue.driver] if face is JobQueue else [queue._store]
    drivers[0].commands._now_ms = store.clock
    ended, new = queue.prepare({}, JOB), queue.prepare({}, JOB)

    async def push_many(jobs: Any) -> list[Any]:
        pushed = queue.push_many(jobs)
        return list(await pushed if face is JobQueue else pushed)

    await push_many([ended])
    assert await run_it(store) == 1
    store.clock.step(seconds)
    if seconds > 0:  # as the server forgets
        store.admin.delete(*store.admin.keys(f"{store.prefix}finished:*"))
        with pytest.raises(
            DriverError, match=rf"1 of 2 jobs may .* or may not \({ended.job_id}\): the server's"
        ) as e:
            await push_many([ended, new])
        assert list(e.value.jobs) == [ended]
    else:
        assert [handle.added for handle in await push_many([ended, new])] == [False, True]

    assert await run_it(store) == 1
    await queue.aclose() if face is JobQueue else queue.close()
    await store.driver.aclose()
