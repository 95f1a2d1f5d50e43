import asyncio
import os

import meter
import uvloop
from ardiq import Ardiq

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
KEPT = ("kept", "wait")
LACKS = {
    "progress": "has no progress",
    "progress_nap": "has no progress",
    "limit": "its limits are of one worker, not of the fleet",
    "unique_start": "has no such key",
}
app = Ardiq(
    redis_url=os.environ["BENCH_URL"],
    queue_name="bench",
    concurrency=int(os.environ.get("BENCH_CONCURRENCY", "100")),
    result_ttl_ms=3_600_000 if os.environ.get("BENCH_FEATURE") in KEPT else 0,
)


@app.task()
async def plain(text: str) -> None:
    meter.count()


@app.task()
async def kept(text: str) -> str:
    meter.count()
    return "done"


@app.task()
async def nap(text: str) -> None:
    await asyncio.sleep(0.01)
    meter.count()


@app.task()
async def follow(text: str) -> None:
    await plain.enqueue(text)  # a step of its own
    meter.count()


@app.task(unique=True)
async def unique(text: str) -> None:
    meter.count()


TASKS = {"plain": plain, "kept": kept, "wait": kept, "nap": nap, "follow": follow, "unique": unique}


class Producer:
    async def start(self):
        pass

    async def stop(self):
        pass

    async def push(self, feature, texts):
        prepare, jobs = TASKS[feature].prepare, []
        for at in range(0, len(texts), 1000):
            jobs += await app.enqueue_many(prepare(text) for text in texts[at : at + 1000])
        return jobs

    async def result(self, job):
        return await job.result(timeout=100)
