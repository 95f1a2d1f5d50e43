import asyncio
import os
from dataclasses import dataclass
from itertools import count

import meter

from redisjobs import JobContext, JobName, JobQueue, PushOptions

KEYS = 100  # of limited jobs
LACKS = {}
if not (HAS_LIMITS := hasattr(JobQueue, "set_limit")):
    LACKS["limit"] = "this version has no limits"
if "unique_until" not in PushOptions.__annotations__:
    LACKS["unique_start"] = "this version has no unique_until="
queue = JobQueue(os.environ["BENCH_URL"], name="bench")


@dataclass
class Work:
    text: str


def handler(name, **options):
    return queue.register(JobName(name, Work), timeout=60, **options)


@handler("plain")
async def plain(parameters: Work) -> None:
    meter.count()


@handler("kept", keep_result=3600)
async def kept(parameters: Work) -> str:
    meter.count()
    return "done"


@handler("nap")
async def nap(parameters: Work) -> None:
    await asyncio.sleep(0.01)
    meter.count()


@handler("progress")
async def progress(parameters: Work, context: JobContext) -> None:
    context.progress(0.5)
    meter.count()


@handler("progress_nap")
async def progress_nap(parameters: Work, context: JobContext) -> None:
    context.progress(0.5)
    await asyncio.sleep(0.01)
    meter.count()


@handler("follow")
async def follow(parameters: Work, context: JobContext) -> None:
    context.push(parameters, "plain")
    meter.count()


if HAS_LIMITS:

    @handler("limit", max_concurrency=1_000, rate="1000000/s", limit_key=lambda work: int(work.text[:20]) % KEYS)
    async def limit(parameters: Work) -> None:
        meter.count()

    @handler("keyed", rate="1/h", burst=1, limit_key=lambda work: int(work.text[:20]))
    async def keyed(parameters: Work) -> None:
        meter.count()


NAMES = {"wait": "kept", "unique": "plain", "unique_start": "plain"}
UNIQUE = {"unique": {}, "unique_start": {"unique_until": "start"}}


class Producer:
    async def start(self):
        self.numbers = count()

    async def stop(self):
        await queue.aclose()

    async def push(self, feature, texts):
        name = NAMES.get(feature, feature)
        if (options := UNIQUE.get(feature)) is None:
            return await queue.push_many((Work(text) for text in texts), name)
        prepare = queue.prepare
        return await queue.push_many(
            prepare(Work(text), name, unique=f"key-{next(self.numbers)}", **options) for text in texts
        )

    async def result(self, job):
        return await job.result()
