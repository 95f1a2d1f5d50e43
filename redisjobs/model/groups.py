"""Dead letters by kind of failure: what steps of grouping come to in all."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from redisjobs.model.codec import when
from redisjobs.model.queries import Group

MOST_GROUPS = 1_000
MOST_NAMES = 50


@dataclass(frozen=True, slots=True)
class DeadGroup:
    """Dead letters of one kind: of one fingerprint, or of one reason where they have none.

    Attributes:
        fingerprint: Of their failures; '' for none.
        reason: Why they are dead, in a word or two; of the newest.
        error_type: The class of the exception; of the newest.
        count: How many there are.
        names: Of their jobs; up to 50 of them.
        job_id: The id of the newest, for an example.
        error: Of the newest, in one line.
        first_at: When the first of them died.
        last_at: When the last did.
    """

    fingerprint: str
    reason: str
    error_type: str
    count: int
    names: tuple[str, ...]
    job_id: str
    error: str
    first_at: datetime
    last_at: datetime


class Groups:
    """Adds the groups of steps up. They are few, however many letters there are."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], Group] = {}

    def add(self, groups: Iterable[Group]) -> None:
        """Add those of a step, which are older than all before. Beyond the newest 1,000 no other kind is taken."""
        for group in groups:
            kind = (group.fingerprint, "" if group.fingerprint else group.reason)
            if newer := self._groups.get(kind):
                self._groups[kind] = _sum(newer, group)
            elif len(self._groups) < MOST_GROUPS:
                self._groups[kind] = group

    def result(self) -> list[DeadGroup]:
        """All of them, the largest first."""
        return [_told(group) for group in sorted(self._groups.values(), key=lambda group: -group.count)]


def _sum(newer: Group, older: Group) -> Group:
    return replace(
        newer,
        count=newer.count + older.count,
        first_ms=min(newer.first_ms, older.first_ms),
        last_ms=max(newer.last_ms, older.last_ms),
        names=[*dict.fromkeys((*newer.names, *older.names))][:MOST_NAMES],
    )


def _told(group: Group) -> DeadGroup:
    return DeadGroup(
        fingerprint=group.fingerprint,
        reason=group.reason,
        error_type=group.error_type,
        count=group.count,
        names=tuple(group.names),
        job_id=group.job_id,
        error=group.error,
        first_at=when(group.first_ms),
        last_at=when(group.last_ms),
    )
