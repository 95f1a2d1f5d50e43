"""An operator's changes of jobs: cancel, requeue, delete, one job or many."""

from collections.abc import Mapping
from typing import Any

import orjson

from redisjobs.drivers.postgres.calls import Call, answer_of, answers
from redisjobs.drivers.postgres.entries import due_of, text_of
from redisjobs.drivers.postgres.reading import begin_of, wanted_of
from redisjobs.model import changes
from redisjobs.model.job import State
from redisjobs.model.queries import Filter, Scan
from redisjobs.model.transitions import Reply


@answers(changes.Cancel)
def _cancel(change: changes.Cancel) -> Call[Reply]:
    return _change(change)


@answers(changes.Requeue)
def _requeue(change: changes.Requeue) -> Call[Reply]:
    return _change(change)


@answers(changes.Delete)
def _delete(change: changes.Delete) -> Call[Reply]:
    return _change(change)


def _change(change: changes.JobChange) -> Call[Reply]:
    return Call("change", [orjson.dumps(_words(change))], answer_of(Reply))


@answers(changes.ChangeMany)
def _change_many(many: changes.ChangeMany) -> Call[list[Reply]]:
    words = orjson.dumps([_words(each) for each in many.changes])
    return Call("change_many", [words], answer_of(lambda replies: [Reply(each) for each in replies]))


def _words(change: changes.JobChange) -> Mapping[str, Any]:
    """Return a change as functions/requeuing.sql reads it."""
    words: dict[str, Any] = {"do": type(change).__name__, "id": text_of(change.job_id)}
    if isinstance(change, changes.Once):
        words["nonce"] = change.nonce
    if isinstance(change, changes.Requeue):
        words |= due_of(change.due)
        words |= {"limit_key": text_of(change.limit_key), "key": change.key}
        words |= {"ended": True} if change.ended else {}
        words |= {} if change.parameters is None else {"parameters": text_of(change.parameters)}
        words |= {} if change.unique is None else {"unique": text_of(change.unique)}
        words |= {} if change.from_step is None else {"from_step": text_of(change.from_step)}
    return words


@answers(changes.RequeueAll)
def _requeue_all(change: changes.RequeueAll) -> Call[changes.BulkResult]:
    return Call("requeue_all", [*_step(change.filter, change.after), change.wait_ms, change.pause_ms], _taken)


@answers(changes.DeleteAll)
def _delete_all(change: changes.DeleteAll) -> Call[changes.BulkResult]:
    return Call("delete_all", _step(change.filter, change.after), _taken)


def _step(by: Filter, after: str) -> list[Any]:
    """Return which dead letters a step takes, and below which one it begins; None: it only says where to begin."""
    seq = -begin_of(Scan(State.DEAD, after=after))[1] if after else None
    return [orjson.dumps(wanted_of(by)), seq]


_taken = answer_of(lambda found: changes.BulkResult(found["ids"], found["after"], found["duplicates"]))
