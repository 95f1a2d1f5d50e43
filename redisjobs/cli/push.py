"""The `push` command."""

import os
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, cast

import anyio
import typer

from redisjobs import sync
from redisjobs.base.visible import visible
from redisjobs.cli import show
from redisjobs.cli.errors import Mistake, check_seconds, mistake
from redisjobs.cli.output import telling
from redisjobs.cli.target import Imports, Json, Moved, Target, load, naming, where
from redisjobs.cli.wait import wait_for
from redisjobs.client.registry import Registry
from redisjobs.client.results import kept_for_a_while
from redisjobs.drivers.memory.driver import MemoryDriver
from redisjobs.errors import DecodeError, EncodeError, UnknownJob
from redisjobs.model import payload
from redisjobs.model.job import OnConflict, Priority, PushedJob, UniqueUntil
from redisjobs.model.options import PushOptions
from redisjobs.model.transitions import NewJob
from redisjobs.queue import JobQueue


def push(
    target: Target,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The job's name.")],
    parameters: Annotated[str, typer.Argument(metavar="JSON", help="Its parameters; - reads them from stdin.")],
    imports: Imports = None,
    url: Moved = None,
    delay: Annotated[float | None, typer.Option(help="Seconds before it may run.")] = None,
    at: Annotated[
        str | None, typer.Option(help="The time before which it may not run: 2030-01-31T08:00Z.")
    ] = None,
    priority: Annotated[
        Priority | None, typer.Option(help="Which jobs run first. Defaults to its handler's, else normal.")
    ] = None,
    job_id: Annotated[
        str | None, typer.Option("--id", help="Its id; if the queue has a job with this id, nothing is added.")
    ] = None,
    unique: Annotated[
        str | None, typer.Option(help="A key that one job at a time may hold. Defaults to its handler's.")
    ] = None,
    unique_for: Annotated[
        float | None, typer.Option(help="Hold the key for this many seconds, whatever becomes of the job.")
    ] = None,
    unique_until: Annotated[
        UniqueUntil | None, typer.Option(help="Hold the key until the job starts, or until it ends.")
    ] = None,
    on_conflict: Annotated[
        OnConflict | None, typer.Option(help="What to do if another job holds the key.")
    ] = None,
    headers: Annotated[
        list[str] | None, typer.Option("--header", metavar="NAME=VALUE", help="A header of the job; repeatable.")
    ] = None,
    expires_in: Annotated[float | None, typer.Option(help="Seconds within which it must start.")] = None,
    keep_result: Annotated[float | None, typer.Option(help="Seconds to keep its result; 0: not at all.")] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until it has ended; print its result as JSON.")
    ] = False,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait at most; then exit with 124.")] = None,
    limit_key: Annotated[str | None, typer.Option(help="The key under which it counts for a limit.")] = None,
    replicas: Annotated[int | None, typer.Option(help="Wait until this many replicas have it.")] = None,
    as_json: Json = False,
) -> None:
    """Push a job whose parameters fit its registered type; print its id, and whether it was added or replaced.

    With --wait, print its result instead. The exit code is 0 if the job is done, 1 if it failed or has no result
    for another reason, and 124 if it has not ended in time. Then it goes on.
    """
    check_seconds(delay=delay, unique_for=unique_for, expires_in=expires_in)
    check_seconds(keep_result=keep_result, timeout=timeout)
    if timeout is not None and not wait:
        raise Mistake("--timeout says how long --wait waits; give that too")
    if wait and keep_result == 0:
        raise Mistake("--keep-result 0 keeps nothing that --wait could print")
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
        limit_key=limit_key,
        replicas=replicas,
    )
    queue = load(target, url, imports)
    if isinstance(queue.driver, MemoryDriver):
        raise Mistake(f"{target} is at memory://, which would end with this command; give --url")
    job = _prepare(queue, name, parameters, _given(options))
    with naming(queue):
        pushed = _push(queue, kept_for_a_while(job) if wait else job)
        result = wait_for(queue, pushed.id, timeout) if wait else None
    _print(pushed, where(queue), result, wait, as_json)


def _given(options: PushOptions) -> PushOptions:
    """Return the options that were typed: None would mean no unique key, even if the handler has one."""
    return cast("PushOptions", {name: value for name, value in options.items() if value is not None})


def _print(pushed: PushedJob, where: str, result: Any, waited: bool, as_json: bool) -> None:
    document = {"job_id": pushed.id, "added": pushed.added}
    if waited:
        with telling(f"job {visible(pushed.id)} is done"):
            show.document(document | {"result": result} if as_json else result)
        return
    done = "added to" if pushed.added else "replaced on" if pushed.replaced else "already on"
    show.done(f"{visible(pushed.id)} {done} {where}", document | {"replaced": pushed.replaced}, as_json)


def _prepare(queue: Registry, name: str, text: str, options: PushOptions) -> NewJob:
    # fsencode returns the bytes that were typed, even if they don't fit the terminal's encoding.
    raw = sys.stdin.buffer.read() if text == "-" else os.fsencode(text)
    try:
        definition = queue.definition(name)
        return queue.prepare(payload.read_parameters(definition.name, raw), definition.name, **options)
    except (UnknownJob, DecodeError, EncodeError) as error:
        raise Mistake(str(error)) from error
    except ValueError as error:
        raise mistake(error, PushOptions.__annotations__, job_id="--id", headers="--header") from error


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
