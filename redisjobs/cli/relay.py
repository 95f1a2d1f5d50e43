"""The `relay` command, which pushes what transactions of a database have written to its outbox."""

import asyncio
from collections.abc import Sequence
from typing import Annotated

import anyio
import typer

from redisjobs.base.logger import Log
from redisjobs.base.visible import in_words, number_of
from redisjobs.cli.errors import Failure
from redisjobs.cli.log import LogFormat, LogLevel, configure
from redisjobs.cli.migrate import Database, check_database
from redisjobs.cli.output import say
from redisjobs.cli.target import Imports, Moved, Unweighted, check_names, check_shared, load, where
from redisjobs.cli.worker import Counted, Format, Level, count_events, loop_factory
from redisjobs.client.registry import Registry
from redisjobs.control.relay.relay import Relayer
from redisjobs.drivers.postgres.connecting import library, shown
from redisjobs.errors import DriverError
from redisjobs.events.kinds import JobsPushed, OutboxMeasured
from redisjobs.worker.settings.shutdown import signals_to_stop

logger = Log("redisjobs.relay")

Once = Annotated[bool, typer.Option("--once", help="Push what waits now, print what is left, and exit.")]


def relay(
    targets: Unweighted,
    database: Database,
    once: Once = False,
    imports: Imports = None,
    url: Moved = None,
    metrics: Counted = None,
    log_level: Level = LogLevel.INFO,
    log: Format = LogFormat.TEXT,
) -> None:
    """Push the jobs that transactions of a Postgres database have written, until SIGTERM or Ctrl-C.

    `push(..., within=connection)` writes them to the outbox there. Any number of relays may run. Each
    job is pushed once, and its row is deleted. While the database or Redis is unavailable, a relay waits.
    """
    check_database(database)
    configure(log_level, log)
    queues = [load(target, url, imports) for target in targets]
    check_shared(queues, "this one can't push to; give --url")
    check_names(queues, "and the outbox tells queues apart by their names")
    library()
    relays = [Relayer(queue, database) for queue in queues]
    if once:
        asyncio.run(_push_once(relays, queues))
        return
    if metrics is not None:
        count_events(queues, metrics, shown=True)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_run(relays, queues, database))


async def _push_once(relays: Sequence[Relayer], queues: Sequence[Registry]) -> None:
    for each, queue in zip(relays, queues, strict=True):
        pushed = list[JobsPushed]()
        queue.events.subscribe(JobsPushed, pushed.append)
        try:
            left = await each.run_once()
        except DriverError as error:
            raise Failure(f"{error} ({where(queue)})") from error
        say(f"{where(queue)}: pushed {number_of(sum(len(event.jobs) for event in pushed), 'job')}; {_said(left)}")


def _said(left: OutboxMeasured) -> str:
    more = " or more" if left.most in (left.waiting, left.refused) else ""
    waiting = f"{number_of(left.waiting, 'row')} left{more}"
    if left.waiting:
        waiting += f", the oldest for {in_words(left.oldest)}"
    return f"{waiting}; {number_of(left.refused, 'row')} set aside"


async def _run(relays: Sequence[Relayer], queues: Sequence[Registry], database: str) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_stop_by_signals, relays, tasks.cancel_scope)
        names = ", ".join(f"'{queue.name}'" for queue in queues)
        logger.info("relaying the outbox of %s to queue %s", shown(database), names)
        async with anyio.create_task_group() as running:
            for each in relays:
                running.start_soon(each.run)
        tasks.cancel_scope.cancel()
    logger.info("the relay ended")


async def _stop_by_signals(relays: Sequence[Relayer], scope: anyio.CancelScope) -> None:
    """Let the relays end after their batches; at a second signal, at once."""
    at_once = False
    async for _ in signals_to_stop():
        for each in relays:
            each.stop()
        if at_once:
            scope.cancel()
        at_once = True
