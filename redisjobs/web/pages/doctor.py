"""The doctor: what is wrong with the queue and its server, what to do, and a repair of the data."""

from collections.abc import Sequence
from dataclasses import dataclass

from redisjobs.base.visible import visible
from redisjobs.control.findings import REPAIRABLE, WALKED
from redisjobs.model.health import Finding, Level
from redisjobs.web.board.access import Verb
from redisjobs.web.board.filters import key_of
from redisjobs.web.board.visit import ViewAnswer, Visit

_LEVELS = {
    Level.ERROR: "dead",
    Level.WARNING: "delayed",
    Level.UNKNOWN: "idle",
    Level.INFO: "ready",
    Level.OK: "done",
}
"""The colours of levels, the worst first."""

_OF_JOBS = frozenset(
    (
        "stranded, parked, no record, no due time, waits, unreadable, twice, unlocated, ghost, held, waiters, "
        "signals, steps"
    ).split(", ")
)
"""The checks whose examples are ids of jobs."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A finding on the page.

    Attributes:
        finding: The finding.
        color: The colour of its level.
        said: Its sentence, without the examples that are links.
        links: Examples, with the addresses of their pages.
        more: How many there are besides.
    """

    finding: Finding
    color: str
    said: str
    links: Sequence[tuple[str, str]] = ()
    more: int = 0


async def doctor(visit: Visit) -> ViewAnswer:
    """Show the last run of the doctor, and what can be checked without a look at each job."""
    checkup, now_found = visit.board.checkup, await visit.board.quick_checks()
    is_running = checkup.is_running  # before its result: the run may end between the two
    last = checkup.last
    walked = [each for each in last.findings if each.check in WALKED] if last else []
    data = {
        "checkup": checkup,
        "is_running": is_running,
        "last": last,
        "walked": _shown(visit, walked),
        "now_found": _shown(visit, now_found),
        "repairable": any(each.check in REPAIRABLE and not each.repaired for each in walked),
        "may_repair": Verb.REPAIR in visit.verbs,
    }
    return ViewAnswer("doctor", "Doctor", data, view="doctor")


def _shown(visit: Visit, findings: Sequence[Finding]) -> list[Shown]:
    """Return findings for the page, the worst first."""
    levels = list(_LEVELS)
    shown = map(visit.board.redaction.finding, findings)
    return [_one(visit, each) for each in sorted(shown, key=lambda each: levels.index(each.level))]


def _one(visit: Visit, finding: Finding) -> Shown:
    color = "done" if finding.repaired else _LEVELS[finding.level]
    if not finding.examples:
        return Shown(finding, color, finding.sentence)
    head = finding.sentence.partition(f" ({visible(finding.examples[0], 60)}")[0]
    if finding.check in _OF_JOBS:
        links = [(each, visit.url("job", id=key_of(each))) for each in finding.examples]
    elif finding.check == "handlers":
        links = [(each, visit.url("name", name=each)) for each in finding.examples]
    else:
        return Shown(finding, color, finding.sentence)
    if head == finding.sentence:  # the examples stand elsewhere in it
        return Shown(finding, color, head, links)
    return Shown(finding, color, f"{head}.", links, max(0, finding.count - len(links)))
