"""The measures: each starts a session of its own and returns figures by the name of their row."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.session import SIZE, Session
from benchmarks.systems import FLOOR, System

Figures = dict[str, float]
TIMES = "\N{MULTIPLICATION SIGN}"
_DRAIN_WITHIN, _SETTLE = 60.0, 0.1  # seconds


@dataclass(frozen=True)
class Amount:
    """How much is done in each measure."""

    drain: int = 20_000  # jobs, for a system of scale 1
    push: int = 2_000
    push_fast: int = 6_000
    latency: int = 150
    delayed: int = 100
    idle: float = 10.0  # seconds
    naps: int = 6_000


QUICK = Amount(drain=12_000, push=1_000, push_fast=4_000, latency=80, delayed=40, idle=5.0, naps=2_000)


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        key: The figure's name.
        label: What it is, for people.
        unit: Of the figures as they are shown; `scale` is what they are multiplied by for that.
        better: Whether `more` or `less` is better.
        must: What must hold: `best` (times the best peer's), `floor` (times the floor's), or `limit` (as shown).
        bound: The number that goes with it.
    """

    key: str
    label: str
    unit: str
    better: Literal["more", "less"]
    must: Literal["best", "floor", "limit", ""]
    bound: float = 1.0
    scale: float = 1.0


ROWS = (
    Row("drain_1", "drain, 1 worker process", "jobs/s", "more", "best", 1.15),
    Row("drain_2", "drain, 2 worker processes", "jobs/s", "more", "best", 1.15),
    Row("drain_untuned", "drain, nothing tuned", "jobs/s", "more", "best", 1.0),
    Row("worker_cpu", "worker CPU a job", "µs", "less", "limit", 14, 1e6),
    Row("server_cpu", "Redis CPU a job, drain only", "µs", "less", "limit", 16, 1e6),
    Row("push_async", "push one by one, async (floor: PING)", "jobs/s", "more", "best", 0.85),
    Row("push_sync", "push one by one, sync (floor: PING)", "jobs/s", "more", "best", 0.85),
    Row("push_flight", "push, 100 in flight (floor: XADD)", "jobs/s", "more", "best", 1.3),
    Row("push_bulk", "bulk push", "jobs/s", "more", "best", 1.25),
    Row("latency_p50", "idle → start, p50", "ms", "less", "floor", 1.05, 1e3),
    Row("latency_p99", "idle → start, p99", "ms", "less", "best", 1.0, 1e3),
    Row("late_p50", "lateness of delayed jobs, p50", "ms", "less", "limit", 2, 1e3),
    Row("late_p99", "lateness of delayed jobs, p99", "ms", "less", "limit", 10, 1e3),
    Row("memory", "Redis memory a queued job", "B", "less", "limit", 340),
    Row("left", "left in Redis per finished job, for good", "B", "less", "limit", 0.5),
    Row("left_expiring", "the same, in keys that expire", "B", "less", ""),
    Row("idle_commands", "idle worker, Redis commands", "1/s", "less", "limit", 0.5),
    Row("naps", "10 ms jobs, concurrency 100, time ÷ ideal", TIMES, "less", "limit", 1.1),
    Row("resident", "worker RSS after a drain", "MB", "less", "limit", 48, 1e-6),
)


def drain(system: System, amount: Amount) -> Figures:
    """One worker process drains a full queue."""
    jobs = _jobs(system, amount)
    with Session(system) as session:
        before = session.server_memory()
        session.producer.fill("noop", jobs)
        session.producer.stop()  # its connections are no memory of a job's
        queued = session.server_memory() - before
        figures = _drain(session, 1, jobs)
        figures["resident"] = session.resident()
        session.stop_workers()
        stay, end = _key_memory(session.redis)
        return figures | {
            "memory": queued / jobs,
            "left": stay / jobs,
            "left_expiring": end / jobs,
            "drain_1": figures.pop("drain"),
        }


def drain_two(system: System, amount: Amount) -> Figures:
    """Two worker processes drain a full queue."""
    jobs = _jobs(system, amount)
    with Session(system) as session:
        session.producer.fill("noop", jobs)
        return {"drain_2": _drain(session, 2, jobs)["drain"]}


def drain_untuned(system: System, amount: Amount) -> Figures:
    """Workers drain a full queue that were started with no option that makes them faster."""
    if system.name == FLOOR:
        return {}
    jobs = _jobs(system, amount)
    with Session(system) as session:
        session.producer.fill("noop", jobs)
        session.start_untuned_workers()
        session.all_arrived()
        return {"drain_untuned": _drained(session, 1, jobs)["drain"]}


def push(system: System, amount: Amount) -> Figures:
    """A producer pushes, with no worker about."""
    figures: Figures = {}
    with Session(system) as session:
        many = int(amount.push_fast * max(system.scale, 0.5))
        for key, do, count in (("push_async", "one_by_one", amount.push), ("push_sync", "sync", amount.push)):
            seconds = session.producer.ask(do, job="noop", count=count, size=SIZE)
            if seconds is not None:
                figures[key] = count / seconds
        seconds = session.producer.ask("in_flight", job="noop", count=many, size=SIZE, width=100)
        figures["push_flight"] = many / seconds
        filled = session.producer.fill("noop", many)
        if filled["bulk"]:
            figures["push_bulk"] = many / filled["seconds"]
    return figures


def latency(system: System, amount: Amount) -> Figures:
    """Jobs come one at a time to a worker that has nothing else to do; then some that are delayed."""
    with Session(system) as session:
        session.open_gate()
        session.start_workers()
        session.producer.ask("latency", count=15, size=SIZE)  # the worker is up and warm
        session.clear_stamps()
        session.producer.ask("latency", count=amount.latency, size=SIZE)
        figures = _percentiles("latency", session.stamps())
        session.clear_stamps()
        if system.name != FLOOR and session.producer.ask(
            "delayed", count=amount.delayed, size=SIZE, shortest=0.3, longest=1.3
        ):
            session.producer.ask("stamped", count=amount.delayed, within=10)
            figures |= _percentiles("late", session.stamps())
    return figures


def idle(system: System, amount: Amount) -> Figures:
    """A worker with nothing to do."""
    with Session(system) as session:
        session.open_gate()
        session.start_workers()
        session.producer.ask("latency", count=1, size=SIZE)
        session.producer.stop()
        time.sleep(1)
        return {"idle_commands": sum(session.watched(amount.idle).values()) / amount.idle}


def naps(system: System, amount: Amount) -> Figures:
    """Jobs of 10 ms, 100 at once: how much longer they take than they must."""
    with Session(system) as session:
        session.producer.fill("nap", amount.naps)
        session.start_workers(concurrency=100)
        session.arrived(1)
        session.open_gate()
        ideal = (amount.naps - 100) / 100 * 0.01  # the first of each slot have slept when the gate opens
        done = session.wait(lambda counted: counted.jobs >= amount.naps, _DRAIN_WITHIN, "naps")
        return {"naps": done.seconds / ideal}


MEASURES: dict[str, Callable[[System, Amount], Figures]] = {
    "drain": drain,
    "drain2": drain_two,
    "untuned": drain_untuned,
    "push": push,
    "latency": latency,
    "idle": idle,
    "naps": naps,
}


def _key_memory(client: Any) -> tuple[int, int]:
    """Bytes in keys that stay, and in keys that end by themselves."""
    stay, end = 0, 0
    for key in client.scan_iter(count=1000):
        size = int(client.memory_usage(key, samples=0) or 0)
        if int(client.pttl(key)) >= 0:
            end += size
        else:
            stay += size
    return stay, end


def _jobs(system: System, amount: Amount) -> int:
    return int(amount.drain * system.scale)


def _drain(session: Session, processes: int, jobs: int) -> Figures:
    session.start_workers(processes)
    return _drained(session, processes, jobs)


def _drained(session: Session, processes: int, jobs: int) -> Figures:
    session.arrived(processes)
    worker_cpu, server_cpu = session.cpu(), session.server_cpu()
    session.open_gate()
    done = session.wait(lambda counted: counted.jobs >= jobs, _DRAIN_WITHIN, "draining")
    time.sleep(_SETTLE)  # the last ones are settled
    return {
        "drain": jobs / done.seconds,
        "worker_cpu": (session.cpu() - worker_cpu) / jobs,
        "server_cpu": (session.server_cpu() - server_cpu) / jobs,
    }


def _percentiles(name: str, seconds: list[float]) -> Figures:
    ordered = sorted(seconds)
    return {
        f"{name}_p50": ordered[len(ordered) // 2],
        f"{name}_p99": ordered[math.ceil(len(ordered) * 0.99) - 1],
    }
