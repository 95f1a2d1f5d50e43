"""A worker's calls of functions in the database, and from where on its claims look for jobs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from redisjobs.drivers.postgres.calls import Call, Meta, Row
from redisjobs.drivers.postgres.chunks import emit_words
from redisjobs.drivers.postgres.entries import due_of, lease_of, new_job, text_of, texts_of
from redisjobs.errors import DriverError
from redisjobs.model.changes import Wish
from redisjobs.model.driver import Fenced, IdTaken
from redisjobs.model.emissions import EmitChunks
from redisjobs.model.transitions import (
    LOWEST_RANK,
    MOST_BYTES,
    MOST_JOBS,
    Ack,
    AddChildren,
    DeadLetter,
    Ended,
    Exchange,
    Group,
    Lease,
    Lingers,
    NewJob,
    Reclaimed,
    Release,
    Reply,
    ReportProgress,
    Result,
    RetryLater,
    SaveStep,
    Settlement,
    Settlements,
    Silent,
    Suspend,
    Turn,
)

_RANKS = range(LOWEST_RANK + 1)
_MARK_EVERY = 1.0  # seconds between two looks for jobs from the floors on


@dataclass
class Floors:
    """From where on a worker's claims look for jobs, so that they don't walk over those that are gone.

    Deleted rows stay in the indexes while any transaction can still see them. A claim starts where the last one
    ended. But a transaction that took an earlier place in line may commit later. So about each second a claim
    starts at the floor, before which no job is ready and none can come: all transactions that took a place there
    have ended. A mark is the last place in line that was taken, with a transaction that began after that; once all
    older ones that took a place have ended, no job is added up to the mark, and it is the new floor.

    Attributes:
        starts: Where the next claim starts, by rank.
        floors: The floors, by rank.
        due_from: The same for delayed jobs by due time, and for lines by when they have a turn.
        server: The server that told this. Another one ignores it.
        times_forgotten: How often all was forgotten: an answer to a call of before then teaches nothing.
    """

    starts: list[int] = field(default_factory=lambda: [0 for _ in _RANKS])
    floors: list[int] = field(default_factory=lambda: [0 for _ in _RANKS])
    due_from: int = 0
    server: int = 0
    times_forgotten: int = 0
    _next: float = 0.0
    _mark: tuple[int, int, int] | None = None  # a place in line, the transaction after it, when it was taken in ms
    _safe: tuple[int, int] = (0, 0)  # the newest mark whose transactions have ended: its place and time
    _server_ms: float = 0.0

    def asks(self, now: float) -> int | None:
        """Return the mark up to which the next call looks for new floors; None: it starts where the last ended."""
        if now < self._next:
            return None
        self._next = now + _MARK_EVERY
        self.starts = list(self.floors)
        return self._safe[0]

    @property
    def until(self) -> int | None:
        """The transaction before which all must have ended, so that the last mark is safe."""
        return self._mark and self._mark[1]

    def learn(self, facts: Mapping[str, Any], leases: Sequence[Lease]) -> None:
        """Learn from the answer to a call."""
        if facts.get("server", self.server) != self.server:
            self.forget()
            self.server = facts["server"]
        for lease in leases:
            self.starts[lease.rank] = max(self.starts[lease.rank], lease.token)
        server_ms = facts.get("now", self._server_ms)
        if server_ms < self._server_ms:  # the clock was set back: delayed jobs may come before the floor
            self.due_from, self._mark, self._safe = 0, None, (self._safe[0], 0)
        self._server_ms = server_ms
        if "floors" in facts:
            self._rise(facts, facts["mark"])

    def _rise(self, facts: Mapping[str, Any], mark: Mapping[str, int]) -> None:
        if mark["sequence"] < max(self._safe[0], self._mark[0] if self._mark else 0):
            self.forget()  # a replica that lags, or a backup, took the server's place
            return
        self.floors = facts["floors"]
        first_due = self._server_ms + min(facts.get("due", math.inf), facts.get("turn", math.inf))
        self.due_from = max(self.due_from, int(min(first_due, self._safe[1] + 1)) - 1)
        if self._mark is None:
            self._mark = mark["sequence"], mark["until"], int(self._server_ms)
        elif mark["oldest"] >= self._mark[1]:
            self._safe, self._mark = (self._mark[0], self._mark[2]), None

    def forget(self) -> None:
        """Forget all: an answer with jobs may be lost, or another server may have taken over."""
        self.starts, self.floors, self.due_from = [0 for _ in _RANKS], [0 for _ in _RANKS], 0
        self._mark, self._safe = None, (0, 0)
        self.times_forgotten += 1


def join(worker_id: str, lease_ms: int, run: str) -> Call[None]:
    """Register a worker; raise IdTaken if another one has its id."""

    def parse(meta: Meta, _: Sequence[Row]) -> None:
        if meta["a"] == "TAKEN":
            raise IdTaken(worker_id)

    return Call("join", [worker_id, lease_ms, run], parse)


def exchange(
    floors: Floors,
    worker_id: str,
    turn: Turn | None,
    settlements: Settlements,
    count: int | None,
    max_deliveries: int,
    *,
    idle: bool,
    now: float,
) -> Call[Exchange]:
    """Settle and claim; see `Consumer.exchange`. `now` is by the monotonic clock."""
    plain, others = _parted(settlements)
    done = [settlements[at][0] for at in plain]
    turn = turn if settlements else None
    mark = floors.asks(now) if count else None
    arguments = [
        worker_id,
        turn and turn.lane,
        turn and turn.number,
        [lease.token for lease in done],
        [text_of(lease.job_id) for lease in done],
        [lease.deliveries for lease in done],
        orjson.dumps([_settlement(*settlements[at]) for at in others]).decode() if others else None,
        None if count is None else min(count, MOST_JOBS),
        MOST_BYTES,
        max_deliveries,
        idle,
        floors.starts,
        floors.floors,
        floors.due_from,
        mark,
        floors.server,
        floors.until,
    ]
    forgotten = floors.times_forgotten

    def parse(meta: Meta, rows: Sequence[Row]) -> Exchange:
        facts = meta["a"]
        _check(worker_id, facts)
        replies, added = _replies(len(settlements), plain, others, facts["settled"])
        if count is None:
            return Exchange(replies=replies, added=added, turns=facts["turns"])
        leases = [lease_of(row) for row in rows]
        if floors.times_forgotten == forgotten:
            floors.learn(facts, leases)
        return Exchange(replies=replies, added=added, leases=leases, **_outlook(facts))

    return Call("exchange", arguments, parse)


def _check(worker_id: str, word: Any) -> None:
    if word == "FENCED":
        raise Fenced(worker_id)
    if word == "LATE":
        raise DriverError("these settlements came after later ones of this worker; nothing was written")


def _outlook(facts: Mapping[str, Any]) -> dict[str, Any]:
    due, turn = facts.get("due"), facts.get("turn")
    is_paused = "paused" in facts
    soonest = [each for each in (due, None if is_paused else turn) if each is not None]
    return {
        "due_in": max(0, min(soonest)) / 1000 if soonest else None,
        "turn_in": None if turn is None or is_paused else max(0, turn) / 1000,
        "lines": turn is not None and not is_paused,
        "waits": facts["waits"] / 1000 if "waits" in facts else None,
        "more": facts.get("more", False),
        "ended": _ended(facts.get("ended", ())),
        "paused": is_paused,
        "restricted": facts.get("restricted", False),
        "server_ms": facts["now"],
    }


def _parted(settlements: Settlements) -> tuple[list[int], list[int]]:
    """Return the positions of jobs that are done and leave nothing, in the order of locks, and of the others."""
    plain, others = list[int](), list[int]()
    for at, (lease, settlement) in enumerate(settlements):
        is_plain = settlement == _DONE and b"child_of" not in lease.fields
        (plain if is_plain else others).append(at)
    plain.sort(key=lambda at: settlements[at][0].token)
    return plain, others


_DONE = Ack()


def _settlement(lease: Lease, settlement: Settlement) -> dict[str, Any]:
    """Return a settlement as functions/exchange.sql reads it."""
    to: dict[str, Any] = {"seq": lease.token, "id": text_of(lease.job_id), "deliveries": lease.deliveries}
    match settlement:
        case ReportProgress(progress):
            return to | {"do": "report", "progress": progress.decode()}
        case EmitChunks():
            return to | {"do": "emit"} | emit_words(settlement)
        case Lingers():
            return to | {"do": "lingers"}
        case SaveStep(key, number, value, version):
            step = {"key": text_of(key), "number": number, "value": text_of(value), "version": version}
            return to | {"do": "save"} | step
        case AddChildren(group, pushes, version):
            return to | {"do": "children", "version": version} | _children(group, pushes)
        case Suspend(wait, due, changes, version, group, pushes):
            words = {"waits": text_of(str(wait)), "version": version, "changes": texts_of(changes)}
            children = _children(group, pushes) if group else {}
            return to | {"do": "suspend"} | words | due_of(due) | children
        case Release(refund):
            return to | {"do": "release", "refund": refund}
        case RetryLater(due, changes):
            return to | {"do": "retry", "changes": texts_of(changes)} | due_of(due)
        case DeadLetter():
            names = ("reason", "error", "traceback", "error_type", "fingerprint")
            notes = texts_of({name: getattr(settlement, name) for name in names})
            flags = _flags(reported=settlement.reported, cancels=settlement.cancels)
            return to | {"do": "dead", "notes": notes} | flags
        case Ack():
            to |= {"do": "ack"} | _flags(cancelled=settlement.cancelled, reported=settlement.reported)
            if settlement.result is not None:
                to["result"] = _result(settlement.result)
            if settlement.pushes:
                to["pushes"] = [new_job(job) for job in settlement.pushes]
            return to


def _children(group: Group, pushes: Sequence[NewJob]) -> dict[str, Any]:
    named = {"group": {"token": text_of(group.token), "key": text_of(group.key), "total": group.total}}
    return named | ({"pushes": [new_job(job) for job in pushes]} if pushes else {})


def _flags(**flags: bool) -> dict[str, bool]:
    return {name: True for name, is_set in flags.items() if is_set}


def _result(result: Result) -> dict[str, Any]:
    made = {"keep_ms": result.keep_ms, "refused": result.refused}
    return made if result.value is None else made | {"value": result.value.decode()}


def _replies(
    total: int, plain: Sequence[int], others: Sequence[int], settled: str
) -> tuple[list[Reply], Mapping[int, Sequence[bool]]]:
    """Return the reply to each settlement, and which follow-ups were added, by position."""
    replies, added = [Reply.OK] * total, dict[int, Sequence[bool]]()
    if settled:
        answer = orjson.loads(settled)
        for at in answer.get("lost", ()):
            replies[plain[at - 1]] = Reply.LEASE_LOST
        for at, word in zip(others, answer.get("words", ()), strict=False):
            if isinstance(word, list):
                word, added[at] = word
            replies[at] = Reply(word)
    return replies, added


def read(floors: Floors, worker_id: str, count: int) -> Call[list[Lease] | None]:
    """Lease up to `count` new jobs of each priority; None: there are none."""
    forgotten = floors.times_forgotten

    def parse(meta: Meta, rows: Sequence[Row]) -> list[Lease] | None:
        _check(worker_id, meta["a"])
        leases = [lease_of(row) for row in rows]
        if floors.times_forgotten == forgotten:
            floors.learn({}, leases)
        return leases if meta["a"] == "OK" else None

    most = min(count, MOST_JOBS), MOST_BYTES
    return Call("read", [worker_id, *most, floors.starts, floors.floors, floors.server], parse)


@dataclass(frozen=True, slots=True)
class Missed:
    """What `recover` found.

    Attributes:
        leases: Jobs of the worker that it does not know of.
        ended: Jobs that were to be cancelled, and have ended instead.
        more: Whether there may be more.
        first: The first place in line of the jobs that the worker has; None: it has none.
    """

    leases: Sequence[Lease]
    ended: Sequence[Ended]
    more: bool
    first: int | None


_MISSED = 100  # jobs that one call looks at


def recover(worker_id: str, held: Sequence[Lease], older_ms: int, from_seq: int) -> Call[Missed]:
    """Find the worker's jobs that are not in `held`."""

    def parse(meta: Meta, rows: Sequence[Row]) -> Missed:
        facts = meta["a"]
        _check(worker_id, facts["word"])
        more = facts["looked"] == _MISSED
        return Missed([lease_of(row) for row in rows], _ended(facts["ended"]), more, facts["first"])

    seqs, ids = [lease.token for lease in held], [text_of(lease.job_id) for lease in held]
    return Call("recover", [worker_id, seqs, ids, older_ms, from_seq], parse)


def _ended(found: Sequence[Sequence[str]]) -> list[Ended]:
    return [(job_id, Reply(word)) for job_id, word in found]


def reclaim(worker_id: str, silent: Sequence[Silent], *, others: bool) -> Call[Reclaimed]:
    """Fence lost workers, and hand back the jobs of fenced ones."""

    def parse(meta: Meta, _: Sequence[Row]) -> Reclaimed:
        answer = meta["a"]
        if answer == "FENCED":
            raise Fenced(worker_id)
        return Reclaimed(
            silent=[Silent(each, str(until), lease / 1000) for each, until, lease in answer["silent"]],
            fenced=answer["fenced"],
            jobs=answer["jobs"],
            more=answer["more"],
            released=answer["released"],
            others=answer["others"],
            server_ms=answer["now"],
            workers=answer["workers"],
            alone=answer["alone"],
            promotes=answer["promotes"],
            late=answer["late"],
            server=str(answer["server"]),
        )

    named = [[each.worker_id for each in silent], [int(each.until_ms) for each in silent]]
    return Call("reclaim", [worker_id, *named, others], parse)


def release(worker_id: str, *, refund: bool, watch: bool) -> Call[int]:
    """Hand back jobs of a worker, and end its lease; after 500 jobs there may be more."""
    return Call("release", [worker_id, refund, watch], lambda meta, _: int(meta["a"]))


def beat(beats: Sequence[tuple[str, str, Mapping[str, str]]]) -> Call[list[tuple[int, Wish | None] | None]]:
    """Renew leases, given the queue, the id and the facts of each worker; None: it is fenced.

    The answer has how often a job of the worker was to be cancelled, and what an operator asked of it last.
    """

    def parse(meta: Meta, _: Sequence[Row]) -> list[tuple[int, Wish | None] | None]:
        return [each and (each[0], Wish(each[1]) if each[1] else None) for each in meta["a"]]

    queues, ids, facts = (list(column) for column in zip(*beats, strict=True))
    return Call("beat", [queues, ids, [orjson.dumps(texts_of(each)).decode() for each in facts]], parse)


def cancelled(leases: Sequence[Lease]) -> Call[list[Lease]]:
    """Return the leases whose jobs are to be cancelled."""

    def parse(meta: Meta, _: Sequence[Row]) -> list[Lease]:
        asked = set(meta["a"])
        return [lease for lease in leases if lease.token in asked]

    columns = zip(*((each.token, text_of(each.job_id), each.deliveries) for each in leases), strict=True)
    return Call("cancelled", [list(column) for column in columns] or [[], [], []], parse)
