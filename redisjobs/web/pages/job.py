"""One job: where it is, what happened to it, its parameters, its result, and what you can do."""

from dataclasses import dataclass
from datetime import datetime

from redisjobs.errors import (
    DecodeError,
    EncodeError,
    JobCancelled,
    JobFailed,
    NoResult,
    ResultNotKept,
)
from redisjobs.model.info import JobInfo, PastEvent
from redisjobs.model.job import State, WhyWaiting
from redisjobs.model.progress import amount
from redisjobs.web.board.access import Verb
from redisjobs.web.board.filters import id_from
from redisjobs.web.board.visit import Missing, Page, Visit
from redisjobs.web.show.format import ago, duration, json_lines
from redisjobs.web.show.traces import read_trace

_WAITS = {
    WhyWaiting.HELD: "It is held: it starts after you let it start.",
    WhyWaiting.PAUSED: "The queue is paused.",
    WhyWaiting.NAME_PAUSED: "Jobs of its name are paused.",
    WhyWaiting.LIMIT: "It waits in line for the limit of its name.",
    WhyWaiting.NO_WORKER: "No worker of the queue is alive.",
    WhyWaiting.NO_HANDLER: "The workers that claimed it have no handler for its name.",
    WhyWaiting.LAST_DELIVERY: "Its workers died, so it waits for a worker that runs no other job.",
}


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened to a job, or will."""

    color: str
    text: str
    at: datetime


async def job(visit: Visit) -> Page:
    """Show one job."""
    job_id = id_from(visit.query.get("id", ""))
    found = await visit.board.job(job_id) if job_id else None
    if found is None:
        return await _ended(visit, job_id)
    same = [group for group in await visit.board.groups() if group.fingerprint == found.fingerprint != ""]
    data = {
        "job": found,
        "sentence": sentence(found, visit.now),
        "others": same[0].count - 1 if same and found.state is State.DEAD else 0,
        "story": story(found),
        "trace": read_trace(found.traceback) if found.traceback else None,
        "parameters": json_lines(found.parameters),
        "amount": amount(found.progress) if found.progress else "",
        "result": await _result(visit, found) if found.state is State.COMPLETED else None,
        "same": same[0] if same and found.state is State.DEAD else None,
        "may": may(found, visit.verbs),
    }
    return Page("job", found.name or "Job", data, view="failures" if found.state is State.DEAD else "jobs")


def may(found: JobInfo, verbs: frozenset[Verb]) -> frozenset[str]:
    """Return the actions that make sense for a job, and that the viewer may take."""
    ended = found.state in (State.DEAD, State.COMPLETED, State.CANCELLED)
    waits = found.state in (State.READY, State.DELAYED)
    possible = {
        "retry": (Verb.RETRY, ended),
        "edit": (Verb.EDIT, ended),
        "delete": (Verb.DELETE, ended),
        "cancel": (Verb.CANCEL, not ended and not found.cancelling),
        "hold": (Verb.HOLD, waits and not found.held),
        "unhold": (Verb.HOLD, found.held),
    }
    return frozenset(word for word, (verb, sensible) in possible.items() if sensible and verb in verbs)


def sentence(found: JobInfo, now: datetime) -> tuple[str, str]:
    """Return where the job is and what it waits for: the main part, and a detail."""
    runs = f" It runs for {duration(found.duration)}." if found.duration is not None else ""
    match found.state:
        case State.DEAD:
            when = f" {ago(found.failed_at, now)}" if found.failed_at else ""
            if found.reason == "failed":
                times = f" in all {found.attempt} attempts" if found.attempt > 1 else ""
                return f"It failed{times}, and became a dead letter{when}.", ""
            return f"It became a dead letter{when}: {found.reason or 'for an unknown reason'}.", ""
        case State.RUNNING if found.cancelling:
            return "It is being cancelled.", f"Its handler has not ended yet.{runs}"
        case State.RUNNING:
            return f"It runs on {found.worker}.", runs.strip()
        case State.DELAYED:
            due = f"It is due {ago(found.due_at, now)}." if found.due_at else "It is delayed."
            failed = f"The last attempt failed: {found.error}" if found.error else ""
            return due, _WAITS[found.why_waiting] if found.why_waiting else failed
        case State.READY:
            why = found.why_waiting
            return "It is ready to run.", _WAITS[
                why
            ] if why else "It waits for a free slot. Jobs before it come first."
        case ended:
            when = f" {ago(found.finished_at, now)}" if found.finished_at else ""
            took = f"It ran for {duration(found.duration)}." if found.duration is not None else ""
            return f"It was {ended}{when}.", took


def story(found: JobInfo) -> list[Moment]:
    """Return what is known of a job's life, in order."""
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
    if found.failed_at and not any(
        event.what == "died" and event.at == found.failed_at for event in found.history
    ):
        moments.append(Moment("dead", f"It became a dead letter: {found.reason}", found.failed_at))
    if found.finished_at:
        moments.append(Moment("done", found.state.capitalize(), found.finished_at))
    return sorted(moments, key=lambda moment: moment.at)


_EVENTS = {
    "failed": ("delayed", "failed, and is tried again"),
    "died": ("dead", "It became a dead letter"),
    "ended": ("done", "It ended"),
    "requeued": ("ready", "It was retried by an operator"),
    "edited": ("ready", "It was retried with other parameters"),
    "worker-lost": ("dead", "Its worker was lost"),
    "released": ("idle", "Its worker stopped and handed it back"),
    "interrupted": ("idle", "Its run was interrupted"),
    "cancel-asked": ("delayed", "A cancel was asked for"),
}


def _told(event: PastEvent) -> tuple[str, str]:
    """Return the colour of a past event, and what happened."""
    color, text = _EVENTS.get(event.what, ("idle", event.what))
    if event.what == "failed":
        text = f"Attempt {event.attempt or ''} {text}".replace("  ", " ")
    if event.note and event.what in ("failed", "died"):
        text = f"{text}: {event.note.removeprefix('failed: ')}"
    return color, text


async def _ended(visit: Visit, job_id: str) -> Page:
    """Show what is known of a job that the queue does not keep: maybe its result."""
    outcome = await _outcome(visit, job_id) if job_id else None
    if outcome is None:
        raise Missing(
            "There is no job with this id. It has ended and was not kept, or it never existed. A retention= of "
            "the queue keeps jobs that have ended."
        )
    if "result" in outcome:
        outcome["result"] = visit.board.redaction.result("", outcome["result"], "")
    return Page("ended", "Job", {"job_id": job_id, **outcome}, view="jobs")


async def _result(visit: Visit, found: JobInfo) -> str | None:
    outcome = await _outcome(visit, found.job_id)
    text = outcome.get("result") if outcome else None
    return None if text is None else visit.board.redaction.result(found.name, text, found.parameters)


async def _outcome(visit: Visit, job_id: str) -> dict[str, str] | None:
    """Return how a job has ended, and its result as JSON text; None if nothing is kept."""
    try:
        text = await visit.board.result(job_id)
    except (ResultNotKept, TimeoutError):
        return None
    except JobFailed as error:
        return None if error.reason else {"state": "dead", "said": visit.board.redaction.message(error.message)}
    except JobCancelled:
        return {"state": "cancelled", "said": "It was cancelled."}
    except (NoResult, DecodeError, EncodeError) as error:  # the result expired, was refused, or can't be shown
        return {"state": "completed", "said": visit.board.redaction.message(str(error))}
    return {"state": "completed", "said": "It is done.", "result": json_lines(text)}
