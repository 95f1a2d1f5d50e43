"""The outbox of a database: what producers write, and how a relay takes rows, deletes them and sets them aside."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

from redisjobs.drivers.postgres import schema
from redisjobs.drivers.postgres.connecting import connect_async, translated
from redisjobs.model.outbox import OutboxRow
from redisjobs.model.transitions import MOST_BYTES, MOST_JOBS

MOST_COUNTED = 100_000
"""The most waiting rows that are counted."""

ADD = """
  INSERT INTO redisjobs.outbox (queue, id, nonce, name, parameters, options, due_at)
  SELECT queue, id, nonce, name, parameters::json, options, clock_timestamp() + wait_ms * interval '1 ms'
  FROM json_to_recordset(%s::text::json) AS given (
    queue text, id text, nonce text, name text, parameters text, options json, wait_ms float
  )
"""
"""Adds rows, given as a JSON list of objects. No NOTIFY, which would let all commits wait for each other."""

_BEGIN = """
  SELECT
    set_config('idle_in_transaction_session_timeout', '60s', true),  -- or a frozen relay would lock its rows
    CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', true) END
"""
_TAKE = f"""
  WITH picked AS MATERIALIZED (
    SELECT *, octet_length(parameters::text) AS size
    FROM redisjobs.outbox
    WHERE queue = %s AND failed_at IS NULL AND seq >= %s
    ORDER BY seq LIMIT {MOST_JOBS} FOR UPDATE SKIP LOCKED
  ), summed AS (
    SELECT *, sum(size) OVER (ORDER BY seq) - size AS before FROM picked
  )
  SELECT
    seq, id, nonce, name, parameters::text, options,
    extract(epoch FROM due_at - clock_timestamp())::float * 1000,
    extract(epoch FROM clock_timestamp() - pushed_at)::float * 1000
  FROM summed WHERE before < {MOST_BYTES} ORDER BY seq
"""
_IS_ANY = "SELECT EXISTS (SELECT FROM redisjobs.outbox WHERE queue = %s AND failed_at IS NULL AND seq >= %s)"
_DELETE = "DELETE FROM redisjobs.outbox WHERE seq = ANY(%s)"
_REFUSE = """
  UPDATE redisjobs.outbox SET error = given.error, failed_at = clock_timestamp()
  FROM unnest(%s::bigint[], %s::text[]) AS given (seq, error) WHERE outbox.seq = given.seq
"""
_THERE = """
  SELECT name FROM (
    SELECT CASE WHEN nonce = '' THEN id ELSE nonce || ' ' || id END AS name FROM redisjobs.outbox WHERE queue = %s
  ) AS rows WHERE name = ANY(%s)
"""
_COUNT = f"""
  SELECT count(*) FROM (SELECT FROM redisjobs.outbox WHERE queue = %s AND {{}} LIMIT {MOST_COUNTED}) AS rows
"""
_WAITING, _REFUSED = _COUNT.format("failed_at IS NULL"), _COUNT.format("failed_at IS NOT NULL")
_OLDEST = """
  SELECT extract(epoch FROM clock_timestamp() - pushed_at)::float
  FROM redisjobs.outbox WHERE queue = %s AND failed_at IS NULL ORDER BY seq LIMIT 1
"""


class Outbox:
    """A connection of a relay to an outbox, for one queue and one task. Its errors are ours.

    Attributes:
        name: The outbox's name, which that of no other database has.
    """

    def __init__(self, connection: Any, url: str, queue: str, name: str) -> None:
        self._connection, self._url, self._queue = connection, url, queue
        self.name = name

    @classmethod
    async def open(cls, url: str, queue: str) -> Self:
        """Connect, and check the schema.

        Raises:
            OtherVersion: The schema does not fit this release.
            DriverError: The database can't be reached, or refuses.
        """
        connection = await connect_async(url)
        try:
            with translated(url):
                (has_any,) = await _row(connection, schema.HAS_MIGRATIONS)
                schema.check(await _rows(connection, schema.APPLIED) if has_any else [])
                (name,) = await _row(connection, "SELECT id::text FROM redisjobs.outbox_identity")
        except BaseException:
            await connection.close()
            raise
        return cls(connection, url, queue, name)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._connection.close()

    async def is_any(self, floor: int) -> bool:
        """Return whether a row from this number on waits; it may be locked by another relay."""
        with translated(self._url):
            (is_any,) = await _row(self._connection, _IS_ANY, (self._queue, floor))
        return bool(is_any)

    @asynccontextmanager
    async def taking(self, floor: int) -> AsyncIterator[Sequence[OutboxRow]]:
        """Yield the first rows from a number on that no other relay has, locked until the end of this block."""
        with translated(self._url):
            async with self._connection.transaction():
                await self._connection.execute(_BEGIN)
                yield [OutboxRow(*row) for row in await _rows(self._connection, _TAKE, (self._queue, floor))]

    async def settle(self, done: Sequence[int], refused: Mapping[int, str]) -> None:
        """Delete rows by their numbers, and set others aside with their errors. Call it within `taking`."""
        if done:
            await self._connection.execute(_DELETE, (list(done),))
        if refused:
            errors = [error.replace("\0", "\\0") for error in refused.values()]
            await self._connection.execute(_REFUSE, (list(refused), errors))

    async def those_there(self, names: Sequence[str]) -> set[str]:
        """Return which of these rows are there, by the names that a queue remembers them by."""
        with translated(self._url):
            return {name for (name,) in await _rows(self._connection, _THERE, (self._queue, list(names)))}

    async def lag(self) -> tuple[int, float, int]:
        """Return how many rows wait, for how many seconds the oldest has, and how many are set aside."""
        connection, queue = self._connection, (self._queue,)
        with translated(self._url):
            (waiting,), (refused,) = (
                await _row(connection, _WAITING, queue),
                await _row(connection, _REFUSED, queue),
            )
            oldest = await _rows(connection, _OLDEST, queue)
        return waiting, max(0.0, oldest[0][0]) if oldest else 0.0, refused


async def _rows(connection: Any, statement: str, values: Any = None) -> list[Any]:
    done = await connection.execute(statement, values)
    return list(await done.fetchall())


async def _row(connection: Any, statement: str, values: Any = None) -> Any:
    return (await _rows(connection, statement, values))[0]
