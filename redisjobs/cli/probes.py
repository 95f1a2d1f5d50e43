"""Answers the probes of whoever runs the process: `GET /livez` and `GET /readyz`.

One thread with an event loop of its own answers them all, also while the worker's loop is blocked. What clients
can make it keep is bounded: so many connections, each for so long.
"""

import asyncio
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus

from redisjobs.cli.errors import Mistake
from redisjobs.worker.health import Health

_WITHIN = 5.0  # seconds that a client has to ask and to take the answer
_MOST = 64  # connections at once: one more ends the oldest, which had its time to ask
_LONGEST = 8192  # bytes of a request, and of a line in it


def serve(where: str, health: Callable[[], Health]) -> None:
    """Listen at HOST:PORT, in a thread.

    Raises:
        Mistake: That is no address, or not ours to listen at.
    """
    host, colon, port = where.rpartition(":")
    if not (colon and port.isdecimal() and int(port) < 2**16):
        raise Mistake(f"--health {where!r} is not HOST:PORT, as in 127.0.0.1:8080")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = family is socket.AF_INET6 and socket.has_dualstack_ipv6()
    try:
        listener = socket.create_server((host.strip("[]"), int(port)), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise Mistake(f"can't listen at --health {where}: {error}") from error
    probes = _Probes(health)
    threading.Thread(
        target=lambda: asyncio.run(probes.serve(listener)), name="redisjobs probes", daemon=True
    ).start()


class _Probes:
    def __init__(self, health: Callable[[], Health]) -> None:
        self._health = health
        self._clients: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}  # the oldest first

    async def serve(self, listener: socket.socket) -> None:
        # With a short queue the kernel drops who comes while this thread waits its turn, and a second goes by.
        queue = socket.SOMAXCONN
        async with await asyncio.start_server(self._take, sock=listener, limit=_LONGEST, backlog=queue) as server:
            await server.serve_forever()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients[writer] = task
        if len(self._clients) > _MOST:
            self._clients.pop(next(iter(self._clients))).cancel()
        try:
            async with asyncio.timeout(_WITHIN):
                if asked := await _request(reader):
                    writer.write(_answer(asked, self._health()))
                    await writer.drain()
        except (OSError, ValueError, asyncio.CancelledError):  # too slow, too long, gone, or one too many
            pass
        finally:
            self._clients.pop(writer, None)
            writer.close()


async def _request(reader: asyncio.StreamReader) -> bytes:
    """The first line of a request, once all of its head is there; b'' if it is not or too long."""
    first = line = await reader.readline()
    size = len(first)
    while line.strip() and size <= _LONGEST:  # unread bytes would reset the connection, and the answer be lost
        line = await reader.readline()
        size += len(line)
    return first if line.endswith(b"\n") and not line.strip() else b""


def _answer(request: bytes, now: Health) -> bytes:
    method, _, rest = request.strip().partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    good = {b"/livez": now.live, b"/readyz": now.ready}.get(path)
    if method not in (b"GET", b"HEAD"):
        status, text = HTTPStatus.METHOD_NOT_ALLOWED, "GET /livez and /readyz\n"
    elif good is None:
        status, text = HTTPStatus.NOT_FOUND, "there are /livez and /readyz\n"
    else:
        status, text = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE, f"{now.why}\n"
    body = text.encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + (b"" if method == b"HEAD" else body)
