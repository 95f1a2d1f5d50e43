"""`python -m benchmarks.schedules`: schedulers under faults, each slot counted; and what they cost when idle."""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import redis

from benchmarks.report import number, table
from benchmarks.scheduler_process import SELDOM, Tick
from benchmarks.stepped_server import SteppedServer
from benchmarks.systems import CHECKOUT, Failed
from redisjobs import Schedule
from redisjobs.events.recording import Line
from redisjobs.local import server
from redisjobs.model.stored import ScheduleInfo
from redisjobs.sync import JobQueue
from redisjobs_proof.torture.checks import lines
from redisjobs_proof.torture.checks.histories import histories_of
from redisjobs_proof.torture.checks.slots import misfired
from redisjobs_proof.torture.fleet.final import FinalState

_QUEUE = "bench"
_SCHEDULERS = 3
_AWAY = 2.0  # seconds that the server is away
_FROZEN = 20.0  # seconds that a scheduler is stopped by SIGSTOP, in a run of two minutes or longer
_AHEAD, _BEHIND = 7.0, -5.0  # seconds by which the server's clock is set
_LEAST = 0.5  # slots a second that have to be fired, or nothing was put to the test
_IDLE_SCHEDULES, _IDLE_SCHEDULERS = 200, 5
_SETTLED = 3.0  # seconds until schedulers that listen have read what there is
_WITHIN = 30.0  # seconds
_BY_CLIENTS = {"evalsha", "eval", "ping", "subscribe", "hello", "info", "client|setinfo", "config|resetstat"}
"""Commands that no script of ours runs."""

Act = tuple[float, Callable[[], str]]
"""What is done when, in seconds from the beginning; it says what it did."""


class Processes:
    """Processes on one queue: schedulers, and a worker. A context manager that ends them.

    Args:
        url: Of the server.
        folder: For what they write down.

    Attributes:
        queue: The queue.
        schedulers: Those that fire.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.queue = JobQueue(url, _QUEUE)
        self.queue.register(Tick)(lambda _: None)
        self.schedulers: list[subprocess.Popen[bytes]] = []
        self._url, self._folder = url, folder
        self._all: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for process in self._all:
            process.kill()
            process.wait()
        self.queue.close()

    def start_worker(self) -> None:
        """Start one that runs the jobs, and wait until it listens."""
        self._start("worker")
        self._wait()

    def start_schedulers(self, count: int, seldom: int = -1) -> None:
        """Start this many that fire, and wait until they listen; `seldom`: see `scheduler_process.scheduler`."""
        self.schedulers += [self._start("scheduler", str(seldom)) for _ in range(count)]
        self._wait()

    def _start(self, role: str, *more: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "benchmarks.scheduler_process", role, self._url, _QUEUE]
        with open(self._folder / "processes.log", "ab") as log:
            process = subprocess.Popen([*command, str(self._folder), *more], cwd=CHECKOUT, stdout=log, stderr=log)
        self._all.append(process)
        return process

    def _wait(self) -> None:
        living = sum(process.poll() is None for process in self._all)
        with redis.Redis.from_url(self._url) as client:
            channel = f"redisjobs:{{{_QUEUE}}}:control:0"
            _wait_for(lambda: client.pubsub_numsub(channel)[0][1] >= living, f"{living} processes")


# Under faults


def endure(seconds: float, say: Callable[[str], None]) -> list[str]:
    """Let schedulers fire each second while they and the server are harmed.

    Returns:
        What is wrong, in words.
    """
    with tempfile.TemporaryDirectory(prefix="redisjobs-bench-") as name, SteppedServer(Path(name)) as stepped:
        say(f"{_SCHEDULERS} schedulers for {seconds:g} s on {stepped.server.description}")
        if not stepped.can_step:
            say("the server's clock is not set: there is no libfaketime, or the server does not heed it")
        with Processes(stepped.server.url, Path(name)) as processes:
            processes.queue.schedules.put("latest", Tick(), Schedule.every(1))
            processes.start_worker()
            processes.start_schedulers(_SCHEDULERS)
            _play(_acts(processes, stepped, seconds), seconds, say)
            infos = _paused(processes.queue)
        told = list(lines.read(name))
    for info in infos:
        say(_counted(info, told))
    return judge(told, infos, seconds)


def judge(told: Sequence[Line], infos: Sequence[ScheduleInfo], seconds: float) -> list[str]:
    """What is wrong, in words.

    Args:
        told: What the processes wrote down: each slot that was fired, each start of a job.
        infos: The schedules at the end, when nothing is fired any more.
        seconds: For how long they have fired.
    """
    histories = histories_of(sorted(told, key=lambda line: line["at"]))
    wrong = list(misfired(histories, [FinalState(schedules=list(infos))]))
    for history in histories.values():
        if len(history.runs) != 1:
            wrong.append(f"{history.job} ran {len(history.runs)} times")
    for info in infos:
        fired = len(_jobs(info, told))
        if fired < _LEAST * seconds:
            wrong.append(f"schedule '{info.name}' has fired {fired} slots in {seconds:g} s")
    return wrong


def _acts(processes: Processes, stepped: SteppedServer, seconds: float) -> Iterator[Act]:
    frozen_for = min(_FROZEN, seconds / 6)
    killed, frozen, _ = processes.schedulers

    def kill() -> str:
        killed.kill()
        killed.wait()
        processes.start_schedulers(1)
        return f"scheduler {killed.pid} was killed, and another one started"

    def freeze() -> str:
        frozen.send_signal(signal.SIGSTOP)
        return f"scheduler {frozen.pid} is stopped for {frozen_for:g} s"

    def go_on() -> str:
        frozen.send_signal(signal.SIGCONT)
        return f"scheduler {frozen.pid} goes on"

    def restart() -> str:
        stepped.kill()
        time.sleep(_AWAY)
        stepped.restart()
        return f"the server was killed, and started again {_AWAY:g} s later"

    def step(ahead: float) -> Callable[[], str]:
        def act() -> str:
            stepped.step(ahead)
            where = f"{abs(ahead):g} s {'ahead' if ahead > 0 else 'behind'}" if ahead else "right again"
            return f"the server's clock is set: {where}"

        return act

    yield 0.1 * seconds, kill
    yield 0.25 * seconds, freeze
    yield 0.25 * seconds + frozen_for, go_on
    yield 0.5 * seconds, restart
    if stepped.can_step:
        for part, ahead in ((0.65, _AHEAD), (0.75, _BEHIND), (0.87, 0.0)):
            yield part * seconds, step(ahead)


def _play(acts: Iterator[Act], seconds: float, say: Callable[[str], None]) -> None:
    began = time.monotonic()
    for at, act in acts:
        time.sleep(max(0.0, began + at - time.monotonic()))
        say(f"{at:6.1f} s  {act()}")
    time.sleep(max(0.0, began + seconds - time.monotonic()))


def _paused(queue: JobQueue) -> list[ScheduleInfo]:
    """The schedules once they have made up for what was missed, fire nothing more, and all jobs have run."""
    now = time.time()
    _wait_for(
        lambda: all(info.last_slot and info.last_slot.timestamp() > now for info in queue.schedules.list()),
        "a slot of each schedule",
    )
    for name in ("all", "latest"):
        queue.schedules.pause(name)
    _wait_for(
        lambda: not sum(queue.control.counts().ready.values()) + queue.control.counts().running,
        "the end of the jobs",
    )
    return queue.schedules.list()


def _jobs(info: ScheduleInfo, told: Sequence[Line]) -> set[str]:
    return {line["job"] for line in told if line.get("job", "").startswith(f"{info.name}@")}


def _counted(info: ScheduleInfo, told: Sequence[Line]) -> str:
    starts = [line["job"] for line in told if line["what"] == "start"]
    jobs = sorted(_jobs(info, told))
    slots = f"from {jobs[0].partition('@')[2]} to {jobs[-1].partition('@')[2]}" if jobs else ""
    ran = sum(starts.count(job) for job in jobs)
    return f"{info.name:8} {len(jobs)} slots {slots}; {ran} jobs ran; {info.missed} slots are counted as missed"


# Idle


def idle(seconds: float, say: Callable[[str], None]) -> None:
    """Say what schedulers ask of the server while nothing is due: as all is declared, and as all is put."""
    counts = [_commands(seconds, declared=declared) for declared in (False, True)]
    names = sorted({name for each in counts for name in each}, key=lambda name: -counts[1].get(name, 0))
    head = [
        f"{_IDLE_SCHEDULES} schedules, {_IDLE_SCHEDULERS} schedulers, {seconds:g} s: commands a second",
        "put at run time",
        "declared",
    ]
    rows = [
        ["all, those that scripts run included", *(_rate(sum(each.values()), seconds) for each in counts)],
        ["of clients", *(_rate(_of_clients(each), seconds) for each in counts)],
        *([f"`{name}`", *(_rate(each.get(name, 0), seconds) for each in counts)] for name in names),
    ]
    say(table(head, rows))


def _commands(seconds: float, *, declared: bool) -> Mapping[str, int]:
    """How often each command was run."""
    with (
        tempfile.TemporaryDirectory(prefix="redisjobs-bench-") as name,
        server.start() as running,
        Processes(running.url, Path(name)) as processes,
        redis.Redis.from_url(running.url) as client,
    ):
        for each in range(0 if declared else _IDLE_SCHEDULES):
            processes.queue.schedules.put(f"seldom-{each}", Tick(), SELDOM)
        processes.start_schedulers(_IDLE_SCHEDULERS, _IDLE_SCHEDULES if declared else 0)
        time.sleep(_SETTLED)
        client.config_resetstat()
        time.sleep(seconds)
        return commands_of(client.info("commandstats"))


def commands_of(stats: Any) -> dict[str, int]:
    """Calls by command, of what INFO says."""
    return {name.removeprefix("cmdstat_"): int(stat["calls"]) for name, stat in stats.items()}


def _of_clients(counts: Mapping[str, int]) -> int:
    return sum(count for name, count in counts.items() if name in _BY_CLIENTS)


def _rate(count: int, seconds: float) -> str:
    return number(count / seconds)


# The command


def main(words: Sequence[str]) -> int:
    """The command; its exit code: 1 if a slot was fired twice, or never."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.schedules", description="Schedulers under faults, and idle."
    )
    parser.add_argument("--seconds", type=float, default=120, help="how long they fire under faults (120; 0: not)")
    parser.add_argument("--idle", type=float, default=60, help="how long they are idle, twice (60; 0: not)")
    options = parser.parse_args(words)
    wrong: list[str] = []
    try:
        if options.seconds:
            wrong = endure(options.seconds, _say)
            _say("\n".join([*wrong, f"{len(wrong)} wrong" if wrong else "each slot as it should be"]) + "\n")
        if options.idle:
            idle(options.idle, _say)
    except Failed as failed:
        _say(f"failed: {failed}")
        return 1
    return 1 if wrong else 0


def _wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + _WITHIN
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"{what} did not come within {_WITHIN:g} s")
        time.sleep(0.05)


def _say(what: str) -> None:
    print(what, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
