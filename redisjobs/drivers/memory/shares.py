"""Who may start under a limit: the twins of `lua/include/{room,take_share,give_up,limiter,take_turns}.lua`.

What is counted together is named by the job name, or by that and a key. Whoever calls has the lock.
"""

import math
import re
import time
from collections.abc import Mapping

from redisjobs.drivers.memory.state import LINE, RELEASED, Memory, Pending, Place, Stream, text_of
from redisjobs.model.limits import Limit
from redisjobs.model.transitions import MOST_JOBS

_LOST_MS = 5_000  # after so long a line is looked at again that was given all its room
_MOST_LINES = 50  # that one look hands back from
_SPACE = re.compile(r"[ \t-\r]")  # a name with one, by hand, could not be told from its key: it has no limit


def bucket_of(fields: Mapping[bytes, bytes]) -> str:
    """What a job is counted under."""
    name, key = text_of(fields, b"name"), text_of(fields, b"limit_key")
    return f"{name} {key}" if key else name


def limit_of(memory: Memory, bucket: str) -> Limit | None:
    """The limit of a job name, also of one with a key after it; None for none."""
    text = memory.limits.get(bucket.partition(" ")[0])
    return None if text is None else Limit.read(text)


def arrival(memory: Memory, bucket: str, every_us: int, ahead_us: int, now_us: int) -> int:
    """The theoretical arrival time of the next job, in µs; one that is later than can be is corrected."""
    next_us = min(memory.arrivals.get(bucket, 0), now_us + ahead_us + every_us)
    if bucket in memory.arrivals:
        memory.arrivals[bucket] = next_us
    return max(now_us, next_us)


def room(memory: Memory, bucket: str, limit: Limit) -> tuple[float, int | None]:
    """How many may start now; and from when on, in ms, if none may as the rate does not allow it."""
    free = math.inf
    if limit.max_concurrency is not None:
        free = max(0, limit.max_concurrency - sum(held == bucket for held in memory.shares.values()))
    if not free or limit.every_us is None or limit.ahead_us is None:
        return free, None
    now_us = memory.now_ms() * 1000  # once: as the clock goes on between two looks, no job would be in time
    from_us = arrival(memory, bucket, limit.every_us, limit.ahead_us, now_us) - limit.ahead_us
    if from_us > now_us:
        return 0, math.ceil(from_us / 1000)
    return min(free, (now_us - from_us) // limit.every_us + 1), None


def give_up(memory: Memory, place: Place, *, refund: bool = False) -> None:
    """Let a job that runs no more give up its share, and the next in line have a turn."""
    bucket = memory.shares.pop(place, None)
    if bucket is None:
        return
    limit = limit_of(memory, bucket)
    if refund and limit is not None and limit.every_us is not None and bucket in memory.arrivals:
        memory.arrivals[bucket] -= limit.every_us
    if bucket in memory.waiting:
        turn(memory, bucket, memory.now_ms())


def turn(memory: Memory, bucket: str, at_ms: int) -> bool:
    """Let the next in line have a turn at that time, or sooner if it has; whether that is a change."""
    is_sooner = at_ms < memory.turns.get(bucket, at_ms + 1)
    if is_sooner:
        memory.turns[bucket] = at_ms
    return is_sooner


def line_up(memory: Memory, stream: Stream, entry: str, deliveries: int, bucket: str) -> None:
    """Let an entry wait in line."""
    stream.pending[entry] = Pending(LINE + bucket, deliveries, time.monotonic())
    memory.waiting.add(bucket)


class Limiter:
    """Lets jobs start under the limits of their names, or wait in line; see lua/include/limiter.

    Attributes:
        has_turned: Whether anything of that changed when the next turn is.
    """

    def __init__(self, memory: Memory) -> None:
        self.has_turned = False
        self._memory = memory
        self._full: set[str] = set()

    def start(self, stream: Stream, entry: str, *, waited: bool = False) -> str | None:
        """A share for a job, if it needs one: then, and where it needs none, None. Else in whose line it waits."""
        memory = self._memory
        bucket = bucket_of(stream.entries[entry])
        limit = self._limit(stream, entry)
        if limit is None:
            return None
        place: Place = (stream.priority, entry)
        # First: a job that is found again has its share, also where others find none.
        if memory.shares.get(place) == bucket:
            return None
        if bucket in self._full:
            return bucket
        free, from_ms = room(memory, bucket, limit)
        if free and (waited or bucket not in memory.waiting):
            memory.shares[place] = bucket
            if limit.every_us is not None and limit.ahead_us is not None:
                now_us = memory.now_ms() * 1000
                next_us = arrival(memory, bucket, limit.every_us, limit.ahead_us, now_us) + limit.every_us
                memory.arrivals[bucket] = next_us
            self._turn_on(bucket, limit)
            return None
        self._full.add(bucket)
        if free:
            self._turn(bucket, memory.now_ms())
        elif from_ms is not None:
            self._turn(bucket, from_ms)
        return bucket

    def pass_on(self, stream: Stream, entry: str) -> None:
        """A job that was handed back does not start: whoever is next in line may."""
        bucket = bucket_of(stream.entries[entry])
        if self._limit(stream, entry) is not None and bucket in self._memory.waiting:
            self._turn(bucket, self._memory.now_ms())

    def _limit(self, stream: Stream, entry: str) -> Limit | None:
        name = text_of(stream.entries[entry], b"name")
        text = None if _SPACE.search(name) else self._memory.limits.get(name)
        return None if text is None else Limit.read(text)

    def _turn_on(self, bucket: str, limit: Limit) -> None:
        """After a start: whoever is next in line waits for a share, or for the rate."""
        free, from_ms = room(self._memory, bucket, limit)
        if free or bucket not in self._memory.waiting:
            return
        self._memory.turns.pop(bucket, None)
        if from_ms is not None:
            self._turn(bucket, from_ms)

    def _turn(self, bucket: str, at_ms: int) -> None:
        self.has_turned = turn(self._memory, bucket, at_ms) or self.has_turned


def take_turns(memory: Memory) -> int:
    """Hand back jobs that waited in line, and whose turn it is; how many."""
    now_ms, total = memory.now_ms(), 0
    due = sorted((at_ms, bucket) for bucket, at_ms in memory.turns.items() if at_ms <= now_ms)
    for _, bucket in due[:_MOST_LINES]:
        if total == MOST_JOBS:
            break
        del memory.turns[bucket]
        total += _hand_on(memory, bucket, MOST_JOBS - total)
    return total


def _hand_on(memory: Memory, bucket: str, most: int) -> int:
    if bucket.partition(" ")[0] in memory.paused_names:
        return 0
    limit, now_ms = limit_of(memory, bucket), memory.now_ms()
    free, from_ms = (math.inf, None) if limit is None else room(memory, bucket, limit)
    if not free:
        if from_ms is not None:
            memory.turns[bucket] = from_ms
        return 0
    wanted = int(min(free, most))
    line = [(stream, entry) for stream in memory.streams for entry in stream.held(LINE + bucket)][:wanted]
    for stream, entry in line:
        stream.pending[entry] = Pending(RELEASED, stream.pending[entry].deliveries, time.monotonic())
    if len(line) == wanted:
        memory.turns[bucket] = now_ms if limit is None else now_ms + _LOST_MS
    else:
        memory.waiting.discard(bucket)
    return len(line)


def give_lost_turns(memory: Memory) -> None:
    """See to it that of each line somebody looks when its next job may start; see lua/shares."""
    now_ms, given = memory.now_ms(), False
    for bucket in sorted(memory.waiting):
        due_ms, known_ms = _due_at(memory, bucket), memory.turns.get(bucket)
        if due_ms is None or (known_ms is not None and known_ms <= due_ms):
            continue
        if known_ms is not None and due_ms == now_ms and known_ms <= now_ms + _LOST_MS:
            continue  # it was given all its room a moment ago, and is looked at again in time
        memory.turns[bucket], given = due_ms, True
    if given or min(memory.turns.values(), default=math.inf) <= now_ms:
        tell_turn(memory)


def _due_at(memory: Memory, bucket: str) -> int | None:
    """When somebody is to look at a line; None: it waits for a share, or for its name to be resumed."""
    if bucket.partition(" ")[0] in memory.paused_names:
        return None
    limit, now_ms = limit_of(memory, bucket), memory.now_ms()
    if limit is None:
        return now_ms
    free, from_ms = room(memory, bucket, limit)
    return now_ms if free else from_ms


def tell_turn(memory: Memory) -> None:
    """Tell workers when the next of a waiting line may start, as whoever was to look then may be gone."""
    if memory.turns:
        memory.tell("due", str(min(memory.turns.values())))


def next_turn(memory: Memory, due_in: float | None) -> float | None:
    """In how many seconds to look next, for a delayed job or for whoever waits in line."""
    if not memory.turns:
        return due_in
    turn_in = max(0, min(memory.turns.values()) - memory.now_ms()) / 1000
    return turn_in if due_in is None else min(due_in, turn_in)
