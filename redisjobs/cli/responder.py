"""Answers `GET` by HTTP, for whoever runs the process: probes, and who collects metrics.

One thread with an event loop of its own answers them all, also while the worker's loop is blocked. What clients
can make it keep is bounded: so many connections, each for so long.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

from redisjobs.cli.errors import Mistake

_WITHIN = 5.0  # seconds that a client has to ask and to take the answer
_MOST = 64  # connections at once: one more ends the oldest, which had its time to ask
_LONGEST = 8192  # bytes of a request, and of a line in it


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said to a `GET`.

    Attributes:
        status: Of HTTP.
        body: The text.
        content_type: Of that.
    """

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


Pages = Mapping[str, Callable[[], Answer]]
"""What there is by its path, and what makes the answer; nothing else is answered meanwhile."""


def serve(option: str, where: str, pages: Pages) -> None:
    """Listen at HOST:PORT, in a thread.

    Args:
        option: The option of the command that says where, for messages.
        where: HOST:PORT.
        pages: What is asked for.

    Raises:
        Mistake: That is no address, or not ours to listen at.
    """
    host, colon, port = where.rpartition(":")
    if not (colon and port.isdecimal() and int(port) < 2**16):
        raise Mistake(f"{option} {where!r} is not HOST:PORT, as in 127.0.0.1:8080")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = family is socket.AF_INET6 and socket.has_dualstack_ipv6()
    try:
        listener = socket.create_server((host.strip("[]"), int(port)), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise Mistake(f"can't listen at {option} {where}: {error}") from error
    responder = _Responder(pages)
    threading.Thread(
        target=lambda: asyncio.run(responder.serve(listener)), name=f"redisjobs {option}", daemon=True
    ).start()


class _Responder:
    def __init__(self, pages: Pages) -> None:
        self._pages = pages
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
                    writer.write(_response(asked, self._pages))
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


def _response(request: bytes, pages: Pages) -> bytes:
    method, _, rest = request.strip().partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0].decode("latin-1")
    there = " and ".join(pages)
    if method not in (b"GET", b"HEAD"):
        answer = Answer(HTTPStatus.METHOD_NOT_ALLOWED, f"GET {there}\n".encode())
    elif path not in pages:
        answer = Answer(HTTPStatus.NOT_FOUND, f"there {'is' if len(pages) == 1 else 'are'} {there}\n".encode())
    else:
        answer = pages[path]()
    head = (
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\n"
        f"Content-Type: {answer.content_type}\r\n"
        f"Content-Length: {len(answer.body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + (b"" if method == b"HEAD" else answer.body)
