"""What the async and the sync connection share: packing of commands, and what they log."""

from collections.abc import Callable, Sequence
from typing import Any

from hiredis import pack_command

from redisjobs.base.logger import Log
from redisjobs.drivers.redis.commands import Command
from redisjobs.drivers.redis.locator import Address
from redisjobs.drivers.redis.target import Target
from redisjobs.drivers.redis.wire import Wire, Word, raw_word
from redisjobs.errors import Unavailable

logger = Log("redisjobs.model.driver")

_pack: Callable[[tuple[Word, ...]], bytes] = pack_command  # type: ignore[assignment]  # typed for one word only

QUESTION = 1.0
"""Seconds without an answer after which a search asks another server."""


def packed(wires: Sequence[Wire]) -> bytes:
    """Return commands as bytes to send; redis-py's own packer takes four times as long."""
    try:
        if len(wires) == 1:
            return _pack(tuple(wires[0]))
        return b"".join([_pack(tuple(wire)) for wire in wires])
    except UnicodeEncodeError:  # a text that came from Redis and is no UTF-8: it goes as the bytes that came
        return b"".join([_pack(tuple(map(raw_word, wire))) for wire in wires])


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
