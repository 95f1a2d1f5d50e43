"""The heartbeats that a worker's thread sends, and their answers: the same for each server."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, Self, TypeVar, cast

from redisjobs.drivers.remote.connections import SyncClosable
from redisjobs.model.changes import Wish
from redisjobs.model.driver import Beat, Beaten, Consumer, Fenced, Renewed
from redisjobs.model.transitions import MOST_JOBS, Lease

S = TypeVar("S", bound=SyncClosable)

Asked = tuple[int, Wish | None] | None
"""How often a cancel of one of a worker's jobs was asked for, and what an operator wishes; None: it is fenced."""

# Beats that look for cancelled jobs after a cancel: the answer with the job may still be under way.
_BEATS_AFTER_CANCEL = 4


class SyncRemoteConsumer(ABC, Generic[S]):
    """A worker's side for sync code, with its own connection; see `SyncConsumer`.

    The connection waits at most a third of the lease for an answer, so that a beat can be repeated before the
    lease ends.

    Attributes:
        has_found: Set when `recover` finds jobs: they may have been cancelled before we knew of them.
    """

    def __init__(self, consumer: Consumer, connection: S) -> None:
        self._consumer, self._connection = consumer, connection
        self.has_found = False
        self._known: tuple[str, int] = ("", 0)  # a worker, and how often a cancel of one of its jobs was asked for
        self._beats_left = 0  # that look for cancelled jobs

    def beat(self, *beats: Beat) -> Sequence[Beaten]:
        those = [(cast("Self", each.consumer.sync), each.consumer.worker_id, each) for each in beats]
        answers = self._ask_beats(those)
        return [
            Fenced(worker_id)
            if asked is None
            else Renewed(one._cancelled(worker_id, asked[0], each.held, self._connection), asked[1])
            for (one, worker_id, each), asked in zip(those, answers, strict=True)
        ]

    def _cancelled(
        self, worker_id: str, cancels: int, held: Callable[[], Sequence[Lease]], connection: S
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
            asked += self._ask_cancelled(leases[start : start + MOST_JOBS], connection)
        return asked

    @abstractmethod
    def _ask_beats(self, beats: Sequence[tuple[Self, str, Beat]]) -> list[Asked]:
        """Send the beats of workers, each with its id, in one round trip; return an answer for each."""

    @abstractmethod
    def _ask_cancelled(self, leases: Sequence[Lease], connection: S) -> Sequence[Lease]:
        """Return which of these jobs are to be cancelled; the connection may be another consumer's."""

    def close(self) -> None:
        self._connection.close()
