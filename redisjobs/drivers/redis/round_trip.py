"""What the async and the sync connection share: packing of commands, the server's clock, and time limits."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from hiredis import pack_command

from redisjobs.base.logger import Log
from redisjobs.drivers.redis.commands import Command
from redisjobs.drivers.redis.locator import Address
from redisjobs.drivers.redis.target import Target
from redisjobs.drivers.redis.wire import Wire, Word
from redisjobs.errors import Unavailable

logger = Log("redisjobs.model.driver")

_pack: Callable[[tuple[Word, ...]], bytes] = pack_command  # type: ignore[assignment]  # typed for one word only

CLOCK_KEPT = 60.0
"""Seconds after which we no longer trust what we know of the server's clock: it may have been set, or drift."""

QUESTION = 1.0
"""Seconds without an answer after which a search asks another server."""


def packed(wires: Sequence[Wire]) -> bytes:
    """Return commands as bytes to send; redis-py's own packer takes four times as long."""
    if len(wires) == 1:
        return _pack(tuple(wires[0]))
    return b"".join([_pack(tuple(wire)) for wire in wires])


class ServerClock:
    """The server's clock, estimated from its last answer. It is ahead only if that clock was set back since."""

    def __init__(self) -> None:
        self._server_ms: float | None = None
        self._heard = 0.0

    @property
    def now_ms(self) -> float | None:
        """The server's time, or a little earlier; None if no answer of the last minute gave the time."""
        since = time.monotonic() - self._heard
        return None if self._server_ms is None or since > CLOCK_KEPT else self._server_ms + since * 1000

    def record(self, server_ms: float) -> None:
        self._server_ms, self._heard = server_ms, time.monotonic()

    def forget(self) -> None:
        self._server_ms = None


def was_replaced(address: Address | None) -> Unavailable:
    """Return the error for an answer that came when another server had taken over."""
    return Unavailable(f"another server has taken over from {address}, so its answer does not count")


def warn(target: Target, met: Sequence[str]) -> None:
    """Log the warning that `Commands.first_checks` returned, once for each server."""
    for warning in target.once(met[-1]):
        logger.warning("%s", warning)


def parsed_all(commands: Sequence[Command[Any]], replies: Sequence[Any]) -> list[Any] | None:
    """Return the parsed replies; None if one command failed."""
    for reply in replies:
        if isinstance(reply, Exception):
            return None
    return [command.parse(reply) for command, reply in zip(commands, replies, strict=True)]


def time_left(until: float, most: float) -> float:
    """Return how many seconds a step may take, at most `most`; raise Unavailable after the deadline."""
    left = until - time.monotonic()
    if left <= 0:
        raise Unavailable("the deadline is over")
    return min(left, most)
