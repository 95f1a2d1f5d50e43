"""The HTTP endpoint `/metrics`. Needs the extra `metrics`."""

import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from redisjobs.base.logger import Log
from redisjobs.cli import responder
from redisjobs.cli.responder import Answer
from redisjobs.client.registry import Registry
from redisjobs.events.kinds import ProcessEnded

logger = Log("redisjobs")

_SHARED = "PROMETHEUS_MULTIPROC_DIR"  # names the directory in which prometheus_client's processes share counters


def serve(option: str, where: str, registry: CollectorRegistry) -> None:
    """Serve the metrics at HOST:PORT, in a thread; see `responder.serve`."""
    responder.serve(option, where, {"/metrics": partial(_page, registry)})


def _page(registry: CollectorRegistry) -> Answer:
    try:
        return Answer(HTTPStatus.OK, generate_latest(registry), CONTENT_TYPE_LATEST)
    except Exception as error:  # the application may have registered a collector that raises
        logger.exception("the metrics could not be collected")
        return Answer(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}; see the log\n".encode())


@contextmanager
def of_processes(queue: Registry) -> Iterator[CollectorRegistry]:
    """Let the processes started from now on share their metrics; yield a registry of the sums.

    They write into a directory, which is removed at the end. The queue's events tell which process has ended.
    """
    directory = Path(tempfile.mkdtemp(prefix="redisjobs-metrics-"))
    os.environ[_SHARED] = str(directory)  # for the new processes: this one already keeps its metrics in memory
    together = _Together(directory)
    unsubscribe = queue.events.subscribe(ProcessEnded, together.take_over)
    registry = CollectorRegistry()
    registry.register(together)
    try:
        yield registry
    finally:
        unsubscribe()
        shutil.rmtree(directory, ignore_errors=True)


class _Together(Collector):
    """A collector that sums the metrics of all processes, ended ones included, from files in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files = MultiProcessCollector(None, str(directory))  # type: ignore[no-untyped-call]
        self._lock = threading.Lock()

    def describe(self) -> Sequence[Metric]:
        """Return nothing: the metrics are only known when they are collected."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Return the sums."""
        with self._lock:
            return list(self._files.collect())  # type: ignore[no-untyped-call]

    def take_over(self, event: ProcessEnded) -> None:
        """Add the counts of an ended process to a common file, and remove its files and its gauges.

        With --max-jobs thousands of processes may end, and a scrape would read all their files.
        """
        with self._lock:
            mark_process_dead(event.ended, str(self._directory))  # type: ignore[no-untyped-call]
            for kind in ("counter", "histogram", "summary"):
                left = self._directory / f"{kind}_{event.ended}.db"
                if left.exists():
                    self._add(left, self._directory / f"{kind}_ended.db")
                    left.unlink()

    def _add(self, left: Path, kept: Path) -> None:
        try:
            values = MmapedDict.read_all_values_from_file(str(left))  # type: ignore[no-untyped-call]
            counted = [(key, value) for key, value, *_ in values]
        except Exception as error:  # the process was killed while it created the file
            logger.warning("what is in %s is lost, it can't be read: %s", left.name, error)
            return
        total = MmapedDict(str(kept))  # type: ignore[no-untyped-call]
        for key, value in counted:
            total.write_value(key, total.read_value(key)[0] + value, 0.0)  # type: ignore[no-untyped-call]
        total.close()  # type: ignore[no-untyped-call]
