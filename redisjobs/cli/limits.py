"""The commands on the limits of job names."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from redisjobs.base.visible import visible
from redisjobs.cli import show
from redisjobs.cli.errors import Mistake, mistake
from redisjobs.cli.target import Json, QueueName, Url, named, where
from redisjobs.model.info import LimitedKey, LimitInfo
from redisjobs.model.job import checked_name
from redisjobs.model.limits import Limit
from redisjobs.sync import JobQueue

app = typer.Typer(
    help="Limits: how many jobs of a name run at once in all workers, and how many may start per time.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of the jobs.")]
Most = Annotated[int | None, typer.Option("--max-concurrency", help="Jobs that run at once, at most.")]
Rate = Annotated[
    str | None,
    typer.Option("--rate", help="Jobs that start in a second, a minute or an hour: 100/s, 20/m or 5/h."),
]
Burst = Annotated[int | None, typer.Option("--burst", help="Jobs that may start together after a rest.")]

_COLUMNS = ("name", "key", "max_concurrency", "rate", "burst", "running", "waiting", "next", "workers")
_MOST_WORKERS = 5  # the most workers to name in a line


@app.command("list")
def list_limits(queue: QueueName = "default", url: Url = None, as_json: Json = False) -> None:
    """List the limits of a queue, which jobs run under each, and how many wait in line."""
    with named(queue, url) as there:
        found = there.control.limits()
    rows = (row for info in found for row in _rows(info))
    on = f"limits on {where(there)}"
    show.listing(map(_document, found), as_json, _COLUMNS, rows, on, f"no {on}")


@app.command("set")
def set_limit(
    name: Name,
    max_concurrency: Most = None,
    rate: Rate = None,
    burst: Burst = None,
    queue: QueueName = "default",
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Set the limit of a job name, in place of an earlier one. If its jobs have keys, it applies to each key."""
    limit = _checked(name, max_concurrency, rate, burst)
    if not limit.text:
        raise Mistake("say --max-concurrency, --rate or both; `redisjobs limits remove` removes a limit")
    with named(queue, url) as there:
        there.control.set_limit(name, max_concurrency=max_concurrency, rate=rate, burst=burst)
    _say(name, limit, there, as_json)


@app.command()
def remove(name: Name, queue: QueueName = "default", url: Url = None, as_json: Json = False) -> None:
    """Remove the limit of a job name: its waiting jobs start. A worker that declares a limit sets it again."""
    limit = _checked(name)
    with named(queue, url) as there:
        there.control.set_limit(name)
    _say(name, limit, there, as_json)


def _checked(name: str, most: int | None = None, rate: str | None = None, burst: int | None = None) -> Limit:
    try:
        checked_name(name)
        return Limit(most, rate, burst)
    except ValueError as error:
        raise mistake(error, ["max_concurrency", "rate", "burst"], name="NAME") from error


def _say(name: str, limit: Limit, there: JobQueue, as_json: bool) -> None:
    facts = {"max_concurrency": limit.max_concurrency, "rate": limit.rate, "burst": limit.bursting}
    said = f"'{visible(name)}' on {where(there)}: {limit.text or 'no limit'}"
    show.done(said, {"name": name, **facts}, as_json)


def _rows(info: LimitInfo) -> Iterator[list[Any]]:
    limit = [info.max_concurrency, info.rate, info.burst]
    for key in info.keys.values() or [LimitedKey("")]:
        yield [info.name, key.key, *limit, key.running, key.waiting, key.next_at, _workers(key)]


def _workers(key: LimitedKey) -> str:
    workers = sorted(set(key.jobs.values()))
    more = len(workers) - _MOST_WORKERS
    return ", ".join(workers[:_MOST_WORKERS]) + (f" and {more} more" if more > 0 else "")


def _document(info: LimitInfo) -> dict[str, Any]:
    return dataclasses.asdict(info) | {
        "keys": [dataclasses.asdict(key) | {"running": key.running} for key in info.keys.values()]
    }
