"""What a worker's heartbeat thread says to the server."""

from collections.abc import Callable, Sequence
from typing import cast

from redisjobs.drivers.redis.connection import SyncConnection
from redisjobs.drivers.redis.target import ANSWER, Target
from redisjobs.drivers.redis.worker_commands import WorkerCommands
from redisjobs.model.driver import Beat, Beaten, Consumer, Fenced
from redisjobs.model.transitions import MOST_JOBS, Lease

_HEARING = 4  # beats for which marks are looked for after a cancel: its job may have been on its way to us


class SyncRedisConsumer:
    """A worker's side for sync code, over a connection of its own; see `SyncConsumer`.

    Its answers are waited for no longer than a lease can bear: one that is late may be repeated, and one that
    hangs must not let the lease run out.

    Attributes:
        has_found: Set when jobs were found that may have been cancelled before we knew of them.
    """

    def __init__(self, commands: WorkerCommands, target: Target, consumer: Consumer, lease_ms: int) -> None:
        self._connection = SyncConnection(commands, target, min(ANSWER, lease_ms / 3000))
        self._commands = commands
        self._consumer = consumer
        self.has_found = False
        self._known: tuple[str, int] = ("", 0)  # a worker, and how many cancels of its jobs were asked for
        self._listens = 0  # beats for which marks are still looked for

    def beat(self, *beats: Beat) -> Sequence[Beaten]:
        those = [(cast("SyncRedisConsumer", each.consumer.sync), each.consumer.worker_id, each) for each in beats]
        commands = [one._commands.beat(worker_id, each.facts) for one, worker_id, each in those]
        answers = self._connection.run_all(commands)
        return [
            one._beaten(worker_id, cancels, each.held, self._connection)
            for (one, worker_id, each), cancels in zip(those, answers, strict=True)
        ]

    def _beaten(
        self, worker_id: str, cancels: int | None, held: Callable[[], Sequence[Lease]], connection: SyncConnection
    ) -> Beaten:
        """Find which of the held jobs are to be cancelled, if there may be any."""
        if cancels is None:
            return Fenced(worker_id)
        found, self.has_found = self.has_found, False
        if (worker_id, cancels) != self._known or found:
            self._listens = _HEARING if cancels else 0
            self._known = worker_id, cancels
        if not self._listens:
            return ()
        self._listens -= 1
        leases, asked = held(), list[Lease]()
        for start in range(0, len(leases), MOST_JOBS):
            some = connection.run(self._commands.cancelled(leases[start : start + MOST_JOBS]))
            asked += some
        return asked

    def release(self, *, refund: bool, watch: bool) -> int:
        total = 0
        while released := self._connection.run(
            self._commands.release(self._consumer.worker_id, refund=refund, watch=watch)
        ):
            total += released
        return total

    def close(self) -> None:
        self._connection.close()
