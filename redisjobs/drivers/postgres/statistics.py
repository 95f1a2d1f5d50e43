"""Statistics by minute and ten minutes, as calls of functions in the database."""

from collections.abc import Sequence
from typing import Any

import orjson

from redisjobs.drivers.postgres.calls import Call, Meta, Row, answer_of, answers
from redisjobs.drivers.postgres.entries import given_json, text_of
from redisjobs.model.recording import FindIntervals, IntervalFound, IntervalsFound, Record, Recorded, added


@answers(Record)
def _record(change: Record) -> Call[Recorded]:
    parts = [change.names, added(change.names.values()), change.causes]
    texts = [orjson.dumps({text_of(name): each for name, each in part.items()}).decode() for part in parts]
    return Call("record", [change.recorder, change.number, *texts], answer_of(lambda found: Recorded(*found)))


@answers(FindIntervals)
def _find_intervals(query: FindIntervals) -> Call[IntervalsFound]:
    after = int(query.after or 0)
    arguments = [query.minutes, query.count, text_of(query.name), query.is_whole, after]
    return Call("find_intervals", arguments, _intervals)


def _intervals(meta: Meta, rows: Sequence[Row]) -> IntervalsFound:
    return IntervalsFound(meta["a"]["now"], [_interval(given_json(each)) for _, each in rows], meta["a"]["after"])


def _interval(found: Sequence[Any]) -> IntervalFound:
    return IntervalFound(*found)
