"""The rows of an outbox: jobs that a transaction of a database pushes, as JSON for it to write, and read back."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redisjobs.base.arguments import is_text
from redisjobs.errors import DecodeError, EncodeError
from redisjobs.model import codec
from redisjobs.model.job import OnConflict, Priority, checked_name
from redisjobs.model.limits import checked_key
from redisjobs.model.transitions import MOST_JOBS, After, At, Due, NewJob

_NONCE = r"\S{0,100}"
_TEXT = r"(?s:.{1,500})"
_MOST = 10**15  # of a number of ms
_PUSHED_APART = ("id", "nonce", "name", "parameters")  # fields of an entry that are columns


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A row of an outbox, as the database returns it.

    Attributes:
        seq: Its number; rows of one producer have rising ones.
        wait_ms: How long its job has yet to wait; None if it was pushed without a delay.
        age_ms: How long ago it was pushed, by the database's clock.
    """

    seq: int
    job_id: str
    nonce: str
    name: str
    parameters: str
    options: Any
    wait_ms: float | None
    age_ms: float


def rows_of(queue: str, jobs: Sequence[NewJob]) -> str:
    """Return jobs as a JSON list of rows.

    Raises:
        EncodeError: A text has the character U+0000, which Postgres does not store.
    """
    rows = [_row(queue, job) for job in jobs]
    for row in rows:
        if "\0" in f"{row['id']}{row['name']}{row['options']}":  # the JSON of parameters escapes it
            raise EncodeError(
                f"{row['name']!r}: Postgres does not store the character U+0000, which a text here has"
            )
    return codec.encode_rows(rows)


def _row(queue: str, job: NewJob) -> dict[str, Any]:
    fields = dict(_pairs(job.fields))
    options = {
        "priority": None if job.priority is Priority.NORMAL else str(job.priority),
        "at_ms": job.due.ms if isinstance(job.due, At) else None,
        "unique": job.unique or None,
        "unique_for_ms": job.unique_for_ms,
        "expires_in_ms": job.expires_in_ms,
        "on_conflict": None if job.on_conflict is OnConflict.SKIP else str(job.on_conflict),
        "replicas": job.replicas or None,
        "fields": {name: text for name, text in fields.items() if name not in _PUSHED_APART} or None,
    }
    return {
        "queue": queue,
        "id": job.job_id,
        "nonce": job.nonce,
        "name": fields["name"],
        "parameters": fields["parameters"],
        "options": {name: value for name, value in options.items() if value is not None},
        "wait_ms": job.due.ms if isinstance(job.due, After) else None,
    }


def _pairs(fields: Iterable[str | bytes]) -> Iterable[tuple[str, str]]:
    texts = (part.decode() if isinstance(part, bytes) else part for part in fields)
    return zip(texts, texts, strict=True)


def job_of(row: OutboxRow, max_parameters: int) -> NewJob:
    """Return the job of a row.

    Raises:
        DecodeError: The row can't be a job. Other programs write rows, too.
    """
    if not is_text(row.job_id, _TEXT) or not re.fullmatch(_NONCE, row.nonce):
        raise DecodeError("the id has 1 to 500 characters, and the nonce up to 100 without spaces")
    try:
        checked_name(row.name)
    except ValueError as error:
        raise DecodeError(f"the name is wrong: {error}") from error
    size = len(row.parameters.encode())
    if size > max_parameters:
        raise DecodeError(f"the parameters have {size:,} bytes, and this queue takes up to {max_parameters:,}")
    if row.options == {} and row.wait_ms is None:  # most rows, and the rest takes twice the time
        return NewJob(row.job_id, ["name", row.name, "parameters", row.parameters], nonce=row.nonce)
    return _job(row, _Options(row.options))


def _job(row: OutboxRow, options: "_Options") -> NewJob:
    wait, at = row.wait_ms, options.number("at_ms")
    due: Due | None = (
        At(at) if at is not None else After(round(wait, 3)) if wait is not None and wait > 0 else None
    )
    expires = options.number("expires_in_ms")
    job = NewJob(
        row.job_id,
        ["name", row.name, "parameters", row.parameters, *options.fields()],
        Priority(options.one_of("priority", Priority, Priority.NORMAL)),
        due,
        options.text("unique"),
        options.number("unique_for_ms"),
        None if expires is None else max(1, round(expires - row.age_ms)),
        row.nonce,
        OnConflict(options.one_of("on_conflict", OnConflict, OnConflict.SKIP)),
        replicas=min(options.number("replicas") or 0, MOST_JOBS),
    )
    options.check_all_read()
    return job


class _Options:
    """The options of a row, whose values may be anything."""

    def __init__(self, given: Any) -> None:
        if not isinstance(given, Mapping):
            raise DecodeError("the options are no JSON object")
        self._given = dict(given)

    def number(self, name: str) -> int | None:
        value = self._given.pop(name, None)
        if value is None or (type(value) is int and 0 <= value < _MOST):
            return value
        raise DecodeError(f"the option {name} is no whole number from 0 up")

    def text(self, name: str) -> str:
        value = self._given.pop(name, None)
        if value is None or (isinstance(value, str) and is_text(value, _TEXT)):
            return value or ""
        raise DecodeError(f"the option {name} is no text of 1 to 500 characters")

    def one_of(self, name: str, kinds: Iterable[str], otherwise: str) -> str:
        value = self._given.pop(name, otherwise)
        if value in list(kinds):
            return str(value)
        raise DecodeError(f"the option {name} is none of {', '.join(kinds)}")

    def fields(self) -> list[str | bytes]:
        given = self._given.pop("fields", {})
        if not isinstance(given, Mapping) or given.keys() & set(_PUSHED_APART):
            raise DecodeError("the option fields is no object, or names a column")
        if not all(isinstance(text, str) for text in given.values()):
            raise DecodeError("the option fields has values that are no texts")
        try:
            checked_key(given.get("limit_key", "none"))
        except ValueError as error:
            raise DecodeError(f"the option fields is wrong: {error}") from error
        return [part for pair in given.items() for part in pair]

    def check_all_read(self) -> None:
        if self._given:
            raise DecodeError(f"there is no option {', '.join(map(repr, self._given))}")
