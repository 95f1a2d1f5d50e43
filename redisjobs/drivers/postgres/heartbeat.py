"""The calls that a worker's heartbeat thread sends to the database."""

from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from redisjobs.drivers.postgres import working
from redisjobs.drivers.postgres.calls import change_call
from redisjobs.drivers.postgres.connection import Now
from redisjobs.drivers.postgres.notices import Notice, Pending, SendNow, channel_of
from redisjobs.drivers.postgres.sync_connection import SyncConnection
from redisjobs.drivers.postgres.target import ANSWER, Target
from redisjobs.model.changes import Change
from redisjobs.model.driver import Beat, Beaten, Consumer, Fenced, Renewed
from redisjobs.model.transitions import MOST_JOBS, Lease

T = TypeVar("T")

# Beats that look for cancelled jobs after a cancel: the answer with the job may still be under way.
_BEATS_AFTER_CANCEL = 4


class SyncPostgresConsumer:
    """A worker's side for sync code, with its own connection; see `SyncConsumer`.

    It waits at most a third of the lease for an answer, so that it can repeat a beat before the lease ends.

    Attributes:
        has_found: Set when `recover` finds jobs: they may have been cancelled before we knew of them.
    """

    def __init__(self, target: Target, queue: str, now_ms: Now, consumer: Consumer, lease: float) -> None:
        self._queue = queue
        self._consumer = consumer
        self._connection = SyncConnection(target, queue, now_ms, self._tell, min(ANSWER, lease / 3))
        self.has_found = False
        self._known: tuple[str, int] = ("", 0)  # a worker, and how often a cancel of one of its jobs was asked for
        self._beats_left = 0  # that look for cancelled jobs

    def _tell(self, notices: Sequence[Notice], send: SendNow) -> None:
        pending = Pending()
        pending.add(channel_of(self._queue), notices)
        send(*pending.take())

    def beat(self, *beats: Beat) -> Sequence[Beaten]:
        those = [
            (cast("SyncPostgresConsumer", each.consumer.sync), each.consumer.worker_id, each) for each in beats
        ]
        answers = self._connection.run(
            working.beat([(one._queue, worker_id, each.facts) for one, worker_id, each in those])
        )
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
            call = working.cancelled(leases[start : start + MOST_JOBS])
            some = connection.run(call, queue=self._queue)  # it may be another queue's connection
            asked += some
        return asked

    def change(self, change: Change[T]) -> T:
        return self._connection.run(change_call(change))

    def release(self, *, refund: bool, watch: bool) -> int:
        total = 0
        while True:
            released = self._connection.run(working.release(self._consumer.worker_id, refund=refund, watch=watch))
            total += released
            if released < MOST_JOBS:
                return total

    def close(self) -> None:
        self._connection.close()
