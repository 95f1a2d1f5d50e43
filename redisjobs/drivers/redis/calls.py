"""Queries and changes that are one call of a script: the script's arguments, and how to parse its reply."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from redisjobs.drivers.redis.commands import Command, Commands, is_waiting
from redisjobs.drivers.redis.statistics import find_words, intervals_found, record_words, recorded
from redisjobs.drivers.redis.wire import (
    Wire,
    Word,
    due_word,
    job_words,
    number_word,
    pairs,
    pushed,
    queued_ms_of,
    raw_id,
    reply_of,
    shown,
    text_id,
    threes,
)
from redisjobs.model import changes, queries, stored
from redisjobs.model.changes import Change, Ending, JobStatus
from redisjobs.model.children import CancelChildren, ChildOutcome, ChildrenFound, ChildState, FindChildren
from redisjobs.model.chunks import Chunks, GetChunks, StoredChunk, parts_of
from redisjobs.model.driver import supported
from redisjobs.model.info import FACTS
from redisjobs.model.job import ASIDE, WAITING, Priority, State, WhyWaiting
from redisjobs.model.queries import Query
from redisjobs.model.recording import FindIntervals, Record
from redisjobs.model.relaying import FindRelayed, ForgetRelayed
from redisjobs.model.steps import MOST_SIGNALS, MOST_STEP_BYTES, GetSteps, Signal, Steps, read_saved
from redisjobs.model.transitions import Reply
from redisjobs.model.why import Ahead, Standing

T = TypeVar("T")

REPLY_BYTES = str(1024 * 1024)
"""About how many bytes of entries one step reads or returns."""

FAR = 1e15
"""The latest time that we show, in ms: someone may have changed a due time to `inf` in Redis."""


@dataclass(frozen=True, slots=True)
class _Call:
    """A query or a change that is one call of a script."""

    script: str
    words: Callable[[Any, str], Wire]  # makes the script's arguments of the call and `Commands.now`
    read: Callable[[Any], Any] = reply_of  # parses the reply


def _filter_words(wanted: queries.Filter) -> list[Word]:
    """Return a filter as arguments of a script."""
    texts = [raw_id(text) for text in (wanted.name, wanted.text, wanted.fingerprint, wanted.reason, wanted.worker)]
    return [*texts, number_word(wanted.older_ms)]


def _once_words(change: changes.Cancel | changes.Delete, now: str) -> Wire:
    return [raw_id(change.job_id), change.nonce, now]


def _hold_words(change: changes.Hold, now: str) -> Wire:
    return [raw_id(change.job_id), now]


def _name_and_now(change: changes.Pause | changes.Resume, now: str) -> Wire:
    return [raw_id(change.name), now]


def _requeue_words(change: changes.Requeue, now: str) -> Wire:
    changed = [change.parameters or "", raw_id(change.limit_key)]
    unique = b"" if change.unique is None else b"=" + raw_id(change.unique)
    from_step = b"" if change.from_step is None else b"=" + raw_id(change.from_step)
    rest: list[Word] = ["1" if change.ended else "", change.key, unique, from_step, change.nonce, now]
    return [raw_id(change.job_id), due_word(change.due), *changed, *rest]


def _requeue_all_words(change: changes.RequeueAll, now: str) -> Wire:
    waits = [f"{change.wait_ms:.3f}", f"{change.pause_ms:.3f}"]
    return [change.after, *_filter_words(change.filter), *waits, now]


def _retain_words(change: changes.Retain, now: str) -> Wire:
    kept = [change.retention.of(state) for state in ("completed", "cancelled", "dead")]
    return [keep.text if keep else "" for keep in kept]


def _signal_words(change: Signal, now: str) -> Wire:
    words: list[Word] = [raw_id(change.job_id), raw_id(change.name), change.value, change.nonce]
    return [*words, str(MOST_SIGNALS), str(MOST_STEP_BYTES), now]


def _put_words(change: stored.PutSchedules, now: str) -> Wire:
    by = change.by
    words: list[Word] = [now, *((str(by.began_ms), by.scheduler, by.release) if by else ("", "", ""))]
    for each in change.schedules:
        fields = each.definition.fields if each.definition else []
        words += [raw_id(each.name), each.fingerprint, number_word(each.last_ms), number_word(each.since_ms)]
        words += ["" if each.paused is None else str(int(each.paused)), str(len(fields)), *fields]
    return words


def _fire_words(change: stored.Fire, now: str) -> Wire:
    words: list[Word] = [now, change.scheduler]
    for firing in change.firings:
        words += [raw_id(firing.name), firing.fingerprint]
        words += map(str, (firing.last_ms, firing.slot_ms, firing.missed, len(firing.jobs)))
        for job in firing.jobs:
            words += job_words(job)
    return words


def _row(reply: Any) -> queries.Row:
    found = pairs(reply)
    where, entry, due, mark = found[b"place"].decode(), found[b"entry"].decode(), found[b"due"], found[b"mark"]
    consumer, fields = found[b"consumer"], pairs(found[b"fields"])
    if where in ASIDE:
        state, priority = State(where), shown(fields.get(b"priority", b"normal"))
    elif where.startswith("delayed:"):
        state = State.SUSPENDED if mark == b"suspended" else State.DELAYED
        priority = where.partition(":")[2]
    else:
        state, priority = State.READY if is_waiting(consumer) else State.RUNNING, where
    is_for_ever = state is State.SUSPENDED and due == b"inf"
    ran_ms = int(found[b"idle"]) if state is State.RUNNING else None
    return queries.Row(
        job_id=text_id(found[b"id"]),
        state=state,
        priority=Priority(priority) if priority in list(Priority) else Priority.NORMAL,
        key=entry,
        queued_ms=queued_ms_of(entry),
        due_ms=int(max(-FAR, min(float(due), FAR))) if due and not is_for_ever else None,
        worker=shown(consumer) if state is State.RUNNING else "",
        deliveries=int(found[b"deliveries"] or 0),
        cancelling=mark == b"cancelling",
        fields=fields,
        held=bool(found[b"held"]) and state in WAITING,
        started_ms=None if ran_ms is None else int(found[b"now"]) - ran_ms,
        ran_ms=ran_ms,
        why_waiting=WhyWaiting(found[b"why"].decode()) if found[b"why"] else None,
        progress=found[b"progress"],
        history=shown(found[b"history"]),
    )


def _group(reply: Any) -> queries.DeadKind:
    found = pairs(reply)
    return queries.DeadKind(
        fingerprint=shown(found[b"kind"]),
        reason=shown(found[b"reason"]),
        error_type=shown(found[b"error_type"]),
        count=found[b"count"],
        first_ms=int(found[b"first"]),
        last_ms=int(found[b"last"]),
        job_id=text_id(found[b"id"]),
        error=shown(found[b"error"]),
        names=[*map(shown, found[b"names"])],
        recent=found[b"recent"],
    )


def _backlog(reply: Any) -> queries.Backlog:
    now_ms, workers, since = reply
    words = iter(since)
    waiting = [(Priority(priority.decode()), _since(value)) for priority, value in zip(words, words, strict=True)]
    return queries.backlog_since(waiting, float(now_ms), workers)


def _since(value: bytes) -> float:
    """Return the ms of an entry id, or of a time. A time may be `-inf`, if someone changed it in Redis."""
    return float(value.partition(b"-")[0] or 0)


def _workers(reply: Any) -> queries.WorkersFound:
    after, now_ms, *found = reply
    workers = [
        (shown(worker), (_since(until_ms) - float(now_ms)) / 1000, _facts(values))
        for worker, until_ms, values in threes(found)
    ]
    return queries.WorkersFound(workers, "" if after == b"0" else after.decode())


def _facts(values: Sequence[bytes | None]) -> dict[str, str]:
    return {fact: shown(value) for fact, value in zip(FACTS, values, strict=False) if value is not None}


def _pauses(reply: Any) -> queries.Pauses:
    since, names, held = reply
    paused = {shown(name): _whole(value) for name, value in pairs(names).items()}
    return queries.Pauses(_whole(since) if since else None, paused, held)


def _standing(reply: Any) -> Standing:
    found = pairs(reply)
    some, turn, held = found[b"some"], found[b"turn"], found[b"held"]
    return Standing(
        now_ms=int(found[b"now"]),
        job_id=text_id(found[b"id"]),
        key_ms=found[b"ttl"] if found[b"ttl"] >= 0 else None,
        ahead=found[b"ahead"],
        has_more=bool(found[b"more"]),
        bucket=shown(found[b"bucket"]),
        turn_ms=int(max(0, min(float(turn), FAR))) if turn else None,
        limit=shown(found[b"limit"]),
        running=found[b"running"],
        holders=[(shown(worker), text_id(holder)) for worker, holder in zip(some[::2], some[1::2], strict=True)],
        held_ms=_whole(held) if held else None,
        promoter=shown(found[b"promoter"]).partition(" ")[2],
        alike=found[b"alike"],
        in_inbox=bool(found[b"inbox"]),
        has_ended=bool(found[b"ended"]),
    )


def _whole(value: bytes) -> int:
    """Return a time in ms; 0 for a value that was changed in Redis and is no time."""
    return int(value) if value.isdigit() and len(value) < 16 else 0


def _bulk_result(reply: Any) -> changes.BulkResult:
    after, *job_ids = reply
    return changes.BulkResult([*map(text_id, job_ids)], text_id(after))


def _requeued(reply: Any) -> changes.BulkResult:
    after, duplicates, *job_ids = reply
    return replace(_bulk_result([after, *job_ids]), duplicates=duplicates)


def _status(reply: Any) -> JobStatus:
    if reply[0] == b"LATER":
        return JobStatus(Ending.LATER)
    word, *facts, progress = reply
    return replace(_ended(Ending(word.decode()), facts), progress=progress)


def _ended(ending: Ending, facts: Sequence[bytes]) -> JobStatus:
    match ending:
        case Ending.PENDING:
            place, keep = facts
            return JobStatus(ending, place.decode(), keep=_whole(keep) if keep.isdigit() else None)
        case Ending.COMPLETED:
            return JobStatus(ending, value=facts[0])
        case Ending.REFUSED:
            return JobStatus(ending, error=shown(facts[0]))
        case Ending.DEAD:
            error, error_type, traceback, reason = map(shown, facts)
            return JobStatus(ending, error=error, error_type=error_type, traceback=traceback, reason=reason)
        case _:
            return JobStatus(ending)


def _steps(reply: Any) -> list[Steps | None]:
    return [None if flat == [b"LATER"] else steps_of(pairs(flat)) for flat in reply]


def steps_of(fields: Mapping[bytes, bytes]) -> Steps:
    """Return what a job has saved, from the fields of its key."""
    saved = {text_id(key): step for key, text in fields.items() if b" " not in key and (step := read_saved(text))}
    version = fields.get(b"handler version", b"")
    tokens = {text_id(key[9:]): text_id(token) for key, token in fields.items() if key.startswith(b"children ")}
    checkpoint = fields.get(b"saved checkpoint")
    return Steps(saved, checkpoint, int(version) if version.isdigit() else None, tokens)


def _children(reply: Any) -> ChildrenFound:
    if not reply:
        return ChildrenFound("")
    parent, key, total, left, *outcomes = reply
    return ChildrenFound(text_id(parent), int(total), int(left), child_outcomes(outcomes), text_id(key))


def child_outcomes(flat: Sequence[bytes]) -> list[ChildOutcome]:
    """Return how children have ended, from what the record of their group says of each, and its id."""
    return [
        replace(_child_outcome(text), job_id=text_id(job_id)) if job_id else _child_outcome(text)
        for text, job_id in zip(flat[::2], flat[1::2], strict=True)
    ]


def _child_outcome(reply: bytes) -> ChildOutcome:
    word, _, text = reply.partition(b" ")
    match ChildState(word.decode() or "pending"):
        case ChildState.COMPLETED:
            return ChildOutcome(ChildState.COMPLETED, text)
        case ChildState.DEAD as state:
            error_type, reason, error = (*shown(text).split(" ", 2), "", "")[:3]
            return ChildOutcome(state, error=error, error_type=error_type, reason=reason.replace("_", " "))
        case state:
            return ChildOutcome(state, error=text_id(text))


def _chunk_words(asked: GetChunks, now: str) -> Wire:
    began_ms, number = parts_of(asked.after)
    return [raw_id(asked.job_id), str(began_ms), str(number), REPLY_BYTES]


def _chunks(reply: Any) -> Chunks:
    if reply[0] == -1:
        return Chunks(lost=reply[1], after=reply[2].decode(), more=True)
    more, *flat = reply
    fours = zip(*(iter(flat),) * 4, strict=True)
    found = [StoredChunk(one.decode(), _whole(run), kind.decode(), data) for one, run, kind, data in fours]
    return Chunks(found, more=bool(more))


def _schedules(reply: Any) -> stored.SchedulePage:
    now_us, change, more, served, gone, *rows = reply
    found = [stored.ScheduleRow(text_id(name), pairs(flat), bool(there)) for name, there, flat in rows]
    after = int(more) if more else None
    return stored.SchedulePage(found, [*map(text_id, gone)], change, after, bool(served), now_us / 1000)


def _put_answer(reply: Any) -> stored.PutAnswer:
    now_us, change, present, *words = reply
    return stored.PutAnswer([*map(reply_of, words)], change, present, now_us / 1000)


def _fired(word: bytes, *rest: bytes) -> stored.Fired:
    if word == b"FIRED":
        return stored.Fired(Reply.FIRED, last_ms=int(rest[0]))
    return stored.Fired(reply_of(word), tuple(pushed(each) for each in rest))


_CALLS: Mapping[type[Any], _Call] = {
    queries.Find: _Call(
        "find", lambda asked, now: [raw_id(asked.job_id), now], lambda reply: _row(reply) if reply else None
    ),
    queries.Scan: _Call(
        "scan",
        lambda asked, now: [
            asked.state,
            raw_id(asked.after),
            str(asked.limit),
            *_filter_words(asked.filter),
            now,
        ],
        lambda reply: queries.Scanned([*map(_row, reply[1:])], text_id(reply[0])),
    ),
    queries.GroupDead: _Call(
        "groups",
        lambda asked, now: [raw_id(asked.after), now],
        lambda reply: queries.Grouped([*map(_group, reply[1:])], text_id(reply[0])),
    ),
    queries.GetBacklog: _Call("backlog", lambda asked, now: [now], _backlog),
    queries.FindWorkers: _Call("workers", lambda asked, now: [asked.after or "0", now], _workers),
    queries.FindPauses: _Call("pauses", lambda asked, now: [], _pauses),
    Ahead: _Call("ahead", lambda asked, now: [raw_id(asked.job_id), raw_id(asked.key), now], _standing),
    FindIntervals: _Call("statistics", find_words, intervals_found),
    stored.ListSchedules: _Call(
        "schedules",
        lambda asked, now: [now, raw_id(asked.name), number_word(asked.after), REPLY_BYTES],
        _schedules,
    ),
    changes.Cancel: _Call("cancel", _once_words),
    changes.Hold: _Call("hold", _hold_words),
    changes.Unhold: _Call("unhold", lambda change, now: [raw_id(change.job_id)]),
    changes.Delete: _Call("delete", _once_words),
    changes.Requeue: _Call("requeue", _requeue_words),
    changes.RequeueAll: _Call("requeue_all", _requeue_all_words, _requeued),
    changes.DeleteAll: _Call(
        "delete_all", lambda change, now: [change.after, *_filter_words(change.filter), now], _bulk_result
    ),
    changes.Pause: _Call("pause", _name_and_now),
    changes.Resume: _Call("resume", _name_and_now),
    changes.AskWorker: _Call("ask_worker", lambda change, now: [raw_id(change.worker_id), change.wish.value]),
    changes.SetLimit: _Call(
        "limit",
        lambda change, now: [raw_id(change.name), change.limit, raw_id(change.after), now],
        text_id,
    ),
    changes.GetStatus: _Call(
        "ask",
        lambda change, now: [change.process, REPLY_BYTES, *map(raw_id, change.job_ids)],
        lambda reply: [*map(_status, reply)],
    ),
    GetSteps: _Call("steps", lambda asked, now: [REPLY_BYTES, *map(raw_id, asked.job_ids)], _steps),
    GetChunks: _Call("chunks", _chunk_words, _chunks),
    Signal: _Call("signal", _signal_words),
    FindChildren: _Call(
        "find_children",
        lambda asked, now: [raw_id(asked.token), str(asked.first), str(asked.most), REPLY_BYTES],
        _children,
    ),
    CancelChildren: _Call("cancel_children", lambda change, now: [now], bool),
    Record: _Call("record", record_words, recorded),
    FindRelayed: _Call(
        "relayed",
        lambda asked, now: [asked.outbox, str(asked.older_ms), now],
        lambda reply: [*map(text_id, reply)],
    ),
    ForgetRelayed: _Call("forget_relayed", lambda change, now: [now, change.outbox, *map(raw_id, change.rows)]),
    changes.Retain: _Call("retain", _retain_words),
    changes.Declare: _Call("declare", lambda change, now: [change.declaration, "1" if change.done else ""], bool),
    stored.PutSchedules: _Call("put_schedule", _put_words, _put_answer),
    stored.WithdrawSchedules: _Call(
        "withdraw_schedules", lambda change, now: [now, change.by.scheduler, change.by.release]
    ),
    stored.PauseSchedule: _Call(
        "pause_schedule",
        lambda change, now: [now, raw_id(change.name), "1" if change.pause else "", change.moved_to],
    ),
    stored.RemoveSchedule: _Call("remove_schedule", lambda change, now: [now, raw_id(change.name)]),
    stored.Fire: _Call(
        "fire",
        _fire_words,
        lambda reply: stored.FireAnswer([_fired(*answer) for answer in reply[1:]], reply[0] / 1000),
    ),
}


def command_of(commands: Commands, asked: Query[T] | Change[T]) -> Command[T]:
    """Return the command for a query or a change that is one call; raise Unsupported for an unknown one.

    `long_calls.py` has the calls that may take several round trips.
    """
    call = supported(_CALLS, asked, "Redis")
    return commands.run(call.script, call.words(asked, commands.now), call.read)
