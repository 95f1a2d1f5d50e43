"""The demo's jobs: each hashes one file. Its workers import this as `redisjobs.demo.jobs:queue`."""

import functools
import hashlib
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import ClassVar

from redisjobs.demo.results import Line
from redisjobs.events.recording import Recording
from redisjobs.model.context import JobContext
from redisjobs.queue import JobQueue
from redisjobs.server import DEFAULT_URL

QUEUE, RECORDINGS = "REDISJOBS_DEMO_QUEUE", "REDISJOBS_DEMO_RECORDINGS"
"""What the demo tells its workers by the environment: the queue's name, and the recordings' directory."""


@dataclass(frozen=True, slots=True)
class HashFile:
    """Parameters of a job.

    Attributes:
        path: The file, absolute.
    """

    job_name: ClassVar[str] = "HashFile"
    path: str


queue = JobQueue(DEFAULT_URL, name=os.environ.get(QUEUE, "demo"))


@queue.register(HashFile)
def hash_file(parameters: HashFile, context: JobContext) -> None:
    """Write a file's size and SHA-256 into this process' recording; sync, so it runs in a thread."""
    line = functools.partial(Line, context.job_id, os.getpid(), path=parameters.path)
    _write(line(at=time.time()))
    try:
        with open(parameters.path, "rb") as file:
            facts = os.fstat(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:  # gone since, or no permission: a result too, not a failure
        _write(line(at=time.time(), ended=True, error=str(error)))
        return
    _write(line(at=time.time(), ended=True, size=facts.st_size, modified=facts.st_mtime_ns, sha256=digest))


def _write(line: Line) -> None:
    _recording().write(asdict(line))


@functools.cache
def _recording() -> Recording:
    return Recording(os.environ[RECORDINGS])


def _end_with_the_demo() -> None:
    """End as soon as the demo does, even if it is killed: it holds the other end of our stdin."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if RECORDINGS in os.environ:
    _end_with_the_demo()
