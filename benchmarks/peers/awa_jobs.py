import asyncio
import os
import signal
import sys
from dataclasses import dataclass
from typing import ClassVar

import awa
import meter

URL, QUEUE = os.environ["BENCH_URL"], "bench"
_BATCH = 1000


@dataclass
class Noop:
    text: str


@dataclass
class Stamp:
    text: str


async def install():
    client = awa.AsyncClient(URL)
    await client.migrate()
    await client.install_queue_storage(schema="awa")  # else an empty database uses the tables of older releases
    await client.close()


async def work():
    client = awa.AsyncClient(URL)

    @client.task(Noop, queue=QUEUE)
    async def noop(job):
        meter.count()

    @client.task(Stamp, queue=QUEUE)
    async def stamp(job):
        meter.stamp(job.args.text)

    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    workers = int(os.environ.get("BENCH_CONCURRENCY", "100"))
    await client.start([{"name": QUEUE, "max_workers": workers, "claimers": 4, "claim_batch_size": 100}])
    await ended.wait()
    await client.shutdown()


class Producer:
    jobs: ClassVar = {"noop": Noop, "stamp": Stamp}

    async def start(self):
        self.client, self.sync = awa.AsyncClient(URL), awa.Client(URL)

    async def stop(self):
        await self.client.close()

    async def push(self, job, text):
        await self.client.insert(self.jobs[job](text), queue=QUEUE)

    def push_sync(self, job, text):
        self.sync.insert(self.jobs[job](text), queue=QUEUE)

    async def bulk(self, job, texts):
        make = self.jobs[job]
        for start in range(0, len(texts), _BATCH):
            jobs = [make(text) for text in texts[start : start + _BATCH]]
            await self.client.enqueue_many_copy(jobs, queue=QUEUE)


if __name__ == "__main__":
    import uvloop

    uvloop.run(install() if sys.argv[1:] == ["install"] else work())
