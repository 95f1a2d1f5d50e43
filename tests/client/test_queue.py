"""The producer's side, async and sync alike, on memory and on a real server."""

import asyncio
import copy
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, TypedDict

import pytest
import redis
import redis.asyncio
from memory_and_redis import store as store
from operating import FACES, close, done
from pydantic import BaseModel
from store import RedisStore, Store, happened

import redisjobs
import redisjobs.sync
from redisjobs import (
    DriverError,
    EncodeError,
    JobName,
    JobQueue,
    Priority,
    Reply,
    State,
    Unavailable,
    UniqueConflict,
)
from redisjobs.errors import RegistrationError, ServerNotFound, UnknownJob
from redisjobs.events import JobsPushed
from redisjobs.events.middleware import Middleware, OutgoingJob
from redisjobs.local import server
from redisjobs.model.queries import COUNTERS
from redisjobs.model.times import REPEATABLE
from redisjobs.model.transitions import Ack, DeadLetter, Lease, Settlement

pytestmark = pytest.mark.anyio


@dataclass
class Add:
    job_name: ClassVar[str] = "Add"
    a: int
    text: str = ""


class Loose(TypedDict):
    a: int


def where(store: Store) -> Any:
    return store.url if isinstance(store, RedisStore) else store.driver


@pytest.fixture(params=FACES)
async def queue(request: pytest.FixtureRequest, store: Store) -> Any:
    """A queue of either face; `done` makes their answers one."""
    queue = FACES[request.param](where(store), store.queue_name)
    yield queue
    await close(queue)


async def claim(store: Store, count: int = 10) -> list[Lease]:
    """Lease what is there to a worker."""
    consumer = store.consumer("w1")
    await consumer.open()
    leases = list((await consumer.exchange([], count)).leases)
    await consumer.aclose()
    return leases


async def end(store: Store, *leases: Lease, settlement: Settlement = Ack()) -> None:  # noqa: B008
    consumer = store.consumer("w1")
    await consumer.exchange([(lease, settlement) for lease in leases], None)
    await consumer.aclose()
    await store.driver.aclose()


async def test_a_pushed_job_can_be_looked_up(queue: Any) -> None:
    before = datetime.now(UTC)
    job = await done(queue.push(Add(5, "größe")))
    job_id = str(job)
    assert (job.id, job.name, job.added) == (job_id, "Add", True)
    assert await done(job.info()) == await done(queue.get(job)) == await done(queue.get(job_id))

    info = await done(queue.get(job_id))
    assert (info.job_id, info.name, info.state, info.priority) == (job_id, "Add", State.READY, Priority.NORMAL)
    assert (info.parameters, info.attempt, info.deliveries, info.worker) == ('{"a":5,"text":"größe"}', 1, 0, "")
    assert abs(info.queued_at - before) < timedelta(seconds=10)
    assert (info.due_at, info.headers, info.unique, info.error) == (None, None, "", "")
    assert await done(queue.get("unknown")) is None


async def test_each_way_of_delaying_says_when_the_job_is_due(queue: Any) -> None:
    at = datetime(2040, 5, 17, 12, 0, 0, 123_000, UTC)
    ids = [
        await done(queue.push(Add(1), delay=60)),
        await done(queue.push(Add(1), delay=timedelta(minutes=2))),
        await done(queue.push(Add(1), at=at)),
        await done(queue.push(Add(1), at=datetime.max.replace(tzinfo=UTC))),
    ]
    one, two, three, last = [await done(queue.get(job_id)) for job_id in ids]
    # Not before its time: what is left of the millisecond it was pushed in comes on top.
    assert timedelta(0, 60) <= one.due_at - one.queued_at <= timedelta(0, 60, 1000)
    assert timedelta(0, 120) <= two.due_at - two.queued_at <= timedelta(0, 120, 1000)
    assert three.due_at == at
    assert last.due_at.year == 9999
    assert {info.state for info in (one, two, three, last)} == {State.DELAYED}


@pytest.mark.parametrize("store", ["redis"], indirect=True)
async def test_no_job_is_due_before_its_time(queue: Any) -> None:
    for number in range(1, 100):
        delay = number * 0.0007
        before = time.time()
        job_id = await done(queue.push(Add(1), delay=60 + delay))

        info = await done(queue.get(job_id))
        assert info.due_at.timestamp() >= before + 60 + delay - 1e-6  # a float's own error


@pytest.mark.parametrize(
    "options", [{"delay": 0}, {"delay": None}, {"delay": 1e-9}, {"at": datetime(1950, 1, 1, tzinfo=UTC)}]
)
async def test_a_time_that_has_come_is_no_delay(queue: Any, options: Any) -> None:
    job_id = await done(queue.push(Add(1), **options))
    assert (await done(queue.get(job_id))).state is State.READY


async def test_options_travel_with_the_job(queue: Any, store: Store) -> None:
    options: Any = {
        "priority": "high",
        "headers": {"trace": "ü"},
        "unique": "joe",
        "expires_in": timedelta(hours=1),
    }
    job_id = (await done(queue.push(Add(1), job_id="mine", **options))).id

    info = await done(queue.get("mine"))
    assert job_id == "mine"
    assert (info.priority, info.headers, info.unique) == (Priority.HIGH, {"trace": "ü"}, "joe")
    (lease,) = await claim(store)
    assert lease.rank == 0
    late = int(lease.fields[b"expires_at"]) / 1000 - info.queued_at.timestamp()
    assert late == pytest.approx(3600, abs=1)
    await end(store, lease)


@pytest.mark.parametrize(
    ("options", "error", "why"),
    [
        ({"delay": 1, "at": datetime.now(UTC)}, ValueError, "delay= or at=, not both"),
        ({"at": datetime.now()}, ValueError, "has no time zone"),
        ({"delay": -1}, ValueError, "delay=-1: give seconds from 0 up"),
        ({"delay": timedelta(seconds=-1)}, ValueError, "give seconds from 0 up"),
        ({"delay": float("nan")}, ValueError, "give seconds from 0 up"),
        ({"delay": float("inf")}, ValueError, "give seconds from 0 up"),
        ({"expires_in": -1}, ValueError, "expires_in=-1"),
        ({"unique_for": 60}, ValueError, "give the key too"),
        ({"unique": "k", "unique_for": -1}, ValueError, "unique_for=-1"),
        ({"unique": "k", "unique_for": 0}, ValueError, "at least 1 ms"),
        ({"unique_until": "start"}, ValueError, "give the key too"),
        ({"unique": "k", "unique_until": "begin"}, ValueError, "unique_until='begin': give one of"),
        ({"unique": "k", "unique_until": "start", "unique_for": 5}, ValueError, "leave out unique_until="),
        ({"on_conflict": "skip"}, ValueError, "give the key too"),
        ({"unique": "k", "on_conflict": "drop"}, ValueError, "on_conflict='drop': give one of"),
        ({"unique": ""}, ValueError, "unique='': give 1 to 500 characters"),
        ({"unique": 5}, ValueError, "unique=5: give 1 to 500 characters"),
        ({"job_id": ""}, ValueError, "job_id='': give 1 to 500 characters"),
        ({"job_id": "x" * 501}, ValueError, "give 1 to 500 characters"),
        ({"job_id": 5}, ValueError, "job_id=5"),
        ({"job_id": "\ud800"}, ValueError, "UTF-8 can carry"),
        ({"priority": "urgent"}, ValueError, "priority='urgent': give one of Priority.HIGH \\('high'\\), "),
        ({"headers": {"a": 1}}, EncodeError, "headers are strings to strings"),
        ({"dealy": 60}, TypeError, "there is no push option dealy; there are delay, at, priority, job_id"),
    ],
)
async def test_an_option_that_makes_no_sense_is_refused_and_nothing_is_sent(
    queue: Any, options: Any, error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=why):
        await done(queue.push(Add(1), **options))
    with pytest.raises(error, match=why if "job_id" not in options else "job_id"):
        await done(queue.push_many([Add(1), Add(2)], **options))
    counts = await done(queue.control.counts())
    assert (sum(counts.ready.values()), counts.delayed, happened(counts)) == (0, 0, {})


@pytest.mark.parametrize(
    ("parameters", "name", "error", "why"),
    [
        (Add("5"), None, EncodeError, r"Add\.a: should be a valid integer \(got str\)"),  # type: ignore[arg-type]
        (Add(1, "x" * 524_288), None, EncodeError, "Add: parameters take 524,305 bytes of JSON"),
        ({"b": 1}, JobName("loose", Loose), EncodeError, "loose: Loose has no key 'b'"),
        ({"a": 1}, None, EncodeError, r"a dict does not say which job it is for: push\(\{...\}, 'NAME'\)"),
        (Add, None, TypeError, r"Add is a class: push an instance of it, as push\(Add\(...\)\)"),
        (Add, JobName("Add", Add), TypeError, "Add is a class: push an instance of it"),
        ("text", None, RegistrationError, "str has no job name"),
    ],
)  # fmt: skip
async def test_bad_parameters_are_refused_and_nothing_is_sent(
    queue: Any, parameters: Any, name: Any, error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=why):
        await done(queue.push(parameters, name))
    assert happened(await done(queue.control.counts())) == {}


async def test_the_limit_of_parameters_is_the_queues_to_say(store: Store) -> None:
    queue = JobQueue(where(store), store.queue_name, max_parameters=17)
    async with queue:
        await queue.push(Add(1))
        with pytest.raises(EncodeError, match="take 18 bytes of JSON, the limit is 17"):
            await queue.push(Add(10))


async def test_a_fresh_queue_has_counted_nothing_of_everything(queue: Any) -> None:
    assert (await done(queue.control.counts())).totals == dict.fromkeys(COUNTERS, 0)


async def test_a_job_name_names_what_has_no_name_of_its_own(queue: Any) -> None:
    job_id = await done(queue.push({"a": 1}, JobName("loose", Loose)))
    other = await done(queue.push(Add(1), JobName("other", Add)))
    assert (await done(queue.get(job_id))).name == "loose"
    assert (await done(queue.get(other))).name == "other"


class Letter(BaseModel):
    to: str
    copies: int = 1


@pytest.mark.parametrize(
    ("kind", "parameters", "raw"),
    [
        (Add, Add(1, "x"), {"a": 1, "text": "x"}),
        (Add, {"a": 1}, {"a": 1, "text": ""}),
        (Letter, Letter(to="joe"), {"to": "joe", "copies": 1}),
        (Letter, {"to": "joe", "copies": 2}, {"to": "joe", "copies": 2}),
        (Loose, {"a": 1}, {"a": 1}),
        (dict[str, int], {"b": 1}, {"b": 1}),
    ],
)
async def test_a_job_that_has_a_handler_is_pushed_by_its_name(
    queue: Any, kind: Any, parameters: Any, raw: dict[str, Any]
) -> None:
    queue.register(JobName("named", kind))(print)

    handles = [await done(queue.push(parameters, "named")), *await done(queue.push_many([parameters], "named"))]

    for each in handles:
        info = await done(queue.get(each))
        assert (info.name, json.loads(info.parameters)) == ("named", raw)


@pytest.mark.parametrize(
    ("kind", "parameters", "why"),
    [
        (Add, {"a": "1"}, r"named: parameters don't fit: Add\.a: should be a valid integer"),
        (Add, {"a": 1, "b": 2}, "can't make a Add of what was given: .* unexpected keyword argument 'b'"),
        (Letter, {"to": "joe", "copies": "1"}, r"Letter\.copies: should be a valid integer"),
        (Letter, {"to": "joe", "cc": "1"}, r"^named: Letter has no key 'cc'$"),
        (Loose, {"a": 1, "b": 2}, "Loose has no key 'b'"),
    ],
)
async def test_what_is_pushed_by_name_has_to_fit_all_the_same(
    queue: Any, kind: Any, parameters: Any, why: str
) -> None:
    queue.register(JobName("named", kind))(print)
    with pytest.raises(EncodeError, match=why):
        await done(queue.push(parameters, "named"))


async def test_a_name_without_a_handler_is_told_with_those_there_are(queue: Any) -> None:
    queue.register(Add)(print)
    with pytest.raises(UnknownJob, match="no handler for 'SendEmail'; registered: Add"):
        await done(queue.push({"to": "joe"}, "SendEmail"))
    with pytest.raises(TypeError, match="is no job name: give a JobName, or as a string"):
        await done(queue.push(Add(1), Add))


@pytest.mark.parametrize("face", FACES)
async def test_both_faces_wait_until_the_deadline_for_a_store_that_is_away(face: str) -> None:
    for _ in range(3):  # the pauses between tries are of any length
        queue = FACES[face]("redis://127.0.0.1:1/0", deadline=0.3)
        began = time.monotonic()
        with pytest.raises(Unavailable, match=r"refused|Connect call failed"):
            await done(queue.push(Add(1)))
        assert time.monotonic() - began >= 0.299


async def pushed(pushing: Any) -> Any:
    """Id of a push's job, and whether it was added; of many pushes, a list of these."""
    told = await done(pushing)
    return [(job.id, job.added) for job in told] if isinstance(told, list) else (told.id, told.added)


async def test_an_id_is_not_pushed_again_while_its_job_is_there_and_then_it_is_a_new_job(
    queue: Any, store: Store
) -> None:
    assert await pushed(queue.push(Add(1), job_id="mine")) == ("mine", True)
    assert await pushed(queue.push(Add(2), job_id="mine", delay=5)) == ("mine", False)
    (lease,) = await claim(store)
    assert lease.fields[b"parameters"] == b'{"a":1,"text":""}'
    assert await pushed(queue.push(Add(3), job_id="mine")) == ("mine", False)
    await end(store, lease)

    assert await pushed(queue.push(Add(4), job_id="mine")) == ("mine", True)
    assert await pushed(queue.push_many([queue.prepare(Add(5), job_id="mine")])) == [("mine", False)]
    assert await done(queue.cancel("mine")) is Reply.CANCELLED
    assert await pushed(queue.push_many([queue.prepare(Add(6), job_id="mine")])) == [("mine", True)]
    assert (await done(queue.get("mine"))).parameters == '{"a":6,"text":""}'


async def test_an_id_that_the_queue_made_can_be_given_to_a_new_push(queue: Any, store: Store) -> None:
    first = await done(queue.push(Add(1)))
    await end(store, *await claim(store))
    assert await pushed(queue.push(Add(2), job_id=first.id)) == (first.id, True)


async def test_a_prepared_job_is_one_push_however_often_it_is_pushed(queue: Any, store: Store) -> None:
    jobs = [queue.prepare(Add(n)) for n in range(3)] + [queue.prepare(Add(4), job_id="mine")]
    ids = [job.job_id for job in jobs]
    assert await pushed(queue.push_many(jobs)) == [(job_id, True) for job_id in ids]
    await end(store, *await claim(store))

    assert await pushed(queue.push_many(jobs)) == [(job_id, False) for job_id in ids]
    assert sum((await done(queue.control.counts())).ready.values()) == 0


async def test_a_prepared_job_that_was_refused_can_be_pushed_once_the_way_is_free(
    queue: Any, store: Store
) -> None:
    await done(queue.push(Add(1), job_id="mine", unique="joe"))
    jobs = [queue.prepare(Add(2), job_id="mine"), queue.prepare(Add(3), unique="joe")]
    assert await pushed(queue.push_many(jobs)) == [("mine", False), ("mine", False)]
    await end(store, *await claim(store))

    assert await pushed(queue.push_many(jobs)) == [("mine", True), (jobs[1].job_id, True)]
    assert await pushed(queue.push_many(jobs)) == [("mine", False), (jobs[1].job_id, False)]


async def test_a_push_is_not_made_again_once_what_ended_may_be_forgotten(queue: Any, store: Store) -> None:
    job = queue.prepare(Add(1), job_id="mine")
    twin = copy.deepcopy(job)
    assert await pushed(queue.push_many([job])) == [("mine", True)]
    assert (job == twin, repr(job)) == (True, repr(twin))
    await end(store, *await claim(store))
    assert job.tries
    job.tries.since -= REPEATABLE + 1
    before = happened(await done(queue.control.counts()))

    with pytest.raises(DriverError, match=r"nothing was sent: this was first pushed 51 s ago \(mine\)") as caught:
        await done(queue.push_many([job]))

    assert caught.value.jobs == (job,)
    assert happened(await done(queue.control.counts())) == before
    assert (await pushed(queue.push(Add(1), job_id="mine")))[1]


async def test_one_job_at_a_time_holds_a_unique_key(queue: Any, store: Store) -> None:
    first, added = await pushed(queue.push(Add(1), unique="joe"))
    assert added
    assert await pushed(queue.push(Add(2), unique="joe", delay=60)) == (first, False)
    assert await pushed(queue.push_many([Add(3), Add(4)], unique="joe")) == [(first, False)] * 2
    assert (await pushed(queue.push(Add(5), unique="jim")))[1]
    await end(store, *await claim(store))

    assert (await pushed(queue.push(Add(6), unique="joe")))[1]


async def test_a_unique_key_with_a_time_is_held_for_that_time_whatever_becomes_of_the_job(
    queue: Any, store: Store
) -> None:
    first, _ = await pushed(queue.push(Add(1), unique="joe", unique_for=timedelta(hours=1)))
    await end(store, *await claim(store))
    assert await pushed(queue.push(Add(2), unique="joe")) == (first, False)
    assert await done(queue.get(first)) is None


async def test_a_key_is_free_again_once_the_job_starts_where_the_push_said_so(queue: Any, store: Store) -> None:
    first, _ = await pushed(queue.push(Add(1), unique="joe", unique_until="start"))
    assert await pushed(queue.push(Add(2), unique="joe", unique_until="end")) == (first, False)
    (lease,) = await claim(store)
    assert (await pushed(queue.push(Add(3), unique="joe")))[1]
    await end(store, lease, *await claim(store))


async def test_a_job_that_waits_becomes_what_a_later_push_says(queue: Any, store: Store) -> None:
    added = []
    queue.events.subscribe(JobsPushed, lambda event: added.extend(event.jobs))
    first = await done(queue.push(Add(1), unique="joe", delay=60))
    again = await done(queue.push(Add(2), unique="joe", on_conflict="replace", headers={"a": "b"}))

    assert (first.added, first.replaced) == (True, False)
    assert (again.id, again.added, again.replaced) == (first.id, False, True)
    assert added == [(first.id, "Add", True), (first.id, "Add", False)]
    info = await done(again.info())
    assert (info.state, json.loads(info.parameters)["a"], info.headers) == (State.READY, 2, {"a": "b"})
    (lease,) = await claim(store)
    skipped = await done(queue.push(Add(3), unique="joe", on_conflict="replace"))
    assert (skipped.id, skipped.added, skipped.replaced) == (first.id, False, False)  # it runs
    await end(store, lease)


async def test_a_held_key_is_an_error_where_the_push_asked_for_it(queue: Any, store: Store) -> None:
    first, _ = await pushed(queue.push(Add(1), unique="joe"))
    before = store.contents()

    with pytest.raises(UniqueConflict, match=f"not pushed: the job {first} holds the unique key 'joe'$") as raised:
        await done(queue.push(Add(2), unique="joe", on_conflict="raise"))

    assert (raised.value.job_id, raised.value.job_ids) == (first, (first,))
    assert store.contents() == before
    assert (await done(queue.push(Add(3), unique="jim", on_conflict="raise"))).added


async def test_of_many_jobs_those_are_pushed_that_meet_no_held_key_before_the_others_raise(queue: Any) -> None:
    await done(queue.push(Add(0), job_id="holds 3", unique="3"))
    told = []
    queue.events.subscribe(JobsPushed, lambda event: told.extend(event.jobs))
    jobs = [queue.prepare(Add(n), unique=str(n % 600), on_conflict="raise") for n in range(1_100)]

    with pytest.raises(
        UniqueConflict, match="holds the unique key '3', and 500 more of this call met a"
    ) as raised:
        await done(queue.push_many(jobs))

    holders = ["holds 3", *(job.job_id for job in jobs[:500])]
    holders[4] = "holds 3"
    assert list(raised.value.job_ids) == holders
    assert sum((await done(queue.control.counts())).ready.values()) == 600
    assert sum(added for _, _, added in told) == 599


async def test_a_middleware_hears_of_a_job_that_replaced_or_raised_that_it_was_not_added(queue: Any) -> None:
    heard: list[Any] = []

    class Hear(Middleware):
        def on_push(self, job: OutgoingJob) -> None:
            job.when_pushed(lambda added, error: heard.append((added, error)))

    await done(queue.push(Add(1), unique="joe"))
    queue.add_middleware(Hear())
    await done(queue.push(Add(2), unique="joe", on_conflict="replace"))
    with pytest.raises(UniqueConflict):
        await done(queue.push_many([queue.prepare(Add(3), unique="joe", on_conflict="raise"), Add(4)]))
    assert heard == [(False, None), (False, None), (True, None)]


async def test_a_handle_looks_its_job_up_and_cancels_it(queue: Any, store: Store) -> None:
    job = await done(queue.push(Add(1), delay=60))
    assert (await done(job.info())).state is State.DELAYED
    assert await done(job.cancel()) is Reply.CANCELLED
    assert await done(job.info()) is None


async def test_many_jobs_are_pushed_in_order_from_a_generator(queue: Any) -> None:
    ids = [job.id for job in await done(queue.push_many((Add(n) for n in range(1_203)), priority=Priority.LOW))]
    assert len(set(ids)) == 1_203
    assert (await done(queue.control.counts())).ready[Priority.LOW] == 1_203
    listed = await done(queue.control.jobs(State.READY, 2_000))
    assert [info.job_id for info in listed] == ids[:500]
    assert await done(queue.push_many([])) == []


async def test_prepared_jobs_keep_their_own_options_among_others(queue: Any) -> None:
    prepared = queue.prepare(Add(2), job_id="mine", priority="high")
    ids = await done(queue.push_many([Add(1), prepared, Add(3)], delay=60))
    assert ids[1].id == "mine"
    states = [(await done(queue.get(job_id))).state for job_id in ids]
    assert states == [State.DELAYED, State.READY, State.DELAYED]


async def test_bad_parameters_among_many_stop_the_push_at_their_own_chunk(queue: Any) -> None:
    items = (Add(n if n != 700 else "x") for n in range(2_000))  # type: ignore[arg-type]
    with pytest.raises(EncodeError, match=r"Add\.a"):
        await done(queue.push_many(items))
    assert sum((await done(queue.control.counts())).ready.values()) == 500


async def test_many_jobs_cannot_share_an_id(queue: Any) -> None:
    with pytest.raises(ValueError, match="job_id= would give all jobs one id"):
        await done(queue.push_many([Add(1)], job_id="mine"))


def test_one_call_carries_500_jobs_or_4_mib() -> None:
    queue = JobQueue("memory://")
    few = [len(chunk.jobs) for chunk in queue._prepare_many((Add(n) for n in range(1_001)), None, {})]
    large = [
        len(chunk.jobs) for chunk in queue._prepare_many((Add(1, "x" * 500_000) for _ in range(20)), None, {})
    ]
    assert few == [500, 500, 1]
    assert large == [9, 9, 2]


async def test_jobs_are_listed_by_state_in_the_order_they_will_run(queue: Any, store: Store) -> None:
    for job_id, priority, delay in [
        ("n1", None, 0), ("low", "low", 0), ("n2", None, 0), ("high", "high", 0), ("d60", None, 60),
        ("d5", None, 5),
    ]:  # fmt: skip
        await done(queue.push(Add(1), job_id=job_id, priority=priority, delay=delay))

    async def listed(state: Any, limit: int = 100) -> list[str]:
        return [info.job_id for info in await done(queue.control.jobs(state, limit))]

    assert await listed(State.READY) == ["high", "n1", "n2", "low"]
    assert await listed("delayed") == ["d5", "d60"]
    assert await listed("delayed", 1) == ["d5"]
    leases = await claim(store, 2)
    assert await listed("running") == ["high", "n1"]
    assert await listed("ready", 1) == ["n2"]
    for lease in leases:
        await end(store, lease, settlement=DeadLetter("failed", "no good"))
    assert await listed("dead") == ["n1", "high"]
    counts = await done(queue.control.counts())
    assert (counts.ready, counts.running, counts.delayed, counts.dead) == (
        {Priority.HIGH: 0, Priority.NORMAL: 1, Priority.LOW: 1}, 0, 2, 2,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("state", "limit", "why"),
    [("gone", 1, r"state='gone': give one of State.RUNNING \('running'\), State.READY"), ("dead", 0, "limit=0")],
)
async def test_a_list_of_no_state_or_no_length_is_refused(queue: Any, state: str, limit: int, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        await done(queue.control.jobs(state, limit))


async def test_cancel_says_what_it_did(queue: Any, store: Store) -> None:
    running = await done(queue.push(Add(1), unique="joe"))
    (lease,) = await claim(store)
    ready, delayed = await done(queue.push(Add(2))), await done(queue.push(Add(3), delay=60))

    words = [await done(queue.cancel(job_id)) for job_id in (ready, delayed, running, running, ready, "unknown")]

    assert words == [
        Reply.CANCELLED, Reply.CANCELLED, Reply.CANCELLING, Reply.CANCELLING, Reply.NOT_FOUND, Reply.NOT_FOUND,
    ]  # fmt: skip
    assert (await done(queue.get(running))).cancelling
    await end(store, lease, settlement=Ack(cancelled=True))
    assert await done(queue.get(running)) is None


async def test_a_dead_letter_is_shown_requeued_and_deleted(queue: Any, store: Store) -> None:
    job_id = await done(queue.push(Add(1), headers={"k": "v"}, priority="low"))
    await end(store, *await claim(store), settlement=DeadLetter("failed", "E: no good", "Traceback"))
    info = await done(queue.get(job_id))
    assert (info.state, info.reason, info.error, info.traceback) == (
        State.DEAD,
        "failed",
        "E: no good",
        "Traceback",
    )
    assert (info.worker, info.priority, info.headers) == ("w1", Priority.LOW, {"k": "v"})
    assert await done(queue.cancel(job_id)) is Reply.DEAD

    assert await done(queue.control.requeue(job_id)) is Reply.OK
    assert await done(queue.control.requeue(job_id)) is None
    info = await done(queue.get(job_id))
    assert (info.state, info.error, info.headers, info.priority) == (State.READY, "", {"k": "v"}, Priority.LOW)
    assert await done(queue.control.delete(job_id)) is False

    await end(store, *await claim(store), settlement=DeadLetter("failed", "again"))
    assert await done(queue.control.delete(job_id)) is True
    assert await done(queue.get(job_id)) is None


async def test_a_function_that_is_a_job_is_pushed_with_its_arguments(queue: Any) -> None:
    @queue.job  # type: ignore[untyped-decorator]
    async def resize(path: str, *, width: int = 64) -> None: ...

    later = resize.options(delay=60).options(priority="high")
    ids = [
        await done(resize.push("a", width=2)),
        await done(later.push("b")),
        *await done(queue.push_many([resize.prepare("c"), later.prepare("d"), Add(1)])),
    ]
    infos = [await done(queue.get(job_id)) for job_id in ids]
    assert [info.parameters for info in infos[:4]] == [
        '{"path":"a","width":2}', '{"path":"b"}', '{"path":"c"}', '{"path":"d"}',
    ]  # fmt: skip
    assert [info.state for info in infos[:4]] == [State.READY, State.DELAYED] * 2
    with pytest.raises(TypeError, match="there is no push option dealy"):
        resize.options(dealy=1)
    with pytest.raises(EncodeError, match="unexpected keyword argument 'height'"):
        await done(resize.push("a", height=2))


@pytest.mark.parametrize("face", FACES.values())
@pytest.mark.parametrize(
    ("given", "why"),
    [
        (
            ("http://user:secret@host", "q"),
            "'http://…@host': a queue is at memory://, redis://, rediss://, unix://",
        ),
        (("localhost:6379", "q"), "'localhost:6379': a queue is at"),
        (("redis://host:port", "q"), "[Pp]ort"),
        (("redis://host?sockettimeout=1", "q"), "can't connect by these options: .*sockettimeout"),
        ((5, "q"), "5 is neither a URL nor a redis-py client"),
        ((None, "q"), "neither a URL"),
        *(
            (("redis://host", name), "can't name a queue")
            for name in ("", "two words", "a{b", "}", "x" * 201, "a\n")
        ),
        (("memory://", "two words"), "can't name a queue"),
    ],
)
def test_a_place_or_a_name_that_cannot_be_one_is_an_error_at_once(
    face: Any, given: tuple[Any, str], why: str
) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        face(*given)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("deadline", [0, -1, 50.1, 61, float("nan"), timedelta(hours=1)])
def test_a_deadline_is_at_most_as_long_as_a_push_is_safe_to_repeat(deadline: Any) -> None:
    with pytest.raises(ValueError, match="deadline="):
        JobQueue("memory://", deadline=deadline)


def test_a_sync_queue_needs_more_than_an_async_driver(redis_store: RedisStore) -> None:
    class AsyncOnly:
        consumer = push = None

    with pytest.raises(ValueError, match="is a driver for async code alone: give the queue by its URL"):
        redisjobs.sync.JobQueue(AsyncOnly())
    with redisjobs.sync.JobQueue(redis_store.driver, redis_store.queue_name) as queue:  # it can make a sync one
        assert queue.get("unknown") is None


# Ways to reach a server


def test_a_queue_can_be_used_by_one_event_loop_after_another(redis_store: RedisStore) -> None:
    queue = JobQueue(redis_store.url, redis_store.queue_name)

    async def push(number: int) -> int:
        async with queue:
            await queue.push(Add(number))
            return sum((await queue.control.counts()).ready.values())

    assert [asyncio.run(push(n)) for n in range(3)] == [1, 2, 3]


LEFT_OPEN = """
import asyncio, sys
from redisjobs import JobName, JobQueue

queue = JobQueue(*sys.argv[1:])
for n in range(20):
    asyncio.run(queue.push({"n": n}, JobName("n", dict[str, int])))
print(sum(asyncio.run(queue.control.counts()).ready.values()), len(queue.driver._loops._values))
"""


def test_a_queue_left_open_by_one_event_loop_still_works_in_the_next(redis_store: RedisStore) -> None:
    # In a process of its own: what is left open is warned of, and here a warning is an error.
    command = [sys.executable, "-c", LEFT_OPEN, redis_store.url, redis_store.queue_name]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    pushed, loops = map(int, ended.stdout.split())
    assert pushed == 20
    assert loops == 1  # those that have ended are let go of, with their connections


def test_event_loops_in_several_threads_share_a_queue(redis_store: RedisStore) -> None:
    queue = JobQueue(redis_store.url, redis_store.queue_name)
    together, failures = threading.Barrier(6), []

    async def push() -> None:
        async with queue:
            together.wait()
            for n in range(40):
                await queue.push(Add(n))

    def run() -> None:
        try:
            asyncio.run(push())
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert redis_store.admin.xlen(redis_store.stream()) == 240


@pytest.mark.parametrize("options", [{}, {"decode_responses": True, "socket_timeout": 1, "protocol": 3}])
@pytest.mark.parametrize("client", [redis.Redis, redis.asyncio.Redis])
@pytest.mark.parametrize("face", FACES)
async def test_a_queue_takes_over_the_settings_of_a_redis_client(
    redis_store: RedisStore, face: str, client: Any, options: Any
) -> None:
    theirs = client.from_url(redis_store.url, **options)
    kwargs = theirs.connection_pool.connection_kwargs
    plain = client(**{key: kwargs[key] for key in ("host", "port", "username", "password")}, **options)
    for given in (theirs, plain):
        queue = FACES[face](given, redis_store.queue_name)
        await done(queue.push(Add(1)))
        await close(queue)
        await done(given.aclose() if client is redis.asyncio.Redis else given.close())
    assert redis_store.admin.xlen(redis_store.stream()) == 2


@pytest.mark.parametrize("face", FACES)
async def test_a_queue_is_reached_through_a_unix_socket(face: str) -> None:
    with tempfile.TemporaryDirectory(prefix="rj-") as directory:  # short: a socket's path has 107 bytes at most
        path = f"{directory}/s"
        with server.start(options=["--unixsocket", path]):
            queue = FACES[face](f"unix://{path}")
            job_id = await done(queue.push(Add(1)))
            assert (await done(queue.get(job_id))).name == "Add"
            await close(queue)


@pytest.fixture(scope="module")
def tls_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that speaks TLS, with a certificate of its own making."""
    directory: Path = tmp_path_factory.mktemp("tls")
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here to make a certificate")
    key, certificate, port = directory / "key.pem", directory / "cert.pem", server.free_port()
    make = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {key} -out {certificate}"
    subprocess.run([*make.split(), "-days", "2", "-subj", "/CN=localhost"], check=True, capture_output=True)
    tls = f"--tls-port {port} --tls-key-file {key} --tls-cert-file {certificate} --tls-auth-clients no"
    try:
        running = server.start(options=[*tls.split(), "--tls-ca-cert-file", str(certificate)])
    except ServerNotFound:
        pytest.skip("the server at hand was built without TLS")
    with running:
        yield f"rediss://127.0.0.1:{port}/0?ssl_check_hostname=false&ssl_ca_certs={certificate}"


@pytest.mark.parametrize("face", FACES)
async def test_a_queue_is_reached_through_tls(tls_url: str, face: str) -> None:
    queue = FACES[face](tls_url)
    job_id = await done(queue.push(Add(1)))
    assert (await done(queue.get(job_id))).name == "Add"
    await close(queue)


# asyncio leaves a socket to the garbage collector when a TLS handshake is cancelled; nothing of ours is open.
@pytest.mark.filterwarnings("ignore:.*unclosed <socket.*:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("face", FACES)
async def test_tls_asked_of_a_server_that_has_none_is_an_error(redis_url: str, face: str) -> None:
    queue = FACES[face](redis_url.replace("redis://", "rediss://"), deadline=0.2)
    with pytest.raises(Unavailable, match="The push is not on the queue"):
        await done(queue.push(Add(1)))


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_on_trio_memory_works_and_redis_says_that_it_cannot(redis_url: str) -> None:
    async with JobQueue("memory://") as queue:
        job_id = await queue.push(Add(1))
        assert await queue.cancel(job_id) is Reply.CANCELLED
    said = "redis-py needs asyncio; on trio only memory:// works: run this on asyncio, which is anyio's default"
    with pytest.raises(DriverError, match=said):
        await JobQueue(redis_url).push(Add(1))
    with pytest.raises(DriverError, match=said):
        await redisjobs.Worker(JobQueue(redis_url)).run(until_idle=True)
