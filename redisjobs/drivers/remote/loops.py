"""What each event loop has of its own, such as connections."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from redisjobs.errors import DriverError

V = TypeVar("V")


def need_asyncio(client: str) -> asyncio.AbstractEventLoop:
    """Return the running event loop; raise DriverError if it is trio's. `client` is the library that needs it."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise DriverError(
            f"{client} needs asyncio; on trio only memory:// works: run this on asyncio, which is anyio's "
            "default, or push from a thread by redisjobs.sync"
        ) from None


class PerLoop(Generic[V]):
    """A value for each event loop, made when it is first asked for there.

    A connection belongs to one event loop, and a program may run several loops, in turn or in several threads.
    `client` is as for `need_asyncio`.
    """

    def __init__(self, client: str, make: Callable[[], V]) -> None:
        self._client, self._make = client, make
        self._values: dict[asyncio.AbstractEventLoop, V] = {}

    def here(self) -> V:
        """Return the value for the running event loop."""
        loop = need_asyncio(self._client)
        found = self._values.get(loop)
        return self._made(loop) if found is None else found

    def _made(self, loop: asyncio.AbstractEventLoop) -> V:
        for ended in [other for other in list(self._values) if other.is_closed()]:
            self._values.pop(ended, None)  # another thread may have removed it
        made = self._values[loop] = self._make()
        return made
