"""Workers of a fleet, as tasks of one process, each with connections of its own: `python fleet_jobs.py COUNT`.

They run until standard input ends; then the jobs that each has run are written as JSON.
"""

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from typing import ClassVar

import uvloop
from redisjobs import JobQueue, Worker

CONCURRENCY = 10


@dataclass
class Sleepy:
    job_name: ClassVar[str] = "noop"
    text: str


class Member:
    def __init__(self):
        self.jobs, self.queue = 0, JobQueue(os.environ["BENCH_URL"], name="bench")
        self.queue.register(Sleepy, timeout=60)(self.work)
        self.worker = Worker(self.queue, concurrency=CONCURRENCY)

    async def work(self, parameters: Sleepy) -> None:
        await asyncio.sleep(0.1)
        self.jobs += 1


async def main(count):
    members = [Member() for _ in range(count)]
    async with asyncio.TaskGroup() as tasks:
        for member in members:
            tasks.create_task(member.worker.run())
        await asyncio.to_thread(sys.stdin.read)
        for member in members:
            member.worker.stop()
    print(json.dumps([member.jobs for member in members]), flush=True)
    for member in members:
        await member.queue.aclose()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
