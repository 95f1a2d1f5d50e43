"""The `worker` command."""

import asyncio
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from redisjobs.base.logger import Log
from redisjobs.cli import settings
from redisjobs.cli.errors import Mistake
from redisjobs.cli.log import LogFormat, LogLevel, configure
from redisjobs.cli.metrics import need_library
from redisjobs.cli.notify import Notifier
from redisjobs.cli.probes import serve
from redisjobs.cli.reload import directories, need_watchfiles, watch
from redisjobs.cli.shutdown import ForcedEnd
from redisjobs.cli.target import Imports, Moved, Targets, check_shared, load_all
from redisjobs.client.registry import Registry
from redisjobs.errors import RedisJobsError
from redisjobs.worker.child import LastLine, Pipe
from redisjobs.worker.settings.shutdown import Interrupts
from redisjobs.worker.supervisor import PROGRAM, Supervisor
from redisjobs.worker.worker import Worker

logger = Log("redisjobs.worker")

Processes = Annotated[
    int | None,
    typer.Option("--processes", "-p", min=1, help="Worker processes; one that dies is replaced."),
]
Strict = Annotated[
    bool,
    typer.Option("--strict", help="Run the jobs of the first queue first; those of the others may starve."),
]
UntilIdle = Annotated[bool, typer.Option("--until-idle", help="Exit when no job is left that may run now.")]
Schedules = Annotated[
    bool,
    typer.Option(
        "--schedules/--no-schedules",
        help="Fire the queues' schedules, or let other workers do it. --until-idle fires none.",
    ),
]
Probed = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Answer /livez and /readyz there.")]
Counted = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Answer /metrics there, for Prometheus.")]
Level = Annotated[LogLevel, typer.Option(case_sensitive=False, help="How much is logged.")]
Format = Annotated[LogFormat, typer.Option(case_sensitive=False, help="Lines of text or of JSON.")]
Reload = Annotated[
    bool, typer.Option("--reload/--no-reload", help="Restart when the code changes, for development.")
]
ReloadDirs = Annotated[
    list[Path] | None,
    typer.Option("--reload-dir", help="Watch this directory instead of the module's; repeatable."),
]
Supervised = Annotated[int | None, typer.Option(hidden=True)]


def worker(
    context: typer.Context,
    targets: Targets,
    imports: Imports = None,
    strict: Strict = False,
    concurrency: settings.Concurrency = None,
    processes: Processes = None,
    url: Moved = None,
    until_idle: UntilIdle = False,
    lease: settings.Lease = 15,
    grace: settings.Grace = 25,
    max_deliveries: settings.MaxDeliveries = 3,
    unknown_for: settings.UnknownFor = 3600,
    max_jobs: settings.MaxJobs = None,
    max_rss: settings.MaxRss = None,
    abandoned: settings.Abandoned = None,
    schedules: Schedules = True,
    health: Probed = None,
    metrics: Counted = None,
    log_level: Level = LogLevel.INFO,
    log: Format = LogFormat.TEXT,
    reload: Reload = False,
    reload_dir: ReloadDirs = None,
    supervised: Supervised = None,
) -> None:
    """Run jobs until SIGTERM or Ctrl-C. A second signal stops at once.

    Several queues share its slots and take turns. With app:critical=3 app:bulk, while both have jobs, three of
    four jobs that start are from the first queue. With --strict only the order counts.

    With --processes a supervisor runs several workers. If one dies, the others get its jobs at once, and the
    supervisor starts a new one.

    With --reload, running jobs go back to the queue when Python files change, and the workers start again.

    Use --import for modules with more handlers: app.queue:queue --import app.jobs.

    Exit codes: 0 stopped, drained, or reached --max-jobs or --max-rss; 1 failed; 2 wrong usage.
    """
    chosen = settings.WorkerArguments(
        concurrency=concurrency,
        lease=lease,
        grace=grace,
        max_deliveries=max_deliveries,
        unknown_for=unknown_for,
        max_jobs=max_jobs,
        max_rss=max_rss,
        abandoned=abandoned,
    )
    if reload:
        need_watchfiles()
    configure(log_level, log)  # before the import of the user's module, which may set up logging, too
    if context.obj is not None and context.obj.file is not None:
        logger.info("defaults come from %s", context.obj)
    notifier, shutdown = Notifier(), None
    if processes is None and not reload:
        shutdown = ForcedEnd(grace, supervised=supervised is not None, stopping=notifier.stopping)
    queues = load_all(targets, url, imports)
    # A supervisor makes it too, to find wrong settings before it starts processes.
    worker = chosen.worker(queues, strict=strict, supervised=supervised is not None, schedules=schedules)
    if shutdown is not None:
        _warn_of_memory(worker.queues)
        if metrics is not None:
            count_events(worker.queues, metrics, shown=supervised is None)
        notifier.follow(lambda: worker.health)
        shutdown.leave(_run_here(worker, until_idle, shutdown, supervised, health))
    command = [*PROGRAM, "worker", *targets, "--log-level", log_level.value, "--log", log.value]
    flags = {"--until-idle": until_idle, "--strict": strict, "--no-schedules": not schedules}
    command += [*chosen.options(), *(flag for flag, is_set in flags.items() if is_set)]
    command += [f"--import={module}" for module in imports or ()]
    with _count_together(worker.queues, metrics, command):
        supervisor = _supervisor(worker.queues, command, processes or 1, chosen, url, reloads=reload)
        if reload:
            modules = [target.partition(":")[0] for target in targets] + (imports or [])
            watch(directories(modules, reload_dir), supervisor.reload)
        notifier.follow(lambda: supervisor.health)
        sys.exit(_supervise(supervisor, health, notifier))


def _run_here(
    worker: Worker, until_idle: bool, shutdown: ForcedEnd, supervised: int | None, health: str | None
) -> int:
    """Run the worker in this process and return the exit code; a supervisor may watch the process."""
    if health is not None:
        serve(health, lambda: worker.health)
    pipe = Pipe(supervised, lambda: worker.worker_ids) if supervised is not None else None
    if pipe is not None:
        pipe.follow(lambda: worker.health, shutdown.stop)
    return _run(worker, until_idle, shutdown, pipe)


def _warn_of_memory(queues: Iterable[Registry]) -> None:
    for queue in queues:
        if hasattr(queue.driver, "memory"):
            logger.warning(
                "queue '%s' is at memory://: only this process can push to it, and its jobs end with it; --url or "
                "REDISJOBS_URL names a server",
                queue.name,
            )


def count_events(queues: Iterable[Registry], where: str, *, shown: bool) -> None:
    """Count the events of this process, and serve the metrics at `where`, unless its supervisor does."""
    need_library()
    from prometheus_client import REGISTRY

    from redisjobs.cli import exposition
    from redisjobs.contrib.metrics import Metrics

    counted = Metrics()
    for queue in queues:
        counted.listen(queue)
    if shown:
        exposition.serve("--metrics", where, REGISTRY)


@contextmanager
def _count_together(queues: Sequence[Registry], where: str | None, command: list[str]) -> Iterator[None]:
    """Serve the metrics of the worker processes, if there is an address, and add it to their command."""
    if where is None:
        yield
        return
    need_library()
    from redisjobs.cli import exposition

    command += ["--metrics", where]
    with exposition.of_processes(queues[0]) as registry:  # the events of any queue name a process that ended
        exposition.serve("--metrics", where, registry)
        yield


def _supervisor(
    queues: Sequence[Registry],
    command: list[str],
    processes: int,
    chosen: settings.WorkerArguments,
    url: str | None,
    *,
    reloads: bool,
) -> Supervisor:
    if sys.platform == "win32":
        raise Mistake("--processes and --reload need a POSIX system; start several workers instead")
    check_shared(queues, "other processes can't share")
    if url is not None:
        os.environ["REDISJOBS_URL"] = url  # not as an argument: it may hold a password
    return Supervisor(queues, command, processes, lease=chosen.lease, grace=chosen.grace, reloads=reloads)


def _supervise(supervisor: Supervisor, health: str | None, notifier: Notifier) -> int:
    interrupts = Interrupts()

    def stop(number: int, _frame: FrameType | None) -> None:
        if interrupts.is_new(number):
            supervisor.stop()
            notifier.stopping()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if health is not None:
        serve(health, lambda: supervisor.health)
    return supervisor.run()


def _run(worker: Worker, until_idle: bool, shutdown: ForcedEnd, pipe: Pipe | None) -> int:
    """Run the worker; return the exit code, even if a handler raises through the event loop."""
    code, logged = 1, None

    def asked_by_operator() -> None:
        shutdown.note_asked()
        if pipe is not None:
            pipe.leave()

    worker.when_asked = asked_by_operator
    shutdown.attach(worker)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            try:
                runner.get_loop().run_until_complete(worker.run(until_idle=until_idle))
                code = 0
                if pipe is not None:
                    is_stopped = shutdown.asked or worker.asked_by_operator
                    pipe.end(_end(worker, drained=until_idle and not is_stopped))
            except BaseException as error:  # SystemExit, too: a handler's exit code is not ours
                _log(logged := error)
                raise
            finally:  # before the loop is closed: closing waits for tasks and threads that handlers left
                shutdown.hurry(code)
    except BaseException as error:
        if error is not logged:
            logger.exception("the event loop could not be closed")
    return code


def _log(error: BaseException) -> None:
    if isinstance(error, RedisJobsError):
        logger.error("the worker had to end: %s", error)
    else:
        logger.error("the worker had to end", exc_info=error)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes uvloop's event loop; None if it is not installed."""
    if importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop

    return uvloop.new_event_loop


def _end(worker: Worker, *, drained: bool) -> LastLine:
    if worker.hindered:
        return LastLine.HINDERED
    if worker.recycled:
        return LastLine.SHARE
    return LastLine.DRAINED if drained else LastLine.STOPPED
