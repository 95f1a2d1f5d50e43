"""What jobs emit, as a call of a function in the database."""

from base64 import b64decode, b64encode
from typing import Any

from redisjobs.drivers.postgres.calls import Call, answer_of, answers
from redisjobs.drivers.postgres.entries import text_of
from redisjobs.model.chunks import Chunks, GetChunks, StoredChunk, chunk_id, parts_of
from redisjobs.model.emissions import BYTES_TOGETHER, EmitChunks


def emit_words(emitted: EmitChunks) -> dict[str, Any]:
    """Return chunks as functions/chunks.sql reads them."""
    chunks = [[chunk.kind, b64encode(chunk.data).decode()] for chunk in emitted.chunks]
    return {"chunks": chunks} if emitted.wait is None else {"chunks": chunks, "wait": emitted.wait}


@answers(GetChunks)
def _get_chunks(query: GetChunks) -> Call[Chunks]:
    return Call("chunks", [text_of(query.job_id), *parts_of(query.after), BYTES_TOGETHER], answer_of(_chunks))


def _chunks(answer: Any) -> Chunks:
    if "lost" in answer:
        return Chunks(lost=answer["lost"], after=chunk_id(answer["began"], answer["first"] - 1), more=True)
    found = [
        StoredChunk(chunk_id(answer["began"], number), run, kind, b64decode(data))
        for number, run, kind, data in answer["chunks"]
    ]
    return Chunks(found, more=answer["more"])
