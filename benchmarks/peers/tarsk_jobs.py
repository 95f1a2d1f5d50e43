import asyncio
import os

import meter
from drive import threads
from tarsk import App

app = App(broker=os.environ["BENCH_URL"], default_timeout=60, max_timeout=60)


@app.task(name="noop")
async def noop(text):
    meter.count()


@app.task(name="stamp")
async def stamp(text):
    meter.stamp(text)


@app.task(name="nap")
async def nap(text):
    await asyncio.sleep(0.01)
    meter.count()


class Producer:  # sync first; its async send is a hop to a thread
    async def start(self):
        self.jobs = {"noop": noop, "stamp": stamp, "nap": nap}

    async def stop(self):
        pass

    def push_sync(self, job, text):
        self.jobs[job].send(text)

    def in_flight(self, job, text, count, width):
        return threads(self.push_sync, job, text, count, width)

    async def push_later(self, job, text, seconds):
        self.jobs[job].send_in(seconds, text)
