"""The commands that pause a queue, or a job name, and let it go on."""

from typing import Annotated

import typer

from redisjobs.cli import show
from redisjobs.cli.errors import Mistake
from redisjobs.cli.output import say, telling
from redisjobs.cli.target import Json, QueueName, Url, named
from redisjobs.pauses import paused_name
from redisjobs.server import DEFAULT_URL
from redisjobs.visible import visible

Name = Annotated[str | None, typer.Option("--name", help="Only jobs of this name.")]


def pause(name: Name = None, queue: QueueName = "default", url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Let no job of a queue start, until `resume`. What runs goes on to its end."""
    _check(name)
    with named(queue, url) as there:
        there.pause(name)
    _say(name, queue, as_json, is_paused=True)


def resume(name: Name = None, queue: QueueName = "default", url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Let the jobs of a queue start again, or those of a name that was paused by itself."""
    _check(name)
    with named(queue, url) as there:
        there.resume(name)
    _say(name, queue, as_json, is_paused=False)


def _check(name: str | None) -> None:
    try:
        paused_name(name)
    except ValueError as error:
        raise Mistake(f"--{error}") from error


def _say(name: str | None, queue: str, as_json: bool, *, is_paused: bool) -> None:
    what = f"queue '{visible(queue)}'" if name is None else f"'{visible(name)}' on queue '{visible(queue)}'"
    with telling(f"{what}: {'paused' if is_paused else 'resumed'}"):
        if as_json:
            show.document({"queue": queue, "name": name, "paused": is_paused})
        else:
            say(f"{what} is {'paused' if is_paused else 'not paused'}")
