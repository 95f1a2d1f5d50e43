import os
import time

import meter
from drive import threads
from mayu import App

app = App(broker=os.environ["BENCH_URL"], default_queue="bench")  # without result_ttl, results are not kept


@app.task
def noop(text: str) -> None:
    meter.count()


@app.task
def stamp(text: str) -> None:
    meter.stamp(text)


@app.task
def nap(text: str) -> None:
    time.sleep(0.01)
    meter.count()


class Producer:  # sync only
    async def start(self):
        self.jobs = {"noop": noop, "stamp": stamp, "nap": nap}

    async def stop(self):
        pass

    def push_sync(self, job, text):
        self.jobs[job].delay(text)

    def in_flight(self, job, text, count, width):
        return threads(self.push_sync, job, text, count, width)

    async def push_later(self, job, text, seconds):
        self.jobs[job].send(text, countdown=seconds)
