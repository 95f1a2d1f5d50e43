"""One process of `python -m benchmarks.waiters`: the one that waits, or the worker."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Iterable
from pathlib import Path

import uvloop

from redisjobs import JobQueue, Worker
from redisjobs.events import JobsCompleted

CONCURRENCY = 100


def paced(queue: JobQueue, rate: float) -> None:
    """Give the queue its handler, which ends jobs at this rate a second; 0: as many as it can."""
    begun, count = 0.0, 0

    async def work(number: int) -> int:
        nonlocal begun, count
        if rate:
            begun = begun or time.monotonic()
            count += 1
            await asyncio.sleep(begun + count / rate - time.monotonic())
        return number

    queue.job(work)


def note_ends(queue: JobQueue, path: Path) -> None:
    """Write down each job that is done: its id, when its settlement was sent, and when the reply came."""
    file = open(path, "w")  # noqa: SIM115

    def note(event: JobsCompleted) -> None:
        file.writelines(f"{job.job_id} {job.sent_at!r} {event.at!r}\n" for job in event.jobs)
        file.flush()

    queue.events.subscribe(JobsCompleted, note)


async def wait(queue: JobQueue, count: int) -> list[tuple[str, float]]:
    """Push jobs, and wait for each in a task of its own; the id of each, and when its result came."""
    handles = await queue.push_many([{"number": number} for number in range(count)], "work", keep_result=600)
    ends: list[tuple[str, float]] = []

    async def one(job_id: str, result: Awaitable[int]) -> None:
        await result
        ends.append((job_id, time.time()))

    await asyncio.gather(*(one(handle.id, handle.result()) for handle in handles))
    await queue.aclose()
    return ends


def main(role: str, url: str, name: str, path: str, number: str) -> None:
    """Be that process: the waiter until all have ended, the worker until it is ended from outside."""
    queue = JobQueue(url, name)
    if role == "worker":
        paced(queue, float(number))
        note_ends(queue, Path(path))
        uvloop.run(Worker(queue, concurrency=CONCURRENCY).run())
    else:
        paced(queue, 0)
        ends = uvloop.run(wait(queue, int(number)))
        Path(path).write_text("".join(f"{job_id} {at!r}\n" for job_id, at in ends))


def read(path: Path) -> Iterable[list[str]]:
    """The words of each line."""
    return (line.split() for line in path.read_text().splitlines())


if __name__ == "__main__":
    main(*sys.argv[1:])
