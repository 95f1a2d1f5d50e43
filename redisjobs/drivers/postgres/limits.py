"""Limits of job names, as calls of functions in the database."""

import re
from collections.abc import Mapping
from typing import Any

from redisjobs.drivers.postgres.calls import Call, answer_of, answers
from redisjobs.drivers.postgres.entries import text_of
from redisjobs.errors import DriverError
from redisjobs.model.changes import SetLimit
from redisjobs.model.queries import FindLimits, LimitsFound

_AFTER = re.compile(r"line (\S+) (.*)|job (\d{1,18})", re.ASCII | re.DOTALL)


@answers(SetLimit)
def _set_limit(change: SetLimit) -> Call[str]:
    after = text_of(change.after[1:]) if change.after else None  # the last line's key, after a space
    return Call("set_limit", [text_of(change.name), text_of(change.limit), after], answer_of(str))


@answers(FindLimits)
def _find_limits(query: FindLimits) -> Call[LimitsFound]:
    found = _AFTER.fullmatch(query.after)
    if query.after and not found:
        raise DriverError(f"after={query.after!r:.60}: no step ends there")
    name, key, job = found.groups() if found else ("", "", None)
    return Call(
        "find_limits", [text_of(name or ""), text_of(key or ""), job and int(job)], answer_of(_limits_found)
    )


def _limits_found(found: Mapping[str, Any]) -> LimitsFound:
    lines = [(bucket, count, turn_ms) for bucket, count, turn_ms in found["lines"]]
    running = [(bucket, worker, job_id) for bucket, worker, job_id in found["running"]]
    return LimitsFound(found["limits"], lines, running, _after(found))


def _after(found: Mapping[str, Any]) -> str:
    if found["line"]:
        return "line {} {}".format(*found["line"])
    return f"job {found['job']}" if found["job"] else ""
