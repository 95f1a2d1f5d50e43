"""A job's fields as columns and JSON, and back."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from redisjobs.model.job import OnConflict, Priority
from redisjobs.model.transitions import After, At, Due, Lease, NewJob

_RANKS = {priority: rank for rank, priority in enumerate(Priority)}
_COLUMNS = {"nonce": "nonce", "unique": "unique_key", "limit_key": "limit_key", "history": "history"}


# Postgres stores no character 0, and no byte that is not part of a text. Those stand as private characters there.
_PRIVATE = 0x10F000
_STORED = {code: chr(_PRIVATE + code % 0x100) for code in (0, *range(0xDC80, 0xDD00))}
_GIVEN = {ord(stored): code for code, stored in _STORED.items()}
_HAS_STORED = re.compile(f"[{''.join(_STORED.values())}]")


def text_of(value: str | bytes) -> str:
    """Return a text as Postgres can store it; `given` returns it as it was."""
    text = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
    return text if text.isascii() and "\0" not in text else text.translate(_STORED)


def given(text: str) -> str:
    """Return a text as it was before `text_of`."""
    return text if text.isascii() else text.translate(_GIVEN)


def given_json(text: str) -> Any:
    """Return what a JSON text says, with its texts as they were before `text_of`."""
    said = orjson.loads(text)
    return _given_in(said) if not text.isascii() and _HAS_STORED.search(text) else said


def _given_in(said: Any) -> Any:
    match said:
        case str():
            return given(said)
        case list():
            return [_given_in(each) for each in said]
        case dict():
            return {given(name): _given_in(value) for name, value in said.items()}
    return said


def bytes_of(text: str) -> bytes:
    """Return a stored text as the bytes that were given."""
    return text.encode() if text.isascii() else given(text).encode("utf-8", "surrogateescape")


def texts_of(fields: Mapping[str, str]) -> dict[str, str]:
    """Return fields with names and values that Postgres can store."""
    return {text_of(name): text_of(value) for name, value in fields.items()}


def new_job(job: NewJob) -> dict[str, Any]:
    """Return a job to push as functions/push.sql reads it."""
    flat = [text_of(part) for part in job.fields]
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    made: dict[str, Any] = {
        "id": text_of(job.job_id),
        "name": fields.pop("name", ""),
        "parameters": fields.pop("parameters", ""),
        "rank": _RANKS[job.priority],
        "limit_key": fields.pop("limit_key", ""),
        "extra": fields,
        "nonce": job.nonce,
        "unique": text_of(job.unique),
        "unique_for": job.unique_for_ms if job.unique else None,
        "replace": job.on_conflict is OnConflict.REPLACE or None,
        "remembers": job.on_conflict is not OnConflict.SKIP or None,
        "expires_in": job.expires_in_ms,
        "sent": job.sent_ms,
        **due_of(job.due),
    }
    return {
        name: value for name, value in made.items() if value not in (None, {}) and (value != "" or name in _KEPT)
    }


_KEPT = ("id", "name", "parameters")


def due_of(due: Due | None) -> dict[str, float]:
    """Return when a job may run, for JSON."""
    match due:
        case None:
            return {}
        case After(ms):
            return {"after": ms}
        case At(ms):
            return {"at": ms}


def fields_of(
    job_id: str,
    name: str,
    parameters: str,
    extra: str | None,
    nonce: str | None,
    unique: str | None,
    limit_key: str | None,
    history: str | None,
) -> dict[bytes, bytes]:
    """Return the fields of a job's entry, given its columns."""
    fields = {b"id": bytes_of(job_id), b"name": bytes_of(name), b"parameters": bytes_of(parameters)}
    if extra is not None:
        fields.update((bytes_of(key), _value(value)) for key, value in orjson.loads(extra).items())
    for key, value in ((b"nonce", nonce), (b"unique", unique), (b"limit_key", limit_key), (b"history", history)):
        if value:
            fields[key] = bytes_of(value)
    return fields


def columns_of(fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    """Return the columns of a job, by the names in functions/push.sql, given the fields of its entry."""
    texts = {text_of(name): text_of(value) for name, value in fields.items()}
    named = {name: texts.pop(name, None) or None for name in ("nonce", "unique", "limit_key", "history")}
    columns = {name: texts.pop(name, "") for name in _KEPT}
    return {**columns, **named, "extra": texts or None}


def _value(value: Any) -> bytes:
    """Return a field's value; one that was put by SQL may be no text."""
    return bytes_of(value) if isinstance(value, str) else orjson.dumps(value)


def lease_of(row: Sequence[Any]) -> Lease:
    """Return the lease of a job that a worker got: of a row of `exchange`, `read` or `recover`."""
    _, seq, deliveries, job_id, *columns, since_ms, rank = row
    return Lease(str(seq), seq, deliveries, given(job_id), fields_of(job_id, *columns), since_ms, rank)
