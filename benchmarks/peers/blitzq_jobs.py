import asyncio
import os

import meter
import uvloop
from blitzq import Queue

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
queue = Queue("bench", os.environ["BENCH_URL"], mode="reliable", store_results=False)


@queue.task
async def noop(text: str) -> None:
    meter.count()


@queue.task
async def stamp(text: str) -> None:
    meter.stamp(text)


@queue.task
async def nap(text: str) -> None:
    await asyncio.sleep(0.01)
    meter.count()


class Producer:
    async def start(self):
        self.jobs = {"noop": noop, "stamp": stamp, "nap": nap}

    async def stop(self):
        await queue.close()

    async def push(self, job, text):
        await self.jobs[job].enqueue(text)

    async def bulk(self, job, texts):
        for at in range(0, len(texts), 1000):
            await self.jobs[job].enqueue_many([(text,) for text in texts[at : at + 1000]])

    async def push_later(self, job, text, seconds):
        await self.jobs[job].options(delay=seconds).enqueue(text)
