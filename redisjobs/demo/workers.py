"""The demo's worker processes: started, watched, one of them killed, and all gone at the end."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from redisjobs import sync
from redisjobs.demo.jobs import QUEUE, RECORDINGS
from redisjobs.errors import RedisJobsError
from redisjobs.model.info import JobInfo
from redisjobs.model.job import State
from redisjobs.worker.supervisor import PROGRAM

_STOP_WITHIN = 5.0  # seconds


@dataclass(frozen=True, slots=True)
class Kill:
    """That a worker was killed.

    Attributes:
        pid: The process.
        at: When, in seconds since 1970.
        held: The ids of the jobs that it held.
    """

    pid: int
    at: float
    held: frozenset[str]


class Workers:
    """Worker processes on one queue. A context manager that ends them all.

    Args:
        queue: The queue.
        url: Where it is.
        directory: For recordings and logs.
        options: More arguments of `redisjobs worker`.
    """

    def __init__(self, queue: sync.JobQueue, url: str, directory: Path, *options: str) -> None:
        self._queue = queue
        self._url = url
        self._directory = directory
        self._options = options
        self._working: list[subprocess.Popen[bytes]] = []
        # No signal interrupts a thread: one between a process' start and the note of it would leave it running.
        self._starter = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        self._starter.submit(int).result()  # the thread is there, and known, before the first process is
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._starter.shutdown()
        for process in self._working:
            process.kill()
            _reap(process)

    def start(self) -> int:
        """Start a worker; its process id."""
        return self._starter.submit(self._start).result()

    def _start(self) -> int:
        command = [*PROGRAM, "worker", "redisjobs.demo.jobs:queue"]
        environment = os.environ | {QUEUE: self._queue.name, RECORDINGS: str(self._directory)}
        environment |= {"REDISJOBS_URL": self._url}  # not as an argument: it may hold a password
        with open(self._directory / "workers.log", "ab") as log:
            process = subprocess.Popen(
                [*command, "--log-level", "warning", *self._options],
                env=environment,
                stdin=subprocess.PIPE,  # it ends when this closes, whatever becomes of us
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us to handle
            )
        self._working.append(process)
        return process.pid

    def watch(self) -> None:
        """Make sure that all workers live.

        Raises:
            RedisJobsError: One ended by itself; with the end of the log.
        """
        for process in self._working:
            if (code := process.poll()) is not None:
                log = (self._directory / "workers.log").read_text("utf-8", "replace")
                raise RedisJobsError(
                    f"worker {process.pid} ended by itself, code {code}; the log ends:\n{log[-2000:]}"
                )

    def kill_one(self) -> Kill | None:
        """Kill a worker (SIGKILL) that holds jobs; None if none does."""
        for process in self._working:
            _pause(process, True)  # to look without it moving on
            if self._held(process):
                process.kill()
                at = time.time()
                _reap(process)
                self._working.remove(process)
                # Again, as what it had sent before the pause may have arrived after the first look.
                return Kill(process.pid, at, frozenset(job.job_id for job in self._held(process)))
            _pause(process, False)
        return None

    def _held(self, process: subprocess.Popen[bytes]) -> list[JobInfo]:
        running = self._queue.jobs(State.RUNNING, 500)
        return [job for job in running if f":{process.pid}:" in job.worker]

    def stop(self) -> None:
        """Stop all workers as a deploy would.

        Raises:
            RedisJobsError: One did not stop in time, or not with code 0.
        """
        for process in self._working:
            process.terminate()
        while self._working:
            process = self._working[-1]
            try:
                code: int | str = process.wait(_STOP_WITHIN)
            except subprocess.TimeoutExpired:
                code = f"none within {_STOP_WITHIN:g} s"
            if code not in (0, -signal.SIGTERM):  # the latter: it had not even begun
                raise RedisJobsError(f"worker {process.pid} was asked to stop and ended with code {code}")
            _reap(self._working.pop())


def _pause(process: subprocess.Popen[bytes], paused: bool) -> None:
    if sys.platform != "win32":
        process.send_signal(signal.SIGSTOP if paused else signal.SIGCONT)


def _reap(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    if process.stdin is not None:
        process.stdin.close()
