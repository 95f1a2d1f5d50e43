"""Rounds: each measure goes round all systems, again and again."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from benchmarks.measures import Figures
from benchmarks.report import Run
from benchmarks.systems import Failed, System

S = TypeVar("S", bound=System)
A = TypeVar("A")


def installed(systems: Sequence[S], run: Run, python: str, say: Callable[[str], None]) -> list[S]:
    """Install what can be; what can't is reported and skipped."""
    there = list[S]()
    for system in systems:
        try:
            run.versions[system.name] = system.install(python)
            there.append(system)
        except Failed as failed:
            say(f"{system.name}: skipped, {failed}")
            run.fail(system.name, "install", str(failed))
    return there


def measure(
    systems: Sequence[S],
    measures: Mapping[str, Callable[[S, A], Figures]],
    run: Run,
    amount: A,
    say: Callable[[str], None],
) -> None:
    """All rounds, interleaved: each measure goes round the systems before it is taken again.

    A measure that fails is reported, and not taken again of that system.
    """
    failed: set[tuple[str, str]] = set()
    for number in range(run.rounds):
        for name, take in measures.items():
            if name == "idle" and run.quick and number:
                continue  # it counts, and takes its time: once is enough
            for system in _turned(systems, number):
                if (system.name, name) in failed:
                    continue
                started = time.monotonic()
                try:
                    run.add(system.name, take(system, amount))
                    took = time.monotonic() - started
                    say(f"round {number + 1} of {run.rounds}: {name}, {system.name}: {took:.1f} s")
                except Failed as error:
                    failed.add((system.name, name))
                    say(f"{system.name}, {name}: failed, {error}")
                    run.fail(system.name, name, str(error))


def _turned(systems: Sequence[S], by: int) -> list[S]:
    """No system always comes after the same one."""
    by %= max(len(systems), 1)
    return [*systems[by:], *systems[:by]]
