"""What one worker expects of its next claim, from the server's last answer and the size of recent jobs.

It decides whether the next claim needs the script, and how many jobs a plain read asks for.
"""

import time
from collections.abc import Sequence

from redisjobs.drivers.remote.clock import ServerClock
from redisjobs.model.job import Priority
from redisjobs.model.transitions import LOWEST_RANK, Ended, Exchange, Lease

REPLY_BYTES = 1024 * 1024
"""The most bytes of jobs in one reply; a larger job comes alone."""

_FIRST_JOB_BYTES = 64 * 1024  # the assumed size of a job, until we have seen one
_SAMPLE = 8  # jobs of a reply that we measure
_STALE = 1.0  # seconds after which the last answer is out of date
_MOST_WHEN_STALE = 50  # jobs that one read asks for at most while the last answer is out of date
_TURN_LATE_US = 1_000_000
_ALL = slice(0, len(Priority))  # streams


class Prospect:
    """What a claim would find; the reply to a claim or to settlements begins with it."""

    def __init__(self, now_us: int, due_in_us: int, finds: int, counts: list[int], turn_in_us: int) -> None:
        self.now_us = now_us  # by the server's clock
        self.due_in_us = due_in_us  # until the next delayed job is due; -1: there is none, or we did not ask
        self.turn_in_us = turn_in_us  # until the next job in line may start; -1: none waits for a time
        self.released = finds & 1 != 0  # jobs were handed back; these are claimed first
        self.restricted = finds & 6 != 0  # some jobs may not start, or none may
        self.is_paused = finds & 4 != 0
        self.turns = finds & 8 != 0  # a job in line may start, and the call did not claim
        self.looks_at_turns = finds & 16 != 0  # this worker is to look when the next job in line may start
        self.released_rank = finds // 32 if self.released else LOWEST_RANK  # of the first that was handed back
        self.unread = counts[:3]  # about how many jobs of each stream were never delivered
        self.readable = counts[3:]  # how many jobs one read may ask for in each stream; 0: any number

    @property
    def stream(self) -> int | None:
        """The number of the first stream, by priority, with jobs that were never delivered."""
        return next((number for number, unread in enumerate(self.unread, 1) if unread > 0), None)

    def note_read(self, leases: Sequence[Lease], streams: slice, most: int) -> None:
        """Subtract what a read of these streams has brought; it asked for up to `most` jobs of each."""
        ranks = [lease.rank for lease in leases]
        for number in range(streams.start, streams.stop):
            count = ranks.count(number)
            self.unread[number] = max(0, self.unread[number] - count) if count == most else 0


class Outlook:
    """What one worker expects of its next claim.

    Attributes:
        clock: The server's clock.
    """

    def __init__(self) -> None:
        self.clock = ServerClock()
        self._ahead: Prospect | None = None  # None: not known
        self._known_at = float("-inf")  # when we learned that, by the monotonic clock
        self._waits: float | None = None  # seconds that a job has waited for a worker that runs nothing else
        self._job_bytes: float | None = None  # the usual size of a job; None: we have seen none yet
        self._turn_us = 0  # when a job in line may start, if this worker is to look then; by the server's clock

    def forget(self) -> None:
        """Forget the last answer, so that the next claim runs the script."""
        self._ahead = None

    @property
    def needs_script(self) -> bool:
        """Whether the next claim has to run the script. A plain read costs the server much less.

        Only the script takes jobs that were handed back, and checks which jobs may start.
        """
        return self._ahead is None or self._ahead.released or self._ahead.restricted

    def reads(self, count: int, waiting: Sequence[Lease]) -> list[tuple[slice, int]]:
        """Return the streams to read, and how many jobs of each: down to the first that is known to have jobs.

        The streams above it may have got jobs since that answer. One command has one limit for all its streams, so
        it may bring more than `count` jobs. The rest waits in the worker, and the next read asks for fewer.
        """
        stream = self._ahead.stream if self._ahead is not None else None
        if stream is None:
            return []
        if time.monotonic() >= self._known_at + _STALE:
            count = min(count, _MOST_WHEN_STALE)
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
        """Return how many jobs, up to `count`, one read may ask for in each of these streams.

        The size of recent jobs decides, so that a reply has about 1 MB. If a stream has large jobs to come, the
        number that the server named for it counts too.
        """
        usual = int(REPLY_BYTES / (self._job_bytes or _FIRST_JOB_BYTES))
        limits: list[int] = []
        if self._ahead is not None:
            limits = [limit for limit in self._ahead.readable[streams] if limit]
        return max(1, min(count, usual, *(limit // len(limits) for limit in limits)))

    def weigh(self, leases: Sequence[Lease]) -> None:
        """Learn the size of jobs from a sample: a larger size counts at once, a smaller one step by step."""
        some = leases[:: max(1, len(leases) // _SAMPLE)]
        if some:
            self._job_bytes = max(sum(map(bytes_of, some)) / len(some), (self._job_bytes or 0) / 4, 1.0)

    def after_claim(self, ahead: Prospect, waits_ms: int) -> None:
        """Note what a claim by script has found. Such a claim also takes jobs that were handed back."""
        self._note(ahead)
        self._waits = waits_ms / 1000 if waits_ms >= 0 else None

    def after_reads(self, ahead: Prospect) -> None:
        """Note what the answer before plain reads has reported. They don't bring jobs that were handed back."""
        self._note(ahead)
        if not ahead.released:
            self._waits = None  # a job that has to run alone counts as handed back

    def _note(self, ahead: Prospect) -> None:
        self._ahead, self._known_at = ahead, time.monotonic()
        self.clock.record(ahead.now_us / 1000)

    def exchange(
        self, settled: Exchange, ahead: Prospect, leases: list[Lease], ended: Sequence[Ended], *, by_script: bool
    ) -> Exchange:
        """Return the answer of an exchange: the replies to settlements, the claimed jobs, what to expect next."""
        turn_in, late_in = self._turn_in(ahead), self._late_in(ahead)
        unread_rank = LOWEST_RANK if ahead.stream is None else ahead.stream - 1
        due = ahead.due_in_us / 1e6 if ahead.due_in_us >= 0 else None
        if by_script and settled.turns and not ahead.looks_at_turns:
            # The server lacked the settle script, so that ran after the claim: claim again at once.
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
    def _late_in(ahead: Prospect) -> float | None:
        """Return the seconds until this worker looks for the next turn, if the one that is to look then is gone.

        The worker that last changed the time of the next turn, or last looked at such a time, looks then, and
        others only a second later. Else many would look each time that a rate lets another job start.
        """
        return (ahead.turn_in_us + _TURN_LATE_US) / 1e6 if ahead.turn_in_us >= 0 else None

    def _turn_in(self, ahead: Prospect) -> float | None:
        """Return the seconds until this worker has to look for the next turn; None if another worker looks."""
        if ahead.turn_in_us >= 0 and ahead.looks_at_turns:
            self._turn_us = ahead.now_us + ahead.turn_in_us
            return ahead.turn_in_us / 1e6
        return (self._turn_us - ahead.now_us) / 1e6 if self._turn_us > ahead.now_us else None


def bytes_of(lease: Lease) -> int:
    """Return the size of a job: the bytes of its fields' names and values."""
    return sum(map(len, lease.fields)) + sum(map(len, lease.fields.values()))
