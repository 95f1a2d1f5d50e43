"""The command that pushes a job."""

import os
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import anyio
import typer

from redisjobs import sync
from redisjobs.base.arguments import is_text
from redisjobs.base.visible import visible
from redisjobs.cli import show
from redisjobs.cli.errors import Mistake, check_seconds
from redisjobs.cli.output import say, telling
from redisjobs.cli.target import Imports, Json, Moved, Target, load, naming, where
from redisjobs.cli.wait import wait_for
from redisjobs.client.registry import Registry
from redisjobs.client.results import kept_for_a_while
from redisjobs.drivers.memory.driver import MemoryDriver
from redisjobs.errors import DecodeError, EncodeError, UnknownJob
from redisjobs.model import payload
from redisjobs.model.job import OnConflict, Priority, PushedJob, UniqueUntil
from redisjobs.model.limits import checked_key
from redisjobs.model.options import PushOptions
from redisjobs.model.transitions import NewJob
from redisjobs.queue import JobQueue


def push(
    target: Target,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The job's name.")],
    parameters: Annotated[str, typer.Argument(metavar="JSON", help="Its parameters; - reads them from stdin.")],
    imports: Imports = None,
    url: Moved = None,
    delay: Annotated[float | None, typer.Option(help="Seconds from now, before it may run.")] = None,
    at: Annotated[str | None, typer.Option(help="When it may run, as 2030-01-31T08:00+01:00.")] = None,
    priority: Annotated[Priority, typer.Option(help="Which jobs go first.")] = Priority.NORMAL,
    job_id: Annotated[
        str | None, typer.Option("--id", help="Its id; while the queue has a job of it, nothing is added.")
    ] = None,
    unique: Annotated[str | None, typer.Option(help="A key that one job at a time may hold.")] = None,
    unique_for: Annotated[float | None, typer.Option(help="Seconds that it holds the key, come what may.")] = None,
    unique_until: Annotated[
        UniqueUntil | None, typer.Option(help="What of the job it holds the key until.")
    ] = None,
    on_conflict: Annotated[
        OnConflict | None, typer.Option(help="What to do where another job holds the key.")
    ] = None,
    headers: Annotated[
        list[str] | None, typer.Option("--header", metavar="NAME=VALUE", help="What goes along; more than once.")
    ] = None,
    expires_in: Annotated[float | None, typer.Option(help="Seconds within which it has to be started.")] = None,
    keep_result: Annotated[
        float | None, typer.Option(help="Seconds for which its result is kept; 0: not at all.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until it has ended; print its result as JSON.")
    ] = False,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait at most; then exit with 124.")] = None,
    limit_key: Annotated[str | None, typer.Option(help="Under which key it is counted for a limit.")] = None,
    as_json: Json = False,
) -> None:
    """Push a job whose parameters fit its registered type; print its id, and whether it was added or replaced.

    With --wait its result is printed instead. The exit code is 0 if it is done, 1 if it failed, or has no result
    for another reason, and 124 if it has not ended in time; it goes on then.
    """
    options = PushOptions(
        delay=delay,
        at=_time(at),
        priority=priority,
        job_id=job_id,
        unique=unique,
        unique_for=unique_for,
        unique_until=unique_until,
        on_conflict=on_conflict,
        headers=_headers(headers),
        expires_in=expires_in,
        keep_result=keep_result,
        limit_key=_key(limit_key),
    )
    check_seconds(delay=delay, unique_for=unique_for, expires_in=expires_in)
    check_seconds(keep_result=keep_result, timeout=timeout)
    _check(options)
    if timeout is not None and not wait:
        raise Mistake("--timeout says how long --wait waits; give that too")
    if wait and keep_result == 0:
        raise Mistake("--keep-result 0 keeps nothing that --wait could print")
    queue = load(target, url, imports)
    if isinstance(queue.driver, MemoryDriver):
        raise Mistake(f"{target} is at memory://, which would end with this command; give --url")
    job = _prepare(queue, name, parameters, options)
    with naming(queue):
        pushed = _push(queue, kept_for_a_while(job) if wait else job)
        if wait:
            _print_result(pushed, wait_for(queue, pushed.id, timeout), as_json=as_json)
            return
    done = "added to" if pushed.added else "replaced on" if pushed.replaced else "already on"
    told = f"{visible(pushed.id)} {done} {where(queue)}"
    with telling(f"the job was pushed: {told}"):
        if as_json:
            show.document({"job_id": pushed.id, "added": pushed.added, "replaced": pushed.replaced})
        else:
            say(told)


def _print_result(pushed: PushedJob, result: Any, *, as_json: bool) -> None:
    with telling(f"job {visible(pushed.id)} is done"):
        if as_json:
            show.document({"job_id": pushed.id, "added": pushed.added, "result": result})
        else:
            show.document(result)


def _prepare(queue: Registry, name: str, text: str, options: PushOptions) -> NewJob:
    # fsencode gives back the bytes that were typed, also where they are not of the terminal's encoding.
    raw = sys.stdin.buffer.read() if text == "-" else os.fsencode(text)
    try:
        definition = queue.definition(name)
        return queue.prepare(payload.read_parameters(definition.name, raw), definition.name, **options)
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
    for option in ("unique_until", "on_conflict"):
        if options.get(option) is not None and not options.get("unique"):
            raise Mistake(f"--{option.replace('_', '-')} is about a --unique key; give the key too")
    if options.get("unique_until") is not None and unique_for is not None:
        raise Mistake("give --unique-for or --unique-until, not both")


def _key(text: str | None) -> str | None:
    try:
        return None if text is None else checked_key(text)
    except ValueError as error:
        raise Mistake(f"--{error}".replace("limit_key", "limit-key")) from error


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
