import asyncio
import os
from datetime import timedelta

import meter
import uvloop
from docket import ConcurrencyLimit, CurrentDocket, Docket, Progress, RateLimit, Worker

KEPT, KEYS = ("kept", "wait"), 100
LACKS = {"unique_start": "has no such key"}


async def plain(text: str) -> None:
    meter.count()


async def kept(text: str) -> str:
    meter.count()
    return "done"


async def nap(text: str) -> None:
    await asyncio.sleep(0.01)
    meter.count()


async def progress(text: str, progress: Progress = Progress()) -> None:  # noqa: B008
    await progress.increment(1)
    meter.count()


async def progress_nap(text: str, progress: Progress = Progress()) -> None:  # noqa: B008
    await progress.increment(1)
    await asyncio.sleep(0.01)
    meter.count()


async def follow(text: str, docket: Docket = CurrentDocket()) -> None:  # noqa: B008
    await docket.add(plain)(text)  # a step of its own
    meter.count()


async def limit(
    text: str,
    key: int,
    most: ConcurrencyLimit = ConcurrencyLimit("key", max_concurrent=1_000),  # noqa: B008
    rate: RateLimit = RateLimit(1_000_000, per=timedelta(seconds=1)),  # noqa: B008
) -> None:
    meter.count()


TASKS = (plain, kept, nap, progress, progress_nap, follow, limit)
BY_NAME = {task.__name__: task for task in TASKS} | {"wait": kept, "unique": plain}


def make():
    ttl = timedelta(hours=1) if os.environ.get("BENCH_FEATURE") in KEPT else timedelta(0)
    url = os.environ["BENCH_URL"] + "?max_connections=2000"  # 100 are too few for 100 jobs at once
    docket = Docket(name="bench", url=url, execution_ttl=ttl)
    for task in TASKS:
        docket.register(task)
    return docket


class Producer:
    async def start(self):
        self.docket = await make().__aenter__()

    async def stop(self):
        await self.docket.__aexit__(None, None, None)

    async def push(self, feature, texts):
        """It has no push of many: 100 in flight."""
        jobs, left = [], iter(texts)

        async def lane():
            for text in left:
                # Every task has a key that is unique; by itself it is a random one.
                add = self.docket.add(BY_NAME[feature], key=f"key-{text[:20]}" if feature == "unique" else None)
                more = {"key": int(text[:20]) % KEYS} if feature == "limit" else {}
                jobs.append(await add(text, **more))

        await asyncio.gather(*(lane() for _ in range(100)))
        return jobs

    async def result(self, job):
        return await job.get_result(timeout=timedelta(seconds=100))


async def work():
    async with make() as docket, Worker(docket, concurrency=int(os.environ["BENCH_CONCURRENCY"])) as worker:
        await worker.run_forever()


if __name__ == "__main__":
    uvloop.run(work())
