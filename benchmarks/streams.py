"""`python -m benchmarks.streams`: chunks of one job to many readers in one process, and how old they are there."""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis

from benchmarks.report import spread, table
from benchmarks.systems import CHECKOUT, Failed
from benchmarks.waiters import percentile
from redisjobs import JobContext, JobName, JobQueue, Worker
from redisjobs.local import server

_QUEUE = "bench"
_WITHIN = 180.0  # seconds
_BURST = 20  # chunks that an unpaced handler emits between two rests of a millisecond


@dataclass(frozen=True)
class Streamed:
    """What came of one round.

    Attributes:
        seconds: From the first chunk that was emitted to the last one that a reader got.
        ages: Seconds from emitting a chunk to a reader that has it, of each chunk and reader; ascending.
        server_cpu: Seconds of the server.
        worker_cpu: Seconds of the worker.
        readers_cpu: Seconds of the process with the readers.
    """

    seconds: float
    ages: list[float]
    server_cpu: float
    worker_cpu: float
    readers_cpu: float


async def work(url: str, chunks: int, rate: float) -> None:
    """Run one job that emits its chunks at this rate a second; 0: about 20 a millisecond."""
    queue = JobQueue(url, _QUEUE)

    @queue.job(name="emit")
    async def emit(context: JobContext) -> None:
        begun = time.monotonic()
        for number in range(1, chunks + 1):
            context.emit(time.time())
            if rate:
                await asyncio.sleep(begun + number / rate - time.monotonic())
            elif number % _BURST == 0:
                await asyncio.sleep(0.001)

    await Worker(queue).run(until_idle=True)
    print(json.dumps({"cpu": time.process_time()}))


async def read(url: str, chunks: int, readers: int) -> None:
    """Push the job, and let readers get its chunks; print when each was emitted and got."""
    ages, last = list[float](), 0.0
    async with JobQueue(url, _QUEUE) as queue:
        handle = await queue.push({}, JobName("emit", dict[str, Any]))
        first = 0.0

        async def one() -> None:
            nonlocal first, last
            got = 0
            async for chunk in handle.stream():
                last, got, first = time.time(), got + 1, first or chunk.data
                ages.append(last - chunk.data)
            if got != chunks:
                raise Failed(f"a reader got {got} of {chunks} chunks")

        await asyncio.gather(*(one() for _ in range(readers)))
    print(json.dumps({"cpu": time.process_time(), "seconds": last - first, "ages": ages}))


def take(chunks: int, readers: int, rate: float) -> Streamed:
    """Let a worker emit chunks, and readers in another process get them.

    Raises:
        Failed: A reader did not get each chunk once, or a process died.
    """
    with (
        server.start(options=("--appendonly", "no")) as running,
        redis.Redis.from_url(running.url) as admin,
    ):
        before = _cpu(admin)
        reading = _process("read", running.url, chunks, readers)
        while not admin.exists(f"redisjobs:{{{_QUEUE}}}:waiters") and reading.poll() is None:
            time.sleep(0.02)
        working = _process("work", running.url, chunks, rate)
        try:
            said = [json.loads(each.communicate(timeout=_WITHIN)[0] or "{}") for each in (reading, working)]
        finally:
            for each in (reading, working):
                each.kill()
        if reading.returncode or working.returncode:
            raise Failed("the readers or the worker failed")
        took = _cpu(admin) - before
    return Streamed(said[0]["seconds"], sorted(said[0]["ages"]), took, said[1]["cpu"], said[0]["cpu"])


def _process(role: str, url: str, chunks: int, number: float) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "benchmarks.streams", role, url, str(chunks), str(number)]
    return subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)


def _cpu(admin: Any) -> float:
    used = admin.info("cpu")
    return float(used["used_cpu_user"] + used["used_cpu_sys"])


def text(chunks: int, readers: int, rate: float, paced: Sequence[Streamed], full: Sequence[Streamed]) -> str:
    """A table; Markdown."""
    kinds = [kind for kind in ((f"{rate:g} emitted a second", paced), ("as fast as they come", full)) if kind[1]]
    rows = [
        ["chunks to readers, 1/s", *(spread([len(one.ages) / one.seconds for one in of], 1.0) for _, of in kinds)],
        ["chunks emitted, 1/s", *(spread([chunks / one.seconds for one in of], 1.0) for _, of in kinds)],
    ]
    for label, part in (("p50", 0.5), ("p99", 0.99), ("most", 1.0)):
        figures = ([percentile(one.ages, part) for one in of] for _, of in kinds)
        rows.append([f"from emit to a reader, {label}, ms", *(spread(each, 1e3) for each in figures)])
    for label, whose in (("server", "server_cpu"), ("worker", "worker_cpu"), ("readers", "readers_cpu")):
        figures = ([getattr(one, whose) / chunks for one in of] for _, of in kinds)
        rows.append([f"CPU of the {label} a chunk, µs", *(spread(each, 1e6) for each in figures)])
    return table([f"{chunks:,} chunks to {readers} readers", *(head for head, _ in kinds)], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; or be one of the processes."""
    given = [*(sys.argv[1:] if arguments is None else arguments)]
    if given[:1] in (["work"], ["read"]):
        role, url, chunks, number = given
        run = work(url, int(chunks), float(number)) if role == "work" else read(url, int(chunks), int(number))
        asyncio.run(run)
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streams", description="Chunks to many readers.")
    parser.add_argument("--chunks", type=int, default=10_000)
    parser.add_argument("--readers", type=int, default=100)
    parser.add_argument("--rate", type=float, default=500.0, help="chunks a second of the paced rounds")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(given)
    paced = [take(options.chunks, options.readers, options.rate) for _ in range(options.rounds)]
    full = [take(options.chunks, options.readers, 0) for _ in range(options.rounds)]
    print(text(options.chunks, options.readers, options.rate, paced, full))


if __name__ == "__main__":
    main()
