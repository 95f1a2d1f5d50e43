"""Statistics as Redis keeps them: texts such as `completed=120 run50=12`, which `redis-cli` shows as they are."""

import re
from collections.abc import Mapping
from typing import Any

from redisjobs.drivers.redis.wire import Wire, Word, pairs, raw_id, text_id
from redisjobs.model.recording import FindIntervals, IntervalFound, IntervalsFound, Record, Recorded, Sums, added

_SUM = re.compile(r"([^\s=]+)=(\d{1,13})(?!\S)")


def record_words(change: Record, now: str) -> Wire:
    """Return what a worker has counted as arguments of `record`."""
    words: list[Word] = [change.recorder, str(change.number), now]
    if change.names:
        words += _words("all", added(change.names.values()))
    for name, sums in change.names.items():
        words += _words(b"job " + raw_id(name), sums)
    if change.causes:
        # A reason may have spaces, and a fingerprint has no underscore.
        words += _words("causes", {cause.replace(" ", "_"): many for cause, many in change.causes.items()})
    return words


def _words(field: Word, sums: Sums) -> list[Word]:
    return [field, str(len(sums)), *(word for name, many in sums.items() for word in (name, str(many)))]


def recorded(reply: Any) -> Recorded:
    """Return the answer in a reply of `record`."""
    minute_in_ms, workers = reply
    return Recorded(minute_in_ms, workers)


def find_words(query: FindIntervals, now: str) -> Wire:
    """Return the arguments of `statistics`."""
    fields = [] if query.is_whole else [b"job " + raw_id(query.name) if query.name else "all", "queue"]
    return [str(query.minutes), str(query.count), query.after, now, *fields]


def intervals_found(reply: Any) -> IntervalsFound:
    """Return the intervals in a reply of `statistics`."""
    after, now_ms, *rest = reply
    numbers, flats = rest[::2], rest[1::2]
    found = [_interval(int(number), pairs(flat)) for number, flat in zip(numbers, flats, strict=True)]
    return IntervalsFound(int(now_ms), found, after.decode())


def _interval(number: int, fields: Mapping[bytes, bytes]) -> IntervalFound:
    names = {text_id(field[4:]): _sums(text) for field, text in fields.items() if field.startswith(b"job ")}
    total = _sums(fields[b"all"]) if b"all" in fields else {}
    causes = {cause.replace("_", " "): many for cause, many in _sums(fields.get(b"causes", b"")).items()}
    return IntervalFound(number, total, _sums(fields.get(b"queue", b"")), names, causes)


def _sums(text: bytes) -> Sums:
    """Return the sums of a text. Parts that can't be read are left out."""
    return {name: int(many) for name, many in _SUM.findall(text.decode("utf-8", "replace"))}
