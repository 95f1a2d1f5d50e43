"""The `dev` command, which runs a local server for development."""

import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from redisjobs.cli.errors import Failure
from redisjobs.local import postgres_server, server

_AGAIN = 0.01  # seconds until a lost KeyboardInterrupt is raised again: the destructor has ended by then
_LOOK = 1.0  # seconds between two checks that the server still runs


def dev(
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port on 127.0.0.1; 0 takes a free one.")] = 0,
    directory: Annotated[
        Path | None, typer.Option("--dir", file_okay=False, help="Keep the data there, for the next start.")
    ] = None,
    postgres: Annotated[bool, typer.Option("--postgres", help="Run a PostgreSQL server, too.")] = False,
) -> None:
    """Run a local Redis-compatible server until Ctrl-C, and print the URL to paste."""
    try:
        with ended_by_signals(), suppress(KeyboardInterrupt), ExitStack() as stack:
            running = [stack.enter_context(server.start(directory=directory, port=port))]
            if postgres:
                data = None if directory is None else directory / "postgres"
                running.append(stack.enter_context(postgres_server.start(directory=data)))
            for each in running:
                _show(each, kept=directory is not None)
            _watch(running)
    except OSError as error:
        raise Failure(f"the server could not be started: {error}") from error


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Make SIGTERM and a closed terminal raise KeyboardInterrupt, like Ctrl-C, so that the command cleans up.

    It is raised only once, because nothing may interrupt the cleanup. Python drops an exception that is raised in
    a destructor; then it is raised again.
    """
    named = (getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP"))
    before = {number: how for number in named if number and (how := signal.getsignal(number)) != signal.SIG_IGN}

    came = 0

    def interrupt(number: int, _frame: FrameType | None) -> None:
        nonlocal came
        came = number
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    tell, main = sys.unraisablehook, threading.main_thread()

    def lost(what: "sys.UnraisableHookArgs") -> None:
        if what.exc_type is not KeyboardInterrupt or threading.current_thread() is not main:
            tell(what)
        elif came:
            signal.signal(came, interrupt)
            again = threading.Timer(_AGAIN, signal.pthread_kill, (main.ident, came))
            again.daemon = True
            again.start()

    sys.unraisablehook = lost
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        sys.unraisablehook = tell
        for number, how in before.items():
            signal.signal(number, how)


def _show(running: server.Server, *, kept: bool) -> None:
    print(f"{running.description} on {server.HOST}:{running.port}, process {running.pid}; Ctrl-C ends it")
    if running.binary.persistent:
        print(f"data in {running.directory}" + ("" if kept else ", removed at the end; --dir keeps it"))
    name = "REDISJOBS_DATABASE" if isinstance(running, postgres_server.PostgresServer) else "REDISJOBS_URL"
    print(f"export {name}={running.url}", flush=True)


def _watch(running: Iterable[server.Server]) -> None:
    while True:
        time.sleep(_LOOK)
        for each in running:
            _check(each)


def _check(running: server.Server) -> None:
    try:
        socket.create_connection((server.HOST, running.port), timeout=5).close()
    except ConnectionRefusedError:
        raise Failure(f"the server ended by itself; see {running.directory / 'server.log'}") from None
    except OSError:
        return  # busy, not gone
