"""The `move` command, which moves a queue from one store to another."""

import asyncio
from collections.abc import Iterator
from typing import Annotated, Any

import anyio
import typer

from redisjobs.base.visible import number_of, visible
from redisjobs.cli import show
from redisjobs.cli.errors import Failure, Mistake
from redisjobs.cli.output import say
from redisjobs.cli.target import Json, where
from redisjobs.control.move.mover import Moved, Mover, SameQueue
from redisjobs.errors import DriverError, single_cause
from redisjobs.model.moving import Taken
from redisjobs.model.transitions import Pushed, Reply
from redisjobs.queue import JobQueue
from redisjobs.worker.settings.shutdown import signals_to_stop

_MOST_EXAMPLES = 10
_AGAIN = "the same command goes on"
_STAY = (
    "can't be moved, because children have not ended, or have returned more than a move takes along: requeue or "
    "delete such a dead letter at the source"
)

From = Annotated[
    str, typer.Option("--from", metavar="URL", help="The store that has the queue now.", show_default=False)
]
To = Annotated[str, typer.Option("--to", metavar="URL", help="The store that gets it.", show_default=False)]
Name = Annotated[str, typer.Option("--queue", "-q", metavar="NAME", help="The queue's name.", show_default=False)]


def move(source: From, target: To, queue: Name, as_json: Json = False) -> None:
    """Move a queue to another store, as from Redis to Postgres: each job once.

    Workers and producers may go on meanwhile, at both ends. Running jobs stay, as do children that have not ended,
    and their parents; the command waits for them, and ends when the source has no job. It may be stopped or killed
    at any point: the same command goes on. Counters and statistics are not moved.
    """
    ends = _queue(source, queue, "--from"), _queue(target, queue, "--to")
    moved = _run(*ends, as_json)
    if as_json:
        show.document(_document(moved))
    elif moved.is_done:
        say(f"moved {number_of(moved.jobs, 'job')} to {where(ends[1])}; {where(ends[0])} is empty")
    if not moved.is_done:
        raise Failure("\n".join(_said(moved)))


def _queue(url: str, name: str, option: str) -> JobQueue:
    if url == "memory://":
        raise Mistake(f"{option} memory:// is a queue inside one process, which this one can't reach")
    try:
        return JobQueue(url, name=name)
    except ValueError as error:
        raise Mistake(f"{option}: {error}") from None


def _run(source: JobQueue, target: JobQueue, as_json: bool) -> Moved:
    if source.driver.place == target.driver.place:
        raise Mistake("--from and --to are the same store")
    mover = Mover(source.driver, target.driver, (lambda line: None) if as_json else _say)
    try:
        return asyncio.run(_until_stopped(mover))
    except SameQueue as error:
        raise Mistake(str(error)) from error
    except DriverError as error:
        raise Failure(f"{error} ({where(source)}, to {visible(target.driver.where)})") from error


def _say(line: str) -> None:
    say(visible(line))


async def _until_stopped(mover: Mover) -> Moved:
    """Run a mover. A signal stops it after the present step, a second one at once."""
    moved = Moved(stopped=True)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_stop_by_signals, mover, tasks.cancel_scope)
            moved = await mover.run()
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        cause = single_cause(group)
        raise cause from cause.__cause__
    return moved


async def _stop_by_signals(mover: Mover, scope: anyio.CancelScope) -> None:
    async for _ in signals_to_stop():
        if mover.is_stopping:
            scope.cancel()
        mover.stop()


def _said(moved: Moved) -> Iterator[str]:
    """Yield what is not done, and what to do."""
    if moved.stopped:
        yield f"stopped; moved {number_of(moved.jobs, 'job')}; {_AGAIN}"
        return
    yield f"moved {number_of(moved.jobs, 'job')}, but not all"
    for job, answer in moved.refused[:_MOST_EXAMPLES]:
        yield f"{job.job_id} stays in transit: {_why(answer)}"
    more = moved.in_transit - min(len(moved.refused), _MOST_EXAMPLES)
    if more > 0:
        yield f"{number_of(more, 'more job')} in transit"
    for state, number in moved.left.items():
        stays = moved.stays.get(state, 0)
        if stays:
            yield f"{number_of(stays, f'{state} job')} {_STAY}; {_AGAIN}"
        if number > stays:
            left = number_of(number - stays, f"{state} job")
            yield f"{left} can't be moved: see `redisjobs doctor` at the source"


def _why(answer: Pushed) -> str:
    if answer.reply is Reply.STAYS:
        return "it has had children, and the target can't keep how they have ended: move it to Redis"
    if answer.reply is Reply.OVERSIZED:
        return "it has more fields, or a longer id, name or key, than the target takes"
    other = f"the job {answer.holder}" if answer.holder else "a job"
    has = f"{other} has its {'unique key' if answer.reply is Reply.DUPLICATE else 'id'}"
    return f"{has} at the target; once that has ended, or you have cancelled or deleted it, {_AGAIN}"


def _document(moved: Moved) -> dict[str, Any]:
    return {
        "moved": moved.jobs,
        "in_transit": moved.in_transit,
        "refused": [_refused(*each) for each in moved.refused],
        "left": dict(moved.left),
        "stays": dict(moved.stays),
        "stopped": moved.stopped,
    }


def _refused(job: Taken, answer: Pushed) -> dict[str, Any]:
    return {"job_id": job.job_id, "state": job.state, "why": answer.reply, "holder": answer.holder}
