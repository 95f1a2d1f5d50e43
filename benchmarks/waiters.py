"""`python -m benchmarks.waiters`: thousands who wait for results in one process, and when each has its own."""

import argparse
import math
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis

from benchmarks import report, waiters_process
from benchmarks.report import number, spread, table
from benchmarks.results import attach, keep
from benchmarks.systems import CHECKOUT, Failed
from redisjobs.local import server

_QUEUE = "bench"
_WITHIN = 120.0  # seconds until all wait
_SETTLED = 1.0  # seconds after which no client asks any more
MOST = 0.020  # seconds, p99, where the worker has time


@dataclass(frozen=True)
class Waited:
    """What came of one round.

    Attributes:
        connections: How many the process that waits had, while all waited.
        listening: How many of these were subscribed to a channel.
        from_sent: Seconds from when a job's settlement was sent until who waits has the result; ascending.
        from_told: The same from when the worker had the answer. Below 0: who waits was faster.
        per_second: How many jobs ended a second.
    """

    connections: int
    listening: int
    from_sent: list[float]
    from_told: list[float]
    per_second: float


def percentile(ordered: Sequence[float], part: float) -> float:
    """The value that this part of the values, in ascending order, is not above."""
    return ordered[max(0, math.ceil(len(ordered) * part) - 1)]


def joined(ended: Mapping[str, tuple[float, float]], came: Mapping[str, float]) -> tuple[list[float], list[float]]:
    """Seconds from the settlement to the result: from when it was sent, and from when its reply came; sorted.

    Args:
        ended: By a job's id, when its settlement was sent and when the reply came, Unix seconds.
        came: By a job's id, when its result was there.

    Raises:
        Failed: There is a result of a job that no worker has settled.
    """
    if unknown := came.keys() - ended.keys():
        raise Failed(f"{len(unknown)} results came of jobs that no worker has settled")
    sent = sorted(at - ended[job_id][0] for job_id, at in came.items())
    told = sorted(at - ended[job_id][1] for job_id, at in came.items())
    return sent, told


def take(count: int, rate: float) -> Waited:
    """Let this many wait, and a worker end jobs at this rate a second; 0: as many as it can.

    Raises:
        Failed: It did not come to an end, or a process died.
    """
    with (
        tempfile.TemporaryDirectory(prefix="redisjobs-bench-") as name,
        server.start(options=("--appendonly", "no")) as running,
        redis.Redis.from_url(running.url) as admin,
    ):
        folder = Path(name)
        with _process("waiter", running.url, folder, count) as waiter:
            _wait_for(lambda: admin.hlen(f"redisjobs:{{{_QUEUE}}}:waiters") >= count, waiter, "all to wait")
            time.sleep(_SETTLED)
            clients = [client for client in _clients(admin) if client["id"] != str(admin.client_id())]
            with _process("worker", running.url, folder, rate):
                try:
                    waiter.wait(count / rate * 2 + _WITHIN if rate else _WITHIN)
                except subprocess.TimeoutExpired:
                    raise Failed(f"not all {count} have their result: {_log(folder)}") from None
                time.sleep(_SETTLED)
        if waiter.returncode:
            raise Failed(f"who waits ended with {waiter.returncode}: {_log(folder)}")
        ended = {job: (float(sent), float(at)) for job, sent, at in waiters_process.read(folder / "worker")}
        came = {job: float(at) for job, at in waiters_process.read(folder / "waiter")}
    sent, told = joined(ended, came)
    times = [at for _, at in ended.values()]
    return Waited(
        connections=len(clients),
        listening=sum(int(client["sub"]) + int(client["psub"]) > 0 for client in clients),
        from_sent=sent,
        from_told=told,
        per_second=len(times) / max(max(times) - min(times), 1e-9),
    )


def _clients(admin: Any) -> list[Mapping[str, str]]:
    return list(admin.client_list())


@contextmanager
def _process(role: str, url: str, folder: Path, number: float) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-m", "benchmarks.waiters_process", role, url, _QUEUE, str(folder / role)]
    with open(folder / "processes.log", "ab") as log:
        process = subprocess.Popen([*command, str(number)], cwd=CHECKOUT, stdout=log, stderr=log)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _log(folder: Path) -> str:
    return " | ".join((folder / "processes.log").read_text(errors="replace").strip().splitlines()[-3:])[-500:]


def _wait_for(condition: Callable[[], bool], process: "subprocess.Popen[bytes]", what: str) -> None:
    deadline = time.monotonic() + _WITHIN
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise Failed(f"waited in vain for {what}; the process has ended with {process.returncode}")
        time.sleep(0.02)


# What is said


def text(count: int, rate: float, paced: Sequence[Waited], full: Sequence[Waited]) -> str:
    """A table; Markdown."""
    kinds = [kind for kind in ((f"{rate:g} end a second", paced), ("as fast as possible", full)) if kind[1]]
    rows = [["jobs that ended, 1/s", *(spread([one.per_second for one in rounds], 1.0) for _, rounds in kinds)]]
    for what, of in (("from sending the settlement", "from_sent"), ("from its reply", "from_told")):
        for label, part in (("p50", 0.5), ("p99", 0.99), ("most", 1.0)):
            figures = ([percentile(getattr(one, of), part) for one in rounds] for _, rounds in kinds)
            rows.append([f"{what} to the result, {label}, ms", *(spread(each, 1e3) for each in figures)])
    for label, of in (
        ("connections of the waiting process", "connections"),
        ("of these, subscribed", "listening"),
    ):
        rows.append([label, *(spread([getattr(one, of) for one in rounds], 1.0) for _, rounds in kinds)])
    return table([f"{count:,} tasks wait in one process", *(head for head, _ in kinds)], rows)


def verdict(paced: Sequence[Waited]) -> str:
    """Whether p99 is as low as it must be where the worker has time; in words."""
    middle = statistics.median(percentile(one.from_sent, 0.99) for one in paced)
    holds = "holds" if middle <= MOST else "does not hold"
    is_said = f"it is {number(middle * 1e3)} ms, which {holds}"
    return f"p99 of the paced rounds must be at most {MOST * 1e3:g} ms: {is_said}."


# The command


def main(words: Sequence[str]) -> int:
    """The command; its exit code: 1 if a client did not get a result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.waiters", description="Many who wait.")
    parser.add_argument("--count", type=int, default=10_000, help="who wait, each for a job of its own (10000)")
    parser.add_argument("--rate", type=float, default=500, help="jobs that end a second in the paced rounds (500)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (3)")
    parser.add_argument("--docs", action="store_true", help="put it on the page docs/benchmarks.md")
    options = parser.parse_args(words)
    if min(options.count, options.rounds) < 1 or options.rate <= 0:
        parser.error("--count, --rounds and --rate must be more than 0")
    date = datetime.now(UTC).isoformat(timespec="seconds")
    paced, full = list[Waited](), list[Waited]()
    try:
        for round_number in range(options.rounds):
            for rate, rounds in ((options.rate, paced), (0.0, full)):
                rounds.append(take(options.count, rate))
                p99 = number(percentile(rounds[-1].from_sent, 0.99) * 1e3)
                _say(f"round {round_number + 1} of {options.rounds}, {rate:g}/s: p99 {p99} ms")
    except Failed as failed:
        _say(f"failed: {failed}")
        return 1
    said = f"{text(options.count, options.rate, paced, full)}\n\n{verdict(paced)}"
    print(said)
    keep({"paced": [vars(one) for one in paced], "full": [vars(one) for one in full]}, date, "waiters")
    if options.docs:
        head = f"{date}, {options.rounds} rounds, {report.machine()}, {server.find().description}."
        attach("waiters", f"{head} To repeat it: `python -m benchmarks.waiters --docs`.\n\n{said}")
    return 0


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # what was started is ended then too
    sys.exit(main(sys.argv[1:]))
