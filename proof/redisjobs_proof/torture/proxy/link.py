"""One connection through a proxy."""

import asyncio
import socket
import struct

from redisjobs_proof.torture.proxy.impairments import Impairments

_CHUNK = 64 * 1024


class Counters:
    """Counts of a proxy's connections.

    Attributes:
        connections: Accepted, including refused ones.
        request_bytes: Bytes forwarded to the server.
        reply_bytes: Bytes forwarded to clients.
        cuts: How often `cut_after_reply_bytes` struck.
        lags: How often `delay_reply` struck.
    """

    def __init__(self) -> None:
        self.connections = self.request_bytes = self.reply_bytes = self.cuts = self.lags = 0


class _Ended(Exception):
    """One side has ended; it stops the other side's pump."""


class Link:
    """A client's connection, and the connection to the server for it; for the loop's thread only.

    The task that makes it forwards the bytes.

    Attributes:
        half_dead: Whether one side has ended in a black hole, unknown to the other.
    """

    def __init__(
        self, counters: Counters, impairments: Impairments, client: socket.socket, server: socket.socket
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task, self.half_dead = task, False
        self._counters, self._impairments = counters, impairments
        self._client, self._server = client, server
        self._loop = asyncio.get_running_loop()
        self._budget: int | None = None  # bytes of reply until the reset; None for no reset
        self._late_until = 0.0  # by the loop's clock: replies are held back until then
        self._seen = b""  # the end of the requests since a trigger was set

    def look_again(self) -> None:
        """Look for triggers only in bytes that are sent from now on."""
        self._seen = b""

    def spare(self) -> None:
        """Take back a cut that was to come after some more bytes."""
        self._budget = None

    def drop(self) -> None:
        """Cancel the task, and reset both sides as it ends."""
        self._reset_on_close()
        self.task.cancel()

    async def forward(self) -> None:
        """Forward in both directions until one side ends or is broken."""
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump_requests())
                pumps.create_task(self._pump_replies())
        except* _Ended:
            pass
        except* OSError:
            self._reset_on_close()

    async def _pump_requests(self) -> None:
        while True:
            chunk = await self._receive(self._client)
            self._hold(chunk)
            self._aim(chunk)
            self._counters.request_bytes += len(chunk)
            await self._loop.sock_sendall(self._server, chunk)

    async def _pump_replies(self) -> None:
        while True:
            chunk = await self._receive(self._server)
            await asyncio.sleep(self._late_until - self._loop.time())
            budget = self._budget
            if budget is not None:
                chunk = chunk[:budget]
                self._budget = budget - len(chunk)
            self._counters.reply_bytes += len(chunk)
            await self._loop.sock_sendall(self._client, chunk)
            if len(chunk) == budget:
                self._counters.cuts += 1
                self._reset_on_close()
                raise _Ended

    async def _receive(self, side: socket.socket) -> bytes:
        while True:
            try:
                chunk = await self._loop.sock_recv(side, _CHUNK)
            except OSError:
                if not self._impairments.black_hole:
                    raise
                chunk = b""
            await asyncio.sleep(self._impairments.delay)
            if not self._impairments.black_hole:
                break
            if not chunk:
                self.half_dead = True
                await asyncio.Event().wait()
        if not chunk:
            raise _Ended
        return chunk

    def _hold(self, chunk: bytes) -> None:
        """Hold a request back if a hold waits for it, and reset its client."""
        held = self._impairments.wanted_by(chunk)
        if held is not None:
            held.keep(self._server.dup(), chunk)
            reset_on_close(self._client)
            raise _Ended

    def _aim(self, chunk: bytes) -> None:
        """Apply the cut and the lag to this connection, if a request contains their trigger."""
        impairments, triggers = self._impairments, self._impairments.triggers
        if not triggers:
            return
        self._seen += chunk
        if impairments.cut is not None and self._has_seen(impairments.cut.triggers):
            self._budget, impairments.cut = impairments.cut.after, None
        if impairments.lag is not None and self._has_seen(impairments.lag.triggers):
            self._late_until, impairments.lag = self._loop.time() + impairments.lag.seconds, None
            self._counters.lags += 1
        self._seen = self._seen[-max(map(len, triggers)) :]

    def _has_seen(self, triggers: tuple[bytes, ...]) -> bool:
        return any(trigger in self._seen for trigger in triggers)

    def _reset_on_close(self) -> None:
        for side in (self._client, self._server):
            reset_on_close(side)


def reset_on_close(side: socket.socket) -> None:
    """Let a socket end with a TCP RST instead of an orderly end."""
    side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
