"""Schedules and their slots, as calls of functions in the database."""

from collections.abc import Mapping
from typing import Any

import orjson

from redisjobs.drivers.postgres.calls import Call, answer_of, answers
from redisjobs.drivers.postgres.entries import bytes_of, new_job, text_of
from redisjobs.model import stored
from redisjobs.model.transitions import Pushed, Reply


@answers(stored.PutSchedules)
def _put_schedules(change: stored.PutSchedules) -> Call[stored.PutAnswer]:
    by, puts = change.by, [_put(each) for each in change.schedules]
    declarer = [by.scheduler, by.release, by.began_ms or None] if by else [None, None, None]
    return Call("put_schedules", [*declarer, orjson.dumps(puts).decode()], answer_of(_put_answer))


def _put(put: stored.Put) -> Mapping[str, Any]:
    given = {
        "name": text_of(put.name),
        "fingerprint": put.fingerprint,
        "definition": put.definition and _pairs([text_of(part) for part in put.definition.fields]),
        "last_ms": put.last_ms,
        "since_ms": put.since_ms,
        "paused": put.paused,
    }
    return {key: value for key, value in given.items() if value is not None}


def _pairs(flat: list[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _put_answer(answer: Mapping[str, Any]) -> stored.PutAnswer:
    return stored.PutAnswer([*map(Reply, answer["words"])], answer["change"], answer["present"], answer["now"])


@answers(stored.WithdrawSchedules)
def _withdraw_schedules(change: stored.WithdrawSchedules) -> Call[Reply]:
    return Call("withdraw_schedules", [change.by.scheduler, change.by.release], answer_of(Reply))


@answers(stored.PauseSchedule)
def _pause_schedule(change: stored.PauseSchedule) -> Call[Reply]:
    return Call("pause_schedule", [text_of(change.name), change.pause, change.moved_to], answer_of(Reply))


@answers(stored.RemoveSchedule)
def _remove_schedule(change: stored.RemoveSchedule) -> Call[Reply]:
    return Call("remove_schedule", [text_of(change.name)], answer_of(Reply))


@answers(stored.ListSchedules)
def _list_schedules(query: stored.ListSchedules) -> Call[stored.SchedulePage]:
    after = -1 if query.after is None else query.after
    return Call("list_schedules", [text_of(query.name), after], answer_of(_page))


def _page(answer: Mapping[str, Any]) -> stored.SchedulePage:
    rows = [
        stored.ScheduleRow(name, {bytes_of(key): bytes_of(text) for key, text in fields.items()}, is_there)
        for name, is_there, fields in answer["rows"] or ()
    ]
    gone, change, more = answer["gone"] or (), answer["change"], answer["more"]
    return stored.SchedulePage(rows, gone, change, more, answer["served"], answer["now"])


@answers(stored.Fire)
def _fire(change: stored.Fire) -> Call[stored.FireAnswer]:
    firings = [_firing(each) for each in change.firings]
    return Call("fire", [change.scheduler, orjson.dumps(firings).decode()], answer_of(_fire_answer))


def _firing(firing: stored.Firing) -> Mapping[str, Any]:
    return {
        "name": text_of(firing.name),
        "fingerprint": firing.fingerprint,
        "last_ms": firing.last_ms,
        "slot_ms": firing.slot_ms,
        "missed": firing.missed,
        "jobs": [new_job(job) for job in firing.jobs],
    }


def _fire_answer(answer: Mapping[str, Any]) -> stored.FireAnswer:
    return stored.FireAnswer([_fired(*each) for each in answer["fired"]], answer["now"])


def _fired(word: str, last_ms: int, pushed: list[tuple[str, str]] | None) -> stored.Fired:
    if word == Reply.FIRED:
        return stored.Fired(Reply.FIRED, last_ms=last_ms)
    return stored.Fired(Reply(word), tuple(Pushed(Reply(each), holder) for each, holder in pushed or ()))
