import asyncio
import logging
import os

import meter
import uvloop
from arq import create_pool
from arq.connections import RedisSettings

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
SETTINGS = RedisSettings.from_dsn(os.environ["BENCH_URL"])


async def noop(context, text):
    meter.count()


async def stamp(context, text):
    meter.stamp(text)


async def nap(context, text):
    await asyncio.sleep(0.01)
    meter.count()


class WorkerSettings:
    functions = (noop, stamp, nap)
    redis_settings = SETTINGS
    max_jobs = int(os.environ.get("BENCH_CONCURRENCY", "10"))  # 10 is its own
    job_timeout = 60
    keep_result = 0
    poll_delay = 0.05  # from 0.5: its latency is this, and so is its idle load
    log_results = False


QUIET = {"version": 1, "loggers": {"arq": {"level": logging.ERROR}}}


class Producer:
    async def start(self):
        self.pool = await create_pool(SETTINGS)

    async def stop(self):
        await self.pool.aclose()

    async def push(self, job, text):
        await self.pool.enqueue_job(job, text)

    async def push_later(self, job, text, seconds):
        await self.pool.enqueue_job(job, text, _defer_by=seconds)
