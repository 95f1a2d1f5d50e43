"""PgBouncer in front of a PostgreSQL server, in transaction mode."""

import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

from redisjobs.errors import ServerNotFound
from redisjobs.local import postgres_server, server
from redisjobs_proof.torture.topology import until

_SETTINGS = """[databases]
* = host={host} port={target} user={role}
[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 12
max_client_conn = 1000
max_prepared_statements = 200
server_login_retry = 1
"""
"""All clients connect as one role, and share its sessions.

By default PgBouncer refuses all of them for 15 s after a failed login.
"""


class Pooler:
    """A PgBouncer that runs. A context manager that ends it.

    Attributes:
        port: Where it listens.

    Raises:
        ServerNotFound: It is not installed.
    """

    def __init__(self, target: int, role: str) -> None:
        program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
        if program is None:
            raise ServerNotFound("there is no pgbouncer: install it, as `apt-get install pgbouncer`")
        self._program, self.port = program, server.free_port()
        self._text = _SETTINGS.format(host=server.HOST, target=target, port=self.port, role=role)
        self._folder = tempfile.TemporaryDirectory(prefix="redisjobs-")

    def __enter__(self) -> Self:
        self._folder.__enter__()
        Path(self._folder.name).chmod(0o755)
        self._settings = Path(self._folder.name) / "pgbouncer.ini"
        self._settings.write_text(self._text, "utf-8")
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()
        self._folder.__exit__(None, None, None)

    def start(self) -> None:
        """Start it, and wait until it listens."""
        user = postgres_server.other_user()  # it refuses to be root
        as_user: dict[str, Any] = {"user": user[0], "group": user[1], "extra_groups": []} if user else {}
        command = [self._program, "--quiet", str(self._settings)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=server.dies_with_parent(signal.SIGKILL),
            **as_user,
        )
        until(self._listens, "pgbouncer listens")

    def kill(self) -> None:
        """End it by SIGKILL, and all its clients' connections with it."""
        self._process.kill()
        self._process.wait()

    def _listens(self) -> bool:
        with socket.socket() as tried:
            return tried.connect_ex((server.HOST, self.port)) == 0
