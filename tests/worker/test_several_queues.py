"""A worker of several queues, as its callers see it: its options, what it runs, what it says of itself."""

import logging
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import process_handlers
import pytest
from at_work import running
from store import RedisStore, Store, eventually, happened
from two_queues import Away, Seen, Work, another

from redisjobs import JobContext, JobQueue, Middleware, RetryPolicy, Worker, no_retry, sync
from redisjobs.drivers.memory.driver import MemoryDriver
from redisjobs.events import (
    Event,
    JobsCompleted,
    LoopBlocked,
    SourceUnavailable,
    WorkerStarted,
    WorkerStopped,
)
from redisjobs.events.middleware import CallNext, RunningJob
from redisjobs.worker.settings.health import Health, QueueHealth, combined
from redisjobs_proof.torture.proxy import HOST, Proxy

pytestmark = pytest.mark.anyio

HERE = "redis://127.0.0.1:6379/0"


@pytest.fixture
def pair(redis_store: RedisStore) -> Iterator[tuple[RedisStore, Store]]:
    """Two queues on the server that a user would get."""
    for second in another(redis_store):
        yield redis_store, second


def in_memory(*names: str) -> list[JobQueue]:
    return [JobQueue("memory://", name) for name in names]


async def drain(worker: Worker) -> None:
    with anyio.fail_after(40):
        await worker.run(until_idle=True)


# Options


def test_queues_are_listed_by_themselves_or_with_their_weights_in_whatever_can_be_gone_through() -> None:
    a, b, c = in_memory("a", "b", "c")

    assert Worker(a).queues == Worker([a]).queues == (a,)
    assert Worker([a, b, c]).queues == Worker(each for each in (a, b, c)).queues == (a, b, c)
    assert (
        repr(Worker([(a, 3), (b, 0.5), c]))
        == "<Worker of queues 'a' (weight 3), 'b' (weight 0.5), 'c' (weight 1)>"
    )
    assert repr(Worker([a, b], weights={"b": 2})) == "<Worker of queues 'a' (weight 1), 'b' (weight 2)>"
    assert repr(Worker([a, (b, 2)], weights={"a": 3})) == "<Worker of queues 'a' (weight 3), 'b' (weight 2)>"
    assert repr(Worker((a, b), strict=True)) == "<Worker of queues 'a', 'b', in strict order>"
    assert repr(Worker((a, sync.JobQueue("memory://", "b")))) == "<Worker of queues 'a', 'b'>"
    assert repr(Worker(a)) == "<Worker of queue 'a'>"


A, B, SAME = JobQueue("memory://", "a"), JobQueue("memory://", "b"), JobQueue("memory://", "a")


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"queue": []}, ValueError, r"^Worker\(\[\]\): there is no queue to run jobs of; list at least one$"),
        (
            {"queue": [A, B, A]},
            ValueError,
            r"^queue 'a' is listed twice: list each once, and for more turns with a",
        ),
        (
            {"queue": [A, "b"]},
            TypeError,
            r"^Worker runs the jobs of a queue, not of a str: .* or a list of queues",
        ),
        ({"queue": [A, None]}, TypeError, r"not of a NoneType: "),
        ({"queue": [A, [B, 2]]}, TypeError, r"not of a list: "),
        ({"queue": [(A, 1, 2)]}, TypeError, r"not of a tuple: "),
        ({"queue": (A, 3)}, TypeError, r"not of a int: "),
        ({"queue": {A: 3}}, TypeError, r"not of a dict: .* or of pairs \(queue, weight\)$"),
        ({"queue": {A, B}}, TypeError, r"not of a set: "),
        ({"queue": [(A, 0), B]}, ValueError, r"weight 0 of queue 'a': give a number above 0"),
        ({"queue": [A, (B, -1.5)]}, ValueError, r"weight -1\.5 of queue 'b': give a number above 0"),
        ({"queue": [(A, float("nan"))]}, ValueError, r"weight nan of queue 'a': give a number above 0"),
        ({"queue": [(A, float("inf"))]}, ValueError, r"weight inf of queue 'a': give a number above 0"),
        ({"queue": [(A, True)]}, ValueError, r"weight True of queue 'a': give a number above 0"),
        ({"queue": [(A, None)]}, ValueError, r"weight None of queue 'a': give a number above 0"),
        ({"queue": [(A, "3")]}, ValueError, r"weight '3' of queue 'a': give a number above 0"),
        ({"weights": {"a": 0}}, ValueError, r"^weights={'a': 0}: weight 0 of queue 'a': give a number above 0"),
        ({"weights": {"a": False}}, ValueError, r"weight False of queue 'a': give a number above 0"),
        ({"weights": {"c": 2}}, ValueError, r"^weights={'c': 2}: 'c' is none of the queues 'a', 'b'$"),
        ({"weights": 3}, TypeError, r"^weights=3: give numbers by the names of queues, as {'emails': 3}$"),
        ({"weights": ["a"]}, TypeError, r"^weights=\['a'\]: give numbers by the names"),
        (
            {"queue": [A, SAME], "weights": {"a": 2}},
            ValueError,
            r"several of the queues are called 'a'; give each",
        ),
        (
            {"queue": [(A, 2), B], "weights": {"a": 2}},
            ValueError,
            r"queue 'a' is listed with the weight 2 already$",
        ),
        (
            {"weights": {"a": 2}, "strict": True},
            ValueError,
            r"^strict=True: only the order counts then, so",
        ),
        (
            {"queue": [(A, 2), B], "strict": True},
            ValueError,
            r"^strict=True: only the order counts then, so",
        ),
        ({"strict": "yes"}, ValueError, r"^strict='yes': give True or False$"),
    ],
)
def test_what_makes_no_sense_is_an_error_where_it_is_written(
    given: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        Worker(**{"queue": [A, B], **given})


@pytest.mark.parametrize(
    "other",
    [
        JobQueue(HERE, "a"),
        sync.JobQueue(HERE, "a"),
        JobQueue("redis://joe:secret@127.0.0.1", "a"),
        JobQueue("redis://127.0.0.1:6379?db=0", "a"),
    ],
)
def test_two_objects_of_one_queue_are_one_queue_listed_twice(other: JobQueue) -> None:
    with pytest.raises(ValueError, match="queue 'a' is listed twice"):
        Worker([JobQueue(HERE, "a"), JobQueue(HERE, "b"), other])


def test_queues_that_share_a_memory_are_one_queue_whatever_they_are_called() -> None:
    driver = MemoryDriver()
    with pytest.raises(ValueError, match="queue 'a' is listed twice"):
        Worker([JobQueue(driver, "a"), JobQueue(driver, "b")])


@pytest.mark.parametrize(
    "other",
    [
        JobQueue(HERE, "b"),
        JobQueue("redis://127.0.0.1:6379/1", "a"),
        JobQueue("redis://127.0.0.1:6380/0", "a"),
        JobQueue("redis://127.0.0.2:6379/0", "a"),
        JobQueue("unix:///run/redis.sock", "a"),
        JobQueue("memory://", "a"),
    ],
)
def test_queues_of_one_name_in_different_places_are_two(other: JobQueue) -> None:
    one = JobQueue(HERE, "a")

    assert Worker([one, other]).queues == (one, other)


# Whose jobs it runs


@pytest.mark.slow
async def test_under_load_jobs_begin_by_weight_however_many_slots_are_free_at_once(
    queues: tuple[JobQueue, JobQueue], seen: Seen
) -> None:
    """Jobs that all take the same time free the slots of one claim together, each time."""
    first, second = queues
    for queue in queues:
        await queue.push_many([Work(seconds=0.02)] * 250)

    await drain(Worker([first, (second, 1)], concurrency=10))

    assert 100 <= Counter(seen.started[:250])[first.name] <= 150


@pytest.mark.slow
async def test_weights_go_by_the_names_of_queues(queues: tuple[JobQueue, JobQueue], seen: Seen) -> None:
    for queue in queues:
        await queue.push_many([Work(seconds=0.01)] * 60)

    await drain(Worker(queues, weights={queues[1].name: 4}, concurrency=1))

    assert 36 <= Counter(seen.started[:50])[queues[1].name] <= 44


async def test_in_strict_order_a_later_queue_waits_until_the_earlier_ones_are_empty(seen: Seen) -> None:
    queues = [seen.handle(queue) for queue in in_memory("critical", "default", "bulk")]
    for queue in reversed(queues):
        await queue.push_many([Work()] * 20)

    await drain(Worker(queues, strict=True, concurrency=1))

    begun = seen.started[1:]  # who joins first may have the first claim
    assert begun == sorted(begun, key=["critical", "default", "bulk"].index)
    assert Counter(seen.ended) == {"critical": 20, "default": 20, "bulk": 20}


@pytest.mark.parametrize("order", [{"strict": True}, {"weights": True}], ids=["strict", "weights"])
@pytest.mark.parametrize("busy", [0, 1])
async def test_no_slot_is_free_while_any_queue_has_jobs(
    queues: tuple[JobQueue, JobQueue], seen: Seen, order: dict[str, bool], busy: int
) -> None:
    seen.may_end = anyio.Event()
    options = order if "strict" in order else {"weights": {queues[1 - busy].name: 1000}}
    await queues[1 - busy].push(Work())
    await queues[busy].push_many([Work()] * 10)
    async with running(Worker(queues, concurrency=4, **options)):
        await eventually(lambda: seen.now == 4, within=10)
        seen.may_end.set()
        await eventually(lambda: len(seen.ended) == 11, within=10)
    assert seen.most == 4


async def test_it_is_idle_when_all_queues_are_and_its_share_of_jobs_is_of_all(
    queues: tuple[JobQueue, JobQueue], seen: Seen
) -> None:
    first, second = queues
    await first.push(Work())
    await second.push_many([Work()] * 30)
    worker = Worker(queues, max_jobs=7)

    await drain(worker)

    assert worker.recycled
    assert len(seen.ended) == 7
    await drain(Worker(queues))
    assert Counter(seen.ended) == {first.name: 1, second.name: 30}
    assert [happened(await queue.control.counts())["completed"] for queue in queues] == [1, 30]


async def test_a_stop_lets_what_runs_of_every_queue_come_to_its_end(
    queues: tuple[JobQueue, JobQueue], seen: Seen
) -> None:
    seen.may_end = anyio.Event()
    for queue in queues:
        await queue.push_many([Work()] * 3)
    async with running(worker := Worker(queues, concurrency=6)):
        await eventually(lambda: seen.now == 6, within=10)
        threading.Thread(target=worker.stop).start()
        await eventually(lambda: worker.health.why == "stopping, with 6 jobs to go")
        seen.may_end.set()

    assert Counter(seen.ended) == {queue.name: 3 for queue in queues}
    for queue in queues:
        assert happened(await queue.control.counts())["completed"] == 3


async def test_a_worker_of_several_queues_can_run_again(queues: tuple[JobQueue, JobQueue], seen: Seen) -> None:
    worker = Worker(queues)
    ids = set()
    for _ in range(2):
        for queue in queues:
            await queue.push(Work())
        await drain(worker)
        ids.add(worker.worker_ids)

    assert Counter(seen.ended) == {queue.name: 2 for queue in queues}
    assert len(ids) == 2
    assert all(len(set(each)) == 1 for each in ids)


# What each queue keeps to itself


class Note(Middleware):
    """Notes whose turn it is around a handler."""

    def __init__(self, name: str, noted: list[str]) -> None:
        self._name, self._noted = name, noted

    async def around(self, job: RunningJob, context: JobContext, call_next: CallNext) -> Any:
        self._noted.append(self._name)
        return await call_next()


async def test_handlers_and_middleware_are_of_their_queue_and_the_workers_middleware_of_all(
    stores: tuple[Store, Store],
) -> None:
    noted: list[str] = []
    queues = [
        JobQueue(each.driver, each.queue_name, middleware=[Note(f"around {name}", noted)])
        for name, each in zip("ab", stores, strict=True)
    ]
    for name, queue in zip("ab", queues, strict=True):

        @queue.job(name="same")
        async def handle(name: str = name) -> None:
            noted.append(f"handler {name}")

        await handle.push()

    await drain(Worker(queues, concurrency=1, middleware=[Note("worker", noted)]))

    assert [noted[:3], noted[3:]] in (
        [["around a", "worker", "handler a"], ["around b", "worker", "handler b"]],
        [["around b", "worker", "handler b"], ["around a", "worker", "handler a"]],
    )
    for queue in queues:
        await queue.aclose()


async def test_a_failure_is_tried_again_as_its_own_queue_says() -> None:
    once = JobQueue("memory://", "once", retry=no_retry())
    often = JobQueue("memory://", "often", retry=RetryPolicy())
    for queue in (once, often):

        @queue.job(name="fail")
        async def fail() -> None:
            raise ValueError("as the test says")

        await fail.push()

    await drain(Worker([once, often]))

    assert [(await queue.control.counts()).dead for queue in (once, often)] == [1, 0]
    assert (await often.control.counts()).delayed == 1


@pytest.mark.slow
async def test_handlers_of_one_name_in_two_queues_run_in_processes_each_as_its_own(tmp_path: Path) -> None:
    queues = in_memory("a", "b")
    for queue, handler in zip(
        queues, (process_handlers.first_of_two, process_handlers.second_of_two), strict=True
    ):
        job = queue.job(name="same", run_in="process")(handler)
        await job.push(str(tmp_path))

    await drain(Worker(queues))

    assert sorted(os.listdir(tmp_path)) == ["first", "second"]


# What is wrong with one


@pytest.fixture
def near_and_far(seen: Seen) -> tuple[JobQueue, JobQueue, Away]:
    """Two queues; the store of the second can be away."""
    away = Away()
    return seen.handle(JobQueue("memory://", "near")), seen.handle(JobQueue(away, "far")), away


async def test_a_queue_whose_server_is_away_is_told_of_in_the_health_and_the_others_run(
    near_and_far: tuple[JobQueue, JobQueue, Away], seen: Seen
) -> None:
    near, far, away = near_and_far
    away.is_away = True
    async with running(worker := Worker([near, far])):
        await eventually(lambda: "unavailable" in worker.health.why)
        await near.push_many([Work()] * 20)
        await eventually(lambda: len(seen.ended) == 20)

        health = worker.health
        assert (health.live, health.ready) == (True, True)
        assert health.why == "0 of 100 slots are busy; queue 'far': the store is unavailable"
        assert health.queues == (
            QueueHealth("near", True, True, "takes jobs"),
            QueueHealth("far", True, False, "the store is unavailable"),
        )
        away.is_away = False
        await eventually(lambda: worker.health.why == "0 of 100 slots are busy", within=10)
        assert [queue.ready for queue in worker.health.queues] == [True, True]


async def test_a_server_that_goes_away_and_comes_back_concerns_its_own_queue_alone(
    redis_store: RedisStore, pair: tuple[RedisStore, RedisStore], seen: Seen, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "redisjobs.worker")
    port = int(redis_store.url.rpartition(":")[2].partition("/")[0])
    told: list[SourceUnavailable] = []
    with Proxy(HOST, port) as proxy:
        here = seen.handle(JobQueue(redis_store.url, redis_store.queue_name))
        far = pair[1].url.replace(f"{HOST}:{port}", f"{HOST}:{proxy.port}")
        there = seen.handle(JobQueue(far, pair[1].queue_name))
        there.events.subscribe(SourceUnavailable, told.append)
        here.events.subscribe(SourceUnavailable, told.append)
        async with here, there, running(worker := Worker([here, there], lease=2)):
            await eventually(lambda: all(queue.ready for queue in worker.health.queues))
            proxy.black_hole(True)
            proxy.drop_all()
            await eventually(lambda: told, within=20)
            await here.push_many([Work()] * 20)
            await eventually(lambda: len(seen.ended) == 20)
            assert worker.health.ready
            proxy.black_hole(False)
            proxy.drop_all()
            await there.push(Work())
            await eventually(lambda: len(seen.ended) == 21, within=20)

    assert {event.queue for event in told} == {there.name}
    (server,) = {event.server for event in told}
    assert server.endswith(f"@{HOST}:{proxy.port}/0")
    assert caplog.text.count(f"the store at {server} is unavailable") == 1
    assert caplog.text.count(f"the store at {server} is available again") == 1
    assert caplog.text.count("the store at") == 2


async def test_it_is_told_once_that_no_queue_can_be_reached(seen: Seen) -> None:
    stores = Away(), Away()
    for store in stores:
        store.is_away = True
    queues = [seen.handle(JobQueue(store, name)) for store, name in zip(stores, "ab", strict=True)]
    async with running(worker := Worker(queues)):
        await eventually(lambda: worker.health.why == "the store is unavailable")
        assert [(queue.queue, queue.ready, queue.why) for queue in worker.health.queues] == [
            ("a", False, "the store is unavailable"),
            ("b", False, "the store is unavailable"),
        ]


WELL = Health(True, True, "1 of 2 slots are busy")
STOPPING = Health(True, False, "stopping, with 1 jobs to go")
GONE = Health(True, False, "the store is unavailable")
STARTING = Health(True, False, "starting")
STUCK = Health(False, False, "stuck")
ENDED = Health(False, False, "the heartbeat thread has ended")


@pytest.mark.parametrize(
    ("common", "own", "told", "ready"),
    [
        (WELL, (None, None), (True, True, WELL.why), "11"),
        (WELL, (None, GONE), (True, True, f"{WELL.why}; queue 'b': {GONE.why}"), "10"),
        (WELL, (GONE, GONE), (True, False, GONE.why), "00"),
        (WELL, (STARTING, GONE), (True, False, f"queue 'a': starting; queue 'b': {GONE.why}"), "00"),
        (WELL, (None, STUCK), (False, False, f"{WELL.why}; queue 'b': stuck"), "10"),
        (WELL, (STUCK, STUCK), (False, False, "stuck"), "00"),
        (STOPPING, (None, None), (True, False, STOPPING.why), "00"),
        (STOPPING, (GONE, None), (True, False, f"{STOPPING.why}; queue 'a': {GONE.why}"), "00"),
        (ENDED, (None, GONE), (False, False, ENDED.why), "00"),
    ],
)
def test_a_worker_is_live_if_all_its_queues_are_and_ready_if_any_is(
    common: Health, own: tuple[Health | None, Health | None], told: tuple[bool, bool, str], ready: str
) -> None:
    health = combined(common, list(zip("ab", own, strict=True)))

    assert (health.live, health.ready, health.why) == told
    assert "".join(str(int(queue.ready)) for queue in health.queues) == ready


def test_the_health_of_a_worker_that_does_not_run_names_its_queues() -> None:
    assert Worker([A, B]).health == Health(
        True,
        False,
        "not running",
        (QueueHealth("a", True, False, "not running"), QueueHealth("b", True, False, "not running")),
    )


async def test_one_taken_for_dead_in_a_queue_says_who_it_is_in_each(
    queues: tuple[JobQueue, JobQueue], stores: tuple[Store, Store]
) -> None:
    async with running(worker := Worker(queues, lease=1)):
        await eventually(lambda: worker.health.ready and all(each.ready for each in worker.health.queues))
        before = worker.worker_id
        assert worker.worker_ids == (before, before)
        fenced = stores[1].driver.consumer(before, lease=1, max_deliveries=3)
        await fenced.release(refund=False, watch=True)
        await fenced.aclose()

        await eventually(lambda: worker.worker_ids[1] != before, within=10)
        assert worker.worker_id == worker.worker_ids[0] == before


async def test_there_is_one_heartbeat_thread_for_each_server(pair: tuple[RedisStore, RedisStore]) -> None:
    server = f"redis://{pair[0].url.rpartition('@')[2]}"  # as one user, who may do everything
    queues = [*(JobQueue(server, store.queue_name) for store in pair), JobQueue("memory://", "c")]

    def beating() -> int:
        return sum(thread.name == "redisjobs heartbeat" for thread in threading.enumerate())

    others = beating()
    async with queues[0], queues[1], running(worker := Worker(queues)):
        await eventually(lambda: worker.health.queues and all(each.ready for each in worker.health.queues))
        assert beating() - others == 2


# What it says


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the worker named w said, without the part of its id that is random."""
    said = (record.getMessage() for record in caplog.records if record.name == "redisjobs.worker")
    return [re.sub(r"worker w:\w+", "worker w", line) for line in said]


async def test_its_lines_in_the_log_name_the_queue(seen: Seen, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "redisjobs.worker")
    queues = [seen.handle(queue) for queue in in_memory("a", "100%d")]
    for queue in queues:
        await queue.push(Work(), job_id=f"job-{queue.name}")
    await drain(Worker([(queues[0], 3), queues[1]], worker_id="w", concurrency=2))

    said = lines(caplog)
    assert said[0] == "worker w has 2 slots for queues 'a' (weight 3), '100%d' (weight 1)"
    assert sorted(said[1:3]) == [
        "worker w runs queue '100%d' at memory:// in 2 slots: work",
        "worker w runs queue 'a' at memory:// in 2 slots: work",
    ]
    assert sorted(line.partition(" (work")[0] for line in said[3:5]) == [
        "queue '100%d': job job-100%d",
        "queue 'a': job job-a",
    ]
    assert said[5:] == ["worker w ended on queue 'a'", "worker w ended on queue '100%d'"]


async def test_the_lines_of_a_worker_of_one_queue_do_not(seen: Seen, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "redisjobs.worker")
    queue = seen.handle(JobQueue("memory://", "a"))
    await queue.push(Work(), job_id="mine")
    await drain(Worker([queue], worker_id="w"))

    started, job, ended = lines(caplog)
    assert started == "worker w runs queue 'a' at memory:// in 100 slots: work"
    assert job.startswith("job mine (work, attempt 1, ")
    assert ended == "worker w ended"


async def test_events_of_its_queues_have_the_names_of_all_and_those_of_a_plain_worker_none(seen: Seen) -> None:
    queues = [seen.handle(queue) for queue in in_memory("a", "b")]
    told: list[Event] = []
    for queue in queues:
        for kind in (WorkerStarted, JobsCompleted, WorkerStopped):
            queue.events.subscribe(kind, told.append)
        await queue.push(Work())
    await drain(Worker(queues))

    assert Counter((type(event).__name__, event.queue, tuple(event.queues)) for event in told) == {  # type: ignore[attr-defined]
        (kind, queue, ("a", "b")): 1
        for kind in ("WorkerStarted", "JobsCompleted", "WorkerStopped")
        for queue in "ab"
    }
    told.clear()
    await drain(Worker(queues[0]))
    assert [tuple(event.queues) for event in told] == [(), ()]  # type: ignore[attr-defined]


@pytest.mark.slow
async def test_a_blocked_loop_is_told_to_each_queue_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    a, b = in_memory("a", "b")
    told: list[str] = []
    both = threading.Event()

    def note(event: LoopBlocked) -> None:
        told.append(event.queue)
        if len(set(told)) == 2:
            both.set()

    for queue in (a, b):
        queue.events.subscribe(LoopBlocked, note)

    @b.job(name="block")
    async def block() -> None:
        both.wait(20)  # for the heartbeat's thread, which tells of it

    await block.push()
    await drain(Worker([a, b], lease=1.5))

    assert sorted(told) == ["a", "b"]
    for began in ("the event loop is blocked", "the event loop runs again"):
        assert sum(line.startswith(began) for line in lines(caplog)) == 1
