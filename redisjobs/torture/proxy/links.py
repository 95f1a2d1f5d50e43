"""All connections through a proxy."""

import asyncio
import socket

from redisjobs.torture.proxy.impairments import Cut, Impairments, Lag
from redisjobs.torture.proxy.link import Counters, Link, reset_on_close


class Links:
    """All connections through a proxy, for the loop's thread only: so they need no lock.

    Args:
        counters: Where they count.
        impairments: What may be broken.
        target: Host and port of the server.
    """

    def __init__(self, counters: Counters, impairments: Impairments, target: tuple[str, int]) -> None:
        self._counters, self._impairments, self.target = counters, impairments, target
        self._links: set[Link] = set()

    def count(self) -> None:
        """Note that a client has come."""
        self._counters.connections += 1

    async def handle(self, client: socket.socket) -> None:
        """Connect a client to the server, and forward until one side ends."""
        with socket.socket() as server:
            server.setblocking(False)
            try:
                await asyncio.get_running_loop().sock_connect(server, self.target)
                if self._impairments.refuse:  # by now: one that came before must not slip through
                    raise ConnectionRefusedError
            except OSError:
                reset_on_close(client)
            else:
                await self._forward(Link(self._counters, self._impairments, client, server))

    async def _forward(self, link: Link) -> None:
        self._links.add(link)
        try:
            await link.forward()
        finally:
            self._links.discard(link)

    async def set_cut(self, cut: Cut) -> None:
        """Cut the next connection that sends one of the triggers from now on."""
        self._impairments.cut = cut
        self._look_anew()

    async def cut_no_more(self) -> None:
        """Take that back, also where the trigger was sent and the bytes are not over yet."""
        self._impairments.cut = None
        for link in self._links:
            link.spare()

    async def set_lag(self, lag: Lag | None) -> None:
        """Delay the next connection that sends one of the triggers from now on; None for no other one."""
        self._impairments.lag = lag
        self._look_anew()

    def _look_anew(self) -> None:
        for link in self._links:
            link.look_anew()

    async def drop(self, *, half_dead_only: bool) -> int:
        """Reset connections; returns how many."""
        links = [link for link in self._links if link.half_dead or not half_dead_only]
        for link in links:
            link.drop()
        await asyncio.gather(*(link.task for link in links), return_exceptions=True)
        return len(links)
