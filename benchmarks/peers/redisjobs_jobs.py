import asyncio
import os
from dataclasses import dataclass
from typing import ClassVar

import meter

from redisjobs import Fail, JobQueue
from redisjobs.sync import JobQueue as SyncJobQueue

URL = os.environ["BENCH_URL"]
queue = JobQueue(URL, name="bench")


@dataclass
class Noop:
    job_name: ClassVar[str] = "noop"
    text: str


@dataclass
class Stamp:
    job_name: ClassVar[str] = "stamp"
    text: str


@dataclass
class Nap:
    job_name: ClassVar[str] = "nap"
    text: str


@dataclass
class Hold:
    job_name: ClassVar[str] = "hold"
    text: str


@dataclass
class Doomed:
    job_name: ClassVar[str] = "doomed"
    text: str


@queue.register(Noop, timeout=60)
async def noop(parameters: Noop) -> None:
    meter.count()


@queue.register(Stamp, timeout=60)
async def stamp(parameters: Stamp) -> None:
    meter.stamp(parameters.text)


@queue.register(Nap, timeout=60)
async def nap(parameters: Nap) -> None:
    await asyncio.sleep(0.01)
    meter.count()


@queue.register(Hold, timeout=600)
async def hold(parameters: Hold) -> None:
    meter.count()
    await asyncio.sleep(600)


@queue.register(Doomed, timeout=60)
async def doomed(parameters: Doomed) -> None:
    meter.count()
    raise Fail("as planned")


class Producer:
    jobs: ClassVar = {"noop": Noop, "stamp": Stamp, "nap": Nap, "hold": Hold, "doomed": Doomed}

    async def start(self):
        self.sync = SyncJobQueue(URL, name="bench")

    async def stop(self):
        self.sync.close()
        await queue.aclose()

    async def push(self, job, text):
        await queue.push(self.jobs[job](text))

    def push_sync(self, job, text):
        self.sync.push(self.jobs[job](text))

    async def bulk(self, job, texts):
        make = self.jobs[job]
        await queue.push_many(make(text) for text in texts)

    async def push_later(self, job, text, seconds):
        await queue.push(self.jobs[job](text), delay=seconds)

    async def bulk_later(self, job, texts, seconds):
        make = self.jobs[job]
        await queue.push_many((make(text) for text in texts), delay=seconds)
