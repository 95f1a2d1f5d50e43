"""The chunks that readers of a job get, as the store keeps them and as they are read.

The id of a chunk is `<ms>-<number>`: when the first chunk of the job was stored, and a number that grows by one
with each chunk. So a reader goes on behind the last id that it has, and learns how many chunks it has lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redisjobs.base.arguments import is_text
from redisjobs.base.visible import visible
from redisjobs.errors import ChunksLost, EncodeError
from redisjobs.model import payload
from redisjobs.model.emissions import LARGEST_CHUNK, ChunkKind, NewChunk
from redisjobs.model.queries import Query

_ID = r"[0-9]{1,15}-[0-9]{1,15}"


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of what a job has emitted, by `context.emit`.

    Attributes:
        id: A text to go on from: `handle.stream(after=chunk.id)`.
        data: What the handler emitted: plain JSON, or bytes.
        run: Which run of the job it is of, from 1. It grows when the job starts over, after a failure or a lost
            worker. The chunks that the job then emits again have the next number.
    """

    id: str
    data: Any
    run: int


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk as the store has it."""

    id: str
    run: int
    kind: str  # a `ChunkKind`
    data: bytes


@dataclass(frozen=True, slots=True)
class Chunks:
    """The answer to one step of reading chunks."""

    chunks: Sequence[StoredChunk] = ()
    lost: int = 0  # how many chunks behind `after` are not kept any more
    after: str = ""  # if some are lost: the id to go on after, with the oldest chunk that is kept
    more: bool = False  # there are more chunks


@dataclass(frozen=True, slots=True)
class GetChunks(Query[Chunks]):
    """Read the chunks of a job behind an id, in bounded steps of about 1 MB.

    An id of an earlier job with this id counts as ''.
    """

    job_id: str
    after: str = ""  # '' for the first chunk


def new_chunk(value: Any) -> NewChunk:
    """Return what a handler emits; raise an EncodeError if it can't be kept."""
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        if len(data) > LARGEST_CHUNK:
            raise EncodeError(
                f"the chunk: it has {len(data):,} bytes, the limit is {LARGEST_CHUNK:,}; emit it in parts"
            )
        return NewChunk(ChunkKind.BYTES, data)
    return NewChunk(ChunkKind.JSON, payload.encode_plain("the chunk", value, LARGEST_CHUNK))


def read_chunk(stored: StoredChunk) -> Chunk:
    """Return a chunk for its reader; raise a DecodeError if it was changed in the store."""
    data: Any = stored.data
    if stored.kind == ChunkKind.JSON:
        data = payload.decode_untyped(f"chunk {stored.id}", stored.data)
    return Chunk(stored.id, data, stored.run)


def checked_after(after: object) -> str:
    """Return the id behind which a reader goes on, '' for None; raise a ValueError if it is none."""
    if after is None:
        return ""
    if not is_text(after, _ID):
        raise ValueError(f"after={after!r:.60}: give the id of a chunk that was read, or nothing to read them all")
    return after


def chunk_id(began_ms: int, number: int) -> str:
    """Return the id of a chunk."""
    return f"{began_ms}-{number}"


def parts_of(chunk_id: str) -> tuple[int, int]:
    """Return when the first chunk was stored, in ms, and the number of this one; zeros for ''."""
    began, _, number = chunk_id.partition("-")
    return int(began or 0), int(number or 0)


def lost_error(job_id: str, page: Chunks) -> ChunksLost:
    """Return the error of a reader that has fallen behind."""
    return ChunksLost(
        job_id,
        page.lost,
        page.after,
        f"job {visible(job_id)}: {page.lost:,} chunks are lost, because the queue keeps only the last ones; go on "
        f"with those by stream(after={page.after!r})",
    )
