"""Writes the report of a torture: a text for people, or a document for programs."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from redisjobs_proof.torture.checks.recovery import Recovery
from redisjobs_proof.torture.checks.verdict import Verdict

_NAMED = 10  # of each thing that is wrong


def text(verdict: Verdict, where: str, seconds: float, seed: int) -> str:
    """Return the report for people."""
    dead = ", ".join(f"{number} {reason}" for reason, number in verdict.dead.items())
    lines = [
        f"{seconds:.0f} s on {where}; seed {seed}",
        f"pushed        {verdict.pushed} jobs, {verdict.acknowledged} acknowledged; "
        f"{verdict.external} external entries; {verdict.full} refused as the queue is full",
        f"follow-ups    {verdict.follow_ups} pushed by handlers as their jobs ended",
        f"flows         {verdict.steps} steps saved; waits: {_by_cause(verdict.waits)}; "
        f"signals: {_by_cause(verdict.signals)}",
        f"results       {verdict.results} to be kept; waited for {_by_cause(verdict.answers)}; "
        f"{verdict.watches} jobs watched",
        f"slots         {verdict.slots} fired, {verdict.left_out} left out for a later one",
        f"done          {verdict.done}",
        f"dead          {sum(verdict.dead.values())}" + (f" ({dead})" if dead else ""),
        f"cancelled     {verdict.cancelled}",
        f"ran again     {_by_cause(verdict.again)}",
        f"ran twice     {_by_cause(verdict.duplicates)}",
        *([f"worker lost   {_by_cause(verdict.worker_lost)}"] if verdict.worker_lost else []),
        f"refused       {verdict.refused} settlements of a lost lease",
        *([_replication(verdict)] if verdict.exposed else []),
        *([_stall(verdict)] if verdict.stalls else []),
        "",
        f"{'fault':<22}{'times':>6}{'recovery p50':>15}{'p99':>9}{'amid others, p99':>19}",
        *(_row(name, recovery) for name, recovery in sorted(verdict.faults.items())),
        "",
    ]
    for what, found in {
        "lost": verdict.lost,
        "left behind": verdict.left,
        "settled by a non-owner": verdict.stolen,
        "ended twice": verdict.twice,
        "wrong": verdict.wrong,
    }.items():
        lines += [f"{what}: {each}" for each in found[:_NAMED]]
        if len(found) > _NAMED:
            lines.append(f"{what}: {len(found) - _NAMED} more")
    lines.append(
        f"{len(verdict.lost)} lost, {len(verdict.stolen)} settled by a non-owner, {len(verdict.left)} left behind"
        + (f", {len(verdict.twice)} ended twice" if verdict.twice else "")
        + (f", {len(verdict.wrong)} wrong" if verdict.wrong else "")
    )
    return "\n".join(lines)


def _stall(verdict: Verdict) -> str:
    """Return the longest time in which a database stood still."""
    longest = max(verdict.stalls, key=lambda stall: stall.seconds)
    amid = f", amid {' and '.join(longest.amid)}" if longest.amid else ""
    return f"longest stall {longest.seconds:.1f} s, in database {longest.db}{amid}"


def _replication(verdict: Verdict) -> str:
    """Return what the server itself may have lost: it is counted apart, and not wrong."""
    found = {label: len(texts) for label, texts in verdict.replication.items()}
    if verdict.keeps_jobs:
        return f"by crashes    {_by_cause(found)} of {verdict.exposed} claimed or ended just before"
    return f"by replication {_by_cause(found)} of {verdict.exposed} written as a server was replaced"


def _by_cause(counts: dict[str, int]) -> str:
    causes = ", ".join(f"{number} {cause}" for cause, number in counts.items())
    return f"{sum(counts.values())}" + (f" ({causes})" if causes else "")


def _row(name: str, recovery: Recovery) -> str:
    row = f"{name:<22}{recovery.times:>6}"
    for width, (values, percent) in zip((15, 9, 19), _columns(recovery), strict=True):
        row += f"{percentile(values, percent):>{width - 2}.2f} s" if values else " " * width
    return row.rstrip()


def _columns(recovery: Recovery) -> Sequence[tuple[Sequence[float], float]]:
    return (recovery.seconds, 50), (recovery.seconds, 99), (recovery.disturbed, 99)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least this percentage of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-len(ordered) * percent // 100) - 1)]


def document(verdict: Verdict, where: str, seconds: float, seed: int) -> dict[str, Any]:
    """Return the report for programs."""
    found = asdict(verdict)
    found["faults"] = {
        name: {
            "times": recovery.times,
            "recoveries": len(recovery.seconds),
            **{
                key: round(percentile(values, percent), 3) if values else None
                for key, (values, percent) in zip(("p50", "p99", "p99_disturbed"), _columns(recovery), strict=True)
            },
        }
        for name, recovery in sorted(verdict.faults.items())
    }
    head = {"passed": verdict.passed, "where": where, "seconds": round(seconds, 1), "seed": seed}
    return {**head, **found}
