"""What a source does with the jobs that it holds: which it gives to slots, hands back, settles, and tells of."""

import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from store import lease_at

from redisjobs import JobQueue, Worker
from redisjobs.events import JobsClaimed, LeasesLost, SettledJob
from redisjobs.model.outcome import Raised
from redisjobs.model.progress import Progress
from redisjobs.model.transitions import Exchange, Lease, Lingers, Reply, ReportProgress, RetryLater
from redisjobs.worker.run import WorkerRun
from redisjobs.worker.running.execution import Execution, Reported
from redisjobs.worker.running.threads import ThreadTimes
from redisjobs.worker.source.batcher import Batch
from redisjobs.worker.source.source import Source

pytestmark = pytest.mark.anyio


def run_of(*queues: JobQueue, concurrency: int = 1) -> WorkerRun:
    """A worker whose slots begin nothing."""
    settings = Worker(queues[0], concurrency=concurrency).settings
    worker_run = WorkerRun([replace(settings, queue=queue) for queue in queues])
    worker_run.pool.runtime = None  # type: ignore[assignment]
    return worker_run


def a_lease(job_id: str, *, stream: int = 2, deliveries: int = 1) -> Lease:
    """A lease of a job of normal priority."""
    return lease_at(stream, f"{len(job_id)}-{ord(job_id[-1])}", deliveries, job_id)


def claimed(source: Source, *leases: Lease, count: int = 1, ahead: int = 0) -> None:
    source.dispatcher.take_claimed(Batch([], count, ahead=ahead), Exchange(leases=leases))


def ids(runs: Sequence[Execution]) -> list[str]:
    return [run.lease.job_id for run in runs]


async def test_a_job_that_waits_for_a_slot_is_never_handed_back_on_another_queue() -> None:
    worker_run = run_of(JobQueue("memory://", "a"), JobQueue("memory://", "b"))
    a, b = worker_run.sources
    claimed(b, a_lease("b"))
    a.dispatcher._came_at = [time.monotonic()] * 3  # it has had jobs of several priorities lately

    claimed(a, a_lease("a", stream=1))
    a.dispatcher.hand_back_unclaimed()

    assert ids(a.leases.unsettled) == ["a"]
    assert not any(run.over for run in b.leases)
    (of_b,) = b.leases
    with pytest.raises(AssertionError):
        a.settler.hand_back(of_b)


async def test_a_job_that_was_claimed_ahead_and_taken_back_is_told_of_as_claimed_once() -> None:
    queue = JobQueue("memory://", "q")
    told: list[str] = []
    queue.events.subscribe(JobsClaimed, lambda event: told.extend(lease.job_id for lease in event.leases))
    worker_run = run_of(queue)
    (source,) = worker_run.sources
    claimed(source, a_lease("a"), a_lease("b"), count=2, ahead=1)
    assert told == ["a", "b"]

    claimed(source, a_lease("urgent", stream=1))
    assert ids(source.leases.waiting) == ["a", "b"]
    assert [run.lease.job_id for run in worker_run.pool.slots.take_back(time.monotonic())] == ["urgent"]
    claimed(source)

    assert ids(source.leases.waiting) == ["b"]
    assert told == ["a", "b", "urgent"]


async def test_a_job_that_was_to_run_alone_leaves_room_for_others_as_soon_as_it_is_handed_back() -> None:
    worker_run = run_of(JobQueue("memory://", "q"))
    (source,) = worker_run.sources
    claimed(source, a_lease("alone", deliveries=3))
    assert worker_run.demand.room == 0

    for run in worker_run.pool.slots.take_back(time.monotonic()):
        source.settler.hand_back(run)

    assert ids(source.leases.unsettled) == ["alone"]
    assert worker_run.demand.room == 1


def given_up(source: Source, *, says: bool = False) -> Execution:
    """A run whose handler was given up, and whose thread runs on; it may have said how far it is."""
    source.dispatcher.take([a_lease("a")], float("inf"))
    (run,) = source.leases
    run.times = ThreadTimes()
    run.times.is_abandoned = True
    if says:
        run.reported = Reported(Progress(0.5), is_noted=True)
    source.settler.ran(run, Raised(ValueError("given up")))
    return run


@pytest.mark.parametrize("says", [False, True])
async def test_the_settlement_of_a_job_counts_as_sent_again_only_if_it_was_itself(says: bool) -> None:
    (source,) = run_of(JobQueue("memory://", "q")).sources
    run = given_up(source, says=says)
    source.exchanger.failed(Batch(source.leases.next(1), None), None)
    assert run.resent

    source.settler.settled(run, Reply.OK)

    assert isinstance(run.settlement, Lingers) is says
    assert not run.resent


@pytest.mark.parametrize("says", [False, True])
async def test_a_lost_lease_is_told_of_with_what_the_job_had_come_to(says: bool) -> None:
    queue = JobQueue("memory://", "q")
    told: list[SettledJob] = []
    queue.events.subscribe(LeasesLost, lambda event: told.extend(event.jobs))
    (source,) = run_of(queue).sources
    run = given_up(source, says=says)
    assert isinstance(run.settlement, ReportProgress if says else Lingers)

    source.settler.settled(run, Reply.LEASE_LOST)
    source.settler.report.tell()

    (job,) = told
    assert isinstance(job.settlement, RetryLater)


async def test_an_answer_that_a_thread_runs_on_settles_nothing() -> None:
    (source,) = run_of(JobQueue("memory://", "q")).sources
    run = given_up(source)

    source.exchanger.answered(Batch(source.leases.next(1), None), Exchange(replies=(Reply.RUNNING,)))

    assert source.leases.kept == [run]
    assert source.claims.found_nothing


async def test_what_is_kept_is_tried_again_in_time_however_many_more_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (source,) = run_of(JobQueue("memory://", "q")).sources
    leases = source.leases
    run = given_up(source)
    leases.unsettled = []
    now = time.monotonic()
    for seconds in range(5):
        monkeypatch.setattr(time, "monotonic", lambda at=now + seconds: at)
        leases.try_again_later()
        leases.keep(run)
    assert leases.unsettled == []

    monkeypatch.setattr(time, "monotonic", lambda: now + 5)
    leases.try_again_later()

    assert leases.unsettled == [run] * 5
