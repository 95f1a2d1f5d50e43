"""The impairments that a proxy is to cause: those for all connections, and those that wait for one."""

import socket
from contextlib import suppress
from dataclasses import dataclass, field

_ANSWER = 2.0  # seconds that a server may take to answer a held packet
_CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Cut:
    """A reset of the next connection to send one of the triggers, after some bytes of reply."""

    triggers: tuple[bytes, ...]
    after: int


@dataclass(frozen=True, slots=True)
class Lag:
    """A delay, in seconds, of the replies to the next connection to send one of the triggers."""

    triggers: tuple[bytes, ...]
    seconds: float


class Held:
    """A packet that a proxy holds back, once a client has sent one with one of the triggers.

    Attributes:
        bytes: Its length; 0 as long as none was caught.
    """

    def __init__(self, *triggers: bytes) -> None:
        self.bytes = 0
        self._triggers = triggers
        self._waits = True
        self._kept: tuple[socket.socket, bytes] | None = None

    def wants(self, chunk: bytes) -> bool:
        """Whether it waits for these bytes."""
        return self._waits and any(trigger in chunk for trigger in self._triggers)

    def keep(self, server: socket.socket, chunk: bytes) -> None:
        """Keep a packet on its way to a server, and the connection to send it over; keep no further packet."""
        self._waits = False
        self._kept, self.bytes = (server, chunk), len(chunk)

    def release(self) -> None:
        """Send the packet, wait until the server has read it, and close the connection; catch no other packet."""
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
        """Drop the packet, without sending it."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept[0].close()


@dataclass(slots=True)
class Impairments:
    """The impairments that are in force for all connections of a proxy, and those that wait for one connection.

    Attributes:
        black_hole: Whether the proxy swallows all bytes.
        refuse: Whether new connections are reset.
        delay: Seconds by which every chunk is delayed.
        holds: All holds that were asked for, even those that no longer wait.
    """

    black_hole: bool = False
    refuse: bool = False
    delay: float = 0.0
    cut: Cut | None = None
    lag: Lag | None = None
    holds: list[Held] = field(default_factory=list)

    @property
    def triggers(self) -> list[bytes]:
        """The triggers of the cut and the lag."""
        return [trigger for aimed in (self.cut, self.lag) if aimed is not None for trigger in aimed.triggers]

    def wanted_by(self, chunk: bytes) -> Held | None:
        """Return the hold that waits for these bytes; None if there is none."""
        return next((held for held in self.holds if held.wants(chunk)), None)
