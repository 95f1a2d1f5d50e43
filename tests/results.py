"""Waiting for results, as several tests do it."""

import threading
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
from store import MemoryStore, RedisStore, Store, eventually

import redisjobs.sync
from redisjobs import JobQueue, Worker
from redisjobs.errors import NoResult

_EARLIER: list[threading.Thread] = []


def forget_waiting_threads() -> None:
    """Leave out of `waiting_threads` those that run already: examples of the docs may close no queue."""
    _EARLIER[:] = threading.enumerate()


def waiting_threads() -> list[threading.Thread]:
    """The threads in which sync queues wait for results, begun since the last `forget_waiting_threads`."""
    running = [thread for thread in threading.enumerate() if thread.name == "redisjobs waiting"]
    return [thread for thread in running if thread not in _EARLIER]


async def drain(queue: JobQueue, **options: Any) -> None:
    """Run a worker until the queue is empty."""
    with anyio.fail_after(40):
        await Worker(queue, **options).run(until_idle=True)


async def result(awaitable: Awaitable[Any]) -> Any:
    """What comes of it, in time; or the error."""
    with anyio.fail_after(30):
        try:
            return await awaitable
        except NoResult as error:
            return error


def listening(store: RedisStore) -> list[Any]:
    """The connections that listen for a process that waits."""
    user = [each for each in store.admin.client_list(_type="pubsub") if each["user"] == store.user]
    return [each for each in user if each["cmd"] == "subscribe" and int(each["sub"]) == 1]


async def waited_for(store: Store, *job_ids: str) -> None:
    """Wait until it is noted that these jobs are waited for."""

    def are_noted() -> bool:
        if isinstance(store, MemoryStore):
            jobs = [store.memory.jobs.get(job_id) for job_id in job_ids]
            return all(job is not None and job.processes for job in jobs)
        assert isinstance(store, RedisStore)
        noted = store.admin.hkeys(f"{store.prefix}waiters")
        return {job_id.encode() for job_id in job_ids} <= {*noted}

    await eventually(are_noted, within=20)


@contextmanager
def worker_in_thread(queue: redisjobs.sync.JobQueue, **options: Any) -> Iterator[None]:
    """A worker runs in a thread of its own while the block does."""
    worker = Worker(queue, **options)
    thread = threading.Thread(target=anyio.run, args=[worker.run])
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join()
