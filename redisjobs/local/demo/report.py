"""The text that the demo prints at its end."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from redisjobs.base.visible import number_of
from redisjobs.drivers.redis.commands import Commands
from redisjobs.local.demo.place import DemoQueue
from redisjobs.local.demo.results import ResultLine, Verdict
from redisjobs.local.demo.workers import Kill

_NAMED = 10  # the most lost or wrong files to name


@dataclass(slots=True)
class Run:
    """The numbers of a run.

    Attributes:
        jobs: How many jobs there were.
        lease: The worker's lease in seconds.
        seconds: From the first push until all jobs were done.
        kill: The kill of a worker; None if no worker was found with a running job.
        before: How many jobs were done before the kill.
        before_seconds: The seconds until the kill.
    """

    jobs: int
    lease: float
    seconds: float = 0.0
    kill: Kill | None = None
    before: int = 0
    before_seconds: float = 0.0


def text(run: Run, lines: Sequence[ResultLine], place: DemoQueue) -> str:
    """Return how fast the run was, what the kill did, and which commands to try."""
    rate = f"{run.jobs} jobs in {run.seconds:.1f} s: {run.jobs / run.seconds:.0f} jobs/s"
    if run.kill is None:
        found = [rate]
        found += ["no worker was killed: all jobs were done before one was found running; give a larger directory"]
    else:
        found = [f"{rate} ({run.before / run.before_seconds:.0f} jobs/s until the kill)"]
        found += [_recovery(run.kill, lines, run.lease)]
    found += [f"{number_of(_twice(lines), 'job')} ran twice"]
    found += [f"look around ({place.stays or f'on a run with --keep: this {place.gone} is gone'}):"]
    return "\n".join([*found, *(f"  {command}" for command in commands(place))])


def _twice(lines: Sequence[ResultLine]) -> int:
    starts = [line.job for line in lines if not line.ended]
    return len(starts) - len(set(starts))


def _recovery(kill: Kill, lines: Sequence[ResultLine], lease: float) -> str:
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


def commands(place: DemoQueue) -> list[str]:
    """Return three commands to paste: for the counters, the workers and the dead letters."""
    program, prefix = _redis_cli(place.typed), Commands(place.queue).prefix
    return [
        f"{program} HGETALL '{prefix}stats'",
        f"{program} XINFO CONSUMERS '{prefix}ready:normal' workers",
        f"{program} XRANGE '{prefix}dead' - + COUNT 10",
    ]


def _redis_cli(url: str) -> str:
    """Return the program with the address of the server. It takes one node of a cluster, and no sentinel."""
    scheme, _, rest = url.partition("://")
    plain, _, topology = scheme.partition("+")
    if topology == "cluster":
        node = rest.partition(",")[0]
        return f"redis-cli -c -u {shlex.quote(f'{plain}://{node}')}"
    return f"redis-cli -u {shlex.quote(url)}" if not topology else "redis-cli -h MASTER"


def conclusion(verdict: Verdict, skipped: int) -> str:
    """Return how many files were verified, after the files that were lost, wrong or left out.

    Args:
        verdict: The verdict on the files that had jobs.
        skipped: How many files had no job, because of their names.
    """
    asides = {
        "could not be read: gone, or no permission": len(verdict.unreadable),
        "changed after a worker had read them": len(verdict.changed),
        "left out: the name is not UTF-8": skipped,
    }
    found = [f"{number_of(number, 'file')} {what}" for what, number in asides.items() if number]
    for what, paths in {"lost": verdict.lost, "wrong": verdict.wrong}.items():
        found += [f"{what}: {path}" for path in paths[:_NAMED]]
        if len(paths) > _NAMED:
            found.append(f"{what}: {len(paths) - _NAMED} more")
    wrong = f", {len(verdict.wrong)} wrong" if verdict.wrong else ""
    return "\n".join([*found, f"verified {verdict.verified} files: {len(verdict.lost)} lost{wrong}"])
