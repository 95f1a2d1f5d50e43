"""Sets up the torture's server: a new one or the user's, with two databases, and proxies in front of it."""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from urllib.parse import urlsplit

from redisjobs import server
from redisjobs.base.visible import without_password
from redisjobs.drivers.redis.target import Target
from redisjobs.errors import DriverError
from redisjobs.torture.fleet.store import Store, through
from redisjobs.torture.proxy import Proxy


class Place:
    """The server of a torture, its databases, and the proxies in front of it.

    Attributes:
        own: The server, if we started it, so that faults may break it; else None.
        workers: The proxy between workers and server; None if a proxy is not possible.
        producers: The proxy between producers and server; None if a proxy is not possible.
        stores: The queue in each database.
    """

    def __init__(
        self,
        urls: list[str],
        description: str,
        own: server.Server | None,
        workers: Proxy | None,
        producers: Proxy | None,
    ) -> None:
        self.description, self.own = description, own
        self.workers, self.producers = workers, producers
        self.queue = f"torture-{secrets.token_hex(4)}"
        self.stores = [Store(url, self.queue, db) for db, url in enumerate(urls)]

    def urls(self, proxy: Proxy | None) -> list[str]:
        """Return the URL of the queue in each database, by way of a proxy."""
        return [through(store.url, proxy.port) if proxy else store.url for store in self.stores]

    def aside(self, name: str) -> Store:
        """Return another queue in the last of the databases."""
        last = self.stores[-1]
        return Store(last.url, f"{self.queue}-{name}", 0)


def check_url(url: str) -> None:
    """Raise ValueError if this is not the URL of a server."""
    try:
        Target(url)
    except ValueError as error:
        raise ValueError(f"{without_password(url)!r}: {error}") from error


@contextmanager
def place(url: str) -> Iterator[Place]:
    """Set up a place for the torture, and remove it afterwards: a new server, or a queue on the user's server."""
    with ExitStack() as stack:
        own = None
        if not url:
            # Redis writes to disk before it acknowledges, so a kill must not lose an acknowledged write.
            own = stack.enter_context(server.start(options=("--appendfsync", "always")))
        there = own.url if own else url
        parts = urlsplit(there)
        target = (parts.hostname or server.HOST, parts.port or 6379)
        proxies: list[Proxy | None] = [None, None]
        if parts.scheme == "redis":
            proxies = [stack.enter_context(Proxy(*target)) for _ in range(2)]
        description = f"{own.description}, {there}" if own else without_password(there)
        found = Place(databases_of(there), description, own, *proxies)
        try:
            found.stores[0].counts()  # raises if the server does not answer
            _leave_out_what_is_not_there(found)
            yield found
        finally:
            for store in found.stores:
                if own is None:
                    with suppress(DriverError):
                        store.remove()
                store.close()


def databases_of(url: str) -> list[str]:
    """Return a URL, and the URL of a second database, if databases of this URL have numbers."""
    parts = urlsplit(url)
    number = parts.path.strip("/")
    if parts.scheme not in ("redis", "rediss") or (number and not number.isdigit()):
        return [url]
    return [url, parts._replace(path="/1" if int(number or 0) == 0 else "/0").geturl()]


def _leave_out_what_is_not_there(place: Place) -> None:
    """Drop databases that don't answer: a cluster has only one, and a user may lack access to others."""
    for store in place.stores[1:]:
        try:
            store.counts()
        except DriverError:
            store.close()
            place.stores.remove(store)
            place.description += " (one database)"
