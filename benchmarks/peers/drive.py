"""The producer's side of a system, in that system's own environment: `python drive.py NAME`.

It reads one JSON request a line, does it, and writes one JSON answer a line. In `NAME_jobs.py` is a `Producer`:

    start, stop             open and close what it needs
    push(job, text)         awaitable; one job
    push_sync(job, text)    the same for sync code
    bulk(job, texts)        awaitable; many in one call
    push_later(job, text, seconds)  a delayed job
    in_flight(job, text, count, width)  instead of awaiting `push` in `width` tasks, for those that are sync

What a system doesn't have is left out, and the answer is null. The floor has `ping`, `ping_sync` and `xadd`
instead of some: what the server can do at all.
"""

import asyncio
import importlib
import json
import os
import random
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import meter


def text_of(size, start=0):
    return f"{start:020d}" + "x" * (size - 20)


def threads(push, job, text, count, width):
    """Push from many threads at once, for producers that are sync only; returns seconds."""

    def lane(jobs):
        for _ in range(jobs):
            push(job, text)

    with ThreadPoolExecutor(width) as pool:
        started = time.perf_counter()
        list(pool.map(lane, [count // width] * width))
        return time.perf_counter() - started


class Driver:
    def __init__(self, producer):
        self.producer = producer

    async def fill(self, job, count, size):
        """Put jobs on the queue in the fastest way there is; the seconds and the way."""
        text = text_of(size)
        started = time.perf_counter()
        if (bulk := getattr(self.producer, "bulk", None)) is not None:
            await bulk(job, [text] * count)
            return {"seconds": time.perf_counter() - started, "bulk": True}
        return {"seconds": await self.in_flight(job, count, size, 100), "bulk": False}

    async def fill_later(self, job, count, size, seconds):
        """Put many delayed jobs on the queue."""
        await self.producer.bulk_later(job, [text_of(size)] * count, seconds)
        return True

    async def one_by_one(self, job, count, size):
        push, text = self._own("ping", "push"), text_of(size)
        if push is None:
            return None
        await push(job, text)
        started = time.perf_counter()
        for _ in range(count):
            await push(job, text)
        return time.perf_counter() - started

    async def sync(self, job, count, size):
        push, text = self._own("ping_sync", "push_sync"), text_of(size)
        if push is None:
            return None
        push(job, text)
        started = time.perf_counter()
        for _ in range(count):
            push(job, text)
        return time.perf_counter() - started

    async def in_flight(self, job, count, size, width):
        text = text_of(size)
        if (own := getattr(self.producer, "in_flight", None)) is not None:
            own(job, text, width, width)
            return own(job, text, count, width)
        push = self._own("xadd", "push")

        async def lanes(jobs):
            left = iter(range(jobs))

            async def lane():
                for _ in left:
                    await push(job, text)

            await asyncio.gather(*(lane() for _ in range(width)))

        await lanes(width)  # opens the connections
        started = time.perf_counter()
        await lanes(count)
        return time.perf_counter() - started

    async def latency(self, count, size):
        """One job at a time into an idle worker, after a pause that is no multiple of anything."""
        for number in range(1, count + 1):
            await asyncio.sleep(random.uniform(0.004, 0.014))
            await self._push("stamp", text_of(size, time.monotonic_ns()))
            await self._stamped(number, 15)
        return count

    async def delayed(self, count, size, shortest, longest):
        if (push_later := getattr(self.producer, "push_later", None)) is None:
            return None
        for _ in range(count):
            delay = random.uniform(shortest, longest)
            await push_later("stamp", text_of(size, time.monotonic_ns() + int(delay * 1e9)), delay)
        return count

    async def stamped(self, count, within):
        await self._stamped(count, within)
        return count

    def _own(self, *names):
        return next((found for name in names if (found := getattr(self.producer, name, None))), None)

    async def _push(self, job, text):
        if hasattr(self.producer, "push"):
            await self.producer.push(job, text)
        else:
            self.producer.push_sync(job, text)

    async def _stamped(self, count, within):
        deadline = time.monotonic() + within
        while self._stamps() < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._stamps()} of {count} jobs started within {within} s")
            await asyncio.sleep(0.0005)

    def _stamps(self):
        with os.scandir(meter.FOLDER) as entries:
            sizes = (entry.stat().st_size for entry in entries if entry.name.endswith(".stamps"))
            return sum(sizes) // meter.STAMP.size


async def main(name):
    producer = importlib.import_module(f"{name}_jobs").Producer()
    await producer.start()
    driver = Driver(producer)
    print(json.dumps({"answer": "ready"}), flush=True)
    while line := sys.stdin.readline():
        request = json.loads(line)
        try:
            answer = {"answer": await getattr(driver, request.pop("do"))(**request)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
    await producer.stop()


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(main(sys.argv[1]))
    else:
        uvloop.run(main(sys.argv[1]))
