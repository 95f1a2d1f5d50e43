"""The wire format: a job's id, its entry, its headers and progress as JSON. No other module knows it."""

import functools
import os
import time
from binascii import b2a_base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from redisjobs.errors import DecodeError, EncodeError
from redisjobs.model.progress import Progress, measured, note_of
from redisjobs.model.transitions import Lease

_LATEST_MS = 253_402_300_799_999  # the end of the year 9999, the last that a datetime knows
_NUMBERS = {
    b"attempt": "attempt",
    b"queued_at": "queued_ms",  # an immediate push does not repeat what the store knows
    b"expires_at": "expires_ms",
    b"started_at": "started_ms",
    b"unknown_since": "unknown_ms",
    b"scheduled_for": "scheduled_ms",
    b"next_scheduled_at": "next_scheduled_ms",
    b"keep_result": "keep_ms",
}
"""The fields of an entry that are numbers, and the attributes of `Job` that they are."""

_BARE = {b"id", b"name", b"parameters"}
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_SORTED = bytes.maketrans(_BASE64, b"-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz")
_MAX_FIELDS = (
    64  # an entry of ours has about a dozen; one with more was not written by us, and Lua can't unpack any
)


def new_job_id() -> str:
    """Return 18 characters: 7 of the time in ms, so that ids sort by push time until 2109, then 64 random bits.

    They are those of base64url, in the order of ASCII. In hex it would have 28, and a queued job's id is in the
    server's memory twice.
    """
    random = b2a_base64(os.urandom(8), newline=False)[:11].translate(_SORTED).decode()
    return _time_in_id(time.time_ns() // 1_000_000) + random


@functools.lru_cache(maxsize=1)  # several are made in a ms
def _time_in_id(time_ms: int) -> str:
    return b2a_base64((time_ms % 2**42 << 6).to_bytes(6), newline=False)[:7].translate(_SORTED).decode()


def new_nonce() -> str:
    """Return 16 random hex characters, which tell one push of an id from the next."""
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
    """Return headers from their JSON; none if it can't be read, as headers are never worth a job."""
    try:
        headers = orjson.loads(raw or b"{}")
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(headers, dict):
        return {}
    # An entry changed in Redis may have other values; lists and dicts may be too deep to make a text of.
    return {key: str(value) for key, value in headers.items() if not isinstance(value, dict | list)}


@dataclass(slots=True)
class Job:
    """A claimed job, read from its entry."""

    name: str  # of its handler
    parameters: bytes  # JSON, not yet validated
    attempt: int  # from 1
    queued_ms: int  # when it was pushed, by the server's clock
    expires_ms: int | None = None  # the last time at which it may start
    started_ms: int | None = None  # when the first of its runs that had an outcome began
    unknown_ms: int | None = None  # since when no worker has a handler for its name
    scheduled_ms: int | None = None  # the slot that a schedule pushed it for
    next_scheduled_ms: int | None = None  # the slot after that
    keep_ms: int | None = None  # for how long its result is kept; None: the entry does not say
    headers: bytes | None = None  # JSON

    def read_headers(self) -> dict[str, str]:
        """Return the headers of its push; see `decode_headers`."""
        return decode_headers(self.headers)


def decode_job(lease: Lease) -> Job:
    """Read the entry of a claimed job; a `DecodeError` as for `decode_fields`."""
    fields = lease.fields
    if len(fields) == 3 and fields.keys() >= _BARE:  # as most are, and each job goes by here
        name = fields[b"name"].decode("utf-8", "replace")
        return Job(name, fields[b"parameters"], 1, min(lease.queued_ms, _LATEST_MS))
    return decode_fields(fields, lease.queued_ms)


def decode_fields(fields: Mapping[bytes, bytes], queued_ms: int) -> Job:
    """Read the fields of an entry; `queued_ms` is when it was pushed, if they do not say.

    Raises:
        DecodeError: There is no name or parameters, or a number that is not one.
    """
    if len(fields) > _MAX_FIELDS:
        raise DecodeError(f"the entry has {len(fields)} fields, at most {_MAX_FIELDS} can be a job's")
    for wanted in (b"name", b"parameters"):
        if wanted not in fields:
            there = ", ".join(key.decode("utf-8", "replace") for key in fields) or "none"
            raise DecodeError(f"the entry has no field '{wanted.decode()}'; its fields: {there}")
    name, parameters = fields[b"name"].decode("utf-8", "replace"), fields[b"parameters"]
    job = Job(name, parameters, 1, min(queued_ms, _LATEST_MS), headers=fields.get(b"headers"))
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
    """Return the whole number that a field says, up to the latest time in ms; None if it says something else."""
    return int(text) if text.isdigit() and len(text) <= 15 and int(text) <= _LATEST_MS else None


def when(ms: int) -> datetime:
    """Return a wire time as a datetime in UTC; the nearest there is for one that no datetime can be."""
    return datetime.fromtimestamp(max(0, min(ms, _LATEST_MS)) / 1000, UTC)


def encode_progress(progress: Progress) -> bytes:
    """Return the progress of a running job as JSON; what its handler did not say is left out."""
    said = {"fraction": progress.fraction, "done": progress.done, "total": progress.total}
    told: dict[str, Any] = {key: value for key, value in said.items() if value is not None}
    return orjson.dumps(told | {"note": progress.note} if progress.note else told)


def decode_progress(raw: bytes | None) -> Progress | None:
    """Return the progress that such JSON says; None if it is something else. It never fails."""
    try:
        told = orjson.loads(raw or b"")
        note = note_of(told["note"]) if "note" in told else ""
        if "done" in told:
            return measured((told["done"], told.get("total")), note)
        return measured((told["fraction"],), note) if "fraction" in told else Progress(note=note) if note else None
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
