"""A small HTTP server for probes and for Prometheus; it only answers GET.

It runs in a thread with its own event loop, so it answers even while a handler blocks the worker's loop. The
number of connections, and the time of each, are limited.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

from redisjobs.cli.errors import Mistake

_WITHIN = 5.0  # seconds for a client to send the request and read the answer
_MOST = 64  # connections at once; one more closes the oldest
_LONGEST = 8192  # the most bytes of a request, and of a line in it


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a `GET`."""

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


Pages = Mapping[str, Callable[[], Answer]]
"""A function for each path that returns the answer. It must be fast: it blocks all other requests."""


def serve(option: str, where: str, pages: Pages) -> None:
    """Serve the pages at `where`, HOST:PORT, in a thread; `option` is the name of the option in error messages.

    Raises:
        Mistake: `where` is no address, or the server can't listen there.
    """
    listener = listen(option, where)
    responder = _Responder(pages)
    threading.Thread(
        target=lambda: asyncio.run(responder.serve(listener)), name=f"redisjobs {option}", daemon=True
    ).start()


def listen(option: str, where: str) -> socket.socket:
    """Return a socket that listens at `where`, HOST:PORT; `option` is the name of the option in error messages.

    Raises:
        Mistake: `where` is no address, or this process can't listen there.
    """
    host, colon, port = where.rpartition(":")
    if not (colon and port.isdecimal() and int(port) < 2**16):
        raise Mistake(f"{option} {where!r} is not HOST:PORT, as in 127.0.0.1:8080")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = family is socket.AF_INET6 and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((host.strip("[]"), int(port)), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise Mistake(f"can't listen at {option} {where}: {error}") from error


class _Responder:
    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._clients: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}  # the oldest first

    async def serve(self, listener: socket.socket) -> None:
        # If the queue is short, the kernel drops connections while this thread is busy; each retry costs a second.
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
        except (OSError, ValueError, asyncio.CancelledError):  # too slow, too long, closed, or too many clients
            pass
        finally:
            self._clients.pop(writer, None)
            writer.close()


async def _request(reader: asyncio.StreamReader) -> bytes:
    """Read the whole head of a request, and return its first line; b'' if the head is incomplete or too long."""
    first = line = await reader.readline()
    size = len(first)
    while line.strip() and size <= _LONGEST:  # unread bytes would reset the connection before the answer arrives
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
