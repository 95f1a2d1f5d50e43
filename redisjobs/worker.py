"""A worker: what it is told, how it is stopped. What it does is a `Shift`."""

import math
import os
import secrets
import signal
import socket
from collections.abc import Iterator

import anyio

from redisjobs.aside import Log
from redisjobs.errors import DriverError, Unavailable, seconds
from redisjobs.guard import keep_up
from redisjobs.health import Health
from redisjobs.registry import Duration, Registry
from redisjobs.running import Settings
from redisjobs.shift import Shift

logger = Log("redisjobs.worker")


def _cause(error: BaseException) -> BaseException:
    """What a group of errors comes from, if that is one thing: what the store refuses, it refuses every task."""
    leaves = list(_leaves(error))
    if len(leaves) > 1 and not all(isinstance(leaf, DriverError) for leaf in leaves):
        return error
    return next((leaf for leaf in leaves if not isinstance(leaf, Unavailable)), leaves[0])


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


class Worker:
    """Runs the jobs of a queue.

    Args:
        queue: The queue with its handlers, async or sync.
        concurrency: How many jobs run at once.
        lease: Seconds a job stays this worker's without a sign of life. Renewed every third of it; when a
            worker dies, its jobs run again elsewhere once it is over. Defaults to 15 s.
        max_deliveries: So often a job is delivered without an outcome, the last time with nothing beside it; then
            it is a dead letter, for it kills its workers. With 1 no job is delivered twice. Defaults to 3.
        grace: Seconds that running jobs may finish in after a stop. Then they are cancelled and handed on.
        unknown_for: Seconds that a job whose name no worker knows is kept, as in a rolling deploy, before it
            is a dead letter. Defaults to an hour.
        max_jobs: After so many jobs `run` returns, once all of them are done. Defaults to no limit.
        max_rss: Bytes of memory that the process may have in use; with more `run` returns as well, once what
            runs is done, for whoever started it to start it anew. Defaults to no limit.
        abandoned: How many threads may still run a sync handler that timed out or was cancelled, which can't be
            killed. With so many the worker starts no other sync handler, and is not ready. Defaults to
            `concurrency`.
        supervised: Somebody starts another worker when `run` returns with `recycled`. Then it returns as well with
            too many abandoned threads; else it goes on with async handlers.
        worker_id: Who this is; must be new at each start. Defaults to host:pid:random.
    """

    def __init__(
        self,
        queue: Registry,
        *,
        concurrency: int = 10,
        lease: Duration = 15,
        max_deliveries: int = 3,
        grace: Duration = 25,
        unknown_for: Duration = 3600,
        max_jobs: int | None = None,
        max_rss: int | None = None,
        abandoned: int | None = None,
        supervised: bool = False,
        worker_id: str | None = None,
    ) -> None:
        if concurrency < 1 or max_deliveries < 1:
            raise ValueError(f"concurrency={concurrency} and max_deliveries={max_deliveries} must be at least 1")
        if (max_jobs is not None and max_jobs < 1) or (max_rss is not None and max_rss < 1):
            raise ValueError(f"max_jobs={max_jobs} and max_rss={max_rss} must be at least 1, or None")
        if abandoned is not None and abandoned < 1:
            raise ValueError(f"abandoned={abandoned} must be at least 1, or None")
        if seconds(lease, "lease") < 0.1:
            raise ValueError(f"lease={lease!r}: at least 0.1 s, or renewing it can't keep up")
        self.worker_id = worker_id or f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.settings = Settings(
            queue=queue,
            worker_id=self.worker_id,
            concurrency=concurrency,
            lease=seconds(lease, "lease"),
            max_deliveries=max_deliveries,
            unknown_ms=int(seconds(unknown_for, "unknown_for") * 1000),
            abandoned=concurrency if abandoned is None else abandoned,
            supervised=supervised,
            max_jobs=math.inf if max_jobs is None else max_jobs,
            max_rss=math.inf if max_rss is None else max_rss,
        )
        self.grace = seconds(grace, "grace")
        self.recycled = False
        """Whether `run` returned because of `max_jobs`, `max_rss` or `abandoned`."""
        self._shift: Shift | None = None

    async def run(self, *, until_idle: bool = False, handle_signals: bool = False) -> None:
        """Run jobs until `stop` is called or the task is cancelled.

        Args:
            until_idle: Return as soon as nothing is ready and nothing runs here; delayed jobs that are not
                due are left.
            handle_signals: Let SIGTERM and SIGINT stop the worker, a second one at once. Main thread only.

        An async handler that swallows its cancellation keeps this from returning, though not from releasing its
        job; the command line ends such a process by force.

        Raises:
            DriverError: The store refuses what a worker needs (too old, no permission); while it is only away
                the worker waits for it. Whatever this worker held is released.
        """
        self._shift = shift = Shift(self.settings, until_idle=until_idle)
        try:
            async with anyio.create_task_group() as tasks:
                if handle_signals:
                    tasks.start_soon(keep_up, self._watch_signals)
                await shift.run()
                self.recycled = shift.recycled
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # One cause, one error: that tasks were involved is no business of the caller's.
            error = _cause(group)
            raise error from error.__cause__
        finally:
            self._shift = None

    def stop(self) -> None:
        """Claim no more; let running jobs finish for `grace` seconds, then release them; then `run` returns."""
        if self._shift is not None:
            self._shift.stop(self.grace)

    def stop_now(self) -> None:
        """Cancel and release what runs, at once; then `run` returns."""
        if self._shift is not None:
            self._shift.stop(0)

    @property
    def health(self) -> Health:
        """Whether it works, by what it got done; for any thread."""
        shift = self._shift  # once: it may be gone a moment later
        return Health(True, False, "not running") if shift is None else shift.health

    async def _watch_signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            stop = self.stop
            async for number in signals:
                logger.info("%s: stopping%s", number.name, " at once" if stop == self.stop_now else "")
                stop()
                stop = self.stop_now
