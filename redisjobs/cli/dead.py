"""Commands on dead letters: jobs that failed for good, kept for you to look at."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any

import typer

from redisjobs import sync
from redisjobs.base.arguments import pause_of
from redisjobs.base.visible import number_of, visible
from redisjobs.cli import show
from redisjobs.cli.bar import Bar
from redisjobs.cli.errors import Failure, Mistake, mistake
from redisjobs.cli.filters import Fingerprint, Name, OlderThan, Reason, Text, Worker, filters
from redisjobs.cli.output import say, telling
from redisjobs.cli.target import (
    Imports,
    JobId,
    Json,
    Limit,
    Moved,
    QueueName,
    Url,
    load,
    named,
    naming,
    where,
)
from redisjobs.client.registry import Registry
from redisjobs.control.filters import FilterOptions
from redisjobs.drivers.memory.driver import MemoryDriver
from redisjobs.errors import DecodeError, EncodeError, UniqueConflict
from redisjobs.events.kinds import JobsChanged
from redisjobs.model import payload
from redisjobs.model.info import JobInfo
from redisjobs.model.job import State
from redisjobs.model.progress import Progress
from redisjobs.model.transitions import Reply

app = typer.Typer(help="Dead letters: jobs that failed for good, kept for you to look at.", no_args_is_help=True)

MaybeIds = Annotated[list[str] | None, typer.Argument(metavar="[ID...]", help="The ids of dead letters.")]
Everything = Annotated[bool, typer.Option("--all", help="All dead letters of the queue.")]

Requeue = Callable[..., Reply | None]

_GROUP_COLUMNS = ("count", "fingerprint", "reason", "names", "last_at", "job_id", "error")


@app.command("list")
def list_letters(
    queue: QueueName = "default",
    url: Url = None,
    limit: Limit = 100,
    name: Name = None,
    text: Text = None,
    older_than: OlderThan = None,
    fingerprint: Fingerprint = None,
    reason: Reason = None,
    worker: Worker = None,
    as_json: Json = False,
) -> None:
    """List dead letters, newest first."""
    wanted = filters(name, text, older_than, fingerprint, reason, worker)
    with named(queue, url) as there:
        show.job_list(there.control.jobs(State.DEAD, limit, **wanted), State.DEAD, where(there), as_json)


@app.command("groups")
def group_letters(queue: QueueName = "default", url: Url = None, as_json: Json = False) -> None:
    """Count the dead letters of each kind of failure or reason, the largest groups first."""
    with named(queue, url) as there:
        groups = there.control.dead_groups()
    rows = ([getattr(group, column) for column in _GROUP_COLUMNS] for group in groups)
    documents = map(dataclasses.asdict, groups)
    on = f"dead letters on {where(there)}"
    show.listing(documents, as_json, _GROUP_COLUMNS, rows, on, f"no {on}")


@app.command("show")
def show_letter(job_id: JobId, queue: QueueName = "default", url: Url = None, as_json: Json = False) -> None:
    """Show one dead letter, with its traceback."""
    with named(queue, url) as there:
        letter = there.get(job_id)
    if letter is None or letter.state is not State.DEAD:
        raise Failure(
            f"no dead letter {job_id!r} on {where(there)}" + (f"; it is {letter.state}" if letter else "")
        )
    if as_json:
        show.document(show.job_document(letter))
    else:
        show.facts({"queue": there.name, "server": there.driver.where})
        show.job_page(letter)


@app.command()
def requeue(
    job_ids: MaybeIds = None,
    everything: Everything = False,
    name: Name = None,
    text: Text = None,
    older_than: OlderThan = None,
    fingerprint: Fingerprint = None,
    reason: Reason = None,
    worker: Worker = None,
    rate: Annotated[
        str | None, typer.Option(metavar="N/s|m|h", help="Spread them: 100/s, 20/m or 5/h become ready.")
    ] = None,
    parameters: Annotated[
        str | None, typer.Option(metavar="JSON", help="New parameters, for one dead letter.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="MODULE:QUEUE", help="Check --parameters by the handler of this queue.")
    ] = None,
    imports: Imports = None,
    ended: Annotated[
        bool, typer.Option("--ended", help="Also requeue kept jobs that were completed or cancelled; by id only.")
    ] = False,
    without_key: Annotated[
        bool, typer.Option("--without-key", help="Requeue the named ones without their unique keys.")
    ] = False,
    from_step: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The named ones forget this step, and those saved after it. `job ID` lists them."
        ),
    ] = None,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="The named ones forget all steps, and go on from the start.")
    ] = False,
    queue: QueueName = "default",
    url: Moved = None,
    as_json: Json = False,
) -> None:
    """Make dead letters ready again, under their ids, with all their attempts.

    One that has saved steps goes on where it stopped. One whose unique key another job holds stays a dead letter.
    A child whose parent has gone on is a job by itself from then on, which the answer and its history say.
    """
    wanted = filters(name, text, older_than, fingerprint, reason, worker)
    _check("requeue", job_ids, everything, wanted)
    if target is not None and parameters is None:
        raise Mistake("--target is for --parameters, which its handler's type checks")
    if imports and target is None:
        raise Mistake("--import is for --target: it imports the modules of its handlers")
    if ended and not job_ids:
        raise Mistake("--ended is for jobs that are named: give their ids")
    if without_key and not job_ids:
        raise Mistake("--without-key is for jobs that are named: give their ids")
    if (from_step is not None or from_start) and not job_ids:
        raise Mistake("--from-step and --from-start are for jobs that are named: give their ids")
    if from_step is not None and from_start:
        raise Mistake("give --from-step or --from-start, and not both")
    if parameters is not None and len(job_ids or ()) != 1:
        raise Mistake("--parameters are for one dead letter: name it")
    if rate is not None:
        _check_rate(rate, job_ids)
    with _handling(target, url, imports) if target else named(queue, url) as there:
        if not job_ids:
            count = _with_bar(there, wanted, lambda: there.control.requeue_all(rate=rate, **wanted))
            _told("requeued", count, there, as_json)
            return
        act: Requeue = partial(there.control.requeue, ended=ended, unique=not without_key)
        if from_step is not None or from_start:
            act = partial(_requeue_from, from_step, act)
        if parameters is not None:
            act = partial(_requeue_edited, there, os.fsencode(parameters), act)
        _act(act, job_ids, "requeued", there, as_json)


@app.command()
def delete(
    job_ids: MaybeIds = None,
    everything: Everything = False,
    name: Name = None,
    text: Text = None,
    older_than: OlderThan = None,
    fingerprint: Fingerprint = None,
    reason: Reason = None,
    worker: Worker = None,
    queue: QueueName = "default",
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Delete dead letters."""
    wanted = filters(name, text, older_than, fingerprint, reason, worker)
    _check("delete", job_ids, everything, wanted)
    with named(queue, url) as there:
        if job_ids:
            _act(partial(_delete, there), job_ids, "deleted", there, as_json)
        else:
            count = _with_bar(there, wanted, lambda: there.control.delete_all(**wanted))
            _told("deleted", count, there, as_json)


def _delete(there: sync.JobQueue, job_id: str) -> bool:
    """Delete a dead letter, but no completed or cancelled job."""
    job = there.get(job_id)
    return job is not None and job.state is State.DEAD and there.control.delete(job_id)


@contextmanager
def _handling(target: str, url: str | None, imports: Sequence[str] | None) -> Iterator[sync.JobQueue]:
    """Yield a sync queue with the handlers of a queue in the user's code."""
    found = load(target, url, imports)
    if isinstance(found.driver, MemoryDriver):
        raise Mistake(f"queue '{found.name}' is at memory://, which would end with this command; give --url")
    longest, deadline = found.max_parameters, found.deadline
    queue = sync.JobQueue(found.driver, found.name, max_parameters=longest, deadline=deadline)
    with queue, naming(queue):
        queue.definitions = found.definitions
        yield queue


def _requeue_from(step: str | None, requeue: Requeue, job_id: str, **options: Any) -> Reply | None:
    """Requeue one dead letter from a step; with None, from the start."""
    try:
        return requeue(job_id, from_step=step, **options)
    except ValueError as error:  # it has no such step
        raise mistake(error, ["from_step"]) from error


def _requeue_edited(queue: sync.JobQueue, raw: bytes, requeue: Requeue, job_id: str) -> Reply | None:
    """Requeue one dead letter with the typed parameters."""
    job = queue.get(job_id)
    try:
        return None if job is None else requeue(job_id, parameters=_typed(queue, job, raw))
    except EncodeError as error:
        raise Mistake(str(error)) from error


def _typed(queue: Registry, job: JobInfo, raw: bytes) -> Any:
    """Return the typed parameters as the type of the job's handler, or as plain JSON without a handler here."""
    try:
        if job.name in queue.definitions:
            return payload.read_parameters(queue.definitions[job.name].name, raw)
        value = json.loads(raw)
    except (DecodeError, ValueError, RecursionError) as error:
        raise Mistake(f"--parameters {raw.decode('utf-8', 'replace')[:60]!r}: {error}") from None
    if value is None:
        raise Mistake("--parameters null: leave the option out to keep the parameters as they are")
    return value


def _check(verb: str, job_ids: Sequence[str] | None, everything: bool, wanted: FilterOptions) -> None:
    """Raise a `Mistake` unless exactly one way chooses the dead letters: ids, or --all and filters."""
    if bool(job_ids) == (everything or bool(wanted)):
        raise Mistake(
            f"name the dead letters to {verb}, or say --all, or which by --name, --fingerprint and the like"
        )


def _check_rate(rate: str, job_ids: Sequence[str] | None) -> None:
    if job_ids:
        raise Mistake("--rate is for letters that are not named one by one")
    try:
        pause_of(rate)
    except ValueError as error:
        raise mistake(error, ["rate"]) from None


def _with_bar(there: sync.JobQueue, wanted: FilterOptions, take: Callable[[], int]) -> int:
    """Change many dead letters, with a progress bar on a terminal."""
    with Bar("dead letters") as bar:
        if not bar.is_shown:
            return take()
        total, done = None if wanted else there.control.counts().dead, 0

        def show(changed: JobsChanged) -> None:
            nonlocal done
            done += len(changed.jobs)
            bar.show(Progress(done / max(done, total) if total else None, done, total))

        there.events.subscribe(JobsChanged, show)
        return take()


def _told(done: str, count: int, there: Registry, as_json: bool) -> None:
    show.done(f"{done} {number_of(count, 'dead letter')} on {where(there)}", {"count": count}, as_json)


def _act(
    act: Callable[[str], Reply | bool | None], ids: Sequence[str], done: str, there: sync.JobQueue, as_json: bool
) -> None:
    """Change each dead letter, print the changed ones, and fail if some were not changed."""
    acted, missing, stuck, held = _try(act, ids)
    independent = [job_id for job_id, answer in acted.items() if answer is Reply.INDEPENDENT]
    with telling(f"{done}: {', '.join(map(visible, acted)) or 'none'}"):
        if as_json:
            known = {"independent": independent} if independent else {}
            show.document({done: [*acted], "not_found": missing, "failed": [*stuck, *held], **known})
        else:
            for job_id in acted:
                alone = ": a job by itself, as its parent had gone on" if job_id in independent else ""
                say(f"{done} {visible(job_id)} on {where(there)}{alone}")
    states = [job.state if (job := there.get(job_id)) else "" for job_id in missing]
    others = [
        visible(job_id) + (f" ({state})" if state else "") for job_id, state in zip(missing, states, strict=True)
    ]
    faults = [f"no dead letter on {where(there)}: {', '.join(others)}"] if missing else []
    if done == "requeued" and {State.COMPLETED, State.CANCELLED}.intersection(states):
        faults.append("--ended runs completed and cancelled jobs again")
    faults += [f"could not be {done}: {', '.join(map(visible, stuck))}"] if stuck else []
    if held:
        keys = ", ".join(f"{visible(job_id)} ({visible(who) or 'unknown'})" for job_id, who in held.items())
        faults.append(f"other jobs hold the unique keys of: {keys}; see --without-key")
    if faults:
        raise Failure("; ".join(faults))


def _try(
    act: Callable[[str], Reply | bool | None], ids: Sequence[str]
) -> tuple[dict[str, Reply | bool], list[str], list[str], dict[str, str]]:
    """Return the changed jobs with the answers, the missing, the stuck, and who holds the keys of the others."""
    acted, missing, stuck, held = dict[str, Reply | bool](), list[str](), list[str](), dict[str, str]()
    for job_id in ids:
        try:
            if answer := act(job_id):
                acted[job_id] = answer
            else:
                missing.append(job_id)
        except DecodeError:
            stuck.append(job_id)
        except UniqueConflict as error:
            held[job_id] = error.job_id
    return acted, missing, stuck, held
