"""Reads the contents of a database at the end of a torture, and finds what should be gone."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from redisjobs.client.findings import FAULTS
from redisjobs.drivers.redis.commands import GROUP
from redisjobs.errors import DriverError
from redisjobs.model.changes import JobStatus
from redisjobs.model.health import Level
from redisjobs.model.stored import ScheduleInfo
from redisjobs.torture.fleet.store import MARK, Store, text

_PAGE = 1000
_UNWATCHED = 30.0  # seconds in which workers notice that a fenced worker's consumer needs no more watching
_LASTING = (
    *("inbox", "ready:high", "ready:normal", "ready:low", "jobs", "large", "dead", "stats", "layout", "workers"),
    *("fenced", "schedules", "limits", "groups"),
)
"""Keys that may stay, without the queue's prefix."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter.

    Attributes:
        job: The job's id.
        mark: The job's mark, if it has one.
        failed_at: When it became a dead letter, in seconds since 1970.
        deliveries: The job's deliveries; 0 if unknown.
    """

    job: str
    reason: str
    mark: str = ""
    failed_at: float = 0.0
    deliveries: int = 0


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
    letters = dict(_letters(store))
    located = store.run("HGETALL", f"{store.prefix}jobs")
    final = FinalState(
        letters=[*letters.values()],
        located={text(job): place.decode() for job, place in zip(located[::2], located[1::2], strict=True)},
        totals=dict(store.counts().totals),
        schedules=store.queue.schedules.list(),
        statuses=store.statuses(kept),
    )
    final.left += _unlocated(final.located, {f"dead {entry}" for entry in letters})
    final.left += _jobs_left(store)
    final.left += _keys_left(store, final.schedules)
    final.left += _watched_for_long(store)
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


def _jobs_left(store: Store) -> Iterator[str]:
    for stream in store.streams:
        if entries := store.run("XLEN", stream):
            yield f"{entries} entries in {stream}"
        with suppress(DriverError):  # no worker ever came
            if pending := store.run("XPENDING", stream, GROUP)[0]:
                yield f"{pending} leases in {stream}"
    for kind, command in {"due": "ZCARD", "delayed": "HLEN", "waiters": "HLEN"}.items():
        if number := store.run(command, store.prefix + kind):
            yield f"{number} jobs in {kind}"


def _keys_left(store: Store, schedules: Sequence[ScheduleInfo]) -> Iterator[str]:
    lasting = {*_LASTING, *_looked_at_later(store)}
    # The record of a worker that was fenced lately stays for late reads; another may have been killed just now.
    for key in ("fenced", "workers"):
        lasting |= {f"worker:{text(raw)}" for raw in store.run("ZRANGE", store.prefix + key, 0, -1)}
    lasting |= {f"group:{text(kind)}" for kind in store.run("ZRANGE", f"{store.prefix}groups", 0, -1)}
    # A declared schedule expires by itself.
    lasting |= {f"schedule:{info.name}" for info in schedules if not info.declared}
    keys = store.keys()
    for key in keys:
        if key.removeprefix(store.prefix) not in lasting and store.run("PTTL", key) == -1:
            yield f"the key {key}"


def _looked_at_later(store: Store) -> set[str]:
    """Return the keys of waiting lines, if all lines are empty: workers remove them when they look next."""
    for stream in store.streams:
        with suppress(DriverError):  # no worker ever came
            rows = store.run("XPENDING", stream, GROUP)[3] or ()
            if any(consumer.startswith(b"line:") for consumer, _ in rows):
                return set()
    return {"lines", "turns"}


def _watched_for_long(store: Store) -> Iterator[str]:
    """Yield workers that were fenced so long ago that Redis can't serve a late read of them any more."""
    now = store.time().timestamp()
    for worker in store.fenced():
        until = store.run("HGET", f"{store.prefix}worker:{worker}", "watched_until")
        if until is None or int(until) / 1000 + _UNWATCHED < now:
            yield f"{worker}, fenced, whose consumer need not be watched any more"


def _diagnosed(store: Store) -> Iterator[str]:
    """Yield faults that the doctor finds in the data."""
    for finding in store.queue.doctor():
        if finding.check in FAULTS or (finding.check == "data" and finding.level is not Level.OK):
            yield f"the doctor finds {finding.sentence}"


def _letters(store: Store) -> Iterator[tuple[str, Letter]]:
    """Yield each dead letter with its entry id."""
    start = "-"
    while page := store.run("XRANGE", f"{store.prefix}dead", start, "+", "COUNT", _PAGE):
        for entry, flat in page:
            fields = dict(zip(flat[::2], flat[1::2], strict=True))
            deliveries = fields.get(b"deliveries", b"")
            yield (
                entry.decode(),
                Letter(
                    text(fields.get(b"id", b"")),
                    fields.get(b"reason", b"").decode(),
                    _mark_in(fields),
                    int(fields.get(b"failed_at", b"0")) / 1000,
                    int(deliveries) if deliveries.isdigit() else 0,
                ),
            )
        start = f"({page[-1][0].decode()}"


def _mark_in(fields: Mapping[bytes, bytes]) -> str:
    """Return the mark of a dead letter; a large entry has it in `entry`, the one field that keeps all others."""
    if b"entry" in fields:
        flat = json.loads(fields[b"entry"].decode("utf-8", "surrogateescape"))
        return str(dict(zip(flat[::2], flat[1::2], strict=False)).get(MARK, ""))
    if MARK.encode() in fields:
        return text(fields[MARK.encode()])
    try:
        return str(json.loads(fields.get(b"headers", b"{}"))[MARK])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
