"""`python -m benchmarks.limits`: limits while workers are killed, and what a blocked key costs the others."""

import argparse
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import redis

from benchmarks import report
from benchmarks.__main__ import attach
from benchmarks.features import FEATURED
from benchmarks.limits_process import AT_ONCE, LEASE, RATE, holders_key, registered
from benchmarks.measures import Figures
from benchmarks.report import number, ratios, spread, table
from benchmarks.session import SIZE, Session
from benchmarks.systems import CHECKOUT, SYSTEMS, US, Failed, python
from redisjobs import JobName, JobQueue, server
from redisjobs.events import recording
from redisjobs.model.transitions import MOST_JOBS, Ack

_QUEUE = "bench"
_WORKERS, _KILLS = 4, 10  # processes; how many of them are killed in a run
_LEAST = 0.9  # of what is allowed has to run
_MOST_SLOWER = 0.1  # by which jobs may be slower beside a blocked key
_BLOCKED, _DRAINED = 100_000, 20_000  # jobs
_WITHIN = 180.0  # seconds
_CLAIMS, _CLAIMED = 1_000, 10  # claims of each queue; jobs of each
_BLOCKED_NAME, _FREE_NAME = JobName("blocked", type(None)), JobName("free", type(None))
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
        fleet.wait(lambda: admin.zcard(holders_key(_QUEUE, "few")) >= AT_ONCE, "the first jobs")
        counts = list(_watched(admin, fleet, seconds))
        waiting = {name: _in_lines(admin, name) for name in ("few", "often")}
        fleet.stop()
        return judge([*recording.read(folder)], counts, waiting, seconds)


def _watched(admin: Any, fleet: "_Fleet", seconds: float) -> Iterator[int]:
    began, killed = time.monotonic(), 0
    while (spent := time.monotonic() - began) < seconds:
        if spent > (killed + 1) * seconds / (_KILLS + 1):
            killed += 1
            fleet.kill(killed)
        yield int(admin.zcard(holders_key(_QUEUE, "few")))
        time.sleep(_SAMPLES)


async def _push(url: str, counts: Mapping[str, int]) -> None:
    async with registered(JobQueue(url, _QUEUE)) as queue:
        for name, count in counts.items():
            await queue.push_many(({} for _ in range(count)), name)


class _Fleet:
    def __init__(self, url: str, folder: str) -> None:
        self._url, self._folder = url, folder
        self._workers: list[subprocess.Popen[bytes]] = []

    def start(self, count: int) -> None:
        command = [sys.executable, "-m", "benchmarks.limits_process", self._url, _QUEUE, self._folder]
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


# Beside a blocked key


def beside_blocked(name: str, blocked: int) -> Figures:
    """A drain of `plain` jobs, or of `keyed` ones with keys of their own, beside a blocked key.

    Args:
        name: `plain` or `keyed`.
        blocked: How many jobs of the blocked key wait in line.

    Returns:
        Jobs a second, and CPU seconds a job of Redis.
    """
    with Session(replace(FEATURED[US], feature="keyed")) as session:
        if blocked:
            _block(session, blocked)
        before = session.counted().jobs
        session.ask("push", feature=name, count=_DRAINED, size=SIZE, first=1)
        session.start_workers()
        session.arrived(2 if blocked else 1)
        opened, cpu = time.monotonic_ns(), session.server_cpu()
        session.open_gate()
        done = session.wait(lambda counted: counted.jobs - before >= _DRAINED, _WITHIN, "draining")
        return {
            "rate": _DRAINED / ((done.last - opened) / 1e9),
            "server": (session.server_cpu() - cpu) / _DRAINED,
        }


def _block(session: Session, blocked: int) -> None:
    """Let this many jobs of one key wait in line: the first has started, and no other may for an hour."""
    session.open_gate()
    session.ask("push", feature="keyed", count=blocked + 1, size=SIZE, step=0)
    session.start_workers()
    deadline = time.monotonic() + _WITHIN
    while (there := _in_lines(session.redis, "keyed")) < blocked:
        if time.monotonic() > deadline:
            raise Failed(f"only {there} of {blocked} jobs wait in line after {_WITHIN:g} s")
        time.sleep(0.1)
    session.stop_workers()
    session.close_gate()


def _in_lines(admin: Any, name: str, queue: str = _QUEUE) -> int:
    """How many jobs of a name wait in line."""
    try:
        consumers = admin.xpending(f"redisjobs:{{{queue}}}:ready:normal", "workers")["consumers"] or []
    except redis.ResponseError:  # no worker has begun yet
        return 0
    return sum(int(one["pending"]) for one in consumers if one["name"].decode().split()[0] == f"line:{name}")


def claims_beside_blocked(times: int, blocked: int = _BLOCKED) -> tuple[list[float], list[float]]:
    """Redis' time for a claim of ten jobs without a limit, µs, of two queues by turns.

    Args:
        times: How many claims of each.
        blocked: How many jobs of one key wait in line in the second queue; the first has one.
    """
    with server.start() as running, redis.Redis.from_url(running.url) as admin:
        return anyio.run(_claim_by_turns, running.url, admin, times, blocked)


async def _claim_by_turns(
    url: str, admin: "redis.Redis", times: int, blocked: int
) -> tuple[list[float], list[float]]:
    async with AsyncExitStack() as stack:
        sides = []
        for name, waiting in (("alone", 1), ("beside", blocked)):
            queue = await stack.enter_async_context(JobQueue(url, name))
            worker = await stack.enter_async_context(
                aclosing(queue.driver.consumer("w1", lease=600, max_deliveries=3))
            )
            await worker.open()
            await queue.set_limit("blocked", max_concurrency=1)
            await queue.push_many([queue.prepare(None, _BLOCKED_NAME) for _ in range(waiting + 1)])
            while (await worker.exchange([], MOST_JOBS)).more:
                pass
            if (there := _in_lines(admin, "blocked", name)) != waiting:
                raise Failed(f"{there} of {waiting} jobs wait in line")
            sides.append((queue, worker, list[float]()))
        for number in range(times):
            for queue, worker, took in sides if number % 2 else reversed(sides):
                await queue.push_many([queue.prepare(None, _FREE_NAME) for _ in range(_CLAIMED)])
                admin.config_resetstat()
                claimed = await worker.exchange([], _CLAIMED)
                took.append(admin.info("commandstats")["cmdstat_evalsha"]["usec"])
                if len(claimed.leases) != _CLAIMED:
                    raise Failed(f"a claim of {_CLAIMED} jobs got {len(claimed.leases)}")
                await worker.exchange([(lease, Ack()) for lease in claimed.leases], None)
        return sides[0][2], sides[1][2]


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


Drains = Mapping[str, Sequence[Figures]]
"""By `plain` and `keyed` what each round has measured."""


def said_of_blocked(alone: Drains, beside: Drains) -> str:
    """The drains beside a blocked key; Markdown."""
    rows = []
    for name, label in (("plain", "jobs without a limit"), ("keyed", "jobs of the same name, each with its key")):
        for key, unit, scale in (("rate", "jobs/s", 1.0), ("server", "Redis, µs a job", 1e6)):
            one, other = ([figures[key] for figures in rounds[name]] for rounds in (alone, beside))
            ratio = spread(ratios(other, one), 1.0)
            rows.append([f"{label}, {unit}", spread(one, scale), spread(other, scale), ratio])
    return table(["", "alone", f"beside {_BLOCKED:,} of one blocked key", "ratio"], rows)


def said_of_claims(alone: Sequence[float], beside: Sequence[float]) -> str:
    """The claims by turns; Markdown."""
    row = [f"a claim of {_CLAIMED} jobs, Redis, µs", *map(_middle, (alone, beside, ratios(beside, alone)))]
    return table(["", "alone", f"beside {_BLOCKED:,} of one blocked key", "ratio"], [row])


def _middle(values: Sequence[float]) -> str:
    """The median, and between which values half of all are: of a thousand the extremes tell nothing."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{number(middle)} ({number(low)} to {number(high)})"


def slower(alone: Drains, beside: Drains) -> list[str]:
    """Which drains are slower beside a blocked key than they may be, in words."""
    wrong = []
    for name in alone:
        by_round = ratios([one["rate"] for one in beside[name]], [one["rate"] for one in alone[name]])
        if by_round and statistics.median(by_round) < 1 - _MOST_SLOWER:
            wrong.append(f"'{name}' jobs are {1 - statistics.median(by_round):.0%} slower beside a blocked key")
    return wrong


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
            alone, beside = _blocked_rounds(options.rounds)
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


def _blocked_rounds(rounds: int) -> tuple[Drains, Drains]:
    alone: dict[str, list[Figures]] = {"plain": [], "keyed": []}
    beside: dict[str, list[Figures]] = {"plain": [], "keyed": []}
    for round_number in range(rounds):
        for name in alone:
            alone[name].append(beside_blocked(name, 0))
            beside[name].append(beside_blocked(name, _BLOCKED))
            ratio = beside[name][-1]["rate"] / alone[name][-1]["rate"]
            _say(f"round {round_number + 1} of {rounds}, {name}: {number(ratio)} of what it is alone")
    return alone, beside


def _say(what: str) -> None:
    print(what, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # what was started is ended then too
    sys.exit(main(sys.argv[1:]))
