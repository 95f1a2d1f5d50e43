"""What a run has emitted and the store has not taken, and the steps that it saves meanwhile, in order."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from redisjobs.errors import ChunksFull
from redisjobs.model.emissions import (
    BYTES_TOGETHER,
    CHUNKS_TOGETHER,
    MOST_BYTES_OF_CHUNKS,
    MOST_CHUNKS,
    EmitChunks,
    NewChunk,
)
from redisjobs.model.transitions import SaveStep
from redisjobs.worker.running.children import OnReply

_MANY, _MUCH = CHUNKS_TOGETHER // 2, BYTES_TOGETHER // 4  # chunks, or bytes, that are sent without delay


@dataclass(slots=True)
class Part:
    """What a run writes in an exchange: chunks, or a step."""

    settlement: EmitChunks | SaveStep
    answered: OnReply


class Room:
    """How many chunks, and how many bytes of them, one exchange still takes."""

    def __init__(self) -> None:
        self.chunks, self.bytes = CHUNKS_TOGETHER, BYTES_TOGETHER

    @property
    def is_left(self) -> bool:
        """Whether the exchange takes any more."""
        return self.chunks > 0 and self.bytes > 0

    def takes(self, chunk: NewChunk) -> bool:
        """Return whether this chunk goes too; then it is counted. The first one always goes."""
        if self.chunks == 0 or (len(chunk.data) > self.bytes and self.bytes < BYTES_TOGETHER):
            return False
        self.chunks, self.bytes = self.chunks - 1, self.bytes - len(chunk.data)
        return True


class ChunkOutbox:
    """The chunks of one run that the store has not taken, and what it saves behind them.

    A step that is saved after a chunk was emitted must not be stored before it: the next run would then take the
    chunk for emitted. So only one exchange at a time has parts of an outbox.

    Args:
        wait: The number of the last wait that was over when the run began; see `EmitChunks`.

    Attributes:
        under_way: How many parts of it are in an exchange.
        since: When the oldest chunk that waits was emitted, by the monotonic clock.
        then: Called when all is taken, because the run is over; None: it goes on.
    """

    def __init__(self, wait: int) -> None:
        self._wait: int | None = wait
        self._waiting = deque[NewChunk | Part]()
        self._room = threading.Condition()
        self._chunks = self._bytes = 0  # that the store has not taken
        self._chunks_waiting = self._bytes_waiting = self._steps_waiting = 0
        self._is_closed = self._is_noted = False
        self.under_way = 0
        self.since = 0.0
        self.then: Callable[[], object] | None = None

    def add(self, chunk: NewChunk, *, may_wait: bool) -> bool:
        """Add a chunk, in any thread; return whether to note that there is one, or that there are many now.

        Raises:
            ChunksFull: There is no room, and the thread may not wait.
        """
        with self._room:
            while self._is_full(chunk) and not self._is_closed:
                if not may_wait:
                    raise ChunksFull(
                        f"the server has not taken the last {self._chunks:,} chunks of this run, {self._bytes:,} "
                        "bytes, and its worker keeps no more. Emit less, or larger chunks, and await something "
                        "now and then; this chunk was not emitted"
                    )
                self._room.wait()
            if self._is_closed:
                return False
            was_urgent = self.is_urgent
            self._waiting.append(chunk)
            self._chunks, self._bytes = self._chunks + 1, self._bytes + len(chunk.data)
            self._chunks_waiting += 1
            self._bytes_waiting += len(chunk.data)
            if self._chunks_waiting == 1:
                self.since = time.monotonic()
            is_news = not self._is_noted or (self.is_urgent and not was_urgent)
            self._is_noted = True
            return is_news

    def _is_full(self, chunk: NewChunk) -> bool:
        return self._chunks >= MOST_CHUNKS or self._bytes + len(chunk.data) > MOST_BYTES_OF_CHUNKS

    def write(self, step: Part) -> None:
        """Add a step to save, behind the chunks that were emitted before."""
        with self._room:
            self._waiting.append(step)
            self._steps_waiting += 1

    @property
    def has_some(self) -> bool:
        """Whether anything waits to be sent."""
        return bool(self._waiting)

    @property
    def is_empty(self) -> bool:
        """Whether the store has taken all."""
        return not self._waiting and not self.under_way

    @property
    def is_urgent(self) -> bool:
        """Whether to send what waits without delay: a handler waits for it, or it is much."""
        many = self._chunks_waiting >= _MANY or self._bytes_waiting >= _MUCH
        return many or self._steps_waiting > 0 or self.then is not None

    def take(self, most: int, room: Room) -> list[Part]:
        """Take what goes in an exchange next: up to `most` parts, and as many chunks as there is room for."""
        taken = list[Part]()
        with self._room:
            self._is_noted = False  # so that a chunk from now on is noted, too
            self.since = time.monotonic()  # for chunks that stay
            while self._waiting and len(taken) < most:
                first = self._waiting[0]
                if isinstance(first, Part):
                    self._waiting.popleft()
                    self._steps_waiting -= 1
                    taken.append(first)
                elif chunks := self._take_chunks(room):
                    taken.append(self._part(chunks))
                else:
                    break
        self.under_way += len(taken)
        return taken

    def _take_chunks(self, room: Room) -> list[NewChunk]:
        chunks = list[NewChunk]()
        while self._waiting:
            first = self._waiting[0]
            if isinstance(first, Part) or not room.takes(first):
                break
            chunks.append(first)
            self._waiting.popleft()
            self._chunks_waiting -= 1
            self._bytes_waiting -= len(first.data)
        return chunks

    def _part(self, chunks: Sequence[NewChunk]) -> Part:
        wait, self._wait = self._wait, None
        return Part(EmitChunks(chunks, wait), lambda reply, added: self._was_taken(chunks))

    def _was_taken(self, chunks: Sequence[NewChunk]) -> None:
        with self._room:
            self._chunks -= len(chunks)
            self._bytes -= sum(len(chunk.data) for chunk in chunks)
            self._room.notify_all()

    def close(self) -> None:
        """Take no more chunks, because the run is over or given up. Threads that wait for room go on."""
        with self._room:
            self._is_closed = True
            self._room.notify_all()
