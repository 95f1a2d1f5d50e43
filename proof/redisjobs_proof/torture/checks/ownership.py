"""Finds settlements accepted from a worker that had lost the job, or refused to one that owned it. Pure."""

from collections.abc import Iterator, Mapping, Sequence

from redisjobs.events.recording import Line
from redisjobs_proof.torture.checks.histories import History, Run, was

_DELIVERED = 1.0  # seconds from a job's delivery to its start, if the network is slow
_STARTED = 0.15  # seconds from a job's delivery to its start, if many processes want to run at once


def stolen(history: History, fenced: Mapping[str, float], recounted: Sequence[float]) -> list[str]:
    """Return accepted settlements of workers that no longer owned the job, in words.

    At each time in `recounted`, the count of the job's deliveries began at zero again.
    """
    return list(_settled_after_others(history, recounted)) or list(_settled_by_fenced(history, fenced))


def _settled_by_fenced(history: History, fenced: Mapping[str, float]) -> Iterator[str]:
    for settled in history.settled:
        late = settled["sent_at"] - fenced.get(settled["worker"], float("inf"))
        if settled["reply"] != "LEASE_LOST" and late > 0:
            yield f"{history.label}: {settled['worker']} settled it {late:.3f} s after it was fenced"


def _settled_after_others(history: History, recounted: Sequence[float]) -> Iterator[str]:
    """Yield settlements that were accepted though another worker had started the job before they were sent."""
    for settled in history.settled:
        if settled["reply"] == "LEASE_LOST" or not (settled["sent_at"] and settled["attempt"]):
            continue  # a job that was released unread has no known attempt
        for run in history.runs:
            if run.at < settled["sent_at"] and _is_later(run, settled, history, recounted):
                yield (
                    f"{history.label}: {settled['worker']} settled attempt {settled['attempt']}, "
                    f"delivery {settled['deliveries']} {settled['sent_at'] - run.at:.3f} s "
                    f"after {run.lease[0]} had started it"
                )
                break


def _is_later(run: Run, settled: Line, history: History, recounted: Sequence[float]) -> bool:
    """Whether a run is of another worker, by a later lease than that of a settlement.

    Leases come in the order (attempt, delivery). Two workers may have equal leases after a release, which takes
    the delivery back. After the group was destroyed or a consumer removed, deliveries count from zero again. A
    worker that still runs a job released since may have received it again, and goes on with it.
    """
    worker, *theirs = run.lease
    if worker == settled["worker"]:
        return False
    mine = [settled["attempt"], settled["deliveries"]]
    if (between := _turn(run, settled, history)) is not None:
        return between
    # A worker that got the job before the recount may start it afterwards, and have lost it in between.
    if any(run.at - _STARTED <= at <= settled["sent_at"] for at in recounted):
        return bool(theirs[0] > mine[0])
    if theirs != mine:
        return theirs > mine
    starts = [each.at for each in history.runs if each.lease[0] == settled["worker"]]
    # If the job was released before its start, we don't know when that lease began.
    began = max((at for at in starts if at <= settled["sent_at"]), default=float("inf"))
    return run.at > began and not _was_released(run, settled["sent_at"])


def _turn(run: Run, settled: Line, history: History) -> bool | None:
    """Whether a suspension lies between the run that was settled and another one, and that one is the later.

    None if there is no suspension between them. A suspension forgets the deliveries.
    """
    own = next((each.at for each in history.runs if each.settled is settled), None)
    for line in history.settled:
        # Of one that was sent again we know only that it came after the start of its own run.
        if was(line, "Suspend") and (not line["resent"] or run.settled is line):
            if own is None and run.at <= line["sent_at"] <= settled["sent_at"]:
                return False  # it was released before its start, and may have come after the suspension
            if own is not None and own <= line["sent_at"] < run.at:
                return True
            if own is not None and run.at <= line["sent_at"] < own:
                return False
    return None


def _was_released(run: Run, before: float) -> bool:
    settled = run.settled
    if settled is None or settled["settlement"] != "Release":
        return False
    return bool(not run.refused and settled["at"] <= before)


def wrongly_refused(history: History, fenced: Mapping[str, float], destroyed: Sequence[float]) -> Iterator[str]:
    """Yield outcomes that Redis refused to a worker that was never fenced, in words.

    Only a fence takes a job from its worker. An outcome that is sent again after its reply was lost gets the same
    reply as the first time.
    """
    for run in history.runs:
        settled = run.settled
        if settled is None or not run.refused or settled["worker"] in fenced:
            continue
        # After the group was destroyed, a worker that had the job before may have been the first to end it. And a
        # worker that got it before may start it afterwards.
        began = min(other.at for other in history.runs) - _DELIVERED
        if not any(began <= at <= settled["at"] for at in destroyed):
            again = "sent again, " if settled["resent"] else ""
            yield f"{history.label} ({history.name}) was refused to {run}, {again}though it was not fenced"
