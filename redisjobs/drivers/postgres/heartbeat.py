"""The calls that a worker's heartbeat thread sends to the database."""

from collections.abc import Sequence
from typing import Self, TypeVar

from redisjobs.drivers.postgres import working
from redisjobs.drivers.postgres.calls import change_call
from redisjobs.drivers.postgres.notices import Notice, Pending, SendNow, channel_of
from redisjobs.drivers.postgres.sync_connection import SyncConnection
from redisjobs.drivers.postgres.target import ANSWER, Target
from redisjobs.drivers.remote.clock import Now
from redisjobs.drivers.remote.heartbeat import Asked, SyncRemoteConsumer
from redisjobs.model.changes import Change
from redisjobs.model.driver import Beat, Consumer
from redisjobs.model.transitions import MOST_JOBS, Lease

T = TypeVar("T")


class SyncPostgresConsumer(SyncRemoteConsumer[SyncConnection]):
    """A worker's side of a queue on Postgres, for sync code; see `SyncRemoteConsumer`."""

    def __init__(self, target: Target, queue: str, now_ms: Now, consumer: Consumer, lease: float) -> None:
        super().__init__(consumer, SyncConnection(target, queue, now_ms, self._tell, min(ANSWER, lease / 3)))
        self._queue = queue

    def _tell(self, notices: Sequence[Notice], send: SendNow) -> None:
        pending = Pending()
        pending.add(channel_of(self._queue), notices)
        send(*pending.take())

    def _ask_beats(self, beats: Sequence[tuple[Self, str, Beat]]) -> list[Asked]:
        those = [(one._queue, worker_id, each.facts) for one, worker_id, each in beats]
        return self._connection.run(working.beat(those))

    def _ask_cancelled(self, leases: Sequence[Lease], connection: SyncConnection) -> Sequence[Lease]:
        return connection.run(working.cancelled(leases), queue=self._queue)

    def change(self, change: Change[T]) -> T:
        return self._connection.run(change_call(change))

    def release(self, *, refund: bool, watch: bool) -> int:
        total = 0
        while True:
            released = self._connection.run(working.release(self._consumer.worker_id, refund=refund, watch=watch))
            total += released
            if released < MOST_JOBS:
                return total
