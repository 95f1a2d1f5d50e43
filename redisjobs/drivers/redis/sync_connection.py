"""A sync connection to a server: it sends commands and receives the replies; see `connection.py`."""

import math
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeVar

import redis

from redisjobs.drivers.redis.commands import Command, Commands, run_steps_sync, value_of
from redisjobs.drivers.redis.locator import Address, Question
from redisjobs.drivers.redis.replies import reader_of
from redisjobs.drivers.redis.round_trip import QUESTION, packed, parsed_all, warn, was_replaced
from redisjobs.drivers.redis.target import Target
from redisjobs.drivers.redis.wire import Wire
from redisjobs.drivers.remote.clock import ServerClock, time_left
from redisjobs.errors import DriverError, Unavailable

T = TypeVar("T")

_CHUNK = 64 * 1024  # bytes read at once


class SyncConnection:
    """One sync connection, opened when first used and again after a failure. For one thread; see `Connection`."""

    def __init__(
        self, commands: Commands, target: Target, timeout: float | None = None, *, checks_server: bool = False
    ) -> None:
        self.clock = ServerClock()
        self.address: Address | None = None
        self._commands = commands
        self._target = target
        self._given_timeout = timeout
        self._timeout = timeout or target.answer
        self._late = math.inf
        self._checks_server = checks_server
        self._connection: Any = None
        self._replies: Any = None
        self._is_asking = False

    def run(self, command: Command[T], until: float = math.inf) -> T:
        # Not `run_all`: each push runs this code.
        replies = self._round_trip((command.wire,), until)
        if not isinstance(replies[0], Exception):
            return command.parse(replies[0])
        (value,) = self._heal((command,), replies, until)
        return value  # type: ignore[no-any-return]

    def run_all(self, commands: Sequence[Command[Any]], until: float = math.inf) -> list[Any]:
        replies = self._round_trip([command.wire for command in commands], until)
        parsed = parsed_all(commands, replies)
        return self._heal(commands, replies, until) if parsed is None else parsed

    def _heal(self, commands: Sequence[Command[Any]], replies: list[Any], until: float) -> list[Any]:
        try:
            return run_steps_sync(self._commands.healing(commands, replies), self._round_trip, until)
        except Unavailable as error:
            self._fail(error)
            raise

    def _round_trip(self, wires: Sequence[Wire], until: float) -> list[Any]:
        if self._is_asking:  # an exception like Ctrl-C ended the last round trip: its reply may still come
            self.close()
        self._is_asking = True
        try:
            if self._connection is None:
                self._open(until)
            asked_at = time.monotonic()
            replies = self._ask(wires, until)
            if time.monotonic() - asked_at > self._late:
                self._check_server(until)
        except Unavailable as error:  # of the checks of a new connection
            self._fail(error)
            raise
        except (redis.RedisError, OSError) as error:
            self._fail(error)
            raise self._target.translate(error) from error
        self._is_asking = False
        return replies

    def _fail(self, error: Exception) -> None:
        self.close()
        self._target.doubt(self.address, error)

    def _open(self, until: float) -> None:
        self._timeout, self._late = self._given_timeout or self._target.answer, self._target.late
        self.address = self._find(until)
        self._connection = self._target.sync_connection(self.address, time_left(until, self._timeout))
        began = time.monotonic()
        self._connection.connect()
        self._replies = reader_of(self._connection)
        self._target.opened(self)
        if self._checks_server:  # if this raises, `_is_asking` makes the next call open the connection again
            commands = self._commands.first_checks()
            replies = self._ask([command.wire for command in commands], until)
            warn(self._target, [value_of(*each) for each in zip(commands, replies, strict=True)])
        if time.monotonic() - began > self._late:
            self._check_server(until)

    def _find(self, until: float) -> Address | None:
        """Return where the server is; ask for it if that is not known."""
        known = self._target.locator.known  # read once: another thread may doubt it meanwhile
        if known is not None:
            return known
        return run_steps_sync(self._target.search(), self._ask_another, until)

    def _check_server(self, until: float) -> None:
        """Do the same as `Connection.check_server`."""
        late = was_replaced(self.address)
        self._target.doubt(self.address, late)
        try:
            found = self._find(until)
        except DriverError as error:
            raise Unavailable(str(error)) from error
        if found != self.address:
            raise late

    def _ask_another(self, question: Question, until: float) -> Sequence[Any] | Exception:
        """Ask a server over a connection for this only; return the replies, or the error if there were none."""
        left = time_left(until, QUESTION)
        until = time.monotonic() + left
        connection = self._target.sync_connection(question.address, left, is_sentinel=question.is_sentinel)
        try:
            connection.connect()
            return self._exchange(connection._sock, reader_of(connection), question.wires, until)
        except (redis.RedisError, OSError, Unavailable) as error:
            return error
        finally:
            with suppress(redis.RedisError, OSError):
                connection.disconnect()

    def end(self) -> None:
        """Close the connection from any thread; the call that waits fails."""
        sock = getattr(self._connection, "_sock", None)
        if sock is not None:
            with suppress(OSError):
                # Not by SSLSocket's own: it drops TLS first, and the other thread might send in plain text.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _ask(self, wires: Sequence[Wire], until: float) -> list[Any]:
        return self._exchange(self._connection._sock, self._replies, wires, until)

    def _exchange(self, sock: socket.socket, reader: Any, wires: Sequence[Wire], until: float) -> list[Any]:
        replies: list[Any] = []
        sock.settimeout(time_left(until, self._timeout))
        sock.sendall(packed(wires))
        while len(replies) < len(wires):
            sock.settimeout(time_left(until, self._timeout))
            chunk = sock.recv(_CHUNK)
            if not chunk:
                raise ConnectionError("the server closed the connection")
            reader.feed(chunk)
            while (reply := reader.gets()) is not False:
                replies.append(reply)
        if len(replies) > len(wires):
            raise ConnectionError("the server gave more replies than it was asked for")
        return replies

    def close(self) -> None:
        self.clock.forget()
        connection, self._connection = self._connection, None
        self._target.closed(self)
        if connection is not None:
            with suppress(redis.RedisError, OSError):
                connection.disconnect()
