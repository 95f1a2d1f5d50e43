"""Sets up the torture's PostgreSQL server: a new one with two databases, or the user's; and proxies to it."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from redisjobs import postgres_server, server
from redisjobs.base.visible import without_password
from redisjobs.drivers.postgres.target import Target
from redisjobs.postgres_server import PostgresServer
from redisjobs.torture.fleet.migrating import migrate
from redisjobs.torture.fleet.place import Place, new_queue
from redisjobs.torture.fleet.postgres_store import PostgresStore, Session
from redisjobs.torture.fleet.store import Store
from redisjobs.torture.proxy import Proxy

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

    `source` is a program of `postgres_server.SOURCES` to start; '' takes the first that is there. `topology` is
    `unix-socket` for clients that connect to a socket of the file system, past all proxies.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(_socket_folder()) if topology == "unix-socket" else ""
        own = stack.enter_context(_start(source, folder)) if not url else None
        there = own.url if own else url
        parts = urlsplit(there)
        target = (parts.hostname or server.HOST, parts.port or 5432)
        proxies = [None if folder else stack.enter_context(Proxy(*target)) for _ in range(2)]
        description = (
            f"{own.description}, {there}{folder and ', by its socket'}" if own else without_password(there)
        )
        stores = _stores(own, folder) if own else [PostgresStore(url, new_queue())]
        try:
            stores[0].counts()  # raises if the server does not answer, or lacks the tables
            yield Place(stores, description, own, *proxies)
        finally:
            for store in stores:
                if own is None:
                    store.remove()
                store.close()


@contextmanager
def _socket_folder() -> Iterator[str]:
    """Yield a new folder in which a server of any user can make its socket."""
    with tempfile.TemporaryDirectory(prefix="redisjobs-") as folder:
        Path(folder).chmod(0o777)
        yield folder


def _start(source: str, folder: str) -> PostgresServer:
    binary = postgres_server.find(prefer=[source] if source else [])
    options = [word for option in _OPTIONS for word in ("-c", option)]
    options += ["-c", f"unix_socket_directories={folder}"]
    # A killed server loses nothing of what it gave to the system.
    return postgres_server.start(binary, options=options, durable=False)


def _stores(own: PostgresServer, folder: str) -> Sequence[Store]:
    """Make two databases of a role that may do nothing else, with a queue in each."""
    session = Session(own.url)
    session.run(f"create role {_ROLE} login")
    stores, queue = list[Store](), new_queue()
    for db, name in enumerate(_DATABASES):
        session.run(f"create database {name} owner {_ROLE}")
        admin = urlsplit(own.url)._replace(path=f"/{name}")
        url = admin._replace(netloc=f"{_ROLE}@{admin.netloc.rpartition('@')[2]}").geturl()
        if folder:
            url = f"postgresql://{_ROLE}@/{name}?host={folder}&port={own.port}"
        migrate(url)
        stores.append(PostgresStore(url, queue, db, admin.geturl()))
    session.close()
    return stores
