"""Receives the replies of one open connection, and wakes the task that waits for them."""

import asyncio
import time
from contextlib import suppress
from typing import Any

import redis
from hiredis import Reader


def reader_of(connection: Any) -> Any:
    """Return a parser for the bytes that a redis-py connection receives; it returns error replies as values."""
    return Reader(protocolError=redis.InvalidResponse, replyError=connection._parser.parse_error)


class _ClosedIsLost:
    """Raises uvloop's RuntimeError about a closed connection as ConnectionError; in asyncio the next read fails.

    It is a class because `contextmanager` takes eight times as long, and each command runs this code.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RuntimeError) and "closed" in str(error):
            raise ConnectionError(str(error)) from error


CLOSED_IS_LOST = _ClosedIsLost()


class Replies(asyncio.Protocol):
    """The replies over an open connection of redis-py; one task at a time waits for them.

    It replaces the stream reader that redis-py has opened. So an answer costs one future, and mostly no timer: a
    timer that is already set serves later answers too, and when it ends it checks whether one is overdue.

    Attributes:
        noticed_at: When the last byte arrived, by the monotonic clock.
        took: Seconds that the last answer took, if a task had to wait for it.
        is_receiving: Whether an answer has begun to arrive and is not complete.
    """

    def __init__(self, connection: Any) -> None:
        self.noticed_at = time.monotonic()
        self.took = 0.0
        self.is_receiving = False
        self._loop = asyncio.get_running_loop()
        self._reader = reader_of(connection)
        self._got: list[Any] = []
        self._wanted = 0
        self._waiter: asyncio.Future[None] | None = None
        self._lost: Exception | None = None
        self._timeout = self._until = self._asked_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._transport = connection._writer.transport
        # When redis-py closes the connection, it waits for this protocol.
        self._former: asyncio.BaseProtocol = self._transport.get_protocol()
        if self._transport.is_closing():
            self._lost = ConnectionError("the connection was closed")
        self._transport.set_protocol(self)
        # Else uvloop, as of 0.20, sends what we write only after all ready callbacks of the loop have run.
        self._transport.set_write_buffer_limits(high=0)

    def send(self, data: bytes) -> None:
        """Write bytes without waiting: the caller awaits the answer before it sends more. OSError: it is lost.

        Not with `writelines`, as redis-py does: on a lost connection Python 3.12 to 3.13.5 then keeps the file
        descriptor registered, and a new connection with the same descriptor waits for ever (CPython gh-136234).
        """
        if self._lost is not None or self._transport.is_closing():
            raise self._lost or ConnectionError("the connection was closed")
        with CLOSED_IS_LOST:
            self._transport.write(data)

    def arrived(self, count: int, timeout: float, until: float) -> asyncio.Future[None]:
        """Return what to await before taking this many replies. No coroutine: each round trip runs this code.

        Awaiting raises OSError if the connection is lost, if no byte arrives for `timeout` seconds, or if some of
        the replies are missing at `until`, by the monotonic clock; RedisError if the bytes are no reply.
        """
        waiter = self._loop.create_future()
        if len(self._got) >= count:
            waiter.set_result(None)
        elif self._lost is not None:
            waiter.set_exception(self._lost)
        else:
            self._wanted, self._waiter = count, waiter
            self._limit(timeout, until)
        return waiter

    def take(self, count: int) -> list[Any]:
        """Take this many replies that have arrived; an error reply is a value."""
        if len(self._got) == count:
            taken, self._got = self._got, []
        else:
            taken, self._got = self._got[:count], self._got[count:]
        return taken

    def end(self) -> None:
        """Close the connection from any thread; the task that waits fails."""
        with suppress(RuntimeError):  # the event loop has ended
            self._loop.call_soon_threadsafe(self._transport.abort)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _limit(self, timeout: float, until: float) -> None:
        now = time.monotonic()
        self._timeout, self._until, self._asked_at = timeout, until, now
        if self._timer is not None and until >= now + timeout:
            return  # the timer that is set looks in time
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(min(timeout, until - now), self._look)

    def _look(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        left = min(max(self.noticed_at, self._asked_at) + self._timeout, self._until) - time.monotonic()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._waiter.set_exception(TimeoutError())

    # Called by the transport

    def data_received(self, data: bytes) -> None:
        self.noticed_at = time.monotonic()
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                self._got.append(reply)
        except redis.RedisError as error:
            self._end(error)
            self._transport.abort()
            return
        waiter, self.is_receiving = self._waiter, False
        if waiter is not None and not waiter.done():
            self.is_receiving = len(self._got) < self._wanted
            if not self.is_receiving:
                self.took = self.noticed_at - self._asked_at
                waiter.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the task that waits: no more replies will arrive."""
        said = self._got[-1] if self._got else None
        if isinstance(said, redis.ResponseError) and str(said).startswith("Protocol error"):
            error = said  # the server's last word
        self._end(error or ConnectionError("the server closed the connection"))
        self._former.connection_lost(error)

    def _end(self, error: Exception) -> None:
        self.is_receiving = False
        self._lost = self._lost or error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(self._lost)
