"""What a worker is told to be."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from redisjobs.base.logger import Log
from redisjobs.client.registry import Registry
from redisjobs.middleware import Middleware


@dataclass(frozen=True, slots=True)
class Settings:
    """What a worker is told; see `Worker`. Seconds, but for `unknown_ms`; infinity for no limit.

    Attributes:
        next_id: Makes the id under which the worker goes on, should the store take it for dead.
        middleware: The worker's own, inside of the queue's.
        schedules: Whether it fires the schedules of the queue, too.
        queues: The names of all of its queues, where it has several.
    """

    queue: Registry
    worker_id: str
    next_id: Callable[[], str]
    concurrency: int
    lease: float
    max_deliveries: int
    unknown_ms: int
    abandoned: int
    supervised: bool = False
    max_jobs: float = math.inf
    max_rss: float = math.inf
    middleware: tuple[Middleware, ...] = ()
    schedules: bool = False
    queues: tuple[str, ...] = ()

    @property
    def log(self) -> Log:
        """Where the worker tells of this queue; of one among several by its name."""
        return Log("redisjobs.worker", [self.queue.name] if self.queues else ())
