"""What a running handler emits for its readers, and how much of it a worker and the store keep."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

MOST_CHUNKS = 10_000
"""The most chunks that the store keeps of a job, and that a worker keeps of a run until the store has them."""

MOST_BYTES_OF_CHUNKS = 4 * 1024 * 1024
"""The most bytes of these."""

LARGEST_CHUNK = 256 * 1024
"""The most bytes of one chunk."""

CHUNKS_TOGETHER = 1_000
"""The most chunks of a worker in one call, so that no call blocks the store for long."""

BYTES_TOGETHER = 1024 * 1024
"""The most bytes of these, and about the most bytes of chunks that a reader gets in one answer."""


class ChunkKind(StrEnum):
    """What the data of a chunk is."""

    JSON = "json"
    BYTES = "bytes"


@dataclass(frozen=True, slots=True)
class NewChunk:
    """A chunk that a run emits."""

    kind: ChunkKind
    data: bytes


@dataclass(frozen=True, slots=True)
class EmitChunks:
    """Chunks of a running job, in their order. It ends no lease. OK only for the worker that has the lease.

    A run that starts the handler from its top, and not after a wait, emits again what an earlier run has emitted.
    So the store numbers the runs: it begins the next number with a `wait` that is no greater than that of the
    newest chunk.
    """

    chunks: Sequence[NewChunk]  # up to 1,000, and 1 MB
    # With the first chunks of a run: the number of the last wait that was over when it began, 0 if there was none.
    # None: the run has emitted before.
    wait: int | None = None
