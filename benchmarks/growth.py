"""`--growth`: how the cost of redisjobs grows, without its peers."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import anyio
import redis

from benchmarks import calls
from benchmarks.report import DASH, number, table
from benchmarks.session import SIZE, Session
from benchmarks.systems import SYSTEMS, US, Failed
from redisjobs.drivers.redis.driver import RedisDriver
from redisjobs.local import server
from redisjobs.model.definition import Definition
from redisjobs.model.driver import Beat
from redisjobs.model.stored import Declarer, ListSchedules, Put, PutSchedules
from redisjobs.model.transitions import NewJob
from redisjobs.schedules.schedule import Schedule

Cost = tuple[float, float, float]  # jobs/s; CPU of worker and of server, µs a job
_DRAINED = 20_000  # jobs that are timed, at most
_WITHIN = 100.0  # seconds
_CALLS = 200  # that are averaged


def report(million: bool) -> str:
    """Measure all of it; Markdown. What fails is reported, and the rest goes on."""
    rows: list[list[str]] = []
    for what, how_much, take in _all(1_000_000 if million else 100_000):
        try:
            figures = [number(figure) for figure in take()]
        except Failed as failed:
            print(f"{what}, {how_much}: failed, {failed}", file=sys.stderr, flush=True)
            figures = [DASH] * 3
        rows.append([what, how_much, *figures])
        print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    costs = table(["what", "how much", "jobs/s", "worker CPU, µs a job", "Redis CPU, µs a job"], rows)
    return f"{costs}\n\n{_upkeep()}\n\n{_schedules()}\n\n{calls.report()}"


def _upkeep() -> str:
    """What a worker costs that only lives, however much it and others hold; Markdown."""
    rows = []
    with server.start() as running, redis.Redis.from_url(running.url) as admin:
        for held, workers in ((1, 1), (1_000, 1), (10_000, 1), (1_000, 10), (1_000, 200)):
            admin.flushall()
            rows.append(
                [f"{held:,}", f"{workers:,}", *map(number, anyio.run(_kept_up, running.url, held, workers))]
            )
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    return table(["jobs held", "workers", "a beat, µs of the server", "a look for lost workers, µs"], rows)


def _schedules() -> str:
    """What schedules cost the server, however many there are; Markdown."""
    rows = []
    with server.start() as running, redis.Redis.from_url(running.url) as admin:
        for count in (100, 10_000, 50_000):
            admin.flushall()
            rows.append([f"{count:,}", *map(number, anyio.run(_scheduled, running.url, count))])
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    return table(
        ["schedules", "a page of 500, µs of the server", "250 declared, µs", "a put, µs", "a read of it, µs"],
        rows,
    )


async def _scheduled(url: str, count: int) -> list[float]:
    driver, by = RedisDriver(url, "upkeep"), Declarer("scheduler", "release")
    job = NewJob("", ["name", "noop", "parameters", "{}"])
    made = [Definition(f"schedule-{i}", Schedule.cron("0 0 29 2 *"), job) for i in range(count)]
    puts = [Put.whole(each) for each in made]
    for start in range(0, count, 500):
        await driver.change(PutSchedules(puts[start : start + 500], by))
    before = (await driver.read(ListSchedules(made[0].name))).change
    changed = PutSchedules([Put.whole(replace(made[0], at_most=7))], by)
    figures = []
    calls = (
        *(lambda: driver.read(ListSchedules()), lambda: driver.change(PutSchedules(puts[-250:], by))),
        *(lambda: driver.change(changed), lambda: driver.read(ListSchedules(after=before))),
    )
    with redis.Redis.from_url(url) as admin:
        for call in calls:
            admin.config_resetstat()
            for _ in range(_CALLS):
                await call()
            figures.append(_spent(admin))
    await driver.aclose()
    return figures


async def _kept_up(url: str, held: int, workers: int) -> tuple[float, float]:
    driver = RedisDriver(url, "upkeep")
    for start in range(0, held, 500):
        jobs = [NewJob(f"job-{start + i}", ["name", "hold"]) for i in range(min(500, held - start))]
        await driver.push(jobs, repeated=False)
    consumers = [driver.consumer(f"worker-{i}", lease=15, max_deliveries=3) for i in range(workers)]
    for consumer in consumers:
        await consumer.open()
    taken = 0
    while taken < held:
        for consumer in consumers:
            taken += len((await consumer.exchange([], -(-held // workers))).leases)
    heart = consumers[0].sync
    with redis.Redis.from_url(url) as admin:
        admin.config_resetstat()
        for _ in range(_CALLS):
            heart.beat(Beat(consumers[0], list, {"host": "one"}))
        beat = _spent(admin)
        admin.config_resetstat()
        for _ in range(_CALLS):
            await consumers[0].reclaim()
        look = _spent(admin)
    heart.close()
    for consumer in consumers:
        await consumer.aclose()
    await driver.aclose()
    return beat, look


def _spent(admin: redis.Redis) -> float:
    return float(admin.info("commandstats")["cmdstat_evalsha"]["usec"]) / _CALLS


def _all(many: int) -> Iterator[tuple[str, str, Callable[[], Cost]]]:
    for backlog in (1_000, 10_000, 100_000, *((many,) if many > 100_000 else ())):
        yield "backlog", f"{backlog:,} jobs", partial(_drained, backlog)
    yield "beside running jobs", "10,000", partial(_beside_running, 10_000)
    yield "beside delayed jobs", f"{many:,}", partial(_drained, _DRAINED, delayed=many)
    yield "beside dead letters", "100,000", partial(_beside_dead, 100_000)
    for workers in (1, 2, 4, 8):
        yield "worker processes", str(workers), partial(_drained, _DRAINED * 2, workers=workers)
    for size in (100, 1_000, 10_000, 65_536, 262_144):
        yield "payload", f"{size:,} B", partial(_drained, min(_DRAINED, (64 << 20) // size), size=size)


def _drained(jobs: int, workers: int = 1, size: int = SIZE, delayed: int = 0) -> Cost:
    with Session(SYSTEMS[US]) as session:
        if delayed:
            session.producer.ask("fill_later", job="noop", count=delayed, size=size, seconds=3600)
        session.producer.fill("noop", jobs, size)
        session.start_workers(workers, 100)
        session.arrived(workers)
        return _timed(session, min(jobs, _DRAINED * 2))


def _beside_running(running: int) -> Cost:
    with Session(SYSTEMS[US]) as session:
        session.producer.fill("hold", running)
        session.open_gate()
        session.start_workers(1, running)
        session.wait(lambda counted: counted.jobs >= running, _WITHIN, "jobs that hold on")
        session.close_gate()
        session.producer.fill("noop", _DRAINED)
        session.start_workers(1, 100)
        session.arrived(2)
        return _timed(session, _DRAINED)


def _beside_dead(dead: int) -> Cost:
    with Session(SYSTEMS[US]) as session:
        session.producer.fill("doomed", dead)
        session.open_gate()
        session.start_workers(1, 100)
        session.wait(lambda counted: counted.jobs >= dead, _WITHIN, "jobs that fail")
        time.sleep(0.5)  # the last ones are settled
        session.stop_workers()
        session.close_gate()
        session.producer.fill("noop", _DRAINED)
        session.start_workers(1, 100)
        session.arrived(2)
        return _timed(session, _DRAINED)


def _timed(session: Session, jobs: int) -> Cost:
    before, workers, server = session.counted().jobs, session.cpu(), session.server_cpu()
    opened = time.monotonic_ns()
    session.open_gate()
    done = session.wait(lambda counted: counted.jobs - before >= jobs, _WITHIN, "draining")
    count = done.jobs - before
    return (
        count / ((done.last - opened) / 1e9),
        (session.cpu() - workers) / count * 1e6,
        (session.server_cpu() - server) / count * 1e6,
    )
