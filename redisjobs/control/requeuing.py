"""An operator's call that requeues one job, once for both controls; see `client/operation.py`."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from redisjobs.base.arguments import flag
from redisjobs.base.visible import visible
from redisjobs.client.checks import id_of
from redisjobs.client.operation import Operation, ask
from redisjobs.control.children import steps
from redisjobs.errors import DecodeError, DriverError, UniqueConflict
from redisjobs.model.changes import Requeue
from redisjobs.model.info import job_info
from redisjobs.model.job import ASIDE, PushedJob, State
from redisjobs.model.queries import Find, Row
from redisjobs.model.steps import checked_key
from redisjobs.model.transitions import Reply

GO_ON: Any = object()
"""The default of `from_step`: the job goes on where it stopped."""

_MOST_NAMED = 20  # steps in an error


def requeue(
    job: str | PushedJob,
    parameters: Any,
    ended: bool,
    unique: bool,
    from_step: Any,
    edited: Callable[[Row, Any], Requeue],
) -> Operation[Reply | None]:
    """Make a dead letter or ended job ready again; `edited` returns the change that also sets new parameters."""
    step = _from(from_step)
    job_id, is_ended, has_key = id_of(job), flag(ended, "ended"), flag(unique, "unique")
    if parameters is None:
        change = Requeue(job_id, ended=is_ended)
    else:
        row = yield from ask(Find(job_id))
        if row is None or row.state not in (ASIDE if is_ended else (State.DEAD,)):
            return None
        change = edited(row, parameters)
    change = replace(change, from_step=step)
    match (yield from ask(change if has_key else replace(change, unique=""))):
        case Reply.NO_STEP:
            raise (yield from _no_step(job_id, step))
        case Reply.DUPLICATE:
            raise (yield from _conflict(job_id, change.unique))
        case Reply.OVERSIZED:
            raise DecodeError(f"{job_id}: the entry has more fields than a script can move; it stays")
        case Reply.NOT_FOUND:
            return None
        case reply:
            return reply


def _from(step: Any) -> str | None:
    """Return the step that a job is requeued from, as in `Requeue.from_step`."""
    if step is GO_ON:
        return None
    return "" if step is None else checked_key(step, "from_step")


def _no_step(job_id: str, key: str | None) -> Operation[ValueError]:
    """Return the error of a requeue from a step that the job has not saved."""
    keys = [step.key for step in (yield from steps(job_id))]
    some = [repr(visible(each)) for each in keys[-_MOST_NAMED:]]
    there = f"its last ones are {', '.join(some)}" if len(keys) > len(some) else f"it has {', '.join(some)}"
    return ValueError(
        f"{visible(job_id, 60)} stays: it has saved no step {visible(key or '')!r}; "
        + (there if keys else "it has saved none, so leave from_step out")
    )


def _conflict(job_id: str, key: str | None) -> Operation[UniqueConflict]:
    """Return the error of a requeue that met a held key: its new key, or with None the job's own."""
    from redisjobs.model.why import Ahead

    holder = ""
    try:
        row = (yield from ask(Find(job_id))) if key is None else None
        key = job_info(row).unique if row else key
        holder = (yield from ask(Ahead(key=key))).job_id if key else ""
    except DriverError:  # that the job stays is known, and says more than this error
        pass
    who = f"the job {visible(holder, 60)}" if holder else "another job"
    return UniqueConflict(
        f"{visible(job_id, 60)} stays: {who} holds its unique key now; wait until that has ended, or cancel it, "
        "or requeue this one without its key (unique=False, --without-key)",
        job_ids=[holder] if holder else [],
    )
