"""One job: why it does not run, what happened to it, its parameters, its result, and what you can do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from redisjobs.errors import (
    DecodeError,
    EncodeError,
    JobCancelled,
    JobFailed,
    NoResult,
    ResultNotKept,
)
from redisjobs.model.children import ChildState
from redisjobs.model.history import PastEvent
from redisjobs.model.info import ChildGroup, ChildInfo, JobInfo
from redisjobs.model.job import ASIDE, ENDED, WAITING, State
from redisjobs.model.progress import amount
from redisjobs.model.steps import How, StepInfo
from redisjobs.model.transitions import WaitsFor
from redisjobs.model.why import Cause, Why
from redisjobs.web.board.access import Verb
from redisjobs.web.board.board import Story
from redisjobs.web.board.filters import id_from
from redisjobs.web.board.visit import Missing, ViewAnswer, Visit, part
from redisjobs.web.show.format import clock, duration, json_lines
from redisjobs.web.show.traces import read_trace

_COLORS: Mapping[Cause, str] = {
    Cause.IN_LINE: "ready",
    Cause.INBOX: "ready",
    Cause.RUNNING: "running",
    Cause.DELAYED: "delayed",
    Cause.RETRYING: "delayed",
    Cause.SUSPENDED: "suspended",
    Cause.PAUSED: "delayed",
    Cause.NAME_PAUSED: "delayed",
    Cause.LIMIT: "delayed",
    Cause.QUIET: "delayed",
    Cause.CANCELLING: "delayed",
    Cause.OVERDUE: "dead",
    Cause.NO_WORKER: "dead",
    Cause.NO_HANDLER: "dead",
    Cause.OTHER_RELEASE: "dead",
    Cause.LAST_DELIVERY: "dead",
    Cause.WORKER_SILENT: "dead",
    Cause.DEAD: "dead",
    Cause.DONE: "done",
}
"""The colours of causes; that of a cause that is not here is `idle`."""

_SHOWN = frozenset(
    (
        "job name state priority attempt deliveries unique_key parent worker duration error reason fingerprint "
        "progress alike child_of pushed_at started_at due_at failed_at finished_at waits_for since wakes_at"
    ).split()
)
"""The facts of `Why` that other parts of the page show."""

_MOST_STEPS = 100  # in a story

_SECONDS = {"usual_duration_p50", "usual_duration_p95", "starts_in", "worker_lease"}


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened to a job, or will.

    Attributes:
        color: The class of its colour.
        text: What happened.
        at: When.
        value: JSON: what a step returned, or a signal brought; '' for none.
        groups: The children that a step has run, or that the job waits for.
    """

    color: str
    text: str
    at: datetime
    value: str = ""
    groups: Sequence[ChildGroup] = ()


async def job(visit: Visit) -> ViewAnswer:
    """Show one job."""
    job_id = id_from(visit.query.get("id", ""))
    if not job_id:
        raise Missing("There is no job with this id.")
    known = await visit.board.why(job_id)
    found = known.job
    if found is None:
        return await _ended(visit, job_id, known)
    faults = list[str]()
    none: Story = [], []
    steps, groups = none if found.state in ENDED else await part(visit.board.story(job_id), none, faults)
    data = {
        "job": found,
        "known": known,
        "steps": steps,
        "signal": _signal(visit, found),
        "faults": faults,
        "color": color(known),
        "alike": known.facts.get("alike", 0) if found.fingerprint else 0,
        "story": story(found, steps, groups),
        "child_color": child_color,
        "trace": read_trace(found.traceback) if found.traceback else None,
        "parameters": json_lines(found.parameters),
        "amount": amount(found.progress) if found.progress else "",
        "result": await _result(visit, found) if found.state is State.COMPLETED else None,
        "facts": facts(known, visit.now),
        "may": may(found, visit.verbs),
    }
    return ViewAnswer("job", found.name or "Job", data, view="failures" if found.state is State.DEAD else "jobs")


def color(known: Why) -> str:
    """Return the colour of a cause."""
    return _COLORS.get(known.cause, "idle")


def facts(known: Why, now: datetime) -> list[tuple[str, str]]:
    """Return the facts that no other part of the page shows, as labels and texts."""
    return [
        (key.replace("_", " ").capitalize(), _fact(key, value, now))
        for key, value in known.facts.items()
        if key not in _SHOWN
    ]


def _fact(key: str, value: Any, now: datetime) -> str:
    if isinstance(value, datetime):
        return clock(value, now)
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, int | float):
        return duration(value) if key in _SECONDS else f"{value:,}"
    return str(value)


def may(found: JobInfo, verbs: frozenset[Verb]) -> frozenset[str]:
    """Return the actions that make sense for a job, and that the viewer may take."""
    ended = found.state in ASIDE
    waits = found.state in WAITING
    possible = {
        "retry": (Verb.RETRY, ended),
        "edit": (Verb.EDIT, ended),
        "delete": (Verb.DELETE, ended),
        "cancel": (Verb.CANCEL, not ended and not found.cancelling),
        "hold": (Verb.HOLD, waits and not found.held),
        "unhold": (Verb.HOLD, found.held),
        "signal": (Verb.SIGNAL, not ended and not found.cancelling),
    }
    return frozenset(word for word, (verb, sensible) in possible.items() if sensible and verb in verbs)


def story(found: JobInfo, steps: Sequence[StepInfo] = (), groups: Sequence[ChildGroup] = ()) -> list[Moment]:
    """Return what is known of a job's life, in order; of its steps the newest."""
    of_step = {group.step: group for group in groups}
    moments = [Moment(*_told(event), event.at) for event in found.history if event.at is not None]
    if found.queued_at:
        moments.append(
            Moment("ready", "Pushed" + (f" by job {found.parent}" if found.parent else ""), found.queued_at)
        )
    if found.started_at:
        moments.append(Moment("running", f"Attempt {found.attempt} began", found.started_at))
    if found.due_at:
        text = f"Attempt {found.attempt} is due" if found.attempt > 1 else "Due"
        moments.append(Moment("delayed", text, found.due_at))
    moments += [_step(step, of_step.pop(step.key, None)) for step in steps[-_MOST_STEPS:]]
    others = [*of_step.values()]  # the job waits for them, or did not come to that
    if found.suspended_at:
        text = f"Waits for {found.waits_for or 'an unknown step'}"
        moments.append(Moment("suspended", text, found.suspended_at, "", others))
    elif others and (at := found.failed_at or found.started_at or found.queued_at):
        moments.append(Moment("idle", "It has children that it did not wait for", at, "", others))
    if found.wakes_at:
        sleeps = found.waits_for is not None and found.waits_for.what is WaitsFor.TIME
        text = "Wakes" if sleeps else "The wait is over, at the latest"
        moments.append(Moment("suspended", text, found.wakes_at))
    if found.failed_at and not any(
        event.what == "died" and event.at == found.failed_at for event in found.history
    ):
        why = "" if found.reason in ("", "failed") else f": {found.reason}"
        moments.append(Moment("dead", f"It became a dead letter{why}", found.failed_at))
    if found.finished_at:
        moments.append(Moment(found.state, found.state.capitalize(), found.finished_at))
    return sorted(moments, key=lambda moment: moment.at)


def _step(step: StepInfo, group: ChildGroup | None) -> Moment:
    color, name = "done" if step.how is How.DONE else "suspended", f"Step {step.key}"
    return Moment(color, f"{name}: {step.says}", step.at, step.value, [group] if group else [])


def child_color(child: ChildInfo) -> str:
    """Return the class of the colour of a child."""
    if child.job is not None:
        return "delayed" if child.job.held else child.job.state
    if child.state in (ChildState.COMPLETED, ChildState.REFUSED):
        return "done"
    return "idle" if child.state in (ChildState.PENDING, ChildState.CANCELLED) else "dead"


_EVENTS = {
    "failed": ("delayed", "failed, and is tried again"),
    "died": ("dead", "It became a dead letter"),
    "ended": ("done", "It ended"),
    "requeued": ("ready", "It was retried by an operator"),
    "edited": ("ready", "It was retried with other parameters"),
    "worker-lost": ("dead", "Its worker was lost"),
    "released": ("idle", "Its worker stopped and handed it back"),
    "interrupted": ("idle", "Its run was interrupted"),
    "independent": ("idle", "Its parent had gone on, so it is a job by itself"),
    "cancel-asked": ("delayed", "A cancel was asked for"),
}


def _told(event: PastEvent) -> tuple[str, str]:
    """Return the colour of a past event, and what happened."""
    color, text = _EVENTS.get(event.what, ("idle", event.what))
    if event.what == "failed":
        text = f"Attempt {event.attempt or ''} {text}".replace("  ", " ")
    if event.note not in ("", "failed") and event.what in ("failed", "died"):
        text = f"{text}: {event.note.removeprefix('failed: ')}"
    return color, text


def _signal(visit: Visit, job: JobInfo) -> str:
    """Return the name of the signal that a job waits for, to fill the form; '' if that may be hidden."""
    wait = job.waits_for
    if wait is None or wait.what is not WaitsFor.SIGNAL or visit.board.redaction.may_hide(wait.key):
        return ""
    return wait.name


async def _ended(visit: Visit, job_id: str, known: Why) -> ViewAnswer:
    """Show what is known of a job that the queue does not keep: what became of it, and maybe its result."""
    outcome = await _outcome(visit, job_id) or {}
    data = {"job_id": job_id, "known": known, "color": color(known), "outcome": outcome}
    is_unknown = known.cause is Cause.GONE and not outcome
    return ViewAnswer("ended", "Job", data, 404 if is_unknown else 200, "jobs")


async def _result(visit: Visit, found: JobInfo) -> str | None:
    return (await _outcome(visit, found.job_id, found.name) or {}).get("result")


async def _outcome(visit: Visit, job_id: str, name: str = "") -> dict[str, str] | None:
    """Return a job's `result` as JSON text, or its `error`; None if nothing is kept."""
    try:
        text = await visit.board.result(job_id)
    except (ResultNotKept, TimeoutError):
        return None
    except JobFailed as error:
        return None if error.reason else {"error": visit.board.redaction.message(error.message, name)}
    except JobCancelled:
        return None
    except (NoResult, DecodeError, EncodeError) as error:  # the result expired, was refused, or can't be shown
        return {"error": visit.board.redaction.message(str(error), name)}
    return {"result": json_lines(visit.board.redaction.result(name, text))}
