"""Pushes the rows of a database's outbox to a queue, each once. Any number of relays may run, on any hosts.

`redisjobs/model/relaying.py` says why a relay may die or freeze at any point. One relay keeps the order of each
producer's rows. With several, two batches of 500 may arrive in another order.
"""

import math
import time
from collections.abc import Sequence

import anyio

from redisjobs.client.registry import Registry
from redisjobs.control.relay.batch import BatchAnswer, RelayBatch
from redisjobs.drivers.postgres.connecting import checked
from redisjobs.drivers.postgres.outbox import MOST_COUNTED, Outbox
from redisjobs.errors import DriverError, Unavailable
from redisjobs.events.kinds import JobsPushed, OutboxMeasured, RelayAvailable, RelayUnavailable, RowsRefused
from redisjobs.model.outbox import OutboxRow
from redisjobs.model.relaying import FindRelayed, ForgetRelayed
from redisjobs.model.relaying import Relay as ReadClock
from redisjobs.model.transitions import MOST_JOBS

_POLLS = (0.02, 0.25)  # seconds between two looks: at first, and at most
_CLOCK_FRESH = 5.0  # seconds for which the store's clock is not read again; a push may be 30 s old
_ORPHANS = 60.0  # seconds between two looks for rows that other relays have deleted, and the store remembers
_MEASURED = 10.0  # seconds between two measurements of the lag
_LONGEST = 30.0  # seconds that one batch may take
_PAUSES = (0.1, 0.5, 1.0, 2.0, 5.0)  # seconds before each new try, the last one for all others


class Relayer:
    """Pushes what an outbox holds for one queue.

    Args:
        queue: The queue, async or sync.
        database: The URL of the database, as `postgresql://USER@HOST/NAME`.

    Raises:
        ValueError: The URL names no Postgres database.
    """

    def __init__(self, queue: Registry, database: str) -> None:
        self._queue, self._url = queue, checked(database)
        self._outbox: Outbox | None = None
        self._wake = anyio.Event()
        self._poll = _POLLS[0]
        self._stopped = self._is_away = False
        self._clock: tuple[float, float] = (0.0, -math.inf)  # the store's, and when it was read
        self._floor = 0  # rows below this number are looked for now and then only: most are dead
        self._full_at = self._orphans_at = self._measured_at = -math.inf  # when each is due next

    async def run(self) -> None:
        """Push until stopped. While the database or the queue is unavailable, wait.

        Raises:
            DriverError: The schema does not fit this release, or the role may not use it, at the start.
        """
        try:
            await self._open_first()
            await self._work()
        finally:
            await self._end()

    def stop(self) -> None:
        """Let `run` return after the batch that it pushes now. Call it in the event loop of `run`."""
        self._stopped = True
        self._wake.set()

    async def run_once(self) -> OutboxMeasured:
        """Push what waits now, and return what is left.

        Raises:
            DriverError: The database or the queue is unavailable, or refuses.
        """
        try:
            more = True
            while more:
                self._full_at = -math.inf
                more = await self._step()
            return await self._measure(await self._open())
        finally:
            await self._end()

    async def _end(self) -> None:
        with anyio.CancelScope(shield=True):
            await self._close()
            await self._queue.driver.aclose()

    async def _open_first(self) -> None:
        try:
            await self._open()
        except Unavailable as error:
            self._away(error)

    async def _work(self) -> None:
        pauses = iter(_PAUSES)
        while not self._stopped:
            self._wake, more = anyio.Event(), False
            try:
                more = await self._step()
                await self._look_after()
                self._back()
                pauses, pause = iter(_PAUSES), self._next_poll(more)
            except DriverError as error:
                self._away(error)
                await self._close()
                pause = next(pauses, _PAUSES[-1])
            if not (more or self._stopped):
                with anyio.move_on_after(pause):
                    await self._wake.wait()

    def _next_poll(self, more: bool) -> float:
        poll = self._poll
        self._poll = _POLLS[0] if more else min(2 * poll, _POLLS[1])
        return poll

    async def _step(self) -> bool:
        """Push one batch; return whether there may be more."""
        try:
            with anyio.fail_after(_LONGEST):
                return await self._push_batch()
        except TimeoutError as error:
            raise Unavailable(f"a batch took longer than {_LONGEST:g} s") from error

    async def _push_batch(self) -> bool:
        outbox = await self._open()
        began = time.monotonic()
        floor = 0 if began >= self._full_at else self._floor
        rows = await self._push_from(floor, outbox) if await outbox.is_any(floor) else []
        now = time.monotonic()
        if floor == 0:
            # It may walk over many dead rows, if an old snapshot pins them: only for a tenth of the time.
            self._full_at = now + min(10 * (now - began), _MEASURED)
        if rows:
            self._floor = rows[-1].seq + 1
        return bool(rows) or (floor > 0 and now >= self._full_at)

    async def _push_from(self, floor: int, outbox: Outbox) -> Sequence[OutboxRow]:
        read_ms = await self._read_clock(outbox)
        async with outbox.taking(floor) as rows:
            relayed = await RelayBatch(self._queue, outbox.name, read_ms).push(rows)
            await outbox.settle([*relayed.done], {seq: error for seq, *_, error in relayed.refused})
        await self._tell(outbox, relayed)
        return rows

    async def _read_clock(self, outbox: Outbox) -> float:
        """Return the store's clock of a moment ago. It must be read before the rows are."""
        server_ms, read_at = self._clock
        if time.monotonic() - read_at > _CLOCK_FRESH:
            read_at = time.monotonic()
            server_ms = (await self._queue.driver.change(ReadClock(outbox.name))).server_ms
            self._clock = server_ms, read_at
        return server_ms

    async def _tell(self, outbox: Outbox, relayed: BatchAnswer) -> None:
        """Tell the queue which rows are deleted, and listeners what has happened."""
        if relayed.done:
            await self._queue.driver.change(ForgetRelayed(outbox.name, [*relayed.done.values()]))
        events = self._queue.events
        if relayed.jobs and events.wanted(JobsPushed):
            events.publish(JobsPushed(self._queue.name, jobs=relayed.jobs))
        if relayed.refused:
            events.publish(RowsRefused(self._queue.name, rows=relayed.refused))

    async def _look_after(self) -> None:
        """Do what is due now besides pushes: measure the lag, and forget orphans."""
        outbox, now = await self._open(), time.monotonic()
        if now >= self._orphans_at:
            await self._forget_orphans(outbox)
            self._orphans_at = now + _ORPHANS
        if now >= self._measured_at:
            await self._measure(outbox)
            self._measured_at = now + _MEASURED

    async def _forget_orphans(self, outbox: Outbox) -> None:
        """Let the store forget rows whose relay died after their deletion."""
        more = True
        while more:
            names = await self._queue.driver.read(FindRelayed(outbox.name, int(_ORPHANS * 1000)))
            gone = {*names} - await outbox.those_there(names) if names else set()
            if gone:
                await self._queue.driver.change(ForgetRelayed(outbox.name, sorted(gone)))
            more = len(gone) == MOST_JOBS

    async def _measure(self, outbox: Outbox) -> OutboxMeasured:
        waiting, oldest, refused = await outbox.lag()
        measured = OutboxMeasured(
            self._queue.name, waiting=waiting, oldest=oldest, refused=refused, most=MOST_COUNTED
        )
        self._queue.events.publish(measured)
        return measured

    async def _open(self) -> Outbox:
        if self._outbox is None:
            self._outbox = await Outbox.open(self._url, self._queue.name)
        return self._outbox

    async def _close(self) -> None:
        outbox, self._outbox = self._outbox, None
        if outbox is not None:
            await outbox.aclose()

    def _away(self, error: DriverError) -> None:
        if not self._is_away:
            self._is_away = True
            self._queue.events.publish(RelayUnavailable(self._queue.name, why=str(error)))

    def _back(self) -> None:
        if self._is_away:
            self._is_away = False
            self._queue.events.publish(RelayAvailable(self._queue.name))
