"""The stored form of a job: its id, its entry's fields, and its headers and progress as JSON."""

import functools
import os
import re
import time
from binascii import b2a_base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from redisjobs.errors import DecodeError, EncodeError
from redisjobs.model.progress import Progress, measured, note_of
from redisjobs.model.transitions import Lease

_LATEST_MS = 253_402_300_799_999  # the end of the year 9999, the latest datetime
_NUMBERS = {
    b"attempt": "attempt",
    b"queued_at": "queued_ms",  # a job pushed without a delay lacks it: its stream id has the time
    b"expires_at": "expires_ms",
    b"started_at": "started_ms",
    b"suspended_at": "suspended_ms",
    b"unknown_since": "unknown_ms",
    b"scheduled_for": "scheduled_ms",
    b"next_scheduled_at": "next_scheduled_ms",
    b"keep_result": "keep_ms",
}
"""The numeric fields of an entry, and their attributes of `DecodedJob`."""

_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_SORTED = bytes.maketrans(_BASE64, b"-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz")
_TRACEPARENT = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_MAX_FIELDS = 64  # our entries have about a dozen; an entry written outside redisjobs could have too many for Lua


def new_job_id() -> str:
    """Return a new id of 18 characters: 7 for the time in ms, then 11 for 64 random bits.

    Ids sort by push time until the year 2109: the base64url alphabet is in ASCII order. Hex would need 28
    characters, and the server holds the id of a queued job twice.
    """
    random = b2a_base64(os.urandom(8), newline=False)[:11].translate(_SORTED).decode()
    return _time_in_id(time.time_ns() // 1_000_000) + random


@functools.lru_cache(maxsize=1)  # many ids are made in the same ms
def _time_in_id(time_ms: int) -> str:
    return b2a_base64((time_ms % 2**42 << 6).to_bytes(6), newline=False)[:7].translate(_SORTED).decode()


def new_nonce() -> str:
    """Return 16 random hex characters that identify one push of a job id."""
    return os.urandom(8).hex()


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """Return headers as JSON; raise an `EncodeError` if they are not strings."""
    if not isinstance(headers, Mapping) or not all(isinstance(s, str) for pair in headers.items() for s in pair):
        raise EncodeError(f"headers are strings to strings; got {headers!r}")
    try:
        return orjson.dumps(dict(headers))
    except (TypeError, orjson.JSONEncodeError) as error:
        raise EncodeError(f"headers can't be written: {error}") from error


def decode_headers(raw: str | bytes | None) -> dict[str, str]:
    """Return headers from their JSON, or no headers if it can't be read: a job must not fail by its headers."""
    try:
        headers = orjson.loads(raw or b"{}")
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(headers, dict):
        return {}
    # If the entry was changed in Redis, it may have other values. A list or dict may be too deep for str().
    return {key: str(value) for key, value in headers.items() if not isinstance(value, dict | list)}


def trace_of(raw: bytes) -> str:
    """Return a `traceparent`; '' if it is none as W3C has it. Such a one is dropped, not repaired."""
    return raw.decode() if _TRACEPARENT.fullmatch(raw) else ""


def encode_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows of an outbox as a JSON list."""
    return orjson.dumps(rows).decode()


@dataclass(slots=True)
class DecodedJob:
    """A claimed job, read from its entry."""

    name: str  # of its handler
    parameters: bytes  # JSON, not yet validated
    attempt: int  # from 1
    queued_ms: int  # when it was pushed, by the server's clock
    expires_ms: int | None = None  # the last time at which it may start
    started_ms: int | None = None  # when its first run that had an outcome began
    suspended_ms: int | None = None  # when it was last suspended, since its last run that ended otherwise
    unknown_ms: int | None = None  # since when no worker has a handler for its name
    scheduled_ms: int | None = None  # the slot for which a schedule pushed it
    next_scheduled_ms: int | None = None  # the slot after that
    keep_ms: int | None = None  # for how long its result is kept; None: the entry does not say
    headers: bytes | None = None  # JSON
    has_steps: bool = False  # it has saved steps
    is_child: bool = False  # another job waits for its outcome

    def read_headers(self) -> dict[str, str]:
        """Return the job's headers; see `decode_headers`."""
        return decode_headers(self.headers)


def decode_job(lease: Lease) -> DecodedJob:
    """Return the claimed job; raise a `DecodeError` like `decode_fields`."""
    fields = lease.fields
    if len(fields) == 3 and b"name" in fields and b"parameters" in fields and b"id" in fields:
        name, queued_ms = fields[b"name"].decode("utf-8", "replace"), lease.queued_ms  # the usual case, made fast
        return DecodedJob(name, fields[b"parameters"], 1, queued_ms if queued_ms < _LATEST_MS else _LATEST_MS)
    return decode_fields(fields, lease.queued_ms)


def decode_fields(fields: Mapping[bytes, bytes], queued_ms: int) -> DecodedJob:
    """Return the job in an entry's fields; `queued_ms` is when it was pushed, if the fields lack it.

    Raises:
        DecodeError: The name or the parameters are missing, or a numeric field has no number.
    """
    if len(fields) > _MAX_FIELDS:
        raise DecodeError(f"the entry has {len(fields)} fields, at most {_MAX_FIELDS} can be a job's")
    for wanted in (b"name", b"parameters"):
        if wanted not in fields:
            there = ", ".join(key.decode("utf-8", "replace") for key in fields) or "none"
            raise DecodeError(f"the entry has no field '{wanted.decode()}'; its fields: {there}")
    name, parameters = fields[b"name"].decode("utf-8", "replace"), fields[b"parameters"]
    job = DecodedJob(name, parameters, 1, min(queued_ms, _LATEST_MS), headers=fields.get(b"headers"))
    job.has_steps, job.is_child = b"steps" in fields, b"child_of" in fields
    for key, attribute in _NUMBERS.items():
        if (text := fields.get(key)) is not None:
            number = digits(text)
            if number is None:
                what = f"not a whole number from 0 to {_LATEST_MS}"
                raise DecodeError(f"field '{key.decode()}' is {text[:40]!r}, {what}")
            setattr(job, attribute, number)
    job.attempt = job.attempt or 1
    return job


def digits(text: bytes) -> int | None:
    """Return a field's whole number, from 0 to the latest time in ms; None for anything else."""
    return int(text) if text.isdigit() and len(text) <= 15 and int(text) <= _LATEST_MS else None


def when(ms: int) -> datetime:
    """Return a time in ms as a datetime in UTC; for one out of range, the nearest datetime."""
    return datetime.fromtimestamp(max(0, min(ms, _LATEST_MS)) / 1000, UTC)


def encode_progress(progress: Progress) -> bytes:
    """Return the progress of a running job as JSON, without the parts that its handler did not report."""
    numbers = {"fraction": progress.fraction, "done": progress.done, "total": progress.total}
    given: dict[str, Any] = {key: value for key, value in numbers.items() if value is not None}
    return orjson.dumps(given | {"note": progress.note} if progress.note else given)


def decode_progress(raw: bytes | None) -> Progress | None:
    """Return the progress in this JSON; None if it can't be read. It never raises."""
    try:
        given = orjson.loads(raw or b"")
        note = note_of(given["note"]) if "note" in given else ""
        if "done" in given:
            return measured((given["done"], given.get("total")), note)
        if "fraction" in given:
            return measured((given["fraction"],), note)
        return Progress(note=note) if note else None
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
