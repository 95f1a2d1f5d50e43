"""`python -m benchmarks postgres`: redisjobs on Postgres beside other queues on Postgres."""

import argparse
import itertools
import shlex
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from benchmarks import report
from benchmarks.measures import Figures, Row
from benchmarks.postgres_systems import ON_POSTGRES, OnPostgres, PostgresSession
from benchmarks.report import DASH, Run, number, spread, table
from benchmarks.results import attach, keep
from benchmarks.rounds import installed, measure
from benchmarks.session import SIZE
from benchmarks.systems import US, python, python_version
from redisjobs.local import postgres_server

Edge = tuple[float, int]
"""A time, and how many jobs are done by then."""

_PEERS = tuple(name for name in ON_POSTGRES if name != US)
_DRAIN_WITHIN, _SETTLE, _WARM = 120.0, 0.3, 3.0  # seconds
_WINDOWS = 10  # of a held snapshot
_STEP, _BACKLOG = 2_000, 6_000  # jobs that are pushed at once, and that wait in a steady run
_FEWEST = 1_000  # jobs in a drain of a slow system

ROWS = (
    Row("drain", "drain, 1 worker process", "jobs/s", "more", ""),
    Row("worker_cpu", "worker CPU a job", "µs", "less", "", scale=1e6),
    Row("server_cpu", "Postgres CPU a job, drain only", "µs", "less", "", scale=1e6),
    Row("push_async", "push one by one, async", "jobs/s", "more", ""),
    Row("push_sync", "push one by one, sync", "jobs/s", "more", ""),
    Row("push_many", "push many", "jobs/s", "more", ""),
    Row("queued_tables", "table of a queued job", "B", "less", ""),
    Row("queued_indexes", "indexes of a queued job", "B", "less", ""),
    Row("idle", "idle worker, statements", "1/s", "less", ""),
    Row("flow", "push and drain, steady", "jobs/s", "more", ""),
    Row("left_tables", "tables after these jobs", "MB", "less", "", scale=1e-6),
    Row("left_indexes", "indexes after these jobs", "MB", "less", "", scale=1e-6),
    Row("held_first", "held snapshot: first window", "jobs/s", "more", ""),
    Row("held_last", "held snapshot: last window", "jobs/s", "more", ""),
    Row("held_kept", "held snapshot: last window, of the first", "%", "more", "", scale=100),
    Row("held_dead", "held snapshot: dead rows at its end", "", "less", ""),
)


# Measuring


def drain(system: OnPostgres, jobs: float) -> Figures:
    """One worker process drains a full queue."""
    jobs = max(int(jobs * system.scale), _FEWEST)
    with PostgresSession(system) as session:
        before = session.sizes()
        filled = session.producer.fill("noop", jobs)
        session.producer.stop()
        tables, indexes = (after - empty for after, empty in zip(session.sizes(), before, strict=True))
        session.start_workers()
        session.arrived(1)
        worker_cpu, server_cpu = session.cpu(), session.server_cpu()
        session.open_gate()
        done = session.wait(lambda counted: counted.jobs >= jobs, _DRAIN_WITHIN, "draining")
        time.sleep(_SETTLE)  # the last ones are settled
        return {
            "drain": jobs / done.seconds,
            "worker_cpu": (session.cpu() - worker_cpu) / jobs,
            "server_cpu": (session.server_cpu() - server_cpu) / jobs,
            "push_many": jobs / filled["seconds"],
            "queued_tables": tables / jobs,
            "queued_indexes": indexes / jobs,
        }


def push(system: OnPostgres, jobs: float) -> Figures:
    """A producer pushes one job after the other, with no worker about."""
    figures: Figures = {}
    count = int(jobs)
    with PostgresSession(system) as session:
        for key, do in (("push_async", "one_by_one"), ("push_sync", "sync")):
            seconds = session.producer.ask(do, job="noop", count=count, size=SIZE)
            if seconds is not None:
                figures[key] = count / seconds
    return figures


def idle(system: OnPostgres, seconds: float) -> Figures:
    """A worker with nothing to do."""
    with PostgresSession(system) as session:
        session.open_gate()
        session.start_workers()
        session.producer.fill("noop", 1)
        session.arrived(1)
        session.producer.stop()
        time.sleep(_WARM)
        with session.statements() as said:
            time.sleep(seconds)
        return {"idle": len(said) / seconds}


def sizes(system: OnPostgres, jobs: float) -> Figures:
    """Jobs go through a queue that never holds many; what its tables and indexes take when all are done."""
    jobs = max(int(jobs * system.scale), _FEWEST)
    with PostgresSession(system) as session:
        session.open_gate()
        session.start_workers()
        flow = [edge for edge in steady(session, jobs) if edge[1]]  # from when the worker is up
        session.stop_workers()
        tables, indexes = session.sizes()
        return {"flow": _rate(flow[0], flow[-1]), "left_tables": tables, "left_indexes": indexes}


def held(system: OnPostgres, seconds: float) -> Figures:
    """The same for some time, while a snapshot is held."""
    with PostgresSession(system) as session:
        session.open_gate()
        session.start_workers()
        flow = steady(session)
        _until(flow, time.monotonic() + _WARM)
        with session.snapshot():
            started = time.monotonic()
            edges = [_until(flow, started + number * seconds / _WINDOWS) for number in range(_WINDOWS + 1)]
            session.producer.stop()
            time.sleep(_SETTLE)
            dead = session.dead_rows()
    rates = [_rate(start, end) for start, end in itertools.pairwise(edges)]
    _say(f"{system.name}, held snapshot, jobs/s in each tenth: {', '.join(number(rate) for rate in rates)}")
    return {
        "held_first": rates[0],
        "held_last": rates[-1],
        "held_kept": rates[-1] / rates[0],
        "held_dead": dead,
    }


def steady(session: PostgresSession, jobs: int | None = None) -> Iterator[Edge]:
    """Push whenever few jobs wait; yield the time and how many are done, again and again.

    Args:
        session: Where.
        jobs: How many to push in all; without end by default.
    """
    pushed = done = 0
    while jobs is None or done < jobs:
        left = _STEP if jobs is None else min(_STEP, jobs - pushed)
        if left > 0 and pushed - done < _BACKLOG - _STEP:
            session.producer.fill("noop", left)
            pushed += left
        else:
            _wait_for_more(session, done)
        done = session.counted().jobs
        yield time.monotonic(), done


def _rate(start: Edge, end: Edge) -> float:
    return (end[1] - start[1]) / (end[0] - start[0])


def _wait_for_more(session: PostgresSession, done: int) -> None:
    session.wait(lambda counted: counted.jobs > done, _DRAIN_WITHIN, "a steady run")


def _until(flow: Iterator[Edge], end: float) -> Edge:
    return next((at, done) for at, done in flow if at >= end)


# The table


def text(run: Run) -> str:
    """The medians, with the least and the most, and ours by each peer's; Markdown."""
    names = [name for name in ON_POSTGRES if name in run.versions]
    peers = [name for name in names if name != US]
    rows = [
        [
            f"{row.label}, {row.unit}".rstrip(", "),
            *(spread(run.samples[row.key].get(name, ()), row.scale) for name in names),
            *(_ratio(run, row, peer) for peer in peers),
        ]
        for row in ROWS
        if row.key in run.samples
    ]
    return table(["", *names, *(f"{US} ÷ {peer}" for peer in peers)], rows)


def part(run: Run, words: Sequence[str]) -> str:
    """What was measured, where and how, with the table; Markdown."""
    repeat = f"To repeat it: `{shlex.join(['python', '-m', 'benchmarks', 'postgres', *words])}`."
    systems = [f"{name} {version} ({ON_POSTGRES[name].setup})" for name, version in run.versions.items()]
    failed = [f"Not measured: {system}, {what}: {reason}" for system, what, reason in run.failures]
    head = f"{run.date}, {run.rounds} rounds, {run.machine}, {run.server}. {repeat}"
    return "\n\n".join([head, f"{', '.join(systems)}.", text(run), *failed])


def _ratio(run: Run, row: Row, peer: str) -> str:
    """The median of the rounds' ratios: machine noise meets both systems of a round."""
    ours, theirs = run.samples[row.key].get(US, ()), run.samples[row.key].get(peer, ())
    ratios = [one / other for one, other in zip(ours, theirs, strict=False) if other]
    return number(statistics.median(ratios)) if ratios else DASH


# The command


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks postgres", description=__doc__)
    parser.add_argument("--peers", metavar="A,B", help=f"beside these only, of {', '.join(_PEERS)}; '' for none")
    parser.add_argument("--jobs", type=int, default=20_000, help="in each drain; slower systems get less (20000)")
    parser.add_argument("--rounds", type=int, default=5, help="of drain and push (5)")
    parser.add_argument("--idle", metavar="S", type=float, default=30.0, help="seconds of an idle worker (30)")
    parser.add_argument("--sizes", metavar="N", type=int, default=100_000, help="jobs before sizes (100000)")
    parser.add_argument("--held", metavar="S", type=float, default=60.0, help="seconds of a held snapshot (60)")
    parser.add_argument("--fsync", action="store_true", help="let the server wait for its disk")
    parser.add_argument("--docs", action="store_true", help="put it on the page docs/benchmarks.md")
    options = parser.parse_args(words)
    peers = _PEERS if options.peers is None else [one.strip() for one in options.peers.split(",") if one.strip()]
    if unknown := [name for name in peers if name not in _PEERS]:
        parser.error(f"no such peer: {', '.join(unknown)}; there are {', '.join(_PEERS)}")
    if min(options.rounds, options.jobs, options.idle, options.sizes, options.held) < 0:
        parser.error("no number may be below 0; 0 leaves a measure out")
    options.systems = [replace(ON_POSTGRES[name], is_durable=options.fsync) for name in (US, *peers)]
    return options


def main(words: Sequence[str]) -> int:
    """The command; its exit code."""
    options = arguments(words)
    used = python()
    run = Run(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        quick=False,
        rounds=options.rounds,
        machine=f"{report.machine()}, {python_version(used)}",
        server=postgres_server.find().description,
    )
    systems = installed(options.systems, run, used, _say)
    amounts = {drain: options.jobs, push: options.jobs // 10}
    once = {idle: options.idle, sizes: options.sizes, held: options.held}
    for take, amount in (amounts | once).items():
        run.rounds = 1 if take in once else options.rounds
        if amount:
            measure(systems, {take.__name__: take}, run, amount, _say)
    run.rounds = options.rounds
    run.server += "" if options.fsync else ", fsync off"
    said = part(run, words)
    print(said)
    if options.docs:
        attach("postgres" if len(run.versions) > 1 else "postgres_alone", said)
    _say(str(keep(run.as_json(), run.date, "postgres")))
    return 0 if US in run.versions else 1


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
