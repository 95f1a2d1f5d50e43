"""`python -m benchmarks.chain`: jobs that each push the next, as workers and server are killed."""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.systems import Failed
from redisjobs.errors import DriverError
from redisjobs.events.recording import Line
from redisjobs.local import server
from redisjobs_proof.torture.checks import lines
from redisjobs_proof.torture.checks.follow_ups import follow_up
from redisjobs_proof.torture.checks.histories import histories_of
from redisjobs_proof.torture.fleet.final import FinalState, final_state
from redisjobs_proof.torture.fleet.fleet import Fleet
from redisjobs_proof.torture.fleet.hosts import Kind
from redisjobs_proof.torture.fleet.jobs import Step
from redisjobs_proof.torture.fleet.redis_store import RedisStore

_WORKERS = 2
_LEASE = 0.5  # seconds: no worker takes a job over before it has lived for a lease, and few live for long here
_TAKES = 0.05  # seconds that a step takes: else all of them would be done before the first kill
_AWAY = 0.2  # seconds that the server is away
_WITHIN = 1200.0  # seconds
_KIND = Kind(("--max-deliveries", "100", "--no-schedules"))
"""Workers that give no step up: one may well be hit a few times, and is no poison."""


@dataclass(slots=True)
class Kills:
    """What was killed.

    Attributes:
        workers: How many worker processes.
        servers: How often the server.
    """

    workers: int = 0
    servers: int = 0


@dataclass(slots=True)
class Judged:
    """What came of a chain.

    Attributes:
        created: Steps that are known to have been created.
        ended: Those that have ended as done.
        runs: How often a step was started.
        wrong: What must not be, in words.
    """

    created: int = 0
    ended: int = 0
    runs: int = 0
    wrong: list[str] = field(default_factory=list)


def endure(steps: int, every: float, seed: int) -> tuple[Kills, Judged]:
    """Run a chain of this many steps to its end, with a kill every few seconds.

    Raises:
        Failed: It did not end in 20 minutes.
    """
    rng, kills = random.Random(seed), Kills()
    with (
        tempfile.TemporaryDirectory(prefix="redisjobs-chain-") as name,
        server.start(options=("--appendfsync", "always")) as there,
        Fleet([there.url], "chain", Path(name), _LEASE, rng, kinds=[_KIND] * _WORKERS) as fleet,
    ):
        store = RedisStore(there.url, "chain")
        fleet.start()
        _wait_for_all(fleet)
        first = store.queue.push(Step(steps - 1, "key", _TAKES), unique="key").id
        at = time.monotonic()
        until = at + _WITHIN
        while not store.drained:  # a step is there before the one that pushed it has gone
            if time.monotonic() > until:
                raise Failed(f"the chain did not end in {_WITHIN:g} s")
            fleet.tend()
            if time.monotonic() > at + every:
                at = time.monotonic()
                _kill_one(fleet, there, rng, kills)
            time.sleep(0.05)
        fleet.dismiss()
        judged = judge(list(lines.read(name)), final_state(store), first, steps)
        judged.wrong += fleet.unasked
        store.close()
    return kills, judged


def judge(told: Sequence[Line], final: FinalState, first: str, steps: int) -> Judged:
    """What came of a chain.

    Args:
        told: What the workers wrote down.
        final: What is in the store.
        first: The id of the first step.
        steps: How many there must be.
    """
    pushed = {"what": "push", "job": first, "db": 0, "name": "Step", "at": 0.0}
    known = {"what": "pushed", "job": first, "db": 0, "holder": "", "added": True, "at": 0.0}
    ordered = sorted([pushed, known, *told], key=lambda line: line["at"])
    histories = histories_of(ordered)
    _, wrong = follow_up(histories, ordered, [final])
    created = [history for history in histories.values() if history.acknowledged]
    judged = Judged(len(created), sum(bool(history.done) for history in created), wrong=wrong)
    judged.runs = sum(len(history.runs) for history in histories.values())
    judged.wrong += [f"{history.label} was created, and never ended" for history in created if not history.done]
    judged.wrong += [f"{history.label} ended twice" for history in created if len(history.outcomes) > 1]
    judged.wrong += [*final.left, *(f"{letter.job} is a dead letter: {letter.reason}" for letter in final.letters)]
    if judged.created != steps:
        judged.wrong.append(f"{judged.created} steps were created, and there must be {steps}")
    totals = Counter(final.totals)
    for counter in ("pushed", "completed"):
        if totals[counter] != steps:
            judged.wrong.append(f"the store counts {totals[counter]} {counter}, and there must be {steps}")
    return judged


def _wait_for_all(fleet: Fleet) -> None:
    until = time.monotonic() + _WITHIN
    while not fleet.complete:
        if time.monotonic() > until:
            raise Failed(f"the workers did not start in {_WITHIN:g} s:\n{fleet.log_end()}")
        time.sleep(0.05)


def _kill_one(fleet: Fleet, there: server.Server, rng: random.Random, kills: Kills) -> None:
    """Kill a worker, or now and then the server, which is started again."""
    if rng.random() < 0.4:
        there.kill()
        time.sleep(_AWAY)
        there.restart()
        kills.servers += 1
    elif (pid := fleet.some_pid(supervised=False)) is not None:
        fleet.victims.add(pid)
        os.kill(pid, signal.SIGKILL)
        kills.workers += 1


def main(words: Sequence[str]) -> int:
    """The command; its exit code: 1 if a step was not created once and ended once."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chain", description="A chain of jobs under repeated SIGKILL."
    )
    parser.add_argument("--steps", type=int, default=200, help="how many jobs the chain has (200)")
    parser.add_argument("--every", type=float, default=1, help="seconds between two kills (1)")
    parser.add_argument("--seed", type=int, default=1, help="of what is killed (1)")
    options = parser.parse_args(words)
    began = time.monotonic()
    try:
        kills, judged = endure(options.steps, options.every, options.seed)
    except (Failed, DriverError) as failed:
        print(f"failed: {failed}")
        return 1
    print(
        f"{options.steps} steps, {_WORKERS} workers, {time.monotonic() - began:.0f} s: "
        f"{kills.workers} kills of a worker, {kills.servers} of the server; "
        f"{judged.created} created, {judged.ended} ended, {judged.runs} runs"
    )
    print("\n".join(judged.wrong) or "each step once")
    return 1 if judged.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
