"""`--fleet`: many workers on one server, simulated: tasks in a few processes, connections of their own."""

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.report import number, table
from benchmarks.session import Session
from benchmarks.systems import PEERS, SYSTEMS, US, Failed
from redisjobs.drivers.redis import scripts

_PROCESSES, _JOBS = 4, 20_000
_IDLE, _WITHIN = 10.0, 60.0  # seconds


def report(workers: int) -> str:
    """Let a fleet be idle, then busy, and say what it asked of the server; Markdown."""
    with Session(SYSTEMS[US]) as session, _members(session, workers) as members:
        _wait_for(lambda: _alive(session) >= workers, f"{workers} workers")
        session.producer.fill("noop", workers)  # all are warm
        _wait_for(lambda: _done(session) >= workers, "the first jobs")
        session.producer.stop()
        idle_cpu = session.server_cpu()
        idle = session.watched(_IDLE)
        idle_cpu = (session.server_cpu() - idle_cpu) / _IDLE
        with session.monitored() as busy:
            started, busy_cpu = time.monotonic(), session.server_cpu()
            session.producer.fill("noop", _JOBS)
            _wait_for(lambda: _done(session) >= workers + _JOBS, "the jobs")
            seconds = time.monotonic() - started
            busy_cpu = session.server_cpu() - busy_cpu
        counts = _finish(members)
    rows = [
        ["idle: commands of clients, 1/s", number(sum(idle.values()) / _IDLE)],
        ["idle: the same a worker, 1/s", number(sum(idle.values()) / _IDLE / workers)],
        ["idle: reclaim calls, 1/s", number(_calls(idle, "reclaim") / _IDLE)],
        ["idle: server's CPU, MONITOR's in it, % of a core", number(idle_cpu * 100)],
        ["busy: jobs/s (each sleeps 0.1 s; MONITOR is on)", number(_JOBS / seconds)],
        ["busy: commands of clients, the producer's in it, 1/s", number(sum(busy.counts.values()) / seconds)],
        ["busy: the same a job", number(sum(busy.counts.values()) / _JOBS)],
        ["busy: reclaim calls, 1/s", number(_calls(busy.counts, "reclaim") / seconds)],
        ["busy: server's CPU, the push's and MONITOR's in it, µs a job", number(busy_cpu / _JOBS * 1e6)],
        ["jobs a worker: least", str(min(counts))],
        ["jobs a worker: median", number(statistics.median(counts))],
        ["jobs a worker: most", str(max(counts))],
    ]
    calls = sorted(_by_script(idle).items(), key=lambda item: -item[1])
    said = ", ".join(f"{name} {count / _IDLE:.3g}" for name, count in calls)
    return table([f"{workers} workers in {_PROCESSES} processes", ""], rows) + f"\n\nIdle, calls a second: {said}"


@contextmanager
def _members(session: Session, workers: int) -> Iterator[list[subprocess.Popen[str]]]:
    members: list[subprocess.Popen[str]] = []
    system = session.system
    try:
        for number_of in range(_PROCESSES):
            count = workers // _PROCESSES + (number_of < workers % _PROCESSES)
            members.append(
                subprocess.Popen(
                    [str(system.programs / "python"), "fleet_jobs.py", str(count)],
                    cwd=PEERS,
                    env=system.environment(session.server.url, session.meter, 10),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
        yield members
    finally:
        for member in members:
            if member.poll() is None:
                member.kill()
            member.communicate()


def _finish(members: list[subprocess.Popen[str]]) -> list[int]:
    for member in members:
        if member.stdin:
            member.stdin.close()
            member.stdin = None  # or `communicate` would close it again
    try:
        return [count for member in members for count in json.loads(member.communicate(timeout=30)[0])]
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise Failed(f"the fleet did not end well: {error}") from error


def _alive(session: Session) -> int:
    return int(session.redis.zcard("redisjobs:{bench}:workers"))


def _done(session: Session) -> int:
    return int(session.redis.hget("redisjobs:{bench}:stats", "completed") or 0)


def _wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _WITHIN
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"{what} did not come within {_WITHIN:g} s")
        time.sleep(0.05)


def _by_script(counts: dict[str, int]) -> dict[str, int]:
    """Calls by the script's name where it is one."""
    names = {f"evalsha {scripts.script(name).sha}": name for name in scripts.names()}
    named: dict[str, int] = {}
    for command, count in counts.items():
        name = names.get(command, command.partition(" ")[0])
        named[name] = named.get(name, 0) + count
    return named


def _calls(counts: dict[str, int], script: str) -> int:
    return _by_script(counts).get(script, 0)
