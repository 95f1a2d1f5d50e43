"""The producer's side of `python -m benchmarks.features`, in a system's own environment: `features_drive.py NAME`.

It reads one JSON request a line, does it, and writes one JSON answer a line; meanwhile tasks of its own go on. In
`NAME_features.py` are `LACKS`, features that the system does not have and why they are not measured, and a
`Producer`:

    start, stop             open and close what it needs
    push(feature, texts)    awaitable; pushes a job for each text in the fastest way there is, and returns them
    result(job)             awaitable; waits for what one of these returned
"""

import asyncio
import contextlib
import importlib
import json
import resource
import sys
import time
import traceback


class Driver:
    def __init__(self, module):
        self.module, self.producer = module, module.Producer()
        self.jobs, self.waits = [], []

    async def lacks(self):
        return self.module.LACKS

    async def push(self, feature, count, size, first=0, step=1):
        """Push jobs; the text of each begins with a number of its own, or with one for all if `step` is 0."""
        texts = [f"{first + step * number:020d}" + "x" * (size - 20) for number in range(count)]
        started = time.perf_counter()
        self.jobs = await self.producer.push(feature, texts)
        return time.perf_counter() - started

    async def wait(self, seconds):
        """Let a task wait for each job that was pushed; and have some seconds to begin with."""
        self.waits = [asyncio.create_task(self.producer.result(job)) for job in self.jobs]
        await asyncio.sleep(seconds)
        return len(self.waits)

    async def waited(self, within):
        """How many of them have what they waited for."""
        async with asyncio.timeout(within):
            return len(await asyncio.gather(*self.waits))


async def main(name):
    with contextlib.suppress(ValueError, OSError):  # some open a connection for each who waits
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    driver = Driver(importlib.import_module(f"{name}_features"))
    await driver.producer.start()
    print(json.dumps({"answer": "ready"}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        request = json.loads(line)
        try:
            answer = {"answer": await getattr(driver, request.pop("do"))(**request)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
    await driver.producer.stop()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(sys.argv[1]))
