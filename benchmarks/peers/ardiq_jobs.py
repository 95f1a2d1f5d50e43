import asyncio
import os

import meter
import uvloop
from ardiq import Ardiq

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
app = Ardiq(
    redis_url=os.environ["BENCH_URL"],
    queue_name="bench",
    **({"concurrency": int(os.environ["BENCH_CONCURRENCY"])} if "BENCH_CONCURRENCY" in os.environ else {}),
    result_ttl_ms=0,
)


@app.task()
async def noop(text: str) -> None:
    meter.count()


@app.task()
async def stamp(text: str) -> None:
    meter.stamp(text)


@app.task()
async def nap(text: str) -> None:
    await asyncio.sleep(0.01)
    meter.count()


class Producer:
    async def start(self):
        self.jobs = {"noop": noop, "stamp": stamp, "nap": nap}

    async def stop(self):
        pass

    async def push(self, job, text):
        await self.jobs[job].enqueue(text)

    async def bulk(self, job, texts):
        prepare = self.jobs[job].prepare
        for at in range(0, len(texts), 1000):
            await app.enqueue_many(prepare(text) for text in texts[at : at + 1000])

    async def push_later(self, job, text, seconds):
        await self.jobs[job].options(delay_ms=round(seconds * 1000)).enqueue(text)
