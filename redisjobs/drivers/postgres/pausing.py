"""Pauses and holds, as calls of functions in the database."""

import re
from collections.abc import Mapping
from typing import Any

from redisjobs.drivers.postgres.calls import Call, answer_of, answers
from redisjobs.drivers.postgres.entries import text_of
from redisjobs.errors import DriverError
from redisjobs.model import changes, queries
from redisjobs.model.transitions import Reply

_FIRST = (-1, 0)  # before the first rank and place in line
_AFTER = re.compile(r"(\d) (\d{1,18})", re.ASCII)


@answers(changes.Pause)
def _pause(change: changes.Pause) -> Call[Reply]:
    return Call("pause", [text_of(change.name)], answer_of(Reply))


@answers(changes.Resume)
def _resume(change: changes.Resume) -> Call[Reply]:
    return Call("resume", [text_of(change.name)], answer_of(Reply))


@answers(queries.FindPauses)
def _find_pauses(query: queries.FindPauses) -> Call[queries.Pauses]:
    return Call("find_pauses", [], answer_of(_pauses))


def _pauses(found: Mapping[str, Any]) -> queries.Pauses:
    return queries.Pauses(found["queue"], found["names"], found["held"])


@answers(changes.Hold)
def _hold(change: changes.Hold) -> Call[Reply]:
    return Call("hold", [text_of(change.job_id)], answer_of(Reply))


@answers(changes.Unhold)
def _unhold(change: changes.Unhold) -> Call[Reply]:
    return Call("unhold", [text_of(change.job_id)], answer_of(Reply))


@answers(changes.Unpark)
def _unpark(change: changes.Unpark) -> Call[str]:
    found = _AFTER.fullmatch(change.after)
    if change.after and not found:
        raise DriverError(f"after={change.after!r:.60}: no step ends there")
    return Call("unpark", [int(found[1]), int(found[2])] if found else [*_FIRST], answer_of(str))
