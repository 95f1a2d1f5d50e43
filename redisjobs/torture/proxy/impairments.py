"""What a proxy is told to break, and has not broken yet."""

import socket
from contextlib import suppress
from dataclasses import dataclass, field

_ANSWER = 2.0  # seconds that a server may take to answer what was held
_CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Aimed:
    """What strikes, once, the next connection to send one of some triggers.

    Attributes:
        triggers: What the request contains one of.
    """

    triggers: tuple[bytes, ...]

    def is_due(self, sent: bytes) -> bool:
        """Whether one of them was sent."""
        return any(trigger in sent for trigger in self.triggers)


@dataclass(frozen=True, slots=True)
class Cut(Aimed):
    """A reset.

    Attributes:
        after: How many bytes of reply the client still gets.
    """

    after: int


@dataclass(frozen=True, slots=True)
class Lag(Aimed):
    """A delay.

    Attributes:
        seconds: How long what the server sends is held back.
    """

    seconds: float


class Held:
    """What a proxy holds back of one connection, once its client has sent what is waited for.

    Args:
        triggers: What one of is waited for.

    Attributes:
        bytes: How many bytes it has of it; 0 if nothing was caught so far.
    """

    def __init__(self, *triggers: bytes) -> None:
        self.bytes = 0
        self._triggers = triggers
        self._waits = True
        self._kept: tuple[socket.socket, bytes] | None = None

    def wants(self, chunk: bytes) -> bool:
        """Whether these bytes are what it still waits for."""
        return self._waits and any(trigger in chunk for trigger in self._triggers)

    def keep(self, server: socket.socket, chunk: bytes) -> None:
        """Take bytes that are to go to a server, and the connection they are to go over; no more after them."""
        self._waits = False
        self._kept, self.bytes = (server, chunk), len(chunk)

    def release(self) -> None:
        """Let them arrive, wait until the server has read them, and close the connection; again is nothing.

        What is not caught by now is no longer waited for.
        """
        self._waits = False
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


@dataclass(slots=True)
class Impairments:
    """What is in force for all connections of a proxy, and what waits for one of them.

    Attributes:
        black_hole: Whether everything is swallowed.
        refuse: Whether new connections are reset.
        delay: Seconds that every chunk is held back.
        cut: Waits for its connection; None for none.
        lag: The same.
        holds: All that were asked for, also those that wait no longer.
    """

    black_hole: bool = False
    refuse: bool = False
    delay: float = 0.0
    cut: Cut | None = None
    lag: Lag | None = None
    holds: list[Held] = field(default_factory=list)

    @property
    def triggers(self) -> list[bytes]:
        """What the cut and the lag wait for."""
        return [trigger for aimed in (self.cut, self.lag) if aimed is not None for trigger in aimed.triggers]

    def wanted_by(self, chunk: bytes) -> Held | None:
        """Who waits for these bytes to hold them back, if anybody does."""
        return next((held for held in self.holds if held.wants(chunk)), None)
