"""Sets up the torture's PostgreSQL server: a new one with two databases, or the user's; and proxies to it."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from redisjobs.base.visible import without_password
from redisjobs.drivers.postgres.target import Target
from redisjobs.local import postgres_server, server
from redisjobs.local.postgres_server import PostgresServer
from redisjobs_proof.torture.fleet.migrating import migrate
from redisjobs_proof.torture.fleet.place import Place, new_queue
from redisjobs_proof.torture.fleet.postgres_store import PostgresStore
from redisjobs_proof.torture.fleet.store import Store, through
from redisjobs_proof.torture.proxy import Proxy
from redisjobs_proof.torture.topology.pooler import Pooler
from redisjobs_proof.torture.topology.session import Session
from redisjobs_proof.torture.topology.standby import Pair

_ROLE = "torture"
_DATABASES = ("torture_0", "torture_1")
_OPTIONS = ("max_connections=150", "superuser_reserved_connections=10", "log_min_messages=log")
"""Options of our server. The torture itself connects as a superuser, so it gets in when all others do not."""


def check_url(url: str) -> None:
    """Raise ValueError if this is not the URL of a database."""
    Target(url)


@contextmanager
def place(url: str, source: str = "", topology: str = "one") -> Iterator[Place]:
    """Set up a place for the torture, and remove it afterwards: a new server, or a queue in the user's database.

    `source` is a program of `postgres_server.SOURCES` to start; '' takes the first that is there. `topology`
    says how clients reach it: see `TOPOLOGIES`.
    """
    with ExitStack() as stack:
        found = _of_the_user(stack, url) if url else TOPOLOGIES[topology](stack, source)
        try:
            found.stores[0].counts()  # raises if the server does not answer, or lacks the tables
            yield found
        finally:
            for store in found.stores:
                if url:
                    store.remove()
                store.close()


def _of_the_user(stack: ExitStack, url: str) -> Place:
    parts = urlsplit(url)
    proxies = _proxies(stack, parts.port or 5432, parts.hostname or server.HOST)
    return Place([PostgresStore(url, new_queue())], without_password(url), None, *proxies)


def _by_tcp(stack: ExitStack, source: str) -> Place:
    own = stack.enter_context(_start(source))
    return Place(_stores(own.url), _said(own), own, *_proxies(stack, own.port))


def _by_socket(stack: ExitStack, source: str) -> Place:
    """Let clients use the server's Unix socket; there can be no proxy."""
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="redisjobs-"))
    Path(folder).chmod(0o777)  # the server runs as any user
    own = stack.enter_context(_start(source, f"unix_socket_directories={folder}"))
    return Place(_stores(own.url, folder), f"{_said(own)}, by its socket", own, None, None)


def _by_pooler(stack: ExitStack, source: str) -> Place:
    """Let clients connect to PgBouncer; the torture itself goes past it."""
    own = stack.enter_context(_start(source))
    stores = _stores(own.url)
    pooler = stack.enter_context(Pooler(own.port, _ROLE))
    proxies = _proxies(stack, pooler.port)
    return Place(stores, f"{_said(own)}, by PgBouncer", own, *proxies, pooler=pooler)


def _with_standby(stack: ExitStack, source: str) -> Place:
    """Let all connect by proxies, which lead to whichever of two servers is the primary."""
    first = _start(source)
    proxies = _proxies(stack, first.port)
    direct = stack.enter_context(Proxy(server.HOST, first.port))
    stores = _stores(through(first.url, direct.port))
    pair = stack.enter_context(Pair(first, [direct, *proxies]))
    return Place(stores, f"{_said(first)}, with a standby", first, *proxies, pair=pair)


TOPOLOGIES: Mapping[str, Callable[[ExitStack, str], Place]] = {
    "one": _by_tcp,
    "unix-socket": _by_socket,
    "pgbouncer": _by_pooler,
    "standby": _with_standby,
}
"""The ways in which clients reach a server that the torture starts."""


def _proxies(stack: ExitStack, port: int, host: str = server.HOST) -> Sequence[Proxy]:
    return [stack.enter_context(Proxy(host, port)) for _ in range(2)]


def _said(own: PostgresServer) -> str:
    return f"{own.description}, {own.url}"


def _start(source: str, *more: str) -> PostgresServer:
    binary = postgres_server.find(prefer=[source] if source else [])
    options = [word for option in (*_OPTIONS, *more) for word in ("-c", option)]
    # A killed server loses nothing of what it gave to the system.
    return postgres_server.start(binary, options=options, durable=False)


def _stores(base: str, folder: str = "") -> Sequence[Store]:
    """Make two databases of a role that may do nothing else, with a queue in each.

    `base` is the URL of a superuser, `folder` that of the Unix socket by which the role connects, if any.
    """
    session = Session(base)
    session.run(f"create role {_ROLE} login")
    stores, queue, parts = list[Store](), new_queue(), urlsplit(base)
    for db, name in enumerate(_DATABASES):
        session.run(f"create database {name} owner {_ROLE}")
        admin = parts._replace(path=f"/{name}")
        url = admin._replace(netloc=f"{_ROLE}@{admin.netloc.rpartition('@')[2]}").geturl()
        if folder:
            url = f"postgresql://{_ROLE}@/{name}?host={folder}&port={parts.port}"
        migrate(url)
        stores.append(PostgresStore(url, queue, db, admin.geturl()))
    session.close()
    return stores
