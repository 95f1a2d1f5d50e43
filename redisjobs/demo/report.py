"""What the demo has to say at its end."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from redisjobs.base.visible import number_of
from redisjobs.demo.place import Place
from redisjobs.demo.results import Line, Verdict
from redisjobs.demo.workers import Kill
from redisjobs.drivers.redis.commands import Commands

_NAMED = 10  # files named where there is something wrong with them


@dataclass(slots=True)
class Run:
    """How the run went.

    Attributes:
        jobs: How many there were.
        lease: Seconds.
        seconds: From the first push until all were done.
        kill: Which worker was killed; None if none could be caught with a job.
        before: Jobs done until the kill.
        before_seconds: How long that took.
    """

    jobs: int
    lease: float
    seconds: float = 0.0
    kill: Kill | None = None
    before: int = 0
    before_seconds: float = 0.0


def text(run: Run, lines: Sequence[Line], place: Place) -> str:
    """How fast it went, what the kill did, and where to look."""
    rate = f"{run.jobs} jobs in {run.seconds:.1f} s: {run.jobs / run.seconds:.0f} jobs/s"
    if run.kill is None:
        told = [rate]
        told += [
            "no worker was killed: all was done before one could be caught with a job; give a larger directory"
        ]
    else:
        told = [f"{rate} ({run.before / run.before_seconds:.0f} jobs/s until the kill)"]
        told += [_recovery(run.kill, lines, run.lease)]
    told += [f"{number_of(_twice(lines), 'job')} ran twice"]
    told += [f"look around ({place.stays or f'on a run with --keep: this {place.gone} is gone'}):"]
    return "\n".join([*told, *(f"  {command}" for command in commands(place))])


def _twice(lines: Sequence[Line]) -> int:
    starts = [line.job for line in lines if not line.ended]
    return len(starts) - len(set(starts))


def _recovery(kill: Kill, lines: Sequence[Line], lease: float) -> str:
    again: dict[str, float] = {}
    for line in lines:
        if line.job in kill.held and not line.ended and line.pid != kill.pid and line.at >= kill.at:
            again[line.job] = min(line.at, again.get(line.job, line.at))
    if not again:
        return "none of the killed worker's jobs ran again"
    first, last = min(again.values()) - kill.at, max(again.values()) - kill.at
    return (
        f"{last:.1f} s from the kill until the killed worker's {number_of(len(again), 'job')} "
        f"{'was' if len(again) == 1 else 'were'} running again "
        f"(the first after {first:.1f} s; the lease is {lease:g} s)"
    )


def commands(place: Place) -> list[str]:
    """Three commands to paste: the counters, who worked, and what became a dead letter."""
    typed = shlex.quote(place.typed)
    prefix = Commands(place.queue).prefix
    return [
        f"redis-cli -u {typed} HGETALL '{prefix}stats'",
        f"redis-cli -u {typed} XINFO CONSUMERS '{prefix}ready:normal' workers",
        f"redis-cli -u {typed} XRANGE '{prefix}dead' - + COUNT 10",
    ]


def conclusion(verdict: Verdict, skipped: int) -> str:
    """What was found in the files, what is missing first.

    Args:
        verdict: What became of the files there were jobs for.
        skipped: How many files there could be no job for.
    """
    asides = {
        "could not be read: gone, or no permission": len(verdict.unreadable),
        "changed after a worker had read them": len(verdict.changed),
        "left out: the name is not UTF-8": skipped,
    }
    told = [f"{number_of(number, 'file')} {what}" for what, number in asides.items() if number]
    for what, paths in {"lost": verdict.lost, "wrong": verdict.wrong}.items():
        told += [f"{what}: {path}" for path in paths[:_NAMED]]
        if len(paths) > _NAMED:
            told.append(f"{what}: {len(paths) - _NAMED} more")
    wrong = f", {len(verdict.wrong)} wrong" if verdict.wrong else ""
    return "\n".join([*told, f"verified {verdict.verified} files: {len(verdict.lost)} lost{wrong}"])
