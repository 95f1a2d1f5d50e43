"""A listening socket, served by a thread and an event loop of its own."""

import asyncio
import socket
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Protocol, TypeVar

HOST = "127.0.0.1"
_T = TypeVar("_T")


class Handler(Protocol):
    """What a listener knows of who uses the connections it accepts. All of it is called in the loop's thread."""

    def count(self) -> None:
        """Note that a client has come."""

    async def handle(self, client: socket.socket) -> None:
        """Do what is to be done with a client's connection, which is closed afterwards."""


class Listener:
    """Accepts connections from its making until it is closed.

    Args:
        handler: Uses them.

    Attributes:
        port: Where it listens on 127.0.0.1.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._socket = socket.create_server((HOST, 0))
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self._loop = asyncio.SelectorEventLoop()
        self._serving = self._loop.create_task(self._serve())
        self._thread = threading.Thread(target=self._run, name="proxy")
        self._thread.start()

    def close(self) -> None:
        """Accept no more, end what uses connections, and wait for that."""
        self._loop.call_soon_threadsafe(self._serving.cancel)
        self._thread.join()
        self._loop.close()

    def call(self, act: Coroutine[Any, Any, _T]) -> _T:
        """Do something in the loop's thread, and wait for it; from any other."""
        return asyncio.run_coroutine_threadsafe(act, self._loop).result(timeout=10)

    def _run(self) -> None:
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._serving)

    async def _serve(self) -> None:
        with self._socket:
            async with asyncio.TaskGroup() as group:
                # Not by awaiting `sock_accept`: cancelled just then, that loses what it has accepted.
                self._loop.add_reader(self._socket, self._accept, group)
                try:
                    await asyncio.Event().wait()
                finally:
                    self._loop.remove_reader(self._socket)

    def _accept(self, group: asyncio.TaskGroup) -> None:
        with suppress(OSError):  # it is gone again
            client, _ = self._socket.accept()
            client.setblocking(False)
            self._handler.count()
            # Also of a task that is cancelled before it begins.
            group.create_task(self._handler.handle(client)).add_done_callback(lambda _: client.close())
