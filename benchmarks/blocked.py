"""What a key over its limit costs the jobs of others: drains and claims beside it."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import Any

import anyio
import redis

from benchmarks.featured import FEATURED
from benchmarks.measures import Figures
from benchmarks.report import number, ratios, spread, table
from benchmarks.session import SIZE, Session
from benchmarks.systems import US, Failed
from redisjobs import JobName, JobQueue
from redisjobs.local import server
from redisjobs.model.transitions import MOST_JOBS, Ack

QUEUE = "bench"
_MOST_SLOWER = 0.1  # by which jobs may be slower beside a blocked key
_BLOCKED, _DRAINED = 100_000, 20_000  # jobs
_WITHIN = 180.0  # seconds
_CLAIMED = 10  # jobs of a claim
_BLOCKED_NAME, _FREE_NAME = JobName("blocked", type(None)), JobName("free", type(None))

Drains = Mapping[str, Sequence[Figures]]
"""By `plain` and `keyed` what each round has measured."""


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
        session.producer.ask("push", feature=name, count=_DRAINED, size=SIZE, first=1)
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
    session.producer.ask("push", feature="keyed", count=blocked + 1, size=SIZE, step=0)
    session.start_workers()
    deadline = time.monotonic() + _WITHIN
    while (there := in_lines(session.redis, "keyed")) < blocked:
        if time.monotonic() > deadline:
            raise Failed(f"only {there} of {blocked} jobs wait in line after {_WITHIN:g} s")
        time.sleep(0.1)
    session.stop_workers()
    session.close_gate()


def in_lines(admin: Any, name: str, queue: str = QUEUE) -> int:
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
            await queue.control.set_limit("blocked", max_concurrency=1)
            await queue.push_many([queue.prepare(None, _BLOCKED_NAME) for _ in range(waiting + 1)])
            while (await worker.exchange([], MOST_JOBS)).more:
                pass
            if (there := in_lines(admin, "blocked", name)) != waiting:
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


def rounds_beside_blocked(rounds: int, say: Callable[[str], None]) -> tuple[Drains, Drains]:
    """Return the drains alone and beside a blocked key, by turns."""
    alone: dict[str, list[Figures]] = {"plain": [], "keyed": []}
    beside: dict[str, list[Figures]] = {"plain": [], "keyed": []}
    for round_number in range(rounds):
        for name in alone:
            alone[name].append(beside_blocked(name, 0))
            beside[name].append(beside_blocked(name, _BLOCKED))
            ratio = beside[name][-1]["rate"] / alone[name][-1]["rate"]
            say(f"round {round_number + 1} of {rounds}, {name}: {number(ratio)} of what it is alone")
    return alone, beside


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
