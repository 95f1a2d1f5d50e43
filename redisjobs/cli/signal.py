"""The `signal` command, which sends a signal to a job."""

import os
from contextlib import suppress
from typing import Annotated, Any

import typer

from redisjobs.base.visible import visible
from redisjobs.cli import show
from redisjobs.cli.errors import Failure, Mistake, mistake
from redisjobs.cli.target import JobId, Json, QueueName, Url, named, where
from redisjobs.errors import DecodeError, DriverError, EncodeError, StepsFull
from redisjobs.model.job import State
from redisjobs.model.payload import decode_untyped
from redisjobs.model.transitions import Reply
from redisjobs.sync import JobQueue

_TAKEN = {
    Reply.OK: "taken: the job goes on",
    Reply.KEPT: "kept: the job does not wait for it now, and finds it when it does",
}
_REFUSED = {
    Reply.EXISTS: "job {} on {} keeps an earlier signal of this name, which it has not waited for; it stays",
    Reply.DEAD: "too late: job {} on {} is a dead letter, and took nothing; see `redisjobs dead requeue`",
    Reply.NOT_FOUND: "too late: no job {} on {}: it ended, or never was",
}


def signal(
    job_id: JobId,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the signal, as in `wait_for`.")],
    value: Annotated[
        str, typer.Argument(metavar="[VALUE]", help="What the wait returns, as JSON. Defaults to null.")
    ] = "null",
    queue: QueueName = "default",
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Send a signal to a job, which takes it by `context.wait_for`.

    The exit code is 0 if the job took it, or keeps it until it waits for it. It is 1 if the job keeps an earlier
    signal of this name, is a dead letter, or has ended.
    """
    typed = _typed(value)
    with named(queue, url) as there:
        try:
            reply = there.signal(job_id, name, typed)
        except (EncodeError, ValueError) as error:
            raise mistake(error, ["name"]) if isinstance(error, ValueError) else Mistake(str(error)) from error
        except StepsFull as error:
            raise Failure(str(error)) from error
        if reply in _REFUSED:
            raise Failure(_REFUSED[reply].format(repr(job_id), where(there)) + _waits(there, job_id, reply))
        document = {"job_id": job_id, "signal": name, "result": "taken" if reply is Reply.OK else "kept"}
        show.done(f"{visible(job_id)} on {where(there)}: {_TAKEN[reply]}", document, as_json)


def _typed(text: str) -> Any:
    """Return the typed value; raise a `Mistake` if it is no JSON."""
    try:
        return decode_untyped("VALUE", os.fsencode(text))
    except DecodeError as error:
        raise Mistake(f"{error}; quote a text for the shell and for JSON, as '\"ann\"'") from None


def _waits(there: JobQueue, job_id: str, reply: Reply) -> str:
    """Return what the job waits for instead, if it is suspended."""
    if reply is Reply.EXISTS:
        with suppress(DriverError):
            job = there.get(job_id)
            if job is not None and job.state is State.SUSPENDED:
                return f". It waits for {visible(str(job.waits_for or 'an unknown step'))}"
    return ""
