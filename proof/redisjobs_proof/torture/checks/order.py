"""Checks the order of starts, cancels, due times, and the ends of jobs that hold a key. Pure.

All times are by one machine's clock. Redis acts between a request and its answer, so each check takes the one of
these two times that leaves no doubt.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from redisjobs.events.recording import Line
from redisjobs_proof.torture.checks.clock import Clock
from redisjobs_proof.torture.checks.histories import History, Key, Run, is_outcome

_MOMENT = 1.0  # seconds in which a worker that was held up starts jobs that it got before
_ROUNDED = 0.01  # seconds: delays and the server's clock are in whole ms


def disorder(histories: Mapping[Key, History], faults: Sequence[Line], clock: Clock) -> Iterator[str]:
    """Yield events that happened too early, in words."""
    for history in histories.values():
        yield from _after_its_cancel(history, faults)
        yield from _before_its_time(history, clock)
        yield from _held_by_none(history, histories)


def _after_its_cancel(history: History, faults: Iterable[Line]) -> Iterator[str]:
    """Check that no worker started a job after Redis had cancelled it while no worker held it.

    A worker may, if it had got the job and lost it before, and a fault held it up until now.
    """
    if history.cancelled_at is None:
        return
    for run in history.runs:
        if run.at > history.cancelled_at and not any(
            held_up(fault, run, history.cancelled_at) for fault in faults
        ):
            yield (
                f"{history.label} ({history.name}) was started by {run.lease[0]} (delivery {run.lease[2]}) "
                f"{run.at - history.cancelled_at:.3f} s after it was cancelled while no worker ran it"
            )


def held_up(fault: Line, run: Run, since: float) -> bool:
    """Whether a fault explains that a worker starts only now a job that it got before."""
    mine = run.pid in fault["pids"] if fault["hits"] == "pids" else fault["hits"] == "all"
    until = fault["ended"] + fault["reaches"] + _MOMENT
    here = fault.get("db") in (None, run.start["db"])
    return bool(mine and here and fault["began"] <= since and run.at <= until)


def _before_its_time(history: History, clock: Clock) -> Iterator[str]:
    """Check that no run started before its time: Redis counts the delay from when it receives the push."""
    if history.due_at is None or history.sent_at is None or not history.runs:
        return
    began = min(run.at for run in history.runs)
    asked = history.due_at - history.sent_at
    pushed_at = max(history.sent_at, min(began, (history.ready_at or history.sent_at + asked) - asked))
    due = clock.earliest(history.db, history.sent_at, pushed_at) + asked
    early = due - clock.latest(history.db, history.sent_at, began)
    if early > _ROUNDED:
        yield f"{history.label} ({history.name}) was started {early:.3f} s before it was due"


def _held_by_none(history: History, histories: Mapping[Key, History]) -> Iterator[str]:
    """Check that the job whose key kept another one from being added had not ended before that push."""
    holder = histories.get((history.db, history.holder)) if history.holder else None
    if holder is None or history.sent_at is None:
        return
    if (ended_at := _ended_at(holder)) is not None and ended_at < history.sent_at:
        yield (
            f"{history.label} was refused, as {history.holder} holds its key, "
            f"which had ended {history.sent_at - ended_at:.3f} s before it was pushed"
        )


def _ended_at(history: History) -> float | None:
    """Return the time by which a job had surely ended; None if no answer says so."""
    ends = [line["at"] for line in history.settled if is_outcome(line)]
    ends += [at for at in (history.cancelled_at, history.dead_at) if at is not None]
    return min(ends, default=None)
