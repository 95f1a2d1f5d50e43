"""Events are published once a batch, to all listeners; a listener changes nothing."""

import functools
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, cast

import anyio
import anyio.to_thread
import pytest
from store import (
    Heart,
    Store,
    eventually,
    lease_at,
)

import redisjobs.events
from redisjobs import Fail, JobQueue, Snooze, Worker, sync
from redisjobs.errors import QueueFull
from redisjobs.events import (
    Event,
    Events,
    JobsCancelled,
    JobsChanged,
    JobsClaimed,
    JobsCompleted,
    JobsDead,
    JobsPushed,
    JobsReclaimed,
    JobsReleased,
    JobsRetried,
    JobsSettled,
    JobsSuspended,
    LeasesLost,
    LoopBlocked,
    LoopResumed,
    PushFailed,
    QueuePaused,
    QueueResumed,
    ScheduleFired,
    SettledJob,
    WorkerDraining,
    WorkerStarted,
    WorkerStopped,
    kind_of,
    logs,
    recording,
)
from redisjobs.events.recording import Recording
from redisjobs.model.outcome import Done, Raised
from redisjobs.model.transitions import Ack, After, DeadLetter, Release, Reply, RetryLater

pytestmark = pytest.mark.anyio
KINDS = (JobsCompleted, JobsRetried, JobsSuspended, JobsReleased, JobsCancelled, JobsDead, LeasesLost)


@dataclass
class Work:
    job_name: ClassVar[str] = "Work"
    what: str = ""


async def work(work: Work) -> None:
    match work.what:
        case "fail":
            raise Fail("no use")
        case "retry":
            raise ValueError("not now")
        case "snooze":
            raise Snooze(3600)
        case "wait":
            await anyio.sleep_forever()
        case "block":
            time.sleep(2.5)  # noqa: ASYNC251


@pytest.fixture
async def queue(store: Store) -> AsyncIterator[JobQueue]:
    async with JobQueue(store.driver, store.queue_name) as queue:
        queue.register(Work)(work)
        yield queue


def heard(queue: JobQueue, *kinds: type[Event]) -> list[Any]:
    told: list[Any] = []
    for kind in kinds or (Event,):
        queue.events.subscribe(kind, told.append)
    return told


def jobs_of(told: Sequence[Any], kind: type[JobsSettled]) -> list[SettledJob]:
    return [job for event in told if type(event) is kind for job in event.jobs]


async def test_a_push_is_told_with_ids_and_whether_each_was_added(queue: JobQueue) -> None:
    told = heard(queue, JobsPushed)

    await queue.push_many([queue.prepare(Work(), job_id=job_id) for job_id in ("a", "b")])
    await queue.push(Work(), job_id="a")

    assert [event.jobs for event in told] == [
        [("a", "Work", True), ("b", "Work", True)],
        [("a", "Work", False)],
    ]
    assert {event.queue for event in told} == {queue.name}


def test_a_push_by_sync_code_is_told_alike() -> None:
    told: list[JobsPushed] = []
    with sync.JobQueue("memory://") as queue:
        queue.register(Work)(lambda _: None)
        queue.events.subscribe(JobsPushed, told.append)

        queue.push(Work(), job_id="a")

    assert [event.jobs for event in told] == [[("a", "Work", True)]]


async def test_what_a_call_did_to_jobs_is_told_and_what_it_did_not_is_not(queue: JobQueue) -> None:
    told = heard(queue, JobsChanged)
    await queue.push_many([queue.prepare(Work("fail"), job_id=job_id) for job_id in ("a", "b")])
    await Worker(queue).run(until_idle=True)
    await queue.push_many([queue.prepare(Work(), job_id=job_id, delay=60) for job_id in ("c", "d", "e")])

    await queue.control.requeue("a")
    await queue.control.requeue("unknown")
    await queue.control.delete("b")
    await queue.control.hold("c")
    await queue.control.unhold("c")
    await queue.control.unhold("c")
    await queue.cancel("c")
    await queue.cancel("c")
    await queue.control.cancel_all("delayed")

    assert [(event.change, event.jobs) for event in told] == [
        ("requeue", [("a", Reply.OK)]),
        ("delete", [("b", Reply.OK)]),
        ("hold", [("c", Reply.HELD)]),
        ("unhold", [("c", Reply.OK)]),
        ("cancel", [("c", Reply.CANCELLED)]),
        ("cancel", [("d", Reply.CANCELLED), ("e", Reply.CANCELLED)]),
    ]


async def test_a_pause_and_a_resume_are_told(queue: JobQueue) -> None:
    told = heard(queue, QueuePaused, QueueResumed)
    await queue.control.pause()
    await queue.control.pause("Work")
    await queue.control.resume("Work")
    await queue.control.resume()
    assert [(type(event), event.name) for event in told] == [
        (QueuePaused, ""),
        (QueuePaused, "Work"),
        (QueueResumed, "Work"),
        (QueueResumed, ""),
    ]


def test_what_a_call_of_sync_code_did_is_told_alike() -> None:
    told: list[Event] = []
    with sync.JobQueue("memory://") as queue:
        queue.register(Work)(lambda _: None)
        for kind in (JobsChanged, QueuePaused):
            queue.events.subscribe(kind, told.append)
        queue.push(Work(), job_id="a")
        queue.control.pause()
        queue.cancel("a")

    assert [type(event) for event in told] == [QueuePaused, JobsChanged]


async def test_a_push_that_fails_is_told_with_its_jobs_and_why(queue: JobQueue) -> None:
    class Full:
        consumer = None

        async def push(self, jobs: Any, *, repeated: bool) -> Any:
            raise QueueFull("no room")

    told, driver, full = heard(queue, PushFailed), queue.driver, Full()
    queue.driver = cast(Any, full)
    with pytest.raises(QueueFull) as failed:
        await queue.push_many([queue.prepare(Work(), job_id=job_id) for job_id in ("a", "b")])
    queue.driver = driver

    assert [(event.queue, event.jobs, event.error) for event in told] == [
        (queue.name, [("a", "Work"), ("b", "Work")], failed.value)
    ]


async def test_each_way_in_which_a_job_is_settled_has_its_event(queue: JobQueue) -> None:
    told = heard(queue)
    for what in ("done", "fail", "retry", "snooze"):
        await queue.push(Work(what), job_id=what)

    await Worker(queue).run(until_idle=True)

    (done,), (dead,) = jobs_of(told, JobsCompleted), jobs_of(told, JobsDead)
    assert (done.job_id, done.name, done.attempt, done.reply, done.settlement) == (
        "done",
        "Work",
        1,
        Reply.OK,
        Ack(),
    )
    assert isinstance(done.outcome, Done)
    assert done.lease is not None
    assert done.lease.deliveries == 1
    assert done.sent_at > 0
    assert not done.resent
    assert 0 <= done.waited < 60
    assert 0 < done.ran < 60
    assert isinstance(dead.settlement, DeadLetter)
    assert isinstance(dead.outcome, Raised)
    assert {job.job_id for job in jobs_of(told, JobsRetried)} == {"retry", "snooze"}
    claimed = [lease.job_id for event in told if type(event) is JobsClaimed for lease in event.leases]
    assert sorted(claimed) == ["done", "fail", "retry", "snooze"]
    assert {event.worker for event in told if not isinstance(event, JobsPushed)} == {
        event.worker for event in told if isinstance(event, WorkerStarted)
    }


async def test_a_worker_tells_of_its_start_its_drain_and_its_end_in_this_order(queue: JobQueue) -> None:
    told = heard(queue, WorkerStarted, WorkerDraining, JobsReleased, WorkerStopped)
    worker = Worker(queue, concurrency=3, grace=0)
    async with anyio.create_task_group() as tasks:
        await queue.push(Work("wait"), job_id="held")
        tasks.start_soon(worker.run)
        await eventually(lambda: worker.health.why.startswith("1 of 3"))
        worker.stop()

    started, draining, released, _ = told
    assert [type(event) for event in told] == [WorkerStarted, WorkerDraining, JobsReleased, WorkerStopped]
    assert (started.slots, started.names, draining.jobs) == (3, ["Work"], 1)
    assert [job.job_id for job in released.jobs] == ["held"]


async def test_a_job_that_is_cancelled_as_it_runs_is_told_as_cancelled(queue: JobQueue) -> None:
    told = heard(queue, JobsCancelled)
    worker = Worker(queue)
    async with anyio.create_task_group() as tasks:
        handle = await queue.push(Work("wait"), job_id="held")
        tasks.start_soon(worker.run)
        await eventually(lambda: worker.health.why.startswith("1 of"))
        await handle.cancel()
        await eventually(lambda: told)
        worker.stop()

    assert [job.job_id for event in told for job in event.jobs] == ["held"]


async def test_lost_workers_and_what_they_held_are_told_by_who_found_them(queue: JobQueue, store: Store) -> None:
    told = heard(queue, JobsReclaimed)
    await queue.push(Work())
    holder = store.consumer("holder", lease=0.2)
    await holder.open()
    await holder.exchange([], 1)
    await holder.aclose()

    await Worker(queue, lease=0.4).run(until_idle=True)

    assert [worker for event in told for worker in event.lost] == ["holder"]
    assert sum(event.jobs for event in told) == 1


async def test_what_the_store_itself_ended_is_told_though_no_one_held_it(queue: JobQueue, store: Store) -> None:
    """A job that two workers died with: the second one ran it alone."""
    told = heard(queue, JobsDead)
    await queue.push(Work(), job_id="killer")
    for worker_id in ("first", "second"):
        holder = store.consumer(worker_id, max_deliveries=2)
        await holder.open()
        while not (await holder.exchange([], 1, idle=True)).leases:
            pass  # the first answer only tells that something was handed back
        with closing(Heart(holder)) as heart:
            assert heart.release() == 1
        await holder.aclose()

    await Worker(queue, lease=0.4, max_deliveries=2).run(until_idle=True)

    ((job,),) = [event.jobs for event in told]
    assert (job.job_id, job.reply, job.lease, job.settlement) == ("killer", Reply.DEAD, None, None)


@pytest.mark.parametrize(
    ("settlement", "reply", "kind"),
    [
        (Ack(), Reply.OK, JobsCompleted),
        (Ack(cancelled=True), Reply.OK, JobsCancelled),
        (RetryLater(After(0)), Reply.OK, JobsRetried),
        (RetryLater(After(0)), Reply.CANCELLED, JobsCancelled),
        (Release(), Reply.OK, JobsReleased),
        (DeadLetter("failed", ""), Reply.OK, JobsDead),
        (Ack(), Reply.LEASE_LOST, LeasesLost),
        (DeadLetter("failed", ""), Reply.LEASE_LOST, LeasesLost),
        (None, Reply.DEAD, JobsDead),
        (None, Reply.CANCELLED, JobsCancelled),
    ],
)
async def test_which_event_tells_of_a_settlement(settlement: Any, reply: Reply, kind: type[JobsSettled]) -> None:
    assert kind_of(settlement, reply) is kind


async def test_every_kind_of_settled_job_is_an_event_of_its_own() -> None:
    assert set(JobsSettled.__subclasses__()) == set(KINDS)


async def test_of_completed_jobs_nothing_is_made_that_no_one_listens_to(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    logging.getLogger("redisjobs.worker").setLevel(logging.WARNING)
    made: list[object] = []
    monkeypatch.setattr(SettledJob, "__post_init__", made.append, raising=False)
    monkeypatch.setattr("redisjobs.worker.running.execution.SettledJob", lambda *args, **facts: made.append(args))
    await queue.push_many([Work()] * 3)
    try:
        await Worker(queue).run(until_idle=True)
    finally:
        logging.getLogger("redisjobs.worker").setLevel(logging.NOTSET)

    assert made == []
    assert (await queue.control.counts()).totals["completed"] == 3


async def test_a_listener_that_raises_is_logged_and_the_others_hear_all_the_same(
    queue: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    def bad(_: Event) -> None:
        raise SystemExit("the listener's own")

    queue.events.subscribe(JobsCompleted, bad)
    told = heard(queue, JobsCompleted)
    await queue.push(Work(), job_id="a")

    await Worker(queue).run(until_idle=True)

    assert [job.job_id for job in jobs_of(told, JobsCompleted)] == ["a"]
    assert "a listener to JobsCompleted raised" in caplog.text


class Listener:
    async def __call__(self, event: Event) -> None: ...
    async def hear(self, event: Event) -> None: ...


async def hear(event: Event) -> None: ...
async def hear_all(event: Event) -> AsyncIterator[Event]:
    yield event


@pytest.mark.parametrize(
    "listener",
    [hear, hear_all, Listener(), Listener().hear, functools.partial(hear), functools.partial(Listener())],
)
def test_a_listener_that_a_call_would_not_run_is_refused_with_what_to_write(listener: Any) -> None:
    events = Events()
    with pytest.raises(
        TypeError, match=r"so a call would not run it: give a plain function; .*call_soon_threadsafe"
    ):
        events.subscribe(JobsDead, listener)
    with pytest.raises(TypeError, match=r"when=.* so a call would not run it"):
        events.subscribe(JobsDead, print, when=listener)
    assert not events.wanted(JobsDead)


@pytest.mark.parametrize(("kind", "listener"), [(JobsDead, 5), ("JobsDead", print), (Listener, print)])
def test_what_is_no_listener_or_no_kind_of_events_is_refused(kind: Any, listener: Any) -> None:
    with pytest.raises(TypeError, match=r"give a function|is no kind of events: give a class, as JobsCompleted"):
        Events().subscribe(kind, listener)


def test_a_coroutine_that_a_listener_returns_is_closed_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    events, heard = Events(), list[Event]()
    events.subscribe(QueuePaused, lambda event: hear(event))
    events.subscribe(QueuePaused, heard.append)

    events.publish(QueuePaused("q", name=""))

    assert len(heard) == 1
    assert "it returned a coroutine, which nothing awaits: give a plain function" in caplog.text


async def test_what_is_asked_before_an_event_is_made_may_raise_too(
    queue: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    def bad() -> bool:
        raise SystemExit("the listener's own")

    queue.events.subscribe(JobsCompleted, lambda _: None, when=bad)
    queue.events.subscribe(JobsPushed, lambda _: None, when=bad)
    await queue.push(Work())

    await Worker(queue).run(until_idle=True)

    assert "a listener to JobsPushed raised" in caplog.text
    assert (await queue.control.counts()).totals["completed"] == 1


async def test_a_run_that_is_cancelled_is_told_as_stopped_too(queue: JobQueue) -> None:
    told = heard(queue, WorkerStarted, WorkerStopped)
    worker = Worker(queue, grace=0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await eventually(lambda: worker.health.ready)
        tasks.cancel_scope.cancel()

    assert [type(event) for event in told] == [WorkerStarted, WorkerStopped]


async def test_one_listener_that_subscribed_twice_hears_twice_until_each_is_ended() -> None:
    events, told = Events(), list[Event]()
    end, _ = events.subscribe(WorkerStopped, told.append), events.subscribe(WorkerStopped, told.append)

    end()
    end()
    events.publish(WorkerStopped("q", "w"))

    assert len(told) == 1


async def test_threads_that_ask_at_once_for_the_events_of_a_queue_get_the_same() -> None:
    queue, ready, got = sync.JobQueue("memory://"), threading.Barrier(8), list[Events]()

    def ask() -> None:
        ready.wait(10)
        got.append(queue.events)

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(anyio.to_thread.run_sync, ask)

    assert len(got) == 8
    assert {id(events) for events in got} == {id(queue.events)}


async def test_a_lease_that_was_lost_is_logged_without_the_handlers_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events = Events()
    logs.listen(events)
    lost = SettledJob(
        "a", Reply.LEASE_LOST, lease=lease_at(2, "1-0", 1, "a", {}), outcome=Raised(ValueError("its own"))
    )

    events.publish(LeasesLost("q", "w", jobs=[lost]))

    (record,) = caplog.records
    assert (record.levelname, record.exc_info) == ("WARNING", None)


async def test_a_class_that_others_derive_from_stands_for_all_of_them() -> None:
    events, told = Events(), list[Event]()
    events.subscribe(JobsSettled, told.append)

    for kind in KINDS:
        events.publish(kind("q", "w", jobs=[]))
    events.publish(WorkerStopped("q", "w"))

    assert [type(event) for event in told] == list(KINDS)


async def test_who_ends_a_subscription_hears_no_more_and_may_end_it_twice() -> None:
    events, told = Events(), list[Event]()
    end = events.subscribe(WorkerStopped, told.append)
    events.publish(WorkerStopped("q", "w"))

    end()
    end()
    events.publish(WorkerStopped("q", "w"))

    assert len(told) == 1
    assert not events.wanted(WorkerStopped)


async def test_who_does_not_listen_just_now_is_not_told() -> None:
    events, told, listens = Events(), list[Event](), [False]
    events.subscribe(WorkerStopped, told.append, when=lambda: listens[0])
    events.publish(WorkerStopped("q", "w"))
    assert not events.wanted(WorkerStopped)

    listens[0] = True
    events.publish(WorkerStopped("q", "w"))

    assert events.wanted(WorkerStopped)
    assert len(told) == 1


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_blocked_loop_is_told_from_another_thread_while_it_lasts() -> None:
    async with JobQueue("memory://") as queue:
        queue.register(Work)(work)
        told = heard(queue, LoopBlocked, LoopResumed)
        await queue.push(Work("block"), job_id="blocker")
        worker = Worker(queue, lease=1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await eventually(lambda: len(told) == 2, within=20)
            worker.stop()

    event, resumed = told
    assert 0.5 <= event.seconds < resumed.seconds
    assert "job blocker (Work)" in event.where


async def test_a_recording_holds_each_event_as_one_line_that_any_program_can_read(
    queue: JobQueue, tmp_path: Path
) -> None:
    Recording(tmp_path).listen(queue.events, host="here")
    await queue.push_many([queue.prepare(Work(what), job_id=what) for what in ("done", "fail")])

    await Worker(queue).run(until_idle=True)

    lines = list(recording.read(tmp_path))
    assert {"JobsPushed", "WorkerStarted", "JobsClaimed", "JobsCompleted", "JobsDead", "WorkerStopped"} <= {
        line["what"] for line in lines
    }
    assert {line["host"] for line in lines} == {"here"}
    (completed,) = [line for line in lines if line["what"] == "JobsCompleted"]
    (job,) = completed["jobs"]
    assert job.keys() == {field.name for field in fields(SettledJob)}
    assert (job["job_id"], job["outcome"], job["settlement"], job["reply"]) == ("done", "Done", "Ack", "OK")
    assert job["lease"] == {"job_id": "done", "deliveries": 1}
    (dead,) = [job for line in lines if line["what"] == "JobsDead" for job in line["jobs"]]
    assert (dead["outcome"], dead["settlement"]) == ("Raised", "DeadLetter")


def test_an_id_that_is_no_text_is_recorded_all_the_same(tmp_path: Path) -> None:
    events = Events()
    Recording(tmp_path).listen(events)

    events.publish(JobsDead("q", "w", jobs=[SettledJob("id \udcff", Reply.DEAD)]))

    (line,) = tmp_path.glob("*.jsonl")
    assert json.loads(line.read_text())["jobs"][0]["job_id"] == "id \udcff"


def test_a_time_is_recorded_as_one(tmp_path: Path) -> None:
    events = Events()
    Recording(tmp_path).listen(events)

    events.publish(ScheduleFired("q", schedule="s", slot=datetime(2026, 1, 1, tzinfo=UTC), missed=0, jobs=[]))

    (line,) = recording.read(tmp_path)
    assert datetime.fromisoformat(line["slot"]) == datetime(2026, 1, 1, tzinfo=UTC)


def test_the_page_about_events_names_every_event() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/events.md").read_text("utf-8")
    events = [
        kind for kind in vars(redisjobs.events).values() if isinstance(kind, type) and issubclass(kind, Event)
    ]
    told_of = [kind for kind in events if not kind.__subclasses__()]
    assert [kind.__name__ for kind in told_of if f"`{kind.__name__}`" not in page] == []
