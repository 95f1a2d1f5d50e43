"""All connections through a proxy, served by a thread and an event loop of its own."""

import asyncio
import socket
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from redisjobs_proof.torture.proxy.impairments import Cut, Impairments, Lag
from redisjobs_proof.torture.proxy.link import Counters, Link, reset_on_close

HOST = "127.0.0.1"
_BUFFER = 64 * 1024  # bytes: small, so that a server soon notices a client that does not read
_T = TypeVar("_T")


class Links:
    """Accepts connections on a port of 127.0.0.1 from its making until it is closed, and forwards them.

    Its coroutines belong to the loop's thread, so they need no lock: give them to `call`.

    Attributes:
        target: Host and port of the server.
    """

    def __init__(self, counters: Counters, impairments: Impairments, target: tuple[str, int]) -> None:
        self._counters, self._impairments, self.target = counters, impairments, target
        self._links: set[Link] = set()
        self._socket = socket.create_server((HOST, 0))
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self._loop = asyncio.SelectorEventLoop()
        self._serving = self._loop.create_task(self._serve())
        self._thread = threading.Thread(target=self._run, name="proxy")
        self._thread.start()

    def close(self) -> None:
        """Accept no more, end all connections, and wait for that."""
        self._loop.call_soon_threadsafe(self._serving.cancel)
        self._thread.join()
        self._loop.close()

    def call(self, act: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine in the loop's thread, and wait for it; from any other thread."""
        return asyncio.run_coroutine_threadsafe(act, self._loop).result(timeout=10)

    async def set_cut(self, cut: Cut) -> None:
        """Cut the next connection that sends one of the triggers from now on."""
        self._impairments.cut = cut
        self._look_again()

    async def cut_no_more(self) -> None:
        """Take the cut back, even if the trigger was sent and some bytes are still to come."""
        self._impairments.cut = None
        for link in self._links:
            link.spare()

    async def set_lag(self, lag: Lag | None) -> None:
        """Delay the next connection that sends one of the triggers from now on; None for none."""
        self._impairments.lag = lag
        self._look_again()

    async def drop(self, *, half_dead_only: bool) -> int:
        """Reset connections; return how many."""
        links = [link for link in self._links if link.half_dead or not half_dead_only]
        for link in links:
            link.drop()
        await asyncio.gather(*(link.task for link in links), return_exceptions=True)
        return len(links)

    def _look_again(self) -> None:
        for link in self._links:
            link.look_again()

    def _run(self) -> None:
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._serving)

    async def _serve(self) -> None:
        with self._socket:
            async with asyncio.TaskGroup() as group:
                # A cancelled `sock_accept` loses what it has just accepted.
                self._loop.add_reader(self._socket, self._accept, group)
                try:
                    await asyncio.Event().wait()
                finally:
                    self._loop.remove_reader(self._socket)

    def _accept(self, group: asyncio.TaskGroup) -> None:
        with suppress(OSError):  # the client has left already
            client, _ = self._socket.accept()
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
            self._counters.connections += 1
            # The callback also closes the client of a task that is cancelled before it begins.
            group.create_task(self._handle(client)).add_done_callback(lambda _: client.close())

    async def _handle(self, client: socket.socket) -> None:
        with socket.socket() as server:
            server.setblocking(False)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            try:
                await self._loop.sock_connect(server, self.target)
                if self._impairments.refuse:  # checked now: a client that came just before must not slip through
                    raise ConnectionRefusedError
            except OSError:
                reset_on_close(client)
                return
            link = Link(self._counters, self._impairments, client, server)
            self._links.add(link)
            try:
                await link.forward()
            finally:
                self._links.discard(link)
