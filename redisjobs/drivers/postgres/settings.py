"""Settings of a queue, and what is asked of its workers, as calls of functions in the database."""

from collections.abc import Mapping
from typing import Any

import orjson

from redisjobs.drivers.postgres.calls import Call, answer_of, answers
from redisjobs.drivers.postgres.entries import text_of
from redisjobs.model import changes, queries
from redisjobs.model.job import ASIDE
from redisjobs.model.transitions import Reply


@answers(changes.Retain)
def _retain(change: changes.Retain) -> Call[Reply]:
    keeps = {str(state): keep.text for state in ASIDE if (keep := change.retention.of(state))}
    return Call("retain", [orjson.dumps(keeps).decode()], answer_of(Reply))


@answers(changes.Declare)
def _declare(change: changes.Declare) -> Call[bool]:
    return Call("declare", [change.declaration, change.done], answer_of(bool))


@answers(changes.AskWorker)
def _ask_worker(change: changes.AskWorker) -> Call[Reply]:
    return Call("ask_worker", [text_of(change.worker_id), change.wish.value], answer_of(Reply))


@answers(queries.FindWorkers)
def _find_workers(query: queries.FindWorkers) -> Call[queries.WorkersFound]:
    return Call("find_workers", [text_of(query.after)], answer_of(_workers))


def _workers(found: Mapping[str, Any]) -> queries.WorkersFound:
    return queries.WorkersFound([(*each,) for each in found["workers"]], found["after"])
