"""One process of `python -m benchmarks fleet`: real workers or producers, or stand-ins for many of them.

It takes one JSON object a line, and answers each with what it has counted until then. It ends when its input ends.
"""

import asyncio
import json
import os
import random
import secrets
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypedDict

import uvloop

from benchmarks.fleet_traffic import Timer
from benchmarks.session import SIZE
from redisjobs import JobName, JobQueue, Worker
from redisjobs.drivers.redis import connection, round_trip
from redisjobs.drivers.redis.connection import Connection
from redisjobs.drivers.redis.driver import RedisDriver, push_over
from redisjobs.model import codec
from redisjobs.model.transitions import Ack, Lease, NewJob, Turn

QUEUE, SLOTS, NAP = "bench", 10, 0.02  # a job's 20 ms are what its handler takes
_LEASE, _BLOCK = 15.0, 5.0  # seconds
_TICK = 0.002  # seconds between looks whether to push
_TOGETHER = 50  # connections that are opened at once


class Text(TypedDict):
    """The parameters of a job."""

    text: str


Duty = Callable[[], Coroutine[Any, Any, object]]
Act = Callable[[dict[str, Any]], dict[str, float]]
Role = tuple[Act, list[Duty]]


class Pace:
    """Lets producers push in turn, at a rate that can be changed."""

    def __init__(self, pushes: Sequence[Duty]) -> None:
        self.rate = 0.0  # jobs a second, of all of them
        self.pushed = 0
        self._pushes = random.sample(pushes, len(pushes))

    async def run(self) -> None:
        """Push until cancelled, or a push fails."""
        rate, since, begun = 0.0, 0.0, 0
        async with asyncio.TaskGroup() as tasks:
            while True:
                if rate != self.rate:
                    rate, since, begun = self.rate, time.monotonic(), 0
                due = int((time.monotonic() - since) * rate) - begun
                for _ in range(min(due, len(self._pushes))):
                    begun += 1
                    tasks.create_task(self._push(self._pushes.pop()))
                await asyncio.sleep(_TICK)

    async def _push(self, push: Duty) -> None:
        await push()
        self.pushed += 1
        self._pushes.insert(0, push)


class StandIn:
    """A stand-in for a worker: claims and settles jobs as a worker does, and sends what a worker's timers send.

    It has no slots, handlers, validation, deadlines or recovery: a job is a timer of the event loop.
    """

    def __init__(self, driver: RedisDriver, connections: int) -> None:
        self.settled = 0
        self._id = f"stand-in:{os.getpid()}:{secrets.token_hex(4)}"
        self._consumer = driver.consumer(self._id, lease=_LEASE, max_deliveries=3)
        # A worker has one for exchanges, one that blocks, and one that listens; the rest is for its timers.
        target = driver.target
        self._others = [Connection(driver.commands, target) for _ in range(max(1, connections - 3))]
        self._timers: Sequence[Timer] = ()
        self._changed = asyncio.Event()
        self._done: list[Lease] = []
        self._running, self._number, self._sent = 0, 0, 0
        self._reads, self._acts = asyncio.Event(), asyncio.Event()

    async def open(self) -> None:
        """Join the queue, and open the connections."""
        await self._consumer.open()
        for other in self._others:
            await other.open()

    async def run(self) -> None:
        """Work until cancelled."""
        self._acts.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._exchange())
            tasks.create_task(self._read())
            tasks.create_task(self._consumer.listen(lambda notification: None))
            tasks.create_task(self._repeat())

    def repeat(self, timers: Sequence[Timer]) -> None:
        """Send these from now on."""
        self._timers = timers
        self._changed.set()

    async def _read(self) -> None:
        while True:
            await self._reads.wait()
            leases: Sequence[Lease] = ()
            while not leases:
                leases = await self._consumer.wait(SLOTS - self._running, _BLOCK)
            self._reads.clear()
            self._start(leases)
            self._acts.set()

    async def _exchange(self) -> None:
        while True:
            await self._acts.wait()
            self._acts.clear()
            free = 0 if self._reads.is_set() else SLOTS - self._running
            if not (self._done or free):
                continue
            done, self._done = self._done, []
            self._number += 1
            settlements = [(lease, Ack()) for lease in done]
            answer = await self._consumer.exchange(settlements, free or None, turn=Turn(1, self._number))
            self.settled += len(done)
            self._start(answer.leases)
            if free and not answer.more:
                self._reads.set()
            if self._done or (free and answer.more):
                self._acts.set()

    def _start(self, leases: Sequence[Lease]) -> None:
        self._running += len(leases)
        for lease in leases:
            asyncio.get_running_loop().call_later(NAP, self._end, lease)

    def _end(self, lease: Lease) -> None:
        self._running -= 1
        self._done.append(lease)
        self._acts.set()

    async def _repeat(self) -> None:
        while True:
            self._changed.clear()
            next_at = {timer: time.monotonic() + random.random() * timer.every for timer in self._timers}
            while not self._changed.is_set():
                timer = min(next_at, key=lambda each: next_at[each], default=None)
                until = next_at[timer] - time.monotonic() if timer else None
                try:
                    async with asyncio.timeout(until if until is None else max(0.0, until)):
                        await self._changed.wait()
                except TimeoutError:
                    assert timer is not None
                    self._sent += 1
                    await self._others[0].run(timer.command(self._id, self._sent))
                    next_at[timer] += timer.every


def _count_commands() -> list[int]:
    """Count from now on what this process sends; the first number of the list."""
    counted, pack = [0], round_trip.packed

    def packed(wires: Sequence[Any]) -> bytes:
        counted[0] += len(wires)
        return pack(wires)

    connection.packed = packed  # type: ignore[attr-defined]  # it has imported that name
    return counted


async def _gather(calls: Sequence[Duty]) -> None:
    room = asyncio.Semaphore(_TOGETHER)

    async def one(call: Duty) -> None:
        async with room:
            await call()

    await asyncio.gather(*map(one, calls))


async def stand_in_workers(url: str, count: int, connections: int) -> Role:
    """Return stand-ins for workers that have joined."""
    counted, driver = _count_commands(), RedisDriver(url, QUEUE)
    members = [StandIn(driver, connections) for _ in range(count)]
    await _gather([member.open for member in members])

    def act(asked: dict[str, Any]) -> dict[str, float]:
        if "timers" in asked:
            timers = [Timer(timer["name"], timer["every"], tuple(timer["words"])) for timer in asked["timers"]]
            for member in members:
                member.repeat(timers)
        return {"commands": counted[0], "jobs": sum(member.settled for member in members)}

    return act, [member.run for member in members]


async def stand_in_producers(url: str, count: int) -> Role:
    """Return stand-ins for producers, each with a connection of its own that is open."""
    driver = RedisDriver(url, QUEUE)
    links = [Connection(driver.commands, driver.target, checks_server=True) for _ in range(count)]
    await _gather([link.open for link in links])
    fields = ["name", "work", "parameters", json.dumps({"text": "x" * SIZE})]

    def pushes(link: Connection) -> Duty:
        return lambda: push_over(link, driver.commands, [NewJob(codec.new_job_id(), fields)], False, float("inf"))

    return _paced([pushes(link) for link in links])


async def real_producers(url: str, count: int) -> Role:
    """Return real producers, each with a connection of its own that is open."""
    queues = [JobQueue(url, QUEUE) for _ in range(count)]
    await _gather([queue.control.counts for queue in queues])
    name = JobName("work", Text)

    def pushes(queue: JobQueue) -> Duty:
        return lambda: queue.push({"text": "x" * SIZE}, name)

    return _paced([pushes(queue) for queue in queues])


def _paced(pushes: Sequence[Duty]) -> Role:
    counted, pace = _count_commands(), Pace(pushes)

    def act(asked: dict[str, Any]) -> dict[str, float]:
        pace.rate = asked.get("rate", pace.rate)
        return {"commands": counted[0], "jobs": pace.pushed}

    return act, [pace.run]


async def real_worker(url: str, nap: float, slots: int) -> Role:
    """Return a real worker; its jobs take `nap` seconds."""
    queue = JobQueue(url, QUEUE)

    async def work(text: str) -> None:
        if nap:
            await asyncio.sleep(nap)

    queue.job(work)
    return (lambda asked: {}), [Worker(queue, concurrency=slots).run]


ROLES: dict[str, Callable[..., Awaitable[Role]]] = {
    role.__name__: role for role in (stand_in_workers, stand_in_producers, real_producers, real_worker)
}


async def main(role: str, url: str, *numbers: str) -> None:
    """Be that process."""
    act, duties = await ROLES[role](url, *map(json.loads, numbers))

    async def answer() -> None:
        print(json.dumps({}), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(act(json.loads(line))), flush=True)
        os._exit(0)  # nothing is to be settled: the server ends, too

    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(answer())
            for duty in duties:
                tasks.create_task(duty())
    except ExceptionGroup:
        traceback.print_exc()
        os._exit(1)  # an ordinary exit would wait for the thread that reads the input


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
