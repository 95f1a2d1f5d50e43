"""Commands on the limits of job names: how many run at once in the whole fleet, and how many start in a time."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from redisjobs.base.visible import visible
from redisjobs.cli import show
from redisjobs.cli.errors import Mistake
from redisjobs.cli.output import say, telling
from redisjobs.cli.target import Json, QueueName, Url, named, where
from redisjobs.model.info import LimitedKey, LimitInfo
from redisjobs.model.job import checked_name
from redisjobs.model.limits import Limit
from redisjobs.sync import JobQueue

app = typer.Typer(
    help="Limits: how many jobs of a name run at once in the whole fleet, and how many start in a time.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of the jobs.")]
Most = Annotated[int | None, typer.Option("--max-concurrency", help="So many run at once.")]
Rate = Annotated[str | None, typer.Option("--rate", help="So many start in a time: 100/s, 20/m or 5/h.")]
Burst = Annotated[int | None, typer.Option("--burst", help="So many of these may start together after a rest.")]

_COLUMNS = ("name", "key", "max_concurrency", "rate", "burst", "running", "waiting", "next", "workers")
_MOST_WORKERS = 5  # that are named in a line


@app.command("list")
def list_limits(queue: QueueName = "default", url: Url = None, as_json: Json = False) -> None:
    """List the limits of a queue, which jobs run under each, and how many wait in line."""
    with named(queue, url) as there:
        found = there.limits()
    if as_json:
        show.document([_document(info) for info in found])
    elif not found:
        say(f"no limits on {where(there)}")
    else:
        show.table(_COLUMNS, (row for info in found for row in _rows(info)), f"limits on {where(there)}")


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
    """Set the limit of a job name, in place of what it was. With keys it holds for each key by itself."""
    limit = _checked(name, max_concurrency, rate, burst)
    if not limit.text:
        raise Mistake("say --max-concurrency, --rate or both; `redisjobs limits remove` removes a limit")
    with named(queue, url) as there:
        there.set_limit(name, max_concurrency=max_concurrency, rate=rate, burst=burst)
    _say(name, limit, there, as_json)


@app.command()
def remove(name: Name, queue: QueueName = "default", url: Url = None, as_json: Json = False) -> None:
    """Remove the limit of a job name: what waits for it starts. A worker that declares it sets it again."""
    limit = _checked(name)
    with named(queue, url) as there:
        there.set_limit(name)
    _say(name, limit, there, as_json)


def _checked(name: str, most: int | None = None, rate: str | None = None, burst: int | None = None) -> Limit:
    try:
        checked_name(name)
    except ValueError as error:
        raise Mistake(str(error).replace("name=", "NAME ", 1)) from error
    if burst is not None and rate is None:
        raise Mistake(f"--burst {burst} says how many may start together of a --rate; give that too")
    try:
        return Limit(most, rate, burst)
    except ValueError as error:
        raise Mistake(f"--{error}".replace("--max_concurrency", "--max-concurrency")) from error


def _say(name: str, limit: Limit, there: JobQueue, as_json: bool) -> None:
    said = limit.text or "no limit"
    with telling(f"{name!r}: {said}"):
        if as_json:
            facts = {"max_concurrency": limit.max_concurrency, "rate": limit.rate, "burst": limit.bursting}
            show.document({"name": name, **facts})
        else:
            say(f"'{visible(name)}' on {where(there)}: {said}")


def _rows(info: LimitInfo) -> Iterator[list[Any]]:
    limit = [info.max_concurrency, info.rate, info.burst]
    for key in info.keys.values() or [LimitedKey("")]:
        yield [info.name, key.key, *limit, key.running, key.waiting, key.next_at, _workers(key)]


def _workers(key: LimitedKey) -> str:
    workers = sorted(set(key.jobs.values()))
    more = len(workers) - _MOST_WORKERS
    return ", ".join(workers[:_MOST_WORKERS]) + (f" and {more} more" if more > 0 else "")


def _document(info: LimitInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "max_concurrency": info.max_concurrency,
        "rate": info.rate,
        "burst": info.burst,
        "keys": [
            {
                "key": key.key,
                "running": key.running,
                "waiting": key.waiting,
                "next_at": key.next_at,
                "jobs": key.jobs,
            }
            for key in info.keys.values()
        ],
    }
