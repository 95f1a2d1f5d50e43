"""The demo's queue and its handler, which hashes a file. Its workers import `redisjobs.local.demo.jobs:queue`."""

import functools
import hashlib
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import ClassVar

from redisjobs.events.recording import Recording
from redisjobs.local.demo.results import ResultLine
from redisjobs.local.server import DEFAULT_URL
from redisjobs.model.context import JobContext
from redisjobs.queue import JobQueue

QUEUE, RECORDINGS = "REDISJOBS_DEMO_QUEUE", "REDISJOBS_DEMO_RECORDINGS"
"""Environment variables that the demo sets for its workers: the queue's name, and the directory for recordings."""


@dataclass(frozen=True, slots=True)
class HashFile:
    """The parameters of a job.

    Attributes:
        path: The absolute path of the file.
    """

    job_name: ClassVar[str] = "HashFile"
    path: str


queue = JobQueue(DEFAULT_URL, name=os.environ.get(QUEUE, "demo"))


@queue.register(HashFile)
def hash_file(parameters: HashFile, context: JobContext) -> None:
    """Write a file's size and SHA-256 into this process's recording; sync, so it runs in a thread."""
    line = functools.partial(ResultLine, context.job_id, os.getpid(), path=parameters.path)
    _write(line(at=time.time()))
    try:
        with open(parameters.path, "rb") as file:
            facts = os.fstat(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:  # deleted meanwhile, or no permission: a result, not a failure
        _write(line(at=time.time(), ended=True, error=str(error)))
        return
    _write(line(at=time.time(), ended=True, size=facts.st_size, modified=facts.st_mtime_ns, sha256=digest))


def _write(line: ResultLine) -> None:
    _recording().write(asdict(line))


@functools.cache
def _recording() -> Recording:
    return Recording(os.environ[RECORDINGS])


def _end_with_the_demo() -> None:
    """End this process when the demo ends or is killed: then our stdin closes."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if RECORDINGS in os.environ:
    _end_with_the_demo()
