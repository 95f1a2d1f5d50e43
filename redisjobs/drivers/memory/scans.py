"""Going through the jobs of a state in steps: the twins of `lua/{scan,groups}.lua`, with no limit in bytes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from redisjobs.drivers.memory.include import by_due
from redisjobs.drivers.memory.rows import aside_row, delayed_row, ready_row
from redisjobs.drivers.memory.state import Memory, text_of
from redisjobs.model.job import State
from redisjobs.model.queries import Filter, Group, GroupDead, Grouped, Row, Scan, Scanned
from redisjobs.model.transitions import MOST_JOBS

_SINCE = {State.DEAD: b"failed_at", State.COMPLETED: b"finished_at", State.CANCELLED: b"finished_at"}
_MOST_NAMES = 50  # of the jobs of a group


def scan(memory: Memory, query: Scan) -> Scanned:
    """List jobs that a filter lets through, a step at a time."""
    with memory.lock:
        aside = {state: partial(_aside, state) for state in (State.DEAD, State.COMPLETED, State.CANCELLED)}
        walks: dict[State, Callable[[Memory, str], Iterator[tuple[str, Row]]]]
        walks = {State.READY: _ready, State.RUNNING: _ready, State.DELAYED: _delayed, **aside}
        rows: list[Row] = []
        for looked, (after, row) in enumerate(walks[query.state](memory, query.after), 1):
            if row.state is query.state and _passes(row, query.filter, memory.now_ms()):
                rows.append(row)
            if looked == MOST_JOBS or len(rows) == query.limit:
                return Scanned(rows, after)
        return Scanned(rows)


def _aside(state: State, memory: Memory, after: str) -> Iterator[tuple[str, Row]]:
    for entry in reversed(memory.aside[state]):
        if not after or _order(entry) < _order(after):
            yield entry, aside_row(memory, state, entry)


def _ready(memory: Memory, after: str) -> Iterator[tuple[str, Row]]:
    number, _, last = after.partition(" ")
    begin = (int(number), _order(last)) if after else (0, (0, 0))
    for stream in memory.streams:
        for entry in stream.entries:
            if (stream.number, _order(entry)) > begin:
                yield f"{stream.number} {entry}", ready_row(memory, stream, entry)


def _delayed(memory: Memory, after: str) -> Iterator[tuple[str, Row]]:
    due, _, line = after.partition(" ")
    begin = (int(due), int(line)) if after else None
    for job_id, job in by_due(memory):
        if begin is None or (job.due_ms, job.line) > begin:
            yield f"{job.due_ms} {job.line}", delayed_row(memory, job_id, job)


def _order(entry: str) -> tuple[int, int]:
    ms, _, sequence = entry.partition("-")
    return int(ms), int(sequence)


def _passes(row: Row, wanted: Filter, now_ms: int) -> bool:
    exact = {b"name": wanted.name, b"fingerprint": wanted.fingerprint, b"reason": wanted.reason}
    if any(text and text_of(row.fields, name) != text for name, text in exact.items()):
        return False
    since = _time_of(row.fields, _SINCE.get(row.state, b"queued_at"), row.queued_ms)
    if wanted.older_ms is not None and since > now_ms - wanted.older_ms:
        return False
    return any(wanted.text in text_of(row.fields, name) for name in (b"parameters", b"error"))


def _time_of(fields: Mapping[bytes, bytes], name: bytes, otherwise: int) -> int:
    text = fields.get(name, b"")
    return int(text) if text.isdigit() and len(text) < 16 else otherwise


@dataclass(slots=True)
class _Kind:
    """Dead letters of one kind, as far as they were looked at.

    Attributes:
        newest: Of them.
        times: When each died, in ms.
        names: Of their jobs.
    """

    newest: Row
    times: list[int] = field(default_factory=list)
    names: dict[str, None] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        self.times.append(_time_of(row.fields, b"failed_at", row.queued_ms))
        if len(self.names) < _MOST_NAMES:
            self.names[text_of(row.fields, b"name")] = None

    def group(self) -> Group:
        fields = self.newest.fields
        return Group(
            fingerprint=text_of(fields, b"fingerprint"),
            reason=text_of(fields, b"reason"),
            error_type=text_of(fields, b"error_type"),
            count=len(self.times),
            first_ms=min(self.times),
            last_ms=max(self.times),
            job_id=self.newest.job_id,
            error=text_of(fields, b"error"),
            names=[*self.names],
        )


def groups(memory: Memory, query: GroupDead) -> Grouped:
    """Tell how many dead letters there are of each kind, a step at a time."""
    with memory.lock:
        kinds: dict[tuple[str, str], _Kind] = {}
        after = ""
        for looked, (letter, row) in enumerate(_aside(State.DEAD, memory, query.after), 1):
            fingerprint = text_of(row.fields, b"fingerprint")
            kind = ("fingerprint", fingerprint) if fingerprint else ("reason", text_of(row.fields, b"reason"))
            kinds.setdefault(kind, _Kind(row)).add(row)
            if looked == MOST_JOBS:
                after = letter
                break
        return Grouped([kind.group() for kind in kinds.values()], after)
