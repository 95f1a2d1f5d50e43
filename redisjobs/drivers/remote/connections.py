"""Pools of connections: one for each event loop, and one that all threads of a process share."""

import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Generic, Protocol, TypeVar

from redisjobs.base.forks import begin_after_fork
from redisjobs.errors import Unavailable

MOST_LINKS = 16
"""The most connections that concurrent calls share. An event loop's small pushes use others."""

_LOOK_AGAIN = 0.1  # seconds after which a call that waits for a connection counts them again


class Closable(Protocol):
    """An async connection, which opens when it is used."""

    async def aclose(self) -> None:
        """Close it; it opens again when used."""


class SyncClosable(Protocol):
    """A sync connection, which opens when it is used."""

    def close(self) -> None:
        """Close it; it opens again when used."""


C = TypeVar("C", bound=Closable)
S = TypeVar("S", bound=SyncClosable)
T = TypeVar("T")


class ServerConnections(Generic[C]):
    """The connections of one event loop: as many as calls ran at once."""

    def __init__(self, make: Callable[[], C]) -> None:
        self.all: list[C] = []
        self._idle: list[C] = []  # no call uses them
        self._closing: set[C] = set()  # to be closed when their calls end
        self._make = make

    def take(self) -> C:
        """Return a connection for this caller only, who must put it back."""
        if self._idle:
            return self._idle.pop()
        connection = self._make()
        self.all.append(connection)
        return connection

    async def put(self, connection: C) -> None:
        """Put a connection back. After a failure it is closed, and opens again when used."""
        if connection in self._closing:
            self._closing.discard(connection)
            await connection.aclose()
        self._idle.append(connection)

    async def aclose(self) -> None:
        """Close the connections, those in use when their calls end; they open again when used.

        A call may outlive its caller: a cancelled push that shares a round trip with others.
        """
        self._closing.update(set(self.all).difference(self._idle))
        await self.aclose_idle()

    async def aclose_idle(self) -> None:
        """Close the connections that no call uses; they open again when used."""
        closed = []
        try:
            while self._idle:
                closed.append(self._idle.pop())
                await closed[-1].aclose()
        finally:
            self._idle += closed


class SyncConnections(Generic[S]):
    """Connections that threads share, at most 16.

    A signal handler may raise between any two steps of a call, as at Ctrl-C. Such a call might neither return its
    place nor release a lock. So there is no lock and no counter: we count the connections that exist, and Python
    deletes one that no call holds. A forked process starts with none, because its parent goes on using them. No
    call uses those in `idle`.
    """

    def __init__(self, make: Callable[[], S]) -> None:
        self._make = make
        self.begin()
        begin_after_fork(self)

    def begin(self) -> None:
        self.idle: SimpleQueue[S] = SimpleQueue()
        self._made: set[weakref.ref[S]] = set()
        self._closing: set[weakref.ref[S]] = set()  # to be closed when their calls end

    def call(self, call: Callable[[S], T], until: float) -> T:
        """Call a function with a connection that only this call uses."""
        connection = self.take(until)
        try:
            return call(connection)
        except Unavailable:
            # What ended this one has mostly ended the others, and the next calls would fail, too.
            self.close_idle()
            raise
        finally:
            self.put(connection)

    def take(self, until: float) -> S:
        """Return a connection for this caller only, who must put it back in a `finally` right after this call."""
        while True:
            try:
                return self.idle.get_nowait()
            except Empty:
                pass
            connection = self._make()
            self._made.add(weakref.ref(connection))
            self._made.difference_update([ref for ref in list(self._made) if ref() is None])
            if len(self._made) <= MOST_LINKS:
                return connection
            del connection
            left = until - time.monotonic()
            if left <= 0:
                raise Unavailable(f"all {MOST_LINKS} connections of this process are busy")
            with suppress(Empty):  # a short wait: a connection that is deleted frees a place, but wakes no thread
                return self.idle.get(timeout=min(left, _LOOK_AGAIN))

    def put(self, connection: S) -> None:
        """Put a connection back. After a failure it is closed, and opens again when used."""
        self.idle.put(connection)
        if weakref.ref(connection) in self._closing:  # after `put`: another thread may close at this moment
            self.close_idle()

    def close(self) -> None:
        """Close the connections, those in use when their calls end; the next call opens a new one."""
        self._closing = self._made.copy()
        self.close_idle()

    def close_idle(self) -> None:
        """Close the connections that no call uses; they are deleted, and the next call makes new ones."""
        with suppress(Empty):
            while True:
                self.idle.get_nowait().close()
