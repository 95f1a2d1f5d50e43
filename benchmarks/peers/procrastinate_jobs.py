import os

import meter
from procrastinate import App, PsycopgConnector, SyncPsycopgConnector

URL = os.environ["BENCH_URL"]
app = App(connector=PsycopgConnector(conninfo=URL))
_BATCH = 1000


@app.task(name="noop")
async def noop(text):
    meter.count()


@app.task(name="stamp")
async def stamp(text):
    meter.stamp(text)


class Producer:
    async def start(self):
        await app.open_async()
        self.sync = App(connector=SyncPsycopgConnector(conninfo=URL))
        self.sync.open()

    async def stop(self):
        self.sync.close()
        await app.close_async()

    async def push(self, job, text):
        await app.tasks[job].defer_async(text=text)

    def push_sync(self, job, text):
        self.sync.configure_task(job).defer(text=text)

    async def bulk(self, job, texts):
        for start in range(0, len(texts), _BATCH):
            await app.tasks[job].batch_defer_async(*({"text": text} for text in texts[start : start + _BATCH]))
