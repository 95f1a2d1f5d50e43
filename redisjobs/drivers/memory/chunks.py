"""The chunks that jobs emit, and what readers get of them."""

from itertools import islice

from redisjobs.drivers.memory.state import Memory, StoredChunks, StoredJob, answers
from redisjobs.model.chunks import Chunks, GetChunks, StoredChunk, chunk_id, parts_of
from redisjobs.model.emissions import (
    BYTES_TOGETHER,
    CHUNKS_TOGETHER,
    MOST_BYTES_OF_CHUNKS,
    MOST_CHUNKS,
    EmitChunks,
)

_DAY = 86_400_000  # ms for which chunks are kept while the job has not ended


def emit(memory: Memory, job: StoredJob, emitted: EmitChunks) -> None:
    """Store chunks of a job, and drop the oldest ones if there are too many. Notify who waits for it."""
    now_ms = memory.now_ms()
    stored = memory.chunks.current(job.id, now_ms) or StoredChunks(now_ms)
    if emitted.wait is not None:
        stored.run += stored.run == 0 or emitted.wait <= stored.wait
        stored.wait = emitted.wait
    for chunk in emitted.chunks:
        stored.last += 1
        one = StoredChunk(chunk_id(stored.began_ms, stored.last), stored.run, chunk.kind, chunk.data)
        stored.chunks.append(one)
        stored.bytes += len(chunk.data)
    while len(stored.chunks) > MOST_CHUNKS or stored.bytes > MOST_BYTES_OF_CHUNKS:
        stored.bytes -= len(stored.chunks.popleft().data)
    memory.chunks.put(job.id, stored, now_ms + _DAY, now_ms)
    memory.tell_processes(job)


@answers(GetChunks)
def _get(memory: Memory, query: GetChunks) -> Chunks:
    stored = memory.chunks.current(query.job_id, memory.now_ms())
    if stored is None:
        return Chunks()
    began_ms, after = parts_of(query.after)
    if began_ms != stored.began_ms:
        after = 0
    first = stored.last - len(stored.chunks)  # the number of the last chunk that is not kept
    if after < first:
        return Chunks(lost=first - after, after=chunk_id(stored.began_ms, first), more=True)
    page, size = list[StoredChunk](), 0
    for chunk in islice(stored.chunks, after - first, None):
        size += len(chunk.data)
        if page and (size > BYTES_TOGETHER or len(page) == CHUNKS_TOGETHER):
            return Chunks(page, more=True)
        page.append(chunk)
    return Chunks(page)
