"""One worker process of `python -m benchmarks.limits`: of each run it writes down when, as the server says."""

import asyncio
import os
import sys
from collections.abc import Mapping
from typing import Any

import redis.asyncio
import uvloop

from redisjobs import JobContext, JobQueue, Worker
from redisjobs.events import LeasesLost
from redisjobs.events.recording import Recording

AT_ONCE, RATE = 3, 50
LEASE = 2.0  # seconds
LIMITS: Mapping[str, Mapping[str, Any]] = {
    "few": {"max_concurrency": AT_ONCE},
    "often": {"rate": f"{RATE}/s"},
}
TAKES = {"few": 0.1, "often": 0.02}
"""Seconds that a job of each name takes."""


def holders_key(queue: str, name: str) -> str:
    """The key of what runs of a name, and since when; see lua/README.md."""
    return f"redisjobs:{{{queue}}}:holders:{name}"


class Log:
    """Writes down starts and ends of jobs, by the server's clock.

    Args:
        client: A connection to the server.
        queue: The queue's name.
        recording: Where to.
    """

    def __init__(self, client: Any, queue: str, recording: Recording) -> None:
        self._client, self._queue, self._recording = client, queue, recording

    async def start(self, context: JobContext) -> None:
        """A run of a job begins: what runs of its name now, and since when."""
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.time().zrange(holders_key(self._queue, context.job_name), 0, -1, withscores=True)
            (seconds, micros), holders = await pipe.execute()
        told = [[place.decode(), int(since)] for place, since in holders]
        self._write("start", context, seconds * 1000 + micros / 1000, holders=told)

    async def end(self, context: JobContext) -> None:
        """A run of a job ends."""
        seconds, micros = await self._client.time()
        self._write("end", context, seconds * 1000 + micros / 1000)

    def _write(self, what: str, context: JobContext, at_ms: float, **more: Any) -> None:
        run = {"run": f"{context.job_id} {context.deliveries} {context.worker_id}", "name": context.job_name}
        self._recording.write({"what": what, "pid": os.getpid(), "at_ms": at_ms, **run, **more})


def registered(queue: JobQueue, log: Log | None = None) -> JobQueue:
    """The queue with its handlers; without a log for a producer."""

    async def run(context: JobContext) -> None:
        assert log is not None
        await log.start(context)
        await asyncio.sleep(TAKES[context.job_name])
        await log.end(context)

    for name, limits in LIMITS.items():
        queue.job(name=name, **limits)(run)
    return queue


async def main(url: str, name: str, folder: str) -> None:
    """Be that process until it is ended from outside."""
    recording = Recording(folder)
    queue = JobQueue(url, name)
    queue.events.subscribe(
        LeasesLost, lambda event: recording.write({"what": "lost", "jobs": [job.job_id for job in event.jobs]})
    )
    registered(queue, Log(redis.asyncio.from_url(url), name, recording))
    await Worker(queue, concurrency=20, lease=LEASE).run()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
