"""Hears the notifications of a database, for all who listen or wait in one event loop, over one connection."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from redisjobs.base.logger import Log
from redisjobs.drivers.postgres.connection import Connection
from redisjobs.drivers.postgres.notices import Notice, notices_in
from redisjobs.drivers.postgres.target import Target
from redisjobs.errors import DriverError, Unavailable

logger = Log("redisjobs.model.driver")

Hear = Callable[[Notice], object]
Send = Callable[[Sequence[str], Sequence[str]], Awaitable[object]]

SUBSCRIBED = Notice("", "subscribed", "")

BEAT = 10.0
"""Seconds between two checks whether notifications still come."""

HEARD = 3.0
"""Seconds that the notification of a check may take."""

DEAF = 2.0
"""Seconds between two `subscribed` where notifications don't come: listeners then look for themselves."""

_TRIED_AGAIN = 30  # that many of these come before the next try to listen
_PAUSES = (0.05, 0.2, 1.0, 5.0)  # seconds before the next try after a failure


@dataclass(eq=False, slots=True)
class Listener:
    """Gets the notices on a channel; `failed` is called when the connection is lost."""

    channel: str
    hear: Hear
    failed: Callable[[DriverError], object] | None


class Ears:
    """Hears notifications as long as there are listeners.

    A LISTEN may die without a sign, as when a pooler gives each statement to another session. So each new
    connection, and then every 10 s, has to hear a notification that was sent over another connection.

    Args:
        target: Where the database is.
        send: Sends channels and payloads over another connection.

    Attributes:
        works: Whether notifications come, as far as is known.
    """

    def __init__(self, target: Target, send: Send) -> None:
        self.works = False
        self._where = target.where
        self._send = send
        self._listeners: list[Listener] = []
        self._listens: set[str] = set()  # the channels that the connection listens to
        self._connection = Connection(target)
        self._connection.on_notify = self._notified
        self._connection.on_lost = self._wake
        self._own = f"redisjobs_beat_{secrets.token_hex(8)}"
        self._woken, self._heard = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._has_warned = False

    @contextmanager
    def hearing(
        self, channel: str, hear: Hear, failed: Callable[[DriverError], object] | None = None
    ) -> Iterator[None]:
        """Call `hear` for each notice on a channel, and for `subscribed` once notices come."""
        listener = Listener(channel, hear, failed)
        self._listeners.append(listener)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())
        elif self.works and channel in self._listens:
            hear(SUBSCRIBED)
        self._wake()
        try:
            yield
        finally:
            self._listeners.remove(listener)
            self._wake()
            if not self._listeners and self._task is not None:
                self._task.cancel()
                self._task = None

    def _wake(self) -> None:
        self._woken.set()

    def _notified(self, channel: bytes, payload: bytes) -> None:
        name = channel.decode()
        if name == self._own:
            self._heard.set()
            return
        for notice in notices_in(payload.decode("utf-8", "replace")):
            self._tell(notice, name)

    def _tell(self, notice: Notice, channel: str = "") -> None:
        for listener in list(self._listeners):
            if channel in ("", listener.channel):
                listener.hear(notice)

    async def _run(self) -> None:
        """Listen, and again after each failure, until cancelled."""
        failures = 0
        while True:
            try:
                await self._listen()
            except DriverError as error:
                failures = 0 if self.works else min(failures + 1, len(_PAUSES) - 1)
                for listener in list(self._listeners):
                    if listener.failed is not None:
                        listener.failed(error)
            finally:
                self.works = False
                self._listens.clear()
                await self._connection.aclose()
            await asyncio.sleep(_PAUSES[failures])

    async def _listen(self) -> None:
        """Listen until the connection is lost; where notifications don't come, tell listeners to look.

        A session that others may have, too, does not listen: it would go on after this connection, and tell them.
        """
        is_shared = await self._connection.is_shared()
        if not is_shared:
            await self._connection.ask(b"listen " + self._own.encode())
        if is_shared or not await self._hears():
            await self._be_deaf()
            return
        self.works = True
        beat = asyncio.get_running_loop().time() + BEAT
        while True:
            self._woken.clear()
            await self._follow()
            try:
                async with asyncio.timeout_at(beat):
                    await self._woken.wait()
            except TimeoutError:
                if not await self._hears():
                    raise Unavailable("notifications don't come any more") from None
                beat = asyncio.get_running_loop().time() + BEAT

    async def _hears(self) -> bool:
        """Return whether a notification comes that is sent now."""
        self._heard.clear()
        await self._send([self._own], [""])
        try:
            async with asyncio.timeout(HEARD):
                await self._heard.wait()
        except TimeoutError:
            return False
        return True

    async def _follow(self) -> None:
        """Listen to the channels of all listeners, and to no others."""
        if self._connection.failure is not None:
            raise self._connection.failure
        wanted = {each.channel for each in self._listeners}
        for channel in self._listens - wanted:
            self._listens.discard(channel)
            await self._connection.ask(b"unlisten " + channel.encode())
        for channel in wanted - self._listens:
            await self._connection.ask(b"listen " + channel.encode())
            self._listens.add(channel)
            self._tell(SUBSCRIBED, channel)

    async def _be_deaf(self) -> None:
        await self._connection.aclose()
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "notifications of %s don't come, as behind a pooler: this process looks for jobs about every "
                "second; for less delay give the URL of the database itself",
                self._where,
            )
        for _ in range(_TRIED_AGAIN):
            self._tell(SUBSCRIBED)
            await asyncio.sleep(DEAF)
