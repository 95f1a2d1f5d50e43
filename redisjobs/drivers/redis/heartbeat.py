"""The calls that a worker's heartbeat thread sends to the server."""

from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from redisjobs.drivers.redis import long_calls
from redisjobs.drivers.redis.commands import run_steps_sync
from redisjobs.drivers.redis.sync_connection import SyncConnection
from redisjobs.drivers.redis.target import Target
from redisjobs.drivers.redis.worker_commands import WorkerCommands
from redisjobs.model.changes import Change
from redisjobs.model.driver import Beat, Beaten, Consumer, Fenced, Renewed
from redisjobs.model.transitions import MOST_JOBS, Lease

T = TypeVar("T")

# Beats that look for cancelled jobs after a cancel: the reply with the job may still be under way.
_BEATS_AFTER_CANCEL = 4


class SyncRedisConsumer:
    """A worker's side for sync code, with its own connection; see `SyncConsumer`.

    It waits at most a third of the lease for an answer, so that it can repeat a beat before the lease ends.

    Attributes:
        has_found: Set when `recover` finds jobs: they may have been cancelled before we knew of them.
    """

    def __init__(self, commands: WorkerCommands, target: Target, consumer: Consumer, lease_ms: int) -> None:
        self._connection = SyncConnection(commands, target, min(target.answer, lease_ms / 3000))
        self._commands = commands
        self._consumer = consumer
        self.has_found = False
        self._known: tuple[str, int] = ("", 0)  # a worker, and how often a cancel of one of its jobs was asked for
        self._beats_left = 0  # that look for cancelled jobs

    def beat(self, *beats: Beat) -> Sequence[Beaten]:
        those = [(cast("SyncRedisConsumer", each.consumer.sync), each.consumer.worker_id, each) for each in beats]
        commands = [one._commands.beat(worker_id, each.facts) for one, worker_id, each in those]
        answers = self._connection.run_all(commands)
        return [
            Fenced(worker_id)
            if asked is None
            else Renewed(one._cancelled(worker_id, asked[0], each.held, self._connection), asked[1])
            for (one, worker_id, each), asked in zip(those, answers, strict=True)
        ]

    def _cancelled(
        self, worker_id: str, cancels: int, held: Callable[[], Sequence[Lease]], connection: SyncConnection
    ) -> Sequence[Lease]:
        """Return the held jobs that are to be cancelled; ask the server only if there may be some."""
        found, self.has_found = self.has_found, False
        if (worker_id, cancels) != self._known or found:
            self._beats_left = _BEATS_AFTER_CANCEL if cancels else 0
            self._known = worker_id, cancels
        if not self._beats_left:
            return ()
        self._beats_left -= 1
        leases, asked = held(), list[Lease]()
        for start in range(0, len(leases), MOST_JOBS):
            some = connection.run(self._commands.cancelled(leases[start : start + MOST_JOBS]))
            asked += some
        return asked

    def change(self, change: Change[T]) -> T:
        return run_steps_sync(long_calls.change(self._commands, change), self._connection.run_all)

    def release(self, *, refund: bool, watch: bool) -> int:
        total = 0
        while released := self._connection.run(
            self._commands.release(self._consumer.worker_id, refund=refund, watch=watch)
        ):
            total += released
        return total

    def close(self) -> None:
        self._connection.close()
