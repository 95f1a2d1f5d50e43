"""What a worker knows of the jobs to come: by the last answer, and by how large jobs were."""

import time
from collections.abc import Sequence

from redisjobs.drivers.redis.connection import ServerClock
from redisjobs.model.job import Priority
from redisjobs.model.transitions import LOWEST_RANK, Ended, Exchange, Lease

REPLY_BYTES = 1024 * 1024
"""The bytes of jobs in one reply; a larger job comes alone."""

_FIRST_JOB_BYTES = 64 * 1024  # of a job, as long as none was seen
_SAMPLE = 8  # jobs of a reply whose size is looked at
_STALE = 1.0  # seconds after which an answer about jobs to come is no longer relied on,
_UNTOLD = 50  # and at most this many are read until the next answer
_TURN_LATE_US = 1_000_000
_ALL = slice(0, len(Priority))  # streams


class Ahead:
    """What a claim would find, as the answers to a claim and to settlements begin."""

    def __init__(self, now_us: int, due_in_us: int, finds: int, counts: list[int], turn_in_us: int) -> None:
        self.now_us = now_us  # by the server's clock
        self.due_in_us = due_in_us  # until the next delayed job; -1: there is none, or nothing was asked
        self.turn_in_us = turn_in_us  # until the next in line may start; -1: none waits for a time
        self.released = finds & 1 != 0  # jobs were handed back; such are claimed first
        self.restricted = finds & 6 != 0  # some jobs may not start, or none
        self.is_paused = finds & 4 != 0
        self.turns = finds & 8 != 0  # a job in line may start, though no claim was asked for
        self.sees_to_turns = finds & 16 != 0  # this worker is to look when the next in line may start
        self.released_rank = finds // 32 if self.released else LOWEST_RANK  # of the first that was handed back
        self.unread = counts[:3]  # jobs of each stream that were never delivered, or about that many
        self.readable = counts[3:]  # of each stream, by one read, as there are large ones; 0: any number

    @property
    def stream(self) -> int | None:
        """The stream of the highest priority that has jobs which were never delivered."""
        return next((number for number, unread in enumerate(self.unread, 1) if unread > 0), None)

    def note_read(self, leases: Sequence[Lease], streams: slice, most: int) -> None:
        """Count off what a read of some streams has brought, which may have been up to `most` of each."""
        ranks = [lease.rank for lease in leases]
        for number in range(streams.start, streams.stop):
            count = ranks.count(number)
            self.unread[number] = max(0, self.unread[number] - count) if count == most else 0


class Outlook:
    """What one worker knows of the jobs to come.

    Attributes:
        clock: The server's.
    """

    def __init__(self) -> None:
        self.clock = ServerClock()
        self._ahead: Ahead | None = None  # None: not known
        self._known_at = float("-inf")  # when that was said, by the monotonic clock
        self._waits: float | None = None  # for how long a job has been waiting that has to run alone
        self._job_bytes: float | None = None  # of a job; None: none was seen yet
        self._turn_us = 0  # by the server's clock: when a job in line may start, if we are the one to look

    def forget(self) -> None:
        """Have the next claim ask the script."""
        self._ahead = None

    @property
    def needs_script(self) -> bool:
        """Whether a claim has to ask the script, which knows what was handed back, and all else.

        A plain read costs the server much less.
        """
        return self._ahead is None or self._ahead.released or self._ahead.restricted

    def reads(self, count: int, waiting: Sequence[Lease]) -> list[tuple[slice, int]]:
        """Return which streams to read, and how many jobs of each: down to the first that is known to have some.

        Those above it may have some since that answer. One command has one limit for all its streams, so it may
        bring more than `count`: those that are over wait in the worker, and the next read asks for fewer.
        """
        stream = self._ahead.stream if self._ahead is not None else None
        if stream is None:
            return []
        if time.monotonic() >= self._known_at + _STALE:
            count = min(count, _UNTOLD)
        over = sum(lease.rank < stream for lease in waiting)
        if not over:
            parts = [(slice(0, stream), count)]
        else:
            parts = [(slice(0, stream - 1), count), (slice(stream - 1, stream), count - over)]
        return [
            (streams, self.readable(most, streams))
            for streams, most in parts
            if most > 0 and streams.start < streams.stop
        ]

    def readable(self, count: int, streams: slice = _ALL) -> int:
        """Return how many jobs, up to a count, one read may bring of each of some streams.

        By how large the last jobs were they make up a usual reply; and where larger ones are to come, the server
        has said how many it reads at once.
        """
        usual = int(REPLY_BYTES / (self._job_bytes or _FIRST_JOB_BYTES))
        limits: list[int] = []
        if self._ahead is not None:
            limits = [limit for limit in self._ahead.readable[streams] if limit]
        return max(1, min(count, usual, *(limit // len(limits) for limit in limits)))

    def weigh(self, leases: Sequence[Lease]) -> None:
        """Learn how large jobs are, by some of them: at once if they are larger, step by step if smaller."""
        some = leases[:: max(1, len(leases) // _SAMPLE)]
        if some:
            self._job_bytes = max(sum(map(bytes_of, some)) / len(some), (self._job_bytes or 0) / 4, 1.0)

    def after_claim(self, ahead: Ahead, waits_ms: int) -> None:
        """Note what a claim by the script has found; it takes what was handed back in its turn."""
        self._note(ahead)
        self._waits = waits_ms / 1000 if waits_ms >= 0 else None

    def after_reads(self, ahead: Ahead) -> None:
        """Note what the answer before plain reads has said, which know nothing of what was handed back."""
        self._note(ahead)
        if not ahead.released:
            self._waits = None  # a job that has to run alone is with those that were handed back

    def _note(self, ahead: Ahead) -> None:
        self._ahead, self._known_at = ahead, time.monotonic()
        self.clock.hear(ahead.now_us / 1000)

    def exchange(
        self, settled: Exchange, ahead: Ahead, leases: list[Lease], ended: Sequence[Ended], *, by_script: bool
    ) -> Exchange:
        """Return the answer of an exchange: what was settled, what was claimed, and what is known then."""
        turn_in, late_in = self._turn_in(ahead), self._late_in(ahead)
        unread_rank = LOWEST_RANK if ahead.stream is None else ahead.stream - 1
        due = ahead.due_in_us / 1e6 if ahead.due_in_us >= 0 else None
        if by_script and settled.turns and not ahead.sees_to_turns:
            # The server had to be given the script that settles first, so the claim came before it.
            due_in: float | None = 0.0
        else:
            due_in = min((wait for wait in (due, turn_in, late_in) if wait is not None), default=None)
        return Exchange(
            settled.replies,
            leases,
            ahead.released or any(ahead.unread),
            ended,
            due_in,
            self._waits,
            ahead.now_us / 1000,
            ahead.is_paused,
            settled.added,
            restricted=ahead.restricted,
            lines=ahead.turn_in_us >= 0,
            turn_in=turn_in,
            late_in=late_in,
            spoiled=settled.spoiled,
            up_to=min(unread_rank, LOWEST_RANK if by_script else ahead.released_rank),
        )

    @staticmethod
    def _late_in(ahead: Ahead) -> float | None:
        """Return in how many seconds to look after jobs in line, if the worker that is to look is gone.

        The worker that has changed when the next in line may start, or has looked when it might, looks then; the
        others a second later. Else all of a fleet would look each time that a rate lets another job start.
        """
        return (ahead.turn_in_us + _TURN_LATE_US) / 1e6 if ahead.turn_in_us >= 0 else None

    def _turn_in(self, ahead: Ahead) -> float | None:
        """Return in how many seconds to look after jobs in line, if this worker is to look."""
        if ahead.turn_in_us >= 0 and ahead.sees_to_turns:
            self._turn_us = ahead.now_us + ahead.turn_in_us
            return ahead.turn_in_us / 1e6
        return (self._turn_us - ahead.now_us) / 1e6 if self._turn_us > ahead.now_us else None


def bytes_of(lease: Lease) -> int:
    """Return how long the names and values of a job are in all."""
    return sum(map(len, lease.fields)) + sum(map(len, lease.fields.values()))
