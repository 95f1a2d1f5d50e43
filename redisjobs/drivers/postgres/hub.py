"""What all queues of one database share in one event loop: notifications, sent and heard."""

import asyncio
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from redisjobs.drivers.postgres.connection import Connection
from redisjobs.drivers.postgres.ears import Ears
from redisjobs.drivers.postgres.notices import NOTIFY, Notice, Notifier, channel_of
from redisjobs.drivers.postgres.target import Target
from redisjobs.drivers.postgres.wire import value_of
from redisjobs.drivers.postgres.within import Transaction
from redisjobs.drivers.remote.connections import ServerConnections
from redisjobs.drivers.remote.loops import PerLoop
from redisjobs.errors import DriverError
from redisjobs.model.driver import Notification

_BEFORE = 0.2  # seconds for which a listener waits until notifications of before it are sent


class Hub:
    """Sends and hears the notifications of one database in one event loop; `hub_of` returns it."""

    def __init__(self, target: Target) -> None:
        self._connections = ServerConnections(lambda: Connection(target))
        self._notifier = Notifier(self._send)
        self.ears = Ears(target, self._send)
        self._users: weakref.WeakSet[object] = weakref.WeakSet()

    def tell(self, queue: str, notices: Iterable[Notice]) -> None:
        """Send notices about a queue soon."""
        self._notifier.tell(channel_of(queue), notices)

    def tell_after(self, queue: str, transaction: Transaction, notices: Iterable[Notice]) -> None:
        """Send notices about a queue soon after a transaction has ended."""
        is_open = transaction.watch(loosely=True)
        self._notifier.tell_after(transaction.key, is_open, channel_of(queue), notices)

    async def listen(self, queue: str, process: str, on_notification: Callable[[Notification], None]) -> None:
        """Do the same as `Driver.listen`."""
        failed = asyncio.get_running_loop().create_future()

        def hear(notice: Notice) -> None:
            if notice.kind == "ready":  # for those who wait for jobs; see `PostgresConsumer.wait`
                return
            if notice.process == process or notice.kind == "subscribed":
                on_notification(Notification(notice.kind, notice.given))

        def fail(error: DriverError) -> None:
            if not failed.done():
                failed.set_exception(type(error)(*error.args))

        with suppress(TimeoutError):  # a busy process always has something to send
            async with asyncio.timeout(_BEFORE):
                await self._notifier.flush()  # what this process did before is no news
        with self.ears.hearing(channel_of(queue), hear, fail):
            await failed

    def open_for(self, user: object) -> None:
        """Note a user, who calls `aclose_for` at the end."""
        self._users.add(user)

    async def aclose_for(self, user: object) -> None:
        """Send what there is, and close the connections if there is no other user."""
        self._users.discard(user)
        if self._users:
            await self._notifier.flush()
        else:
            await self._notifier.aclose()
            await self._connections.aclose()

    async def _send(self, channels: Sequence[str], payloads: Sequence[str]) -> None:
        connection = self._connections.take()
        try:
            await connection.ask(NOTIFY, (value_of(channels), value_of(payloads)))
        finally:
            await self._connections.put(connection)


_hubs = PerLoop("psycopg", dict[str, Hub])


def hub_of(target: Target) -> Hub:
    """Return the hub of a database in the running event loop."""
    hubs = _hubs.here()
    if target.conninfo not in hubs:
        hubs[target.conninfo] = Hub(target)
    return hubs[target.conninfo]
