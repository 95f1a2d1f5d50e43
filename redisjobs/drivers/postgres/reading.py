"""What an operator reads: one job, the jobs of a state, kinds of failure, counts."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from redisjobs.drivers.postgres.calls import Call, Meta, Row, answer_of, answers
from redisjobs.drivers.postgres.entries import bytes_of, fields_of, given, given_json, text_of, texts_of
from redisjobs.errors import DriverError
from redisjobs.model import queries
from redisjobs.model.job import ASIDE, Priority, State, WhyWaiting

_FIRST, _NEWEST = (-1, 0), (0, -(2**63 - 1))  # places before the first job of a state
_AFTER = re.compile(r"(-?\d{1,18}) (-?\d{1,18})", re.ASCII)
_BEHIND = "="  # begins the place where a step of kinds stopped; a kind may be ''
_PRIORITIES = list(Priority)
_ELSEWHERE = {state for state in State if state is not State.READY}  # places that are states


@answers(queries.Find)
def _find(query: queries.Find) -> Call[queries.Row | None]:
    return Call("find", [text_of(query.job_id)], _found)


def _found(meta: Meta, rows: Sequence[Row]) -> queries.Row | None:
    return _row(rows[0], meta["a"]) if rows else None


def _row(row: Row, now_ms: int) -> queries.Row:
    found = given_json(row[0])
    state = State(found["place"]) if found["place"] in _ELSEWHERE else State.READY
    is_later = state in (State.DELAYED, State.SUSPENDED)
    ran_ms = max(0, now_ms - found["at"]) if state is State.RUNNING else None
    return queries.Row(
        job_id=given(row[1]),
        state=state,
        priority=_PRIORITIES[found["rank"]],
        key="" if is_later else str(found["seq"]),
        queued_ms=0 if is_later else found["since"],
        due_ms=found["due"] if is_later else None,
        worker=found["worker"] or "",
        deliveries=found["deliveries"],
        cancelling=found["cancelling"],
        fields=fields_of(*row[1:]),
        held=found["held"],
        started_ms=None if ran_ms is None else now_ms - ran_ms,
        ran_ms=ran_ms,
        why_waiting=WhyWaiting(found["why"]) if found["why"] else None,
        progress=bytes_of(found["progress"] or ""),
        history=given(row[-1] or ""),
    )


# Scans


@answers(queries.Scan)
def _scan(query: queries.Scan) -> Call[queries.Scanned]:
    at, number = begin_of(query)
    seq = -number if query.state in ASIDE else number
    arguments = [query.state, at, seq, orjson.dumps(wanted_of(query.filter)).decode(), query.limit]
    return Call("scan", arguments, _scanned)


def begin_of(query: queries.Scan) -> tuple[int, int]:
    """Return the place after which a scan looks: a rank or a time, and a job's number in it."""
    if not query.after:
        return _NEWEST if query.state in ASIDE else _FIRST
    if not (found := _AFTER.fullmatch(query.after)):
        raise DriverError(f"after={query.after!r:.60}: no scan ends there")
    return int(found[1]), int(found[2])


def wanted_of(by: queries.Filter) -> Mapping[str, Any]:
    """Return a filter as `_passes` in functions/reading.sql reads it."""
    texts = {
        "name": by.name,
        "text": by.text,
        "fingerprint": by.fingerprint,
        "reason": by.reason,
        "worker": by.worker,
    }
    wanted: dict[str, Any] = texts_of({name: text for name, text in texts.items() if text})
    return wanted if by.older_ms is None else wanted | {"older_ms": by.older_ms}


def _scanned(meta: Meta, rows: Sequence[Row]) -> queries.Scanned:
    now_ms = meta["a"]["now"]
    return queries.Scanned([_row(row, now_ms) for row in rows], meta["a"]["after"])


# Kinds of failure, and counts


@answers(queries.GroupDead)
def _group_dead(query: queries.GroupDead) -> Call[queries.Grouped]:
    if query.after and query.after[0] != _BEHIND:
        raise DriverError(f"after={query.after!r:.60}: no step ends there")
    return Call("group_dead", [text_of(query.after[1:]) if query.after else None], answer_of(_grouped))


def _grouped(found: Mapping[str, Any]) -> queries.Grouped:
    groups = sorted(
        map(_group, found["kinds"]),
        key=lambda group: (group.last_ms, group.fingerprint),
        reverse=True,
    )
    return queries.Grouped(groups, "" if found["after"] is None else _BEHIND + found["after"])


def _group(found: Mapping[str, Any]) -> queries.DeadKind:
    return queries.DeadKind(
        fingerprint=found["kind"],
        reason=found["reason"] or "",
        error_type=found["error_type"] or "",
        count=found["count"],
        first_ms=found["first"],
        last_ms=found["last"],
        job_id=found["id"],
        error=found["error"] or "",
        names=list(dict.fromkeys(found["names"])),
        recent=[found["recent"].get(str(age), 0) for age in range(11, -1, -1)],
    )


@answers(queries.Count)
def _count(query: queries.Count) -> Call[queries.Counts]:
    return Call("count", [], answer_of(_counts))


def _counts(found: Mapping[str, Any]) -> queries.Counts:
    ready = {priority: found["ready"].get(str(rank), 0) for rank, priority in enumerate(Priority)}
    others = {str(state): found[state] for state in State if state is not State.READY}
    return queries.Counts(ready, totals=found["totals"], **others)


@answers(queries.GetBacklog)
def _get_backlog(query: queries.GetBacklog) -> Call[queries.Backlog]:
    return Call("backlog", [], answer_of(_backlog))


def _backlog(found: Mapping[str, Any]) -> queries.Backlog:
    since = [(_PRIORITIES[rank], float(ms)) for rank, ms in found["since"]]
    return queries.backlog_since(since, found["now"], found["workers"])
