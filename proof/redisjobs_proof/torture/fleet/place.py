"""Sets up the torture's server: a new one or the user's, with two databases, and proxies in front of it.

Or several servers that work together, with proxies in front of each.
"""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from redisjobs.base.visible import without_password
from redisjobs.drivers.redis.target import Target
from redisjobs.errors import DriverError
from redisjobs.local import server
from redisjobs_proof.torture.fleet import detour
from redisjobs_proof.torture.fleet.detour import Front
from redisjobs_proof.torture.fleet.redis_store import RedisStore
from redisjobs_proof.torture.fleet.store import Store, through
from redisjobs_proof.torture.proxy import Proxy
from redisjobs_proof.torture.topology import Cluster, Sentinels, Topology, ask
from redisjobs_proof.torture.topology.pooler import Pooler

if TYPE_CHECKING:  # it needs psycopg, which is an extra
    from redisjobs_proof.torture.topology.standby import Pair

_FAILOVER_TIMEOUT = "3000"
"""Milliseconds. Sentinels begin no second failover within twice that time."""

_REPLICAS = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "3")
"""A primary without a replica takes no writes: so what is lost with a primary is what was just under way."""


class Place:
    """The server of a torture, its databases, and the proxies in front of it.

    Attributes:
        own: The server, if we started it, so that faults may break it; else None.
        workers: The proxy between workers and server; None if a proxy is not possible.
        producers: The proxy between producers and server; None if a proxy is not possible.
        stores: The queue in each database.
        topology: The servers that work together; None if there is one server.
        fronts: The proxies in front of each of them, by its port.
        pair: The PostgreSQL server with its standby, if there is one.
        pooler: The PgBouncer in front of a PostgreSQL server, if there is one.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        description: str,
        own: server.Server | None,
        workers: Proxy | None,
        producers: Proxy | None,
        *,
        topology: Topology | None = None,
        fronts: Mapping[int, Front] | None = None,
        pair: "Pair | None" = None,
        pooler: Pooler | None = None,
    ) -> None:
        self.description, self.own = description, own
        self.workers, self.producers = workers, producers
        self.topology, self.fronts, self.pair, self.pooler = topology, fronts or {}, pair, pooler
        self.stores = list(stores)
        self.queue = self.stores[0].queue.name

    def urls(self, proxy: Proxy | None) -> list[str]:
        """Return the URL of the queue in each database, by way of a proxy."""
        return [through(store.url, proxy.port) if proxy else store.url for store in self.stores]

    def workers_urls(self) -> list[str]:
        """Return the workers' URL of the queue in each database."""
        return self._named(detour.WORKERS) or self.urls(self.workers)

    def producers_urls(self) -> list[str]:
        """Return the producers' URL of the queue in each database."""
        return self._named(detour.PRODUCERS) or self.urls(self.producers)

    @property
    def proxies(self) -> str:
        """The proxies of a topology, for workers; '' if there is one server."""
        return json.dumps(detour.ports_of(self.fronts)) if self.fronts else ""

    def _named(self, name: str) -> list[str]:
        ports = detour.ports_of(self.fronts)
        return [detour.named(store.url, name, ports) for store in self.stores] if self.fronts else []


def check_url(url: str) -> None:
    """Raise ValueError if this is not the URL of a server."""
    try:
        Target(url)
    except ValueError as error:
        raise ValueError(f"{without_password(url)!r}: {error}") from error


@contextmanager
def place(url: str, topology: str = "one") -> Iterator[Place]:
    """Set up a place for the torture, and remove it afterwards: new servers, or a queue on the user's server."""
    if topology != "one":
        with _together(Cluster if topology == "cluster" else Sentinels) as together:
            yield together
        return
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
        found = Place(_stores(there), description, own, *proxies)
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


@contextmanager
def _together(kind: type[Cluster] | type[Sentinels]) -> Iterator[Place]:
    """Set up servers that work together, with proxies in front of each."""
    with ExitStack() as stack:
        topology = stack.enter_context(kind(options=_REPLICAS))
        if isinstance(topology, Sentinels):
            for each in topology.sentinels:
                ask(each, "SENTINEL", "SET", topology.name, "failover-timeout", _FAILOVER_TIMEOUT)
        fronts = detour.fronts([each.port for each in topology.servers], stack)
        stack.enter_context(detour.through(detour.ports_of(fronts)))
        description = f"{topology.servers[0].description}, {topology.url}"
        found = Place(_stores(topology.url), description, None, None, None, topology=topology, fronts=fronts)
        for store in found.stores:
            stack.callback(store.close)
        found.stores[0].counts()  # raises if the servers do not answer
        yield found


def new_queue() -> str:
    """Return the name of a queue that no other torture has."""
    return f"torture-{secrets.token_hex(4)}"


def _stores(url: str) -> list[Store]:
    queue = new_queue()
    return [RedisStore(each, queue, db) for db, each in enumerate(databases_of(url))]


def databases_of(url: str) -> list[str]:
    """Return a URL, and the URL of a second database, if databases of this URL have numbers."""
    parts = urlsplit(url)
    # Before the number may be the name of a master that sentinels watch.
    before, _, number = parts.path.rstrip("/").rpartition("/")
    if parts.scheme not in ("redis", "rediss", "redis+sentinel") or (number and not number.isdigit()):
        return [url]
    return [url, parts._replace(path=f"{before}/1" if int(number or 0) == 0 else f"{before}/0").geturl()]


def _leave_out_what_is_not_there(place: Place) -> None:
    """Drop databases that don't answer: a cluster has only one, and a user may lack access to others."""
    for store in place.stores[1:]:
        try:
            store.counts()
        except DriverError:
            store.close()
            place.stores.remove(store)
            place.description += " (one database)"
