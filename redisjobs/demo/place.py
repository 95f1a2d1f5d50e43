"""Where the demo's queue is: on a server of the user's, or on a local one made for it."""

import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from redisjobs import server
from redisjobs.base.visible import without_password
from redisjobs.drivers.redis.commands import Command, Commands
from redisjobs.drivers.redis.connection import SyncConnection
from redisjobs.drivers.redis.target import Target
from redisjobs.errors import DriverError, RedisJobsError
from redisjobs.worker.supervisor import PROGRAM

_LASTING = ("inbox", "jobs", "stats", "due", "delayed", "dead", "large", "layout", "workers", "fenced")


@dataclass(frozen=True, slots=True)
class Place:
    """A server, and a queue on it of its own.

    Attributes:
        url: The server's.
        typed: The same to be shown: without its password.
        description: For people.
        queue: The queue's name.
        stays: What stays there, and how to end it; '' if nothing does.
        gone: What does not, if nothing does.
    """

    url: str
    typed: str
    description: str
    queue: str
    stays: str = ""
    gone: str = "server"


@contextmanager
def place(keep: bool, url: str | None = None) -> Iterator[Place]:
    """Make a place for the demo; gone afterwards, unless kept and the demo came to its end.

    Args:
        keep: Whether it is to stay.
        url: A server that runs already; None starts one.
    """
    name = f"demo-{uuid.uuid4().hex[:8]}"
    if url:
        try:
            stays = f"the queue {name} stays on your server" if keep else ""
            shown = without_password(url)
            yield Place(url, shown, f"your server, {shown}", name, stays, gone="queue")
        finally:
            if not keep:
                _remove(url, name)
    elif keep:
        with _kept_server() as (process, url, description):
            stays = f"the server stays up, until: kill {process.pid}"
            yield Place(url, url, f"{description}, {url}", name, stays)
    else:
        with server.start() as running:
            yield Place(running.url, running.url, f"{running.description}, {running.url}", name)


@contextmanager
def _kept_server() -> Iterator[tuple["subprocess.Popen[str]", str, str]]:
    """A server that outlives us: a `redisjobs dev` of its own. Ended only if the demo fails.

    A server started here would die with us: that is what makes all other uses safe.
    """
    process = subprocess.Popen(
        [*PROGRAM, "dev"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # nothing of ours, or a reader would wait for the server's end
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        said = ""
        for line in process.stdout:
            said += line
            if "REDISJOBS_URL=" in line:
                break
        else:
            raise RedisJobsError(f"no server could be started:\n{said}")
        yield process, line.strip().partition("=")[2], said.partition(" on ")[0]
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        process.stdout.close()


def _remove(url: str, queue: str) -> None:
    """Take the queue's keys from a server that is not ours; those that remember what ended end by themselves."""
    commands = Commands(queue)
    connection = SyncConnection(commands, Target(url))
    keys = [*commands.streams, *(commands.prefix + key for key in _LASTING)]
    with suppress(DriverError):
        for known in ("workers", "fenced"):
            members = connection.run(Command(["ZRANGE", commands.prefix + known, "0", "-1"], list))
            keys += [f"{commands.prefix}worker:{member.decode()}" for member in members]
        connection.run(Command(["DEL", *keys], int))
    connection.close()
