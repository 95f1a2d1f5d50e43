"""A PostgreSQL server with a standby that follows it, and may be promoted before it has all that was written."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Self

from redisjobs.errors import DriverError
from redisjobs.local import postgres_server, server
from redisjobs.local.postgres_server import PostgresServer
from redisjobs_proof.torture.proxy import Proxy
from redisjobs_proof.torture.topology import until
from redisjobs_proof.torture.topology.session import Session

_COPIED_WITHIN = 60.0  # seconds
_WRITTEN = "select pg_current_wal_flush_lsn()::text"
_ARRIVED = "select bool_and(replay_lsn >= %s::pg_lsn) from pg_stat_replication"
_STREAMING = "select count(*) from pg_stat_replication where state = 'streaming'"


class Pair:
    """A primary and its standby. A context manager that stops both.

    The primary's log comes to the standby by way of a proxy: while that swallows it, the standby lags. Clients
    come by way of others, which lead to the present primary.

    Attributes:
        primary: The server that takes writes.
        clients: The proxies of the clients.
    """

    def __init__(self, primary: PostgresServer, clients: Iterable[Proxy]) -> None:
        self.primary, self.clients = primary, list(clients)
        self._standby: PostgresServer | None = None
        self._log = Proxy(server.HOST, primary.port)

    def __enter__(self) -> Self:
        self._log.__enter__()
        self.add_standby()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for each in (self._standby, self.primary):
            if each is not None:
                _stop(each)
        self._log.__exit__(*exc_info)

    def lag(self) -> float:
        """Let nothing more reach the standby; return a time until which it has all that was on disk."""
        with closing(Session(self.primary.url)) as session:
            since = time.time()
            ((written,),) = session.run(_WRITTEN)
            until(lambda: session.run(_ARRIVED, written) == [(True,)], "the standby has what was written")
            self._log.black_hole(True)
        return since

    def fail_over(self) -> None:
        """Kill the primary, promote the standby without what it lacks, and lead all clients to it."""
        assert self._standby is not None
        for proxy in self.clients:
            proxy.refuse(True)
        self.primary.kill()
        old, self.primary, self._standby = self.primary, self._standby, None
        session = Session(self.primary.url)
        session.run("select pg_promote()")
        session.close()
        for proxy in self.clients:
            proxy.target = server.HOST, self.primary.port
            proxy.drop_all()
            proxy.refuse(False)
        _stop(old)

    def add_standby(self) -> None:
        """Make a copy of the primary that follows it, and wait until it does."""
        self._log.black_hole(False)
        self._log.target = server.HOST, self.primary.port
        self._log.drop_all()
        directory = Path(tempfile.mkdtemp(prefix="redisjobs-standby-"))
        _copy(self.primary, directory, self._log.port)
        self._standby = _Standby(self.primary.binary, directory, server.free_port(), self._options)
        until(lambda: self.is_followed, "the standby follows")

    @property
    def is_followed(self) -> bool:
        """Whether a standby follows the primary."""
        session = Session(self.primary.url)
        try:
            return session.run(_STREAMING) == [(1,)]
        finally:
            session.close()

    @property
    def _options(self) -> list[str]:
        follow = f"primary_conninfo=host={server.HOST} port={self._log.port} user=postgres"
        kept = [word for word in self.primary.options if not word.startswith("primary_conninfo=")]
        return [*kept, "-c", follow] if len(kept) == len(self.primary.options) else [*kept, follow]


class _Standby(PostgresServer):
    _ready = "database system is ready to accept"  # read-only connections, or connections


def _copy(primary: PostgresServer, directory: Path, port: int) -> None:
    """Copy the data of a server that runs, by way of a port."""
    data, user = directory / "data", postgres_server.other_user()
    data.mkdir(mode=0o700)
    if user:
        directory.chmod(0o711)
        shutil.chown(data, *user)
    command = [str(primary.program.with_name("pg_basebackup")), "--pgdata", str(data), "--checkpoint", "fast"]
    command += ["--host", server.HOST, "--port", str(port), "--username", "postgres", "--no-sync"]
    as_user: dict[str, Any] = {"user": user[0], "group": user[1], "extra_groups": []} if user else {}
    subprocess.run(command, check=True, capture_output=True, timeout=_COPIED_WITHIN, cwd=directory, **as_user)
    (data / "standby.signal").touch()
    if user:
        shutil.chown(data / "standby.signal", *user)


def _stop(one: PostgresServer) -> None:
    with suppress(ProcessLookupError, DriverError):
        one.stop()
    shutil.rmtree(one.directory, ignore_errors=True)
