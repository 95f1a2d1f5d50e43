"""A faulty TCP proxy: it stands between a client and a server and breaks what it is told to break."""

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Self, TypeVar

HOST = "127.0.0.1"
_CHUNK = 64 * 1024
_ANSWER = 2.0  # seconds that a server may take to answer what was held
_T = TypeVar("_T")


class _Ended(Exception):
    """One side has ended; it stops the other side's pump."""


class _Link:
    """One client's connection and its twin to the server."""

    def __init__(self, client: socket.socket, server: socket.socket, task: asyncio.Task[None]) -> None:
        self.client, self.server, self.task = client, server, task
        self.budget: int | None = None  # bytes of reply until the reset; None for no reset
        self.late_until = 0.0  # by the loop's clock: what comes from the server is held back until then
        self.seen = b""  # the end of the requests since a trigger was set
        self.half_dead = False

    def reset_on_close(self) -> None:
        for side in (self.client, self.server):
            _reset_on_close(side)


class Held:
    """What a proxy holds back of one connection, once its client has sent what was waited for.

    Attributes:
        bytes: How many bytes it has of it; 0 if nothing was caught so far.
    """

    def __init__(self, proxy: "Proxy", trigger: bytes) -> None:
        self.bytes = 0
        self.trigger = trigger
        self._proxy = proxy
        self._kept: tuple[socket.socket, bytes] | None = None

    def keep(self, server: socket.socket, chunk: bytes) -> None:
        """Take bytes that are to go to a server, and the connection they are to go over."""
        self._kept, self.bytes = (server, chunk), len(chunk)

    def release(self) -> None:
        """Let them arrive, wait until the server has read them, and close the connection; again is nothing."""
        self._proxy.forget(self)
        kept, self._kept = self._kept, None
        if kept is None:
            return
        server, chunk = kept
        with server, suppress(OSError):  # the server may be another one by now
            server.settimeout(_ANSWER)
            server.sendall(chunk)
            server.recv(_CHUNK)

    def drop(self) -> None:
        """Let them never arrive."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept[0].close()


class Proxy:
    """Forwards TCP connections to a target, faultily. A context manager; all methods are thread-safe.

    It runs on a thread and an event loop of its own, so sync tests, async tests and clients in other
    processes can use it alike. A fault is in force when its method returns. To reset a connection
    means a TCP RST to both sides: a client sees ECONNRESET and not an orderly end.

    Attributes:
        target: Host and port of what it stands in front of.
        port: Where it listens on 127.0.0.1, once entered.
        connections: How many it has accepted, refused ones included.
        request_bytes: How many bytes it has forwarded to the server.
        reply_bytes: How many bytes it has forwarded to clients.
        cuts: How often `cut_after_reply_bytes` has struck.
        lags: How often `delay_reply` has.
    """

    def __init__(self, target_host: str, target_port: int) -> None:
        self.port = self.connections = self.request_bytes = self.reply_bytes = self.cuts = self.lags = 0
        self.target = (target_host, target_port)
        self._waiting: list[Held] = []
        self._kept: list[Held] = []
        self._links: set[_Link] = set()
        self._cut: tuple[int, tuple[bytes, ...]] | None = None
        self._lag: tuple[float, tuple[bytes, ...]] | None = None
        self._black_hole = self._refuse = False
        self._delay = 0.0

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"redis://{HOST}:{self.port}/0"

    def __enter__(self) -> Self:
        self._listener = socket.create_server((HOST, 0))
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._loop = asyncio.SelectorEventLoop()
        self._serving = self._loop.create_task(self._serve())
        self._thread = threading.Thread(target=self._run, name="proxy")
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._serving.cancel)
        self._thread.join()
        self._loop.close()
        for held in self._kept:
            held.drop()

    def cut_after_reply_bytes(self, n: int, *triggers: bytes) -> None:
        """Resets, once, the next connection to send one of `triggers`, `n` bytes of reply later.

        Args:
            n: How many bytes the client still gets. With 0 the request is executed and its reply is
                lost: the reset comes when the reply does. Stay below a socket's buffer (64 KiB), as
                a reset may overtake what the client's kernel has not taken in.
            triggers: What the request contains one of; packets may split it. None means any request.
        """
        self._in_loop(self._arm(n, triggers or (b"",)))

    def cut_no_more(self) -> None:
        """Takes back what `cut_after_reply_bytes` has set and has not struck yet."""
        self._in_loop(self._disarm())

    def delay_reply(self, seconds: float, *triggers: bytes) -> None:
        """Holds back, once, for so long what the server sends to the next connection to send one of `triggers`."""
        self._in_loop(self._expect_lag((seconds, triggers)))

    def delay_reply_no_more(self) -> None:
        """Takes back what `delay_reply` has set and has not struck yet; what is held back stays so."""
        self._in_loop(self._expect_lag(None))

    def hold(self, trigger: bytes) -> Held:
        """Keeps, once, the next packet that contains `trigger` instead of sending it on, and resets its client.

        So a request can arrive that its client has given up, however much later `release` is called.
        """
        held = Held(self, trigger)
        self._in_loop(self._expect(held))
        return held

    def forget(self, held: Held) -> None:
        """Waits no longer for what `held` was to keep."""
        with suppress(ValueError):
            self._waiting.remove(held)

    def drop_all(self) -> int:
        """Resets every connection that has reached the server; returns how many there were."""
        return self._in_loop(self._drop(half_dead_only=False))

    def black_hole(self, on: bool) -> None:
        """Swallows everything, ends of connections too, and keeps all sockets open, as a cut cable does.

        What was swallowed stays lost. `False` resets the connections that one side has ended meanwhile
        and leaves the others as they are, even in the middle of a request.
        """
        self._black_hole = on
        if not on:
            self._in_loop(self._drop(half_dead_only=True))

    def delay(self, seconds: float) -> None:
        """Holds every chunk back for so long, in both directions; 0 ends it."""
        self._delay = seconds

    def refuse(self, on: bool) -> None:
        """Accepts new connections only to reset them. Those that are there stay."""
        self._refuse = on

    def _in_loop(self, act: Coroutine[Any, Any, _T]) -> _T:
        # Links belong to the loop's thread and need no lock; what is one assignment needs no loop.
        return asyncio.run_coroutine_threadsafe(act, self._loop).result(timeout=10)

    async def _arm(self, n: int, triggers: tuple[bytes, ...]) -> None:
        self._cut = (n, triggers)
        for link in self._links:
            link.seen = b""

    async def _disarm(self) -> None:
        self._cut = None
        for link in self._links:
            link.budget = None

    async def _expect_lag(self, lag: tuple[float, tuple[bytes, ...]] | None) -> None:
        self._lag = lag
        for link in self._links:
            link.seen = b""

    async def _expect(self, held: Held) -> None:
        self._waiting.append(held)

    async def _drop(self, *, half_dead_only: bool) -> int:
        links = [link for link in self._links if link.half_dead or not half_dead_only]
        for link in links:
            link.reset_on_close()
            link.task.cancel()
        await asyncio.gather(*(link.task for link in links), return_exceptions=True)
        return len(links)

    def _run(self) -> None:
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._serving)

    async def _serve(self) -> None:
        with self._listener:
            async with asyncio.TaskGroup() as group:
                # Not by awaiting `sock_accept`: cancelled just then, that loses what it has accepted.
                self._loop.add_reader(self._listener, self._accept, group)
                try:
                    await asyncio.Event().wait()
                finally:
                    self._loop.remove_reader(self._listener)

    def _accept(self, group: asyncio.TaskGroup) -> None:
        with suppress(OSError):  # it is gone again
            client, _ = self._listener.accept()
            client.setblocking(False)
            self.connections += 1
            # Also of a task that is cancelled before it begins.
            group.create_task(self._handle(client)).add_done_callback(lambda _: client.close())

    async def _handle(self, client: socket.socket) -> None:
        with socket.socket() as server:
            server.setblocking(False)
            try:
                await self._loop.sock_connect(server, self.target)
                if self._refuse:  # by now: one that came before must not slip through
                    raise ConnectionRefusedError
            except OSError:
                _reset_on_close(client)
            else:
                await self._forward(client, server)

    async def _forward(self, client: socket.socket, server: socket.socket) -> None:
        task = asyncio.current_task()
        assert task is not None
        link = _Link(client, server, task)
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump_requests(link))
                pumps.create_task(self._pump_replies(link))
        except* _Ended:
            pass
        except* OSError:
            link.reset_on_close()
        finally:
            self._links.discard(link)

    async def _pump_requests(self, link: _Link) -> None:
        while True:
            chunk = await self._receive(link, link.client)
            self._hold(link, chunk)
            self._aim(link, chunk)
            self.request_bytes += len(chunk)
            await self._loop.sock_sendall(link.server, chunk)

    async def _pump_replies(self, link: _Link) -> None:
        while True:
            chunk = await self._receive(link, link.server)
            await asyncio.sleep(link.late_until - self._loop.time())
            budget = link.budget
            if budget is not None:
                chunk = chunk[:budget]
                link.budget = budget - len(chunk)
            self.reply_bytes += len(chunk)
            await self._loop.sock_sendall(link.client, chunk)
            if len(chunk) == budget:
                self.cuts += 1
                link.reset_on_close()
                raise _Ended

    async def _receive(self, link: _Link, side: socket.socket) -> bytes:
        while True:
            try:
                chunk = await self._loop.sock_recv(side, _CHUNK)
            except OSError:
                if not self._black_hole:
                    raise
                chunk = b""
            await asyncio.sleep(self._delay)
            if not self._black_hole:
                break
            if not chunk:
                link.half_dead = True  # the other side may not learn of it
                await asyncio.Event().wait()
        if not chunk:
            raise _Ended
        return chunk

    def _hold(self, link: _Link, chunk: bytes) -> None:
        held = next((held for held in self._waiting if held.trigger in chunk), None)
        if held is None:
            return
        self.forget(held)
        held.keep(link.server.dup(), chunk)
        self._kept.append(held)
        _reset_on_close(link.client)
        raise _Ended

    def _aim(self, link: _Link, chunk: bytes) -> None:
        wanted = [*(self._cut or (0, ()))[1], *(self._lag or (0, ()))[1]]
        if not wanted:
            return
        link.seen += chunk
        if self._cut is not None and any(trigger in link.seen for trigger in self._cut[1]):
            link.budget, self._cut = self._cut[0], None
        if self._lag is not None and any(trigger in link.seen for trigger in self._lag[1]):
            link.late_until, self._lag = self._loop.time() + self._lag[0], None
            self.lags += 1
        link.seen = link.seen[-max(map(len, wanted)) :]


def _reset_on_close(side: socket.socket) -> None:
    side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
