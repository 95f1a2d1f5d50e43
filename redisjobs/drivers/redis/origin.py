"""Reads what a user gives for a server: a URL, or a redis-py client of one server, of Sentinel or of a cluster."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

import redis
from redis.sentinel import SentinelConnectionPool

from redisjobs.base.visible import without_password
from redisjobs.drivers.redis.locator import Address, BySentinel, BySlot, Fixed, Locator, Remap, slot_of

_PORTS = {"cluster": 6379, "sentinel": 26379}
_SENTINELS = ("sentinel_username", "sentinel_password")
_CLASSES = ("Connection", "SSLConnection", "UnixDomainSocketConnection")
_MANAGED = {"SentinelManagedConnection": "Connection", "SentinelManagedSSLConnection": "SSLConnection"}


_ADDRESS = re.compile(r"(?:\[([^\]]+)\]|([^:\[\]]+))(?::([0-9]{1,5}))?")


def _introduction() -> dict[str, Any]:
    """Return redis-py's description of itself. Without it, redis-py reads its metadata for each connection."""
    try:
        from redis.driver_info import DriverInfo
    except ImportError:  # an older redis-py, which reads it once
        return {}
    return {"driver_info": DriverInfo()}


INTRODUCTION = _introduction()


@dataclass(frozen=True)
class Origin:
    """Where the server is, as the user gave it.

    Attributes:
        kind: The class of redis-py's connections.
        options: Their options, except for the address.
        nodes: The server; or some nodes of a cluster, or some sentinels. Empty for a Unix socket.
        is_cluster: Whether these are nodes of a cluster.
        master: The master that the sentinels name; '' if these are no sentinels.
        sentinel_options: Options of connections to sentinels.
        remap: For the addresses that nodes and sentinels tell.
    """

    kind: str
    options: Mapping[str, Any]
    nodes: Sequence[Address] = ()
    is_cluster: bool = False
    master: str = ""
    sentinel_options: Mapping[str, Any] = field(default_factory=dict)
    remap: Remap | None = None

    def locator(self, queue: str) -> Locator:
        """Return what finds the server of a queue."""
        if self.master:
            return BySentinel(self.nodes, self.master, self.remap)
        if self.is_cluster:
            return BySlot(self.nodes, slot_of(queue), self.remap)
        return Fixed(self.nodes[0] if self.nodes else None)

    @property
    def shown(self) -> str:
        """The origin as a URL, without passwords."""
        database = int(self.options.get("db") or 0)
        if not self.nodes:
            return f"unix://{self.options.get('path', '')}?db={database}"
        scheme = "rediss" if self.kind == "SSLConnection" else "redis"
        user = f"{name}@" if (name := self.options.get("username")) else ""
        nodes = ",".join(map(str, self.nodes))
        if self.is_cluster:
            return f"{scheme}+cluster://{user}{nodes}"
        if self.master:
            return f"{scheme}+sentinel://{user}{nodes}/{self.master}/{database}"
        return f"{scheme}://{user}{nodes}/{database}"


def origin_of(where: Any) -> Origin:
    """Read a URL or a redis-py client.

    Raises:
        ValueError: The URL is invalid, or the client has a kind of connection that we can't make.
    """
    if isinstance(where, str):
        try:
            return _from_url(where)
        except ValueError as error:
            why = str(error)
        raise ValueError(f"{without_password(where)!r}: {why}")
    if hasattr(where, "nodes_manager"):
        return _from_cluster(where)
    pool = where.connection_pool
    if isinstance(pool, SentinelConnectionPool | redis.asyncio.sentinel.SentinelConnectionPool):
        return _from_sentinel(pool)
    return _from_pool(pool)


# URLs


def _from_url(url: str) -> Origin:
    kind, _, rest = url.partition("://")
    scheme, _, topology = kind.partition("+")
    netloc = re.split(r"[/?#]", rest, maxsplit=1)[0]
    userinfo, _, hosts = netloc.rpartition("@")
    parts = urlsplit(f"{scheme}://{rest[len(netloc) :]}")  # newer Pythons refuse a host before [::1]
    _check_password(hosts, parts, scheme)
    if not topology:
        _check_database(parts.path, scheme)
        if "," in hosts:
            raise ValueError(
                f"{scheme}:// is for one address: write {scheme}+cluster://HOST,HOST for nodes of a cluster, or "
                f"{scheme}+sentinel://HOST,HOST/NAME/0 for sentinels"
            )
        return _from_pool(_pool_of(url))
    if topology == "cluster" and parts.path.strip("/") not in ("", "0"):
        raise ValueError(f"a cluster has only database 0, not {parts.path[1:]!r}")
    path, master = parts.path, ""
    if topology == "sentinel":
        master, _, database = path.strip("/").partition("/")
        if not master:
            raise ValueError("name the master that the sentinels monitor, as redis+sentinel://HOST:26379/NAME/0")
        path = f"/{database}"
        _check_database(path, scheme)
    nodes = [_address(text, _PORTS[topology]) for text in hosts.split(",")]
    query = dict(parse_qsl(parts.query))
    own = {name.removeprefix("sentinel_"): query.pop(name) for name in _SENTINELS if name in query}
    first = f"{userinfo}@{nodes[0]}" if userinfo else str(nodes[0])
    one = SplitResult(scheme, first, path, urlencode(query), "").geturl()
    origin = _from_pool(_pool_of(one))
    sentinels = {**_tls(origin.options), **own} if master else {}
    return Origin(origin.kind, origin.options, nodes, not master, master, sentinels)


def _pool_of(url: str) -> Any:
    pool = redis.ConnectionPool.from_url(url, **INTRODUCTION)
    try:
        pool.make_connection()
    except TypeError as error:  # nothing was opened: redis-py does not know an option
        raise ValueError(f"can't connect by these options: {error}") from error
    return pool


def _check_password(hosts: str, parts: SplitResult, scheme: str) -> None:
    """Refuse a password that ends the URL's address early: an error about the address would show a part of it."""
    is_address = not hosts or all(map(_ADDRESS.fullmatch, hosts.split(",")))
    if scheme != "unix" and ("@" in parts.path or ("@" in parts.geturl() and not is_address)):
        raise ValueError("the password has a /, ? or #: write these as %2F, %3F and %23")


def _check_database(path: str, scheme: str) -> None:
    """Refuse a database that is no number: redis-py would take database 0 instead."""
    if scheme in ("redis", "rediss") and not re.fullmatch(r"/?[0-9]{0,9}/?", path):
        raise ValueError(
            f"{path[1:]!r} is no database of Redis; give a number, as redis://HOST:6379/0, and the queue's name "
            "by itself"
        )


def _address(text: str, port: int) -> Address:
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no address; give HOST:PORT, several with commas between")
    return Address(found[1] or found[2], int(found[3] or port))


# redis-py's clients


def _from_pool(pool: Any) -> Origin:
    kind, options = pool.connection_class.__name__, dict(pool.connection_kwargs)
    if kind not in _CLASSES:
        raise ValueError(f"redisjobs can't make connections of the class {kind}, only {', '.join(_CLASSES)}")
    address = Address(options.pop("host", None) or "localhost", int(options.pop("port", None) or 6379))
    return Origin(kind, options, [] if kind == "UnixDomainSocketConnection" else [address])


def _from_cluster(client: Any) -> Origin:
    manager = client.nodes_manager
    options = dict(getattr(client, "connection_kwargs", None) or manager.connection_kwargs)
    kind = options.get("connection_class")
    is_tls = bool(options.pop("ssl", False)) or (kind is not None and "SSL" in kind.__name__)
    nodes = [Address(node.host, int(node.port)) for node in manager.startup_nodes.values()]
    for name in ("host", "port", "db"):
        options.pop(name, None)
    kind_name = "SSLConnection" if is_tls else "Connection"
    return Origin(kind_name, options, nodes, is_cluster=True, remap=getattr(manager, "address_remap", None))


def _from_sentinel(pool: Any) -> Origin:
    if not pool.is_master:
        raise ValueError("a queue needs the master: give the client of Sentinel.master_for(), not of slave_for()")
    kinds = [one.connection_pool.connection_kwargs for one in pool.sentinel_manager.sentinels]
    nodes = [Address(each["host"], int(each["port"])) for each in kinds]
    options = dict(pool.connection_kwargs)
    own = {"username": None, "password": None, **pool.sentinel_manager.sentinel_kwargs}
    kind = _MANAGED.get(pool.connection_class.__name__)
    if kind is None:
        raise ValueError(f"redisjobs can't make connections of the class {pool.connection_class.__name__}")
    return Origin(kind, options, nodes, master=pool.service_name, sentinel_options=own)


def _tls(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name.startswith("ssl_")}
