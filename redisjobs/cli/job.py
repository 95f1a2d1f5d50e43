"""The `job` command, which shows one job."""

import dataclasses
import json
from base64 import b64encode
from typing import Annotated, Any

import typer

from redisjobs.base.visible import visible
from redisjobs.cli import show
from redisjobs.cli.bar import Bar
from redisjobs.cli.errors import Failure, Mistake
from redisjobs.cli.output import say
from redisjobs.cli.target import JobId, Json, QueueName, Url, named, where
from redisjobs.errors import (
    ChunksLost,
    DriverError,
    JobCancelled,
    JobFailed,
    NoResult,
    ResultExpired,
    ResultNotKept,
    ResultRefused,
    Unavailable,
)
from redisjobs.model.children import MOST_CHILDREN
from redisjobs.model.chunks import Chunk
from redisjobs.model.info import ChildGroup, JobInfo
from redisjobs.model.job import ASIDE, ENDED, State
from redisjobs.model.progress import amount
from redisjobs.model.steps import StepInfo
from redisjobs.sync import JobQueue

_SHOWN = 20  # children of a step


def show_job(
    job_id: JobId,
    queue: QueueName = "default",
    url: Url = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="First show its progress reports, until it has ended.")
    ] = False,
    children: Annotated[bool, typer.Option("--children", help="Only list its children, all of them.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="First show what it emits, until it has ended.")
    ] = False,
    after: Annotated[
        str | None, typer.Option("--after", metavar="ID", help="With --follow: only what comes after this chunk.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show one job, with its result if it has ended and the result is kept.

    Of a job that has not ended, and of a dead letter, it lists the steps that it has saved, and up to 20 children
    of each.

    With --watch --json, each progress report is a JSON document on one line, and so is the job at the end. If a
    watched job has ended and its outcome is not known, the document is {"job_id": ID, "outcome": null}, and the
    exit code is 0. If the watched job failed or was cancelled, the exit code is 1. The same goes for --follow; a
    chunk is {"id": ID, "run": NUMBER, "data": DATA}, or has "base64" for bytes.
    """
    if watch + follow + children > 1:
        raise Mistake("give one of --watch, --follow and --children")
    if after is not None and not follow:
        raise Mistake("--after needs --follow")
    with named(queue, url) as there:
        if children:
            _list_children(there, job_id, as_json)
            return
        was_there = watch and _watch(there, job_id, as_json=as_json)
        was_there = was_there or (follow and _follow(there, job_id, after, as_json=as_json))
        watch = watch or follow
        found = there.control.why(job_id)
        job = found.job
        steps, groups = _story(there, job) if job is not None else ([], [])
        end = _end(there, job_id) if job is None or job.state in ASIDE else {}
    if job is None and not end and not was_there:
        raise Failure(f"no job {job_id!r} on {where(there)}: it ended, or never was")
    if as_json:
        known = (
            show.job_document(job) | show.story_document(steps, groups)
            if job
            else {"job_id": job_id} | ({} if end else {"outcome": None})
        )
        (show.line if watch else show.document)(known | end)
    elif job is None and not end:
        say(f"job {visible(job_id)} on {where(there)} has ended; how is not known, as no result was kept")
    else:
        show.facts({"queue": there.name, "server": there.driver.where})
        if job is not None:
            show.job_page(job)
            show.story_page(steps, groups)
            if job.state not in ASIDE:
                show.facts({"why": f"{found.sentence} {found.advice}".strip()})
        show.end_page(end if job else {"job_id": job_id} | end)
    how = job.state if job is not None and job.state in ASIDE else end.get("outcome")
    if watch and how in (State.DEAD, State.CANCELLED):
        raise Failure(f"job {visible(job_id)} {'failed' if how == State.DEAD else 'was cancelled'}")


def _story(there: JobQueue, job: JobInfo) -> tuple[list[StepInfo], list[ChildGroup]]:
    """Return the steps and children of a job; none if this user may not read them, or its store has none."""
    try:
        if job.state in ENDED:
            return [], []
        return there.control.steps(job.job_id), there.control.children(job.job_id, limit=_SHOWN, look_up=True)
    except Unavailable:
        raise
    except DriverError:
        return [], []


def _list_children(there: JobQueue, job_id: str, as_json: bool) -> None:
    """List all children of a job; fail if it is not on the queue."""
    if there.get(job_id) is None:
        raise Failure(f"no job {job_id!r} on {where(there)}: it ended, or never was")
    groups = there.control.children(job_id, limit=MOST_CHILDREN)
    found = [(group.step, child) for group in groups for child in group.children]
    columns = ("step", "index", "job_id", "state", "error", "result")
    rows = ([step, *(getattr(child, column) for column in columns[1:])] for step, child in found)
    documents = ({"step": step} | show.child_document(child) for step, child in found)
    what = f"children of {visible(job_id)} on {where(there)}"
    show.listing(documents, as_json, columns, rows, what, f"no {what}")


def _watch(there: JobQueue, job_id: str, *, as_json: bool) -> bool:
    """Show a job's progress reports, as a bar or as lines, until it has ended; return whether the job existed."""
    was_there = there.get(job_id) is not None
    with Bar(job_id) as bar:
        for progress in there.watch(job_id):
            if as_json:
                show.line(dataclasses.asdict(progress))
            elif bar.is_shown:
                bar.show(progress)
            else:
                say("  ".join(filter(None, [amount(progress), visible(progress.note)])))
    return was_there


def _follow(there: JobQueue, job_id: str, after: str | None, *, as_json: bool) -> bool:
    """Show what a job emits until it has ended; return whether the job existed, or has emitted anything."""
    try:
        chunks = there.stream(job_id, after=after)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    was_there = there.get(job_id) is not None
    try:
        for chunk in chunks:
            was_there = True
            if not (show.line(_document(chunk)) if as_json else say(_text(chunk.data))):
                break
    except ChunksLost as error:
        raise Failure(
            f"{error.lost:,} chunks are not kept any more; --after {error.after} shows the others"
        ) from None
    return was_there


def _document(chunk: Chunk) -> dict[str, Any]:
    data = chunk.data
    content = {"base64": b64encode(data).decode()} if isinstance(data, bytes) else {"data": data}
    return {"id": chunk.id, "run": chunk.run} | content


def _text(data: Any) -> str:
    """Return a chunk as lines of text that can't control a terminal."""
    if isinstance(data, bytes):
        data = data.decode("utf-8", "backslashreplace")
    if not isinstance(data, str):
        return json.dumps(data, ensure_ascii=False)
    return "\n".join(map(visible, data.splitlines()))


def _end(there: JobQueue, job_id: str) -> dict[str, Any]:
    """Return how a job has ended, from its kept result; {} if nothing is kept."""
    try:
        return {"outcome": "completed", "result": there.result(job_id, timeout=0)}
    except NoResult as error:
        return _without_result(error)
    except TimeoutError:  # requeued just now
        return {}


def _without_result(error: NoResult) -> dict[str, Any]:
    match error:
        case JobFailed() if not error.reason:  # its dead letter was deleted
            return {"outcome": "dead", "error": error.message, "error_type": error.type}
        case JobCancelled():
            return {"outcome": "cancelled"}
        case ResultRefused() | ResultExpired():
            return {"outcome": "completed", "no_result": str(error)}
        case JobFailed() | ResultNotKept():
            return {}
    raise error
