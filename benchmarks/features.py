"""`python -m benchmarks.features`: what each feature costs, beside a plain job of the same system and round."""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from benchmarks import report
from benchmarks.featured import FEATURED, Featured
from benchmarks.measures import Figures
from benchmarks.report import DASH, Run, spread, table
from benchmarks.results import attach, keep
from benchmarks.rounds import installed
from benchmarks.session import SIZE, Session
from benchmarks.systems import US, Failed, python, python_version
from redisjobs.local import server

Item = TypeVar("Item")

_WITHIN, _SETTLE = 90.0, 0.3  # seconds
_FAILED = "failed: "
_TO_BEGIN = 1.0  # seconds that those who wait have, and a millisecond for each five of them


@dataclass(frozen=True)
class Feature:
    """One feature.

    Attributes:
        key: By what the systems' programs know it.
        label: What a job does, for people.
        base: The feature whose jobs do the same without it.
        ran: How many jobs run for each that is pushed beforehand.
        waited: Whether the producer's process waits for the result of each.
    """

    key: str
    label: str
    base: str = "plain"
    ran: int = 1
    waited: bool = False


FEATURES = {
    feature.key: feature
    for feature in (
        Feature("plain", "plain"),
        Feature("kept", "its result is kept"),
        Feature("wait", "its result is kept and awaited", waited=True),
        Feature("progress", "reports progress once, and ends at once"),
        Feature("nap", "takes 10 ms", base="nap"),
        Feature("progress_nap", "takes 10 ms, and reports progress once", base="nap"),
        Feature("follow", "pushes a plain job, which runs as well", ran=2),
        Feature("unique", "has a unique key"),
        Feature("unique_start", "has a unique key until it starts"),
        Feature("limit", "has limits that do not bind, with 100 keys"),
    )
}


@dataclass(frozen=True)
class Figure:
    """What is measured of each feature; all but the first are seconds of CPU, shown in µs.

    Attributes:
        key: Its name.
        label: What it is, for people.
        scale: What it is multiplied by to be shown.
    """

    key: str
    label: str
    scale: float = 1e6


RATE = Figure("rate", "jobs/s", 1.0)
COSTS = (
    Figure("worker", "worker"),
    Figure("drain", "Redis"),
    Figure("push", "Redis, the push"),
    Figure("waiter", "the waiting process"),
)


# Measuring


def lacking(system: Featured) -> dict[str, str]:
    """The features that a system does not have, or that can't be measured fairly, and why."""
    with Session(system) as session:
        lacks: dict[str, str] = session.producer.ask("lacks")
        return lacks


def take(system: Featured, feature: Feature, jobs: int) -> Figures:
    """One worker process drains a queue full of jobs that have the feature.

    Args:
        system: Which.
        feature: Which.
        jobs: How many run, by whatever push.

    Returns:
        Jobs a second, and CPU seconds for each job that was pushed beforehand.
    """
    pushed = min(jobs // feature.ran, system.waiters if feature.waited else jobs)
    with Session(replace(system, feature=feature.key)) as session:
        before = session.server_cpu()
        session.producer.ask("push", feature=feature.key, count=pushed, size=SIZE)
        push = session.server_cpu() - before
        session.start_workers()
        session.arrived(1)
        worker, drain, waiter = session.cpu(), session.server_cpu(), session.producer.cpu()
        if feature.waited:
            session.producer.ask("wait", seconds=_TO_BEGIN + pushed / 5000)
        session.open_gate()
        done = session.wait(lambda counted: counted.jobs >= pushed * feature.ran, _WITHIN, feature.key)
        if feature.waited:
            session.producer.ask("waited", within=_WITHIN)
        time.sleep(_SETTLE)  # the last ones are settled
        figures = {
            "rate": pushed * feature.ran / done.seconds,
            "worker": (session.cpu() - worker) / pushed,
            "drain": (session.server_cpu() - drain) / pushed,
            "push": push / pushed,
        }
        if feature.waited:
            figures["waiter"] = (session.producer.cpu() - waiter) / pushed
        return {f"{feature.key}.{name}": value for name, value in figures.items()}


def measure(
    systems: Sequence[Featured],
    features: Sequence[Feature],
    run: Run,
    taken: Callable[[Featured, Feature], Figures],
    lacks: Callable[[Featured], dict[str, str]],
    say: Callable[[str], None],
) -> None:
    """All rounds: in each one all features of a system, one right after the other, then those of the next.

    What a system lacks, and what fails, is noted once and not measured again.
    """
    out: set[tuple[str, str]] = set()

    def leave_out(system: str, feature: str, why: str) -> None:
        out.add((system, feature))
        run.fail(system, feature, why)
        say(f"{system}, {feature}: {why}")

    for system in systems:
        try:
            missing = lacks(system)
        except Failed as failed:
            missing = {feature.key: f"{_FAILED}{failed}" for feature in features}
        for feature in features:
            if feature.key in missing:
                leave_out(system.name, feature.key, missing[feature.key])
    for round_number in range(run.rounds):
        for system in _turned(systems, round_number):
            for feature in _turned(features, round_number):
                if (system.name, feature.key) in out:
                    continue
                try:
                    run.add(system.name, taken(system, feature))
                    say(f"round {round_number + 1} of {run.rounds}: {system.name}, {feature.key}")
                except Failed as failed:
                    leave_out(system.name, feature.key, f"{_FAILED}{failed}")


def _turned(items: Sequence[Item], by: int) -> list[Item]:
    """No system always comes after the same one."""
    by %= max(len(items), 1)
    return [*items[by:], *items[:by]]


# What is said

_METHOD = """\
One worker process with 100 slots drains a queue. The figures are CPU time a job: of the worker, of Redis, of
Redis while the jobs were pushed, and of the process that waits for results. They are medians, with the least
and the most in brackets. A difference compares a job with a plain job of the same round; if 0 lies between its
least and its most, it is noise. To repeat it: `python -m benchmarks.features --docs`."""

_BESIDE = """\
Other systems: CPU time of worker and Redis together, with the push, in µs a job. Compare the cost of a feature
with the cost of a plain job of the same system; BullMQ's worker is JavaScript. Only redisjobs adds a follow-up
in the step that ends its parent. The others push it in the handler, so it may be pushed twice. Docket opens a
connection for each waiting task, so only 1,000 tasks wait there, and 500 in ardiq, where 3,000 timed out."""


def more(run: Run, system: str, feature: Feature, figure: Figure) -> list[float]:
    """What a job costs more than one without the feature, in seconds, round by round.

    A job that another one pushes while the queue is drained runs as well: it is taken off as a job without the
    feature.
    """
    runs = feature.ran if figure.key in ("worker", "drain") else 1
    with_it = _samples(run, system, feature.key, figure)
    without = _samples(run, system, feature.base, figure)
    if figure.key == "waiter":
        return with_it
    return [one - runs * other for one, other in zip(with_it, without, strict=False)]


def ours(run: Run) -> str:
    """Two tables of redisjobs: what a job costs, and what it costs more than one without the feature; Markdown."""
    heads = ["a job that", RATE.label, *(f"{cost.label}, µs" for cost in COSTS)]
    absolute = [
        [feature.label, *(_cell(_samples(run, US, feature.key, figure), figure) for figure in (RATE, *COSTS))]
        for feature in _shown(run, US)
    ]
    differences = [
        [feature.label, feature.base, *(_cell(more(run, US, feature, cost), cost) for cost in COSTS)]
        for feature in _shown(run, US)
        if feature.base != feature.key
    ]
    costs = [f"{cost.label}, µs more" for cost in COSTS]
    return f"{table(heads, absolute)}\n\n{table(['a job that', 'than', *costs], differences)}"


def beside(run: Run) -> str:
    """All systems: what a plain job costs, and each feature more; worker, Redis and push together; Markdown."""
    names = [name for name in FEATURED if name in run.versions]
    why = {(system, feature): reason for system, feature, reason in run.failures}
    rows = []
    for feature in FEATURES.values():
        cells = [
            _cell(_all_costs(run, name, feature), COSTS[0])
            if _has(run, name, feature)
            else _reason(why, name, feature)
            for name in names
        ]
        if any(cell != DASH for cell in cells):
            rows.append([feature.label, "" if feature.key == feature.base else feature.base, *cells])
    return table(["a job that", "more than", *names], rows)


def text(run: Run) -> str:
    """The part of the page; Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    failed = [f"- {system}, {feature}: {why}" for system, feature, why in run.failures if why.startswith(_FAILED)]
    parts = [
        f"{run.date}, {run.rounds} rounds, {run.machine}, {run.server}. {versions}.",
        _METHOD,
        ours(run),
        _BESIDE,
        beside(run),
        "\n".join(failed),
    ]
    return "\n\n".join(part for part in parts if part)


def _samples(run: Run, system: str, feature: str, figure: Figure) -> list[float]:
    return run.samples.get(f"{feature}.{figure.key}", {}).get(system, [])


def _has(run: Run, system: str, feature: Feature) -> bool:
    return bool(_samples(run, system, feature.key, RATE))


def _shown(run: Run, system: str) -> list[Feature]:
    return [feature for feature in FEATURES.values() if _has(run, system, feature)]


def _all_costs(run: Run, system: str, feature: Feature) -> list[float]:
    """Worker, Redis and push together, round by round; of a feature what it costs more."""
    parts = [
        _samples(run, system, feature.key, cost)
        if feature.key == feature.base
        else more(run, system, feature, cost)
        for cost in COSTS
        if cost.key != "waiter"
    ]
    return [sum(part) for part in zip(*parts, strict=True)]


def _reason(why: Mapping[tuple[str, str], str], system: str, feature: Feature) -> str:
    reason = why.get((system, feature.key), DASH)
    return _FAILED.strip(": ") if reason.startswith(_FAILED) else reason


def _cell(values: Sequence[float], figure: Figure) -> str:
    return spread(values, figure.scale)


# The command


def main(words: Sequence[str]) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.features", description="What each feature costs.")
    parser.add_argument("--systems", metavar="A,B", help=f"these only, of {', '.join(FEATURED)}")
    parser.add_argument("--only", metavar="F,G", help=f"these and plain only, of {', '.join(FEATURES)}")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (5)")
    parser.add_argument(
        "--jobs", type=int, default=20_000, help="that run each time; slower systems get less (20000)"
    )
    parser.add_argument("--docs", action="store_true", help="put it on the page docs/benchmarks.md")
    options = parser.parse_args(words)
    if options.rounds < 1 or options.jobs < 1000:
        parser.error("--rounds must be at least 1, and --jobs at least 1000")
    systems = _named(parser, options.systems, FEATURED)
    features = _named(parser, options.only, FEATURES)
    if options.only:
        bases = {feature.base for feature in features} | {"plain"}
        features = [one for one in FEATURES.values() if one in features or one.key in bases]
    run = Run(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        quick=False,
        rounds=options.rounds,
        machine=report.machine(),
        server=server.find().description,
    )
    used = python()
    run.machine += f", {python_version(used)}"
    there = installed(systems, run, used, _say)
    try:
        measure(there, features, run, partial(_take, options.jobs), lacking, _say)
    except KeyboardInterrupt:
        run.rounds = max(
            (len(values) for figures in run.samples.values() for values in figures.values()), default=0
        )
        _say(f"stopped in round {run.rounds}")
    print(text(run))
    _say(str(keep(run.as_json(), run.date, "features")))
    if options.docs:
        attach("features", text(run))
    return 0 if there else 1


def _take(jobs: int, system: Featured, feature: Feature) -> Figures:
    return take(system, feature, int(jobs * system.scale))


def _named(parser: argparse.ArgumentParser, words: str | None, of: Mapping[str, Item]) -> list[Item]:
    names = [word.strip() for word in words.split(",") if word.strip()] if words else list(of)
    if unknown := [name for name in names if name not in of]:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(of)}")
    return [of[name] for name in names]


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what was measured is shown, in the background too
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # what was started is ended then too
    sys.exit(main(sys.argv[1:]))
