import os
import time

import dramatiq
import meter
from dramatiq.brokers.redis import RedisBroker
from drive import threads

broker = RedisBroker(url=os.environ["BENCH_URL"])
dramatiq.set_broker(broker)


@dramatiq.actor
def noop(text):
    meter.count()


@dramatiq.actor
def stamp(text):
    meter.stamp(text)


@dramatiq.actor
def nap(text):
    time.sleep(0.01)
    meter.count()


class Producer:  # sync only
    async def start(self):
        self.jobs = {"noop": noop, "stamp": stamp, "nap": nap}

    async def stop(self):
        broker.close()

    def push_sync(self, job, text):
        self.jobs[job].send(text)

    def in_flight(self, job, text, count, width):
        return threads(self.push_sync, job, text, count, width)

    async def push_later(self, job, text, seconds):
        self.jobs[job].send_with_options(args=(text,), delay=round(seconds * 1000))
