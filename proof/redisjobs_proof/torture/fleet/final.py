"""Reads the contents of a database at the end of a torture, and finds what should be gone."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from redisjobs.control.findings import FAULTS
from redisjobs.model.changes import JobStatus
from redisjobs.model.health import Level
from redisjobs.model.stored import ScheduleInfo
from redisjobs_proof.torture.fleet.store import Letter, Store


@dataclass(slots=True)
class FinalState:
    """The contents of one database at the end.

    Attributes:
        left: Jobs and keys that should be gone, in words.
        located: The place of each id in the locator.
        totals: The counters.
        statuses: The status of each job whose result was to be kept, by id.
    """

    letters: list[Letter] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    located: dict[str, str] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    schedules: list[ScheduleInfo] = field(default_factory=list)
    statuses: dict[str, JobStatus] = field(default_factory=dict)


def final_state(store: Store, kept: Sequence[str] = ()) -> FinalState:
    """Read the contents of a database, and the statuses of the jobs in `kept`."""
    letters = store.letters()
    final = FinalState(
        letters=[*letters.values()],
        located=store.located(),
        totals=dict(store.counts().totals),
        schedules=store.queue.schedules.list(),
        statuses=store.statuses(kept),
    )
    final.left += _unlocated(final.located, letters.keys())
    final.left += store.left(final.schedules)
    final.left += _diagnosed(store)
    return final


def _unlocated(located: Mapping[str, str], found: Collection[str]) -> Iterator[str]:
    """Yield differences between dead letters and the locator; `found` has the places of the dead letters."""
    for place in sorted({*found} - {*located.values()}):
        yield f"the dead letter {place[5:]}, which no id finds"
    for job, place in located.items():
        if not place.startswith("dead "):
            yield f"{job} in the locator, at {place}"
        elif place not in found:
            yield f"{job} in the locator as dead, but no dead letter"


def _diagnosed(store: Store) -> Iterator[str]:
    """Yield faults that the doctor finds in the data."""
    for finding in store.queue.control.doctor():
        if finding.check in FAULTS or (finding.check == "data" and finding.level is not Level.OK):
            yield f"the doctor finds {finding.sentence}"
