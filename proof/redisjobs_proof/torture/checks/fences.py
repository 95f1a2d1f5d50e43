"""Checks that workers which were frozen for longer than their lease, or killed, were fenced in time. Pure."""

from collections.abc import Iterator, Sequence

from redisjobs.events.recording import Line
from redisjobs_proof.torture.checks.causes import Leases, holds_up, noticed_by
from redisjobs_proof.torture.checks.lines import supervisors

_WITHIN = 2.5  # seconds after the end of a lease in which another worker has to fence its worker


def unfenced(lines: Sequence[Line], faults: Sequence[Line], leases: Leases) -> Iterator[str]:
    """Yield workers that sent no heartbeat for long enough and were not fenced, in words.

    No fence is expected if the other workers could not be sure, because a fault kept them from renewing too, or if
    none of them was there for long enough. `lines` are in order of time.
    """
    for fault in faults:
        for what, worker, pid in _to_be_fenced(fault):
            lease, db = leases.of(pid), _database(lines, pid, fault)
            if fault["ended"] - fault["began"] < lease + _WITHIN or _held_up(fault, faults, db, leases):
                continue
            seen = [line["at"] for line in lines if line["what"] == "fenced" and line["worker"] == worker]
            in_time = any(fault["began"] <= at <= fault["ended"] for at in seen)
            if not in_time and _is_watched(lines, fault, db, lease):
                seconds = fault["ended"] - fault["began"]
                yield f"{worker} {what} for {seconds:.1f} s, by a lease of {lease:g} s, and was not fenced"


def _to_be_fenced(fault: Line) -> Iterator[tuple[str, str, int]]:
    for what, key in (("stood still", "silent"), ("was gone", "lost")):
        for worker, pid in zip(fault.get(key, ()), fault["pids"], strict=False):
            yield what, worker, pid


def _database(lines: Sequence[Line], pid: int, fault: Line) -> int:
    return next((int(line["db"]) for line in lines if line.get("pid") == pid), fault["db"] or 0)


def _held_up(fault: Line, faults: Sequence[Line], db: int, leases: Leases) -> bool:
    """Whether another fault may have kept the other workers from fencing."""
    return any(
        other is not fault
        and holds_up(other, db)
        and other["began"] <= fault["ended"]
        and fault["began"] <= noticed_by(other) + leases.longest
        for other in faults
    )


def _is_watched(lines: Sequence[Line], fault: Line, db: int, lease: float) -> bool:
    """Whether another worker was there for long enough to become sure and to fence."""
    heard: dict[int, list[float]] = {}
    others = supervisors(lines) | {*fault["pids"]}
    for line in lines:
        if line.get("db") == db and "pid" in line and line["pid"] not in others:
            heard.setdefault(line["pid"], []).append(line["at"])
    came_by = fault["ended"] - lease - _WITHIN
    return any(times[0] <= came_by and fault["ended"] <= times[-1] for times in heard.values())
