"""The server and the queue of the demo: the user's server, or a local one that it starts."""

import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from redisjobs.base.visible import without_password
from redisjobs.drivers.redis.commands import Command, Commands
from redisjobs.drivers.redis.sync_connection import SyncConnection
from redisjobs.drivers.redis.target import Target
from redisjobs.errors import DriverError, RedisJobsError
from redisjobs.local import server
from redisjobs.worker.supervisor import PROGRAM

_LASTING = ("inbox", "jobs", "stats", "due", "delayed", "dead", "large", "layout", "workers", "fenced")


@dataclass(frozen=True, slots=True)
class DemoQueue:
    """A server, and a new queue on it.

    Attributes:
        url: The server's URL.
        typed: The URL without its password, for output.
        description: The server in words, for output.
        queue: The queue's name.
        stays: What stays after the demo, and how to end it; '' if nothing stays.
        gone: What is gone after the demo, if nothing stays.
    """

    url: str
    typed: str
    description: str
    queue: str
    stays: str = ""
    gone: str = "server"


@contextmanager
def place(keep: bool, url: str | None = None) -> Iterator[DemoQueue]:
    """Yield a place for the demo. It is removed afterwards, unless `keep` is set and the demo did not fail.

    Args:
        keep: Whether the place stays.
        url: The URL of a running server; None starts one.
    """
    name = f"demo-{uuid.uuid4().hex[:8]}"
    if url:
        try:
            stays = f"the queue {name} stays on your server" if keep else ""
            shown = without_password(url)
            yield DemoQueue(url, shown, f"your server, {shown}", name, stays, gone="queue")
        finally:
            if not keep:
                _remove(url, name)
    elif keep:
        with _kept_server() as (process, url, description):
            stays = f"the server stays up, until: kill {process.pid}"
            yield DemoQueue(url, url, f"{description}, {url}", name, stays)
    else:
        with server.start() as running:
            yield DemoQueue(running.url, running.url, f"{running.description}, {running.url}", name)


@contextmanager
def _kept_server() -> Iterator[tuple["subprocess.Popen[str]", str, str]]:
    """Yield a `redisjobs dev` process, its URL and description. It outlives the demo, unless the demo fails.

    `server.start` can't do this: its server always ends with the process that started it.
    """
    process = subprocess.Popen(
        [*PROGRAM, "dev"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # not our stderr: its reader would wait until the server ends
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        output = ""
        for line in process.stdout:
            output += line
            if "REDISJOBS_URL=" in line:
                break
        else:
            raise RedisJobsError(f"no server could be started:\n{output}")
        yield process, line.strip().partition("=")[2], output.partition(" on ")[0]
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        process.stdout.close()


def _remove(url: str, queue: str) -> None:
    """Delete the queue's keys on the user's server. The keys that remember ended jobs expire by themselves."""
    commands = Commands(queue)
    connection = SyncConnection(commands, Target(url, queue))
    keys = [*commands.streams, *(commands.prefix + key for key in _LASTING)]
    with suppress(DriverError):
        for known in ("workers", "fenced"):
            members = connection.run(Command(["ZRANGE", commands.prefix + known, "0", "-1"], list))
            keys += [f"{commands.prefix}worker:{member.decode()}" for member in members]
        connection.run(Command(["DEL", *keys], int))
    connection.close()
