"""`python -m benchmarks.limits`: limits while workers are killed, and what a blocked key costs the others."""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import redis

from benchmarks import report
from benchmarks.blocked import (
    QUEUE,
    claims_beside_blocked,
    in_lines,
    rounds_beside_blocked,
    said_of_blocked,
    said_of_claims,
    slower,
)
from benchmarks.limits_process import AT_ONCE, LEASE, RATE, holders_key, registered
from benchmarks.report import table
from benchmarks.results import attach
from benchmarks.systems import CHECKOUT, SYSTEMS, US, Failed, python
from redisjobs import JobQueue
from redisjobs.events import recording
from redisjobs.local import server

_WORKERS, _KILLS = 4, 10  # processes; how many of them are killed in a run
_LEAST = 0.9  # of what is allowed has to run
_WITHIN = 180.0  # seconds
_CLAIMS = 1_000  # of each queue
_SAMPLES = 0.01  # seconds between two looks at what runs
_ROUNDING = 2.0  # ms: a start is stored in whole ms, where the rate counts µs

HAS_LIMITS = hasattr(JobQueue, "set_limit")


@dataclass(frozen=True)
class Judged:
    """What came of a run under kills.

    Attributes:
        at_once: The most jobs of the name with `max_concurrency` that ran at once.
        counted: The most that the server counted at once.
        cut_off: How many runs of jobs of that name were cut off by a kill, or by the end.
        used: Of what that limit allows, the share that was leased, from 0 to 1.
        starts: How many jobs of the name with a rate were started.
        most_a_second: The most of these in any second.
        allowed: Of what the rate allows, the share that was started, without a first burst.
        wrong: What is wrong, in words.
    """

    at_once: int
    counted: int
    cut_off: int
    used: float
    starts: int
    most_a_second: int
    allowed: float
    wrong: Sequence[str]


# Judging


def most_at_once(runs: Iterable[tuple[float, float]]) -> int:
    """How many runs there were at once, at most; of each its start and its end. One that ends makes room first."""
    now = most = 0
    for _, change in sorted(change for start, end in runs for change in ((start, 1), (end, -1))):
        now += change
        most = max(most, now)
    return most


def over_rate(starts_ms: Sequence[float], rate: float, burst: int) -> int:
    """How many starts came sooner than the rate, after a burst, allows.

    Args:
        starts_ms: In ascending order.
        rate: A second.
        burst: How many may start together after a rest.
    """
    pause, next_ms, over = 1000 / rate, float("-inf"), 0
    for at in starts_ms:
        if at < next_ms - (burst - 1) * pause - _ROUNDING:
            over += 1
        next_ms = max(next_ms, at) + pause
    return over


def most_within(starts_ms: Sequence[float], window_ms: float) -> int:
    """The most starts in any window of that length; `starts_ms` in ascending order."""
    most = first = 0
    for last, at in enumerate(starts_ms):
        while at - starts_ms[first] >= window_ms:
            first += 1
        most = max(most, last - first + 1)
    return most


def judge(
    told: Sequence[Mapping[str, Any]], counts: Sequence[int], waiting: Mapping[str, int], seconds: float
) -> Judged:
    """Hold a run against its limits.

    Args:
        told: What the workers wrote down; see `limits_process.Log`.
        counts: How many jobs of `few` the server counted, looked at again and again.
        waiting: How many jobs of each name still wait at the end.
        seconds: For how long they ran.
    """
    wrong = [
        f"no job of '{name}' was left to wait: less was asked for than is allowed"
        for name in waiting
        if not waiting[name]
    ]
    lost = {job for line in told if line["what"] == "lost" for job in line["jobs"]}
    ends = {line["run"]: line["at_ms"] for line in told if line["what"] == "end"}
    lines = [line for line in told if line["what"] == "start"]
    few = [
        (line["at_ms"], ends[line["run"]])
        for line in lines
        if line["name"] == "few" and line["run"] in ends and line["run"].split()[0] not in lost
    ]
    snapshots = [len(line["holders"]) for line in lines if line["name"] == "few"]
    starts = sorted(
        since
        for _, since in {tuple(holder) for line in lines if line["name"] == "often" for holder in line["holders"]}
    )
    at_once, counted = most_at_once(few), max([*counts, *snapshots], default=0)
    used = sum(counts) / len(counts) / AT_ONCE if counts else 0.0
    allowed = max(0, len(starts) - RATE) / (RATE * seconds)
    for what, most in (("ran", at_once), ("were counted", counted)):
        if most > AT_ONCE:
            wrong.append(f"{most} jobs of 'few' {what} at once, where {AT_ONCE} may")
    if over := over_rate(starts, RATE, RATE):
        wrong.append(f"{over} of {len(starts)} jobs of 'often' started sooner than {RATE}/s allows")
    for name, share in (("few", used), ("often", allowed)):
        if share < _LEAST:
            wrong.append(f"of what is allowed of '{name}' only {share:.1%} ran while jobs waited")
    cut_off = sum(line["name"] == "few" and line["run"] not in ends for line in lines)
    return Judged(at_once, counted, cut_off, used, len(starts), most_within(starts, 1000), allowed, wrong)


# Under kills


def endure(seconds: float) -> Judged:
    """Let workers run jobs under limits for so long while they are killed, one after the other."""
    with (
        tempfile.TemporaryDirectory(prefix="redisjobs-bench-") as folder,
        server.start() as running,
        redis.Redis.from_url(running.url) as admin,
        _fleet(running.url, folder) as fleet,
    ):
        often = int(RATE * (seconds + 2) * 1.2)
        anyio.run(_push, running.url, {"few": often, "often": often})
        fleet.start(_WORKERS)
        fleet.wait(lambda: admin.zcard(holders_key(QUEUE, "few")) >= AT_ONCE, "the first jobs")
        counts = list(_watched(admin, fleet, seconds))
        waiting = {name: in_lines(admin, name) for name in ("few", "often")}
        fleet.stop()
        return judge([*recording.read(folder)], counts, waiting, seconds)


def _watched(admin: Any, fleet: "_Fleet", seconds: float) -> Iterator[int]:
    began, killed = time.monotonic(), 0
    while (spent := time.monotonic() - began) < seconds:
        if spent > (killed + 1) * seconds / (_KILLS + 1):
            killed += 1
            fleet.kill(killed)
        yield int(admin.zcard(holders_key(QUEUE, "few")))
        time.sleep(_SAMPLES)


async def _push(url: str, counts: Mapping[str, int]) -> None:
    async with registered(JobQueue(url, QUEUE)) as queue:
        for name, count in counts.items():
            await queue.push_many(({} for _ in range(count)), name)


class _Fleet:
    def __init__(self, url: str, folder: str) -> None:
        self._url, self._folder = url, folder
        self._workers: list[subprocess.Popen[bytes]] = []

    def start(self, count: int) -> None:
        command = [sys.executable, "-m", "benchmarks.limits_process", self._url, QUEUE, self._folder]
        with open(Path(self._folder) / "processes.log", "ab") as log:
            self._workers += [
                subprocess.Popen(command, cwd=CHECKOUT, stdout=log, stderr=log) for _ in range(count)
            ]

    def kill(self, number_of: int) -> None:
        at = number_of % len(self._workers)
        killed = self._workers.pop(at)
        killed.kill()
        killed.wait()
        self.start(1)

    def wait(self, condition: Any, what: str) -> None:
        deadline = time.monotonic() + _WITHIN
        while not condition():
            if time.monotonic() > deadline or any(worker.poll() is not None for worker in self._workers):
                said = (Path(self._folder) / "processes.log").read_text(errors="replace").strip()[-500:]
                raise Failed(f"{what} did not come, or a worker died: {said}")
            time.sleep(0.05)

    def stop(self, by: int = signal.SIGTERM) -> None:
        for worker in self._workers:
            worker.send_signal(by)
        for worker in self._workers:
            worker.wait(60)
        self._workers = []


@contextmanager
def _fleet(url: str, folder: str) -> Iterator[_Fleet]:
    fleet = _Fleet(url, folder)
    try:
        yield fleet
    finally:
        fleet.stop(signal.SIGKILL)


# What is said


def said_of(judged: Judged, seconds: float) -> str:
    """The run under kills; Markdown."""
    rows = [
        [f"max_concurrency={AT_ONCE}: most at once, by the workers", str(judged.at_once)],
        ["the same, by the server's count", str(judged.counted)],
        ["runs ended by a kill, whose lease has to end", str(judged.cut_off)],
        ["share of the allowed leases in use while jobs waited", f"{judged.used:.1%}"],
        [f"rate={RATE}/s: most starts in a second, the burst of {RATE} in it", str(judged.most_a_second)],
        ["share of the allowed starts after the first burst", f"{judged.allowed:.1%}"],
    ]
    head = f"{_WORKERS} worker processes, {seconds:g} s, {_KILLS} kills"
    return table([head, ""], rows) + "\n\n" + "\n".join(judged.wrong or ["All limits held."])


# The command


def main(words: Sequence[str]) -> int:
    """The command; its exit code: 1 if a limit did not hold, or others are slowed down by it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits", description="Limits, under kills.")
    parser.add_argument("--seconds", type=float, default=60, help="how long workers are killed (60; 0: not)")
    parser.add_argument("--rounds", type=int, default=5, help="drains beside a blocked key (5; 0: none)")
    parser.add_argument("--docs", action="store_true", help="put it on the page docs/benchmarks.md")
    options = parser.parse_args(words)
    if not HAS_LIMITS:
        _say("this version of redisjobs has no limits")
        return 1
    date, parts, wrong = datetime.now(UTC).isoformat(timespec="seconds"), list[str](), list[str]()
    try:
        if options.seconds:
            judged = endure(options.seconds)
            wrong += judged.wrong
            parts.append(said_of(judged, options.seconds))
            _say(parts[-1])
        if options.rounds:
            SYSTEMS[US].install(python())
            alone, beside = rounds_beside_blocked(options.rounds, _say)
            slow = slower(alone, beside)
            wrong += slow
            claims = said_of_claims(*claims_beside_blocked(_CLAIMS))
            parts += [said_of_blocked(alone, beside), claims, "\n".join(slow)]
            _say("\n\n".join(parts[-3:]))
    except Failed as failed:
        _say(f"failed: {failed}")
        return 1
    if options.docs:
        head = f"{date}, {report.machine()}, {server.find().description}. Leases of {LEASE:g} s."
        attach(
            "limits",
            "\n\n".join([f"{head} To repeat it: `python -m benchmarks.limits --docs`.", *filter(None, parts)]),
        )
    return 1 if wrong else 0


def _say(what: str) -> None:
    print(what, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # what was started is ended then too
    sys.exit(main(sys.argv[1:]))
