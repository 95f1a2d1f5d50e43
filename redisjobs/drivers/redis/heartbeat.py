"""The calls that a worker's heartbeat thread sends to the server."""

from collections.abc import Sequence
from typing import Self, TypeVar

from redisjobs.drivers.redis import long_calls
from redisjobs.drivers.redis.commands import run_steps_sync
from redisjobs.drivers.redis.sync_connection import SyncConnection
from redisjobs.drivers.redis.target import Target
from redisjobs.drivers.redis.worker_commands import WorkerCommands
from redisjobs.drivers.remote.heartbeat import Asked, SyncRemoteConsumer
from redisjobs.model.changes import Change
from redisjobs.model.driver import Beat, Consumer
from redisjobs.model.transitions import Lease

T = TypeVar("T")


class SyncRedisConsumer(SyncRemoteConsumer[SyncConnection]):
    """A worker's side of a queue on Redis, for sync code; see `SyncRemoteConsumer`."""

    def __init__(self, commands: WorkerCommands, target: Target, consumer: Consumer, lease_ms: int) -> None:
        super().__init__(consumer, SyncConnection(commands, target, min(target.answer, lease_ms / 3000)))
        self._commands = commands

    def _ask_beats(self, beats: Sequence[tuple[Self, str, Beat]]) -> list[Asked]:
        commands = [one._commands.beat(worker_id, each.facts) for one, worker_id, each in beats]
        return self._connection.run_all(commands)

    def _ask_cancelled(self, leases: Sequence[Lease], connection: SyncConnection) -> Sequence[Lease]:
        return connection.run(self._commands.cancelled(leases))

    def change(self, change: Change[T]) -> T:
        return run_steps_sync(long_calls.change(self._commands, change), self._connection.run_all)

    def release(self, *, refund: bool, watch: bool) -> int:
        total = 0
        while released := self._connection.run(
            self._commands.release(self._consumer.worker_id, refund=refund, watch=watch)
        ):
            total += released
        return total
