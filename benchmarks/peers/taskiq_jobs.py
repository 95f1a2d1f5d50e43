import asyncio
import os

import meter
from taskiq.serializers import ORJSONSerializer
from taskiq_redis import RedisStreamBroker

# From the stream's start: its own default, `$`, never runs what was pushed before the first worker.
broker = RedisStreamBroker(os.environ["BENCH_URL"], consumer_id="0").with_serializer(ORJSONSerializer())


@broker.task
async def noop(text: str) -> None:
    meter.count()


@broker.task
async def stamp(text: str) -> None:
    meter.stamp(text)


@broker.task
async def nap(text: str) -> None:
    await asyncio.sleep(0.01)
    meter.count()


class Producer:  # delayed jobs need a second process, the scheduler: not measured
    async def start(self):
        self.jobs = {"noop": noop, "stamp": stamp, "nap": nap}
        await broker.startup()

    async def stop(self):
        await broker.shutdown()

    async def push(self, job, text):
        await self.jobs[job].kiq(text)
