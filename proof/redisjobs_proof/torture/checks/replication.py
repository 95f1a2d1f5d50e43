"""Sets apart what asynchronous replication may have lost. Pure.

A fault that replaces a server before its replica has all data is `lossy` for a while: Redis may forget what it
acknowledged then. Redisjobs can't prevent that, so it is counted, and is not wrong. Only jobs, schedules and keys
with an acknowledged write in that time are excused.

A PostgreSQL server whose standby is promoted is lossy in the same way. One that crashes is lossy, too, but
`keeps_jobs`: claims, and ends of jobs that leave no result, do not wait until they are on disk. Such a job may
run once more. It is never lost.
"""

import re
from collections.abc import Iterable, Mapping, Set
from typing import Any

from redisjobs.events.recording import Line
from redisjobs_proof.torture.checks.answers import MIXED_UP
from redisjobs_proof.torture.checks.verdict import Verdict

REPLICATION = "replication"
"""The cause of a second run: Redis forgot what it knew of the first."""

_ANSWERED = (
    "pushed",
    "settled",
    "cancelled",
    "ended",
    "fired",
    "follow-up",
    "external",
    "start",
    "saved",
    "signalled",
)
_SET_APART = {"lost": "lost", "stolen": "settled by a non-owner", "twice": "ended twice", "wrong": "wrong"}


def exposed(lines: Iterable[Line], *, losing: bool = False) -> Set[str]:
    """Return the jobs, schedules and keys with an acknowledged write that replication may have lost.

    `losing`: leave out faults by which no job may be lost.
    """
    told = list(lines)
    faults = [line for line in told if _is_lossy(line) and not (losing and line.get("keeps_jobs"))]
    kept = {line["job"] for line in told if line.get("kept")} if faults else set()
    found = set[str]()
    for line in told if faults else ():
        for fault in faults:
            if _is_within(line, *fault["lossy"]) and not (fault.get("keeps_jobs") and _is_durable(line, kept)):
                found |= _names(line)
    return found


def taken_over(lines: Iterable[Line]) -> Set[str]:
    """Return the jobs that a worker started while the server may have lost writes: it may not know that worker."""
    told = list(lines)
    faults = [line for line in told if _is_lossy(line)]
    starts = [line for line in told if line["what"] == "start"] if faults else []
    return {line["job"] for line in starts if any(_is_within(line, *fault["lossy"]) for fault in faults)}


def _is_lossy(line: Line) -> bool:
    return line["what"] == "fault" and bool(line.get("lossy"))


def keep_jobs(lines: Iterable[Line]) -> bool:
    """Whether no job may be lost by the faults that are lossy."""
    return all(line.get("keeps_jobs") for line in lines if _is_lossy(line))


def _is_durable(line: Line, kept: Set[str]) -> bool:
    """Whether Postgres writes this to disk before it answers: all but claims, and ends that leave no result."""
    if line["what"] == "settled":
        return line["settlement"] != "Ack" or line["job"] in kept
    return bool(line["what"] != "start")


def set_apart(verdict: Verdict, names: Set[str], *, lost: Set[str], stolen: Set[str]) -> None:
    """Move what is wrong with these jobs, schedules and keys to `verdict.replication`.

    Of jobs that are lost, or settled by a non-owner, only those with a name in `lost`, or in `stolen`. A job
    that has the result of another one is never excused.
    """
    for field, label in _SET_APART.items():
        mine, found = {"lost": lost, "stolen": stolen}.get(field, names), list[str](getattr(verdict, field))
        excused = [text for text in found if not text.startswith(MIXED_UP) and _is_about_any(text, mine)]
        if excused:
            verdict.replication[label] = excused
            setattr(verdict, field, [text for text in found if text not in excused])
    verdict.exposed = len(names)


def _is_about_any(text: str, names: Iterable[str]) -> bool:
    return any(_is_about(text, name) for name in names)


def _is_about(text: str, name: str) -> bool:
    """Whether a text has the whole name: external entries may have ids like 0-0, which many other ids contain."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None


def _is_within(line: Line, since: float, until: float) -> bool:
    # A worker records the reply to a settlement later than Redis wrote it.
    return any(since <= at <= until for at in (line["at"], line.get("sent_at") or line["at"]))


def _names(line: Mapping[str, Any]) -> Set[str]:
    """Return what an acknowledged write was about; nothing if the line is of something else."""
    if line["what"] == "version":
        return {line["key"]}
    if line["what"] not in _ANSWERED or not line["job"].strip():
        return set()
    schedule, is_slot, _ = line["job"].rpartition("@")
    return {line["job"], f"schedule '{schedule}'"} if is_slot else {line["job"]}
