"""The definition of a schedule, and the jobs that it pushes. The rules of time are in `schedules/`."""

import hashlib
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache, partial

from redisjobs.base.arguments import is_text, whole
from redisjobs.model.job import OnConflict, Priority
from redisjobs.model.options import ENTRY_OPTIONS
from redisjobs.model.transitions import MOST_JOBS, After, At, NewJob
from redisjobs.schedules.schedule import Schedule

LAST_MS = 253_370_764_800_000
"""The latest slot, a year before datetimes end, because each slot needs a next one."""


class Accuracy(StrEnum):
    """What to do about missed slots, for example after an outage: push one job for all, or one job for each."""

    LATEST = "latest"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Definition:
    """The definition of a schedule."""

    name: str
    rule: Schedule
    job: NewJob  # the job that it pushes, without an id; its delay counts from the slot
    accuracy: Accuracy = Accuracy.LATEST
    at_most: int = 100  # with `ALL`, how many missed slots get a job at most
    jitter_ms: int = 0  # the most time after its slot at which a job may run

    def __post_init__(self) -> None:
        if not is_text(self.name, r"[^\s\x00-\x1f]{1,200}"):
            raise ValueError(f"{self.name!r} can't name a schedule: give 1 to 200 characters, no spaces")
        if self.job.nonce or isinstance(self.job.due, At):
            raise ValueError(
                f"schedule '{self.name}': each slot has an id and a time of its own, so leave out job_id= and at="
            )
        if self.job.on_conflict is OnConflict.RAISE:
            raise ValueError(
                f"schedule '{self.name}': no code waits for its pushes, so leave out "
                'on_conflict="raise"; a slot whose unique key is held counts as fired'
            )
        if self.job.replicas:
            raise ValueError(f"schedule '{self.name}': no code waits for its pushes, so leave out replicas=")
        if whole(self.at_most, "at_most") > MOST_JOBS:
            raise ValueError(f"at_most={self.at_most!r}: give at most {MOST_JOBS}")

    @property
    def fields(self) -> list[bytes]:
        """The stored form: names and values, flat, with times in ms. Options that were not given have no field."""
        job = self.job
        name, parameters, *options = job.fields[1::2]
        flat: dict[str | bytes, str | bytes | int | None] = {
            "rule": self.rule.text,
            "accuracy": self.accuracy.value,
            "at_most": self.at_most,
            "jitter_ms": self.jitter_ms or None,
            "job": name,
            "parameters": parameters,
            "priority": job.priority.value,
            "delay_ms": round(job.due.ms) if isinstance(job.due, After) else None,
            "unique": job.unique or None,
            "unique_for_ms": job.unique_for_ms,
            "on_conflict": None if job.on_conflict is OnConflict.SKIP else job.on_conflict.value,
            "expires_in_ms": job.expires_in_ms,
            **dict(zip(job.fields[4::2], options, strict=True)),  # the options of ENTRY_OPTIONS
        }
        there = {key: value for key, value in flat.items() if value is not None}
        return [_raw(part) for pair in there.items() for part in pair]

    @property
    def fingerprint(self) -> str:
        """A hash that is different for each definition of this name."""
        digest = hashlib.sha256()
        for part in self.fields:
            digest.update(b"%d:%b" % (len(part), part))
        return digest.hexdigest()[:16]

    @classmethod
    def read(cls, name: str, fields: Mapping[bytes, bytes]) -> "Definition":
        """Return the stored definition; raise a ValueError if it was changed in Redis and can't be read."""
        text, number = partial(_text, fields), partial(_number, fields)
        kept: list[str | bytes] = ["name", text(b"job"), "parameters", text(b"parameters").encode()]
        for option, (_, pattern) in ENTRY_OPTIONS.items():
            if (key := option.encode()) in fields:
                kept += [option, text(key, pattern=pattern)]
        unique_for_ms = number(b"unique_for_ms")
        if unique_for_ms == 0:
            raise ValueError("its field 'unique_for_ms' is 0: a key is held for 1 ms at least")
        delay_ms = number(b"delay_ms")
        job = NewJob(
            "",
            kept,
            Priority(text(b"priority", "normal")),
            After(delay_ms) if delay_ms else None,
            text(b"unique", ""),
            unique_for_ms,
            number(b"expires_in_ms"),
            on_conflict=OnConflict(text(b"on_conflict", "skip")),
        )
        return cls(
            name,
            _rule(text(b"rule")),
            job,
            Accuracy(text(b"accuracy", "latest")),
            number(b"at_most") or 100,
            number(b"jitter_ms") or 0,
        )


def _text(fields: Mapping[bytes, bytes], key: bytes, default: str | None = None, pattern: str = "") -> str:
    """Return a field as text; raise a ValueError if it is missing, no text, or does not match the pattern."""
    value = fields.get(key)
    if value is None and default is None:
        raise ValueError(f"it has no field '{key.decode()}'")
    try:
        text = value.decode() if value is not None else str(default)
    except UnicodeDecodeError:
        raise ValueError(f"its field '{key.decode()}' is no text in UTF-8") from None
    if pattern and not re.fullmatch(pattern, text):
        raise ValueError(f"its field '{key.decode()}' is {text!r:.60}, which does not match `{pattern}`")
    return text


def _number(fields: Mapping[bytes, bytes], key: bytes) -> int | None:
    """Return a field as a whole number, or raise a ValueError; None if it is missing or empty."""
    text = _text(fields, key, "")
    if text and not re.fullmatch(r"[0-9]{1,15}", text):
        raise ValueError(f"its field {key.decode()!r} is {text!r:.60}, and no whole number from 0 up")
    return int(text) if text else None


@lru_cache(maxsize=2048)  # tenants with a daily time of their own share 1,440 rules
def _rule(text: str) -> Schedule:
    """Return the rule of a text. Cached, because parsing is slow and thousands of schedules may share a rule."""
    return Schedule.parse(text)


def check_schedule(rule: Schedule) -> Schedule:
    """Return a rule; raise a TypeError if it is something else."""
    if not isinstance(rule, Schedule):
        raise TypeError(f"{rule!r} is not a schedule: give one, as Schedule.cron('0 4 * * *')")
    return rule


def _raw(part: str | bytes | int) -> bytes:
    return part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogateescape")


def slot_id(name: str, slot_ms: int) -> str:
    """Return the id of the job that a schedule pushes for a slot: `nightly@2026-11-26T04:00:00Z`."""
    spec = "milliseconds" if slot_ms % 1000 else "seconds"
    return f"{name}@{moment(slot_ms).replace(tzinfo=None).isoformat(timespec=spec)}Z"


def slot_job(definition: Definition, slot_ms: int) -> NewJob:
    """Return the job that a schedule pushes for a slot. All schedulers make the same job."""
    job_id, due = slot_id(definition.name, slot_ms), definition.job.due
    wait_ms = due.ms if isinstance(due, After) else 0.0
    # The share of the jitter comes from the id, so that each try of each scheduler makes the same job.
    wait_ms += definition.jitter_ms * zlib.crc32(job_id.encode()) / 2**32
    return replace(job_now(definition, job_id, slot_ms), due=After(round(wait_ms, 3)) if wait_ms else None)


def job_now(definition: Definition, job_id: str, now_ms: int) -> NewJob:
    """Return a schedule's job for a push now, with this id."""
    next_ms = ms_of(definition.rule.next_after(moment(now_ms)))
    added = ["scheduled_for", str(now_ms), "next_scheduled_at", str(next_ms)]
    return replace(definition.job, job_id=job_id, fields=[*definition.job.fields, *added], due=None)


def ms_of(time: datetime) -> int:
    """Return a datetime as ms since 1970."""
    return round(time.timestamp() * 1000)


def moment(ms: float) -> datetime:
    """Return ms since 1970 as a datetime in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC)
