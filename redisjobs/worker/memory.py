"""Ends a worker's run, in order, once its process uses too much memory."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import anyio

from redisjobs.errors import RedisJobsError
from redisjobs.worker.settings.settings import Settings
from redisjobs.worker.source.pool import Pool

if sys.platform != "win32":
    import resource

_EVERY = 2.0  # seconds between looks at the memory in use; less for a short lease


def rss() -> int:
    """Return the resident bytes of this process.

    They are the most so far where the system tells no more, and 0 where it tells nothing.
    """
    if sys.platform == "linux":
        try:
            return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:  # no /proc, or no file descriptor left just now
            return 0
    if sys.platform == "win32":
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


async def watch_memory(pool: Pool, settings: Settings, recycle: Callable[[str], object]) -> None:
    """Call `recycle`, with the reason, once the process uses more than `max_rss` bytes; until a stop.

    Raises:
        RedisJobsError: It uses more though no job was run: the next worker would fare no better.
    """
    most, every = settings.max_rss, min(_EVERY, settings.lease / 4)
    while not pool.shutdown.stopping:
        await anyio.sleep(every)
        used = rss()
        if used > most and not pool.begun:
            raise RedisJobsError(
                f"{used / 1e6:.0f} MB of memory are in use though no job was run yet, and max_rss is "
                f"{most / 1e6:.0f} MB: give it more"
            )
        if used > most and not pool.shutdown.stopping:
            recycle(f"{used / 1e6:.0f} MB of memory are in use")
