"""A separate test: a server loses its data while workers and a producer go on.

The jobs on it are lost. Jobs pushed from then on must run once, and the limit and the schedule that the workers'
code declares must hold again. No worker may end or get stuck.
"""

import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from redisjobs.errors import DriverError
from redisjobs.events.recording import Line, Recording
from redisjobs.local import server
from redisjobs_proof.torture.checks import lines
from redisjobs_proof.torture.checks.histories import histories_of
from redisjobs_proof.torture.checks.limits import over_the_limit
from redisjobs_proof.torture.fleet import jobs, schedules
from redisjobs_proof.torture.fleet.fleet import Fleet
from redisjobs_proof.torture.fleet.hosts import Kind
from redisjobs_proof.torture.fleet.redis_store import RedisStore, on_redis
from redisjobs_proof.torture.monitor import Monitor
from redisjobs_proof.torture.nemesis import System

_WITHIN = 60.0  # seconds for each step
_LEASE = 2.0
_KINDS = (Kind(), Kind(("--processes", "2"), processes=2))
_TIMES = 2  # losses by each way


def lose_data(directory: Path, seed: int) -> list[str]:
    """Run the test; return what went wrong, in words."""
    directory.mkdir()
    rng = random.Random(f"{seed} data loss")
    with server.start(options=("--appendonly", "no")) as own:
        store = RedisStore(own.url, "torture-data-loss")
        fleet = Fleet([own.url], store.queue.name, directory, _LEASE, rng, kinds=_KINDS)
        system = System(fleet, [store], _LEASE, own=own, rng=rng)
        monitor = Monitor(system, Recording(directory), lambda line: None)
        pushed, wrong = list[str](), list[str]()
        try:
            with fleet:
                fleet.start()
                if not monitor.until(lambda: fleet.complete, _WITHIN):
                    return [f"the workers did not start in {_WITHIN:g} s:\n{fleet.log_end()}"]
                for lose in rng.sample((_flush, _restart) * _TIMES, 2 * _TIMES):
                    _push(system)
                    time.sleep(rng.uniform(0, 1))
                    began = time.time()
                    lose(system)
                    system.note("fault", began=began, db=0, forgets_deliveries=True)
                    wrong += _look_after(monitor, system, after := _push(system))
                    pushed += after
                fleet.dismiss()
            wrong += [*fleet.unasked, *fleet.complaints()]
        finally:
            store.close()
    return [f"on a server that lost its data: {what}" for what in [*wrong, *_judge(directory, system, pushed)]]


def _flush(system: System) -> None:
    on_redis(system.store).run("FLUSHALL")


def _restart(system: System) -> None:
    assert system.own is not None
    system.own.kill()
    system.own.restart()


def _push(system: System) -> list[str]:
    """Push jobs that run at once, jobs that wait in line, and delayed jobs; return their ids."""
    kinds = [jobs.Work(system.rng.uniform(0, 1)) for _ in range(10)]
    limited = [jobs.Limited(number % 2, 0.1) for number in range(20)]
    pushed = list[str]()
    for each in system.rng.sample([*kinds, *limited], len(kinds) + len(limited)):
        delay = system.rng.choice((0, 0, 0, 0.5))
        until = time.monotonic() + _WITHIN
        while True:
            try:
                pushed.append(system.push(each, delay=delay))
                break
            except DriverError:  # the first call after a restart finds its connection closed
                if time.monotonic() > until:
                    raise
    return pushed


def _look_after(monitor: Monitor, system: System, pushed: Sequence[str]) -> list[str]:
    """Wait until these jobs have ended and the declarations hold again; return what is missing."""
    store, left, missing = system.store, list(pushed), list[str]()

    def all_ended() -> bool:
        while left and store.queue.get(left[-1]) is None:
            left.pop()
        return not left

    if not monitor.until(all_ended, _WITHIN):
        missing.append(f"{len(left)} jobs had not ended after {_WITHIN:g} s, as {left[-1]}")
    if not monitor.until(lambda: _has_limit(system), _WITHIN):
        missing.append("the declared limit is not there again")
    if not monitor.until(lambda: not any(schedules.ALL in what for what in schedules.behind(store)), _WITHIN):
        missing.append("the declared schedule does not fire again")
    return missing


def _has_limit(system: System) -> bool:
    store = on_redis(system.store)
    return bool(store.run("HEXISTS", f"{store.prefix}limits", jobs.Limited.job_name))


def _judge(directory: Path, system: System, pushed: Sequence[str]) -> list[str]:
    """Return which jobs pushed after a loss did not run exactly once, and where a limit did not hold."""
    notes = Recording(directory)
    for note in system.notes:
        notes.write(note)
    told: list[Line] = sorted(lines.read(directory), key=lambda line: line["at"])
    starts = Counter(line["job"] for line in told if line["what"] == "start")
    wrong = [f"{job} was started {starts[job]} times" for job in pushed if starts[job] != 1]
    return [*wrong, *over_the_limit(histories_of(told), told)]
