import os
from contextlib import asynccontextmanager

import meter
import psycopg
from pgqueuer import PgQueuer, Queries
from pgqueuer.db import PsycopgDriver

URL = os.environ["BENCH_URL"]
_BATCH = 1000


async def connected():
    return await psycopg.AsyncConnection.connect(URL, autocommit=True)


@asynccontextmanager
async def worker():
    async with await connected() as connection:
        queue = PgQueuer(PsycopgDriver(connection))

        @queue.entrypoint("noop")
        async def noop(job):
            meter.count()

        @queue.entrypoint("stamp")
        async def stamp(job):
            meter.stamp(job.payload.decode())

        yield queue


class Producer:
    async def start(self):
        self.connection = await connected()
        self.queries = Queries(PsycopgDriver(self.connection))

    async def stop(self):
        await self.connection.close()

    async def push(self, job, text):
        await self.queries.enqueue(job, text.encode())

    async def bulk(self, job, texts):
        for start in range(0, len(texts), _BATCH):
            payloads = [text.encode() for text in texts[start : start + _BATCH]]
            await self.queries.enqueue([job] * len(payloads), payloads, [0] * len(payloads))
