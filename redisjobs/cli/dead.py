"""Commands on dead letters: jobs that were set aside for a human."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Annotated, Any

import anyio
import typer

from redisjobs import sync
from redisjobs.base.arguments import pause_of
from redisjobs.base.visible import number_of, visible
from redisjobs.cli import show
from redisjobs.cli.bar import Bar
from redisjobs.cli.errors import Failure, Mistake
from redisjobs.cli.filters import Fingerprint, Name, OlderThan, Reason, Text, filters
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
    queue_of,
    where,
)
from redisjobs.client.operations import FilterOptions
from redisjobs.client.registry import Registry
from redisjobs.drivers.memory.driver import MemoryDriver
from redisjobs.errors import DecodeError, EncodeError
from redisjobs.events import JobsChanged
from redisjobs.model import payload
from redisjobs.model.info import JobInfo
from redisjobs.model.job import State
from redisjobs.model.progress import Progress
from redisjobs.queue import JobQueue

app = typer.Typer(help="Dead letters: jobs set aside for a human.", no_args_is_help=True)

MaybeIds = Annotated[list[str] | None, typer.Argument(metavar="[ID...]", help="Which ones.")]
Everything = Annotated[bool, typer.Option("--all", help="All dead letters of the queue.")]


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
    as_json: Json = False,
) -> None:
    """List dead letters, newest first."""
    wanted = filters(name, text, older_than, fingerprint, reason)
    with named(queue, url) as there:
        letters = there.jobs(State.DEAD, limit, **wanted)
    if as_json:
        show.document([show.job_document(letter) for letter in letters])
    else:
        show.job_list(letters, State.DEAD, where(there))


@app.command("groups")
def group_letters(queue: QueueName = "default", url: Url = None, as_json: Json = False) -> None:
    """Tell how many dead letters there are of each kind of failure, or reason; the largest groups first."""
    with named(queue, url) as there:
        groups = there.dead_groups()
    if as_json:
        show.document([dataclasses.asdict(group) for group in groups])
    elif not groups:
        say(f"no dead letters on {where(there)}")
    else:
        columns = ("count", "fingerprint", "reason", "names", "last_at", "job_id", "error")
        rows = ([getattr(group, column) for column in columns] for group in groups)
        show.table(columns, rows, f"dead letters on {where(there)}")


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
    rate: Annotated[
        str | None, typer.Option(metavar="N/s|m|h", help="So many in a second, a minute or an hour, as 100/s.")
    ] = None,
    parameters: Annotated[
        str | None, typer.Option(metavar="JSON", help="What the one job gets in place of its parameters.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="MODULE:QUEUE", help="Whose handler says what --parameters may be.")
    ] = None,
    imports: Imports = None,
    ended: Annotated[
        bool,
        typer.Option(
            "--ended", help="Requeue completed and cancelled jobs, too, where the queue keeps them; by id only."
        ),
    ] = False,
    queue: QueueName = "default",
    url: Moved = None,
    as_json: Json = False,
) -> None:
    """Give dead letters another life: ready, under their old ids, with all their attempts."""
    wanted = filters(name, text, older_than, fingerprint, reason)
    _check("requeue", job_ids, everything, wanted)
    if rate is not None:
        _check_rate(rate, job_ids)
    if target is not None and parameters is None:
        raise Mistake("--target is for --parameters, which its handler's type checks")
    if imports and target is None:
        raise Mistake("--import is for --target: it imports the modules of its handlers")
    if ended and not job_ids:
        raise Mistake("--ended is for jobs that are named: give their ids")
    if parameters is not None:
        if len(job_ids or ()) != 1:
            raise Mistake("--parameters are for one dead letter: name it")
        there = queue_of(queue, url) if target is None else load(target, url, imports)
        _requeue_edited(there, job_ids or (), parameters, as_json, ended=ended)
        return
    with named(queue, url) as there:
        if job_ids:
            _act(partial(there.requeue, ended=ended), job_ids, "requeued", there, as_json, there.get)
        else:
            count = _with_bar(there, wanted, lambda: there.requeue_all(rate=rate, **wanted))
            _told("requeued", count, there, as_json)


@app.command()
def delete(
    job_ids: MaybeIds = None,
    everything: Everything = False,
    name: Name = None,
    text: Text = None,
    older_than: OlderThan = None,
    fingerprint: Fingerprint = None,
    reason: Reason = None,
    queue: QueueName = "default",
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Throw dead letters away."""
    wanted = filters(name, text, older_than, fingerprint, reason)
    _check("delete", job_ids, everything, wanted)
    with named(queue, url) as there:
        if job_ids:
            _act(partial(_delete, there), job_ids, "deleted", there, as_json, there.get)
        else:
            count = _with_bar(there, wanted, lambda: there.delete_all(**wanted))
            _told("deleted", count, there, as_json)


def _delete(there: sync.JobQueue, job_id: str) -> bool:
    """Throw a dead letter away, and no job that has ended and was kept."""
    job = there.get(job_id)
    return job is not None and job.state is State.DEAD and there.delete(job_id)


def _requeue_edited(there: Registry, job_ids: Sequence[str], text: str, as_json: bool, *, ended: bool) -> None:
    """Requeue one letter with other parameters."""
    if isinstance(there.driver, MemoryDriver):
        raise Mistake(f"queue '{there.name}' is at memory://, which would end with this command; give --url")

    def act(job_id: str) -> bool:
        return _requeue_with(there, job_id, os.fsencode(text), ended=ended)

    with naming(there):
        _act(act, job_ids, "requeued", there, as_json)


def _requeue_with(queue: Registry, job_id: str, raw: bytes, *, ended: bool) -> bool:
    """Requeue a letter of a queue of either face with what was typed."""
    try:
        if isinstance(queue, sync.JobQueue):
            with queue:
                job = queue.get(job_id)
                return job is not None and queue.requeue(job_id, parameters=_typed(queue, job, raw), ended=ended)
        if isinstance(queue, JobQueue):
            return anyio.run(partial(_requeue_async, queue, job_id, raw, ended=ended))
    except EncodeError as error:
        raise Mistake(str(error)) from error
    raise Mistake(f"a {type(queue).__name__} has no requeue")


async def _requeue_async(queue: JobQueue, job_id: str, raw: bytes, *, ended: bool) -> bool:
    async with queue:
        job = await queue.get(job_id)
        return job is not None and await queue.requeue(job_id, parameters=_typed(queue, job, raw), ended=ended)


def _typed(queue: Registry, job: JobInfo, raw: bytes) -> Any:
    """What was typed as parameters of a job: by the type of its handler, or as JSON where there is none."""
    try:
        if job.name in queue.definitions:
            return payload.read_parameters(queue.definitions[job.name].name, raw)
        value = json.loads(raw)
    except (DecodeError, ValueError, RecursionError) as error:
        raise Mistake(f"--parameters {raw.decode('utf-8', 'replace')[:60]!r}: {error}") from None
    if value is None:
        raise Mistake("--parameters null: leave the option out to keep the parameters that there are")
    return value


def _check(verb: str, job_ids: Sequence[str] | None, everything: bool, wanted: FilterOptions) -> None:
    """Whether it was said once, and in one way, which letters are meant."""
    if bool(job_ids) == (everything or bool(wanted)):
        raise Mistake(
            f"name the dead letters to {verb}, or say --all, or which by --name, --fingerprint and the like"
        )


def _check_rate(rate: str, job_ids: Sequence[str] | None) -> None:
    if job_ids:
        raise Mistake("--rate is for letters that are not named one by one")
    try:
        pause_of(rate)
    except ValueError:
        raise Mistake(f"--rate {rate!r}: give how many in a second, a minute or an hour, as 100/s") from None


def _with_bar(there: sync.JobQueue, wanted: FilterOptions, take: Callable[[], int]) -> int:
    """Do something to many letters, and show on a terminal how far it is."""
    with Bar("dead letters") as bar:
        if not bar.is_shown:
            return take()
        total, done = None if wanted else there.counts().dead, 0

        def show(changed: JobsChanged) -> None:
            nonlocal done
            done += len(changed.jobs)
            bar.show(Progress(done / max(done, total) if total else None, done, total))

        there.events.subscribe(JobsChanged, show)
        return take()


def _told(done: str, count: int, there: Registry, as_json: bool) -> None:
    with telling(f"{done}: {count}"):
        if as_json:
            show.document({"count": count})
        else:
            say(f"{done} {number_of(count, 'dead letter')} on {where(there)}")


def _act(
    act: Callable[[str], bool],
    ids: Iterable[str],
    done: str,
    there: Registry,
    as_json: bool,
    look: Callable[[str], JobInfo | None] = lambda _: None,
) -> None:
    """Do something to each letter, say to which it was done, and fail if it wasn't to all."""
    acted, missing, stuck = _try(act, ids)
    with telling(f"{done}: {', '.join(map(visible, acted)) or 'none'}"):
        if as_json:
            show.document({done: acted, "not_found": missing, "failed": stuck})
        else:
            for job_id in acted:
                say(f"{done} {visible(job_id)} on {where(there)}")
    states = [job.state if (job := look(job_id)) else "" for job_id in missing]
    others = [
        visible(job_id) + (f" ({state})" if state else "") for job_id, state in zip(missing, states, strict=True)
    ]
    faults = [f"no dead letter on {where(there)}: {', '.join(others)}"] if missing else []
    if done == "requeued" and {State.COMPLETED, State.CANCELLED}.intersection(states):
        faults.append("--ended runs completed and cancelled jobs again")
    faults += [f"could not be {done}: {', '.join(map(visible, stuck))}"] if stuck else []
    if faults:
        raise Failure("; ".join(faults))


def _try(act: Callable[[str], bool], ids: Iterable[str]) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
    acted: list[str] = []
    missing: list[str] = []
    stuck: list[str] = []
    for job_id in ids:
        try:
            (acted if act(job_id) else missing).append(job_id)
        except DecodeError:
            stuck.append(job_id)
    return acted, missing, stuck
