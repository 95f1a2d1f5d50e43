"""Reads the chunks that jobs emit, for all readers of one event loop. Readers at the same place share a query."""

from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial

import anyio
import anyio.lowlevel

from redisjobs.client.backoff import NOT_NOW, retrying
from redisjobs.errors import DriverError
from redisjobs.model.chunks import Chunk, GetChunks, lost_error, read_chunk
from redisjobs.model.driver import Driver

Page = tuple[Sequence[Chunk], bool]
"""Chunks, and whether there are more."""


class _Reading:
    """A query under way."""

    def __init__(self) -> None:
        self.is_sent = False
        self.is_over = anyio.Event()
        self.page: Page | None = None  # None: it has failed, or its reader has left


class Pages:
    """Reads pages of chunks.

    Args:
        driver: Reads them.
        failed: Called with why the store does not answer at the moment.
    """

    def __init__(self, driver: Driver, failed: Callable[[DriverError], object]) -> None:
        self._driver = driver
        self._failed = failed
        self._under_way: dict[GetChunks, _Reading] = {}

    async def following(self, job_id: str, after: str) -> AsyncGenerator[Sequence[Chunk], None]:
        """Yield the chunks that there are now behind an id, some at a time.

        Raises:
            ChunksLost: Some are not kept any more.
            DecodeError: A chunk was changed in the store.
            DriverError: The store refuses to answer.
        """
        has_more = True
        while has_more:
            chunks, has_more = await self._read(GetChunks(job_id, after))
            if chunks:
                after = chunks[-1].id
                yield chunks

    async def _read(self, query: GetChunks) -> Page:
        """Read a page. A query that was sent before may not find what this reader knows to be there."""
        while (there := self._under_way.get(query)) is not None:
            is_shared = not there.is_sent
            await there.is_over.wait()
            if is_shared and there.page is not None:
                return there.page
        reading = self._under_way[query] = _Reading()
        try:
            await anyio.lowlevel.checkpoint()  # for all readers that the same notification has woken
            reading.is_sent = True
            reading.page = await self._ask(query)
            return reading.page
        finally:
            del self._under_way[query]
            reading.is_over.set()

    async def _ask(self, query: GetChunks) -> Page:
        found = await retrying(partial(self._driver.read, query), on=NOT_NOW, failed=self._failed)
        if found.lost:
            raise lost_error(query.job_id, found)
        return [read_chunk(chunk) for chunk in found.chunks], found.more
