"""Commands that push jobs, look at them and cancel them."""

import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any

import anyio
import typer

from redisjobs import codec, sync
from redisjobs.cli import show
from redisjobs.cli.fault import Failure, Mistake, check_seconds
from redisjobs.cli.output import say, telling
from redisjobs.cli.target import DEFAULT_URL, Json, Moved, QueueName, Target, Url, load, named
from redisjobs.driver import NewJob, Word
from redisjobs.drivers.in_process import MemoryDriver
from redisjobs.errors import DecodeError, EncodeError, RedisJobsError, UnknownJob, is_text
from redisjobs.job import Priority, State
from redisjobs.queue import JobQueue
from redisjobs.registry import PushedJob, PushOptions, Registry
from redisjobs.visible import visible

JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="How many at most.")]


def push(
    target: Target,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The job's name.")],
    parameters: Annotated[str, typer.Argument(metavar="JSON", help="Its parameters; - reads them from stdin.")],
    url: Moved = None,
    delay: Annotated[float | None, typer.Option(help="Seconds from now, before it may run.")] = None,
    at: Annotated[str | None, typer.Option(help="When it may run, as 2030-01-31T08:00+01:00.")] = None,
    priority: Annotated[Priority, typer.Option(help="Which jobs go first.")] = Priority.NORMAL,
    job_id: Annotated[
        str | None, typer.Option("--id", help="Its id; while the queue has a job of it, nothing is added.")
    ] = None,
    unique: Annotated[str | None, typer.Option(help="A key that one job at a time may hold.")] = None,
    unique_for: Annotated[float | None, typer.Option(help="Seconds that it holds the key, come what may.")] = None,
    headers: Annotated[
        list[str] | None, typer.Option("--header", metavar="NAME=VALUE", help="What goes along; more than once.")
    ] = None,
    expires_in: Annotated[float | None, typer.Option(help="Seconds within which it has to be started.")] = None,
    as_json: Json = False,
) -> None:
    """Push a job whose parameters fit its registered type; print its id, and whether it was added."""
    options = PushOptions(delay=delay, at=_time(at), priority=priority, job_id=job_id, unique=unique)
    options |= PushOptions(unique_for=unique_for, headers=_headers(headers), expires_in=expires_in)
    check_seconds(delay=delay, unique_for=unique_for, expires_in=expires_in)
    _check(options)
    queue = load(target, url)
    if isinstance(queue.driver, MemoryDriver):
        raise Mistake(f"{target} is at memory://, which would end with this command; give --url")
    pushed = _push(queue, _prepare(queue, name, parameters, options))
    told = f"{visible(pushed.id)} {'added' if pushed.added else 'already there'}"
    with telling(f"the job was pushed: {told}"):
        if as_json:
            show.document({"job_id": pushed.id, "added": pushed.added})
        else:
            say(told)


def _prepare(queue: Registry, name: str, text: str, options: PushOptions) -> NewJob:
    # fsencode gives back the bytes that were typed, also where they are not of the terminal's encoding.
    raw = sys.stdin.buffer.read() if text == "-" else os.fsencode(text)
    try:
        definition = queue.definition(name)
        return queue.prepare(codec.read_parameters(definition.name, raw), definition.name, **options)
    except (UnknownJob, DecodeError, EncodeError, ValueError) as error:
        raise Mistake(str(error)) from error


def _check(options: PushOptions) -> None:
    """Say what makes no sense as it was typed; the queue would say it as Python has it."""
    if options.get("delay") is not None and options.get("at") is not None:
        raise Mistake("give --delay or --at, not both")
    for option, text in {"--id": options.get("job_id"), "--unique": options.get("unique")}.items():
        if text is not None and not is_text(text, r"(?s:.{1,500})"):
            raise Mistake(f"{option} {text[:40]!r}: give 1 to 500 characters that UTF-8 can carry")
    unique_for = options.get("unique_for")
    if unique_for is not None and not (options.get("unique") and unique_for):
        raise Mistake("--unique-for says how long, at least 0.001 s, a --unique key is held; give the key too")


def _headers(texts: Sequence[str] | None) -> dict[str, str]:
    headers = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise Mistake(f"--header {text!r} is not NAME=VALUE")
        headers[name] = value
    return headers


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise Mistake(f"--at {text!r} is not an ISO 8601 time, as 2030-01-31T08:00+01:00") from None
    if at.tzinfo is None:
        raise Mistake(f"--at {text!r} has no time zone, as 2030-01-31T08:00+01:00, or …Z for UTC")
    return at


def _push(queue: Registry, job: NewJob) -> PushedJob:
    if isinstance(queue, sync.JobQueue):
        with queue:
            return queue.push_many([job])[0]
    if isinstance(queue, JobQueue):
        return anyio.run(_push_async, queue, job)
    raise Mistake(f"a {type(queue).__name__} has no push")


async def _push_async(queue: JobQueue, job: NewJob) -> PushedJob:
    async with queue:
        return (await queue.push_many([job]))[0]


def stats(
    seconds: Annotated[
        float | None,
        typer.Argument(min=0.1, metavar="[SECONDS]", help="With --watch: how long between; 2 if not given."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show them anew, until Ctrl-C.")] = False,
    queue: QueueName = "default",
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Show how many jobs are in which state, and the queue's counters."""
    if seconds is not None and not watch:
        raise Mistake(f"stats {seconds:g} says how long between, which is for --watch")
    with named(queue, url) as there:
        if watch:
            _watch(there, seconds or 2, as_json)
        elif as_json:
            show.document(show.counts_document(queue, there.counts()))
        else:
            show.counts_table(queue, there.counts())


def _watch(queue: sync.JobQueue, seconds: float, as_json: bool) -> None:
    """Show the counts again and again, as a table or as a line of JSON, until Ctrl-C or until nobody reads it."""
    clear = "\x1b[H\x1b[2J" if sys.stdout is not None and sys.stdout.isatty() else ""
    with suppress(KeyboardInterrupt):
        read = True
        while read:
            try:
                counts = queue.counts()
            except RedisJobsError as error:
                print(f"redisjobs: {error}", file=sys.stderr)
            else:
                if as_json:
                    read = show.line(show.counts_document(queue.name, counts))
                else:
                    read = show.counts_table(queue.name, counts, clear)
            time.sleep(seconds)


def list_jobs(
    state: Annotated[State, typer.Option(help="Which ones.")],
    queue: QueueName = "default",
    url: Url = DEFAULT_URL,
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """List jobs: ready and running by priority and age, delayed by due time, dead newest first."""
    with named(queue, url) as there:
        jobs = there.jobs(state, limit)
    if as_json:
        show.document([show.job_document(job) for job in jobs])
    else:
        show.job_list(jobs, state, queue)


def show_job(job_id: JobId, queue: QueueName = "default", url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Show all that is known of one job."""
    with named(queue, url) as there:
        job = there.get(job_id)
    if job is None:
        raise Failure(f"no job {job_id!r} on queue '{queue}': it ended, or never was")
    if as_json:
        show.document(show.job_document(job))
    else:
        show.job_page(job)


def cancel(job_id: JobId, queue: QueueName = "default", url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Cancel a job: one that waits is gone at once, one that runs has its handler cancelled."""
    with named(queue, url) as there:
        word = there.cancel(job_id)
    fate: dict[Word, Any] = {
        Word.CANCELLED: "cancelled",
        Word.CANCELLING: "it runs; its handler is being cancelled, and it won't run again",
    }
    if word is Word.DEAD:
        raise Failure(f"job {job_id!r} is a dead letter, and stays one; `redisjobs dead delete` removes it")
    if word not in fate:
        raise Failure(f"no job {job_id!r} on queue '{queue}': it ended, or never was")
    with telling(f"job {job_id!r}: {fate[word]}"):
        if as_json:
            show.document({"job_id": job_id, "result": word.lower()})
        else:
            say(fate[word])
