"""Tidying a queue, a step at a time."""

import re
from collections.abc import Mapping
from typing import Any

from redisjobs.drivers.postgres.calls import Call, answer_of, answers
from redisjobs.errors import DriverError
from redisjobs.model.changes import Tidied, Tidy

_AFTER = re.compile(r"(unpark|lines|buckets|children|trim)((?: -?\d{1,19})*)(?: (\[.*\]))?", re.ASCII | re.DOTALL)


@answers(Tidy)
def _tidy(change: Tidy) -> Call[Tidied]:
    found = _AFTER.fullmatch(change.after)
    if change.after and not found:
        raise DriverError(f"after={change.after!r:.60}: no step ends there")
    places = [int(each) for each in found[2].split()] if found else []
    duty, line = (found[1], found[3] or "") if found else ("", "")
    return Call("tidy", [duty, places, line], answer_of(_tidied))


def _tidied(found: Mapping[str, Any]) -> Tidied:
    return Tidied(after=found["after"], trimmed=found["trimmed"])
