import asyncio
import os
from datetime import UTC, datetime, timedelta

import meter
from streaq import Worker

worker = Worker(
    redis_url=os.environ["BENCH_URL"],
    **({"concurrency": int(os.environ["BENCH_CONCURRENCY"])} if "BENCH_CONCURRENCY" in os.environ else {}),
    anyio_kwargs={"use_uvloop": True},
)


@worker.task(ttl=0, silent=True, timeout=60)
async def noop(text: str) -> None:
    meter.count()


@worker.task(ttl=0, silent=True, timeout=60)
async def stamp(text: str) -> None:
    meter.stamp(text)


@worker.task(ttl=0, silent=True, timeout=60)
async def nap(text: str) -> None:
    await asyncio.sleep(0.01)
    meter.count()


class Producer:
    async def start(self):
        self.jobs = {"noop": noop, "stamp": stamp, "nap": nap}
        await worker.__aenter__()

    async def stop(self):
        await worker.__aexit__(None, None, None)

    async def push(self, job, text):
        await self.jobs[job].enqueue(text)

    async def bulk(self, job, texts):
        for at in range(0, len(texts), 1000):
            await worker.enqueue_many([self.jobs[job].enqueue(text) for text in texts[at : at + 1000]])

    async def push_later(self, job, text, seconds):
        await self.jobs[job].enqueue(text).start(schedule=datetime.now(UTC) + timedelta(seconds=seconds))
