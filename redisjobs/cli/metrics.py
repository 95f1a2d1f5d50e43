"""The `metrics` command, which shows metrics of whole queues for Prometheus."""

import signal
import threading
from typing import Annotated

import typer

from redisjobs.cli.errors import Mistake
from redisjobs.cli.output import say
from redisjobs.cli.target import Moved, Unweighted, check_names, check_shared, load, where

_LOOK = 1.0  # seconds between checks: a signal that another thread receives does not end a wait

Listen = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Answer /metrics there, until Ctrl-C.")]
Once = Annotated[bool, typer.Option("--once", help="Print them, and exit.")]


def metrics(targets: Unweighted, listen: Listen = None, once: Once = False, url: Moved = None) -> None:
    """Show metrics of whole queues, for Prometheus: jobs by state, how long they wait, workers, counters.

    Run only one of these for each queue, because two would double every sum. `redisjobs worker --metrics` shows
    the counts of each worker.
    """
    if (listen is not None) == once:
        raise Mistake("say where to answer, by --listen HOST:PORT, or --once to print them")
    need_library()
    queues = [load(target, url) for target in targets]
    check_shared(queues, "this one can't look into")
    check_names(queues, "so their metrics could not be distinguished")
    from prometheus_client import CollectorRegistry, generate_latest

    from redisjobs.cli import exposition
    from redisjobs.contrib.metrics import QueueMetrics

    registry = CollectorRegistry()
    registry.register(QueueMetrics(*queues))
    if listen is None:
        say(generate_latest(registry).decode().rstrip("\n"))
        return
    exposition.serve("--listen", listen, registry)
    say(f"metrics of {', '.join(map(where, queues))} at http://{listen}/metrics; Ctrl-C ends this")
    _wait_for_stop()


def _wait_for_stop() -> None:
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    while not stopped.wait(_LOOK):
        pass


def need_library() -> None:
    """Raise a `Mistake` unless the extra `metrics` is installed."""
    try:
        import redisjobs.contrib.metrics  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "prometheus_client":
            raise
        raise Mistake(str(error)) from None
