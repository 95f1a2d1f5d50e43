"""Notifications: how a worker hears at once of what it would else learn with its next claim or its next beat.

Anybody may write to the channel, so what it says is a hint, never the truth: that is in a key.
"""

import re
from typing import Protocol

from redisjobs.backoff import retrying
from redisjobs.driver import Consumer, Notification

_TIME = re.compile("[0-9]{1,15}")  # ms


class Owner(Protocol):
    """Whoever the notifications are for."""

    def listening(self) -> None:
        """Listening begins: what was said before was missed."""

    def released(self) -> None:
        """Jobs were handed back, it is said: only a claim takes them."""

    def due(self, due_ms: int) -> None:
        """A delayed job is due at that time of the server's clock, it is said."""

    def cancelled(self, job_id: str) -> None:
        """A job is cancelled, it is said."""


class Subscriber:
    """Listens, on a connection of its own, and again when that breaks.

    Args:
        consumer: The worker's side of the store.
        owner: Who is told.
    """

    def __init__(self, consumer: Consumer, owner: Owner) -> None:
        self._consumer = consumer
        self._owner = owner

    async def run(self) -> None:
        """Listen until cancelled."""
        while True:  # also where a handler has cancelled a task of the driver's, and the listening ended in order
            await retrying(self._listen)

    async def _listen(self) -> None:
        await self._consumer.listen(self._heard)

    def _heard(self, notification: Notification) -> None:
        match notification.kind:
            case "cancel":
                self._owner.cancelled(notification.value)
            case "released":
                self._owner.released()
            case "due" if _TIME.fullmatch(notification.value):
                self._owner.due(int(notification.value))
            case "subscribed":
                self._owner.listening()
