"""Sets apart what asynchronous replication may have lost. Pure.

A fault that replaces a server before its replica has all data is `lossy` for a while: Redis may forget what it
acknowledged then. Redisjobs can't prevent that, so it is counted, and is not wrong. Only jobs, schedules and keys
with an acknowledged write in that time are excused.
"""

import re
from collections.abc import Iterable, Mapping, Set
from typing import Any

from redisjobs.events.recording import Line
from redisjobs.torture.checks.verdict import Verdict

REPLICATION = "replication"
"""The cause of a second run: Redis forgot what it knew of the first."""

_ANSWERED = ("pushed", "settled", "cancelled", "ended", "fired", "follow-up", "external", "start")
_SET_APART = {"lost": "lost", "stolen": "settled by a non-owner", "twice": "ended twice", "wrong": "wrong"}


def exposed(lines: Iterable[Line]) -> Set[str]:
    """Return the jobs, schedules and keys with an acknowledged write that replication may have lost."""
    told = list(lines)
    spans = [fault["lossy"] for fault in told if fault["what"] == "fault" and fault.get("lossy")]
    found = set[str]()
    for line in told if spans else ():
        if any(_is_within(line, *span) for span in spans):
            found |= _names(line)
    return found


def set_apart(verdict: Verdict, names: Set[str]) -> None:
    """Move what is wrong with these jobs, schedules and keys to `verdict.replication`."""
    for field, label in _SET_APART.items():
        found: list[str] = getattr(verdict, field)
        if excused := [text for text in found if any(_is_about(text, name) for name in names)]:
            verdict.replication[label] = excused
            setattr(verdict, field, [text for text in found if text not in excused])
    verdict.exposed = len(names)


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
