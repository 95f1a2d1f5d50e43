"""Producers that push jobs, wait for their results or watch their progress, and record the answers."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup

from redisjobs import queue, sync
from redisjobs.errors import RedisJobsError
from redisjobs.events.recording import Recording
from redisjobs.model.codec import new_job_id
from redisjobs.model.transitions import NewJob
from redisjobs_proof.torture.fleet import jobs
from redisjobs_proof.torture.fleet.mix import some_seconds
from redisjobs_proof.torture.fleet.producer import Producer
from redisjobs_proof.torture.fleet.store import Store

_EVERY = 0.7  # seconds between two such jobs
_TIMEOUT = 8.0  # seconds to wait for a result
_AT_THE_END = 20.0  # seconds to wait for results, and for the ends of watches, when the torture ends
_ENDED, _AT_LEAST = 10.0, 1.0  # seconds to wait for all results, and for each, if the jobs have ended
_REPORTS = 6  # reports of a job that is watched


def a_job(store: sync.JobQueue | queue.JobQueue, rng: random.Random) -> NewJob:
    """Return a job with a result: it is done in the first or second attempt, or fails for good."""
    kinds: Sequence[Any] = (
        jobs.Work(some_seconds(rng)),
        jobs.Flaky(rng.randint(1, 2)),
        jobs.Hopeless(),
        jobs.Parent(),
    )
    kind = rng.choices(kinds, (6, 2, 1, 1))[0]
    return store.prepare(kind, job_id=new_job_id(), keep_result=jobs.KEPT)


def wait(producer: Producer, store: sync.JobQueue, rng: random.Random, over: threading.Event) -> None:
    """Push jobs, and wait for the result of each, until `over` is set."""
    while not over.wait(_EVERY):
        job = a_job(store, rng)
        if producer.push([job], partial(store.push_many, [job])):
            answer(producer, job.job_id, partial(store.result, job.job_id, timeout=_TIMEOUT))


def answer(producer: Producer, job_id: str, ask: Callable[[], Any], *, over: bool = False, mark: str = "") -> None:
    """Call `ask` for a result, and record the answer; `over`: all faults are over, and the job has ended."""
    result, error = None, ""
    try:
        result = ask()
    except (RedisJobsError, TimeoutError) as raised:
        error = type(raised).__name__
    producer.note("answered", job=job_id, mark=mark, result=result, error=error, over=over)


def wait_again(store: Store, url: str, recording: Recording, job_ids: Sequence[str]) -> None:
    """Wait again for the results of jobs whose first wait learned nothing; by now these jobs have ended."""
    producer, end = Producer(recording, store.db), time.monotonic() + _ENDED
    with sync.JobQueue(url, store.queue.name) as asked:
        for job_id in job_ids:
            left = max(end - time.monotonic(), _AT_LEAST)  # replication may have lost many of them
            answer(producer, job_id, partial(asked.result, job_id, timeout=left), over=True)


async def wait_in_async(
    producer: Producer, store: queue.JobQueue, rng: random.Random, over: threading.Event
) -> None:
    """Push jobs and wait for many results at once; watch some other jobs until they have ended."""
    async with anyio.create_task_group() as tasks:
        while not over.is_set():
            await anyio.sleep(_EVERY)
            if rng.random() < 0.3:
                await _watch_one(producer, store, tasks)
                continue
            job = a_job(store, rng)
            if await producer.push_async([job], partial(store.push_many, [job])):
                tasks.start_soon(_answer, producer, store, job.job_id)
        tasks.cancel_scope.deadline = anyio.current_time() + _AT_THE_END


async def _answer(producer: Producer, store: queue.JobQueue, job_id: str) -> None:
    result, error = None, ""
    try:
        result = await store.result(job_id, timeout=_TIMEOUT)
    except (RedisJobsError, TimeoutError) as raised:
        error = type(raised).__name__
    producer.note("answered", job=job_id, result=result, error=error, over=False)


async def _watch_one(producer: Producer, store: queue.JobQueue, tasks: TaskGroup) -> None:
    job = store.prepare(jobs.Reporting(_REPORTS), job_id=new_job_id(), keep_result=jobs.KEPT)
    if await producer.push_async([job], partial(store.push_many, [job])):
        tasks.start_soon(_watch, producer, store, job.job_id)


async def _watch(producer: Producer, store: queue.JobQueue, job_id: str) -> None:
    reports, strange, ended = 0, "", False
    try:
        async for progress in store.watch(job_id):
            reports += 1
            strange = strange or (progress.note if progress.note != job_id else "")
        ended = True
    finally:
        producer.note("watched", job=job_id, reports=reports, strange=strange, ended=ended)
