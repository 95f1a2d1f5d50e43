import asyncio
import os

import meter
from cauli import AsyncCauli

app = AsyncCauli(redis_url=os.environ["BENCH_URL"], default_queue="bench")


@app.task(store_result=False)
async def noop(text: str) -> None:
    meter.count()


@app.task(store_result=False)
async def stamp(text: str) -> None:
    meter.stamp(text)


@app.task(store_result=False)
async def nap(text: str) -> None:
    await asyncio.sleep(0.01)
    meter.count()


class Producer:
    async def start(self):
        self.jobs = {"noop": noop, "stamp": stamp, "nap": nap}

    async def stop(self):
        await app.aclose()

    async def push(self, job, text):
        await self.jobs[job].adelay(text)

    def push_sync(self, job, text):
        self.jobs[job].delay(text)

    async def bulk(self, job, texts):
        for at in range(0, len(texts), 1000):
            await app.aenqueue_many([(self.jobs[job], (text,)) for text in texts[at : at + 1000]])

    async def push_later(self, job, text, seconds):
        await self.jobs[job].aapply_async(args=(text,), countdown=seconds)
